"""CPython's `test.test_concurrent_futures` for WorkerPoolExecutor.

On the threading backend those of its tests that are for ThreadPoolExecutor are run, else those for
ProcessPoolExecutor, with forkserver. Overridden is what our API has otherwise: each test says in
its docstring what. What is left out is in `cpython_suites`. Not bound is the test that the resource
tracker has lost nothing, for ours doesn't use it. `test_cpython_futures` has the tests of futures.
"""

# ruff: noqa: SLF001 - the suites look at private attributes, and so do the tests in their place

from __future__ import annotations

import contextlib
import traceback
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import pytest

import freethreading
from cpython_executor import FUTURES, Context, Executor, part
from cpython_suites import bound, check, run_with_ours
from freethreading import Event, _crew
from freethreading._errors import TaskError
from support import wait_until
from test_worker import DEADLINE, PROCESSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

util: Any = part("util")
as_completed: Any = part("test_as_completed")
deadlock: Any = part("test_deadlock")
init: Any = part("test_init")
process_pool: Any = part("test_process_pool")
shutdown: Any = part("test_shutdown")
thread_pool: Any = part("test_thread_pool")
wait: Any = part("test_wait")


class Ours(util.ExecutorMixin, util.BaseTestCase):  # type: ignore[misc]
    """What the suites use."""

    executor: Executor
    executor_type = Executor
    if PROCESSES:
        ctx = "forkserver"

    @pytest.fixture(autouse=True)
    def _ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have tests that ask `concurrent.futures` ask us, in programs that they run, too."""
        for module in {process_pool, shutdown, thread_pool}:
            monkeypatch.setattr(module, "futures", FUTURES)
        run_with_ours(monkeypatch, shutdown)

    def get_context(self) -> Context:
        return Context()

    def create_event(self) -> Event:
        return Event()


@bound
class TestWait(Ours, wait.WaitTests if PROCESSES else wait.ThreadPoolWaitTests):  # type: ignore[misc]
    """`wait`."""


@bound
class TestAsCompleted(Ours, as_completed.AsCompletedTests):  # type: ignore[misc]
    """`as_completed`."""


@bound
class TestInitializer(Ours, init.InitializerMixin):  # type: ignore[misc]
    """An initializer that works."""


@bound
class TestFailingInitializer(Ours, init.FailingInitializerMixin):  # type: ignore[misc]
    @contextlib.contextmanager
    def _assert_logged(self, msg: str) -> Iterator[None]:
        """Require it as the cause of what every call raises: it isn't logged."""
        yield
        with pytest.raises(BrokenExecutor) as caught:
            self.executor.submit(int)
        assert msg in "".join(traceback.format_exception(caught.value))


class _Executor:
    def test_max_workers_negative(self) -> None:
        """The message is our own."""
        for number in (0, -1):
            with pytest.raises(ValueError, match="max_workers must be at least 1"):
                Executor(number)


@bound
class TestThreadExecutor(_Executor, Ours, thread_pool.ThreadPoolExecutorTest):  # type: ignore[misc]
    __test__ = not PROCESSES

    def test_hang_global_shutdown_lock(self) -> None:
        """Ten forks instead of fifty, which would take 10 s."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thread_pool, "range", lambda _: range(10), raising=False)
            super().test_hang_global_shutdown_lock()


@bound
class TestProcessExecutor(_Executor, Ours, process_pool.ProcessPoolExecutorTest):  # type: ignore[misc]
    __test__ = PROCESSES

    def test_killed_child(self) -> None:
        """Only the task of the killed worker fails; the executor goes on."""
        future = self.executor.submit(Event().wait)
        wait_until(future.running, "the task has begun")
        next(iter(self.executor._processes.values())).terminate()
        with pytest.raises(BrokenProcessPool, match="SIGTERM"):
            future.result()
        assert self.executor.submit(pow, 2, 8).result() == 256

    def test_broken_process_pool_traceback(self) -> None:
        """All workers are killed, as one takes only its own task along."""
        event = self.create_event()
        futures = [self.executor.submit(event.wait) for _ in range(3)]
        for future in futures:
            wait_until(future.running, "the task has begun")
        for process in self.executor._processes.values():
            process.terminate()
        for future in futures:
            with pytest.raises(BrokenProcessPool) as caught:
                future.result()
            frames = traceback.extract_tb(caught.value.__traceback__)
            assert [frame.filename for frame in frames].count(__file__) == 1

    def _run_stranded_worker_exit_test(self, *, shutdown: bool, drop_reference: bool) -> None:
        """Run all tasks, in new workers, though the executor is gone: the suite expects errors."""
        started, gate = freethreading.Queue[int](), Event()
        executor = Executor(1, mp_context=Context(), max_tasks_per_child=1)
        run = process_pool._report_wait_return
        futures = [executor.submit(run, started, gate, number) for number in range(3)]
        collector = executor._executor_manager_thread
        assert started.get(timeout=DEADLINE) == 0
        if shutdown:
            executor.shutdown(wait=False)
        if drop_reference:
            del executor
        gate.set()
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2]
        assert collector is not None
        collector.join()

    def test_failed_worker_replacement_breaks_pool(self) -> None:
        """It is our own start of workers that fails, and for a while, which is none here."""
        gate = Event()
        executor = Executor(1, mp_context=Context(), max_tasks_per_child=1)
        futures = [executor.submit(gate.wait), executor.submit(int)]
        wait_until(futures[0].running, "the task has begun")

        def fail(_link: object) -> None:
            message = "spawn failed"
            raise OSError(message)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(executor._crew, "_start", fail)
            patch.setattr(_crew, "_NO_START", 0.0)
            gate.set()
            assert futures[0].result(DEADLINE) is True
            with pytest.raises(BrokenProcessPool, match="no worker can be started"):
                futures[1].result(DEADLINE)
            with pytest.raises(BrokenProcessPool, match="no worker can be started"):
                executor.submit(int)
            executor.shutdown()


class _Shutdown:
    def assertIn(self, member: str, container: str, msg: object = None) -> None:  # noqa: N802
        """Allow for the words with which we refuse tasks."""
        if member == "RuntimeError: cannot schedule new futures":
            member = "RuntimeError: WorkerPoolExecutor.submit: the executor is shut down"
        assert member in container, msg

    def test_cancel_futures(self) -> None:
        """A worker has begun, as ours cancels all that none has: the stdlib's has some in stock."""
        executor, event = Executor(5), Event()
        futures = [executor.submit(event.wait) for _ in range(50)]
        wait_until(futures[0].running, "the first task has begun")
        executor.shutdown(wait=False, cancel_futures=True)
        event.set()
        executor.shutdown()
        cancelled = [future for future in futures if future.cancelled()]
        assert len(cancelled) >= 45
        assert all(future.result() is True for future in futures if future not in cancelled)


@bound
class TestThreadShutdown(_Shutdown, Ours, shutdown.ThreadPoolShutdownTest):  # type: ignore[misc]
    __test__ = not PROCESSES


@bound
class TestProcessShutdown(_Shutdown, Ours, shutdown.ProcessPoolShutdownTest):  # type: ignore[misc]
    __test__ = PROCESSES

    def test_processes_terminate(self) -> None:
        """The function is a module's: a local one can't be pickled."""
        semaphore = freethreading.Semaphore(0)
        for _ in range(3):
            self.executor.submit(semaphore.acquire)
        assert len(self.executor._processes) == 3
        for _ in range(3):
            semaphore.release()
        self.executor.shutdown()
        for process in self.executor._processes.values():
            process.join()


# Where a task fails by itself, what with, instead of with BrokenProcessPool. What can't be brought
# back has a stand-in; what can't be sent is an error of the call.
INSTEAD = {
    "test_error_at_task_pickle": ValueError,
    "test_error_at_task_unpickle": UnpicklingError,
    "test_error_during_result_pickle_on_worker": TaskError,
    "test_error_during_result_unpickle_in_result_handler": TaskError,
    "test_exit_at_task_unpickle": SystemExit,
    "test_exit_during_result_pickle_on_worker": TaskError,
    "test_exit_during_result_unpickle_in_result_handler": TaskError,
}


@bound
class TestDeadlock(Ours, deadlock.ExecutorDeadlockTest):  # type: ignore[misc]
    __test__ = PROCESSES

    def _check_error(
        self,
        error: type[BaseException],
        func: Callable[..., Any],
        *args: object,
        ignore_stderr: bool = False,  # noqa: ARG002 - the suite's
    ) -> None:
        """Require that the task fails, with what went wrong, and nothing else does."""
        with pytest.raises(INSTEAD.get(self._testMethodName, error)):
            self.executor.submit(func, *args).result(DEADLINE)
        assert self.executor.submit(abs, -1).result(DEADLINE) == 1

    _check_crash = _check_error  # its name before 3.14

    def test_shutdown_deadlock_pickle(self) -> None:
        """What can't be pickled is an error of the call, and nothing was submitted."""
        assert self.executor.submit(id, 42).result()
        collector = self.executor._executor_manager_thread
        with pytest.raises(ValueError, match="Error in pickle"):
            self.executor.submit(id, deadlock.ErrorAtPickle())
        self.executor.shutdown(wait=False)
        assert collector is not None
        collector.join()


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
