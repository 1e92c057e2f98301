"""How a short piece of work is timed: often enough, and without a loop around each turn.

A statement is written out `UNROLLED` times in the body of the loop, as it stands in a program. What
is left of the loop's own cost, a fiftieth of a turn (below a nanosecond), is not subtracted;
neither is what finding an object's method costs, for users pay that, too.
"""

from __future__ import annotations

import contextlib
import os
import time
import timeit
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

UNROLLED = 50
REPEATS = 5
# The part of the time of one repeat that suffices to foretell how many turns fill it.
CALIBRATION = 0.25


def seconds_each(run: Callable[[int], float], seconds: float) -> list[float]:
    """Return the seconds per turn, `REPEATS` times, each over the same number of turns.

    `run` does a number of turns and returns the seconds that they took. All repeats together take
    about `seconds`.
    """
    share = seconds / REPEATS
    turns = 1
    while (took := run(turns)) < share * CALIBRATION:
        turns *= 2
    turns = max(1, round(turns * share / took))
    return [run(turns) / turns for _ in range(REPEATS)]


def statement(text: str, subject: object, seconds: float) -> list[float]:
    """Return the microseconds that a statement takes; in it, `o` is a local name of `subject`."""
    body = "\n".join([text] * UNROLLED)
    timer = timeit.Timer(body, "o = subject", globals={"subject": subject})
    return [1e6 * each / UNROLLED for each in seconds_each(timer.timeit, seconds)]


def cpu_seconds_of_all() -> float:
    """Return the CPU time so far of this process and all others of its session that are there.

    A process that measures is the first of its session, so these are those that it has started,
    and those that they have. One that has ended doesn't count any more.
    """
    session, total = os.getsid(0), 0.0
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, no paths
        with contextlib.suppress(OSError, ValueError):
            pid = int(name)
            if os.getsid(pid) == session:
                # The clock of a process, numbered as clock_getcpuclockid(3) does.
                total += time.clock_gettime(~pid << 3 | 2)
    return total
