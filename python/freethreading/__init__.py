"""True parallelism under one set of names, on every CPython.

Workers are threads where the interpreter is free-threaded and processes where it has a GIL; the
names and behaviour are those of `threading`, `multiprocessing`, `queue` and
`concurrent.futures`. `get_backend()` says which it is.
"""

from freethreading._backend import get_backend
from freethreading._errors import OwnerDiedError
from freethreading._functions import (
    active_children,
    active_count,
    current_worker,
    enumerate,
    get_ident,
)
from freethreading._native import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
)
from freethreading._native import (
    __version__ as __version__,
)

# What `typing` calls so; importing it would double the time that importing this package takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from freethreading._died import WorkerDiedError
    from freethreading._executor import WorkerPoolExecutor
    from freethreading._pool import WorkerPool
    from freethreading._worker import Worker

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "OwnerDiedError",
    "Queue",
    "RLock",
    "Semaphore",
    "SimpleQueue",
    "Worker",
    "WorkerDiedError",
    "WorkerPool",
    "WorkerPoolExecutor",
    "active_children",
    "active_count",
    "current_worker",
    "enumerate",
    "get_backend",
    "get_ident",
]

# What needs multiprocessing or concurrent.futures is imported when it is first asked for.
_LAZY = {
    "Worker": "freethreading._worker",
    "WorkerDiedError": "freethreading._died",
    "WorkerPool": "freethreading._pool",
    "WorkerPoolExecutor": "freethreading._executor",
}


def __getattr__(name: str) -> object:
    """Import one of the lazy names."""
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module  # noqa: PLC0415  # costs nothing until it is needed

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names with the others."""
    return sorted(set(globals()) | set(__all__))
