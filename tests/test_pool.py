"""WorkerPool: what it computes, how it fails, and that it always ends."""

# Longer than other files: eight calls share one table of what every one of them must stand.

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import Barrier, Event, Lock, Queue, WorkerDiedError, WorkerPool
from freethreading._errors import TaskError
from support import run_python, wait_until
from test_worker import DEADLINE, SHORT, lasts_at_least, only_processes, only_threads, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess

# Every call that takes a function; the second argument fits all of them.
CALLS: dict[str, Callable[[WorkerPool, Any, Any], Any]] = {
    "apply": lambda pool, func, items: pool.apply(func, items),
    "apply_async": lambda pool, func, items: pool.apply_async(func, items).get(DEADLINE),
    "map": lambda pool, func, items: pool.map(func, items),
    "map_async": lambda pool, func, items: pool.map_async(func, items).get(DEADLINE),
    "starmap": lambda pool, func, items: pool.starmap(func, [items]),
    "starmap_async": lambda pool, func, items: pool.starmap_async(func, [items]).get(DEADLINE),
    "imap": lambda pool, func, items: list(pool.imap(func, items)),
    "imap_unordered": lambda pool, func, items: list(pool.imap_unordered(func, items)),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
MAPS = {name: CALLS[name] for name in ("map", "map_async", "imap", "imap_unordered")}
every_map = pytest.mark.parametrize("call", MAPS.values(), ids=MAPS.keys())
MAP_NAMES = ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Return a pool of two workers that the tests share: none of them may harm it."""
    with WorkerPool(workers=2) as shared:
        # All of its threads or processes are there before the first test.
        shared.map_async(tasks.square, range(8), 1).get(DEADLINE)
        yield shared


@pytest.fixture(autouse=True)
def _shared_pool_still_works(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the shared pool, it works as before."""
    yield
    if "pool" in request.fixturenames:
        shared: WorkerPool = request.getfixturevalue("pool")
        assert shared.map_async(tasks.square, range(8), 1).get(DEADLINE) == [
            number * number for number in range(8)
        ]


def text_of(error: BaseException) -> str:
    """Return what Python prints for an exception that nobody catches."""
    return "".join(traceback.format_exception(error))


# --- what it computes -----------------------------------------------------------------------


def test_signatures_are_the_documented_ones(pool: WorkerPool) -> None:
    assert signature_of(WorkerPool) == "(workers=None, initializer=None, initargs=())"
    callbacks = "callback=None, error_callback=None"
    expected = {
        "apply": "(func, args=(), kwds=None)",
        "apply_async": f"(func, args=(), kwds=None, {callbacks})",
        "map": "(func, iterable, chunksize=None)",
        "map_async": f"(func, iterable, chunksize=None, {callbacks})",
        "starmap": "(func, iterable, chunksize=None)",
        "starmap_async": f"(func, iterable, chunksize=None, {callbacks})",
        "imap": "(func, iterable, chunksize=1)",
        "imap_unordered": "(func, iterable, chunksize=1)",
        "close": "()",
        "terminate": "()",
        "join": "()",
    }
    assert {name: signature_of(getattr(pool, name)) for name in expected} == expected
    result = pool.apply_async(tasks.square, (3,))
    assert signature_of(result.get) == signature_of(result.wait) == "(timeout=None)"
    assert signature_of(result.ready) == signature_of(result.successful) == "()"
    assert signature_of(pool.imap(tasks.square, ()).next) == "(timeout=None)"
    assert result.get(DEADLINE) == 9


def test_apply_passes_positional_and_keyword_arguments(pool: WorkerPool) -> None:
    assert pool.apply(tasks.square, (7,)) == 49
    assert pool.apply(tasks.repeat) == ((), {})
    assert pool.apply(tasks.repeat, [1, 2]) == ((1, 2), {})
    assert pool.apply(tasks.repeat, (1,), {"func": 2, "self": 3}) == ((1,), {"func": 2, "self": 3})
    assert pool.apply_async(tasks.repeat, kwds={"args": 1}).get(DEADLINE) == ((), {"args": 1})


@pytest.mark.parametrize("chunksize", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_map_keeps_the_order(pool: WorkerPool, count: int, chunksize: int | None) -> None:
    expected = [number * number for number in range(count)]
    assert pool.map(tasks.square, range(count), chunksize) == expected
    assert pool.map(tasks.square, iter(range(count)), chunksize) == expected
    assert pool.map_async(tasks.square, range(count), chunksize).get(DEADLINE) == expected
    pairs = [(number, 1) for number in range(count)]
    sums = [number + 1 for number in range(count)]
    assert pool.starmap(tasks.add, pairs, chunksize) == sums
    assert pool.starmap_async(tasks.add, iter(pairs), chunksize).get(DEADLINE) == sums
    size = 1 if chunksize is None else chunksize
    assert list(pool.imap(tasks.square, iter(range(count)), size)) == expected
    assert sorted(pool.imap_unordered(tasks.square, range(count), size)) == expected


def test_starmap_unpacks_any_iterable(pool: WorkerPool) -> None:
    assert pool.starmap(tasks.add, [(1, 2), [3, 4], range(5, 7)]) == [3, 7, 11]


def test_results_of_many_kinds_come_back(pool: WorkerPool) -> None:
    values = [None, "text", b"bytes", 1.5, {"deep": [1, (2, {3})]}, bytes(1_000_000)]
    assert pool.map(tasks.repeat, values, 1) == [((value,), {}) for value in values]


def test_as_many_workers_as_asked_for_run_at_once() -> None:
    with WorkerPool(3, tasks.keep, (Barrier(3),)) as pool:
        assert sorted(pool.map(tasks.meet, range(3), chunksize=1)) == [0, 1, 2]


def test_without_a_number_there_is_a_worker_for_each_usable_cpu() -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with WorkerPool(initializer=tasks.keep, initargs=(Barrier(cpus),)) as pool:
        assert len(pool.map(tasks.meet, range(cpus), chunksize=1)) == cpus


def run_maps(pool: WorkerPool, results: list[bool]) -> None:
    for _ in range(10):
        results.append(pool.map(tasks.square, range(20), 3) == [n * n for n in range(20)])
        results.append(sorted(pool.imap_unordered(tasks.square, range(5))) == [0, 1, 4, 9, 16])


def test_many_threads_use_one_pool(pool: WorkerPool) -> None:
    results: list[bool] = []
    threads = [threading.Thread(target=run_maps, args=(pool, results)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


# --- results that come later ----------------------------------------------------------------


def test_async_result_tells_how_far_it_is(pool: WorkerPool) -> None:
    event = Event()
    result = pool.apply_async(tasks.wait_for, (event,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ended"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        lasts_at_least(SHORT, lambda: result.get(SHORT))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    result.wait(timeout=SHORT)
    assert not result.ready()
    event.set()
    result.wait()
    assert result.ready()
    assert result.successful() is True
    assert result.get() is True
    assert result.get(0) is True


def test_async_result_of_a_failure(pool: WorkerPool) -> None:
    result = pool.apply_async(tasks.raise_plain, ("x", 1))
    result.wait(DEADLINE)
    assert result.ready()
    assert result.successful() is False
    for _ in range(2):
        with pytest.raises(tasks.PlainError):
            result.get()


def test_callbacks_get_the_result_or_the_error_before_it_is_ready(pool: WorkerPool) -> None:
    values: list[object] = []
    errors: list[BaseException] = []
    calls: list[Any] = [
        pool.apply_async(tasks.square, (3,), None, values.append, errors.append),
        pool.map_async(tasks.square, range(3), 1, values.append, errors.append),
        pool.starmap_async(tasks.add, [(1, 2)], 1, values.append, errors.append),
        pool.map_async(tasks.square, [], 1, values.append, errors.append),
    ]
    for call in calls:
        call.wait(DEADLINE)
    assert sorted(map(str, values)) == ["9", "[0, 1, 4]", "[3]", "[]"]
    assert errors == []
    failing = pool.apply_async(tasks.raise_plain, (1,), None, values.append, errors.append)
    failing.wait(DEADLINE)
    mapped = pool.map_async(tasks.raise_for_odd, range(4), 1, values.append, errors.append)
    mapped.wait(DEADLINE)
    assert len(values) == 4
    assert [type(error) for error in errors] == [tasks.PlainError] * 2


@pytest.mark.parametrize("error", [ValueError("callback"), SystemExit(3)], ids=["error", "exit"])
def test_a_callback_that_raises_harms_nobody(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda details: reported.append(details.exc_value))

    def callback(_: object) -> None:
        raise error

    assert pool.apply_async(tasks.square, (3,), callback=callback).get(DEADLINE) == 9
    failing = pool.apply_async(tasks.raise_plain, error_callback=callback)
    with pytest.raises(tasks.PlainError):
        failing.get(DEADLINE)
    assert reported == [error, error]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_imap_iterators_have_next_with_a_timeout(pool: WorkerPool, chunksize: int) -> None:
    event = Event()
    iterator = pool.imap(tasks.wait_for, [event] * 3, chunksize)
    with pytest.raises(multiprocessing.TimeoutError):
        lasts_at_least(SHORT, lambda: iterator.next(SHORT))
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(timeout=0)
    event.set()
    assert iterator.next(DEADLINE) is True
    assert list(iterator) == [True, True]
    for _ in range(2):
        with pytest.raises(StopIteration):
            iterator.next(DEADLINE)


@pytest.mark.thread_unsafe(reason="needs both workers that the tests share")
def test_imap_unordered_gives_what_is_done_first(pool: WorkerPool) -> None:
    first, second = Event(), Event()
    iterator = pool.imap_unordered(tasks.wait_for, [first, second])
    second.set()
    assert iterator.next(DEADLINE) is True
    first.set()
    assert list(iterator) == [True]


def test_imap_takes_an_endless_iterable_bit_by_bit(pool: WorkerPool) -> None:
    """A13: the stdlib's takes all that there is, however slowly results are asked for."""
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    iterator = pool.imap(tasks.square, endless(), chunksize=2)
    for number in range(100):
        assert iterator.next(DEADLINE) == number * number
        assert len(taken) <= number + 1 + 2 * (64 * 2 + 1)
    del iterator
    gc.collect()
    wait_until(lambda: not feeders(), "nobody takes items for an iterator that is gone")


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "WorkerPool-imap"]


def test_imap_results_feed_another_imap(pool: WorkerPool) -> None:
    """Taking an item may itself wait for the pool: that must not stop results from coming in."""
    inner = pool.imap(tasks.square, range(50))
    outer = pool.imap_unordered(tasks.square, inner)
    assert sorted(outer) == [number**4 for number in range(50)]


# --- arguments that are wrong ---------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, -1, -(10**30)])
def test_too_few_workers(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be at least 1.*{workers}"):
        WorkerPool(workers)


@pytest.mark.parametrize("workers", [True, 2.0, "2", [2]])
def test_workers_of_a_wrong_type(workers: Any) -> None:  # noqa: ANN401 - on purpose
    with pytest.raises(TypeError, match=r"workers must be a whole number.*\("):
        WorkerPool(workers=workers)


@pytest.mark.parametrize("name", MAP_NAMES)
def test_chunksizes_that_are_none(pool: WorkerPool, name: str) -> None:
    for chunksize in (0, -1):
        with pytest.raises(ValueError, match="chunksize must be at least 1"):
            getattr(pool, name)(tasks.square, [1], chunksize=chunksize)
    for wrong in (1.5, "1", True):
        with pytest.raises(TypeError, match="chunksize must be a whole number"):
            getattr(pool, name)(tasks.square, [1], chunksize=wrong)


@every_call
@pytest.mark.parametrize("func", [None, 3, "square"])
def test_what_can_not_be_called(
    pool: WorkerPool,
    call: Callable[[WorkerPool, Any, Any], Any],
    func: Any,  # noqa: ANN401 - on purpose
) -> None:
    with pytest.raises(TypeError, match=r"WorkerPool\..*func must be callable"):
        call(pool, func, [1])


def test_arguments_of_wrong_types_are_named(pool: WorkerPool) -> None:
    untyped: Any = pool
    with pytest.raises(TypeError, match="args must be"):
        untyped.apply(tasks.square, 3)
    with pytest.raises(TypeError, match="kwds must be"):
        untyped.apply(tasks.square, (), 3)
    with pytest.raises(TypeError, match="keys of kwds"):
        untyped.apply(tasks.square, (), {1: 2})
    with pytest.raises(TypeError, match="error_callback must be callable"):
        untyped.apply_async(tasks.square, (1,), None, None, 3)
    with pytest.raises(TypeError, match="callback must be callable"):
        untyped.map_async(tasks.square, [1], callback="x")
    for name in MAP_NAMES:
        with pytest.raises(TypeError, match="iterable"):
            getattr(untyped, name)(tasks.square, 3)
    with pytest.raises(TypeError, match="initializer must be callable"):
        WorkerPool(1, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="initargs must be"):
        WorkerPool(1, tasks.keep, 3)  # type: ignore[arg-type]


@every_call
def test_functions_that_can_not_be_pickled(
    pool: WorkerPool, call: Callable[[WorkerPool, Any, Any], Any]
) -> None:
    def local(_: object) -> None:
        pass

    for func in (lambda _: None, local):
        with pytest.raises(ValueError, match=r"WorkerPool\.\w+: func can't be pickled") as caught:
            call(pool, func, [1])
        assert caught.value.__cause__ is not None


def test_arguments_that_can_not_be_pickled(pool: WorkerPool) -> None:
    culprit = threading.Lock()
    for apply in (pool.apply, pool.apply_async):
        with pytest.raises(ValueError, match=r"args\[1\] can't be pickled") as caught:
            apply(tasks.repeat, (1, culprit))
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(ValueError, match=r"kwargs\['who'\] can't be pickled"):
            apply(tasks.repeat, (1,), {"fine": 1, "who": [culprit]})


def test_initializers_that_can_not_be_pickled() -> None:
    with pytest.raises(ValueError, match="initializer can't be pickled"):
        WorkerPool(1, lambda: None)
    with pytest.raises(ValueError, match=r"initargs\[1\] can't be pickled"):
        WorkerPool(1, tasks.keep, (1, threading.Lock()))


@pytest.mark.parametrize("error", [LookupError("x"), RecursionError("x"), tasks.OwnBaseError("x")])
def test_whatever_pickling_raises_is_the_cause(pool: WorkerPool, error: BaseException) -> None:
    with pytest.raises(ValueError, match=r"args\[0\]") as caught:
        pool.apply(tasks.repeat, (tasks.Raising(error),))
    assert caught.value.__cause__ is error
    with pytest.raises(ValueError, match="item 2") as caught:
        pool.map(tasks.repeat, [0, 1, tasks.Raising(error), 3])
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt("x"), SystemExit("x")])
def test_interrupts_during_pickling_pass(pool: WorkerPool, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        pool.apply(tasks.repeat, (tasks.Raising(error),))
    assert caught.value is error
    with pytest.raises(type(error)):
        pool.map(tasks.repeat, [tasks.Raising(error)])


@every_map
def test_an_item_that_can_not_be_pickled(
    pool: WorkerPool, call: Callable[[WorkerPool, Any, Any], Any]
) -> None:
    with pytest.raises(ValueError, match="item 2 can't be pickled"):
        call(pool, tasks.repeat, [0, 1, threading.Lock(), 3])


def test_imap_goes_on_after_an_item_that_can_not_be_pickled(pool: WorkerPool) -> None:
    iterator = pool.imap(tasks.repeat, [0, threading.Lock(), 2])
    assert next(iterator) == ((0,), {})
    with pytest.raises(ValueError, match="item 1 can't be pickled"):
        next(iterator)
    assert list(iterator) == [((2,), {})]


def broken_after(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


@every_map
@pytest.mark.parametrize("error", [LookupError("midway"), SystemExit(3), tasks.OwnBaseError()])
@pytest.mark.parametrize("count", [0, 3, 40])
def test_an_iterable_that_raises(
    pool: WorkerPool,
    call: Callable[[WorkerPool, Any, Any], Any],
    count: int,
    error: BaseException,
) -> None:
    with pytest.raises(type(error)) as caught:
        call(pool, tasks.square, broken_after(count, error))
    assert caught.value is error


def test_imap_gives_the_results_before_the_iterable_raised(pool: WorkerPool) -> None:
    iterator = pool.imap(tasks.square, broken_after(3, LookupError("midway")))
    assert [iterator.next(DEADLINE) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(LookupError, match="midway"):
        iterator.next(DEADLINE)
    assert list(iterator) == []


def test_a_pool_can_not_be_sent_to_a_worker(pool: WorkerPool) -> None:
    with pytest.raises(ValueError, match=r"args\[0\] can't be pickled"):
        pool.apply(tasks.repeat, (pool,))


# --- tasks that go wrong --------------------------------------------------------------------


@every_call
def test_an_exception_arrives_as_it_was(
    pool: WorkerPool, call: Callable[[WorkerPool, Any, Any], Any]
) -> None:
    with pytest.raises(tasks.PlainError) as caught:
        call(pool, tasks.raise_plain, ["x"])
    assert caught.value.args == ("x",)
    assert caught.value.__notes__ == ["a note", "another"]
    text = text_of(caught.value)
    assert "in raise_plain" in text
    assert "pool_tasks.py" in text


@only_processes
def test_an_exception_from_a_process_is_caused_by_its_traceback_there(pool: WorkerPool) -> None:
    with pytest.raises(tasks.PlainError) as caught:
        pool.apply(tasks.raise_plain, ("x",))
    assert type(caught.value.__cause__).__name__ == "RemoteTraceback"
    assert "in raise_plain" in str(caught.value.__cause__)
    assert "another" in str(caught.value.__cause__)


def test_an_exception_that_rewords_its_arguments_does_so_once(pool: WorkerPool) -> None:
    with pytest.raises(tasks.RewordingError) as caught:
        pool.apply(tasks.raise_rewording, (5,))
    assert str(caught.value) == "code 5"
    assert caught.value.code == 5


@only_processes
def test_an_exception_that_can_not_be_unpickled(pool: WorkerPool) -> None:
    """A5: the stdlib's pool hangs for ever, its executor is broken for good."""
    with pytest.raises(TaskError, match="it broke at the seam") as caught:
        pool.apply(tasks.raise_two_arguments)
    assert caught.value.type_name == "TwoArgumentsError"
    assert caught.value.message == "it broke at the seam"
    assert "in raise_two_arguments" in caught.value.traceback_text


@only_processes
def test_an_exception_that_can_not_be_pickled(pool: WorkerPool) -> None:
    with pytest.raises(TaskError, match="has a lock") as caught:
        pool.apply(tasks.raise_unpicklable)
    assert caught.value.type_name == "PlainError"
    assert "in raise_unpicklable" in caught.value.traceback_text


@only_threads
def test_exceptions_in_threads_need_not_be_pickled(pool: WorkerPool) -> None:
    with pytest.raises(tasks.TwoArgumentsError, match="it broke at the seam"):
        pool.apply(tasks.raise_two_arguments)
    with pytest.raises(tasks.PlainError, match="has a lock"):
        pool.apply(tasks.raise_unpicklable)


@only_processes
def test_results_that_can_not_be_brought_back(pool: WorkerPool) -> None:
    with pytest.raises(TaskError, match="function, can't be pickled"):
        pool.apply(tasks.return_lambda)
    with pytest.raises(TaskError, match="can't be unpickled: not here"):
        pool.apply(tasks.return_unloadable)
    with pytest.raises(TaskError, match="can't be unpickled"):
        pool.apply(tasks.return_two_arguments)


@only_processes
def test_arguments_that_can_not_be_unpickled(pool: WorkerPool) -> None:
    with pytest.raises(LookupError, match="not here") as caught:
        pool.apply(tasks.repeat, (tasks.Unloadable(),))
    assert "while the task was unpickled" in text_of(caught.value)
    with pytest.raises(LookupError, match="not here"):
        pool.map(tasks.repeat, [1, tasks.Unloadable()])


@every_call
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("x"), GeneratorExit(), tasks.OwnBaseError("x")],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_that_end_programs_end_the_task_only(
    pool: WorkerPool, call: Callable[[WorkerPool, Any, Any], Any], error: BaseException
) -> None:
    """A1: any BaseException hangs the stdlib's pool."""
    with pytest.raises(type(error)) as caught:
        call(pool, tasks.raise_it, [error])
    assert caught.value.args == error.args


def test_a_map_raises_when_all_is_done(pool: WorkerPool) -> None:
    done: Queue[int] = Queue()
    jobs = [(tasks.raise_plain, 1), (tasks.count_up, done), (tasks.count_up, done)]
    with pytest.raises(tasks.PlainError):
        pool.starmap(call_it, jobs, chunksize=1)
    assert done.qsize() == 2


def call_it(func: Callable[[Any], object], argument: object) -> None:
    func(argument)


def test_imap_goes_on_after_a_task_that_raises(pool: WorkerPool) -> None:
    iterator = pool.imap(tasks.raise_for_odd, range(4))
    assert iterator.next(DEADLINE) == 0
    with pytest.raises(tasks.PlainError):
        iterator.next(DEADLINE)
    assert iterator.next(DEADLINE) == 2
    with pytest.raises(tasks.PlainError):
        iterator.next(DEADLINE)
    with pytest.raises(StopIteration):
        iterator.next(DEADLINE)


def raise_stop(_: object) -> None:
    tasks.raise_stop()


def test_stop_iteration_of_a_task_does_not_look_like_the_end(pool: WorkerPool) -> None:
    """The stdlib's loop just ends, as if there were no more items."""
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        list(pool.imap(raise_stop, range(3)))
    assert isinstance(caught.value.__cause__, StopIteration)
    with pytest.raises(StopIteration):
        pool.apply(raise_stop, (1,))


# --- initializers, and what workers are given -----------------------------------------------


def test_the_initializer_runs_once_in_each_worker() -> None:
    counter: Queue[int] = Queue()
    with WorkerPool(3, tasks.count_up, (counter,)) as pool:
        assert pool.map(tasks.square, range(20), chunksize=1) == [n * n for n in range(20)]
        wait_until(lambda: counter.qsize() == 3, "all workers have started")
        assert pool.map(tasks.square, range(20), chunksize=1) == [n * n for n in range(20)]
        assert counter.qsize() == 3


def test_workers_are_started_as_tasks_come() -> None:
    counter: Queue[int] = Queue()
    with WorkerPool(3, tasks.count_up, (counter,)) as pool:
        for number in range(4):
            assert pool.apply(tasks.square, (number,)) == number * number
        assert counter.qsize() == 1
        assert pool.map(tasks.square, [1, 2], 1) == [1, 4]
        wait_until(lambda: counter.qsize() == 2, "the second worker has started")


def test_initargs_may_be_any_iterable() -> None:
    with WorkerPool(1, tasks.keep, iter([1, "two"])) as pool:
        assert pool.apply(tasks.what_was_kept) == (1, "two")


@pytest.mark.parametrize(
    "error", [tasks.PlainError("no start"), SystemExit(3)], ids=["own", "exit"]
)
def test_an_initializer_that_raises_fails_the_tasks(error: BaseException) -> None:
    """The stdlib's pool replaces such a worker for ever, and never runs a task."""
    with WorkerPool(2, tasks.raise_it, (error,)) as pool:
        for call in CALLS.values():
            with pytest.raises(BrokenExecutor, match="initializer") as caught:
                call(pool, tasks.repeat, [1])
            assert "in raise_it" in text_of(caught.value)


@only_processes
def test_initargs_that_can_not_be_unpickled_fail_the_tasks() -> None:
    broken = pytest.raises(BrokenExecutor, match="not here")
    with WorkerPool(1, tasks.keep, (tasks.Unloadable(),)) as pool, broken:
        pool.apply(tasks.square, (1,))


def test_primitives_as_arguments(pool: WorkerPool) -> None:
    lock, event = Lock(), Event()
    queue: Queue[str] = Queue()
    lock.acquire()
    result = pool.apply_async(tasks.use_all, (lock, event, queue), {"word": "one"})
    assert not event.is_set()
    lock.release()
    assert result.get(DEADLINE) == "ONE"
    assert event.is_set()
    assert queue.get(timeout=DEADLINE) == "one"
    words = ["two", "three", "four"]
    jobs = [(lock, event, queue, word) for word in words]
    assert pool.starmap(tasks.use_all, jobs) == ["TWO", "THREE", "FOUR"]
    assert sorted(queue.get(timeout=DEADLINE) for _ in words) == sorted(words)
    assert not lock.locked()


def test_primitives_as_initargs() -> None:
    lock, event = Lock(), Event()
    queue: Queue[str] = Queue()
    with WorkerPool(2, tasks.keep, (lock, event, queue)) as pool:
        assert pool.map(tasks.use_kept, ["one", "two"]) == ["ONE", "TWO"]
        assert event.is_set()
        assert {queue.get(timeout=DEADLINE) for _ in range(2)} == {"one", "two"}


def test_primitives_inside_other_objects(pool: WorkerPool) -> None:
    event = Event()
    assert pool.map(tasks.pass_through, [{"here": [event]}]) == [True]
    assert event.is_set()


def test_a_primitive_lives_until_its_task_has_it(pool: WorkerPool) -> None:
    """The caller may drop what it sent before the task has begun."""
    event = Event()
    blocked = [pool.apply_async(tasks.wait_for, (event,)) for _ in range(2)]
    found: Queue[str] = Queue()
    later = pool.apply_async(tasks.use_all, (Lock(), Event(), found, "late"))
    mapped = pool.starmap_async(tasks.use_all, [(Lock(), Event(), found, "map")])
    gc.collect()
    event.set()
    assert [result.get(DEADLINE) for result in (later, *mapped_as_list(mapped), *blocked)] == [
        "LATE",
        ["MAP"],
        True,
        True,
    ]
    assert sorted(found.get(timeout=DEADLINE) for _ in range(2)) == ["late", "map"]


def mapped_as_list(result: Any) -> list[Any]:  # noqa: ANN401 - of whatever type
    return [result]


# --- beginning and ending -------------------------------------------------------------------


def test_entering_gives_the_pool_itself() -> None:
    pool = WorkerPool(1)
    with pool as entered:
        assert entered is pool
        with pytest.raises(ValueError, match="running"):
            pool.join()
    with pytest.raises(ValueError, match="terminated"), pool:
        pass
    pool.join()


@every_call
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_that_has_ended_takes_no_calls(
    end: str, call: Callable[[WorkerPool, Any, Any], Any]
) -> None:
    pool = WorkerPool(1)
    getattr(pool, end)()
    with pytest.raises(ValueError, match=r"WorkerPool\.\w+: the pool is (closed|terminated)"):
        call(pool, tasks.square, [1])
    with pytest.raises(ValueError, match="the pool is"), pool:
        pass
    pool.join()
    pool.terminate()
    pool.close()
    pool.join()


def test_leaving_terminates_and_can_be_joined() -> None:
    with WorkerPool(2) as pool:
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
    with pytest.raises(ValueError, match="terminated"):
        pool.map(tasks.square, [1])
    pool.join()


def test_closing_lets_all_tasks_end() -> None:
    event = Event()
    pool = WorkerPool(2)
    results = [pool.apply_async(tasks.wait_for, (event,)) for _ in range(4)]
    later = pool.map_async(tasks.square, range(10), 1)
    pool.close()
    pool.close()
    event.set()
    pool.join()
    assert [result.get(0) for result in results] == [True] * 4
    assert later.get(0) == [number * number for number in range(10)]


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_joining_a_closed_pool_does_all_that_imap_was_given(name: str) -> None:
    pool = WorkerPool(1)
    iterator = getattr(pool, name)(tasks.square, iter(range(100)))
    first = iterator.next(DEADLINE)
    pool.close()
    pool.join()
    assert [first, *iterator] == [number * number for number in range(100)]


def test_imap_goes_on_when_the_pool_is_closed() -> None:
    pool = WorkerPool(1)
    iterator = pool.imap(tasks.square, iter(range(100)))
    pool.close()
    assert list(iterator) == [number * number for number in range(100)]
    pool.join()


@pytest.mark.parametrize("count", [3, 1000])
def test_a_closed_pool_ends_by_itself(count: int) -> None:
    """Nobody has to join it; while items are taken for an imap it stays open for them."""
    pool = WorkerPool(1)
    iterator = pool.imap(tasks.square, range(count))
    assert iterator.next(DEADLINE) == 0
    pool.close()
    assert len(list(iterator)) == count - 1
    del pool
    gc.collect()  # warns, which is an error here, of a pool that still runs


def test_dropping_the_iterator_lets_a_closed_pool_end() -> None:
    pool = WorkerPool(1)
    iterator = pool.imap(tasks.square, itertools.count())
    assert iterator.next(DEADLINE) == 0
    pool.close()
    del iterator
    pool.join()


def test_terminating_ends_what_is_waited_for() -> None:
    """The stdlib's results would never come."""
    event = Event()
    errors: list[BaseException] = []
    pool = WorkerPool(1)
    results: list[Any] = [
        pool.apply_async(tasks.wait_for, (event,), error_callback=errors.append),
        pool.map_async(tasks.wait_for, [event] * 10, 1, error_callback=errors.append),
    ]
    iterators = [pool.imap(tasks.wait_for, itertools.repeat(event)) for _ in range(2)]
    pool.terminate()
    pool.terminate()
    for result in results:
        with pytest.raises(ValueError, match="terminated"):
            result.get(DEADLINE)
        assert not result.successful()
    for iterator in iterators:
        with pytest.raises(ValueError, match="terminated"):
            list(iterator)
    assert errors == []
    event.set()
    pool.join()


def test_a_terminated_imap_does_not_look_complete() -> None:
    pool = WorkerPool(1)
    iterator = pool.imap(tasks.square, itertools.count())
    pool.terminate()
    with pytest.raises(ValueError, match="terminated"):
        list(iterator)
    pool.join()


def test_a_thread_that_waits_is_woken_by_terminate() -> None:
    event = Event()
    started: Queue[int] = Queue()
    errors: list[BaseException] = []
    pool = WorkerPool(1)
    result = pool.apply_async(tasks.report_and_wait, (started, event))

    def wait() -> None:
        try:
            result.get()
        except ValueError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    started.get(timeout=DEADLINE)
    pool.terminate()
    waiter.join(DEADLINE)
    assert len(errors) == 1
    event.set()
    pool.join()


def test_a_callback_may_terminate_the_pool() -> None:
    pool = WorkerPool(1)
    ended = threading.Event()

    def terminate(_: object) -> None:
        pool.terminate()
        ended.set()

    pool.apply_async(tasks.square, (1,), callback=terminate)
    assert ended.wait(DEADLINE)
    pool.join()


# --- workers that die -----------------------------------------------------------------------


@only_processes
@pytest.mark.parametrize("die", [tasks.kill_oneself, tasks.exit_at_once, tasks.crash])
@every_call
def test_a_worker_that_dies_fails_its_task_only(
    call: Callable[[WorkerPool, Any, Any], Any], die: Callable[[object], None]
) -> None:
    """A1: the stdlib's pool waits for ever."""
    codes = {"kill_oneself": -signal.SIGKILL, "crash": -signal.SIGSEGV, "exit_at_once": 7}
    exitcode = codes[die.__name__]
    with WorkerPool(2) as pool:
        event = Event()
        other = pool.apply_async(tasks.wait_for, (event,))
        expected = signal.Signals(-exitcode).name if exitcode < 0 else "status 7"
        expected = f"{expected} while it ran {die.__name__}"
        with pytest.raises(WorkerDiedError, match=expected) as caught:
            call(pool, die, [1])
        error = caught.value
        assert isinstance(error, BrokenProcessPool)
        assert (error.exitcode, error.function) == (exitcode, die.__name__)
        assert error.pid not in {None, os.getpid()}
        event.set()
        assert other.get(DEADLINE) is True
        assert call(pool, tasks.repeat, [1]) in (((1,), {}), [((1,), {})])


@only_processes
def test_only_what_the_dead_worker_had_is_lost() -> None:
    """Whatever is killed, and whenever: each task has one outcome, and all others go on."""
    with WorkerPool(3) as pool:
        results = [pool.apply_async(tasks.square, (n,)) for n in range(50)]
        doomed = [pool.apply_async(tasks.kill_oneself) for _ in range(5)]
        results += [pool.apply_async(tasks.square, (n,)) for n in range(50, 100)]
        assert [result.get(DEADLINE) for result in results] == [n * n for n in range(100)]
        for result in doomed:
            with pytest.raises(WorkerDiedError):
                result.get(DEADLINE)


def pool_and_its_processes() -> tuple[WorkerPool, list[BaseProcess]]:
    """Return a new pool of two workers, and the processes that they are."""
    before = set(multiprocessing.active_children())
    pool = WorkerPool(2, tasks.keep, (Barrier(2),))
    assert sorted(pool.map(tasks.meet, range(2), 1)) == [0, 1]
    workers = [each for each in multiprocessing.active_children() if each not in before]
    assert len(workers) == 2
    return pool, workers


@only_processes
def test_a_killed_worker_is_replaced_by_one_that_runs_what_is_left() -> None:
    event = Event()
    started: Queue[int] = Queue()
    errors: list[BaseException] = []
    pool, _ = pool_and_its_processes()
    with pool:
        arguments = started, event
        results: list[Any] = [
            pool.apply_async(tasks.report_and_wait, arguments, error_callback=errors.append)
            for _ in range(6)
        ]
        for _ in range(2):
            os.kill(started.get(timeout=DEADLINE), signal.SIGKILL)
        wait_until(lambda: len(errors) == 2, "both have been told")
        event.set()
        outcomes = [tasks.outcome(result.get, DEADLINE) for result in results]
        assert outcomes.count(True) == 4
        assert sum(isinstance(error, WorkerDiedError) for error in outcomes) == 2


@only_processes
@pytest.mark.parametrize("name", ["compute_for_ever", "ignore_sigterm"])
def test_terminate_ends_busy_workers_whatever_they_do(name: str) -> None:
    started: Queue[int] = Queue()
    with WorkerPool(2) as pool:
        result = pool.map_async(getattr(tasks, name), [started] * 4, 1)
        pids = {started.get(timeout=DEADLINE) for _ in range(2)}
    with pytest.raises(ValueError, match="terminated"):
        result.get(DEADLINE)
    pool.join()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@only_processes
@pytest.mark.parametrize("count", [1, 2])
def test_idle_workers_that_are_killed_are_replaced(count: int) -> None:
    """One of them holds the lock that the others, and the stdlib's `terminate`, wait for."""
    pool, workers = pool_and_its_processes()
    with pool:
        for worker in workers[:count]:
            worker.kill()
        assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
    pool.join()


@only_processes
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_workers_killed_amidst_messages_lose_one_task_each(count: int) -> None:
    """A3: half a message in a pipe, and a lock that nobody will release."""
    pool, workers = pool_and_its_processes()
    with pool:
        results = pool.imap(bytes, [1_000_000] * 100)
        sizes = pool.imap(len, [bytes(200_000)] * 100)
        for _ in range(count):
            assert len(results.next(DEADLINE)) == 1_000_000
            assert sizes.next(DEADLINE) == 200_000
        for worker in workers:
            worker.kill()
        lost = 0
        for iterator, expected in ((results, 1_000_000), (sizes, 200_000)):
            outcomes = [tasks.outcome(iterator.next, DEADLINE) for _ in range(100 - count)]
            assert isinstance(tasks.outcome(iterator.next, DEADLINE), StopIteration)
            lost += sum(isinstance(each, WorkerDiedError) for each in outcomes)
            values = [each for each in outcomes if not isinstance(each, WorkerDiedError)]
            assert {each if isinstance(each, int) else len(each) for each in values} <= {expected}
        assert lost <= 2
    pool.join()


@only_processes
def test_workers_that_die_at_their_start_break_the_pool() -> None:
    """Not an endless respawn."""
    with WorkerPool(2, tasks.kill_oneself) as pool:
        with pytest.raises(WorkerDiedError, match="before it could take a task"):
            pool.apply(tasks.square, (1,))
        with pytest.raises(WorkerDiedError, match="before it could take a task"):
            pool.map(tasks.square, [1])


# --- whole programs -------------------------------------------------------------------------


def test_ctrl_c_is_raised_once_and_ends_all() -> None:
    """A15: no traceback from any worker."""
    program = """
        import os, signal
        from freethreading import Event, Queue, WorkerPool

        def wait(started, event):
            started.put(1)
            event.wait()

        if __name__ == "__main__":
            started, event = Queue(), Event()
            with WorkerPool(2) as pool:
                result = pool.starmap_async(wait, [(started, event)] * 8, 1)
                for _ in range(2):
                    started.get()
                os.killpg(os.getpgrp(), signal.SIGINT)
                result.get()
        """
    finished = run_python(program)
    assert not finished.timed_out, str(finished)
    assert finished.returncode in (-signal.SIGINT, 130), str(finished)
    assert finished.stderr.count("Traceback") == 1, str(finished)
    assert finished.stderr.count("KeyboardInterrupt") == 1, str(finished)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_start_method_works(method: str) -> None:
    program = """
        import multiprocessing, sys
        from freethreading import Lock, Queue, WorkerPool, WorkerPoolExecutor

        def keep(*values):
            global kept
            kept = values

        def work(number):
            lock, queue = kept
            with lock:
                queue.put(number)
            return number + 1

        if __name__ == "__main__":
            multiprocessing.set_start_method(sys.argv[1])
            lock, queue = Lock(), Queue()
            with WorkerPool(2, keep, (lock, queue)) as pool:
                print(pool.map(work, range(4)))
            with WorkerPoolExecutor(2, keep, (lock, queue)) as executor:
                print(list(executor.map(work, range(4))))
            print(sorted(queue.get() for _ in range(8)))
        """
    # Forking beside threads is what the one who sets "fork" asks for.
    finished = run_python(program, method, options=["-W", "ignore::DeprecationWarning"]).check()
    numbers = "[0, 0, 1, 1, 2, 2, 3, 3]"
    assert finished.stdout.split("\n") == ["[1, 2, 3, 4]", "[1, 2, 3, 4]", numbers, ""]
    assert finished.stderr == ""


def test_a_program_that_leaves_its_pools_alone_ends() -> None:
    program = """
        from freethreading import Event, WorkerPool, WorkerPoolExecutor

        if __name__ == "__main__":
            pool = WorkerPool(2)
            print(pool.map(abs, [-1]))
            pool.apply_async(Event().wait)
            executor = WorkerPoolExecutor(2)
            print(executor.submit(abs, -2).result())
        """
    finished = run_python(program).check()
    assert finished.stdout == "[1]\n2\n"


def test_a_pool_that_is_dropped_warns_and_ends() -> None:
    program = """
        import gc, time
        from freethreading import WorkerPool, active_children

        if __name__ == "__main__":
            pool = WorkerPool(2)
            print(pool.apply(abs, (-1,)))
            del pool
            while active_children():  # a thread of the pool may have the last reference
                gc.collect()
                time.sleep(0.01)
        """
    finished = run_python(program, options=["-W", "always::ResourceWarning"]).check()
    assert finished.stdout == "1\n"
    assert "unclosed running <freethreading.WorkerPool workers=2>" in finished.stderr


@only_processes
@pytest.mark.parametrize("what", ["waits", "computes", "holds the GIL", "ignores SIGTERM"])
def test_workers_end_when_the_program_is_killed(what: str) -> None:
    """A11: a worker that outlives its parent would keep the program's output open."""
    program = f"""
        import os, signal
        from freethreading import Event, Queue, WorkerPool, WorkerPoolExecutor

        def wait(started, event, what={what!r}):
            if what == "ignores SIGTERM":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            started.put(1)
            while what == "computes":
                pass
            if what == "holds the GIL":
                10 ** (10 ** 9)
            event.wait()

        if __name__ == "__main__":
            started, event = Queue(), Event()
            pool, executor = WorkerPool(2), WorkerPoolExecutor(2)
            for _ in range(2):
                pool.apply_async(wait, (started, event))
                executor.submit(wait, started, event)
            for _ in range(4):
                started.get()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    finished = run_python(program)
    assert not finished.timed_out, str(finished)
    assert finished.returncode == -signal.SIGKILL, str(finished)
