"""Rows of several workers that want the same thing at once: how much they get done together.

Each works for a fixed time and counts, so nobody is left to run alone at the end.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

from peers import Peers
from rows import Row, Sample, Unit, goals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contenders import Contender, Event, Lock
    from peers import Numbers, Role

REPEATS = 3
# Until then every worker has read its order; all begin at the same moment.
SECONDS_TO_BEGIN = 0.005
# How many objects lie between two that are meant not to share a cache line.
FILLERS = 64


def _per_second(turns: Callable[[], int], order: Numbers) -> Numbers:
    """Repeat some turns, at least once, from the moment of an order for its seconds.

    Who gets the order late begins late and works as long as the others.
    """
    begin, seconds = order
    time.sleep(max(0.0, begin - time.monotonic()))
    began = time.monotonic()
    count = turns()
    while (now := time.monotonic()) < began + seconds:
        count += turns()
    return (count / (now - began),)


def work_under_lock(_index: int, things: Sequence[Lock], order: Numbers) -> Numbers:
    """Count, under the one lock of all."""
    return _per_second(partial(_increments, things[0]), order)


def ask_event(index: int, things: Sequence[Event], order: Numbers) -> Numbers:
    """Ask an event, the only one or the own one."""
    return _per_second(partial(_questions, things[index % len(things)]), order)


def ask_lock(index: int, things: Sequence[Lock], order: Numbers) -> Numbers:
    """Ask a lock whether it is held, which nobody does."""
    return _per_second(partial(_looks, things[index % len(things)]), order)


def take_lock(index: int, things: Sequence[Lock], order: Numbers) -> Numbers:
    """Take and release a lock, the only one or the own one."""
    return _per_second(partial(_increments, things[index % len(things)]), order)


def _increments(lock: Lock) -> int:
    count = 0
    for _ in range(16):
        with lock:
            count += 1
    return count


def _questions(event: Event) -> int:
    for _ in range(20):
        event.is_set()
        event.is_set()
        event.is_set()
        event.is_set()
        event.is_set()
    return 100


def _looks(lock: Lock) -> int:
    for _ in range(20):
        lock.locked()
        lock.locked()
        lock.locked()
        lock.locked()
        lock.locked()
    return 100


def _rate(peers: Peers, seconds: float) -> tuple[float, list[float]]:
    """Let all work for a while; return the turns per second of all, and of each."""
    found = peers.ask(time.monotonic() + SECONDS_TO_BEGIN, seconds)
    each = [rate for (rate,) in found]
    return sum(each), each


def _contended(workers: int, contender: Contender, seconds: float) -> Sample:
    values: list[float] = []
    slowest: list[float] = []
    with Peers(contender, work_under_lock, workers, [contender.lock()]) as peers:
        for _ in range(REPEATS):
            rate, each = _rate(peers, seconds / REPEATS)
            values.append(rate / 1000)
            slowest.append(min(each) / max(each))
    return Sample(values, {"fairness": statistics.median(slowest)})


def _shared(
    role: Role, make: Callable[[Contender], object], contender: Contender, seconds: float
) -> Sample:
    """Compare two workers on one object with two on an object each, in turn.

    It takes three times its seconds: shorter looks at three kinds would be worth little.
    """
    spread = [make(contender) for _ in range(FILLERS)]
    with (
        Peers(contender, role, 2, [spread[0], spread[-1]]) as own,
        Peers(contender, role, 2, [make(contender)]) as shared,
        Peers(contender, role, 1, [make(contender)]) as alone,
    ):
        kinds = {"own": own, "shared": shared, "alone": alone}
        share = seconds / REPEATS
        found = [
            {kind: _rate(peers, share)[0] / 1e6 for kind, peers in kinds.items()}
            for _ in range(REPEATS)
        ]
    details = {
        f"{kind}_millions_per_s": statistics.median(one[kind] for one in found) for kind in kinds
    }
    return Sample([one["shared"] / one["own"] for one in found], details)


def _event(contender: Contender) -> object:
    return contender.event()


def _lock(contender: Contender) -> object:
    return contender.lock()


def _contended_row(workers: int) -> Row:
    return Row(
        f"lock_contended_{workers}",
        f"with lock: count += 1, {workers} workers in all",
        Unit.PER_SECOND,
        partial(_contended, workers),
        goals(1.5, 1),
    )


def _shared_row(name: str, title: str, role: Role, make: Callable[[Contender], object]) -> Row:
    title = f"{title}, 2 workers: one for both / one each"
    return Row(name, title, Unit.SHARED, partial(_shared, role, make))


ROWS = [
    _contended_row(2),
    _contended_row(8),
    _shared_row("event_shared", "event.is_set()", ask_event, _event),
    _shared_row("lock_shared_locked", "lock.locked()", ask_lock, _lock),
    _shared_row("lock_shared_with", "with lock", take_lock, _lock),
]
