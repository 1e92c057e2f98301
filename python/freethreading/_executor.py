"""`WorkerPoolExecutor`: the `concurrent.futures` face of the workers.

Here arguments are checked; the native engine sends the tasks, and `_crew` has the workers.
"""

from __future__ import annotations

import itertools
import os
import time
import weakref
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypedDict, TypeVar

from freethreading._arguments import (
    check_callable,
    checked_count,
    checked_initializer,
    kind,
)
from freethreading._backend import get_backend
from freethreading._crew import Crew, ProcessCrew, ThreadCrew
from freethreading._futures import TaskFuture
from freethreading._native import usable_cpus
from freethreading._results import Late
from freethreading._tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext
    from typing import Any, Self, Unpack

    from freethreading._native import _Job

T = TypeVar("T")

# Executors over threads are numbered, as the standard library's are.
_numbers = itertools.count()
# Results one after the other, in order; as the engine numbers it.
_ORDERED = 2


class _Options(TypedDict, total=False):
    """The keywords that only one of the stdlib's executors has."""

    thread_name_prefix: str
    mp_context: BaseContext | None
    max_tasks_per_child: int | None


class WorkerPoolExecutor(Executor):
    """An executor over threads or processes, whichever run in parallel here.

    Matches `concurrent.futures.ThreadPoolExecutor` and `ProcessPoolExecutor`, and its futures are
    `concurrent.futures.Future`s. Leaving its `with` waits for all tasks.

    Args:
        max_workers: How many workers at most, at least 1; None: as many as this process may use
            CPUs. They are started as tasks come.
        initializer: Called once in each worker before its first task. If it raises, the executor
            is broken.
        initargs: The positional arguments of `initializer`.
        kwargs: `thread_name_prefix` (threads only), and `mp_context` and `max_tasks_per_child`
            (processes only); each has no effect on the other backend.

    Raises:
        TypeError: An argument is of the wrong type, or a keyword is unknown.
        ValueError: `max_workers` or `max_tasks_per_child` is less than 1, or `initializer` or one
            of `initargs` can't be pickled (on both backends; the exception that pickling raised is
            the cause).

    Example:
        >>> from freethreading import WorkerPoolExecutor
        >>> with WorkerPoolExecutor(max_workers=2) as executor:
        ...     future = executor.submit(pow, 2, 10)
        ...     list(executor.map(abs, [-1, 2, -3]))
        ...     future.result()
        [1, 2, 3]
        1024

    An exception in a task is the future's, with its type, arguments and notes; if it comes from a
    process, a `RemoteTraceback` that names the lines there is its cause. What can't be brought back
    is replaced by a `TaskError`, on that future alone.

    Differences from concurrent.futures:
        - Functions and arguments that can't be pickled raise ValueError in `submit` itself.
        - `max_workers=None` means the usable CPUs on both backends.
        - `chunksize` of `map` counts on both backends.
        - A shut-down executor can't be entered: RuntimeError.
        - A worker process that dies fails the task that it had in hand, with `WorkerDiedError` (a
          `BrokenProcessPool`); it is replaced, and the executor goes on.
        - Workers that are processes ignore SIGINT: Ctrl-C is for the main process to act on.
        - Tasks may wait for tasks of their own executor (on threads), even if it has one worker.
        - In a child of `os.fork()` the parent's executors raise RuntimeError; new ones work.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
        **kwargs: Unpack[_Options],
    ) -> None:
        """Make an executor; workers start with the first tasks."""
        owner = "WorkerPoolExecutor"
        _check_options(owner, kwargs)
        if max_workers is None:
            max_workers = usable_cpus()
        count = checked_count(owner, "max_workers", max_workers)
        arguments = checked_initializer(owner, initializer, initargs)
        tasks_per_child = kwargs.get("max_tasks_per_child")
        if tasks_per_child is not None:
            tasks_per_child = checked_count(owner, "max_tasks_per_child", tasks_per_child)
        task = None if initializer is None else Task(initializer, arguments)
        self._crew: Crew
        if get_backend() == "threading":
            prefix = kwargs.get("thread_name_prefix") or f"ThreadPoolExecutor-{next(_numbers)}"
            self._crew = ThreadCrew(count, task, waits_at_exit=True, thread_name_prefix=prefix)
        else:
            context = kwargs.get("mp_context")
            if context is None and tasks_per_child is not None:
                context = _replacing_context()
            self._crew = ProcessCrew(
                count,
                task,
                waits_at_exit=True,
                mp_context=context,
                most_tasks=tasks_per_child,
            )
        self._engine = self._crew.engine
        weakref.finalize(self, _dropped, self._crew).atexit = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401 - the task's
        """Have `fn(*args, **kwargs)` run in a worker.

        As `concurrent.futures.Executor.submit`. The keyword arguments may have any names, `fn` and
        `self` among them.

        Args:
            fn: A function that can be pickled, such as one at a module's top level.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            The future of the call.

        Raises:
            TypeError: `fn` can't be called.
            ValueError: `fn` or one of its arguments can't be pickled.
            RuntimeError: The executor is shut down, or broken
                (`concurrent.futures.BrokenExecutor`, a subclass).
        """
        owner = "WorkerPoolExecutor.submit"
        crew = self._crew
        if crew.is_closed:
            self._check_open(owner)
        if not callable(fn):
            check_callable(owner, "fn", fn)  # type: ignore[unreachable]  # not by everybody
        job = self._engine.call(owner, fn, args, kwargs)
        # The future may be dropped: then nobody else lets go of what the task was given.
        if crew.collector is None:
            crew.collect()
        return TaskFuture(job, crew)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Return an iterator over what `map(fn, *iterables)` would give, computed by the workers.

        As `concurrent.futures.Executor.map`: all tasks are submitted before the first result is
        asked for, and those not begun are cancelled when the iteration ends early.

        Args:
            fn: A function that can be pickled.
            iterables: Its arguments: an item of each for every call; the shortest one ends it.
            timeout: How long all results together may take from now on, in seconds; None: for ever.
            chunksize: How many calls are sent to a worker at a time, at least 1.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: `chunksize` is less than 1, or `fn` or an item can't be pickled.
            RuntimeError: The executor is shut down or broken.
            TimeoutError: By the iterator: the timeout has passed.
        """
        owner = "WorkerPoolExecutor.map"
        self._check_open(owner)
        check_callable(owner, "fn", fn)
        size = checked_count(owner, "chunksize", chunksize)
        deadline = None if timeout is None else time.monotonic() + timeout
        items = tuple(zip(*iterables, strict=False))
        job = self._engine.map(owner, fn, items, size, star=True, form=_ORDERED)
        self._crew.collect()
        if job.has_unsent():
            job.urge()
        return _results(job, deadline)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Take no more tasks, and free what the workers need as soon as those that there are end.

        As `concurrent.futures.Executor.shutdown`. Further calls have no effect of their own.

        Args:
            wait: Return only when all tasks have ended and all workers are gone.
            cancel_futures: Cancel the tasks that have not begun.
        """
        self._crew.is_closed = True
        if cancel_futures:
            self._engine.cancel_pending()
        if not wait:
            self._crew.collect()
        self._crew.close()
        if wait:
            self._crew.join("WorkerPoolExecutor.shutdown")

    def __enter__(self) -> Self:
        """Return the executor itself.

        Raises:
            RuntimeError: It is shut down.
        """
        self._check_open("WorkerPoolExecutor.__enter__")
        return self

    def _check_open(self, owner: str) -> None:
        """Raise RuntimeError if no more tasks are taken."""
        if self._crew.is_closed:
            message = f"{owner}: the executor is shut down; make a new one"
            raise RuntimeError(message)


def _check_options(owner: str, options: _Options) -> None:
    """Raise TypeError for keywords that no executor of the stdlib has, and for useless values."""
    known = tuple(_Options.__annotations__)
    for name in options:
        if name not in known:
            message = f"{owner}: unknown keyword {name!r}; there are {', '.join(known)}"
            raise TypeError(message)
    prefix: object = options.get("thread_name_prefix", "")
    if not isinstance(prefix, str):
        message = f"{owner}: thread_name_prefix must be a string, not {kind(prefix)}"
        raise TypeError(message)
    context = options.get("mp_context")
    if context is not None and not callable(getattr(context, "Process", None)):
        message = f"{owner}: mp_context must be a multiprocessing context, not {kind(context)}"
        raise TypeError(message)


def _results(job: _Job, deadline: float | None) -> Iterator[Any]:
    """Yield the results of all tasks; at the end, whatever ended it, cancel what is left."""
    try:
        while True:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                values = [job.next(timeout)]
            except StopIteration:
                return
            except Late:
                raise TimeoutError from None
            yield values.pop()  # keeping nothing of it
    finally:
        job.cancel()


def _replacing_context() -> BaseContext:
    """Return the family's context, or, as the stdlib does, one in which workers can be replaced."""
    from freethreading._bootstrap import process_context  # noqa: PLC0415 - not for threads

    context = process_context()
    if context.get_start_method() == "fork":
        import multiprocessing  # noqa: PLC0415 - as above

        return multiprocessing.get_context("spawn")
    return context


def _dropped(crew: Crew) -> None:
    """Let the workers of an executor end when they have done all that there is."""
    if crew.pid == os.getpid():
        crew.close()
