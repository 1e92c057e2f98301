"""The engines under `WorkerPool` and `WorkerPoolExecutor`: for now, those of the stdlib.

The front ends check arguments and make the results that callers hold; an engine takes tasks to
workers and outcomes back. `make_pool_engine` and `make_executor_engine` are the only places that
know whether the workers are threads or processes.

A pool engine ends each job that it was given exactly once: it settles it with the outcomes of its
tasks, or, when the pool is terminated first, abandons it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool, ThreadPool
from typing import TYPE_CHECKING, Any, Protocol, cast

from freethreading._backend import get_backend, warn_if_gil_returned
from freethreading._bootstrap import Ticket, process_context
from freethreading._process_pool import ProcessPool
from freethreading._tasks import (
    Outcome,
    Task,
    keep_failure,
    run,
    run_and_pack,
    start_process,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import BaseContext


class Job(Protocol):
    """What waits for the outcomes of the tasks that were started together."""

    def settle(self, outcomes: list[Outcome]) -> None:
        """Take the outcomes, in the order of the tasks, or a single one that is an error."""

    def abandon(self, error: BaseException) -> None:
        """Take `error` as the end of it all, and call nobody's callbacks: the pool is going."""


class Tasks(Protocol):
    """As many tasks as `len` says."""

    def __len__(self) -> int:
        """Return the number of tasks."""

    def __iter__(self) -> Iterator[Task]:
        """Return the tasks, one after the other."""


class PoolEngine:
    """Runs jobs on one of the stdlib's pools."""

    def __init__(self, pool: Pool, runner: Callable[..., object], jobs: _Jobs) -> None:
        """Take over `pool`; `runner` is what its workers run each task with."""
        self._pool = pool
        self._runner = runner
        self._jobs = jobs
        self._changed = threading.Condition()
        self._holders = 0
        self._is_closing = False
        self._is_terminated = False

    def start(self, tasks: Tasks, job: Job) -> None:
        """Have the tasks (at least one) run; `job` is told of their outcomes, once.

        The tasks are iterated and sent by another thread, and kept until the job has ended: what
        they refer to must live until it has arrived.
        """
        number = self._jobs.add(job, tasks)
        try:
            self._pool.map_async(
                self._runner,
                tasks,
                1,
                callback=partial(self._jobs.settle, number),
                error_callback=partial(self._jobs.settle_error, number),
            )
        except BaseException:
            self._jobs.forget(number)
            raise

    def hold(self) -> None:
        """Have jobs taken, even when closed, until `release` has been called as often as this."""
        with self._changed:
            self._holders += 1

    def release(self) -> None:
        """End what `hold` began."""
        with self._changed:
            self._holders -= 1
            self._changed.notify_all()
            self._close_if_free()

    def close(self) -> None:
        """Take no more jobs; workers end when they have run all that there are."""
        with self._changed:
            self._is_closing = True
            self._close_if_free()

    def terminate(self) -> None:
        """Abandon all jobs and stop all workers (a thread can't be stopped: it ends its task)."""
        with self._changed:
            self._is_terminated = True
            self._changed.notify_all()
        self._jobs.abandon_all()
        self._pool.terminate()
        self._jobs.abandon_all()  # those that another thread started meanwhile

    def join(self) -> None:
        """Wait until all workers have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_terminated or not self._holders)
        self._pool.join()

    def _close_if_free(self) -> None:
        if self._is_closing and not self._holders:
            self._pool.close()


class _Jobs:
    """The jobs whose end is still awaited."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Job, Tasks]] = {}
        self._broken: str | None = None

    def add(self, job: Job, tasks: Tasks) -> int:
        """Register a job and return its number."""
        with self._lock:
            if self._broken is not None:
                raise BrokenProcessPool(self._broken)
            number = next(self._numbers)
            self._waiting[number] = job, tasks
        return number

    def forget(self, number: int) -> None:
        """Drop a job that could not be started."""
        self._waiting.pop(number, None)

    def settle(self, number: int, outcomes: list[Outcome]) -> None:
        """End a job, unless it has been ended already."""
        job, _ = self._waiting.pop(number, (None, None))
        if job is not None:
            job.settle(outcomes)

    def settle_error(self, number: int, error: BaseException) -> None:
        """End a job of which a task could not be sent."""
        self.settle(number, [Outcome(None, error)])

    def break_all(self, reason: str) -> None:
        """End all jobs with an error that gives the reason, as every later one."""
        message = f"WorkerPool: {reason}; the pool is broken, make a new one"
        with self._lock:
            self._broken = message
        for number in list(self._waiting):
            self.settle(number, [Outcome(None, BrokenProcessPool(message))])

    def abandon_all(self) -> None:
        """Abandon all jobs."""
        for number in list(self._waiting):
            job, _ = self._waiting.pop(number, (None, None))
            if job is not None:
                job.abandon(ValueError("WorkerPool: the pool was terminated before the task ended"))


def make_pool_engine(workers: int, initializer: Task | None) -> PoolEngine:
    """Start a pool of the active backend."""
    warn_if_gil_returned()
    jobs = _Jobs()
    if get_backend() == "threading":
        at_start = (None, ()) if initializer is None else (keep_failure, (initializer,))
        return PoolEngine(ThreadPool(workers, *at_start), run, jobs)
    start = keep_failure, start_process, Ticket(), initializer
    pool = ProcessPool(workers, process_context(), jobs.break_all, *start)
    return PoolEngine(pool, run_and_pack, jobs)


@dataclass(frozen=True)
class ExecutorOptions:
    """What an executor was asked for; each engine takes what applies to it."""

    max_workers: int
    initializer: Task | None
    thread_name_prefix: str
    mp_context: BaseContext | None
    max_tasks_per_child: int | None


class ExecutorEngine(Protocol):
    """Runs single tasks and returns futures."""

    def start(self, task: Task) -> Future[Any]:
        """Have the task run."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; see `concurrent.futures.Executor.shutdown`."""


class _ThreadEngine(ThreadPoolExecutor):
    """The stdlib's executor over threads, as an engine."""

    def __init__(self, options: ExecutorOptions) -> None:
        """Take what applies to threads."""
        super().__init__(options.max_workers, options.thread_name_prefix, options.initializer)

    def start(self, task: Task) -> Future[Any]:
        """Have the task run."""
        return self.submit(task)


class _ProcessEngine(ProcessPoolExecutor):
    """The stdlib's executor over processes, as an engine."""

    def __init__(self, options: ExecutorOptions) -> None:
        """Take what applies to processes."""
        super().__init__(
            options.max_workers,
            options.mp_context or _executor_context(options.max_tasks_per_child),
            start_process,
            (Ticket(), options.initializer),
            max_tasks_per_child=options.max_tasks_per_child,
        )
        self._leaving: threading.Thread | None = None
        self._cancels = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; a later call can still cancel, or wait, as it can with threads.

        (To the stdlib's, only what was said in the first call, or the last one, counts.)
        """
        self._leaving = self._leaving or cast("Any", self)._executor_manager_thread  # noqa: SLF001
        self._cancels = self._cancels or cancel_futures
        super().shutdown(wait, cancel_futures=self._cancels)
        if wait and self._leaving is not None:
            self._leaving.join()
            self._leaving = None

    def start(self, task: Task) -> Future[Any]:
        """Have the task run."""
        future: Future[Any] = self.submit(run_and_pack, task)
        # The stdlib makes the future. Nobody else has it yet, so nobody can look at it too early.
        future.__class__ = _TaskFuture
        return future


class _TaskFuture(Future[Any]):
    """A future that is given an Outcome for its result, and makes of it what it stands for."""

    def set_result(self, result: Outcome) -> None:
        """Take the task's value or its exception."""
        if result.error is not None:
            self.set_exception(result.error)
        else:
            super().set_result(result.value)

    # An Outcome that arrived before the future became one of these lies there unopened.

    def result(self, timeout: float | None = None) -> object:
        """Return the task's value or raise its exception; see `Future.result`."""
        value: object = super().result(timeout)
        return value.get() if isinstance(value, Outcome) else value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, if it raised one; see `Future.exception`."""
        error = super().exception(timeout)
        if error is None:
            value: object = super().result(timeout)
            return value.error if isinstance(value, Outcome) else None
        return error


def _executor_context(max_tasks_per_child: int | None) -> BaseContext:
    """Return the family's context, or, as the stdlib does, one in which workers can be replaced."""
    context = process_context()
    if max_tasks_per_child is not None and context.get_start_method() == "fork":
        return multiprocessing.get_context("spawn")
    return context


def make_executor_engine(options: ExecutorOptions) -> ExecutorEngine:
    """Make an executor of the active backend; its workers start as tasks come."""
    warn_if_gil_returned()
    if get_backend() == "threading":
        return _ThreadEngine(options)
    return _ProcessEngine(options)
