"""Large arrays as arguments and results of a pool's tasks: stored once, copied as little as can be.

A worker may do to its argument what it likes: neither other tasks nor the caller see it, as if each
task had been sent a copy.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pool_tasks as tasks
from freethreading import Event, Queue, WorkerPool, WorkerPoolExecutor, get_backend
from freethreading import _native as native
from support import wait_until
from test_worker import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MEGABYTE = 1 << 20

only_processes = pytest.mark.skipif(
    get_backend() == "threading", reason="threads are given the arrays themselves"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Return a pool of two workers that the tests share."""
    with WorkerPool(2) as shared:
        shared.map(tasks.square, range(8), 1)
        yield shared


def array(megabytes: int = 1) -> Array:
    """Return an array of so many MiB, each number its own position."""
    return np.arange(megabytes * MEGABYTE // 8, dtype=np.float64)


def bytes_taken() -> int:
    """Return how much of the family's memory is in use."""
    statistics = native.family_statistics()
    assert statistics is not None
    return statistics[2]


@only_processes
@pytest.mark.parametrize("how", ["single", "chunks", "deep"])
def test_what_many_tasks_of_a_call_are_given_is_stored_once(pool: WorkerPool, how: str) -> None:
    big = array(8)
    started: Queue[int] = Queue()
    event = Event()
    before = bytes_taken()
    items: list[Any] = [(big, started, event)] * 40
    if how == "deep":
        items = [({"array": big, "number": n}, started, event) for n in range(40)]
    result = pool.starmap_async(tasks.report_size_and_wait, items, 2 if how == "chunks" else 1)
    for _ in range(2):
        started.get(timeout=DEADLINE)
    # All tasks are in the queue, or in hand. (One that was sent before it was known that there are
    # more has its own.)
    assert bytes_taken() - before < 3 * big.nbytes
    event.set()
    assert result.get(DEADLINE) == [big.nbytes] * 40
    wait_until(lambda: bytes_taken() - before < MEGABYTE, "the array is gone")


@only_processes
@pytest.mark.parametrize("chunksize", [1, 3, None])
def test_a_task_that_writes_to_its_argument_does_not_disturb_others(
    pool: WorkerPool, chunksize: int | None
) -> None:
    ones = np.ones(MEGABYTE // 8)
    numbers = range(30)
    sums = pool.starmap(tasks.add_in_place, zip(itertools.repeat(ones), numbers), chunksize)
    if chunksize == 1:
        assert sums == [(1 + n) * ones.size for n in numbers]
    assert ones.sum() == ones.size


@only_processes
def test_arrays_arrive_writable_if_they_were(pool: WorkerPool) -> None:
    writable, fixed = array(), array()
    fixed.flags.writeable = False
    expected = [True, False] * 4
    assert pool.map(tasks.is_writable, [writable, fixed] * 4, 1) == expected
    assert pool.map(tasks.is_writable, [writable] * 4 + [fixed] * 4, 1) == [True] * 4 + [False] * 4
    assert list(pool.imap(tasks.is_writable, iter([writable, fixed] * 4))) == expected


@only_processes
def test_arrays_that_an_iterator_gives_again_are_sent_as_they_are_then(pool: WorkerPool) -> None:
    """A program may fill one buffer over and over."""
    buffer = np.empty(MEGABYTE // 8)

    def filled() -> Iterator[Array]:
        for number in range(40):
            buffer[:] = number
            yield buffer

    assert list(pool.imap(tasks.mean, filled())) == list(range(40))


def test_temporary_arrays_at_the_same_place_are_not_taken_for_one(pool: WorkerPool) -> None:
    items = [tasks.Filled(number, MEGABYTE // 8) for number in range(60)]
    assert pool.map(tasks.mean_of_filled, items, 1) == list(range(60))


@only_processes
def test_an_array_in_the_function_is_sent_once(pool: WorkerPool) -> None:
    big = array(4)
    before = bytes_taken()
    function = functools.partial(tasks.at, big)
    assert pool.map(function, range(200), 1) == list(range(200))
    with WorkerPoolExecutor(2) as executor:
        assert list(executor.map(function, range(50))) == list(range(50))
    wait_until(lambda: bytes_taken() - before < 3 * big.nbytes, "the array is gone")


def test_arrays_as_results(pool: WorkerPool) -> None:
    results = pool.map(tasks.full_of, range(10), 1)
    assert [float(each.mean()) for each in results] == list(range(10))
    for each in results:
        np.add(each, 1, out=each)
    assert [float(each.mean()) for each in results] == list(range(1, 11))


@only_processes
def test_results_outlive_their_pool() -> None:
    with WorkerPool(1) as pool:
        result = pool.apply(tasks.full_of, (7,))
    pool.join()
    assert result.mean() == 7


@pytest.mark.parametrize("dtype", ["object", "record"])
def test_arrays_of_objects_are_checked(pool: WorkerPool, dtype: str) -> None:
    kind = np.dtype(object) if dtype == "object" else np.dtype([("number", int), ("it", object)])
    fine, bad = np.zeros(3, kind), np.zeros(3, kind)
    (bad if dtype == "object" else bad["it"])[1] = lambda: 1
    assert pool.apply(len, (fine,)) == 3
    with pytest.raises(ValueError, match=r"args\[0\] can't be pickled"):
        pool.apply(len, (bad,))
