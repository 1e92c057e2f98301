"""Barrier: a number of workers that go on together."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Barrier, Event, Lock, Queue, Worker
from support import wait_until
from test_lock import Counter
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    SHORT,
    Launcher,
    finish,
    kill,
    lasts_at_least,
    launchers,
    only_processes,
    signature_of,
    start,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path


@dataclass
class Note:
    """An action that leaves a note of each run."""

    notes: Queue[str]

    def __call__(self) -> None:
        """Leave it."""
        self.notes.put("ran")


@dataclass
class Fail:
    """An action that fails as long as `fine` isn't set."""

    fine: Event

    def __call__(self) -> None:
        """Fail."""
        if not self.fine.is_set():
            message = "the action's own error"
            raise LookupError(message)


def wait_and_tell(barrier: Barrier, results: Queue[Any], timeout: float | None = None) -> None:
    """Report the index, or the name of the exception."""
    try:
        results.put(barrier.wait(timeout))
    except (RuntimeError, LookupError) as error:
        results.put(type(error).__name__)


def start_waiting(
    barrier: Barrier, results: Queue[Any], count: int, timeout: float | None = None
) -> list[Worker]:
    """Start workers, and return when all of them wait."""
    before = barrier.n_waiting
    workers = [start(wait_and_tell, barrier, results, timeout) for _ in range(count)]
    wait_until(lambda: barrier.n_waiting == before + count, f"{count} more wait")
    return workers


def state_of(barrier: Barrier) -> tuple[int, str]:
    """Return how many wait, and whether it is broken."""
    return barrier.n_waiting, "broken" if barrier.broken else "whole"


def collect(results: Queue[Any], workers: Sequence[Worker | threading.Thread]) -> list[Any]:
    """Return what the workers reported."""
    found = [results.get(timeout=DEADLINE) for _ in workers]
    finish(*workers)
    return found


def test_signatures_are_the_documented_ones() -> None:
    barrier = Barrier(1)
    assert signature_of(Barrier) == "(parties, action=None, timeout=None)"
    assert signature_of(barrier.wait) == "(timeout=None)"
    assert signature_of(barrier.reset) == "()"
    assert signature_of(barrier.abort) == "()"


def test_a_fresh_barrier_is_whole_and_empty() -> None:
    barrier = Barrier(3)
    assert barrier.parties == 3
    assert barrier.n_waiting == 0
    assert barrier.broken is False


@pytest.mark.parametrize("name", ["parties", "n_waiting", "broken"])
def test_properties_are_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Barrier(2), name, 5)


@pytest.mark.parametrize("parties", [0, -1])
def test_less_than_one_party_is_an_error(parties: int) -> None:
    with pytest.raises(ValueError, match="parties"):
        Barrier(parties)


@pytest.mark.parametrize("parties", ["2", None, 1.5])
def test_parties_of_a_wrong_type_are_named(parties: object) -> None:
    with pytest.raises(TypeError, match="parties"):
        Barrier(parties)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout"):
        Barrier(2, timeout=timeout)  # type: ignore[arg-type]
    barrier = Barrier(2)
    with pytest.raises(TypeError, match="timeout"):
        barrier.wait(timeout)  # type: ignore[arg-type]
    assert not barrier.broken


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    assert survives_odd_timeout(lambda: Barrier(1).wait(timeout)) in {0, "refused"}
    assert survives_odd_timeout(lambda: Barrier(1, None, timeout).wait()) in {0, "refused"}


def test_a_single_party_passes_at_once() -> None:
    barrier = Barrier(1)
    assert [barrier.wait() for _ in range(3)] == [0, 0, 0]
    assert barrier.wait(timeout=DEADLINE) == 0


def test_all_go_on_together_with_an_index_each() -> None:
    barrier = Barrier(4)
    results: Queue[int] = Queue()
    workers = start_waiting(barrier, results, 3)
    assert results.empty()
    assert barrier.n_waiting == 3
    mine = barrier.wait(DEADLINE)
    assert sorted([mine, *collect(results, workers)]) == [0, 1, 2, 3]
    assert barrier.n_waiting == 0
    assert not barrier.broken


def cycle(barrier: Barrier, arrived: Counter, guard: Lock, times: int) -> list[int]:
    """Pass many times; in each cycle all must have arrived before anybody goes on."""
    cell, indices = arrived.open(), []
    for turn in range(1, times + 1):
        with guard:
            cell[0] += 1
        indices.append(barrier.wait(DEADLINE))
        assert cell[0] >= turn * barrier.parties
        assert cell[0] <= (turn + 1) * barrier.parties
    return indices


def cycle_and_tell(
    barrier: Barrier, arrived: Counter, guard: Lock, times: int, results: Queue[list[int]]
) -> None:
    results.put(cycle(barrier, arrived, guard, times))


@launchers
@pytest.mark.parametrize("parties", [2, 4])
def test_it_is_reusable_at_once_and_nobody_overtakes(
    launch: Launcher, parties: int, tmp_path: Path
) -> None:
    notes: Queue[str] = Queue()
    results: Queue[list[int]] = Queue()
    barrier, arrived = Barrier(parties, Note(notes)), Counter.new(tmp_path)
    arguments = (barrier, arrived, Lock(), 150, results)
    workers = [launch(cycle_and_tell, *arguments) for _ in range(parties)]
    indices = collect(results, workers)
    for in_cycle in zip(*indices, strict=True):
        assert sorted(in_cycle) == list(range(parties))
    assert notes.qsize() == 150
    assert arrived.read() == 150 * parties


def test_the_action_runs_once_before_anybody_goes_on() -> None:
    notes: Queue[str] = Queue()
    barrier = Barrier(3, action=Note(notes))
    results: Queue[int] = Queue()
    workers = start_waiting(barrier, results, 2)
    assert notes.empty()
    barrier.wait(DEADLINE)
    assert notes.get_nowait() == "ran"
    collect(results, workers)
    assert notes.empty()


def test_the_action_may_be_anything_callable() -> None:
    calls: list[int] = []
    barrier = Barrier(1, lambda: calls.append(1))
    assert [barrier.wait(), barrier.wait()] == [0, 0]
    assert calls == [1, 1]


def test_an_error_of_the_action_breaks_the_barrier() -> None:
    fine = Event()
    barrier = Barrier(3, Fail(fine))
    results: Queue[Any] = Queue()
    workers = [start(wait_and_tell, barrier, results) for _ in range(3)]
    found = collect(results, workers)
    assert collections.Counter(found) == {"LookupError": 1, "BrokenBarrierError": 2}
    assert state_of(barrier) == (0, "broken")
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    fine.set()
    barrier.reset()
    assert state_of(barrier) == (0, "whole")
    workers = [start(wait_and_tell, barrier, results) for _ in range(3)]
    assert sorted(collect(results, workers)) == [0, 1, 2]


# --- broken ---------------------------------------------------------------------------------


def test_abort_breaks_it_for_those_who_wait_and_those_who_come() -> None:
    barrier = Barrier(3)
    results: Queue[Any] = Queue()
    workers = start_waiting(barrier, results, 2)
    assert barrier.abort() is None  # type: ignore[func-returns-value]
    assert barrier.broken
    assert collect(results, workers) == ["BrokenBarrierError"] * 2
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    with pytest.raises(BrokenBarrierError):
        barrier.wait(timeout=DEADLINE)
    assert barrier.n_waiting == 0


def test_reset_breaks_the_wait_but_not_the_barrier() -> None:
    barrier = Barrier(3)
    results: Queue[Any] = Queue()
    workers = start_waiting(barrier, results, 2)
    assert barrier.reset() is None  # type: ignore[func-returns-value]
    assert collect(results, workers) == ["BrokenBarrierError"] * 2
    assert not barrier.broken
    assert barrier.n_waiting == 0
    workers = start_waiting(barrier, results, 2)
    mine = barrier.wait(DEADLINE)
    assert sorted([mine, *collect(results, workers)]) == [0, 1, 2]


def test_reset_repairs_an_aborted_one() -> None:
    barrier = Barrier(2)
    barrier.abort()
    barrier.reset()
    assert not barrier.broken
    results: Queue[Any] = Queue()
    workers = start_waiting(barrier, results, 1)
    mine = barrier.wait(DEADLINE)
    assert sorted([mine, *collect(results, workers)]) == [0, 1]


def test_reset_of_an_empty_one_changes_nothing() -> None:
    barrier = Barrier(2)
    barrier.reset()
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)


def test_abort_and_reset_many_times() -> None:
    barrier = Barrier(2)
    results: Queue[Any] = Queue()
    for _ in range(5):
        workers = start_waiting(barrier, results, 1)
        barrier.abort()
        barrier.reset()
        assert collect(results, workers) == ["BrokenBarrierError"]
        assert not barrier.broken


def wait_timed_out(barrier: Barrier, timeout: float | None) -> str:
    try:
        barrier.wait(timeout)
    except BrokenBarrierError:
        return "broken"
    return "passed"


def test_a_wait_that_times_out_breaks_it_for_all() -> None:
    barrier = Barrier(3)
    results: Queue[Any] = Queue()
    workers = start_waiting(barrier, results, 1)
    assert lasts_at_least(SHORT, lambda: wait_timed_out(barrier, SHORT)) == "broken"
    assert barrier.broken
    assert collect(results, workers) == ["BrokenBarrierError"]


def test_the_barriers_own_timeout_holds_where_wait_has_none() -> None:
    barrier = Barrier(2, timeout=SHORT)
    assert lasts_at_least(SHORT, lambda: wait_timed_out(barrier, None)) == "broken"
    assert barrier.broken


def test_the_timeout_of_wait_goes_before_the_barriers() -> None:
    barrier = Barrier(2, timeout=1000)
    assert lasts_at_least(SHORT, lambda: wait_timed_out(barrier, SHORT)) == "broken"
    barrier = Barrier(2, timeout=0.001)
    assert lasts_at_least(SHORT, lambda: wait_timed_out(barrier, SHORT)) == "broken"


def test_a_worker_gets_the_barriers_own_timeout() -> None:
    results: Queue[Any] = Queue()
    worker = start(wait_and_tell, Barrier(2, timeout=SHORT), results)
    assert collect(results, [worker]) == ["BrokenBarrierError"]


@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_a_timeout_that_has_passed_breaks_it_as_in_the_stdlib(timeout: float) -> None:
    barrier = Barrier(2)
    with pytest.raises(BrokenBarrierError):
        barrier.wait(timeout)
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        Barrier(2, timeout=timeout).wait()


def test_the_broken_barrier_error_is_threadings_and_says_something() -> None:
    barrier = Barrier(2)
    barrier.abort()
    with pytest.raises(RuntimeError) as caught:
        barrier.wait()
    assert isinstance(caught.value, BrokenBarrierError)


@only_processes
def test_a_waiter_that_was_killed_breaks_it() -> None:
    """A3: the others waited for ever for the one that could no longer go on."""
    barrier = Barrier(3)
    results: Queue[Any] = Queue()
    [killed] = start_waiting(barrier, results, 1)
    [survivor] = start_waiting(barrier, results, 1)
    wait_until_asleep(killed, survivor)
    kill(killed)
    assert collect(results, [survivor]) == ["BrokenBarrierError"]
    barrier.reset()
    workers = start_waiting(barrier, results, 2)
    mine = barrier.wait(DEADLINE)
    assert sorted([mine, *collect(results, workers)]) == [0, 1, 2]


@only_processes
def test_a_party_that_died_is_not_counted_by_the_last_to_come() -> None:
    barrier = Barrier(2)
    party = start(barrier.wait)
    wait_until(lambda: barrier.n_waiting == 1, "it waits")
    kill(party)
    with pytest.raises(BrokenBarrierError):
        barrier.wait(DEADLINE)
