"""The stdlib's pool of processes, with a remedy for what it can't stand: the death of a worker.

The stdlib's pool replaces a worker that died, but neither fails the task that it had nor minds that
it may have held a lock, or half a message, that all others need: they wait for ever, and so does
whoever terminates the pool. Here a death ends the whole pool at once, in good order. This rests on
some private parts of `multiprocessing.pool`, the same from Python 3.11 to 3.14; it goes when the
pool has an engine of its own.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from multiprocessing.pool import TERMINATE, Pool
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from multiprocessing.process import BaseProcess

# A thread of ours has let go of a pipe's lock by then: it only writes a few bytes.
_SECONDS_TO_RELEASE = 0.1
# A worker that has not ended by then has a handler for SIGTERM, or is stopped.
_SECONDS_TO_END = 1.0


class ProcessPool(Pool):
    """The stdlib's pool of processes, which can also be terminated when a worker has died."""

    def __init__(
        self,
        workers: int,
        context: BaseContext,
        on_death: Callable[[str], None],
        *initializer: Any,  # noqa: ANN401 - a function and its arguments
    ) -> None:
        """Start the workers.

        When one dies, `on_death` is told how, by another thread. All workers are dead then, and no
        task is run any more.
        """
        watched: Any = _WatchedContext(context, workers, on_death)
        super().__init__(workers, initializer[0], initializer[1:], context=watched)

    @classmethod
    def _terminate_pool(cls, *parts: Any) -> None:  # noqa: ANN401 - the stdlib's own affair
        """Terminate a pool, given the parts that it consists of (it may be garbage itself).

        The stdlib first asks its workers to end, which waits for ever for a lock or the rest of a
        message if one of them is dead. Here they are ended before that.
        """
        _, inqueue, outqueue, workers, notifier, worker_handler, *_, cache = parts
        worker_handler._state = TERMINATE  # noqa: SLF001
        notifier.put(None)
        if threading.current_thread() is not worker_handler:
            worker_handler.join()  # it replaces workers, or is finding out that one is dead
        _end(workers)
        _part_from_workers(inqueue, outqueue)
        cache.clear()
        super()._terminate_pool(*parts)  # type: ignore[misc]  # not public


class _WatchedContext:
    """A multiprocessing context for one pool, through which it is noticed that a worker died.

    The stdlib's pool asks its context for as many processes as it is to have, and for another one
    only when it has found one dead. It does so in a thread that it keeps for this, which waits for
    its workers' ends.
    """

    def __init__(self, context: BaseContext, workers: int, on_death: Callable[[str], None]) -> None:
        self._context = context
        self._to_start = workers
        self._on_death = on_death
        self._workers: list[BaseProcess] = []
        self.SimpleQueue = context.SimpleQueue

    def Process(  # noqa: N802 - a context's method
        self,
        *args: Any,  # noqa: ANN401 - whatever the pool gives a Process
        **kwargs: Any,  # noqa: ANN401 - the same
    ) -> BaseProcess | _NoWorker:
        """Make a worker, or break the pool."""
        if self._to_start > 0:
            self._to_start -= 1
            worker: BaseProcess = cast("Any", self._context).Process(*args, **kwargs)
            self._workers.append(worker)
            return worker
        if self._workers:
            self._break()
        return _NoWorker()

    def _break(self) -> None:
        """End the other workers, and tell what happened."""
        workers, self._workers = self._workers, []
        dead = next((worker for worker in workers if worker.exitcode is not None), None)
        for worker in workers:
            worker.kill()
            worker.join()
        self._on_death(_describe_end(dead))


class _NoWorker:
    """What a broken pool gets for a new worker: it never starts, ends, or needs replacing."""

    name = "Process"
    daemon = True
    exitcode = None
    pid = None

    def start(self, _timeout: float | None = None) -> None:
        """Do nothing, as all methods here."""

    terminate = kill = join = start

    def is_alive(self) -> bool:
        """Return False."""
        return False


def _describe_end(worker: BaseProcess | None) -> str:
    """Say how a worker that died ended."""
    if worker is None:
        return "a worker process died"
    code = worker.exitcode or 0
    how = (
        f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    )
    return f"a worker process (pid {worker.pid}) {how} while the pool was running"


def _end(workers: list[BaseProcess | _NoWorker]) -> None:
    """Terminate the workers, and kill those who won't have it."""
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()


def _part_from_workers(inqueue: Any, outqueue: Any) -> None:  # noqa: ANN401 - of private parts
    """Let the threads of a pool end, although its workers died with a lock or half a message.

    The thread that sends tasks gets an error for each, the one that receives results the end of the
    file, and what is still to be said to the workers goes into pipes that nobody reads.
    """
    read_lock, write_lock = inqueue._rlock, outqueue._wlock  # noqa: SLF001
    if write_lock is not None:  # there is none on Windows
        write_lock.acquire(True, _SECONDS_TO_RELEASE)
    for queue, end in (inqueue, "_reader"), (outqueue, "_writer"):
        getattr(queue, end).close()
        queue._reader, queue._writer = multiprocessing.Pipe(duplex=False)  # noqa: SLF001
    if write_lock is not None:
        write_lock.release()
    read_lock.acquire(False)
    read_lock.release()
