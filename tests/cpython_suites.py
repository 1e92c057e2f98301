"""CPython's own tests of the primitives, the queues and the pools, to be bound to ours.

Used by the modules `test_cpython_*`. The suites are those of the interpreter that runs the tests,
so they differ a little from version to version. The
table below names every test that is left out, as `class of the suite.name of the test`, with the
reason. A test that a class of ours overrides says in its docstring what differs.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import unittest
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T", bound=type)

_AT_FORK = "private: threading's own repair after a fork, which ours don't need (test_worker.py)"
_DEPTH = "private: repr tells the depth, which test_repr_count tests"
_REPR = "the stdlib's own wording; tests/test_lock.py tests that ours tells who holds it"
_SHUTDOWN = "Queue.shutdown, which queue has since 3.13, is neither in multiprocessing nor ours"
_CLOSE = (
    "there is nothing to close: ours has no pipe and no thread, and is freed with its last user"
)
_FEEDER = "private: a hook of the feeder thread; without one, `put` raises (test_queue.py)"
_BUFFERSIZE = "Executor.map has a buffersize since 3.14; ours, by its documented signature, has not"
_FORCE = "terminate_workers and kill_workers, which ProcessPoolExecutor has since 3.14, aren't ours"
_CPUS = "None means the usable CPUs on both backends (tests/test_executor.py)"
_SLOW = "takes 6 s; tests/test_executor.py has a shorter one"
_CONTEXT = "private; forkserver, too, can replace workers, so it stays"
_FEEDING_THREAD = "private: has the stdlib's second thread fail to start; ours has one in all"
_MANAGER_THREAD = "private: delays the stdlib's manager thread and fills the pipe that wakes it"
_LIFETIME = "WorkerPool has no maxtasksperchild; test_cpython_executors tests the executor's"

# What a user can't miss.
EXCLUDED = {
    "LockTests.test_at_fork_reinit": _AT_FORK,
    "EventTests.test_at_fork_reinit": _AT_FORK,
    "RLockTests.test_recursion_count": _DEPTH,
    "_TestLock.test_repr_lock": _REPR,
    "_TestLock.test_repr_rlock": _REPR,
    "BaseQueueTestMixin.test_shutdown_all_methods_in_many_threads": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_all_methods_in_one_thread": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_allowed_transitions": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_empty": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_get": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_get_task_done_join": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_all_methods_in_many_threads": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_all_methods_in_one_thread": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_get": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_join": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_put": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_immediate_put_join": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_join": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_nonempty": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_pending_get": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_put": _SHUTDOWN,
    "BaseQueueTestMixin.test_shutdown_put_join": _SHUTDOWN,
    "TestSimpleQueue.test_close": _CLOSE,
    "TestSimpleQueue.test_closed": _CLOSE,
    "TestSimpleQueue.test_empty_exceptions": _CLOSE,
    "_TestQueue.test_closed_queue_empty_exceptions": _CLOSE,
    "_TestQueue.test_closed_queue_put_get_exceptions": _CLOSE,
    "_TestQueue.test_queue_feeder_on_queue_feeder_error": _FEEDER,
    "_TestPoolWorkerLifetime.test_pool_maxtasksperchild_invalid": _LIFETIME,
    "_TestPoolWorkerLifetime.test_pool_worker_lifetime": _LIFETIME,
    "_TestPoolWorkerLifetime.test_pool_worker_lifetime_early_close": _LIFETIME,
    "ExecutorTest.test_map_timeout": _SLOW,
    "ExecutorTest.test_map_buffersize": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_on_empty_iterable": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_on_infinite_iterable": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_on_multiple_infinite_iterables": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_on_multiple_iterables": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_type_validation": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_value_validation": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_when_buffer_is_full": _BUFFERSIZE,
    "ExecutorTest.test_map_buffersize_without_iterable": _BUFFERSIZE,
    "ThreadPoolExecutorTest.test_default_workers": _CPUS,
    "ProcessPoolExecutorTest.test_force_shutdown_during_max_tasks_worker_exit": _FORCE,
    "ProcessPoolExecutorTest.test_force_shutdown_workers": _FORCE,
    "ProcessPoolExecutorTest.test_force_shutdown_workers_dead_workers": _FORCE,
    "ProcessPoolExecutorTest.test_force_shutdown_workers_invalid_op": _FORCE,
    "ProcessPoolExecutorTest.test_force_shutdown_workers_not_started_yet": _FORCE,
    "ProcessPoolExecutorTest.test_force_shutdown_workers_stops_pool": _FORCE,
    "ProcessPoolExecutorTest.test_kill_workers": _FORCE,
    "ProcessPoolExecutorTest.test_terminate_workers": _FORCE,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": _CONTEXT,
    "ProcessPoolExecutorTest.test_python_finalization_error": _FEEDING_THREAD,
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": _MANAGER_THREAD,
}

# The version whose suites have all the tests that are named above or overridden.
NEWEST = (3, 14)


def suite(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Return a module of the `test` package; skip the importing module where there is none."""
    method = multiprocessing.get_start_method(allow_none=True)
    module = pytest.importorskip(
        f"test.{name}",
        reason=f"test.{name} isn't installed with this interpreter; it is in the package "
        "libpython3.x-testsuite on Debian and Ubuntu, python3-test on Fedora",
    )
    # The import makes a lock for trial, by which multiprocessing settles on how to start processes.
    multiprocessing.set_start_method(method, force=True)
    return module


def preload(module: str) -> None:
    """Have the fork server import this, too, beside what it was told to import before."""
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]  # noqa: SLF001
    modules: list[str] = server._preload_modules  # noqa: SLF001
    multiprocessing.set_forkserver_preload(list(dict.fromkeys([*modules, module])))


def run_with_ours(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:  # noqa: ANN401 - as above
    """Have the programs that a module runs import our pools instead of the stdlib's."""
    run: Callable[..., Any] = module.assert_python_ok

    def run_ours(option: str, program: str) -> Any:  # noqa: ANN401 - what the suite expects
        program = re.sub(
            r"from concurrent\.futures import (\w+)",
            r"from freethreading import WorkerPoolExecutor as \1",
            program,
        )
        program = program.replace(
            "from multiprocessing import Pool",
            "from freethreading import WorkerPool; Pool = lambda processes: WorkerPool(processes)",
        )
        assert "freethreading" in program
        return run(option, program)

    monkeypatch.setattr(module, "assert_python_ok", run_ours)


def bound(cls: T) -> T:
    """Leave out the tests of a bound class that the table names."""
    for test, reason in EXCLUDED.items():
        if _upstream(cls, test) is not None:
            setattr(cls, _name(test), unittest.skip(reason)(_left_out))
    return cls


def check(module: dict[str, Any]) -> None:
    """Fail for a test that the table names, or a class overrides, and that CPython doesn't have."""
    if sys.version_info[:2] != NEWEST:
        pytest.skip(f"only the suites of {'.'.join(map(str, NEWEST))} have all that is named here")
    classes = [each for name, each in module.items() if name.startswith("Test")]
    suites = {base.__name__ for cls in classes for base in cls.__mro__ if _is_cpythons(base)}
    named = {test for test in EXCLUDED if test.partition(".")[0] in suites}
    unknown = {test for test in named if not any(_upstream(cls, test) for cls in classes)}
    assert not unknown
    needless = {test for cls in classes for test in _overrides(cls) if not _is_inherited(cls, test)}
    assert not needless


def _name(test: str) -> str:
    return test.partition(".")[2]


def _is_cpythons(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "test"


def _upstream(cls: type, test: str) -> Any:  # noqa: ANN401 - a function without types
    """Return the function of CPython that a test of a bound class is, or would be."""
    bases = [base for base in cls.__mro__ if _is_cpythons(base)]
    if test.partition(".")[0] not in {base.__name__ for base in bases}:
        return None
    return next((vars(base)[_name(test)] for base in bases if _name(test) in vars(base)), None)


def _overrides(cls: type) -> Iterator[str]:
    """Yield the tests that a bound class has from us."""
    for base in cls.__mro__:
        if not _is_cpythons(base) and base not in {object, unittest.TestCase}:
            yield from (name for name in vars(base) if name.startswith("test_"))


def _is_inherited(cls: type, name: str) -> bool:
    return any(_is_cpythons(base) and name in vars(base) for base in cls.__mro__)


def _left_out(_self: unittest.TestCase) -> None:
    """Stand for a test that is skipped."""
