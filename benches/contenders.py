"""Who is measured: a name for each, and where its primitives, queues and workers come from.

Nothing is imported before it is asked for, so that a process which measures one of them has never
seen another. A contender that is added needs a function here and an entry in `LOADERS`.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

OURS = "ours"
STDLIB = "stdlib"
FASTER_FIFO = "faster-fifo"
BACKENDS = ("multiprocessing", "threading")


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


@dataclass(frozen=True)
class Contender:
    """The names of one contender on one backend; `version` is for the record."""

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

    @property
    def has_threads(self) -> bool:
        """Whether workers are threads of one process."""
        return self.backend == "threading"


def load(name: str, backend: str) -> Contender:
    """Import a contender."""
    return LOADERS[name](backend)


def _ours(backend: str) -> Contender:
    package = importlib.import_module("freethreading")
    if package.get_backend() != backend:
        message = f"freethreading uses {package.get_backend()} here, {backend} is asked for"
        raise RuntimeError(message)
    return _from(package, package, OURS, backend, package.__version__)


def _stdlib(backend: str) -> Contender:
    version = platform.python_version()
    if backend == "threading":
        threading = importlib.import_module("threading")
        queues = importlib.import_module("queue")
        return _from(threading, queues, STDLIB, backend, version, worker="Thread")
    context = multiprocessing.get_context("forkserver")
    return _from(context, context, STDLIB, backend, version, worker="Process")


def _faster_fifo(backend: str) -> Contender:
    """Take all from the standard library, but for the queue: it has no other."""
    package = importlib.import_module("faster_fifo")
    importlib.import_module("faster_fifo_reduction")  # else its queues can't be sent to a worker
    version = importlib.import_module("importlib.metadata").version("faster-fifo")
    unlimited = 10**9

    def queue(maxsize: int) -> Queue:
        made: Queue = package.Queue(maxsize=maxsize or unlimited)
        return made

    return dataclasses.replace(_stdlib(backend), name=FASTER_FIFO, version=version, queue=queue)


def _from(
    source: Any,  # noqa: ANN401 - a module or a context, whose attributes mypy can't see
    queues: Any,  # noqa: ANN401 - likewise
    name: str,
    backend: str,
    version: str,
    *,
    worker: str = "Worker",
) -> Contender:
    """Collect the names, which are the same everywhere, but for that of the worker."""
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
        getattr(source, worker),
    )


LOADERS: dict[str, Callable[[str], Contender]] = {
    OURS: _ours,
    STDLIB: _stdlib,
    FASTER_FIFO: _faster_fifo,
}
