"""CPython's `test.test_queue`, with which it tests the module `queue`, for our queues.

All of it runs on threads of one process, on both backends. Overridden is what our API has otherwise
than `queue`: each test says in its docstring what. What is left out is in `cpython_suites`. Not
bound are the suites of `LifoQueue` and `PriorityQueue`, which we don't have, and the one of queues
that fail, which derives from `queue.Queue` and replaces its private `_put` and `_get`.
"""

from __future__ import annotations

import queue
import unittest
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from cpython_suites import bound, check, suite
from freethreading import Queue, SimpleQueue
from test_worker import PROCESSES

test_queue: Any = suite("test_queue")


class _NegativeTimeouts:
    type2test: Any

    def test_negative_timeout_raises_exception(self) -> None:
        """On processes it is one that has passed, as in multiprocessing."""
        if not PROCESSES:
            super().test_negative_timeout_raises_exception()  # type: ignore[misc]
            return
        source: Queue[int] = self.type2test(1)
        with pytest.raises(queue.Empty):
            source.get(True, timeout=-1)
        source.put(1, timeout=-1)
        with pytest.raises(queue.Full):
            source.put(2, timeout=-1)


@bound
class TestQueue(_NegativeTimeouts, test_queue.BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc]
    queue = queue
    type2test = Queue

    def test_shrinking_queue(self) -> None:
        """`maxsize` stays as it was made, in all processes; multiprocessing's isn't even told."""
        source: Queue[int] = self.type2test(3)
        with pytest.raises(AttributeError, match="maxsize"):
            source.maxsize = 2  # type: ignore[misc]
        assert source.maxsize == 3


class Thing:
    """What can be weakly referenced, and pickled."""


class _References:
    q: Any

    def test_references(self) -> None:
        """The class is a module's, so that between processes its instances can be pickled."""
        for _ in range(20):
            self.q.put(Thing())
        for _ in range(20):
            reference = weakref.ref(self.q.get())
            assert reference() is None


@pytest.fixture
def _enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let run what asks for the 5 GB that a hundred threads could take, though they don't."""
    support = test_queue.bigmemtest.__globals__ if hasattr(test_queue, "bigmemtest") else {}
    monkeypatch.setitem(support, "real_max_memuse", 5 << 30)
    monkeypatch.setitem(support, "verbose", 0)


@bound
@pytest.mark.usefixtures("_enough_memory")
class TestQueueAsSimpleQueue(
    _NegativeTimeouts,
    _References,
    test_queue.BaseSimpleQueueTest,  # type: ignore[misc]
    unittest.TestCase,
):
    queue = queue
    type2test = Queue


class SizedSimpleQueue(SimpleQueue[Any]):
    def qsize(self) -> int:
        """Tell whether it is 0, which is all that the suite asks once its threads have ended."""
        return 0 if self.empty() else 1


_waits = unittest.skip("SimpleQueue.get always waits, as multiprocessing's; Queue is tested above")


@bound
@pytest.mark.usefixtures("_enough_memory")
class TestSimpleQueue(_References, test_queue.CSimpleQueueTest):  # type: ignore[misc]
    queue = SimpleNamespace(Empty=queue.Empty, SimpleQueue=SizedSimpleQueue)

    def test_basic(self) -> None:
        """Without `qsize`, `put_nowait` and `get(False)`, which multiprocessing's has neither."""
        assert self.q.empty()
        for number in range(4):
            self.q.put(number)
            assert not self.q.empty()
        assert [self.q.get() for _ in range(4)] == [0, 1, 2, 3]
        assert self.q.empty()

    def test_negative_timeout_raises_exception(self) -> None:
        """There is no timeout at all, as in multiprocessing."""
        with pytest.raises(TypeError):
            self.q.get(timeout=-1)

    @_waits
    def test_many_threads_nonblock(self) -> None:
        """Queue is tested."""

    @_waits
    def test_many_threads_timeout(self) -> None:
        """Queue is tested."""


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
