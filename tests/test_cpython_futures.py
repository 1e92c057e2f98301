"""CPython's `test.test_concurrent_futures.test_future` for the futures of WorkerPoolExecutor.

The suite makes futures itself, and sets them. Here each is an executor's, whose only worker is kept
from its task until the suite has said what that is to return or raise. Overridden are tests of
private attributes. What is left out is in `cpython_suites`.
"""

from __future__ import annotations

import logging
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import pytest

from cpython_executor import part
from cpython_suites import bound, check
from freethreading import Event, Queue, WorkerPoolExecutor
from freethreading._futures import TaskFuture
from support import wait_until
from test_worker import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

future: Any = part("test_future")
made: list[Future] = []


def obey(orders: Queue[tuple[Any, BaseException | None]]) -> object:
    result, error = orders.get(timeout=DEADLINE)
    if error is not None:
        raise error
    return result


class Future(TaskFuture):
    """Ours, to be set by whoever has it. It has the name that the suite looks for in its `repr`."""

    def __init__(self) -> None:
        self.pool = WorkerPoolExecutor(1)
        self.gate, self.orders = Event(), Queue[tuple[Any, BaseException | None]]()
        self.pool.submit(self.gate.wait, DEADLINE)
        job = self.pool._engine.call("Future", obey, (self.orders,), {})  # noqa: SLF001 - as `submit`
        super().__init__(job, self.pool._crew)  # noqa: SLF001 - the same
        made.append(self)

    def begin(self) -> None:
        """Let the worker begin the task."""
        self.gate.set()
        wait_until(self.running, "the task has begun")

    def end(self, result: object = None, error: BaseException | None = None) -> None:
        """Let the task end, and wait until all callbacks have been called."""
        self.gate.set()
        self.orders.put((result, error))
        self.pool.shutdown()

    def set_result(self, result: object) -> None:
        # The executor does this, too, when the task has ended.
        if self._job.ready():
            super().set_result(result)
        else:
            self.end(result)

    def set_exception(self, exception: BaseException | None) -> None:
        if self._job.ready():
            super().set_exception(exception)
        else:
            self.end(error=exception)


def create_future(
    state: str = "PENDING", exception: BaseException | None = None, result: object = None
) -> Future:
    """Make a future in some state, as the suite's own function."""
    made = Future()
    if state == "RUNNING":
        made.begin()
    elif state == "FINISHED":
        made.end(result, exception)
    elif state.startswith("CANCELLED"):
        assert made.cancel()
    return made


@pytest.fixture(scope="module", autouse=True)
def _ours() -> Iterator[None]:
    """Have the suite make our futures, and use ours where it shares some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(future, "Future", Future)
        patch.setattr(future, "create_future", create_future)
        for state in ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
            patch.setattr(future, f"{state}_FUTURE", create_future(state))
        patch.setattr(future, "EXCEPTION_FUTURE", create_future("FINISHED", OSError()))
        patch.setattr(future, "SUCCESSFUL_FUTURE", create_future("FINISHED", None, 42))
        # The suite waits for what is logged on stderr, where pytest sees to it that nothing is.
        logger = logging.getLogger("concurrent.futures")
        patch.setattr(logger, "handlers", [logging.lastResort])
        yield
    end_all(0)


def end_all(first: int) -> None:
    """End the tasks of all futures that were made, but for the first ones."""
    while len(made) > first:
        made.pop().end()


@bound
class TestFuture(future.FutureTests):  # type: ignore[misc]
    def setUp(self) -> None:
        super().setUp()
        self.shared = len(made)

    def tearDown(self) -> None:
        end_all(self.shared)
        super().tearDown()

    def test_cancel(self) -> None:
        """Without a look at the private `_state`."""
        for state in ("PENDING", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
            assert create_future(state).cancel()
        for state in ("RUNNING", "FINISHED"):
            assert not create_future(state).cancel()

    def test_exception_with_success(self) -> None:
        """The task raises it, while somebody waits: the suite sets private attributes."""
        waited_for = create_future()
        setter = threading.Timer(0.1, waited_for.set_exception, [OSError()])
        setter.start()
        assert isinstance(waited_for.exception(timeout=DEADLINE), OSError)
        setter.join()

    def test_multiple_set_exception(self) -> None:
        """An exception from a process is a copy."""
        failed = create_future()
        failed.set_exception(ValueError(1))
        with pytest.raises(futures.InvalidStateError, match="finished raised ValueError>"):
            failed.set_exception(Exception())
        error = failed.exception()
        assert isinstance(error, ValueError)
        assert error.args == (1,)


def test_what_is_left_out_or_overridden_is_in_the_suite() -> None:
    check(globals())
