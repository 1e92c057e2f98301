"""The futures of WorkerPoolExecutor: what of the stdlib's is made only when somebody wants it."""

from __future__ import annotations

import os
import threading
import traceback
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING

import pytest

import pool_tasks as tasks
from freethreading import Event, WorkerPoolExecutor, _futures
from support import wait_until
from test_worker import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable


def note(_future: object) -> None:
    """Be a callback."""


def test_a_future_that_is_done_has_a_result_at_once() -> None:
    """With a callback it said that it was done before its result could be had without waiting."""
    with WorkerPoolExecutor(1) as executor:
        for _ in range(20):
            future = executor.submit(abs, -1)
            future.add_done_callback(note)
            wait_until(future.done, "the task has ended")
            assert future.result(timeout=0) == 1
            assert wait([future], timeout=0).done == {future}


def test_cancelling_calls_the_callbacks() -> None:
    """The collector called them, some time later."""
    called: list[bool] = []
    event = Event()
    with WorkerPoolExecutor(1) as executor:
        executor.submit(event.wait, DEADLINE)
        future = executor.submit(int)
        future.add_done_callback(lambda cancelled: called.append(cancelled.cancelled()))
        assert future.cancel()
        assert called == [True]
        assert future.cancel()
        assert future.done()
        with pytest.raises(CancelledError):
            future.result(timeout=0)
        event.set()
    assert called == [True]


def test_repr_tells_how_far_it_is() -> None:
    event = Event()
    with WorkerPoolExecutor(1) as executor:
        running, pending, cancelled = (executor.submit(event.wait, DEADLINE) for _ in range(3))
        wait_until(running.running, "the first task has begun")
        cancelled.cancel()
        for _ in range(2):
            assert "state=running" in repr(running)
            assert "state=pending" in repr(pending)
            assert "state=cancelled" in repr(cancelled)
            wait([running, pending], timeout=0)  # with the stdlib's half it says the same
        event.set()
        failed = executor.submit(int, "no number")
        assert isinstance(failed.exception(), ValueError)
        assert running.result()
        assert "state=finished returned bool" in repr(running)
        assert "state=finished raised ValueError" in repr(failed)


def test_a_finalizer_may_use_another_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ran while a future was made what the stdlib's are waited for ever."""
    with WorkerPoolExecutor(1) as executor:
        one, other = executor.submit(abs, -1), executor.submit(abs, -2)

        def as_a_finalizer_runs() -> Future[object]:
            monkeypatch.undo()
            other.add_done_callback(note)
            return Future()

        monkeypatch.setattr(_futures, "Future", as_a_finalizer_runs)
        one.add_done_callback(note)
        assert (one.result(DEADLINE), other.result(DEADLINE)) == (1, 2)


def in_a_child(call: Callable[[], None]) -> int:
    """Return the exit status of a forked child that makes a call."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call()
            status = 0
        except BaseException:  # noqa: BLE001 - a child of a test must end here
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def use_a_callback() -> None:
    with WorkerPoolExecutor(1) as executor:
        future = executor.submit(abs, -1)
        future.add_done_callback(note)
        assert future.result(DEADLINE) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_can_use_futures_whatever_its_parent_was_at() -> None:
    """A child that was forked while a thread made a future whole waited for that thread."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with _futures._making:  # noqa: SLF001 - as one does who makes a future whole
            held.set()
            go_on.wait(DEADLINE)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(DEADLINE)
    try:
        assert in_a_child(use_a_callback) == 0
    finally:
        go_on.set()
        holder.join()


def test_whatever_a_callback_raises_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were put off, so as not to go too deep, were forgotten."""
    monkeypatch.setattr(_futures, "_DEEPEST", 1)
    called: list[int] = []

    def end(number: int) -> None:
        called.append(number)
        if number != 1:
            raise SystemExit(number)

    def go_deeper(future: Future[int]) -> None:
        for number in range(3):
            future.add_done_callback(lambda _, number=number: end(number))  # type: ignore[misc]

    with WorkerPoolExecutor(1) as executor:
        future = executor.submit(abs, -1)
        assert future.result(DEADLINE) == 1
        with pytest.raises(SystemExit) as caught:
            future.add_done_callback(go_deeper)
        assert caught.value.code == 0
    assert called == [0, 1, 2]


def test_whoever_asks_for_a_result_makes_no_callbacks() -> None:
    """It may hold a lock that a callback needs."""
    lock, called = threading.Lock(), threading.Event()

    def call_back(_future: object) -> None:
        with lock:
            called.set()

    with WorkerPoolExecutor(1) as executor:
        for _ in range(50):
            called.clear()
            event = Event()
            future = executor.submit(tasks.wait_for, event)
            future.add_done_callback(call_back)
            with lock:
                event.set()
                assert future.result(DEADLINE) is True
            assert called.wait(DEADLINE)
