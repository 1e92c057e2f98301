"""How pools end amidst things: at the end of programs, by finalizers and signal handlers."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor, Future

import pytest

import pool_tasks as tasks
from freethreading import Event, Queue, Semaphore, WorkerPool, WorkerPoolExecutor
from support import run_python
from test_worker import DEADLINE, SHORT, only_threads

BUSY = """
    import itertools, sys, threading, time
    from freethreading import WorkerPool

    started = threading.Semaphore(0)

    def compute(_):
        started.release()
        while True:
            pass

    def nap(_):
        started.release()
        while True:
            time.sleep(0.0001)

    def take(number):
        started.release()
        return number

    class Endless:
        # It takes that long to try whether this can be pickled.
        def __reduce__(self):
            compute(None)

    class Slow:
        # The interpreter's end takes a moment, in which threads want to go on.
        def __del__(self, sleep=time.sleep):
            sleep(0.2)

    if __name__ == "__main__":
        sys.slow = Slow()
        pool = WorkerPool(2)
        if sys.argv[1] == "imap":
            iterator = pool.imap(take, itertools.count())
        elif sys.argv[1] == "pickling":
            result = pool.map_async(take, [Endless(), Endless()], 1)
        elif sys.argv[1] == "feeding":
            iterators = [pool.imap(take, iter([Endless()])) for _ in range(2)]
        elif sys.argv[1] == "callback":
            result = pool.map_async(take, [1], 1, callback=compute)
        else:
            result = pool.map_async(globals()[sys.argv[1]], [1, 2], 1)
        for _ in range(2):
            started.acquire()
    """


@only_threads
@pytest.mark.parametrize("kind", ["compute", "nap", "imap", "pickling", "feeding", "callback"])
def test_a_program_ends_well_while_threads_of_a_pool_are_busy(kind: str) -> None:
    """CPythons before 3.14 end such threads by unwinding them, which aborted the process."""
    assert run_python(BUSY, kind).check().stderr == ""


DROPPED = """
    import gc, threading, warnings
    from freethreading import WorkerPool

    class Cycle:
        def __init__(self, pool=None):
            self.me, self.pool = self, pool

    def square(number):
        return number * number

    def churn():
        while not is_over.is_set():
            [Cycle() for _ in range(10)]

    if __name__ == "__main__":
        warnings.simplefilter("ignore")
        gc.set_threshold(5)
        is_over = threading.Event()
        churning = threading.Thread(target=churn)
        churning.start()
        for number in range(40):
            cycle = Cycle(WorkerPool(2))
            results = [cycle.pool.apply_async(square, (i,), callback=id) for i in range(5)]
            if number % 2:
                assert results[0].get() == 0
            del cycle, results
        is_over.set()
        churning.join()
    """


def test_pools_that_are_dropped_in_cycles_end_in_whatever_thread_finds_them() -> None:
    """One was ended, and waited for, while a process was being started: by the starting thread."""
    assert run_python(DROPPED, timeout=60).check().stderr == ""


HANDLER = """
    import random, signal, sys
    from freethreading import WorkerPool

    def square(number):
        return number * number

    if __name__ == "__main__":
        rng = random.Random(1)
        for _ in range(25):
            pool = WorkerPool(3)
            results = [pool.apply_async(square, (number,)) for number in range(6)]
            signal.signal(signal.SIGALRM, lambda *_: getattr(pool, sys.argv[1])())
            pool.close()
            signal.setitimer(signal.ITIMER_REAL, 0.001 + rng.random() * 0.05)
            pool.join()
            signal.setitimer(signal.ITIMER_REAL, 0)
    """


@pytest.mark.parametrize("call", ["terminate", "join"])
def test_a_signal_handler_may_end_the_pool_that_the_main_thread_joins(call: str) -> None:
    """Both looked after the same processes, and one of them asked a closed one for its state."""
    assert run_python(HANDLER, call, timeout=60).check().stderr == ""


def start(first: Semaphore, breaks: Event) -> None:
    if not first.acquire(blocking=False):
        breaks.wait()
        raise LookupError


def run(begun: Event, goes_on: Event, ran: Queue[int], number: int) -> None:
    begun.set()
    goes_on.wait()
    ran.put(number)


@only_threads
def test_a_broken_pool_runs_nothing_that_has_failed() -> None:
    ran: Queue[int] = Queue()
    begun, breaks, goes_on = Event(), Event(), Event()
    with WorkerPoolExecutor(2, start, (Semaphore(1), breaks)) as executor:
        futures = [executor.submit(run, begun, goes_on, ran, number) for number in range(50)]
        assert begun.wait(DEADLINE)
        breaks.set()
        errors = [future.exception(DEADLINE) for future in futures]
        goes_on.set()
    assert all(isinstance(error, BrokenExecutor) for error in errors)
    assert ran.qsize() == 1  # what the first worker had in hand


class OddError(Exception):
    """What a report of an exception asks it for raises."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # what shouldn't be done
        raise RuntimeError

    @property
    def name(self) -> str:
        raise RuntimeError


def raise_odd(_: object) -> None:
    raise OddError


def test_an_exception_that_cannot_be_shown_harms_nobody() -> None:
    """It killed the worker that it was raised in."""
    with WorkerPool(1) as pool:
        with pytest.raises(OddError):
            pool.map(raise_odd, [1])
        assert pool.apply(tasks.square, (3,)) == 9


def test_enormous_numbers_are_as_good_as_large_ones() -> None:
    with WorkerPool(10**30) as pool:
        assert pool.map(tasks.square, range(4), 10**30) == [0, 1, 4, 9]
        assert list(pool.imap(tasks.square, range(4), 10**30)) == [0, 1, 4, 9]
    with WorkerPoolExecutor(10**30) as executor:
        assert list(executor.map(tasks.square, range(4), chunksize=10**30)) == [0, 1, 4, 9]


def test_callbacks_that_begin_the_next_task_do_not_go_deeper_and_deeper() -> None:
    """Where tasks are done before their callback is added, each was called within the last."""
    count, is_over = [0], threading.Event()

    def go_on(_: Future[int]) -> None:
        count[0] += 1
        if count[0] == 3000:
            is_over.set()
            return
        future = executor.submit(tasks.square, 1)
        if count[0] % 3:
            future.result(DEADLINE)
        future.add_done_callback(go_on)

    with WorkerPoolExecutor(2) as executor:
        executor.submit(tasks.square, 1).add_done_callback(go_on)
        assert is_over.wait(DEADLINE)
    assert count == [3000]


def test_a_callback_is_not_made_by_who_asks_for_the_call() -> None:
    """It may need a lock that the caller holds."""
    lock, called = threading.Lock(), threading.Event()

    def callback(_: int) -> None:
        with lock:
            called.set()

    with WorkerPool(1) as pool:
        for _ in range(50):
            with lock:
                pool.apply_async(tasks.square, (1,), callback=callback)
                assert not called.is_set()
            assert called.wait(DEADLINE)
            called.clear()


seen: list[int] = []


def see(number: int) -> None:
    seen.append(number)


def wait_and_see(begun: Event, goes_on: Event, number: int) -> None:
    begun.set()
    goes_on.wait()
    seen.append(number)


@only_threads
def test_calls_take_turns_at_one_worker() -> None:
    """A map of a million items doesn't keep a short call waiting until its end."""
    seen.clear()
    begun, goes_on = Event(), Event()
    with WorkerPool(1) as pool:
        items = [(begun, goes_on, number) for number in range(1000)]
        mapped = pool.starmap_async(wait_and_see, items, 1)
        assert begun.wait(DEADLINE)
        applied = pool.apply_async(see, (-1,))
        also = pool.map_async(see, range(-12, -2), 1)
        goes_on.set()
        for result in (mapped, applied, also):
            result.get(DEADLINE)
    assert sorted(seen) == [*range(-12, -2), -1, *range(1000)]
    assert seen.index(-1) < 10
    assert seen.index(-3) < 100


@only_threads
def test_imap_runs_no_further_ahead_than_its_window() -> None:
    seen.clear()
    with WorkerPool(2) as pool:
        iterator = pool.imap(see, list(range(10_000)))
        next(iterator)
        # Nothing tells when workers have stopped; they would need less than this to run all.
        assert not Event().wait(SHORT)
        assert len(seen) <= 2 * 256 + 2
        assert list(iterator) == [None] * 9_999
    assert sorted(seen) == list(range(10_000))


def test_of_many_tasks_each_can_be_cancelled() -> None:
    """Each was looked for among all of them."""
    begun: Queue[int] = Queue()
    goes_on = Event()
    with WorkerPoolExecutor(1) as executor:
        first = executor.submit(tasks.report_and_wait, begun, goes_on)
        begun.get(timeout=DEADLINE)
        futures = [executor.submit(tasks.square, number) for number in range(5000)]
        assert first.running()
        assert not any(future.running() for future in futures)
        assert all(future.cancel() for future in futures[::2])
        assert not any(future.cancel() for future in futures[::2] if not future.cancelled())
        goes_on.set()
        assert [future.result(DEADLINE) for future in futures[1::2]] == [
            number * number for number in range(1, 5000, 2)
        ]
    assert first.result() is True
    assert all(future.cancelled() for future in futures[::2])


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_callback_is_made_though_another_thread_has_ended_the_pool_meanwhile(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The thread that makes callbacks had ended before it knew of this one: get waited for ever."""
    pool = WorkerPool(1)
    assert pool.apply(tasks.square, (2,)) == 4  # so its worker has been started
    crew = pool._crew  # noqa: SLF001 - to come in at a certain moment
    collect = crew.collect
    called: Queue[int] = Queue()

    def end_meanwhile() -> None:
        collect()
        monkeypatch.undo()
        getattr(pool, end)()
        pool.join()

    # Called between the start of the task and the making of its result.
    monkeypatch.setattr(crew, "collect", end_meanwhile)
    result = pool.apply_async(tasks.square, (3,), callback=called.put)
    if end == "close":
        assert result.get(DEADLINE) == 9
        assert called.get(timeout=DEADLINE) == 9
    else:
        result.wait(DEADLINE)
        assert result.ready()
