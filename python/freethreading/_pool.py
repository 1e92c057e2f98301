"""`WorkerPool`: workers that run many tasks.

Here arguments are checked and results made; `_engine` runs the tasks.
"""

from __future__ import annotations

import enum
import itertools
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from freethreading._arguments import (
    check_callable,
    check_callbacks,
    check_items,
    checked_count,
    checked_initializer,
    checked_keywords,
    checked_positional,
)
from freethreading._engine import make_pool_engine
from freethreading._native import check_arguments, check_picklable, usable_cpus
from freethreading._results import AsyncResult, ImapIterator, Slot, chained, only
from freethreading._tasks import Chunks, Task, in_chunks, run_chunk, run_star_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

S = TypeVar("S")
T = TypeVar("T")

# So many chunks for each worker does a map make by itself: few enough to be cheap, and enough that
# the last one is not long waited for.
_CHUNKS_PER_WORKER = 4
# So many chunks for each worker are taken from an iterable ahead of the results asked for: the
# threads between the caller and the workers then run for several chunks each time they are woken.
_AHEAD_PER_WORKER = 16


class _State(enum.Enum):
    RUNNING = "running"
    CLOSED = "closed"
    TERMINATED = "terminated"


class WorkerPool:
    """A pool of workers: threads or processes, whichever run in parallel here.

    Matches `multiprocessing.pool.Pool` (processes) and `ThreadPool` (threads). Leaving the `with`
    of a pool terminates it.

    Args:
        workers: How many workers, at least 1; None: as many as this process may use CPUs.
        initializer: Called once in each worker before its first task.
        initargs: The positional arguments of `initializer`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: `workers` is less than 1, or `initializer` or one of `initargs` can't be
            pickled (on both backends; the exception that pickling raised is the cause).

    Example:
        >>> from freethreading import WorkerPool
        >>> with WorkerPool(workers=2) as pool:
        ...     pool.map(abs, [-2, -1, 0, 1])
        ...     pool.apply(pow, (2, 5))
        ...     sorted(pool.imap_unordered(len, ["one", "three"]))
        [2, 1, 0, 1]
        32
        [3, 5]

    Functions and arguments that can't be pickled raise ValueError in the call that was given them,
    naming the part. An exception in a task is raised where its result is asked for, with its type,
    arguments and notes; if it comes from a process, a `RemoteTraceback` that names the lines there
    is its cause. What can't be brought back is replaced by a `TaskError`.

    Differences from multiprocessing.pool.Pool:
        - There are no `maxtasksperchild` and `context`; processes are started by forkserver on
          Linux, unless the program has set another start method.
        - When a worker process dies, its pool is broken: calls and results raise
          `concurrent.futures.process.BrokenProcessPool` instead of waiting for ever.
        - When the initializer raises, the worker's tasks raise `concurrent.futures.BrokenExecutor`
          with that as the cause; workers are not replaced for ever.
        - SystemExit, KeyboardInterrupt and the like end the task that raises them, nothing else.
        - Workers ignore SIGINT: Ctrl-C is for the main process to act on.
        - Terminating ends what is still waited for with ValueError.
        - A map of no items calls its callback, too.

    Not yet: a worker process that dies takes the others, and all waiting tasks, with it; a task of
    a pool of processes can't make another one; threads need POSIX semaphores, as processes do.
    """

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
    ) -> None:
        """Start the workers."""
        count = (
            usable_cpus() if workers is None else checked_count("WorkerPool", "workers", workers)
        )
        arguments = checked_initializer("WorkerPool", initializer, initargs)
        task = None if initializer is None else Task(initializer, arguments)
        self._workers = count
        self._iterators: weakref.WeakSet[ImapIterator[Any]] = weakref.WeakSet()
        self._engine = make_pool_engine(count, task)
        self._state = _State.RUNNING

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[object] = (),
        kwds: Mapping[str, object] | None = None,
    ) -> T:
        """Run `func(*args, **kwds)` in a worker, and wait for what it returns.

        As `multiprocessing.pool.Pool.apply`; the exceptions are those of `apply_async` and of
        `AsyncResult.get`.
        """
        return self._apply("WorkerPool.apply", func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[object] = (),
        kwds: Mapping[str, object] | None = None,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Run `func(*args, **kwds)` in a worker, without waiting.

        As `multiprocessing.pool.Pool.apply_async`.

        Args:
            func: A function that can be pickled, such as one at a module's top level.
            args: Its positional arguments.
            kwds: Its keyword arguments.
            callback: Called with the result, in a thread of the pool: it should be quick.
            error_callback: Called there with the exception if there is no result.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: The pool is closed or terminated, or `func` or one of its arguments can't
                be pickled.
            concurrent.futures.process.BrokenProcessPool: A worker process of this pool has died.
        """
        owner = "WorkerPool.apply_async"
        return self._apply(
            owner, func, args, kwds, callback=callback, error_callback=error_callback
        )

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """Return `[func(item) for item in iterable]`, computed by the workers.

        As `multiprocessing.pool.Pool.map`. If the function raises, the exception for one of the
        items is raised when all chunks have ended.

        Args:
            func: A function that can be pickled.
            iterable: The items; all are taken before the first one is sent.
            chunksize: How many items a worker is given at a time, at least 1; None: so many that
                each worker gets about four chunks.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: `chunksize` is less than 1, the pool is closed or terminated, or `func` or
                an item can't be pickled.
            concurrent.futures.BrokenExecutor: A worker process died, or its initializer failed.
        """
        return self._map("WorkerPool.map", run_chunk, func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Do what `map` does, without waiting; see `apply_async` for the callbacks.

        As `multiprocessing.pool.Pool.map_async`. What is wrong with the arguments, the items
        included, is raised here and not by the result.
        """
        owner = "WorkerPool.map_async"
        return self._map(
            owner,
            run_chunk,
            func,
            iterable,
            chunksize,
            callback=callback,
            error_callback=error_callback,
        )

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """Return `[func(*item) for item in iterable]`, computed by the workers; see `map`.

        As `multiprocessing.pool.Pool.starmap`.
        """
        return self._map("WorkerPool.starmap", run_star_chunk, func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Do what `starmap` does, without waiting; see `apply_async` and `map_async`.

        As `multiprocessing.pool.Pool.starmap_async`.
        """
        owner = "WorkerPool.starmap_async"
        return self._map(
            owner,
            run_star_chunk,
            func,
            iterable,
            chunksize,
            callback=callback,
            error_callback=error_callback,
        )

    def imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> ImapIterator[T]:
        """Return an iterator over `func(item)` for the items, in their order; see `ImapIterator`.

        As `multiprocessing.pool.Pool.imap`, but at most 16 chunks for each worker are taken from
        `iterable` ahead of the result that is asked for, so that it may be endless. `join` takes
        all that is left.

        Args:
            func: A function that can be pickled.
            iterable: The items, taken by a thread. What it raises, or ValueError for a chunk with
                an item that can't be pickled, is raised by the iterator in its place.
            chunksize: How many items a worker is given at a time, at least 1.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: `chunksize` is less than 1, the pool is closed or terminated, or `func`
                can't be pickled.
        """
        return self._imap("WorkerPool.imap", func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> ImapIterator[T]:
        """Do what `imap` does, in any order; as `multiprocessing.pool.Pool.imap_unordered`."""
        return self._imap("WorkerPool.imap_unordered", func, iterable, chunksize, ordered=False)

    def close(self) -> None:
        """Take no more calls; workers end when all is done, as by `Pool.close` of the stdlib."""
        if self._state is _State.RUNNING:
            self._state = _State.CLOSED
            self._engine.close()

    def terminate(self) -> None:
        """Stop: what is waited for ends with ValueError, and processes are ended at once.

        As `multiprocessing.pool.Pool.terminate`. Threads can't be ended: they finish their tasks.
        """
        if self._state is not _State.TERMINATED:
            self._state = _State.TERMINATED
            for iterator in list(self._iterators):
                iterator.abandon(ValueError("WorkerPool: the pool was terminated"))
            self._engine.terminate()

    def join(self) -> None:
        """Wait until all workers have ended, as `multiprocessing.pool.Pool.join`.

        Raises:
            ValueError: The pool has been neither closed nor terminated.
        """
        if self._state is _State.RUNNING:
            message = "WorkerPool.join: the pool is running; call close() or terminate() first"
            raise ValueError(message)
        if self._state is _State.CLOSED:
            for iterator in list(self._iterators):
                iterator.finish_feeding()
        self._engine.join()

    def __enter__(self) -> Self:
        """Return the pool itself.

        Raises:
            ValueError: It is closed or terminated.
        """
        self._check_running("WorkerPool.__enter__")
        return self

    def __exit__(self, *_error: object) -> None:
        """Terminate the pool."""
        self.terminate()

    def __repr__(self) -> str:
        """Say how many workers there are, and what may still be done with them."""
        return f"<freethreading.WorkerPool workers={self._workers} {self._state.value}>"

    def _check_running(self, owner: str) -> None:
        """Raise ValueError unless calls are taken."""
        if self._state is not _State.RUNNING:
            message = f"{owner}: the pool is {self._state.value}; make a new one"
            raise ValueError(message)

    def _check_call(self, owner: str, func: object) -> None:
        """Raise unless calls are taken and `func` can be sent."""
        self._check_running(owner)
        check_callable(owner, "func", func)
        check_picklable(owner, "func", func)

    def _apply(
        self,
        owner: str,
        func: Callable[..., T],
        args: Iterable[object],
        kwds: Mapping[str, object] | None,
        *,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Check, and start a single task."""
        self._check_call(owner, func)
        check_callbacks(owner, callback, error_callback)
        positional = checked_positional(owner, "args", args)
        keywords = checked_keywords(owner, "kwds", kwds)
        check_arguments(owner, positional, keywords)
        result = AsyncResult[T](only, callback, error_callback)
        self._engine.start([Task(func, positional, keywords)], result)
        return result

    def _map(
        self,
        owner: str,
        run: Callable[..., list[object]],
        func: Callable[..., T],
        iterable: Iterable[object],
        chunksize: int | None,
        *,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Check, and start a task for each chunk."""
        self._check_call(owner, func)
        check_callbacks(owner, callback, error_callback)
        size = None if chunksize is None else checked_count(owner, "chunksize", chunksize)
        items = list(iterable)
        if size is None:
            size = -(-len(items) // (self._workers * _CHUNKS_PER_WORKER)) or 1
        chunks = Chunks(run, func, items, size)
        for first, chunk in chunks.items():
            check_items(owner, chunk, first)
        result = AsyncResult[list[T]](chained, callback, error_callback)
        if items:
            self._engine.start(chunks, result)
        else:
            result.settle([])
        return result

    def _imap(
        self,
        owner: str,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int,
        *,
        ordered: bool,
    ) -> ImapIterator[T]:
        """Check, and begin to start tasks."""
        self._check_call(owner, func)
        size = checked_count(owner, "chunksize", chunksize)
        chunks = in_chunks(iterable, size)
        firsts = itertools.count(0, size)
        engine = self._engine  # not the pool: it may be dropped before the iterator

        def start(chunk: tuple[S, ...], slot: Slot) -> None:
            check_items(owner, chunk, next(firsts))
            engine.start([Task(run_chunk, (func, chunk))], slot)

        ahead = self._workers * _AHEAD_PER_WORKER
        engine.hold()
        iterator = ImapIterator[T](chunks, start, ahead, engine.release, ordered=ordered)
        self._iterators.add(iterator)
        return iterator
