"""Rows of one worker alone: what a primitive costs that nobody else wants right now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import timing
from contenders import FASTER_FIFO
from rows import Row, Sample, Unit, goals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contenders import Contender


def _measure(
    text: str, make: Callable[[Contender], object], contender: Contender, seconds: float
) -> Sample:
    return Sample(timing.statement(text, make(contender), seconds))


def _row(
    name: str,
    text: str,
    make: Callable[[Contender], object],
    reach: Mapping[str, float] | None = None,
    title: str = "",
    *,
    rivals: Mapping[str, float] | None = None,
) -> Row:
    """Make the row of a statement."""
    shown = title or text.replace("o.", f"{name.partition('_')[0]}.").replace("\n", "; ")
    measure = partial(_measure, text, make)
    return Row(name, shown, Unit.MICROSECONDS, measure, reach or {}, rivals=rivals or {})


def _lock(contender: Contender) -> object:
    return contender.lock()


def _rlock(contender: Contender) -> object:
    return contender.rlock()


def _semaphore(contender: Contender) -> object:
    return contender.semaphore(1)


def _event(contender: Contender) -> object:
    return contender.event()


def _condition(contender: Contender) -> object:
    return contender.condition()


def _queue(contender: Contender) -> object:
    return contender.queue(0)


def _simple_queue(contender: Contender) -> object:
    return contender.simple_queue()


def _nothing(_contender: Contender) -> object:
    return object()


ROWS = [
    _row(
        "floor_call",
        "o.__hash__()",
        _nothing,
        title="floor: object().__hash__(), the same for both",
    ),
    _row("lock_locked", "o.locked()", _lock),
    _row("lock_with", "with o: pass", _lock, goals(2.2, 1.6), "with lock"),
    _row("lock_acquire_release", "o.acquire(); o.release()", _lock),
    _row("rlock_with", "with o: pass", _rlock, title="with rlock"),
    _row("semaphore_acquire_release", "o.acquire(); o.release()", _semaphore, goals(1.2, 20)),
    _row("semaphore_with", "with o: pass", _semaphore, title="with semaphore"),
    _row("event_is_set", "o.is_set()", _event, goals(15, 1.8)),
    _row("event_set_clear", "o.set(); o.clear()", _event),
    _row(
        "condition_notify",
        "with o: o.notify()",
        _condition,
        goals(4, 2.5),
        "with condition: condition.notify(), none waits",
    ),
    _row(
        "queue_put_get",
        "o.put(1); o.get()",
        _queue,
        goals(300, 10),
        rivals={FASTER_FIFO: 0},
    ),
    _row("simple_queue_put_get", "o.put(1); o.get()", _simple_queue, title="the same, SimpleQueue"),
]
