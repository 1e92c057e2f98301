"""RLock: a lock that its owner, one thread of one process, may take again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Event, OwnerDiedError, Queue, RLock
from test_lock import Counter, die_holding, hold, increment
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    SHORT,
    Launcher,
    finish,
    lasts_at_least,
    launchers,
    misuse,
    only_processes,
    signature_of,
    start,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    from pathlib import Path


def try_elsewhere(lock: RLock) -> bool:
    """Tell whether another worker could take the lock now."""
    results: Queue[bool] = Queue()
    finish(start(try_to_take, lock, results))
    return results.get(timeout=DEADLINE)


def try_to_take(lock: RLock, results: Queue[bool]) -> None:
    taken = lock.acquire(blocking=False)
    if taken:
        lock.release()
    results.put(taken)


def test_signatures_are_the_documented_ones() -> None:
    lock = RLock()
    assert signature_of(RLock) == "()"
    assert signature_of(lock.acquire) == "(blocking=True, timeout=None)"
    assert signature_of(lock.release) == "()"


def test_it_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        RLock(1)  # type: ignore[call-arg]


def test_its_owner_takes_it_again_in_every_way() -> None:
    lock = RLock()
    assert lock.acquire() is True
    assert lock.acquire(blocking=False) is True
    assert lock.acquire(0) is True  # type: ignore[arg-type]
    assert lock.acquire(timeout=0) is True
    assert lock.acquire(timeout=SHORT) is True
    assert lock.acquire(timeout=-1) is True
    with lock as entered:
        assert entered is True
    for _ in range(6):
        assert lock.release() is None  # type: ignore[func-returns-value]
    with misuse(RuntimeError, ValueError, AssertionError):
        lock.release()


def test_it_is_free_only_after_as_many_releases() -> None:
    lock = RLock()
    for _ in range(3):
        lock.acquire()
    assert not try_elsewhere(lock)
    lock.release()
    lock.release()
    assert not try_elsewhere(lock)
    lock.release()
    assert try_elsewhere(lock)


def test_deep_recursion_is_counted() -> None:
    lock = RLock()
    for _ in range(70_000):
        lock.acquire()
    for _ in range(70_000):
        lock.release()
    with misuse(RuntimeError, ValueError, AssertionError):
        lock.release()


def test_releasing_a_free_one_is_one_portable_error() -> None:
    with misuse(RuntimeError, ValueError, AssertionError):
        RLock().release()


def release_anothers(lock: RLock, results: Queue[str]) -> None:
    with misuse(RuntimeError, ValueError, AssertionError):
        lock.release()
    results.put("refused")


def test_another_worker_must_not_release_it() -> None:
    lock = RLock()
    results: Queue[str] = Queue()
    lock.acquire()
    finish(start(release_anothers, lock, results))
    assert results.get(timeout=DEADLINE) == "refused"
    assert not try_elsewhere(lock)
    lock.release()


def test_another_thread_of_the_same_process_is_no_owner() -> None:
    lock = RLock()
    seen: list[object] = []

    def other() -> None:
        seen.append(lock.acquire(blocking=False))
        with misuse(RuntimeError, ValueError, AssertionError):
            lock.release()
        seen.append("refused")
        seen.append(lock.acquire(timeout=DEADLINE))
        lock.release()

    lock.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    while len(seen) < 2:
        thread.join(0.001)
    lock.release()
    thread.join(DEADLINE)
    assert seen == [False, "refused", True]


def test_acquire_gives_up_after_its_timeout() -> None:
    lock, held, go = RLock(), Event(), Event()
    worker = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=0) is False
    assert lasts_at_least(SHORT, lambda: lock.acquire(timeout=SHORT)) is False
    go.set()
    assert lock.acquire(timeout=DEADLINE) is True
    finish(worker)


def acquire_and_tell(lock: RLock, timeout: float | None, results: Queue[Any]) -> None:
    results.put("started")
    results.put(lock.acquire(timeout=timeout))
    lock.release()


@pytest.mark.parametrize("timeout", [None, -1, -0.5])
def test_a_negative_timeout_waits_for_ever(timeout: float | None) -> None:
    lock = RLock()
    results: Queue[Any] = Queue()
    lock.acquire()
    worker = start(acquire_and_tell, lock, timeout, results)
    assert results.get(timeout=DEADLINE) == "started"
    wait_until_asleep(worker)
    assert results.empty()
    lock.release()
    assert results.get(timeout=DEADLINE) is True
    finish(worker)


def test_a_timeout_without_blocking_is_an_error() -> None:
    lock = RLock()
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(False, 1)
    assert try_elsewhere(lock)


@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    lock = RLock()
    with pytest.raises(TypeError, match="timeout"):
        lock.acquire(timeout=timeout)  # type: ignore[arg-type]
    assert try_elsewhere(lock)


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    lock = RLock()
    assert survives_odd_timeout(lambda: lock.acquire(timeout=timeout)) in {True, "refused"}


def test_an_exception_leaves_the_context_and_frees_the_lock() -> None:
    lock = RLock()
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught, lock, lock:
        raise error
    assert caught.value is error
    assert try_elsewhere(lock)


class Nested:
    """A lock that is taken twice over by each `with`."""

    def __init__(self, lock: RLock) -> None:
        """Wrap `lock`."""
        self.lock = lock

    def __enter__(self) -> None:
        """Take it twice."""
        self.lock.acquire()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Release it twice."""
        self.lock.release()
        self.lock.release()


@launchers
def test_no_two_workers_hold_it_at_once(launch: Launcher, tmp_path: Path) -> None:
    lock, counter = RLock(), Counter.new(tmp_path)
    workers = [launch(increment, each, counter, 150) for each in (lock, Nested(lock)) * 2]
    finish(*workers)
    assert counter.read() == 600
    assert lock.acquire(blocking=False)


@only_processes
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_dead_owner_is_an_error_and_then_the_lock_works(how: str) -> None:
    """A3: nobody could ever take a lock again whose owner had been SIGKILLed."""
    lock, held = RLock(), Event()
    worker = start(die_holding, lock, held, how)
    worker.join(DEADLINE)
    assert held.is_set()
    with misuse(OwnerDiedError, RuntimeError):
        lock.acquire(timeout=DEADLINE)
    assert lock.acquire(timeout=DEADLINE)
    lock.release()
    assert try_elsewhere(lock)


def tell_locked(lock: RLock, results: Queue[bool]) -> None:
    results.put(lock.locked())


def test_every_worker_sees_whether_it_is_locked() -> None:
    """As in the stdlib since 3.14."""
    lock = RLock()
    results: Queue[bool] = Queue()
    for is_locked in (False, True):
        if is_locked:
            lock.acquire()
        finish(start(tell_locked, lock, results))
        assert results.get(timeout=DEADLINE) is lock.locked() is is_locked


def test_threadings_condition_works_over_it() -> None:
    """It asks its lock for what only an RLock knows: who holds it, and how often."""
    lock = RLock()
    condition = threading.Condition(lock)  # type: ignore[arg-type]
    ready: list[str] = []

    def notify() -> None:
        with condition:
            ready.append("ready")
            condition.notify()

    with condition, condition:
        thread = threading.Thread(target=notify)
        thread.start()
        assert condition.wait_for(lambda: ready, timeout=DEADLINE) == ["ready"]
        assert lock.locked()
    thread.join(DEADLINE)
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        condition.notify()


def test_more_acquires_than_can_be_counted_are_an_error() -> None:
    lock = RLock()
    lock._acquire_restore(2**32 - 1)  # noqa: SLF001 - what threading.Condition calls
    for acquire in (lock.acquire, lock.__enter__, lambda: lock.acquire(timeout=SHORT)):
        with pytest.raises(OverflowError):
            acquire()
    assert lock._release_save() == 2**32 - 1  # noqa: SLF001
    assert not lock.locked()
