"""The futures of `WorkerPoolExecutor`: the standard library's to everyone who looks, and cheap.

Most futures are only asked for their result, by the one who has them. So a future asks its job, and
what the standard library's futures consist of (a condition, lists of waiters and callbacks) is made
when somebody wants that: `wait`, `as_completed`, `add_done_callback`, asyncio. From then on the
collector sees to it that the future is set when its job is done.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from freethreading._crew import Crew
    from freethreading._native import _Job

_making = threading.Lock()


class TaskFuture(Future[Any]):
    """The future of a task; see the module."""

    def __init__(self, job: _Job, crew: Crew) -> None:
        """Stand for a job with one task."""
        self._job = job
        self._crew = crew

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a future has
        """Make what the standard library's futures consist of."""
        if name in _PARTS:
            self._make()
            return self.__dict__[name]
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(message)

    def _make(self) -> None:
        with _making:
            if "_condition" in self.__dict__:
                return
            whole: Future[Any] = Future()
            parts = vars(whole)
            # Last, for by it others see that the rest is there.
            condition = parts.pop("_condition")
            self.__dict__.update(parts)
            self.__dict__["_condition"] = condition
        self._crew.collect()
        if not self._job.watch(self._set):
            self._set()

    def _set(self) -> None:
        """Set the future: its job is done."""
        job = self._job
        with self._condition:
            if self._state not in {PENDING, RUNNING}:
                return
            if not job.is_cancelled:
                self._state = RUNNING
        if job.is_cancelled:
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        error = job.error()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(job.get())

    def _is_whole(self) -> bool:
        return "_condition" in self.__dict__

    def result(self, timeout: float | None = None) -> Any:  # noqa: ANN401  # the task's
        """Return the task's value or raise its exception; see `Future.result`."""
        if self._is_whole():
            return super().result(timeout)
        job = self._job
        if timeout is not None and not job.wait(timeout):
            raise TimeoutError
        return job.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, if it raised one; see `Future.exception`."""
        if self._is_whole():
            return super().exception(timeout)
        job = self._job
        if not job.wait(timeout):
            raise TimeoutError
        if job.is_cancelled:
            raise CancelledError
        return job.error()

    def cancel(self) -> bool:
        """Cancel the task, unless a worker has begun it; see `Future.cancel`."""
        if self._job.ready():
            return self._job.is_cancelled
        self._job.cancel()
        return self._job.is_cancelled

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        return self._job.is_cancelled

    def running(self) -> bool:
        """Return whether a worker has begun the task, and isn't done."""
        return self._job.is_running()

    def done(self) -> bool:
        """Return whether the task has ended, or was cancelled."""
        return self._job.ready()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Have `fn` called with the future when it is done; see `Future.add_done_callback`."""
        self._make()
        super().add_done_callback(fn)

    def __repr__(self) -> str:
        """Say how far it is, as the standard library's."""
        if not self._is_whole():
            state = "finished" if self.done() else "running" if self.running() else "pending"
            if self.cancelled():
                state = "cancelled"
            return f"<{type(self).__name__} at {id(self):#x} state={state}>"
        return super().__repr__()


# What a `Future` of the standard library has.
_PARTS = frozenset(vars(Future()))

__all__ = ["CANCELLED_AND_NOTIFIED", "FINISHED", "TaskFuture"]
