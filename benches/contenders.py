"""Who is measured: a name for each, and where primitives, queues, workers and pools come from.

Nothing is imported before it is asked for, so that a process which measures one of them has never
seen another. Here are ours and the standard library; whom else we are compared with, each in the
few rows that name it, is in `rivals.py`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

OURS = "ours"
STDLIB = "stdlib"
FASTER_FIFO = "faster-fifo"
JOBLIB = "joblib"
LOKY = "loky"
MPIRE = "mpire"
PEBBLE = "pebble"


class Lock(Protocol):
    """What all locks and semaphores have in common; `locked` is there from Python 3.14 on."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class Condition(Lock, Protocol):
    """What all conditions have in common."""

    def wait(self) -> bool: ...
    def notify(self) -> None: ...


class Event(Protocol):
    """What all events have in common."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self) -> bool: ...


class Barrier(Protocol):
    """What all barriers have in common."""

    def wait(self) -> int: ...


class Queue(Protocol):
    """What all queues have in common; simple ones carry orders and results, too, untimed."""

    def put(self, item: object, /) -> None: ...
    def get(self) -> Any: ...  # noqa: ANN401 - items are of any type


class Worker(Protocol):
    """What threads and processes have in common."""

    def start(self) -> None: ...
    def join(self) -> None: ...


class MakesWorkers(Protocol):
    """A class of workers."""

    def __call__(
        self, *, target: Callable[..., object], args: tuple[object, ...], daemon: bool
    ) -> Worker: ...


class Mapper(Protocol):
    """What does a function's calls for many items in workers of its own."""

    def map(
        self, func: Callable[[Any], object], iterable: Iterable[object], *, chunksize: int
    ) -> list[Any]: ...


class Pool(Protocol):
    """What the pools of the standard library's kind have in common."""

    def map(
        self,
        func: Callable[[Any], object],
        iterable: Iterable[object],
        chunksize: int | None = None,
    ) -> list[Any]: ...
    def imap_unordered(
        self, func: Callable[[Any], object], iterable: Iterable[object], chunksize: int = 1
    ) -> Iterator[Any]: ...
    def apply(self, func: Callable[..., object], args: Iterable[object]) -> object: ...
    def close(self) -> None: ...
    def join(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


@dataclass(frozen=True)
class Contender:
    """The names of one contender on one backend; `version` is for the record.

    The last three are given how many workers there are to be. A `mapper` is a pool, or as much of
    one as rivals have.
    """

    name: str
    backend: str
    version: str
    lock: Callable[[], Lock]
    rlock: Callable[[], Lock]
    semaphore: Callable[[int], Lock]
    condition: Callable[[], Condition]
    event: Callable[[], Event]
    barrier: Callable[[int], Barrier]
    simple_queue: Callable[[], Queue]
    queue: Callable[[int], Queue]
    worker: MakesWorkers
    mapper: Callable[[int], AbstractContextManager[Mapper]]
    pool: Callable[[int], Pool]
    executor: Callable[[int], Executor]

    @property
    def has_threads(self) -> bool:
        """Whether workers are threads of one process."""
        return self.backend == "threading"


def load(name: str, backend: str) -> Contender:
    """Import a contender."""
    return {OURS: _ours, STDLIB: _stdlib}[name](backend)


def _ours(backend: str) -> Contender:
    package = importlib.import_module("freethreading")
    if package.get_backend() != backend:
        message = f"freethreading uses {package.get_backend()} here, {backend} is asked for"
        raise RuntimeError(message)
    return _from(
        package,
        package,
        OURS,
        backend,
        package.__version__,
        worker=package.Worker,
        pool=package.WorkerPool,
        executor=package.WorkerPoolExecutor,
    )


def _stdlib(backend: str) -> Contender:
    version = platform.python_version()
    if backend == "threading":
        threading = importlib.import_module("threading")
        queues = importlib.import_module("queue")
        return _from(
            threading,
            queues,
            STDLIB,
            backend,
            version,
            worker=threading.Thread,
            pool=_thread_pool,
            executor=_thread_executor,
        )
    context = multiprocessing.get_context("forkserver")
    return _from(
        context,
        context,
        STDLIB,
        backend,
        version,
        worker=context.Process,
        pool=context.Pool,
        executor=_process_executor,
    )


def _thread_pool(workers: int) -> Any:  # noqa: ANN401 - its type is known only once it is imported
    return importlib.import_module("multiprocessing.pool").ThreadPool(workers)


def _thread_executor(workers: int) -> Any:  # noqa: ANN401 - likewise
    return importlib.import_module("concurrent.futures").ThreadPoolExecutor(workers)


def _process_executor(workers: int) -> Any:  # noqa: ANN401 - likewise
    context = multiprocessing.get_context("forkserver")
    futures = importlib.import_module("concurrent.futures")
    return futures.ProcessPoolExecutor(workers, mp_context=context)


def _from(
    source: Any,  # noqa: ANN401 - a module or a context, whose attributes mypy can't see
    queues: Any,  # noqa: ANN401 - likewise
    name: str,
    backend: str,
    version: str,
    *,
    worker: Any,  # noqa: ANN401 - likewise
    pool: Callable[[int], Any],
    executor: Callable[[int], Any],
) -> Contender:
    """Collect the names, which are the same everywhere, but for those of workers and pools."""
    return Contender(
        name,
        backend,
        version,
        source.Lock,
        source.RLock,
        source.Semaphore,
        source.Condition,
        source.Event,
        source.Barrier,
        queues.SimpleQueue,
        queues.Queue,
        worker,
        mapper=pool,
        pool=pool,
        executor=executor,
    )
