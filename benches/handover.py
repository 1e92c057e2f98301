"""Rows of two workers that wait for each other in turn: what handing over costs.

In each role the first turn is not timed: it absorbs that the two don't begin at the same moment.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import timing
from contenders import FASTER_FIFO
from peers import Peers
from rows import Row, Sample, Unit, goals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from contenders import Barrier, Condition, Contender, Event, Lock, Queue
    from peers import Numbers, Role


def events(index: int, things: Sequence[Event], order: Numbers) -> Numbers:
    """Wait for the own event, clear it, set the other's; worker 0 sets first."""
    mine, other = things[index], things[1 - index]
    if index == 0:
        other.set()
    mine.wait()
    mine.clear()
    began = time.perf_counter()
    for _ in range(int(order[0])):
        other.set()
        mine.wait()
        mine.clear()
    took = time.perf_counter() - began
    if index == 1:
        other.set()
    return (took,)


def semaphores(index: int, things: Sequence[Lock], order: Numbers) -> Numbers:
    """Release the other's semaphore and acquire the own; worker 1 acquires first."""
    mine, other = things[index], things[1 - index]
    if index == 0:
        other.release()
    mine.acquire()
    began = time.perf_counter()
    for _ in range(int(order[0])):
        other.release()
        mine.acquire()
    took = time.perf_counter() - began
    if index == 1:
        other.release()
    return (took,)


def queues(index: int, things: Sequence[Queue], order: Numbers) -> Numbers:
    """Put into the other's queue and get from the own; worker 1 gets first."""
    mine, other = things[index], things[1 - index]
    if index == 0:
        other.put(0)
    mine.get()
    began = time.perf_counter()
    for _ in range(int(order[0])):
        other.put(0)
        mine.get()
    took = time.perf_counter() - began
    if index == 1:
        other.put(0)
    return (took,)


def condition(_index: int, things: Sequence[Condition], order: Numbers) -> Numbers:
    """Notify and wait in turn, with the lock held from one wait to the next.

    Nobody can notify before the other waits, as it gets the lock only then. Who comes first
    notifies nobody, and who leaves first notifies the other, who waits for the last time.
    """
    (shared,) = things
    with shared:
        shared.notify()
        shared.wait()
        began = time.perf_counter()
        for _ in range(int(order[0])):
            shared.notify()
            shared.wait()
        took = time.perf_counter() - began
        shared.notify()
    return (took,)


def barrier(_index: int, things: Sequence[Barrier], order: Numbers) -> Numbers:
    """Go through a barrier of two."""
    (shared,) = things
    shared.wait()
    began = time.perf_counter()
    for _ in range(int(order[0])):
        shared.wait()
    return (time.perf_counter() - began,)


def _measure(
    role: Role, make: Callable[[Contender], list[object]], contender: Contender, seconds: float
) -> Sample:
    """Time turns as worker 0 saw them."""
    with Peers(contender, role, 2, make(contender)) as peers:
        each = timing.seconds_each(lambda turns: peers.ask(turns)[0][0], seconds)
    return Sample([1e6 * one for one in each])


def _row(
    name: str,
    title: str,
    role: Role,
    make: Callable[[Contender], list[object]],
    reach: Mapping[str, float] | None = None,
    *,
    rivals: Mapping[str, float] | None = None,
) -> Row:
    measure = partial(_measure, role, make)
    return Row(name, title, Unit.MICROSECONDS, measure, reach or {}, rivals=rivals or {})


def _two_events(contender: Contender) -> list[object]:
    return [contender.event(), contender.event()]


def _two_semaphores(contender: Contender) -> list[object]:
    return [contender.semaphore(0), contender.semaphore(0)]


def _two_queues(contender: Contender) -> list[object]:
    return [contender.queue(0), contender.queue(0)]


def _one_condition(contender: Contender) -> list[object]:
    return [contender.condition()]


def _one_barrier(contender: Contender) -> list[object]:
    return [contender.barrier(2)]


ROWS = [
    _row("event_pingpong", "Event ping-pong, round trip", events, _two_events, goals(25, 20)),
    _row("semaphore_pingpong", "Semaphore ping-pong, round trip", semaphores, _two_semaphores),
    _row("condition_pingpong", "Condition wait/notify, round trip", condition, _one_condition),
    _row("barrier_cycle", "Barrier of two, one cycle", barrier, _one_barrier, goals(15, 15)),
    _row(
        "queue_pingpong",
        "Queue ping-pong, round trip",
        queues,
        _two_queues,
        goals(30, 15),
        rivals={FASTER_FIFO: 0},
    ),
]
