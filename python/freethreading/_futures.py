"""The futures of `WorkerPoolExecutor`: the standard library's to everyone who looks, and cheap.

Most futures are only asked for their result, by the one who has them. So a future asks its job, and
what the standard library's futures consist of (a condition, lists of waiters and callbacks) is made
when somebody wants that: `wait`, `as_completed`, `add_done_callback`, asyncio. From then on the
collector sees to it that the future is set when its job is done.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import (
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from freethreading._crew import Crew
    from freethreading._native import _Job

# Held while a future is made whole. Its holder may be interrupted by a finalizer or signal handler
# that makes another one whole.
_making = threading.RLock()


def _renew_lock() -> None:
    """Have a lock that nobody holds, in a child forked while some thread held it."""
    global _making  # noqa: PLW0603  # as the standard library's own modules do
    _making = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


# Callbacks that are made within callbacks of this thread: how deep, and those that were put off.
_nested = threading.local()
_DEEPEST = 20


class TaskFuture(Future[Any]):
    """The future of a task; see the module."""

    # Whether its callbacks were made, or somebody is at it; made with the rest.
    _is_set: bool
    # Whether the rest is made. (To look into `__dict__` for that would make one.)
    _is_whole = False

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
            # Whoever saw that it is done finds it so afterwards, too.
            is_set = not self._job.watch(self._set)
            if is_set:
                _tell(whole, self._job)
            parts = vars(whole)
            condition = parts.pop("_condition")
            if "_condition" in self.__dict__:
                return  # a finalizer has made it so meanwhile
            self.__dict__.update(parts, _is_set=is_set)
            self.__dict__["_condition"] = condition
            # Last, for by it others see that the rest is there.
            self._is_whole = True
        if not is_set:
            self._crew.collect()

    def _set(self) -> None:
        """Set the future, and make its callbacks, unless somebody does: its job is done."""
        self._finish()
        with self._condition:
            if self._is_set:
                return
            self._is_set = True
        self._invoke_callbacks()

    def _finish(self) -> None:
        """Take over what has become of the job, and tell those who wait; make no callbacks.

        Whoever asks for the result may hold a lock that a callback needs.
        """
        job = self._job
        with self._condition:
            if self._state not in {PENDING, RUNNING}:
                return
            if job.is_cancelled:
                self._state = CANCELLED_AND_NOTIFIED
                tell = "add_cancelled"
            elif (error := job.error()) is not None:
                self._exception = error
                self._state = FINISHED
                tell = "add_exception"
            else:
                self._result = job.get()
                self._state = FINISHED
                tell = "add_result"
            for waiter in self._waiters:
                getattr(waiter, tell)(self)
            self._condition.notify_all()

    def result(self, timeout: float | None = None) -> Any:  # noqa: ANN401  # the task's
        """Return the task's value or raise its exception; see `Future.result`."""
        job = self._job
        if timeout is None and not self._is_whole:
            return job.get()
        # In any case this thread waits for the job itself: it may be the collector, in a callback.
        if not job.wait(timeout):
            raise TimeoutError
        if self._is_whole:
            self._finish()
            return super().result()
        return job.get()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, if it raised one; see `Future.exception`."""
        job = self._job
        if not job.wait(timeout):
            raise TimeoutError
        if self._is_whole:
            self._finish()
            return super().exception()
        if job.is_cancelled:
            raise CancelledError
        return job.error()

    def cancel(self) -> bool:
        """Cancel the task, unless a worker has begun it; see `Future.cancel`."""
        job = self._job
        if not job.ready():
            job.cancel()
        if job.is_cancelled and self._is_whole:
            self._set()
        return job.is_cancelled

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        return self._job.is_cancelled

    def running(self) -> bool:
        """Return whether a worker has begun the task, and isn't done."""
        if self.done():
            return False
        # It may be ready, and nobody have been told yet.
        return self._job.is_running() or self._job.ready()

    def done(self) -> bool:
        """Return whether the task has ended, or was cancelled."""
        is_ready = self._job.ready()
        if is_ready and self._is_whole:
            # Another thread may have made it whole since this one had the result.
            self._finish()
        return is_ready

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Have `fn` called with the future when it is done; see `Future.add_done_callback`."""
        self._make()
        with self._condition:
            if self._state in {PENDING, RUNNING}:
                self._done_callbacks.append(fn)
                return
        _call(fn, self)

    def __repr__(self) -> str:
        """Say how far it is, as the standard library's."""
        if self.done():
            return super().__repr__()
        state = "running" if self.running() else "pending"
        return f"<{type(self).__name__} at {id(self):#x} state={state}>"


def _call(fn: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    """Make a callback of a future that is done.

    A callback may begin the next task, and be called for that at once if it is done by then, and so
    on. From a certain depth on it is put off until the outermost one of them has returned.
    """
    depth: int = getattr(_nested, "depth", 0)
    if depth == _DEEPEST:
        _nested.put_off.append((fn, future))
        return
    if depth == 0:
        _nested.put_off = deque()
    _nested.depth = depth + 1
    try:
        _call_logged(fn, future)
    finally:
        try:
            # Whatever that one raised, the others are made.
            if depth == 0:
                _call_those_put_off()
        finally:
            _nested.depth = depth


def _call_those_put_off() -> None:
    raised: BaseException | None = None
    while _nested.put_off:
        try:
            _call_logged(*_nested.put_off.popleft())
        except BaseException as error:  # noqa: BLE001  # the first one goes on below
            raised = raised or error
    if raised is not None:
        raise raised


def _call_logged(fn: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    try:
        fn(future)
    except Exception:  # noqa: BLE001  # as the standard library does
        LOGGER.exception("exception calling callback for %r", future)


def _tell(future: Future[Any], job: _Job) -> None:
    """Set a future to what has become of a job."""
    if job.is_cancelled:
        Future.cancel(future)
        future.set_running_or_notify_cancel()
    elif (error := job.error()) is not None:
        future.set_exception(error)
    else:
        future.set_result(job.get())


# What a `Future` of the standard library has.
_PARTS = frozenset(vars(Future()))
