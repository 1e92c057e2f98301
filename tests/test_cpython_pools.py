"""CPython's `test._test_multiprocessing`, as far as it is about pools, for WorkerPool.

On the threading backend it is the suite of `multiprocessing.pool.ThreadPool` that is run. A pool of
ours takes `workers`, where the suite says `processes`. Overridden are tests of what can't be
pickled and of private attributes: each says in its docstring what differs. What is left out is in
`cpython_suites`. Not bound are tests that ask `multiprocessing` for a pool in another process, and
the one that counts on workers, with their initializer, that start before there is a task.
"""

from __future__ import annotations

import multiprocessing
import unittest
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cpython_suites import bound, check, preload, run_with_ours, suite
from freethreading import Barrier, Event, WorkerPool
from freethreading._errors import TaskError
from freethreading._tasks import RemoteTraceback
from test_worker import DEADLINE, PROCESSES, SHORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

suites: Any = suite("_test_multiprocessing")
if PROCESSES:
    preload("test._test_multiprocessing")


class Pool(WorkerPool):
    """Ours, with the stdlib's name for the number of workers."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
    ) -> None:
        """Start no worker yet."""
        super().__init__(processes, initializer, initargs)


class Ours(suites.ProcessesMixin if PROCESSES else suites.ThreadsMixin):  # type: ignore[misc]
    """What the suite calls by this name."""

    Pool = Pool


@bound
class TestPool(suites._TestPool, Ours, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    pool: Pool

    @classmethod
    def setUpClass(cls) -> None:
        """Start all that the pool which the tests share will ever start."""
        super().setUpClass()
        barrier = Barrier(4)
        cls.pool.starmap_async(Barrier.wait, [(barrier, DEADLINE)] * 4, chunksize=1).get()

    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let tasks that are to be terminated sleep shortly in threads, which can't be ended."""
        if not PROCESSES:
            monkeypatch.setattr(suites.support, "LONG_TIMEOUT", 1)

    def test_map_unplicklable(self) -> None:
        """A ValueError names the item, on threads, too; what pickling raised is its cause."""

        class Unpicklable:
            def __reduce__(self) -> str:
                message = "cannot pickle"
                raise RuntimeError(message)

        with pytest.raises(ValueError, match="item 0") as caught:
            self.pool.map(suites.sqr, [Unpicklable()] * 10)
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_async_timeout(self) -> None:
        """The event is ours, which can be pickled."""
        event = Event()
        with Pool(3) as pool:
            result = pool.apply_async(suites.sqr, (6, DEADLINE, event))
            with pytest.raises(multiprocessing.TimeoutError):
                result.get(timeout=SHORT)
            event.set()
            assert result.get() == 36
        pool.join()

    def test_make_pool(self) -> None:
        """Workers are started as tasks come, so their number is in `repr` only."""
        for number in (-1, 0):
            with pytest.raises(ValueError, match="workers must be at least 1"):
                self.Pool(number)
        pool = self.Pool(3)
        try:
            assert "workers=3" in repr(pool)
        finally:
            pool.close()
            pool.join()

    def test_resource_warning(self) -> None:
        """The pool runs: the suite ends it, and sets its private state back."""
        pools = [self.Pool(1)]
        with pytest.warns(ResourceWarning, match="unclosed running"):
            pools.clear()

    def test_traceback(self) -> None:
        """The RemoteTraceback is ours."""
        if PROCESSES:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(multiprocessing.pool, "RemoteTraceback", RemoteTraceback)
                super().test_traceback()


class WithOurs:
    """Tests that ask `multiprocessing` for a pool, or run a program that does."""

    ALLOWED_TYPES = ("processes", "threads")

    @pytest.fixture(autouse=True)
    def _ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have them ask us."""
        monkeypatch.setattr(suites, "multiprocessing", SimpleNamespace(Pool=Pool))
        run_with_ours(monkeypatch, suites.test.support.script_helper)


@bound
class TestPoolWorkerErrors(WithOurs, suites._TestPoolWorkerErrors, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    def test_unpickleable_result(self) -> None:
        """A TaskError stands for it, and threads need to pickle nothing."""
        pool = Pool(2)
        for _ in range(20):
            errors: list[BaseException] = []
            result = pool.apply_async(suites.unpickleable_result, error_callback=errors.append)
            if PROCESSES:
                with pytest.raises(TaskError, match="can't be pickled"):
                    result.get()
                assert isinstance(errors[0], TaskError)
            else:
                assert result.get()() == 42
        pool.close()
        pool.join()


@bound
class TestPoolWorkerLifetime(WithOurs, suites._TestPoolWorkerLifetime, unittest.TestCase):  # type: ignore[misc]  # noqa: SLF001
    """The end of a program that leaves its pool alone; what else it tests, our pool hasn't."""


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
