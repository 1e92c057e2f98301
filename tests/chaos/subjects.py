"""Whom the scenarios are played with: our package, the standard library, and other packages' pools.

A subject is a way to have tasks done by workers (`Pool`), or a set of primitives with workers that
share them (`Primitives`). Nothing is imported before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]

OURS = "ours"
STDLIB = "stdlib"
OUR_POOL, OUR_EXECUTOR = "WorkerPool", "WorkerPoolExecutor"
STDLIB_POOL, STDLIB_EXECUTOR = "multiprocessing.Pool", "ProcessPoolExecutor"
LOKY, MPIRE, PEBBLE = "loky", "mpire", "pebble"
OUR_POOLS = (OUR_POOL, OUR_EXECUTOR)
POOLS = (*OUR_POOLS, STDLIB_POOL, STDLIB_EXECUTOR, LOKY, MPIRE, PEBBLE)
PACKAGES = (LOKY, MPIRE, PEBBLE)
IS_OURS = (OURS, *OUR_POOLS)


class UnansweredError(Exception):
    """A task has ended neither well nor badly within the time."""


class Pool(Protocol):
    """What all pools can be asked for."""

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        """Begin a task and return its ticket."""

    def result(self, ticket: Any, seconds: float) -> Any:  # noqa: ANN401
        """Return or raise what the task did."""

    def close(self) -> None:
        """Let all tasks end, then the workers."""

    def terminate(self) -> None:
        """End the workers now."""


class WithResults:
    """Pools in the way of `multiprocessing.Pool`: a call has a result with `get`."""

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - of several packages
        self._pool = pool

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        return self._pool.apply_async(func, args, callback=callback)

    def result(self, ticket: Any, seconds: float) -> Any:  # noqa: ANN401
        try:
            return ticket.get(seconds)
        except TimeoutError as error:
            raise UnansweredError from error
        except multiprocessing.TimeoutError as error:
            raise UnansweredError from error

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def terminate(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Mpire(WithResults):
    """Gives a worker its function when it starts it, so all tasks are calls of one."""

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        return self._pool.apply_async(_call, (func, *args), callback=callback)

    def close(self) -> None:
        self._pool.stop_and_join()

    def terminate(self) -> None:
        self._pool.terminate()


def _call(func: Function, *args: object) -> object:
    return func(*args)


class WithFutures:
    """Executors in the way of `concurrent.futures`."""

    def __init__(self, executor: Any) -> None:  # noqa: ANN401 - of several packages
        self._executor = executor

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        future = self._executor.submit(func, *args)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def result(self, ticket: Any, seconds: float) -> Any:  # noqa: ANN401
        try:
            return ticket.result(seconds)
        except TimeoutError as error:
            if ticket.done():
                raise
            raise UnansweredError from error

    def close(self) -> None:
        self._executor.shutdown()

    def terminate(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class Loky(WithFutures):
    """As its documentation says: asked for anew each time, which replaces a broken executor."""

    def __init__(self, workers: int, initializer: Function | None) -> None:
        package: Any = importlib.import_module("loky")
        self._get: Callable[[], Any] = functools.partial(
            package.get_reusable_executor, workers, timeout=None, initializer=initializer
        )
        super().__init__(self._get())

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        self._executor = self._get()
        return super().submit(func, *args, callback=callback)

    def terminate(self) -> None:
        self._executor.shutdown(kill_workers=True)


class Pebble(WithFutures):
    """Its own names for the same."""

    def submit(self, func: Function, *args: object, callback: Function | None = None) -> Any:  # noqa: ANN401
        future = self._executor.schedule(func, args=args)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def close(self) -> None:
        self._executor.close()
        self._executor.join()

    def terminate(self) -> None:
        self._executor.stop()
        self._executor.join()


def pool(name: str, workers: int, initializer: Function | None = None) -> Pool:
    """Make a pool of one of the subjects."""
    return MAKERS[name](workers, initializer)


def _ours(workers: int, initializer: Function | None) -> Pool:
    package = importlib.import_module("freethreading")
    return WithResults(package.WorkerPool(workers, initializer))


def _our_executor(workers: int, initializer: Function | None) -> Pool:
    package = importlib.import_module("freethreading")
    return WithFutures(package.WorkerPoolExecutor(workers, initializer))


def _stdlib(workers: int, initializer: Function | None) -> Pool:
    return WithResults(multiprocessing.get_context("forkserver").Pool(workers, initializer))


def _stdlib_executor(workers: int, initializer: Function | None) -> Pool:
    futures = importlib.import_module("concurrent.futures")
    context = multiprocessing.get_context("forkserver")
    return WithFutures(futures.ProcessPoolExecutor(workers, context, initializer))


def _mpire(workers: int, _initializer: Function | None) -> Pool:
    package = importlib.import_module("mpire")
    return Mpire(package.WorkerPool(workers, start_method="forkserver", keep_alive=True))


def _pebble(workers: int, initializer: Function | None) -> Pool:
    package = importlib.import_module("pebble")
    context = multiprocessing.get_context("forkserver")
    return Pebble(package.ProcessPool(workers, context=context, initializer=initializer))


MAKERS: dict[str, Callable[[int, Function | None], Pool]] = {
    OUR_POOL: _ours,
    OUR_EXECUTOR: _our_executor,
    STDLIB_POOL: _stdlib,
    STDLIB_EXECUTOR: _stdlib_executor,
    LOKY: Loky,
    MPIRE: _mpire,
    PEBBLE: _pebble,
}


class Primitives:
    """The classes of a package, and its workers."""

    def __init__(self, name: str) -> None:
        source: Any
        if name == STDLIB:
            source = multiprocessing.get_context("forkserver")
            self._worker = source.Process
        else:
            source = importlib.import_module("freethreading")
            self._worker = source.Worker
        self._source = source

    def make(self, kind: str, *args: object) -> Any:  # noqa: ANN401 - of any class
        """Make a primitive or a queue."""
        return getattr(self._source, kind)(*args)

    def start(self, target: Function, *args: object, daemon: bool = True) -> Any:  # noqa: ANN401
        """Start a worker."""
        worker = self._worker(target=target, args=args, daemon=daemon)
        worker.start()
        return worker
