"""Rows of pools and executors: what it takes to have a task run by another worker.

There are two workers, and they are there before anything is timed, but for the row of the start.
Where many tasks are timed together, every contender is given the same number of them. The CPU time
is that of all processes, of the one that asks, too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import timing
from contenders import LOKY, MPIRE, PEBBLE
from rows import Row, Sample, Unit, goals
from tasks import meet, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from contenders import Contender, Mapper, Pool

    Opens: TypeAlias = Callable[[Contender], AbstractContextManager[Callable[[], object]]]

WORKERS = 2
# The part of a row's time that it runs for before it is timed: memory is had, code specialized.
SHARE_TO_WARM_UP = 0.2
# Tasks that are sent one by one, and those that are sent in chunks.
SINGLY = 2_000
IN_CHUNKS = 100_000
NOTE = "2 workers; where they are processes, the stdlib's are started by forkserver, as ours are"


@contextlib.contextmanager
def meeting() -> Iterator[list[str]]:
    """Yield the items of two tasks of `meet`, for any number of meetings."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = str(Path(folder, "fifo"))
        os.mkfifo(path)
        yield [f"{flags} {path}" for flags in (os.O_RDONLY, os.O_WRONLY)]


@contextlib.contextmanager
def warm_mapper(contender: Contender) -> Iterator[Mapper]:
    """Hold a pool, or as much of one as rivals have, both of whose workers have run a task."""
    with contender.mapper(WORKERS) as mapper, meeting() as ends:
        mapper.map(meet, ends, chunksize=1)
        yield mapper


@contextlib.contextmanager
def warm_pool(contender: Contender) -> Iterator[Pool]:
    """Hold a pool both of whose workers have run a task."""
    with contender.pool(WORKERS) as pool, meeting() as ends:
        pool.map(meet, ends, chunksize=1)
        yield pool


@contextlib.contextmanager
def warm_executor(contender: Contender) -> Iterator[Executor]:
    """Hold an executor both of whose workers have run a task."""
    with contender.executor(WORKERS) as executor, meeting() as ends:
        list(executor.map(meet, ends))
        yield executor


def repeated(work: Callable[[], object], tasks: int, seconds: float) -> Sample:
    """Measure what a task takes of work that does so many; a while of it first isn't timed."""
    done = 0

    def run(turns: int) -> float:
        nonlocal done
        done += turns * tasks
        began = time.perf_counter()
        for _ in range(turns):
            work()
        return time.perf_counter() - began

    warm = time.perf_counter() + seconds * SHARE_TO_WARM_UP
    work()
    while time.perf_counter() < warm:
        work()
    before = timing.cpu_seconds_of_all()
    each = timing.seconds_each(run, seconds)
    cpu = timing.cpu_seconds_of_all() - before
    return Sample([1e6 * one / tasks for one in each], {"cpu_us": 1e6 * cpu / done})


def _map_singly(mapper: Mapper) -> None:
    mapper.map(nothing, range(SINGLY), chunksize=1)


def _map_in_chunks(pool: Pool) -> None:
    pool.map(nothing, range(IN_CHUNKS))


def _imap_range(pool: Pool) -> None:
    for _ in pool.imap_unordered(nothing, range(SINGLY)):
        pass


def _imap_generator(pool: Pool) -> None:
    for _ in pool.imap_unordered(nothing, (item for item in range(SINGLY))):
        pass


def _apply(pool: Pool) -> None:
    pool.apply(nothing, (None,))


def _submit_many(executor: Executor) -> None:
    for future in [executor.submit(nothing, item) for item in range(SINGLY)]:
        future.result()


def _submit(executor: Executor) -> None:
    executor.submit(nothing, None).result()


def _map_executor(executor: Executor) -> None:
    for _ in executor.map(nothing, range(SINGLY)):
        pass


def _measure_mapper(
    work: Callable[[Mapper], None], tasks: int, contender: Contender, seconds: float
) -> Sample:
    with warm_mapper(contender) as mapper:
        return repeated(partial(work, mapper), tasks, seconds)


def _measure_pool(
    work: Callable[[Pool], None], tasks: int, contender: Contender, seconds: float
) -> Sample:
    with warm_pool(contender) as pool:
        return repeated(partial(work, pool), tasks, seconds)


def _measure_executor(
    work: Callable[[Executor], None], tasks: int, contender: Contender, seconds: float
) -> Sample:
    with warm_executor(contender) as executor:
        return repeated(partial(work, executor), tasks, seconds)


def _measure_start(contender: Contender, seconds: float) -> Sample:
    """Measure what a pool takes that two tasks are all the work of, each for one of its workers.

    The first one isn't timed: what starts all others, forkserver, is started with it.
    """

    def run(turns: int) -> float:
        began = time.perf_counter()
        for _ in range(turns):
            pool = contender.pool(WORKERS)
            pool.map(meet, ends, chunksize=1)
            pool.close()
            pool.join()
        return time.perf_counter() - began

    with meeting() as ends:
        run(1)
        return Sample([1e6 * each for each in timing.seconds_each(run, seconds)])


def _row(
    name: str,
    title: str,
    measure: Callable[[Contender, float], Sample],
    reach: Mapping[str, float] | None = None,
    *,
    rivals: Mapping[str, float] | None = None,
) -> Row:
    unit = Unit.MICROSECONDS
    return Row(name, title, unit, measure, reach or {}, rivals=rivals or {}, note=NOTE)


ROWS = [
    _row(
        "pool_map_singly",
        "pool.map, chunksize=1, empty task",
        partial(_measure_mapper, _map_singly, SINGLY),
        goals(12, 5),
        rivals={MPIRE: 30, LOKY: 30, PEBBLE: 0},
    ),
    _row(
        "pool_map",
        "the same, default chunksize",
        partial(_measure_pool, _map_in_chunks, IN_CHUNKS),
        goals(1.8, 1.5),
    ),
    _row(
        "pool_imap_unordered",
        "pool.imap_unordered, chunksize=1, of a range",
        partial(_measure_pool, _imap_range, SINGLY),
        goals(12, 4),
    ),
    _row(
        "pool_imap_generator",
        "the same, of a generator",
        partial(_measure_pool, _imap_generator, SINGLY),
    ),
    _row("pool_apply", "pool.apply, latency", partial(_measure_pool, _apply, 1), goals(40, 15)),
    _row(
        "pool_executor_submit",
        "executor.submit, many, then all results",
        partial(_measure_executor, _submit_many, SINGLY),
        goals(15, 4),
    ),
    _row(
        "pool_executor_latency",
        "executor.submit(...).result(), latency",
        partial(_measure_executor, _submit, 1),
        goals(25, 10),
    ),
    _row(
        "pool_executor_map",
        "executor.map, chunksize=1",
        partial(_measure_executor, _map_executor, SINGLY),
        goals(50, 12),
    ),
    _row(
        "pool_start",
        "pool of 2: start, one task each, close, join",
        _measure_start,
        goals(1.5, 1),
    ),
]
