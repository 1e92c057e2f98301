"""Semaphore and BoundedSemaphore: a number of permits, which any worker may give back."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from freethreading import BoundedSemaphore, Event, Lock, Queue, Semaphore
from support import wait_until
from test_lock import Counter, increment
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    PROCESSES,
    SHORT,
    Launcher,
    finish,
    kill,
    lasts_at_least,
    launchers,
    only_processes,
    signature_of,
    start,
    start_thread,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freethreading import Worker

both_kinds = pytest.mark.parametrize("kind", [Semaphore, BoundedSemaphore])
Kind = type[Semaphore | BoundedSemaphore]


def permits(semaphore: Semaphore | BoundedSemaphore) -> int:
    """Count the free permits by taking them all and giving them back."""
    count = 0
    while semaphore.acquire(blocking=False):
        count += 1
    for _ in range(count):
        semaphore.release()
    return count


@both_kinds
def test_signatures_are_the_documented_ones(kind: Kind) -> None:
    semaphore = kind()
    assert signature_of(kind) == "(value=1)"
    assert signature_of(semaphore.acquire) == "(blocking=True, timeout=None)"
    assert signature_of(semaphore.release) == "()"


@both_kinds
def test_it_starts_with_the_value_given(kind: Kind) -> None:
    assert permits(kind()) == 1
    assert permits(kind(3)) == 3
    assert permits(kind(value=2)) == 2
    assert permits(kind(0)) == 0


@both_kinds
def test_a_negative_value_is_an_error(kind: Kind) -> None:
    for value in (-1, -(10**30)):
        with pytest.raises(ValueError, match="value"):
            kind(value)


@both_kinds
@pytest.mark.parametrize("value", ["1", None, [], 1j])
def test_a_value_of_a_wrong_type_is_named(kind: Kind, value: object) -> None:
    with pytest.raises(TypeError, match="value"):
        kind(value)  # type: ignore[arg-type]


@both_kinds
def test_a_huge_value_is_taken_or_refused_but_no_panic(kind: Kind) -> None:
    assert kind(2**31 - 1).acquire(blocking=False)
    for value in (2**31, 2**64, 10**30):
        outcome = survives_odd_timeout(functools.partial(kind, value))
        assert outcome == "refused" or isinstance(outcome, kind)


@both_kinds
def test_acquire_takes_a_permit_and_release_gives_one(kind: Kind) -> None:
    semaphore = kind(2)
    assert semaphore.acquire() is True
    assert semaphore.acquire(timeout=DEADLINE) is True
    assert semaphore.acquire(blocking=False) is False
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(0) is False  # type: ignore[arg-type]
    assert semaphore.acquire(timeout=0) is False
    assert semaphore.release() is None
    assert semaphore.acquire(blocking=False) is True


@both_kinds
def test_acquire_gives_up_after_its_timeout(kind: Kind) -> None:
    semaphore = kind(0)
    assert lasts_at_least(SHORT, lambda: semaphore.acquire(timeout=SHORT)) is False
    assert lasts_at_least(SHORT, lambda: semaphore.acquire(True, SHORT)) is False


@both_kinds
@pytest.mark.parametrize("timeout", [-1, -0.5, -1e9])
def test_a_negative_timeout_has_passed_as_in_the_stdlib(kind: Kind, timeout: float) -> None:
    assert kind(0).acquire(timeout=timeout) is False
    assert kind(1).acquire(timeout=timeout) is True


@both_kinds
def test_a_timeout_without_blocking_never_waits(kind: Kind) -> None:
    """An error in threading, without effect in multiprocessing."""
    if PROCESSES:
        assert survives_odd_timeout(lambda: kind(0).acquire(False, 1000)) in {False, "refused"}
    else:
        with pytest.raises(ValueError, match="timeout"):
            kind(0).acquire(False, 1000)


@both_kinds
@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(kind: Kind, timeout: object) -> None:
    semaphore = kind()
    with pytest.raises(TypeError, match="timeout"):
        semaphore.acquire(timeout=timeout)  # type: ignore[arg-type]
    assert permits(semaphore) == 1


@both_kinds
@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(kind: Kind, timeout: float) -> None:
    semaphore = kind()
    outcome = survives_odd_timeout(lambda: semaphore.acquire(timeout=timeout))
    assert outcome in {True, "refused"}


@both_kinds
def test_a_context_holds_a_permit_and_is_true(kind: Kind) -> None:
    semaphore = kind(2)
    with semaphore as entered:
        assert entered is True
        assert permits(semaphore) == 1
    assert permits(semaphore) == 2


@both_kinds
def test_an_exception_leaves_the_context_and_gives_the_permit_back(kind: Kind) -> None:
    semaphore = kind()
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught, semaphore:
        raise error
    assert caught.value is error
    assert permits(semaphore) == 1


def test_a_semaphore_may_grow_beyond_its_value() -> None:
    semaphore = Semaphore(1)
    semaphore.release()
    semaphore.release()
    assert permits(semaphore) == 3


def test_a_bounded_one_refuses_a_release_too_many() -> None:
    semaphore = BoundedSemaphore(2)
    for _ in range(2):
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()
    assert permits(semaphore) == 2
    semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        BoundedSemaphore(0).release()


def acquire_and_tell(semaphore: Semaphore, results: Queue[bool]) -> None:
    results.put(semaphore.acquire())


@both_kinds
def test_a_waiter_is_woken_by_another_workers_release(kind: Kind) -> None:
    semaphore = kind(2)
    results: Queue[bool] = Queue()
    semaphore.acquire()
    semaphore.acquire()
    workers = [start(acquire_and_tell, semaphore, results) for _ in range(2)]
    wait_until_asleep(*workers)
    assert results.empty()
    semaphore.release()
    assert results.get(timeout=DEADLINE) is True
    assert results.empty()
    semaphore.release()
    assert results.get(timeout=DEADLINE) is True
    finish(*workers)
    assert not semaphore.acquire(blocking=False)


def test_each_release_lets_one_waiter_through() -> None:
    semaphore = Semaphore(0)
    results: Queue[bool] = Queue()
    workers = [start(acquire_and_tell, semaphore, results) for _ in range(4)]
    wait_until_asleep(*workers)
    for _ in workers:
        semaphore.release()
    finish(*workers)
    assert [results.get(timeout=DEADLINE) for _ in workers] == [True] * 4
    assert not semaphore.acquire(blocking=False)


@launchers
@both_kinds
def test_one_permit_is_a_lock(launch: Launcher, kind: Kind, tmp_path: Path) -> None:
    semaphore, counter = kind(), Counter.new(tmp_path)
    finish(*[launch(increment, semaphore, counter, 150) for _ in range(4)])
    assert counter.read() == 600
    assert permits(semaphore) == 1


def pass_through(
    semaphore: Semaphore, guard: Lock, inside: Counter, most: Counter, times: int
) -> None:
    """Enter and leave, and note how many are inside at once."""
    now, highest = inside.open(), most.open()
    for _ in range(times):
        with semaphore:
            with guard:
                now[0] += 1
                highest[0] = max(highest[0], now[0])
            os.sched_yield()
            with guard:
                now[0] -= 1


@both_kinds
def test_never_more_inside_than_there_are_permits(kind: Kind, tmp_path: Path) -> None:
    semaphore = kind(2)
    inside, most = Counter.new(tmp_path, "inside"), Counter.new(tmp_path, "most")
    arguments = (semaphore, Lock(), inside, most, 100)
    finish(*[start(pass_through, *arguments) for _ in range(4)])
    assert most.read() in {1, 2}
    assert inside.read() == 0
    assert permits(semaphore) == 2


def hold_a_permit(semaphore: Semaphore, held: Queue[int], go: Event) -> None:
    with semaphore:
        held.put(1)
        go.wait()


@both_kinds
def test_all_permits_can_be_held_at_once(kind: Kind) -> None:
    semaphore, go = kind(3), Event()
    held: Queue[int] = Queue()
    workers = [start(hold_a_permit, semaphore, held, go) for _ in range(3)]
    for _ in workers:
        held.get(timeout=DEADLINE)
    assert not semaphore.acquire(blocking=False)
    go.set()
    finish(*workers)
    assert permits(semaphore) == 3


def release(semaphore: Semaphore) -> None:
    semaphore.release()


@both_kinds
def test_another_worker_may_give_the_permit_back(kind: Kind) -> None:
    semaphore = kind()
    semaphore.acquire()
    finish(start(release, semaphore))
    assert permits(semaphore) == 1


def take_and_die(semaphore: Semaphore) -> None:
    assert semaphore.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@only_processes
@both_kinds
def test_a_permit_taken_by_acquire_stays_taken(kind: Kind) -> None:
    semaphore = kind(2)
    start(take_and_die, semaphore).join(DEADLINE)
    assert semaphore.acquire(blocking=False)
    assert not semaphore.acquire(timeout=1.2)


def borrow_and_hold(semaphore: Semaphore, held: Queue[int]) -> None:
    with semaphore:
        held.put(os.getpid())
        signal.pause()


@only_processes
@both_kinds
def test_a_permit_taken_by_with_comes_back_when_its_process_is_killed(kind: Kind) -> None:
    semaphore = kind(2)
    held: Queue[int] = Queue()
    workers = [start(borrow_and_hold, semaphore, held) for _ in range(2)]
    for _ in workers:
        held.get(timeout=DEADLINE)
    assert not semaphore.acquire(blocking=False)
    kill(workers[0])
    assert semaphore.acquire(timeout=DEADLINE)
    assert not semaphore.acquire(blocking=False)
    kill(workers[1])
    wait_until(lambda: semaphore.acquire(blocking=False), "who polls gets it, too")
    semaphore.release()
    semaphore.release()
    assert permits(semaphore) == 2


@only_processes
@both_kinds
def test_those_who_wait_get_the_permits_of_the_killed(kind: Kind) -> None:
    semaphore = kind(1)
    held: Queue[int] = Queue()
    results: Queue[bool] = Queue()
    owner = start(borrow_and_hold, semaphore, held)
    held.get(timeout=DEADLINE)
    waiter = start(acquire_and_tell, semaphore, results)
    wait_until_asleep(waiter)
    kill(owner)
    assert results.get(timeout=DEADLINE) is True
    finish(waiter)


@only_processes
@both_kinds
def test_a_permit_given_back_before_the_death_comes_back_once(kind: Kind) -> None:
    semaphore = kind(2)
    worker = start(borrow_and_die_later, semaphore)
    worker.join(DEADLINE)
    assert worker.exitcode == -signal.SIGKILL
    assert semaphore.acquire(timeout=DEADLINE)
    assert semaphore.acquire(timeout=DEADLINE)
    assert not semaphore.acquire(timeout=1.2)


def borrow_and_die_later(semaphore: Semaphore) -> None:
    with semaphore, semaphore:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


@only_processes
@both_kinds
def test_a_waiter_that_was_killed_swallows_no_release(kind: Kind) -> None:
    semaphore = kind(1)
    results: Queue[bool] = Queue()
    semaphore.acquire()
    killed, survivor = [start(acquire_and_tell, semaphore, results) for _ in range(2)]
    wait_until_asleep(killed, survivor)
    kill(killed)
    semaphore.release()
    assert results.get(timeout=DEADLINE) is True
    finish(survivor)


@contextlib.contextmanager
def stopped(worker: Worker) -> Iterator[None]:
    """Stop a worker process, as Ctrl-Z does; it goes on afterwards."""
    assert worker.ident is not None
    stat = Path(f"/proc/{worker.ident}/stat")
    wait_until_asleep(worker)
    os.kill(worker.ident, signal.SIGSTOP)
    try:
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stops")
        yield
    finally:
        os.kill(worker.ident, signal.SIGCONT)


def enter_and_tell(semaphore: Semaphore, entered: Queue[int]) -> None:
    with semaphore:
        entered.put(os.getpid())


def enter_beside_another_thread(
    semaphore: Semaphore, goes_on: Queue[str], entered: Queue[int]
) -> None:
    """Wait in one thread, and tell so from another one, which needs the interpreter for that."""
    thread = start_thread(enter_and_tell, semaphore, entered)
    wait_until(lambda: repr(semaphore).endswith(" value=0, 1 waiting>"), "the thread waits")
    goes_on.put(repr(semaphore))
    finish(thread)


@only_processes
@both_kinds
def test_a_process_stopped_in_a_block_keeps_its_permit_and_stops_nobody(
    kind: Kind, tmp_path: Path
) -> None:
    semaphore, guard, go = kind(2), Lock(), Event()
    held: Queue[int] = Queue()
    entered: Queue[int] = Queue()
    goes_on: Queue[str] = Queue()
    inside, most = Counter.new(tmp_path, "inside"), Counter.new(tmp_path, "most")
    owner = start(hold_a_permit, semaphore, held, go)
    held.get(timeout=DEADLINE)
    with stopped(owner):
        # The other permit goes from hand to hand, whichever way it is taken.
        finish(*[start(pass_through, semaphore, guard, inside, most, 50) for _ in range(2)])
        assert most.read() == 1
        assert inside.read() == 0
        assert semaphore.acquire()
        assert repr(semaphore) == f"<freethreading.{kind.__name__} value=0>"
        waiter = start(enter_beside_another_thread, semaphore, goes_on, entered)
        assert goes_on.get(timeout=DEADLINE).endswith("=0, 1 waiting>")
        # Long enough for a death to be noticed, which this is not.
        assert not semaphore.acquire(timeout=1.2)
        assert not semaphore.acquire(blocking=False)
        assert entered.empty()
        semaphore.release()
        assert entered.get(timeout=DEADLINE) == waiter.ident
        finish(waiter)
        assert permits(semaphore) == 1
    go.set()
    finish(owner)
    assert permits(semaphore) == 2
    assert repr(semaphore) == f"<freethreading.{kind.__name__} value=2>"


@both_kinds
def test_values_of_different_semaphores_do_not_mix(kind: Kind) -> None:
    semaphores = [kind(index) for index in range(50)]
    semaphores[25].acquire()
    assert [permits(each) for each in semaphores] == [*range(25), 24, *range(26, 50)]


def acquire(semaphore: Semaphore) -> None:
    semaphore.acquire()


@only_processes
@both_kinds
def test_repr_forgets_waiters_that_were_killed(kind: Kind) -> None:
    semaphore = kind(1)
    semaphore.acquire()
    victim, survivor = (start(acquire, semaphore) for _ in range(2))
    wait_until(lambda: "2 waiting" in repr(semaphore), "both are seen to wait")
    kill(victim)
    wait_until(lambda: "1 waiting" in repr(semaphore), "the killed one is forgotten")
    semaphore.release()
    finish(survivor)
    assert "waiting" not in repr(semaphore)
