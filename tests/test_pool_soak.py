"""Many tasks through pools and executors: all end, once, rightly; memory and the rest stay flat.

`FREETHREADING_SOAK=1000000` makes it a million of them instead of the few of the usual run.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections import deque
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pool_tasks as tasks
from freethreading import (
    Lock,
    Queue,
    WorkerDiedError,
    WorkerPool,
    WorkerPoolExecutor,
    _native,
    active_children,
)
from support import wait_until
from test_worker import DEADLINE, PROCESSES, only_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TASKS = int(os.environ.get("FREETHREADING_SOAK", "12000"))
# Not a bound on speed: what takes longer hangs.
PATIENCE = 60 + TASKS / 2000
ROUNDS = 10
COUNT = max(1, TASKS // ROUNDS)
# So many tasks, then a worker process is replaced.
MOST_TASKS = max(400, TASKS // 200)
# Futures that are on their way at a time.
WINDOW = 500

MEBIBYTE = 1 << 20
# What may differ from round to round: what allocators and free pages make of the same work, done
# again; and what one worker more or less makes, as one may be on its way.
SPARE = {
    "memory": 16 * MEBIBYTE,
    "workers' memory": 16 * MEBIBYTE,
    "family": MEBIBYTE,
    "objects": 4,
    "files": 4,
    "threads": 2,
}


def usage() -> dict[str, int]:
    """Return what this process and its workers use when there is nothing to do."""
    for _ in range(2):  # what an object's end leaves behind, too
        gc.collect()
    workers: list[Any] = [*active_children()] if PROCESSES else []
    _, objects, family = _native.family_statistics() or (0, 0, 0)
    return {
        "memory": anonymous_memory("self"),
        "workers' memory": max((anonymous_memory(worker.pid) for worker in workers), default=0),
        "family": family,
        "objects": objects,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


def anonymous_memory(pid: Any) -> int:  # noqa: ANN401 - a number, or "self"
    """Return the bytes that a process has for itself; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return int(fields.get("RssAnon", "0").split()[0]) << 10


def soak(work: Callable[[range], None]) -> list[dict[str, int]]:
    """Do the work of all rounds; none may leave more behind than one of the first three."""
    usages = []
    for number in range(ROUNDS):
        work(range(number * COUNT, (number + 1) * COUNT))
        usages.append(usage())
    for name, spare in SPARE.items():
        used = [each[name] for each in usages if each[name]]
        assert max(used, default=0) <= max(used[:3], default=0) + spare, f"{name}: {used}"
    return usages


def map_all(pool: WorkerPool, numbers: range) -> None:
    assert pool.map(tasks.carry, numbers, 1) == list(map(tasks.carry, numbers))


def map_in_turn(pool: WorkerPool, numbers: range) -> None:
    """Take the results as they come; the items come from a list or a generator, in turn."""
    is_fed = numbers.start // COUNT % 2
    items: Iterable[int] = (number for number in numbers) if is_fed else numbers
    check_each_once(pool.imap_unordered(tasks.carry, items), numbers)


def check_each_once(results: Iterable[Any], numbers: range) -> None:
    """Require each number's result, once, in any order."""
    seen = bytearray(len(numbers))
    for result in results:
        number = number_of(result)
        assert result == tasks.carry(number)
        seen[number - numbers.start] += 1
    assert seen == b"\1" * len(numbers)


def number_of(result: Any) -> int:  # noqa: ANN401 - of several types
    """Return the number that a result is of."""
    if isinstance(result, dict):
        result = result["number"]
    number: int = result[0] if isinstance(result, tuple) else result
    return number


@pytest.mark.watchdog(PATIENCE)
@pytest.mark.parametrize("work", [map_all, map_in_turn], ids=["map", "imap_unordered"])
def test_many_tasks_of_a_pool_leave_nothing(work: Callable[[WorkerPool, range], None]) -> None:
    with WorkerPool(2) as pool:
        soak(lambda numbers: work(pool, numbers))
    pool.join()


def submit_all(executor: WorkerPoolExecutor, numbers: range) -> None:
    """Ask for results in order, some tasks behind; every 64th task raises."""
    waiting: deque[Any] = deque()
    for number in itertools.chain(numbers, [None] * WINDOW):
        if len(waiting) == WINDOW or number is None:
            if not waiting:
                break
            expected, future = waiting.popleft()
            check(expected, future)
        if number is not None:
            waiting.append((number, executor.submit(tasks.carry_or_raise, number)))


def submit_and_watch(executor: WorkerPoolExecutor, numbers: range) -> None:
    """Take futures as they are completed."""
    for start in range(numbers.start, numbers.stop, WINDOW):
        part = range(start, min(start + WINDOW, numbers.stop))
        futures = {executor.submit(tasks.carry_or_raise, number): number for number in part}
        seen = 0
        for future in as_completed(futures, DEADLINE):
            check(futures[future], future)
            seen += 1
        assert seen == len(part)


def check(number: int, future: Any) -> None:  # noqa: ANN401 - of any result
    """Require of a future what its task was to end with."""
    if number % 64 == 63:
        error = future.exception(DEADLINE)
        assert isinstance(error, tasks.PlainError)
        assert error.args == (number,)
    else:
        assert future.result(DEADLINE) == tasks.carry(number)


@pytest.mark.watchdog(PATIENCE)
@pytest.mark.parametrize("work", [submit_all, submit_and_watch], ids=["result", "as_completed"])
def test_many_tasks_of_an_executor_leave_nothing(
    work: Callable[[WorkerPoolExecutor, range], None],
) -> None:
    with WorkerPoolExecutor(2) as executor:
        soak(lambda numbers: work(executor, numbers))


@only_processes
@pytest.mark.watchdog(PATIENCE)
def test_many_workers_one_after_the_other_leave_nothing() -> None:
    with WorkerPoolExecutor(2, max_tasks_per_child=MOST_TASKS) as executor:
        soak(lambda numbers: submit_all(executor, numbers))


def make_and_die(number: int) -> Any:  # noqa: ANN401 - what is made
    """Return something large, and something of ours; for some numbers, die with it in hands."""
    made = (bytes(200_000), Lock(), Queue[int]())
    made[2].put(number)
    if number % 5 == 4:
        os._exit(3)
    return made


def use_and_lose() -> None:
    """Let workers die with what they made, and leave a call that nobody waits for."""
    with WorkerPool(2) as pool:
        use_and_lose_by(pool)


def use_and_lose_by(pool: WorkerPool) -> None:
    outcomes = [pool.apply_async(make_and_die, (number,)) for number in range(10)]
    abandoned = pool.imap_unordered(len, (bytes(300_000) for _ in range(20)))
    assert next(abandoned) == 300_000
    for number, outcome in enumerate(outcomes):
        if number % 5 == 4:
            with pytest.raises(WorkerDiedError):
                outcome.get(DEADLINE)
        else:
            assert outcome.get(DEADLINE)[2].get() == number
    assert pool.map(len, [bytearray(100_000)] * 10) == [100_000] * 10


@only_processes
def test_all_memory_of_a_pool_comes_back() -> None:
    """Whoever died with what; also of a call that nobody waits for."""
    Lock()
    usage()
    before = _native.family_statistics()
    for _ in range(2):
        use_and_lose()
    usage()  # which collects garbage
    wait_until(lambda: _native.family_statistics() == before, "all memory is free")
