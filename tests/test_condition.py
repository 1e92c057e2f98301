"""Condition: workers that wait for a change of what a lock protects."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Condition, Event, Lock, Queue, RLock
from support import wait_until
from test_lock import Counter, increment
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    SHORT,
    Launcher,
    finish,
    kill,
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
    from collections.abc import Callable
    from pathlib import Path

every_lock = pytest.mark.parametrize(
    "make",
    [Condition, lambda: Condition(Lock()), lambda: Condition(RLock()), lambda: Condition(None)],
    ids=["default", "Lock", "RLock", "None"],
)


def test_signatures_are_the_documented_ones() -> None:
    condition = Condition()
    assert signature_of(Condition) == "(lock=None)"
    assert signature_of(condition.acquire) == "(blocking=True, timeout=None)"
    assert signature_of(condition.release) == "()"
    assert signature_of(condition.wait) == "(timeout=None)"
    assert signature_of(condition.wait_for) == "(predicate, timeout=None)"
    assert signature_of(condition.notify) == "(n=1)"
    assert signature_of(condition.notify_all) == "()"


@pytest.mark.parametrize("lock", ["lock", 1, object(), Lock])
def test_a_lock_of_a_wrong_type_is_named(lock: object) -> None:
    with pytest.raises(TypeError, match="lock"):
        Condition(lock)  # type: ignore[arg-type]


@every_lock
def test_it_is_acquired_and_released_as_its_lock(make: Callable[[], Condition]) -> None:
    condition = make()
    assert condition.acquire() is True
    assert condition.release() is None  # type: ignore[func-returns-value]
    assert condition.acquire(blocking=False) is True
    condition.release()
    assert condition.acquire(timeout=-1) is True
    condition.release()
    with condition as entered:
        assert entered is True
    assert condition.acquire(timeout=0) is True
    condition.release()


def test_without_a_lock_given_it_is_reentrant() -> None:
    condition = Condition()
    with condition, condition:
        assert condition.acquire(blocking=False)
        condition.release()
        condition.notify_all()


def test_it_shares_the_lock_given() -> None:
    lock = Lock()
    condition = Condition(lock)
    with condition:
        assert lock.locked()
        assert not condition.acquire(blocking=False)
        assert not lasts_at_least(SHORT, lambda: condition.acquire(timeout=SHORT))
    with lock:
        assert not condition.acquire(blocking=False)
        condition.notify()
        assert condition.wait(SHORT) is False
    assert not lock.locked()


def test_a_timeout_without_blocking_is_an_error() -> None:
    with pytest.raises(ValueError, match="timeout"):
        Condition().acquire(False, 1)


@every_lock
def test_used_without_its_lock_it_is_one_portable_error(make: Callable[[], Condition]) -> None:
    condition = make()
    with misuse(RuntimeError, AssertionError):
        condition.wait()
    with misuse(RuntimeError, AssertionError):
        condition.wait(0)
    with misuse(RuntimeError, AssertionError):
        condition.wait_for(lambda: False)
    with misuse(RuntimeError, AssertionError):
        condition.notify()
    with misuse(RuntimeError, AssertionError):
        condition.notify(3)
    with misuse(RuntimeError, AssertionError):
        condition.notify_all()
    with misuse(RuntimeError, AssertionError):
        condition.release()


def test_a_lock_held_by_somebody_else_is_not_its_lock() -> None:
    condition = Condition()
    refused: list[bool] = []

    def other() -> None:
        with misuse(RuntimeError, AssertionError):
            condition.wait(0)
        with misuse(RuntimeError, AssertionError):
            condition.notify()
        with misuse(RuntimeError, AssertionError):
            condition.release()
        refused.append(True)

    with condition:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(DEADLINE)
    assert refused == [True]


@every_lock
def test_wait_gives_up_after_its_timeout_and_holds_the_lock(make: Callable[[], Condition]) -> None:
    condition = make()
    with condition:
        assert lasts_at_least(SHORT, lambda: condition.wait(SHORT)) is False
        assert lasts_at_least(SHORT, lambda: condition.wait(timeout=SHORT)) is False
        assert condition.wait(0) is False
        condition.notify()
    with misuse(RuntimeError, AssertionError):
        condition.notify()


@pytest.mark.parametrize("timeout", [-1, -0.5, -1e9])
def test_a_negative_timeout_of_wait_has_passed_as_in_the_stdlib(timeout: float) -> None:
    condition = Condition()
    with condition:
        assert condition.wait(timeout) is False
        assert condition.wait_for(lambda: 0, timeout) == 0
        assert condition.wait_for(lambda: "yes", timeout) == "yes"


@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    condition = Condition()
    with pytest.raises(TypeError, match="timeout"):
        condition.acquire(timeout=timeout)  # type: ignore[arg-type]
    with condition:
        with pytest.raises(TypeError, match="timeout"):
            condition.wait(timeout)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="timeout"):
            condition.wait_for(lambda: False, timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", ["1", None, 1.5])
def test_a_number_to_notify_of_a_wrong_type_is_named(n: object) -> None:
    condition = Condition()
    with condition, pytest.raises(TypeError, match=r"\bn\b"):
        condition.notify(n)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    condition = Condition()
    assert survives_odd_timeout(lambda: condition.acquire(timeout=timeout)) in {True, "refused"}
    with condition:
        outcome = survives_odd_timeout(lambda: condition.wait_for(lambda: True, timeout))
        assert outcome in {True, "refused"}


def wait_once(
    condition: Condition, waiting: Queue[Any], woken: Queue[Any], timeout: float | None = None
) -> None:
    """Wait, having told so with the lock held: who takes the lock then knows that it waits."""
    with condition:
        waiting.put(1)
        result = condition.wait(timeout)
        woken.put(result)


def start_waiting(
    condition: Condition, woken: Queue[Any], count: int, timeout: float | None = None
) -> list[Any]:
    """Start workers, and return when each of them waits."""
    waiting: Queue[Any] = Queue()
    workers = [start(wait_once, condition, waiting, woken, timeout) for _ in range(count)]
    for _ in workers:
        waiting.get(timeout=DEADLINE)
    with condition:
        return workers


@every_lock
@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_notify_wakes_a_waiter(make: Callable[[], Condition], timeout: float | None) -> None:
    condition = make()
    woken: Queue[bool] = Queue()
    [worker] = start_waiting(condition, woken, 1, timeout)
    with condition:
        assert condition.notify() is None  # type: ignore[func-returns-value]
        assert woken.empty()
    assert woken.get(timeout=DEADLINE) is True
    finish(worker)


def wait_and_tell_generation(
    condition: Condition, waiting: Queue[int], woken: Queue[int], generation: Counter
) -> None:
    cell = generation.open()
    with condition:
        waiting.put(1)
        assert condition.wait() is True
        woken.put(cell[0])


@every_lock
def test_notify_wakes_exactly_as_many_as_asked(
    make: Callable[[], Condition], tmp_path: Path
) -> None:
    condition, generation = make(), Counter.new(tmp_path)
    waiting: Queue[int] = Queue()
    woken: Queue[int] = Queue()
    arguments = (condition, waiting, woken, generation)
    workers = [start(wait_and_tell_generation, *arguments) for _ in range(6)]
    for _ in workers:
        waiting.get(timeout=DEADLINE)
    cell = generation.open()
    seen = []
    for number, wanted in enumerate([2, 1, 3], start=1):
        with condition:
            cell[0] = number
            condition.notify(0)
            condition.notify(wanted)
        seen += [woken.get(timeout=DEADLINE) for _ in range(wanted)]
    finish(*workers)
    assert collections.Counter(seen) == {1: 2, 2: 1, 3: 3}
    assert woken.empty()


def test_repeated_notify_wakes_one_each() -> None:
    condition = Condition()
    woken: Queue[bool] = Queue()
    workers = start_waiting(condition, woken, 4)
    with condition:
        condition.notify()
        condition.notify()
        condition.notify(2)
    finish(*workers)
    assert [woken.get(timeout=DEADLINE) for _ in workers] == [True] * 4


def test_notify_all_wakes_everybody() -> None:
    condition = Condition()
    woken: Queue[bool] = Queue()
    workers = start_waiting(condition, woken, 5)
    with condition:
        assert condition.notify_all() is None  # type: ignore[func-returns-value]
    finish(*workers)
    assert [woken.get(timeout=DEADLINE) for _ in workers] == [True] * 5


def test_more_notified_than_wait_is_no_error() -> None:
    condition = Condition()
    woken: Queue[bool] = Queue()
    workers = start_waiting(condition, woken, 2)
    with condition:
        condition.notify(1000)
    finish(*workers)
    assert [woken.get(timeout=DEADLINE) for _ in workers] == [True] * 2


def test_a_notification_is_not_kept_for_those_who_come_later() -> None:
    condition = Condition()
    with condition:
        condition.notify(5)
        condition.notify_all()
        assert condition.wait(SHORT) is False


def test_who_timed_out_takes_no_notification() -> None:
    condition = Condition()
    with condition:
        for _ in range(3):
            assert condition.wait(0.001) is False
    woken: Queue[bool] = Queue()
    workers = start_waiting(condition, woken, 1)
    with condition:
        assert condition.wait(0) is False
        condition.notify()
    assert woken.get(timeout=DEADLINE) is True
    finish(*workers)


def set_inside(condition: Condition, event: Event) -> None:
    with condition:
        event.set()
        condition.notify()


def test_wait_frees_every_level_of_its_rlock_and_takes_them_back() -> None:
    condition, event = Condition(), Event()
    with condition, condition, condition:
        worker = start(set_inside, condition, event)
        assert condition.wait(DEADLINE) is True
        assert event.is_set()
        finish(worker)
    assert condition.acquire(blocking=False)
    condition.release()
    with misuse(RuntimeError, AssertionError):
        condition.release()


# --- wait_for -------------------------------------------------------------------------------


def test_wait_for_returns_what_the_predicate_did() -> None:
    condition = Condition()
    with condition:
        assert condition.wait_for(lambda: [1]) == [1]
        assert condition.wait_for(predicate=lambda: "yes", timeout=0) == "yes"


@every_lock
def test_wait_for_gives_up_with_the_last_value(make: Callable[[], Condition]) -> None:
    condition = make()
    calls: list[int] = []

    def never() -> list[int]:
        calls.append(1)
        return []

    with condition:
        assert lasts_at_least(SHORT, lambda: condition.wait_for(never, SHORT)) == []
        assert len(calls) >= 1
        condition.notify()


def test_the_predicate_is_called_with_the_lock_held() -> None:
    lock = Lock()
    condition = Condition(lock)
    held: list[bool] = []

    def note() -> bool:
        held.append(lock.locked())
        return len(held) > 1

    with condition:
        assert condition.wait_for(note, SHORT) in {True, False}
    assert held
    assert all(held)
    assert not lock.locked()


def test_an_exception_of_the_predicate_passes() -> None:
    condition = Condition()
    with condition:
        with pytest.raises(ZeroDivisionError):
            condition.wait_for(lambda: 1 // 0)
        condition.notify()
    assert condition.acquire(blocking=False)


def advance(condition: Condition, counter: Counter, last: int) -> None:
    cell = counter.open()
    for value in range(1, last + 1):
        with condition:
            cell[0] = value
            condition.notify_all()


def test_wait_for_waits_until_it_is_true(tmp_path: Path) -> None:
    condition, counter = Condition(), Counter.new(tmp_path)
    cell = counter.open()
    worker = start(advance, condition, counter, 50)
    with condition:
        assert condition.wait_for(lambda: cell[0] >= 50, DEADLINE) is True
        assert cell[0] == 50
    finish(worker)


# --- many workers ---------------------------------------------------------------------------


def take_turns(condition: Condition, turn: Counter, me: int, players: int, rounds: int) -> None:
    cell = turn.open()
    for _ in range(rounds):
        with condition:
            assert condition.wait_for(lambda: cell[0] % players == me, DEADLINE)
            cell[0] += 1
            condition.notify_all()


@launchers
@every_lock
def test_no_wake_up_is_lost_while_workers_take_turns(
    make: Callable[[], Condition], launch: Launcher, tmp_path: Path
) -> None:
    condition, turn = make(), Counter.new(tmp_path)
    finish(*[launch(take_turns, condition, turn, index, 3, 60) for index in range(3)])
    assert turn.read() == 180


def produce(
    not_full: Condition, not_empty: Condition, level: Counter, total: Counter, count: int
) -> None:
    fill, made = level.open(), total.open()
    for _ in range(count):
        with not_full:
            assert not_full.wait_for(lambda: fill[0] < 3, DEADLINE)
            fill[0] += 1
            made[0] += 1
            not_empty.notify()


def consume(not_full: Condition, not_empty: Condition, level: Counter, count: int) -> None:
    fill = level.open()
    for _ in range(count):
        with not_empty:
            while fill[0] == 0:
                not_empty.wait(0.01)
            fill[0] -= 1
            assert 0 <= fill[0] <= 3
            not_full.notify()


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_two_conditions_share_one_lock(kind: type[Lock | RLock], tmp_path: Path) -> None:
    lock = kind()
    not_full, not_empty = Condition(lock), Condition(lock)
    level, total = Counter.new(tmp_path, "level"), Counter.new(tmp_path, "total")
    workers = [start(produce, not_full, not_empty, level, total, 100) for _ in range(2)]
    workers += [start(consume, not_full, not_empty, level, 100) for _ in range(2)]
    finish(*workers)
    assert level.read() == 0
    assert total.read() == 200


@every_lock
def test_it_is_a_lock_between_workers(make: Callable[[], Condition], tmp_path: Path) -> None:
    condition, counter = make(), Counter.new(tmp_path)
    finish(*[start(increment, condition, counter, 150) for _ in range(3)])
    assert counter.read() == 450


def check_shared(condition: Condition, lock: RLock, results: Queue[bool]) -> None:
    results.put(condition.acquire(blocking=False))
    results.put(lock.acquire(blocking=False))


def test_a_worker_gets_the_condition_with_its_lock() -> None:
    lock = RLock()
    condition = Condition(lock)
    results: Queue[bool] = Queue()
    with lock:
        finish(start(check_shared, condition, lock, results))
        condition.notify()
    assert [results.get(timeout=DEADLINE) for _ in range(2)] == [False, False]


@only_processes
def test_a_waiter_that_was_killed_swallows_no_notification() -> None:
    """A3: a notification that went to a dead waiter was lost, and the living one hung."""
    condition = Condition()
    woken: Queue[bool] = Queue()
    workers = start_waiting(condition, woken, 3)
    wait_until_asleep(*workers)
    kill(workers.pop(0))
    with condition:
        condition.notify()
    assert woken.get(timeout=DEADLINE) is True
    with condition:
        condition.notify()
    assert woken.get(timeout=DEADLINE) is True
    finish(*workers)


@every_lock
def test_locked_tells_whether_its_lock_is_held(make: Callable[[], Condition]) -> None:
    """As in the stdlib since 3.14."""
    condition = make()
    assert condition.locked() is False
    with condition:
        assert condition.locked() is True
    assert condition.locked() is False


@only_processes
def test_who_is_killed_before_it_has_the_lock_again_passes_its_notification_on() -> None:
    lock = Lock()
    condition = Condition(lock)
    results: Queue[bool] = Queue()
    killed = start(wait_and_tell, condition, results)
    wait_until(lambda: repr(condition).endswith(", 1 waiting>"), "the first one waits")
    survivor = start(wait_and_tell, condition, results)
    wait_until(lambda: repr(condition).endswith(", 2 waiting>"), "the other one, too")
    with condition:
        condition.notify()
        wait_until(lambda: repr(lock).endswith(", 1 waiting>"), "it queues up")
        kill(killed)
    assert results.get(timeout=DEADLINE) is True
    finish(survivor)


def wait_and_tell(condition: Condition, results: Queue[bool]) -> None:
    with condition:
        results.put(condition.wait(DEADLINE))
