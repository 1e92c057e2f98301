"""What a pool hands out for work that is not done yet: `AsyncResult` and `ImapIterator`."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections import deque
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freethreading._tasks import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

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
        - It always ends. When the pool is terminated, or a worker process dies, `get` raises
          (ValueError, `concurrent.futures.process.BrokenProcessPool`) instead of waiting for ever.
        - A callback that raises is reported by `threading.excepthook`; the result and the pool
          don't suffer from it.
    """

    def __init__(
        self,
        assemble: Callable[[list[Any]], T],
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        """Make a result of what `assemble` returns for the list of the tasks' values."""
        self._ended = threading.Event()
        self._assemble = assemble
        self._callback = callback
        self._error_callback = error_callback
        self._value: T | None = None
        self._error: BaseException | None = None

    def get(self, timeout: float | None = None) -> T:
        """Wait for the end and return the result, or raise the exception that the call ended with.

        Args:
            timeout: The longest wait, in seconds; None waits until the end.

        Returns:
            What the function returned; for maps, the list of it for all items, in their order.

        Raises:
            multiprocessing.TimeoutError: The timeout has passed.
            ValueError: The pool was terminated first.
            concurrent.futures.BrokenExecutor: A worker process died (`BrokenProcessPool`, a
                subclass), or its initializer failed.
        """
        if not self._ended.wait(timeout):
            message = f"AsyncResult.get: no result within {timeout} s"
            raise PoolTimeoutError(message)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # it is there when there is no error

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end, or until `timeout` seconds have passed."""
        self._ended.wait(timeout)

    def ready(self) -> bool:
        """Return True if the call has ended."""
        return self._ended.is_set()

    def successful(self) -> bool:
        """Return True if the call has ended without an exception.

        Raises:
            ValueError: It has not ended yet.
        """
        if not self.ready():
            message = "AsyncResult.successful: the call has not ended yet"
            raise ValueError(message)
        return self._error is None

    def __repr__(self) -> str:
        """Say how far it is."""
        state = "waiting" if not self.ready() else "successful" if self.successful() else "failed"
        return f"<freethreading.AsyncResult {state}>"

    def settle(self, outcomes: list[Outcome]) -> None:
        """Take the tasks' outcomes; the first error among them is that of the whole."""
        self._error = next((end.error for end in outcomes if end.error is not None), None)
        try:
            if self._error is None:
                self._value = self._assemble([end.value for end in outcomes])
                _notify(self._callback, self._value)
            else:
                _notify(self._error_callback, self._error)
        finally:
            self._finish()

    def abandon(self, error: BaseException) -> None:
        """Take `error` as the end, without calling the callbacks."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        """Wake those who wait, and hold on to the callbacks no longer."""
        self._callback = self._error_callback = None
        self._ended.set()


def only(values: list[T]) -> T:
    """Return the result of a single task."""
    return values[0]


def chained(values: list[list[T]]) -> list[T]:
    """Return the results of all chunks."""
    return list(itertools.chain.from_iterable(values))


def _notify(callback: Callable[[Any], object] | None, value: object) -> None:
    """Call a callback; report what it raises, as a thread's end would be reported."""
    if callback is None:
        return
    try:
        callback(value)
    except BaseException as error:  # noqa: BLE001 - the thread that brings all results goes on
        details = type(error), error, error.__traceback__, threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs(details))


class ImapIterator(Generic[T]):
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

    def __init__(
        self,
        chunks: Iterator[tuple[Any, ...]],
        start: Callable[[tuple[Any, ...], Slot], None],
        ahead: int,
        finished: Callable[[], None],
        *,
        ordered: bool,
    ) -> None:
        """Begin to take chunks, at most `ahead` of the one asked for, and to `start` them.

        `finished` is called when there are no more.
        """
        self._stream = _Stream(ahead, ordered=ordered)
        self._chunk: deque[T] = deque()
        self._feeder = threading.Thread(
            target=_feed,
            args=(self._stream, chunks, start, finished),
            name="WorkerPool-imap",
            daemon=True,
        )
        try:
            self._feeder.start()
        except BaseException:
            finished()
            raise

    def __iter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __next__(self) -> T:
        """Wait for the next result and return it, or raise what its task raised."""
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """Wait for the next result and return it, or raise what its task raised.

        Args:
            timeout: The longest wait, in seconds; None waits until the result is there.

        Raises:
            StopIteration: There are no more results.
            multiprocessing.TimeoutError: The timeout has passed.
            ValueError: The item can't be pickled, or the pool was terminated first.
            concurrent.futures.BrokenExecutor: A worker process died, or its initializer failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(IndexError):
                return self._chunk.popleft()
            outcome = self._stream.take(deadline)
            if outcome is None:
                raise StopIteration
            if isinstance(outcome.error, StopIteration):
                message = "the task raised StopIteration"
                raise RuntimeError(message) from outcome.error  # noqa: TRY004 - as generators do
            if outcome.error is not None:
                raise outcome.error
            self._chunk.extend(outcome.value)  # type: ignore[arg-type]  # a chunk's results

    def finish_feeding(self) -> None:
        """Take all items that there still are, however many, and return when they are taken."""
        self._stream.lift_limit()
        self._feeder.join()

    def abandon(self, error: BaseException) -> None:
        """Take no more items; where they would come, the iteration raises `error`."""
        self._stream.abandon(error)

    def __del__(self) -> None:
        """Let the thread end that takes items nobody can ask for any more."""
        self._stream.stop()


class Slot:
    """The place in a stream that waits for one chunk."""

    def __init__(self, stream: _Stream, index: int) -> None:
        """Stand for chunk number `index`."""
        self._stream = stream
        self._index = index

    def settle(self, outcomes: list[Outcome]) -> None:
        """Take the outcome of the one task that the chunk was."""
        self._stream.put(self._index, outcomes[0])

    def abandon(self, error: BaseException) -> None:
        """Take `error` as the outcome."""
        self._stream.put(self._index, Outcome(None, error))


class _Stream:
    """Between the thread that takes items, the workers, and the one who asks for results.

    Three counts, in chunks: taken <= those with an outcome <= fed. Nothing of the user's runs while
    the lock is held (it can be taken again by a finalizer that interrupts its holder).
    """

    def __init__(self, ahead: int, *, ordered: bool) -> None:
        self._lock = threading.RLock()
        self._may_take = threading.Condition(self._lock)
        self._may_feed = threading.Condition(self._lock)
        self._ahead = ahead
        self._ordered = ordered
        self._outcomes: dict[int, Outcome] = {}
        self._fed = 0
        self._arrived = 0
        self._taken = 0
        self._is_fed_up = False

    def has_room(self) -> bool:
        """Wait until more chunks may be fed, and return True; False: there are to be none.

        Once there is no room it waits until half of it is free, so as not to run for each chunk.
        """
        with self._lock:
            if self._room() <= 0:
                self._may_feed.wait_for(self._is_feeder_wanted)
            return not self._is_fed_up

    def new_slot(self) -> Slot:
        """Return the place for the chunk that is fed next."""
        with self._lock:
            slot = Slot(self, self._fed)
            self._fed += 1
        return slot

    def put(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a chunk."""
        with self._lock:
            self._outcomes[index if self._ordered else self._arrived] = outcome
            self._arrived += 1
            if self._has_next():
                self._may_take.notify_all()

    def take(self, deadline: float | None) -> Outcome | None:
        """Wait for the outcome whose turn it is; None: there are no more."""
        with self._lock:
            timeout = None if deadline is None else deadline - time.monotonic()
            if not self._may_take.wait_for(lambda: self._has_next() or self._is_over(), timeout):
                message = "ImapIterator.next: no result within the timeout"
                raise PoolTimeoutError(message)
            if not self._has_next():
                return None
            outcome = self._outcomes.pop(self._taken)
            self._taken += 1
            if self._is_feeder_wanted():
                self._may_feed.notify_all()
            if self._is_over():
                self._may_take.notify_all()
            return outcome

    def stop(self) -> None:
        """Feed no more: the iterable has ended, or nobody wants its items."""
        with self._lock:
            self._is_fed_up = True
            self._may_feed.notify_all()
            self._may_take.notify_all()

    def abandon(self, error: BaseException) -> None:
        """Feed no more, although there may be more: `error` stands for them."""
        with self._lock:
            if not self._is_fed_up:
                self.new_slot().abandon(error)
                self.stop()

    def lift_limit(self) -> None:
        """Let all that there still is be fed."""
        with self._lock:
            self._ahead = sys.maxsize
            self._may_feed.notify_all()

    def _room(self) -> int:
        return self._ahead - (self._fed - self._taken)

    def _is_feeder_wanted(self) -> bool:
        return self._is_fed_up or self._room() * 2 >= self._ahead

    def _has_next(self) -> bool:
        return self._taken in self._outcomes

    def _is_over(self) -> bool:
        return self._is_fed_up and self._taken == self._fed


def _feed(
    stream: _Stream,
    chunks: Iterator[tuple[Any, ...]],
    start: Callable[[tuple[Any, ...], Slot], None],
    finished: Callable[[], None],
) -> None:
    """Take chunks and start them; what goes wrong with one is its outcome."""
    while stream.has_room():
        try:
            chunk = next(chunks, ())
        except BaseException as error:  # noqa: BLE001 - the iterable's; it arrives in its place
            stream.new_slot().abandon(error)
            break
        if not chunk:
            break
        slot = stream.new_slot()
        try:
            start(chunk, slot)
        except ValueError as error:  # an item that can't be pickled, or a pool that is terminated
            slot.abandon(error)
        except BaseException as error:  # noqa: BLE001 - a broken pool, or an item's own pickling
            slot.abandon(error)
            break
    stream.stop()
    finished()
