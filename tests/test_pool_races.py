"""What a pool does at the same time: each test met, in some of its rounds, what it is named for.

`FREETHREADING_SEEDS` of `test_pool_model` makes for more rounds, too.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import random
import signal
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import (
    Event,
    Queue,
    Semaphore,
    WorkerDiedError,
    WorkerPool,
    WorkerPoolExecutor,
    active_children,
)
from support import run_python
from test_pool_model import CHOSEN
from test_worker import DEADLINE, PROCESSES, SHORT, only_processes

if TYPE_CHECKING:
    from collections.abc import Callable

# More than is sent at a time, for two workers.
MANY = 1500
rounds = pytest.mark.parametrize("seed", range(max(2, len(CHOSEN) // 10)))


def outcome(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - of any kind
    """Return what a call returns, or the exception that it raises."""
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - that is the outcome
        return error


@rounds
def test_a_map_that_is_cancelled_does_not_look_complete(seed: int) -> None:
    """Where all that had been sent was done, the rest was dropped, and the iteration just ended."""
    rng = random.Random(seed)  # noqa: S311 - when it is cancelled
    with WorkerPoolExecutor(2) as executor:
        executor.submit(tasks.square, 1).result(DEADLINE)
        results = executor.map(tasks.square, range(MANY), timeout=DEADLINE)
        taken = list(itertools.islice(results, rng.choice([0, 0, 1, 100, 700])))
        executor.shutdown(wait=False, cancel_futures=True)
        end = outcome(lambda: taken.extend(results))
    assert taken == [number * number for number in range(len(taken))]
    assert isinstance(end, CancelledError) if len(taken) < MANY else end is None


@rounds
@pytest.mark.parametrize("form", ["imap", "imap_unordered"])
def test_threads_that_share_an_iterator_get_each_value_once(form: str, seed: int) -> None:
    """While one of them unpacked a chunk, another one saw the end, or slept beside the rest."""
    rng = random.Random(seed)  # noqa: S311 - of what size all is
    size, count, each = rng.randint(1, 9), rng.randint(2, 4), rng.randint(1, 200)
    begin = threading.Barrier(count)
    taken: list[Any] = []
    with WorkerPool(2) as pool:
        for _ in range(5):
            items: Any = range(count * each)
            given = items if rng.random() < 0.5 else iter(items)
            results = getattr(pool, form)(tasks.square, given, size)

            def take(results: Any = results) -> None:  # noqa: ANN401 - of either form
                begin.wait(DEADLINE)
                got = [outcome(lambda: results.next(DEADLINE)) for _ in range(each)]
                taken.extend(got)

            takers = [threading.Thread(target=take) for _ in range(count)]
            for taker in takers:
                taker.start()
            for taker in takers:
                taker.join()
            assert sorted(taken) == [number * number for number in items]
            taken.clear()


def make_calls(call: Callable[[], Any], made: list[Any], begin: threading.Barrier) -> None:
    begin.wait(DEADLINE)
    made += [outcome(call) for _ in range(20)]


@rounds
@pytest.mark.parametrize("is_pool", [True, False], ids=["pool", "executor"])
def test_a_call_beside_the_end_is_refused_or_done(seed: int, is_pool: bool) -> None:
    """It could be sent behind the order to end, and nobody was left to run it."""
    rng = random.Random(seed)  # noqa: S311 - when it ends
    for _ in range(5):
        front: Any = WorkerPool(2) if is_pool else WorkerPoolExecutor(2)
        if is_pool:
            call = functools.partial(front.apply_async, tasks.square, (3,))
        else:
            call = functools.partial(front.submit, tasks.square, 3)
        made, begin = [call()], threading.Barrier(3)
        threads = [threading.Thread(target=make_calls, args=(call, made, begin)) for _ in range(2)]
        for thread in threads:
            thread.start()
        begin.wait(DEADLINE)
        for _ in range(rng.randrange(3000)):
            pass
        if is_pool:
            front.close()
            front.join()
        else:
            front.shutdown()
        for thread in threads:
            thread.join()
        for each in made:
            if isinstance(each, BaseException):
                assert type(each) is (ValueError if is_pool else RuntimeError), each
            else:
                assert (each.get(DEADLINE) if is_pool else each.result(DEADLINE)) == 9


@rounds
def test_terminating_lets_those_go_on_who_wait_for_callbacks(seed: int) -> None:
    """The collector could end before it had called them: `get` never returned."""
    rng = random.Random(seed)  # noqa: S311 - when it ends
    for _ in range(1 if PROCESSES else 20):
        pool, event = WorkerPool(2), Event()
        back: dict[str, Any] = {"callback": repr, "error_callback": repr}
        results: list[Any] = [pool.apply_async(tasks.wait_for, (event,), **back) for _ in range(3)]
        results += [pool.map_async(tasks.square, range(50), 1, **back) for _ in range(20)]
        for _ in range(rng.randrange(3000)):
            pass
        pool.terminate()
        event.set()
        for result in results:
            error = outcome(functools.partial(result.get, DEADLINE))
            assert not isinstance(error, multiprocessing.TimeoutError)
        pool.join()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("x"), tasks.OwnBaseError("x")])
def test_an_item_that_ends_threads_when_it_is_pickled_harms_nobody(error: BaseException) -> None:
    """The collector ended when it sent the item, and lost the results that it had at hand."""
    items: list[Any] = [0] * MANY
    items[MANY // 2] = tasks.Raising(error)
    with WorkerPool(2) as pool:
        # Nobody asks for the result, so the collector sends all items.
        has_ended = threading.Event()
        failing = pool.map_async(tasks.repeat, items, 1, error_callback=lambda _: has_ended.set())
        assert has_ended.wait(DEADLINE)
        found = outcome(lambda: failing.get(DEADLINE))
        assert type(found) is (ValueError if isinstance(error, tasks.OwnBaseError) else type(error))
        called: list[int] = []
        assert pool.apply_async(tasks.square, (2,), callback=called.append).get(DEADLINE) == 4
        assert called == [4]
        assert pool.map_async(tasks.square, range(MANY), 1).get(DEADLINE)[-1] == (MANY - 1) ** 2


INTERRUPTED = """
    import signal, sys, threading
    from freethreading import WorkerPoolExecutor

    where = sys.argv[1]
    interrupts = []

    def interrupt(number):
        if number > 900 and threading.current_thread() is threading.main_thread():
            if not interrupts:
                interrupts.append(number)
                signal.raise_signal(signal.SIGINT)

    class Item:
        def __init__(self, number):
            self.number = number

        def __reduce__(self):
            if where == "item":
                interrupt(self.number)
            return restore, (self.number,)

    def restore(number):
        if where == "result":
            interrupt(number)
        return Item(number)

    def give_back(item):
        return item

    if __name__ == "__main__":
        try:
            with WorkerPoolExecutor(2) as executor:
                for _ in executor.map(give_back, map(Item, range(20_000))):
                    pass
        except KeyboardInterrupt:
            print("interrupted")
    """


@only_processes
@pytest.mark.parametrize("where", ["item", "result"])
def test_ctrl_c_while_something_is_pickled_ends_the_program(where: str) -> None:
    """Results at hand were lost, and then waited for; or Ctrl-C became the error of a task."""
    finished = run_python(INTERRUPTED, where).check()
    assert finished.stdout == "interrupted\n"
    assert finished.stderr == ""


@only_processes
def test_the_exit_code_is_right_whoever_asks_first() -> None:
    """Who was second read nothing, and took that for an exit code: 255."""
    is_over = threading.Event()
    codes: list[int | None] = []

    def kill_workers() -> None:
        with WorkerPool(2) as pool:
            for _ in range(4):
                for result in [pool.apply_async(tasks.kill_oneself) for _ in range(2)]:
                    error = outcome(functools.partial(result.get, DEADLINE))
                    codes.append(error.exitcode if isinstance(error, WorkerDiedError) else None)

    def ask() -> None:
        while not is_over.wait(SHORT / 1000):
            active_children()

    asking = threading.Thread(target=ask)
    asking.start()
    threads = [threading.Thread(target=kill_workers) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    asking.join()
    assert codes == [-signal.SIGKILL] * 24


@only_processes
def test_bad_starts_with_good_ones_in_between_harm_nobody() -> None:
    """The third one broke the pool, and took along what its other workers were at."""
    doom, event = Semaphore(0), Event()
    started: Queue[int] = Queue()
    with WorkerPool(4, tasks.die_if_doomed, (doom,)) as pool:
        results = []
        for is_doomed in (False, True, True, True):
            if is_doomed:
                doom.release()
            results.append(pool.apply_async(tasks.report_and_wait, (started, event)))
            started.get(timeout=DEADLINE)
        event.set()
        assert [result.get(DEADLINE) for result in results] == [True] * 4


@only_processes
def test_workers_that_exit_well_at_their_start_break_the_pool() -> None:
    """They were replaced for ever."""
    broken = pytest.raises(WorkerDiedError, match="status 0 before it could take a task")
    with WorkerPool(1, os._exit, (0,)) as pool, broken:
        pool.apply_async(tasks.square, (1,)).get(DEADLINE)


@rounds
def test_calls_that_meet_the_end_of_their_pool(seed: int) -> None:
    """Workers were started, told to end, and started again; or nobody made callbacks."""
    rng = random.Random(seed)  # noqa: S311 - which call it is
    for _ in range(50):
        pool = WorkerPool(3)
        meeting = threading.Barrier(2)

        def call(
            pool: WorkerPool = pool,
            meeting: threading.Barrier = meeting,
            choice: int = rng.randrange(3),
        ) -> Any:  # noqa: ANN401 - of any kind
            meeting.wait()
            if choice == 0:
                return pool.map(tasks.square, range(3), 1)
            if choice == 1:
                return pool.apply_async(tasks.square, (1,), None, print, print).get(DEADLINE)
            return pool.map_async(tasks.square, [], None, print, print).get(DEADLINE)

        ends: list[Any] = []
        calling = threading.Thread(target=lambda call=call, ends=ends: ends.append(outcome(call)))
        calling.start()
        meeting.wait()
        if rng.random() < 1 / 2:
            pool.terminate()
        else:
            pool.close()
        pool.join()
        calling.join(DEADLINE)
        assert ends
        assert not isinstance(ends[0], multiprocessing.TimeoutError)
