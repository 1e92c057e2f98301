"""WorkerPoolExecutor: what it computes, how it fails, and that it always ends."""

# Longer than other files: one class, two calls, and one table of what both must stand.

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import multiprocessing
import os
import re
import signal
import threading
import traceback
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import Barrier, Event, Lock, Queue, WorkerDiedError, WorkerPoolExecutor
from freethreading._errors import TaskError
from support import run_python, wait_until
from test_worker import (
    DEADLINE,
    PROCESSES,
    SHORT,
    lasts_at_least,
    only_processes,
    only_threads,
    signature_of,
    wait_until_task_sleeps,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS: dict[str, Callable[[WorkerPoolExecutor, Any, Any], Any]] = {
    "submit": lambda executor, func, item: executor.submit(func, item).result(DEADLINE),
    "map": lambda executor, func, item: list(executor.map(func, [item], timeout=DEADLINE)),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@pytest.fixture(scope="module")
def executor() -> Iterator[WorkerPoolExecutor]:
    """Return an executor with two workers that the tests share: none of them may harm it."""
    with WorkerPoolExecutor(2, tasks.keep, (Barrier(2),)) as shared:
        assert sorted(shared.map(tasks.meet, range(2), timeout=DEADLINE)) == [0, 1]  # both run now
        wait([shared.submit(tasks.square, 1)], DEADLINE)  # and who looks after them
        yield shared


@pytest.fixture(autouse=True)
def _shared_executor_still_works(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the shared executor, it works as before."""
    if "executor" not in request.fixturenames:
        yield
        return
    shared: WorkerPoolExecutor = request.getfixturevalue("executor")
    yield
    futures = [shared.submit(tasks.square, number) for number in range(4)]
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 4, 9]


def text_of(error: BaseException) -> str:
    """Return what Python prints for an exception that nobody catches."""
    return "".join(traceback.format_exception(error))


# --- what it computes -----------------------------------------------------------------------


def test_signatures_are_the_documented_ones(executor: WorkerPoolExecutor) -> None:
    expected = "(max_workers=None, initializer=None, initargs=(), **kwargs)"
    assert signature_of(WorkerPoolExecutor) == expected
    assert signature_of(executor.submit) == "(fn, /, *args, **kwargs)"
    assert signature_of(executor.map) == "(fn, *iterables, timeout=None, chunksize=1)"
    assert signature_of(executor.shutdown) == "(wait=True, cancel_futures=False)"


def test_it_is_an_executor_with_the_stdlibs_futures(executor: WorkerPoolExecutor) -> None:
    assert issubclass(WorkerPoolExecutor, Executor)
    future = executor.submit(tasks.square, 3)
    assert isinstance(future, Future)
    assert future.result(DEADLINE) == 9
    assert future.exception(DEADLINE) is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert not future.cancel()


def test_submit_passes_positional_and_keyword_arguments(executor: WorkerPoolExecutor) -> None:
    assert executor.submit(tasks.repeat).result(DEADLINE) == ((), {})
    future = executor.submit(tasks.repeat, 1, 2, three=3)
    assert future.result(DEADLINE) == ((1, 2), {"three": 3})


def test_keyword_arguments_of_a_task_may_have_any_names(executor: WorkerPoolExecutor) -> None:
    names = {"fn": 1, "self": 2, "func": 3, "args": 4, "kwargs": 5, "timeout": 6, "task": 7}
    assert executor.submit(tasks.repeat, **names).result(DEADLINE) == ((), names)


@pytest.mark.parametrize("chunksize", [1, 2, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_map_keeps_the_order(executor: WorkerPoolExecutor, count: int, chunksize: int) -> None:
    expected = [number * number for number in range(count)]
    numbers = iter(range(count))
    assert list(executor.map(tasks.square, numbers, chunksize=chunksize)) == expected
    sums = executor.map(tasks.add, range(count), itertools.count(1), chunksize=chunksize)
    assert list(sums) == [2 * number + 1 for number in range(count)]


def test_map_without_iterables_is_empty(executor: WorkerPoolExecutor) -> None:
    assert list(executor.map(tasks.square)) == []


def test_map_starts_before_its_results_are_asked_for(executor: WorkerPoolExecutor) -> None:
    counter: Queue[int] = Queue()
    results = executor.map(tasks.count_up, [counter] * 3)
    wait_until(lambda: counter.qsize() == 3, "all tasks have run")
    assert list(results) == [None] * 3


def test_map_raises_when_its_timeout_has_passed() -> None:
    event = Event()
    with WorkerPoolExecutor(1) as executor:
        results = executor.map(tasks.wait_for, [event] * 20, timeout=SHORT)
        with pytest.raises(TimeoutError):
            lasts_at_least(SHORT * 0.9, lambda: next(results))
        event.set()


def test_futures_work_with_wait_and_as_completed(executor: WorkerPoolExecutor) -> None:
    futures = [executor.submit(tasks.square, number) for number in range(10)]
    done, pending = concurrent.futures.wait(futures, DEADLINE)
    assert done == set(futures)
    assert not pending
    assert {each.result() for each in concurrent.futures.as_completed(futures)} == {
        number * number for number in range(10)
    }


@pytest.mark.thread_unsafe(reason="needs both workers that the tests share")
def test_waiting_for_the_first_exception(executor: WorkerPoolExecutor) -> None:
    event = Event()
    futures: list[Future[Any]] = [
        executor.submit(tasks.wait_for, event),
        executor.submit(tasks.raise_plain),
    ]
    when = concurrent.futures.FIRST_EXCEPTION
    done, pending = concurrent.futures.wait(futures, DEADLINE, return_when=when)
    assert futures[1] in done
    assert futures[0] in pending
    event.set()
    assert futures[0].result(DEADLINE) is True


def test_futures_work_with_asyncio(executor: WorkerPoolExecutor) -> None:
    async def main() -> None:
        future = executor.submit(tasks.square, 3)
        assert await asyncio.wrap_future(future) == 9
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, tasks.square, 4) == 16
        with pytest.raises(tasks.PlainError):
            await loop.run_in_executor(executor, tasks.raise_plain, 1)

    asyncio.run(main())


def test_done_callbacks_are_called_with_the_future(executor: WorkerPoolExecutor) -> None:
    called: list[Future[Any]] = []
    futures: list[Future[Any]] = [
        executor.submit(tasks.square, 3),
        executor.submit(tasks.raise_plain),
    ]
    for future in futures:
        future.add_done_callback(called.append)
    wait_until(lambda: len(called) == 2, "both callbacks were called")
    assert set(called) == set(futures)
    assert isinstance(futures[1].exception(0), tasks.PlainError)


def test_as_many_workers_as_asked_for_run_at_once() -> None:
    with WorkerPoolExecutor(3, tasks.keep, (Barrier(3),)) as executor:
        assert sorted(executor.map(tasks.meet, range(3))) == [0, 1, 2]


def test_without_a_number_there_is_a_worker_for_each_usable_cpu() -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with WorkerPoolExecutor(initializer=tasks.keep, initargs=[Barrier(cpus)]) as executor:
        assert len(list(executor.map(tasks.meet, range(cpus)))) == cpus
        assert len(set(executor.map(tasks.identity, range(cpus * 20)))) <= cpus


# --- names and further options --------------------------------------------------------------


def test_workers_are_named_as_in_the_stdlib() -> None:
    form = r"ForkServerProcess-\d+" if PROCESSES else r"ThreadPoolExecutor-\d+_0"
    with WorkerPoolExecutor(1) as executor:
        name = executor.submit(tasks.worker_name).result(DEADLINE)
    assert re.fullmatch(form, name)


def test_options_that_do_not_apply_have_no_effect() -> None:
    context = multiprocessing.get_context("forkserver")
    with WorkerPoolExecutor(
        1, thread_name_prefix="mine", mp_context=context, max_tasks_per_child=1
    ) as executor:
        names = [executor.submit(tasks.worker_name).result(DEADLINE) for _ in range(3)]
        workers = {executor.submit(tasks.identity).result(DEADLINE) for _ in range(3)}
    if PROCESSES:
        assert all(name.startswith("ForkServerProcess-") for name in names)
        assert len(set(names)) == len(workers) == 3
    else:
        assert names == ["mine_0"] * 3
        assert len(workers) == 1
    with WorkerPoolExecutor(
        1, thread_name_prefix="", mp_context=None, max_tasks_per_child=None
    ) as executor:
        assert executor.submit(tasks.square, 2).result(DEADLINE) == 4


@only_processes
def test_a_context_is_for_the_executor_that_it_was_given_to() -> None:
    """Up to 3.13 the first one had multiprocessing settle on fork, for all that came later."""
    program = """
        import multiprocessing
        from freethreading import WorkerPoolExecutor, current_worker

        def name():
            return current_worker().name

        if __name__ == "__main__":
            for context in multiprocessing.get_context("spawn"), None:
                with WorkerPoolExecutor(1, mp_context=context) as executor:
                    print(executor.submit(name).result())
        """
    finished = run_python(program).check()
    assert finished.stdout.split() == ["SpawnProcess-1", "ForkServerProcess-2"]


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown keyword 'workers'"):
        WorkerPoolExecutor(workers=2)  # type: ignore[call-arg]


# --- arguments that are wrong ---------------------------------------------------------------


@pytest.mark.parametrize("max_workers", [0, -1])
def test_too_few_workers(max_workers: int) -> None:
    with pytest.raises(ValueError, match=f"max_workers must be at least 1.*{max_workers}"):
        WorkerPoolExecutor(max_workers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_workers", True),
        ("max_workers", 2.0),
        ("max_workers", "2"),
        ("initializer", 3),
        ("initargs", 3),
        ("thread_name_prefix", 3),
        ("mp_context", "fork"),
        ("max_tasks_per_child", 1.5),
    ],
)
def test_options_of_wrong_types_are_named(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(TypeError, match=f"WorkerPoolExecutor: {name} must be"):
        WorkerPoolExecutor(**options)


def test_no_tasks_per_child() -> None:
    with pytest.raises(ValueError, match="max_tasks_per_child must be at least 1"):
        WorkerPoolExecutor(max_tasks_per_child=0)


def test_chunksizes_that_are_none(executor: WorkerPoolExecutor) -> None:
    for chunksize in (0, -1):
        with pytest.raises(ValueError, match="chunksize must be at least 1"):
            executor.map(tasks.square, [1], chunksize=chunksize)
    for wrong in (None, 1.5, True):
        with pytest.raises(TypeError, match="chunksize must be a whole number"):
            executor.map(tasks.square, [1], chunksize=wrong)  # type: ignore[arg-type]


@every_call
@pytest.mark.parametrize("func", [None, 3, "square"])
def test_what_can_not_be_called(
    executor: WorkerPoolExecutor,
    call: Callable[[WorkerPoolExecutor, Any, Any], Any],
    func: Any,  # noqa: ANN401 - on purpose
) -> None:
    with pytest.raises(TypeError, match=r"WorkerPoolExecutor\.\w+: fn must be callable"):
        call(executor, func, 1)


@every_call
def test_functions_that_can_not_be_pickled(
    executor: WorkerPoolExecutor, call: Callable[[WorkerPoolExecutor, Any, Any], Any]
) -> None:
    with pytest.raises(ValueError, match=r"WorkerPoolExecutor\.\w+: fn can't be pickled") as caught:
        call(executor, lambda _: None, 1)
    assert caught.value.__cause__ is not None


def test_arguments_that_can_not_be_pickled(executor: WorkerPoolExecutor) -> None:
    culprit = threading.Lock()
    with pytest.raises(ValueError, match=r"args\[1\] can't be pickled") as caught:
        executor.submit(tasks.repeat, 1, culprit)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(ValueError, match=r"kwargs\['who'\] can't be pickled"):
        executor.submit(tasks.repeat, 1, fine=1, who=[culprit])
    error = LookupError("x")
    with pytest.raises(ValueError, match=r"args\[0\]") as caught:
        executor.submit(tasks.repeat, tasks.Raising(error))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt("x"), SystemExit("x")])
def test_interrupts_during_pickling_pass(
    executor: WorkerPoolExecutor, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        executor.submit(tasks.repeat, tasks.Raising(error))
    assert caught.value is error


def test_initializers_that_can_not_be_pickled() -> None:
    with pytest.raises(ValueError, match="initializer can't be pickled"):
        WorkerPoolExecutor(1, lambda: None)
    with pytest.raises(ValueError, match=r"initargs\[1\] can't be pickled"):
        WorkerPoolExecutor(1, tasks.keep, (1, threading.Lock()))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_item_that_can_not_be_pickled(executor: WorkerPoolExecutor, chunksize: int) -> None:
    items = [0, 1, threading.Lock(), 3]
    with pytest.raises(ValueError, match="item 2 can't be pickled"):
        list(executor.map(tasks.repeat, items, chunksize=chunksize))


@pytest.mark.parametrize("count", [0, 3])
def test_an_iterable_that_raises(executor: WorkerPoolExecutor, count: int) -> None:
    error = LookupError("midway")

    def broken() -> Iterator[int]:
        yield from range(count)
        raise error

    with pytest.raises(LookupError) as caught:
        list(executor.map(tasks.square, broken()))
    assert caught.value is error
    with pytest.raises(TypeError):
        executor.map(tasks.square, 3)  # type: ignore[arg-type]


# --- tasks that go wrong --------------------------------------------------------------------


@every_call
def test_an_exception_arrives_as_it_was(
    executor: WorkerPoolExecutor, call: Callable[[WorkerPoolExecutor, Any, Any], Any]
) -> None:
    with pytest.raises(tasks.PlainError) as caught:
        call(executor, tasks.raise_plain, "x")
    assert caught.value.args == ("x",)
    assert caught.value.__notes__ == ["a note", "another"]
    text = text_of(caught.value)
    assert "in raise_plain" in text
    assert "pool_tasks.py" in text


def test_a_future_gives_its_exception(executor: WorkerPoolExecutor) -> None:
    future = executor.submit(tasks.raise_plain, 1)
    error = future.exception(DEADLINE)
    assert isinstance(error, tasks.PlainError)
    with pytest.raises(tasks.PlainError) as caught:
        future.result(0)
    assert caught.value is error


def test_an_exception_that_rewords_its_arguments_does_so_once(executor: WorkerPoolExecutor) -> None:
    with pytest.raises(tasks.RewordingError) as caught:
        executor.submit(tasks.raise_rewording, 5).result(DEADLINE)
    assert str(caught.value) == "code 5"
    assert caught.value.code == 5


@only_processes
def test_exceptions_that_can_not_be_brought_back(executor: WorkerPoolExecutor) -> None:
    """A5: the stdlib's executor is broken for good by the first of them."""
    for task, name, message in (
        (tasks.raise_two_arguments, "TwoArgumentsError", "it broke at the seam"),
        (tasks.raise_unpicklable, "PlainError", "has a lock"),
    ):
        with pytest.raises(TaskError, match=message) as caught:
            executor.submit(task).result(DEADLINE)
        assert caught.value.type_name == name
        assert caught.value.message == message
        assert f"in {task.__name__}" in caught.value.traceback_text


@only_processes
def test_results_that_can_not_be_brought_back(executor: WorkerPoolExecutor) -> None:
    fine = [executor.submit(tasks.square, number) for number in range(10)]
    with pytest.raises(TaskError, match="function, can't be pickled"):
        executor.submit(tasks.return_lambda).result(DEADLINE)
    with pytest.raises(TaskError, match="can't be unpickled: not here"):
        executor.submit(tasks.return_unloadable).result(DEADLINE)
    with pytest.raises(TaskError, match="can't be unpickled"):
        executor.submit(tasks.return_two_arguments).result(DEADLINE)
    assert [future.result(DEADLINE) for future in fine] == [number**2 for number in range(10)]


@only_threads
def test_nothing_from_threads_needs_to_be_pickled(executor: WorkerPoolExecutor) -> None:
    with pytest.raises(tasks.TwoArgumentsError, match="it broke at the seam"):
        executor.submit(tasks.raise_two_arguments).result(DEADLINE)
    assert executor.submit(tasks.return_lambda).result(DEADLINE)() is None


@only_processes
def test_arguments_that_can_not_be_unpickled(executor: WorkerPoolExecutor) -> None:
    with pytest.raises(LookupError, match="not here") as caught:
        executor.submit(tasks.repeat, tasks.Unloadable()).result(DEADLINE)
    assert "while the task was unpickled" in text_of(caught.value)


@every_call
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("x"), GeneratorExit(), tasks.OwnBaseError("x")],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_that_end_programs_end_the_task_only(
    executor: WorkerPoolExecutor,
    call: Callable[[WorkerPoolExecutor, Any, Any], Any],
    error: BaseException,
) -> None:
    with pytest.raises(type(error)) as caught:
        call(executor, tasks.raise_it, error)
    assert caught.value.args == error.args


def test_stop_iteration_of_a_task_does_not_look_like_the_end(executor: WorkerPoolExecutor) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(executor.map(raise_stop, range(3)))


def raise_stop(_: object) -> None:
    tasks.raise_stop()


def test_map_cancels_what_is_left_after_an_exception() -> None:
    event = Event()
    counter: Queue[int] = Queue()
    with WorkerPoolExecutor(1) as executor:
        jobs = [(tasks.raise_plain, 1), (tasks.wait_for, event)]
        jobs += [(tasks.count_up, counter)] * 20
        results = executor.map(call_it, *zip(*jobs, strict=True))
        with pytest.raises(tasks.PlainError):
            next(results)
        event.set()
    assert counter.qsize() < 20


def call_it(func: Callable[[Any], object], argument: object) -> None:
    func(argument)


# --- initializers, and what workers are given -----------------------------------------------


def test_the_initializer_runs_once_in_each_worker() -> None:
    counter: Queue[int] = Queue()
    with WorkerPoolExecutor(1, tasks.count_up, (counter,)) as executor:
        assert list(executor.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]
    assert counter.qsize() == 1


def test_initargs_may_be_any_iterable() -> None:
    with WorkerPoolExecutor(1, initializer=tasks.keep, initargs=iter([1, "two"])) as executor:
        assert executor.submit(tasks.what_was_kept).result(DEADLINE) == (1, "two")


def test_an_initializer_that_raises_breaks_the_executor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL + 1, "concurrent.futures")
    with WorkerPoolExecutor(2, tasks.raise_it, (tasks.PlainError("no start"),)) as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(tasks.square, 1).result(DEADLINE)
        with pytest.raises(BrokenExecutor):
            executor.submit(tasks.square, 1).result(DEADLINE)


def test_primitives_as_arguments(executor: WorkerPoolExecutor) -> None:
    lock, event = Lock(), Event()
    queue: Queue[str] = Queue()
    lock.acquire()
    future = executor.submit(tasks.use_all, lock, event, queue, word="one")
    assert not event.is_set()
    lock.release()
    assert future.result(DEADLINE) == "ONE"
    assert event.is_set()
    assert queue.get(timeout=DEADLINE) == "one"
    words = ["two", "three"]
    results = executor.map(tasks.use_all, [lock] * 2, [event] * 2, [queue] * 2, words)
    assert list(results) == ["TWO", "THREE"]
    assert {queue.get(timeout=DEADLINE) for _ in words} == set(words)


def test_primitives_as_initargs() -> None:
    lock, event = Lock(), Event()
    queue: Queue[str] = Queue()
    with WorkerPoolExecutor(2, tasks.keep, (lock, event, queue)) as executor:
        assert list(executor.map(tasks.use_kept, ["one", "two"])) == ["ONE", "TWO"]
    assert event.is_set()
    assert {queue.get(timeout=DEADLINE) for _ in range(2)} == {"one", "two"}


def test_a_primitive_lives_until_its_task_has_it(executor: WorkerPoolExecutor) -> None:
    """The caller may drop what it sent before the task has begun."""
    event = Event()
    blocked = [executor.submit(tasks.wait_for, event) for _ in range(8)]
    found: Queue[str] = Queue()
    later = executor.submit(tasks.use_all, Lock(), Event(), found, "late")
    gc.collect()
    event.set()
    assert later.result(DEADLINE) == "LATE"
    assert found.get(timeout=DEADLINE) == "late"
    assert [future.result(DEADLINE) for future in blocked] == [True] * 8


# --- beginning and ending -------------------------------------------------------------------


def test_entering_gives_the_executor_itself_and_leaving_waits() -> None:
    event = Event()
    executor = WorkerPoolExecutor(1)
    with executor as entered:
        assert entered is executor
        futures = [executor.submit(tasks.wait_for, event) for _ in range(3)]
        event.set()
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == [True] * 3


def test_a_shut_down_executor_takes_no_tasks() -> None:
    executor = WorkerPoolExecutor(1)
    assert executor.submit(tasks.square, 2).result(DEADLINE) == 4
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(tasks.square, 2)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.map(tasks.square, [2])
    with pytest.raises(RuntimeError, match="shut down"), executor:
        pass


def test_an_executor_that_was_never_used_can_be_shut_down() -> None:
    with WorkerPoolExecutor(2):
        pass


def test_shutdown_without_waiting_lets_tasks_end() -> None:
    event = Event()
    executor = WorkerPoolExecutor(1)
    futures = [executor.submit(tasks.wait_for, event) for _ in range(3)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(tasks.square, 2)
    assert not any(future.done() for future in futures)
    event.set()
    assert [future.result(DEADLINE) for future in futures] == [True] * 3


def test_shutdown_cancels_what_has_not_begun_if_asked_to() -> None:
    event = Event()
    started: Queue[int] = Queue()
    executor = WorkerPoolExecutor(1)
    futures = [executor.submit(tasks.report_and_wait, started, event) for _ in range(20)]
    started.get(timeout=DEADLINE)
    executor.shutdown(wait=False, cancel_futures=True)
    event.set()
    executor.shutdown()
    assert futures[0].result(DEADLINE) is True
    assert futures[-1].cancelled()
    assert all(future.done() for future in futures)


def test_shutdown_can_be_called_again_to_wait() -> None:
    """The stdlib's executor over processes returns at once then."""
    event = Event()
    executor = WorkerPoolExecutor(1)
    future = executor.submit(tasks.wait_for, event)
    executor.shutdown(wait=False)
    threading.Timer(SHORT, event.set).start()
    executor.shutdown()
    assert future.done()
    assert future.result(0) is True


def test_a_future_can_be_cancelled_until_it_runs() -> None:
    event = Event()
    started: Queue[int] = Queue()
    with WorkerPoolExecutor(1) as executor:
        futures = [executor.submit(tasks.report_and_wait, started, event) for _ in range(20)]
        started.get(timeout=DEADLINE)
        wait_until(futures[0].running, "the first task is known to run")
        assert not futures[0].cancel()
        assert futures[-1].cancel()
        event.set()
    assert futures[0].result(DEADLINE) is True
    assert futures[-1].cancelled()


def test_a_future_whose_result_was_seen_is_done() -> None:
    """It wasn't, until the collector came by, if it got a callback while its result was awaited."""
    has_begun, may_go_on = threading.Event(), threading.Event()
    event, other = Event(), Event()

    def hold_up(_: Future[bool]) -> None:
        has_begun.set()
        may_go_on.wait(DEADLINE)

    with WorkerPoolExecutor(2) as executor:
        holding, future = (
            executor.submit(tasks.wait_for, event),
            executor.submit(tasks.wait_for, other),
        )
        holding.add_done_callback(hold_up)
        results: list[bool] = []
        waiting = threading.Thread(target=lambda: results.append(future.result()))
        waiting.start()
        assert waiting.native_id is not None
        wait_until_task_sleeps(Path(f"/proc/{os.getpid()}/task/{waiting.native_id}"))
        future.add_done_callback(tasks.repeat)
        event.set()
        assert has_begun.wait(DEADLINE)
        other.set()
        waiting.join(DEADLINE)
        assert results == [True]
        is_done = future.done()
        may_go_on.set()
        assert is_done


@only_processes
@pytest.mark.parametrize("die", [tasks.kill_oneself, tasks.exit_at_once])
def test_a_worker_that_dies_fails_its_task_only(die: Callable[[], None]) -> None:
    with WorkerPoolExecutor(2) as executor:
        event = Event()
        other = executor.submit(tasks.wait_for, event)
        with pytest.raises(WorkerDiedError, match=f"while it ran {die.__name__}") as caught:
            executor.submit(die).result(DEADLINE)
        assert isinstance(caught.value, BrokenProcessPool)
        event.set()
        assert other.result(DEADLINE) is True
        assert executor.submit(tasks.square, 2).result(DEADLINE) == 4


@only_processes
def test_workers_are_replaced_when_they_have_run_their_tasks() -> None:
    with WorkerPoolExecutor(2, max_tasks_per_child=3) as executor:
        pids = list(executor.map(tasks.identity, range(20), timeout=DEADLINE))
    assert max(pids.count(pid) for pid in pids) == 3
    assert len(set(pids)) >= 7


# --- whole programs -------------------------------------------------------------------------


def test_ctrl_c_is_raised_once_and_ends_all() -> None:
    """A15: no traceback from any worker, though leaving the `with` waits for the tasks."""
    program = """
        import os, signal
        from freethreading import Event, Queue, WorkerPoolExecutor

        def wait(started, event):
            started.put(1)
            event.wait()

        if __name__ == "__main__":
            started, event = Queue(), Event()
            with WorkerPoolExecutor(2) as executor:
                futures = [executor.submit(wait, started, event) for _ in range(8)]
                for _ in range(2):
                    started.get()
                try:
                    os.killpg(os.getpgrp(), signal.SIGINT)
                    futures[0].result()
                finally:
                    event.set()
        """
    finished = run_python(program)
    assert not finished.timed_out, str(finished)
    assert finished.returncode in (-signal.SIGINT, 130), str(finished)
    assert finished.stderr.count("Traceback") == 1, str(finished)
    assert finished.stderr.count("KeyboardInterrupt") == 1, str(finished)


def test_the_documented_example_prints_what_it_says() -> None:
    """The end of API.md, with names counted as the stdlib counts them."""
    program = """
        from freethreading import Worker, WorkerPool, WorkerPoolExecutor, current_worker

        def greet():
            print(f"Hello from {current_worker().name}!", flush=True)

        def square(x):
            return x * x

        if __name__ == "__main__":
            print(current_worker().name, flush=True)
            w = Worker(target=greet, name="MyWorker")
            w.start(); w.join()
            with WorkerPool(workers=2) as pool:
                print(pool.map(square, range(5)), flush=True)
            with WorkerPoolExecutor(max_workers=2) as executor:
                executor.submit(greet)
        """
    finished = run_python(program).check()
    main, worker = (
        ("MainProcess", "ForkServerProcess-4")
        if PROCESSES
        else ("MainThread", "ThreadPoolExecutor-0_0")
    )
    assert finished.stdout.splitlines() == [
        main,
        "Hello from MyWorker!",
        "[0, 1, 4, 9, 16]",
        f"Hello from {worker}!",
    ]
    assert finished.stderr == ""
