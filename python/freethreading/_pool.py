"""`WorkerPool`: workers that run many tasks.

Here arguments are checked and results made; the native engine sends the tasks, and `_crew` has the
workers.
"""

from __future__ import annotations

import enum
import os
import warnings
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from freethreading._arguments import (
    check_callable,
    check_callbacks,
    checked_count,
    checked_initializer,
    checked_keywords,
    checked_positional,
)
from freethreading._backend import get_backend
from freethreading._crew import Crew, ProcessCrew, ThreadCrew
from freethreading._native import usable_cpus
from freethreading._results import AsyncResult, ImapIterator
from freethreading._tasks import Task
from freethreading._threads import PoolThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from freethreading._native import _Job

S = TypeVar("S")
T = TypeVar("T")

# So many chunks for each worker are taken from an iterable ahead of the results asked for, so that
# workers never wait for who asks.
_AHEAD_PER_WORKER = 64
# Iterating over these runs no code of anybody's, so a call takes their items itself.
_PLAIN = (list, tuple, range, str, bytes, dict, set, frozenset)
# What becomes of a job's outcomes; as the engine numbers them.
_LIST, _ORDERED, _UNORDERED = 1, 2, 3


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

    When a worker process dies (killed, out of memory, a crash, `os._exit`), the task that it had in
    hand raises `WorkerDiedError`. Nothing else is lost: the worker is replaced, and all other tasks
    go on. Tasks may use the pool that runs them (on threads), and make pools of their own.

    A large array that many tasks of one call are given is stored once; each task may write to it as
    if it had a copy.

    Differences from multiprocessing.pool.Pool:
        - There are no `maxtasksperchild` and `context`; processes are started by forkserver on
          Linux, unless the program has set another start method.
        - Workers start when there are tasks for them, no more of them than tasks.
        - A worker process that dies costs one task; the stdlib's pool would wait for it for ever.
        - When the initializer raises, the pool is broken: everything raises
          `concurrent.futures.BrokenExecutor` with that as the cause; workers are not replaced for
          ever.
        - SystemExit, KeyboardInterrupt and the like end the task that raises them, nothing else.
        - Workers ignore SIGINT: Ctrl-C is for the main process to act on.
        - Terminating ends what is still waited for with ValueError.
        - A map of no items calls its callback, too.
        - In a child of `os.fork()` the parent's pools raise RuntimeError; new ones work.
    """

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
    ) -> None:
        """Make a pool; workers start with the first tasks."""
        count = (
            usable_cpus() if workers is None else checked_count("WorkerPool", "workers", workers)
        )
        arguments = checked_initializer("WorkerPool", initializer, initargs)
        task = None if initializer is None else Task(initializer, arguments)
        self._workers = count
        self._iterators: weakref.WeakSet[ImapIterator[Any]] = weakref.WeakSet()
        self._crew: Crew
        if get_backend() == "threading":
            self._crew = ThreadCrew(count, task, waits_at_exit=False)
        else:
            self._crew = ProcessCrew(count, task, waits_at_exit=False, is_pool=True)
        self._engine = self._crew.engine
        self._state = _State.RUNNING
        self._finalizer = weakref.finalize(self, _dropped, self._crew, count)
        self._finalizer.atexit = False

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
        return self._apply("WorkerPool.apply", func, args, kwds).get()  # type: ignore[no-any-return]

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
            concurrent.futures.BrokenExecutor: The pool's initializer has failed.
        """
        owner = "WorkerPool.apply_async"
        check_callbacks(owner, callback, error_callback)
        job = self._apply(owner, func, args, kwds)
        self._crew.collect()
        return AsyncResult(job, callback, error_callback, self)

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """Return `[func(item) for item in iterable]`, computed by the workers.

        As `multiprocessing.pool.Pool.map`. If the function raises, the exception for one of the
        items is raised when all chunks have ended.

        Args:
            func: A function that can be pickled.
            iterable: The items; all are taken before the first one is sent.
            chunksize: How many items a worker is given at a time, at least 1; None: one at first,
                to learn how long they take, then as many as take about 0.2 to 20 milliseconds,
                and fewer towards the end, so that no worker is waited for.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: `chunksize` is less than 1, the pool is closed or terminated, or `func` or
                an item can't be pickled.
            WorkerDiedError: The worker process died that had one of the chunks.
            concurrent.futures.BrokenExecutor: The pool's initializer has failed.
        """
        return self._map("WorkerPool.map", func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[T]]:
        """Do what `map` does, without waiting; see `apply_async` for the callbacks.

        As `multiprocessing.pool.Pool.map_async`. What is wrong with the arguments is raised here;
        an item that can't be pickled raises ValueError in `get`, as its task would.
        """
        owner = "WorkerPool.map_async"
        check_callbacks(owner, callback, error_callback)
        job = self._map(owner, func, iterable, chunksize)
        return self._unattended(job, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """Return `[func(*item) for item in iterable]`, computed by the workers; see `map`.

        As `multiprocessing.pool.Pool.starmap`.
        """
        job = self._map("WorkerPool.starmap", func, iterable, chunksize, star=True)
        return job.get()  # type: ignore[no-any-return]

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
        check_callbacks(owner, callback, error_callback)
        job = self._map(owner, func, iterable, chunksize, star=True)
        return self._unattended(job, callback, error_callback)

    def imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> ImapIterator[T]:
        """Return an iterator over `func(item)` for the items, in their order; see `ImapIterator`.

        As `multiprocessing.pool.Pool.imap`, but at most 64 chunks for each worker are taken from
        `iterable` ahead of the result that is asked for, so that it may be endless. (By threads,
        256 of a list, range or the like, where a chunk takes less than 5 microseconds.) `join`
        takes all that is left. An iterator that is dropped takes no more items, and what no worker
        has begun isn't done.

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
        return self._imap("WorkerPool.imap", func, iterable, chunksize, _ORDERED)

    def imap_unordered(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int = 1
    ) -> ImapIterator[T]:
        """Do what `imap` does, in any order; as `multiprocessing.pool.Pool.imap_unordered`."""
        return self._imap("WorkerPool.imap_unordered", func, iterable, chunksize, _UNORDERED)

    def close(self) -> None:
        """Take no more calls; workers end when all is done, as by `Pool.close` of the stdlib."""
        if self._state is _State.RUNNING:
            self._state = _State.CLOSED
            self._finalizer.detach()
            self._crew.collect()
            self._crew.close()

    def terminate(self) -> None:
        """Stop: what is waited for ends with ValueError, and processes are ended at once.

        As `multiprocessing.pool.Pool.terminate`. Threads can't be ended: they finish their tasks.
        """
        if self._state is not _State.TERMINATED:
            self._state = _State.TERMINATED
            self._finalizer.detach()
            message = "WorkerPool: the pool was terminated before the task ended"
            self._crew.terminate(ValueError(message))

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
        self._crew.join("WorkerPool.join")

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

    def _apply(
        self,
        owner: str,
        func: Callable[..., T],
        args: Iterable[object],
        kwds: Mapping[str, object] | None,
    ) -> _Job:
        """Check, and start a single task."""
        self._check_running(owner)
        check_callable(owner, "func", func)
        positional = args if type(args) is tuple else checked_positional(owner, "args", args)
        keywords = {} if kwds is None else checked_keywords(owner, "kwds", kwds)
        return self._engine.call(owner, func, positional, keywords)

    def _map(
        self,
        owner: str,
        func: Callable[..., T],
        iterable: Iterable[object],
        chunksize: int | None,
        *,
        star: bool = False,
    ) -> _Job:
        """Check, and start tasks for all items."""
        self._check_running(owner)
        check_callable(owner, "func", func)
        size = None if chunksize is None else checked_count(owner, "chunksize", chunksize)
        return self._engine.map(owner, func, _fixed(iterable), size, star=star, form=_LIST)

    def _unattended(
        self,
        job: _Job,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[Any]:
        """Return the result of a job that goes on though nobody waits for it."""
        self._crew.collect()
        if job.has_unsent():
            job.urge()
        return AsyncResult(job, callback, error_callback, self)

    def _imap(
        self, owner: str, func: Callable[[S], T], iterable: Iterable[S], chunksize: int, form: int
    ) -> ImapIterator[T]:
        """Check, and begin to start tasks."""
        self._check_running(owner)
        check_callable(owner, "func", func)
        size = checked_count(owner, "chunksize", chunksize)
        ahead = self._workers * _AHEAD_PER_WORKER
        iterator: ImapIterator[T]
        if type(iterable) in _PLAIN:
            job = self._engine.map(
                owner,
                func,
                _fixed(iterable),
                size,
                star=False,
                form=form,
                is_lazy=True,
                ahead=ahead,
            )
            iterator = ImapIterator(job, self)
        else:
            items = iter(iterable)
            job = self._engine.stream(owner, func, form, ahead)
            feeder = PoolThread(job.feeder().run, (items, size), "WorkerPool-imap")
            try:
                feeder.start()
            except BaseException:
                job.cancel()
                raise
            iterator = ImapIterator(job, self, feeder)
        self._crew.collect()
        self._iterators.add(iterator)
        return iterator


def _fixed(iterable: Iterable[object]) -> tuple[object, ...] | range:
    """Return the items as they are now; a range is sent in parts that are ranges, too."""
    return iterable if type(iterable) is range else tuple(iterable)


def _dropped(crew: Crew, workers: int) -> None:
    """End the workers of a pool that nobody has ended."""
    if crew.pid == os.getpid():
        # Before the warning, which raises where warnings are errors.
        crew.drop(ValueError("WorkerPool: the pool was dropped"))
        message = f"unclosed running <freethreading.WorkerPool workers={workers}>"
        warnings.warn(message, ResourceWarning, stacklevel=2)
