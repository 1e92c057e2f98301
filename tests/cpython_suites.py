"""CPython's own tests of the synchronization primitives and the queues, to be bound to ours.

Used by `test_cpython_locks`, `test_cpython_queues` and `test_cpython_processes`. The suites are
those of the interpreter that runs the tests, so they differ a little from version to version. The
table below names every test that is left out, as `class of the suite.name of the test`, with the
reason. A test that a class of ours overrides says in its docstring what differs.
"""

from __future__ import annotations

import multiprocessing
import sys
import unittest
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T", bound=type)

_AT_FORK = "private: threading's own repair after a fork, which ours don't need (test_worker.py)"
_DEPTH = "private: repr tells the depth, which test_repr_count tests"
_REPR = "the stdlib's own wording; tests/test_lock.py tests that ours tells who holds it"
_SHUTDOWN = "Queue.shutdown, which queue has since 3.13, is neither in multiprocessing nor ours"
_CLOSE = (
    "there is nothing to close: ours has no pipe and no thread, and is freed with its last user"
)
_FEEDER = "private: a hook of the feeder thread; without one, `put` raises (test_queue.py)"

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
