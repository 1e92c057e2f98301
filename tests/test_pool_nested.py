"""Pools beside other pools: tasks that use their own, pools in workers, pools after a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pool_tasks as tasks
from freethreading import WorkerPool, WorkerPoolExecutor
from support import run_python
from test_worker import DEADLINE, only_processes, only_threads

if TYPE_CHECKING:
    from collections.abc import Callable


@only_threads
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("go", [tasks.apply_deeper, tasks.map_deeper, tasks.iterate_deeper])
def test_tasks_may_use_their_own_pool(
    monkeypatch: pytest.MonkeyPatch, workers: int, go: Callable[[int], int]
) -> None:
    """With the standard library's pools, workers that wait for each other wait for ever."""
    with WorkerPool(workers) as pool:
        monkeypatch.setattr(tasks, "own", pool)
        assert pool.apply_async(go, (3,)).get(DEADLINE) == 3
        assert pool.map_async(go, [3] * 4).get(DEADLINE) == [3] * 4


@only_threads
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("go", [tasks.submit_deeper, tasks.executor_map_deeper])
def test_tasks_may_use_their_own_executor(
    monkeypatch: pytest.MonkeyPatch, workers: int, go: Callable[[int], int]
) -> None:
    with WorkerPoolExecutor(workers) as executor:
        monkeypatch.setattr(tasks, "own", executor)
        assert executor.submit(go, 3).result(DEADLINE) == 3
        assert list(executor.map(go, [3] * 4, timeout=DEADLINE)) == [3] * 4


@only_threads
@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_may_iterate_over_what_its_own_pool_is_given_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Workers that waited for the next task to be done didn't see it come, and nobody ran it."""
    with WorkerPool(workers) as pool:
        monkeypatch.setattr(tasks, "own", pool)
        each = [pool.apply_async(tasks.iterate_over_what_comes, (200,)) for _ in range(workers)]
        assert [one.get(DEADLINE) for one in each] == [sum(range(200))] * workers


@only_threads
def test_an_exception_in_a_task_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPoolExecutor(1) as executor:
        monkeypatch.setattr(tasks, "own", executor)
        with pytest.raises(TypeError):
            executor.submit(tasks.submit_deeper, "no number").result(DEADLINE)
        assert executor.submit(tasks.submit_deeper, 2).result(DEADLINE) == 2


@pytest.mark.parametrize("in_task", [tasks.map_in_own_pool, tasks.submit_in_own_executor])
def test_tasks_may_have_pools_of_their_own(in_task: Callable[[list[int]], list[int]]) -> None:
    with WorkerPool(2) as pool:
        expected = [[0, 1, 4], [9, 16], []]
        assert pool.map_async(in_task, [[0, 1, 2], [3, 4], []], 1).get(DEADLINE) == expected


@only_processes
def test_a_pool_is_no_argument() -> None:
    with WorkerPool(1) as pool, WorkerPoolExecutor(1) as executor:
        for each in (pool, executor):
            with pytest.raises(ValueError, match=r"args\[0\] can't be pickled"):
                pool.apply(tasks.repeat, (each,))


@pytest.mark.parametrize("ends", ["leaves", "drops"])
def test_in_a_forked_child_the_parents_pools_raise(ends: str) -> None:
    program = f"""
        import os, threading
        from freethreading import WorkerPool, WorkerPoolExecutor

        def square(number):
            return number * number

        def attempt(call):
            try:
                return call()
            except RuntimeError as error:
                assert "make a new" in str(error), error
                return "refused"

        if __name__ == "__main__":
            with WorkerPool(2) as pool, WorkerPoolExecutor(2) as executor:
                assert pool.map(square, range(4), 1) == [0, 1, 4, 9]
                done, future = pool.apply_async(square, (3,)), executor.submit(square, 2)
                done.wait(), future.result()
                started = threading.Event()
                lazy, busy = pool.imap(square, iter(range(1000))), executor.map(square, range(1000))
                child = os.fork()
                if child == 0:
                    for call in (
                        lambda: pool.apply(square, (1,)),
                        lambda: pool.map(square, [1]),
                        lambda: pool.imap(square, [1]),
                        lambda: pool.apply_async(square, (1,)),
                        lambda: executor.submit(square, 1),
                        lambda: executor.map(square, [1]),
                        lambda: next(lazy),
                        lambda: next(busy),
                    ):
                        assert attempt(call) == "refused"
                    assert done.get() == 9 and future.result() == 4
                    with WorkerPool(2) as own:
                        assert own.map(square, range(4), 1) == [0, 1, 4, 9]
                    if {ends!r} == "drops":
                        del lazy, busy, done, future
                        os._exit(0)
                else:
                    assert list(lazy) == list(busy) == [n * n for n in range(1000)]
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            print("end", os.getpid() == child, flush=True)
        """
    finished = run_python(program, options=["-W", "ignore::DeprecationWarning"]).check()
    assert finished.stdout.count("end") == (2 if ends == "leaves" else 1)


@only_threads
def test_a_task_that_waits_for_the_end_of_its_pool_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for itself."""
    with WorkerPoolExecutor(1) as executor:
        monkeypatch.setattr(tasks, "own", executor)
        with pytest.raises(RuntimeError, match="can't wait for the end of the pool that runs it"):
            executor.submit(tasks.shut_down_own).result(DEADLINE)
