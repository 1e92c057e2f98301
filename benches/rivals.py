"""Whom we are compared with beside the standard library, each in the rows that name it.

A rival has a queue or a pool and no more, so the rest of its `Contender` is the standard library's,
which no row asks it for. Its name is that of its package in `requirements/contenders.txt`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import multiprocessing
from typing import TYPE_CHECKING, Any

import contenders
from contenders import FASTER_FIFO, JOBLIB, LOKY, MPIRE, PEBBLE, STDLIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders import Contender, Queue


def load(name: str, backend: str) -> Contender:
    """Import a rival."""
    version = importlib.import_module("importlib.metadata").version(name)
    rest = dataclasses.replace(contenders.load(STDLIB, backend), name=name, version=version)
    if name == FASTER_FIFO:
        return dataclasses.replace(rest, queue=_faster_fifo())
    return dataclasses.replace(rest, mapper=MAPPERS[name])


def _faster_fifo() -> Callable[[int], Queue]:
    package = importlib.import_module("faster_fifo")
    importlib.import_module("faster_fifo_reduction")  # else its queues can't be sent to a worker
    unlimited = 10**9

    def queue(maxsize: int) -> Queue:
        made: Queue = package.Queue(maxsize=maxsize or unlimited)
        return made

    return queue


class Mapped:
    """A rival's pool by the name that ours has for what it does."""

    def __init__(self, run: Callable[[Callable[[Any], object], Any, int], Iterable[Any]]) -> None:
        """Take what is given a function, items and a chunk size, and gives the results."""
        self._run = run

    def map(
        self, func: Callable[[Any], object], iterable: Iterable[object], *, chunksize: int
    ) -> list[Any]:
        """Return the results of all calls, in the order of the items."""
        return list(self._run(func, iterable, chunksize))


@contextlib.contextmanager
def _mpire(workers: int) -> Iterator[Mapped]:
    package = importlib.import_module("mpire")
    with package.WorkerPool(workers, start_method="forkserver", keep_alive=True) as pool:
        yield Mapped(lambda func, items, size: pool.map(func, items, chunk_size=size))


@contextlib.contextmanager
def _pebble(workers: int) -> Iterator[Mapped]:
    package = importlib.import_module("pebble")
    context = multiprocessing.get_context("forkserver")
    with package.ProcessPool(workers, context=context) as pool:
        yield Mapped(lambda func, items, size: pool.map(func, items, chunksize=size).result())


@contextlib.contextmanager
def _loky(workers: int) -> Iterator[Mapped]:
    """Start processes as it does by itself, which is neither fork nor forkserver."""
    package = importlib.import_module("loky")
    with package.ProcessPoolExecutor(workers) as executor:
        yield Mapped(lambda func, items, size: executor.map(func, items, chunksize=size))


@contextlib.contextmanager
def _joblib(workers: int) -> Iterator[Mapped]:
    """Let arrays above 1 MB be written to files that workers map, as it does by itself."""
    package = importlib.import_module("joblib")
    later = package.delayed

    def run(func: Callable[[Any], object], items: Iterable[object], size: int) -> Iterable[Any]:
        parallel.batch_size = size
        found: list[Any] = parallel(later(func)(item) for item in items)
        return found

    with package.Parallel(workers, backend="loky", batch_size=1) as parallel:
        yield Mapped(run)


MAPPERS = {MPIRE: _mpire, PEBBLE: _pebble, LOKY: _loky, JOBLIB: _joblib}
NAMES = (FASTER_FIFO, *MAPPERS)
