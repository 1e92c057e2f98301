"""The row of the shortest task that is worth two workers: with it, a serial loop takes longer.

Tasks are sent one by one. How long one is, is told by the serial loop. Loop and pool are timed in
turn, and the best time of each counts: what else goes on can only add to it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pools
from rows import Row, Sample, Unit
from tasks import nothing, spin

if TYPE_CHECKING:
    from collections.abc import Callable

    from contenders import Contender, Pool

# How long a map of empty tasks takes, so that what it costs once is little of that; how long loops
# of others take at most; and how many tasks there are at least.
SECONDS_OF_MAP = 0.004
SECONDS_OF_LOOP = 0.05
FEWEST_TASKS = 200
# How often both are timed to say which one takes longer.
TRIES = 3
# How near the longest task that isn't worth it comes to the shortest that is, or one turn.
PRECISION = 0.05
# If that isn't worth two workers, nothing is.
LONGEST_SECONDS = 0.002
TURNS_TO_CALIBRATE = 10_000
# A row takes its seconds so many times: they are shared by searches.
SHARES = 4


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _best(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(TRIES))


class Search:
    """A search for the number of turns from which a pool takes less time than a loop does."""

    def __init__(self, pool: Pool) -> None:
        """Find out what an empty task takes, and how many tasks fill a map."""
        self._pool = pool
        self.tasks = FEWEST_TASKS
        while (took := self._empty_map()) < SECONDS_OF_MAP / 2:
            self.tasks *= 2
        self.empty = took / self.tasks
        self._turn = _best(lambda: spin(TURNS_TO_CALIBRATE)) / TURNS_TO_CALIBRATE

    def _empty_map(self) -> float:
        return _best(lambda: self._pool.map(nothing, range(self.tasks), chunksize=1))

    def find(self) -> float:
        """Return the seconds of the shortest task."""
        # Two workers at best halve what a task and its sending take together. So it pays from about
        # the length on that sending has.
        turns = max(1, round(self.empty / self._turn))
        loop, pool = self._race(turns)
        if pool < loop:
            least, most, found = 0, turns, loop
        else:
            least, most, found = self._first_won(turns)
        while most - least > max(1, most * PRECISION):
            turns = (least + most) // 2
            loop, pool = self._race(turns)
            if pool < loop:
                most, found = turns, loop
            else:
                least = turns
        return found

    def _first_won(self, turns: int) -> tuple[int, int, float]:
        """Double the turns until the pool wins; return those before, these, and a task's time."""
        while True:
            turns *= 2
            loop, pool = self._race(turns)
            if pool < loop:
                return turns // 2, turns, loop
            if loop > LONGEST_SECONDS:
                message = f"no task pays: with {loop:.4f} s, 2 workers take {pool / loop:.2f} times"
                raise RuntimeError(message)

    def _race(self, turns: int) -> tuple[float, float]:
        """Return the seconds that a task takes in a loop, and in a map."""
        most = round(SECONDS_OF_LOOP / (turns * self._turn))
        items = [turns] * max(FEWEST_TASKS, min(most, self.tasks))

        def loop() -> None:
            for item in items:
                spin(item)

        def pool() -> None:
            self._pool.map(spin, items, chunksize=1)

        times = [(_seconds(loop), _seconds(pool)) for _ in range(TRIES)]
        loops, maps = (min(column) / len(items) for column in zip(*times, strict=True))
        return loops, maps


def _measure(contender: Contender, seconds: float) -> Sample:
    """Search once, and again while there is time."""
    values: list[float] = []
    ended = time.perf_counter() + SHARES * seconds
    with pools.warm_pool(contender) as pool:
        search = Search(pool)
        while not values or time.perf_counter() < ended:
            values.append(1e6 * search.find())
    return Sample(values, {"tasks": search.tasks, "empty_us": 1e6 * search.empty})


ROWS = [
    Row(
        "pool_break_even",
        "shortest task worth 2 workers, chunksize=1",
        Unit.MICROSECONDS,
        _measure,
        limits={"multiprocessing": 3, "threading": 1},
        note=pools.NOTE,
    ),
]
