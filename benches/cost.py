"""Rows of what an object costs while nothing is done with it: making, memory, waiters."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers import Peers
from rows import Row, Sample, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contenders import Contender
    from peers import Numbers

COUNT = 10_000
# How many are made between two looks at the clock.
STEP = 100
SECONDS_TO_MAKE = 10.0
SECONDS_TO_MAKE_QUICKLY = 0.3
# A pass that gives a row less time than this is a quick one.
QUICK_SECONDS = 0.2
ROUNDS = 2

SECONDS_IDLE = 2.0
SECONDS_IDLE_QUICKLY = 0.5


def _created(
    make: Callable[[Contender], Callable[[], object]], contender: Contender, seconds: float
) -> Sample:
    """Make many and keep them; count what that took, and what it takes to be rid of them.

    What was made counts where the time is up, or where the system has run out of something.
    """
    one = make(contender)
    first = one()
    made: list[object] = [None] * COUNT
    descriptors, resident = _descriptors(), _resident_bytes()
    count, took = _fill(
        made, one, SECONDS_TO_MAKE_QUICKLY if _is_quick(seconds) else SECONDS_TO_MAKE
    )
    descriptors, resident = _descriptors() - descriptors, _resident_bytes() - resident
    began = time.perf_counter()
    made.clear()
    freed = time.perf_counter() - began
    del first
    details = {
        "count": count,
        "descriptors": descriptors,
        "bytes_each": resident / count,
        "free_us": 1e6 * freed / count,
    }
    return Sample([1e6 * took / count], details)


def _fill(made: list[object], one: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Put new objects into a list; return how many there are, and the seconds they took."""
    count, began = 0, time.perf_counter()
    with contextlib.suppress(OSError):
        while count < len(made) and time.perf_counter() - began < seconds:
            for index in range(count, count + STEP):
                made[index] = one()
            count += STEP
    took = time.perf_counter() - began
    if count == 0:
        message = f"fewer than {STEP} can be made"
        raise RuntimeError(message)
    return count, took


def _is_quick(seconds: float) -> bool:
    return seconds < QUICK_SECONDS


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, no paths


def _resident_bytes() -> int:
    """Return the memory of this process that is there, what it shares with others included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_idly(index: int, things: Sequence[Any], _order: Numbers) -> Numbers:
    """Wait for what doesn't come; return the CPU seconds of this worker, and of its process."""
    began = time.thread_time(), time.process_time()
    if index == 0:
        things[0].wait()
    elif index == 1:
        with things[1]:
            things[1].wait()
    elif index == 2:  # noqa: PLR2004 - the number of the queue
        things[2].get()
    else:
        things[index].acquire()
    return (time.thread_time() - began[0], time.process_time() - began[1])


def _idle(contender: Contender, seconds: float) -> Sample:
    """Let five wait, for an event, a condition, an item of a queue, a lock and a semaphore.

    What is told is the time of the waiters' whole processes, helpers of the package included: of
    each where workers are processes, of the one where they are threads.
    """
    idle = SECONDS_IDLE_QUICKLY if _is_quick(seconds) else SECONDS_IDLE
    event, condition = contender.event(), contender.condition()
    queue, lock, semaphore = contender.queue(0), contender.lock(), contender.semaphore(0)
    lock.acquire()
    things = [event, condition, queue, lock, semaphore]
    with Peers(contender, wait_idly, len(things), things) as peers:
        peers.order(0.0)
        time.sleep(idle)
        event.set()
        with condition:
            condition.notify()
        queue.put(None)
        lock.release()
        semaphore.release()
        found = peers.results()
    per_process = [process for _, process in found]
    total = max(per_process) if contender.has_threads else sum(per_process)
    waited = idle * len(things)
    names = ("event", "condition", "queue", "lock", "semaphore")
    details = {
        f"{name}_thread_us": 1e6 * thread for name, (thread, _) in zip(names, found, strict=True)
    }
    return Sample([1e6 * total / waited], {**details, "seconds": idle})


def _row(name: str, make: Callable[[Contender], Callable[[], object]]) -> Row:
    kept = f"make {name}() and keep it"
    return Row(
        f"{name.lower()}_make",
        kept,
        Unit.MICROSECONDS,
        partial(_created, make),
        is_fresh=True,
        most_rounds=ROUNDS,
    )


def _lock(contender: Contender) -> Callable[[], object]:
    return contender.lock


def _semaphore(contender: Contender) -> Callable[[], object]:
    return partial(contender.semaphore, 1)


def _event(contender: Contender) -> Callable[[], object]:
    return contender.event


def _condition(contender: Contender) -> Callable[[], object]:
    return contender.condition


def _barrier(contender: Contender) -> Callable[[], object]:
    return partial(contender.barrier, 2)


ROWS = [
    _row("Lock", _lock),
    _row("Semaphore", _semaphore),
    _row("Event", _event),
    _row("Condition", _condition),
    _row("Barrier", _barrier),
    Row("idle_waiter", "CPU of an idle waiter (5 kinds)", Unit.CPU, _idle, most_rounds=2),
]
