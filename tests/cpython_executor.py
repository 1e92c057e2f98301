"""WorkerPoolExecutor as CPython's `test.test_concurrent_futures` uses one.

Shared by `test_cpython_executors` and `test_cpython_futures`. What the suites look at in the
stdlib's executors is here, outside ours; and what they are given by multiprocessing is our own.
"""

# ruff: noqa: SLF001 - the suites look at private attributes, which ours has elsewhere

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import freethreading
from cpython_suites import preload, suite
from freethreading import WorkerPoolExecutor
from freethreading._tasks import RemoteTraceback
from support import wait_until
from test_worker import DEADLINE, PROCESSES

if TYPE_CHECKING:
    from collections.abc import Callable

# One module before 3.12, a package since.
package: Any = suite("test_concurrent_futures")


def part(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Return the module that has a part of the suites."""
    is_package = hasattr(package, "__path__")
    module = f"test_concurrent_futures.{name}" if is_package else "test_concurrent_futures"
    if PROCESSES:
        preload(f"test.{module}")
    return suite(module)


class Context(multiprocessing.context.ForkServerContext):
    """The context of our processes, with primitives that can be pickled."""

    def Manager(self) -> Any:  # noqa: ANN401, N802 - multiprocessing's name
        """Return our primitives: they are shared without a manager."""
        names = vars(freethreading)
        return SimpleNamespace(**names, shutdown=lambda: None, join=lambda: None)

    def Queue(self, maxsize: int = 0) -> Any:  # noqa: ANN401, N802 - multiprocessing's name
        return freethreading.Queue(maxsize)

    def Semaphore(self, value: int = 1) -> Any:  # noqa: ANN401, N802 - multiprocessing's name
        return freethreading.Semaphore(value)


class Process:
    """A worker process, seen from outside: its object is the pool's alone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def join(self) -> None:
        wait_until(lambda: not self.is_alive(), "the worker has ended", DEADLINE)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


class Processes(dict[int, Process]):
    """All that were started; as many as are alive."""

    def __len__(self) -> int:
        return sum(process.is_alive() for process in self.values())


class Local:
    """A call of a test's local function, in a thread: it need not be pickled, just picklable."""

    def __init__(self, function: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self.call = function, args, kwargs

    def __call__(self, *more: object) -> object:
        function, args, kwargs = self.call
        return function(*args, *more, **kwargs)

    def __reduce__(self) -> tuple[type[Local], tuple[type]]:
        return Local, (int,)


def is_local(function: Callable[..., Any]) -> bool:
    return not PROCESSES and "<locals>" in getattr(function, "__qualname__", "")


class Executor(WorkerPoolExecutor):
    """Ours, with what the suites look at in the stdlib's."""

    _call_queue = SimpleNamespace(join_thread=lambda: None)

    def __init__(self, max_workers: int | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - theirs
        super().__init__(max_workers, **kwargs)
        self._max_workers = max_workers
        self._processes, self._threads = processes, threads = Processes(), set[threading.Thread]()
        start = self._crew._start

        def start_and_note(link: Any) -> Any:  # noqa: ANN401 - a thread or a process
            worker = start(link)
            if PROCESSES:
                processes[worker.pid] = Process(worker.pid)
            else:
                threads.add(worker)
            return worker

        self._crew._start = start_and_note  # type: ignore[method-assign]

    @property
    def _broken(self) -> BaseException | None:
        return self._engine.broken()

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:
        return self._crew.collector

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - theirs
        if is_local(fn):
            return super().submit(Local(fn, *args, **kwargs))
        return super().submit(fn, *args, **kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - theirs
        return super().map(Local(fn) if is_local(fn) else fn, *iterables, **kwargs)


# What the suites ask for executors.
FUTURES = SimpleNamespace(**vars(concurrent.futures))
FUTURES.process = SimpleNamespace(_RemoteTraceback=RemoteTraceback)
FUTURES.ThreadPoolExecutor = Executor
FUTURES.ProcessPoolExecutor = Executor if PROCESSES else concurrent.futures.ProcessPoolExecutor
