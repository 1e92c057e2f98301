"""What a pool hands out for work that is not done yet: `AsyncResult` and `ImapIterator`."""

from __future__ import annotations

import threading
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freethreading._native import Event, _Results
from freethreading._threads import PoolThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from freethreading._native import _Job

T = TypeVar("T")


class AsyncResult(Generic[T]):
    """The result of a call of a pool that didn't wait for it.

    Matches `multiprocessing.pool.AsyncResult`, and is made by `WorkerPool.apply_async`,
    `map_async` and `starmap_async` only.

    Example:
        >>> from freethreading import WorkerPool
        >>> with WorkerPool(workers=2) as pool:
        ...     result = pool.apply_async(pow, (2, 10))
        ...     result.get(timeout=30)
        1024

    Differences from multiprocessing.pool.AsyncResult:
        - It always ends. When the pool is terminated, or the worker process dies that had the
          task, `get` raises (ValueError, `WorkerDiedError`) instead of waiting for ever.
        - A callback that raises is reported by `threading.excepthook`; the result and the pool
          don't suffer from it.
    """

    def __init__(
        self,
        job: _Job,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        keeper: object = None,
    ) -> None:
        """Stand for a job; callbacks are called before it counts as ended. Keep `keeper` alive."""
        self._job = job
        self._keeper = keeper
        self._called: Event | None = None
        self._callback = callback
        self._error_callback = error_callback
        if callback is not None or error_callback is not None:
            # Ours: in the stdlib's, a Ctrl-C may leave a lock that the collector needs.
            self._called = Event()
            if not job.watch_surely(self._call_back):
                self._call_back_apart()

    def get(self, timeout: float | None = None) -> T:
        """Wait for the end and return the result, or raise the exception that the call ended with.

        Args:
            timeout: The longest wait, in seconds; None waits until the end.

        Returns:
            What the function returned; for maps, the list of it for all items, in their order.

        Raises:
            multiprocessing.TimeoutError: The timeout has passed.
            ValueError: The pool was terminated first.
            WorkerDiedError: The worker process that had the task has died.
            concurrent.futures.BrokenExecutor: The pool's initializer has failed.
        """
        if timeout is not None and not self._wait(timeout):
            message = f"AsyncResult.get: no result within {timeout} s"
            raise PoolTimeoutError(message)
        if self._called is not None:
            self._job.wait(None)
            self._called.wait()
        return self._job.get()  # type: ignore[no-any-return]  # what the function returned

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end, or until `timeout` seconds have passed."""
        self._wait(timeout)

    def _wait(self, timeout: float | None) -> bool:
        if self._called is not None:
            self._job.check_process()
            return self._called.wait(timeout)
        return self._job.wait(timeout)

    def ready(self) -> bool:
        """Return True if the call has ended."""
        if self._called is not None:
            return self._called.is_set()
        return self._job.ready()

    def successful(self) -> bool:
        """Return True if the call has ended without an exception.

        Raises:
            ValueError: It has not ended yet.
        """
        if not self.ready():
            message = "AsyncResult.successful: the call has not ended yet"
            raise ValueError(message)
        return self._job.error() is None

    def __repr__(self) -> str:
        """Say how far it is."""
        state = "waiting" if not self.ready() else "successful" if self.successful() else "failed"
        return f"<freethreading.AsyncResult {state}>"

    def _call_back_apart(self) -> None:
        """Make the callbacks of a call that another thread's end of the pool came before."""
        if self._job.is_abandoned:
            self._call_back()  # which makes none
        else:
            # Not here: the caller may hold a lock that they need.
            PoolThread(self._call_back, name="freethreading-collector").start()

    def _call_back(self) -> None:
        """Make the callbacks, in the collector's thread, and let those go on who wait."""
        job, error = self._job, self._job.error()
        callback, error_callback = self._callback, self._error_callback
        self._callback = self._error_callback = None
        try:
            if job.is_abandoned:
                return
            if error is None:
                _notify(callback, job.get())
            else:
                _notify(error_callback, error)
        finally:
            if self._called is not None:
                self._called.set()


def _notify(callback: Callable[[Any], object] | None, value: object) -> None:
    """Call a callback; report what it raises, as a thread's end would be reported."""
    if callback is None:
        return
    try:
        callback(value)
    except BaseException as error:  # noqa: BLE001 - the thread that brings all results goes on
        details = type(error), error, error.__traceback__, threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs(details))


class Late(Exception):  # noqa: N818 - never seen by users
    """The next result of a job isn't there in time."""


def raised(error: BaseException) -> BaseException:
    """Return what an iterator raises for a task that raised `error`."""
    if isinstance(error, StopIteration):
        # As a generator does: it would end the iteration as if there were no more items.
        wrong = RuntimeError("the task raised StopIteration")
        wrong.__cause__ = error
        return wrong
    return error


class ImapIterator(_Results, Generic[T]):
    """The results of `WorkerPool.imap` or `imap_unordered`, one after the other.

    Matches `multiprocessing.pool.IMapIterator`. An item for which the function raised raises here,
    in its place; the iteration can go on after that.

    Differences from multiprocessing.pool:
        - There is `next` with a timeout for every `chunksize`, not just for 1.
        - Items are taken from the iterable by a thread of this call, and only so many ahead of the
          results that were asked for (see `WorkerPool.imap`); no other call has to wait for a slow
          iterable.
        - A StopIteration that the function raises arrives as a RuntimeError: it would end the
          iteration as if there were no more items.
    """

    if TYPE_CHECKING:
        # The native class has it; here is what it returns.
        def __next__(self) -> T: ...

    def __init__(self, job: _Job, keeper: object, feeder: PoolThread | None = None) -> None:
        """Give the results of a job; `keeper` is kept alive with it, `feeder` sends its items."""
        self._job = job
        self._keeper = keeper
        self._feeder = feeder

    def finish_feeding(self) -> None:
        """Send all items that there still are, however many."""
        self._job.lift_limit()
        if self._feeder is not None:
            self._feeder.join()

    def next(self, timeout: float | None = None) -> T:
        """Wait for the next result and return it, or raise what its task raised.

        Args:
            timeout: The longest wait, in seconds; None waits until the result is there.

        Raises:
            StopIteration: There are no more results.
            multiprocessing.TimeoutError: The timeout has passed.
            ValueError: The item can't be pickled, or the pool was terminated first.
            WorkerDiedError: The worker process that had the task has died.
            concurrent.futures.BrokenExecutor: The pool's initializer has failed.
        """
        try:
            return self._job.next(timeout)  # type: ignore[no-any-return]  # the function's
        except Late:
            message = "ImapIterator.next: no result within the timeout"
            raise PoolTimeoutError(message) from None
