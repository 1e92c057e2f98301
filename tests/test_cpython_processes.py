"""CPython's `test._test_multiprocessing`, as far as it is about locks and queues, for our classes.

Its processes are our workers: threads on the threading backend, where the suite's own model is
`multiprocessing.dummy`. Overridden are what looks into a stdlib object (the value of a semaphore,
the sleepers of a condition), what asks `multiprocessing` for a queue by name, tests of `repr`, and
deadlines that a busy machine would miss. What is left out is in `cpython_suites`.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import unittest
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import freethreading
from cpython_suites import bound, check, preload, suite
from freethreading import Barrier, Condition, Event, Lock, Queue, RLock, SimpleQueue, Worker
from support import wait_until
from test_worker import PROCESSES, SHORT, lasts_at_least, misuse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

suites: Any = suite("_test_multiprocessing")
if PROCESSES:
    preload("test._test_multiprocessing")

# As in test_multiprocessing_forkserver, but without making it the default; nor is the default used,
# as by its first use multiprocessing settles on a start method for the whole program.
CONTEXT = multiprocessing.get_context("forkserver")


def value_of(semaphore: object) -> int:
    """Return the number of free permits, which our semaphores tell by their `repr` alone."""
    found = re.search(r"\bvalue=(\d+)", repr(semaphore))
    assert found is not None
    return int(found[1])


class Semaphore(freethreading.Semaphore):
    get_value = value_of


class BoundedSemaphore(freethreading.BoundedSemaphore):
    get_value = value_of


class SharedCount:
    """Counts what is appended, as the suite's own, whose lock is the default context's."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._count = CONTEXT.Value("i", 0, lock=False)
        self._lock = Lock()

    def append(self, _item: object) -> None:
        with self._lock:
            self._count.value += 1

    def __len__(self) -> int:
        """Return how often something was appended."""
        with self._lock:
            return int(self._count.value)


class ThreadWorker(Worker):
    """A worker with what `multiprocessing.dummy` adds to a thread."""

    @property
    def exitcode(self) -> int | None:
        return None if self.ident is None or self.is_alive() else 0


class Ours(suites.ProcessesMixin if PROCESSES else suites.ThreadsMixin):  # type: ignore[misc]
    """What the suite calls by these names."""

    Process = Worker if PROCESSES else ThreadWorker
    Barrier = Barrier
    BoundedSemaphore = BoundedSemaphore
    Condition = Condition
    Event = Event
    JoinableQueue = Queue
    Lock = Lock
    Queue = Queue
    RLock = RLock
    Semaphore = Semaphore
    Array = staticmethod(CONTEXT.Array)
    Pipe = staticmethod(CONTEXT.Pipe)
    RawArray = staticmethod(CONTEXT.RawArray)
    RawValue = staticmethod(CONTEXT.RawValue)
    Value = staticmethod(CONTEXT.Value)


@bound
class TestLock(Ours, suites._TestLock, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def test_rlock(self) -> None:
        """Without `locked`, which multiprocessing.RLock has since 3.14."""
        lock = self.RLock()
        for _ in range(3):
            assert lock.acquire() is True
        for _ in range(3):
            assert lock.release() is None  # type: ignore[func-returns-value]
        with misuse(AssertionError, RuntimeError):
            lock.release()


@bound
class TestSemaphore(Ours, suites._TestSemaphore, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def test_timeout(self) -> None:
        """A timeout for `acquire(False)` is an error, as in threading."""
        semaphore = self.Semaphore(0)
        assert semaphore.acquire(False) is False
        assert semaphore.acquire(False, None) is False
        with pytest.raises(ValueError, match="timeout"):
            semaphore.acquire(False, SHORT)
        assert semaphore.acquire(True, SHORT) is False
        assert semaphore.acquire(timeout=SHORT) is False


@bound
class TestCondition(Ours, suites._TestCondition, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def assertReachesEventually(self, func: Callable[[], int], value: int) -> None:  # noqa: N802
        wait_until(lambda: func() == value, f"{value} have woken")

    def assertReturnsIfImplemented(  # noqa: N802
        self, value: int, func: Callable[..., int], *args: object
    ) -> None:
        """Give the workers the time they need, not 0.1 s as before 3.14."""
        self.assertReachesEventually(lambda: func(*args), value)

    def check_invariant(self, condition: Condition) -> None:
        assert " 0 waiting" in repr(condition)


@bound
class TestEvent(Ours, suites._TestEvent, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def test_repr(self) -> None:
        """Ours has no address."""
        event = self.Event()
        assert re.search(r"^<freethreading\.Event unset\b.*>$", repr(event))
        event.set()
        assert re.search(r"^<freethreading\.Event set\b.*>$", repr(event))
        event.clear()
        assert re.search(r"^<freethreading\.Event unset\b.*>$", repr(event))


@bound
class TestBarrier(Ours, suites._TestBarrier, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def DummyList(self) -> Any:  # noqa: ANN401, N802 - the suite's name
        return SharedCount()


class NotSerializable:
    def __reduce__(self) -> str:
        """Fail as the suite's own does."""
        raise AttributeError


USES_A_QUEUE = """
import freethreading

q = freethreading.Queue()
q.put('knock knock')
q.get(timeout=3)
del q
"""


@bound
class TestQueue(Ours, suites._TestQueue, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have a folder from which modules are imported."""
        monkeypatch.syspath_prepend(tmp_path)
        self.folder = tmp_path

    def test_no_import_lock_contention(self) -> None:
        """The queue is ours: the suite asks `multiprocessing` for one."""
        (self.folder / "puts_while_imported.py").write_text(USES_A_QUEUE, encoding="ascii")
        try:
            __import__("puts_while_imported")
        finally:
            sys.modules.pop("puts_while_imported", None)

    def test_timeout(self) -> None:
        """The queue is ours: the suite asks `multiprocessing` for one."""
        queue: Queue[Any] = self.Queue()
        with pytest.raises(suites.pyqueue.Empty):
            lasts_at_least(0.2, lambda: queue.get(True, 0.2))

    def test_queue_feeder_donot_stop_onexc(self) -> None:
        """The error comes from `put`, not from a thread that prints it; threads pickle nothing."""
        if not PROCESSES:
            self.skipTest("not appropriate for threads")
        queues: tuple[Queue[Any], Queue[Any]] = (self.Queue(), self.Queue(maxsize=1))
        for queue in queues:
            with pytest.raises(AttributeError):
                queue.put(NotSerializable())
            queue.put(True)
            assert queue.qsize() == 1
            assert queue.get(timeout=suites.support.SHORT_TIMEOUT) is True
            assert queue.empty()


@bound
class TestSimpleQueue(suites.TestSimpleQueue):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the suite, which asks `multiprocessing` for all that it uses, ask us."""
        ours = SimpleNamespace(SimpleQueue=SimpleQueue, Event=Event, Process=Worker)
        monkeypatch.setattr(suites, "multiprocessing", ours)


@bound
class TestValue(Ours, suites._TestValue, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    """A `multiprocessing.Value` over our lock, and on its way to our worker."""


@bound
class TestArray(Ours, suites._TestArray, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    """A `multiprocessing.Array` over our lock, and on its way to our worker."""


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
