"""CPython's `test.lock_tests`, with which it tests `threading`, for our primitives.

All of it runs on threads of one process, on both backends. Overridden are the tests of `repr`,
whose wording is our own, and those of what our API has otherwise than `threading`: each says in its
docstring what. What is left out is in `cpython_suites`. No upper bound on time is checked, and that
"all threads sleep by now" is looked at instead of slept for.
"""

from __future__ import annotations

import re
import threading
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cpython_suites import bound, check, suite
from freethreading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from test_worker import wait_until_task_sleeps

lock_tests: Any = suite("lock_tests")

if TYPE_CHECKING:

    class _Base(unittest.TestCase):
        locktype: Any
        eventtype: Any
        condtype: Any
        semtype: Any
        barriertype: Any

else:
    _Base = object


@pytest.fixture(autouse=True)
def _see_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the suites wait until all threads sleep, where they only slept themselves."""
    monkeypatch.setattr(lock_tests, "wait_threads_blocked", wait_until_the_others_sleep)


def wait_until_the_others_sleep(_count: int) -> None:
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir():
        if int(task.name) != threading.get_native_id():
            try:
                wait_until_task_sleeps(task)
            except OSError:
                assert not task.exists(), task  # it has ended meanwhile


class _NoUpperBounds(_Base):
    def assertTimeout(self, actual: float, expected: float) -> None:  # noqa: N802 - the suite's
        """Require no upper bound, unlike the suite: the machine may be busy."""
        assert actual >= expected * 0.6


class _LockLike(_NoUpperBounds):
    def test_repr(self) -> None:
        """Ours has no address."""
        assert re.search(r"^<freethreading\.\w+ .*\bunlocked\b.*>$", repr(self.locktype()))

    def test_locked_repr(self) -> None:
        """Ours has no address."""
        lock = self.locktype()
        lock.acquire()
        assert re.search(r"^<freethreading\.\w+ .*\blocked\b.*>$", repr(lock))

    def test_timeout(self) -> None:
        """A negative timeout waits for ever, as in multiprocessing; the rest is the suite's."""
        lock = self.locktype()
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, 1)
        for timeout in (1e100, threading.TIMEOUT_MAX + 1):
            with pytest.raises(OverflowError, match="timeout"):
                lock.acquire(timeout=timeout)
        for timeout in (threading.TIMEOUT_MAX, -1, -100, 5):
            assert lock.acquire(timeout=timeout)
            lock.release()
        lock.acquire()
        results: list[Any] = []

        def wait() -> None:
            began = time.monotonic()
            results.append(lock.acquire(timeout=0.5))
            results.append(time.monotonic() - began)

        with lock_tests.Bunch(wait, 1):
            pass
        assert not results[0]
        self.assertTimeout(results[1], 0.5)


@bound
class TestLock(_LockLike, lock_tests.LockTests):  # type: ignore[misc]
    locktype = Lock


class _Reentrant(_LockLike):
    def test_repr_count(self) -> None:
        """Ours calls it depth."""
        lock = self.locktype()
        assert "unlocked" in repr(lock)
        lock.acquire()
        lock.acquire()
        assert "depth 2" in repr(lock)
        result: list[str] = []
        with lock_tests.Bunch(lambda: result.append(repr(lock)), 1):
            pass
        assert "depth 2" in result[0]


@bound
class TestRLock(_Reentrant, lock_tests.RLockTests):  # type: ignore[misc]
    locktype = RLock


@bound
class TestConditionAsRLock(_Reentrant, lock_tests.RLockTests):  # type: ignore[misc]
    """As `ConditionAsRLockTests` in test_threading: a condition over a new RLock is used as one."""

    locktype = Condition
    _private = unittest.skip("private: threading.Condition asks its lock, of which it is the user")

    @_private
    def test__is_owned(self) -> None:
        """The lock has it, and TestRLock tests it."""

    @_private
    def test_release_save_unacquired(self) -> None:
        """The lock has it, and TestRLock tests it."""


@bound
class TestEvent(_NoUpperBounds, lock_tests.EventTests):  # type: ignore[misc]
    eventtype = Event

    def test_repr(self) -> None:
        """Ours has no address."""
        event = self.eventtype()
        assert re.search(r"^<freethreading\.Event unset\b.*>$", repr(event))
        event.set()
        assert re.search(r"^<freethreading\.Event set\b.*>$", repr(event))


@bound
class TestCondition(_NoUpperBounds, lock_tests.ConditionTests):  # type: ignore[misc]
    condtype = Condition

    def test_acquire(self) -> None:
        """The lock given is ours, as a condition of processes can't be over a thread's lock."""
        condition = self.condtype()
        condition.acquire()
        condition.acquire()
        condition.release()
        condition.release()
        lock = Lock()
        condition = self.condtype(lock)
        condition.acquire()
        assert not lock.acquire(False)
        condition.release()
        assert lock.acquire(False)
        assert not condition.acquire(False)
        lock.release()
        with condition:
            assert not lock.acquire(False)


class _SemaphoreLike(_NoUpperBounds):
    def test_multirelease(self) -> None:
        """`release` takes no number, as in multiprocessing: give back as many, one by one."""

        class OneByOne(self.semtype):  # type: ignore[misc, name-defined]
            def release(self, n: int = 1) -> None:
                for _ in range(n):
                    super().release()

        self.semtype = OneByOne
        super().test_multirelease()  # type: ignore[misc]

    def test_repr(self) -> None:
        """Ours has no address, and doesn't repeat the initial value."""
        semaphore = self.semtype(3)
        name = self.semtype.__name__
        assert re.search(rf"^<freethreading\.{name} value=3\b.*>$", repr(semaphore))
        semaphore.acquire()
        assert re.search(rf"^<freethreading\.{name} value=2\b.*>$", repr(semaphore))


@bound
class TestSemaphore(_SemaphoreLike, lock_tests.SemaphoreTests):  # type: ignore[misc]
    semtype = Semaphore


@bound
class TestBoundedSemaphore(_SemaphoreLike, lock_tests.BoundedSemaphoreTests):  # type: ignore[misc]
    semtype = BoundedSemaphore


@bound
class TestBarrier(_NoUpperBounds, lock_tests.BarrierTests):  # type: ignore[misc]
    barriertype = Barrier

    def test_repr(self) -> None:
        """Ours has no address."""
        barrier = self.barriertype(3)
        assert re.search(r"^<freethreading\.Barrier 0/3 waiting>$", repr(barrier))

        with lock_tests.Bunch(barrier.wait, 2):
            wait_until_the_others_sleep(2)
            assert re.search(r"^<freethreading\.Barrier 2/3 waiting>$", repr(barrier))
            barrier.wait()

        assert re.search(r"^<freethreading\.Barrier 0/3 waiting>$", repr(barrier))
        barrier.abort()
        assert re.search(r"^<freethreading\.Barrier .*\bbroken>$", repr(barrier))


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
