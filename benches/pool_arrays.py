"""Rows of pools whose tasks have large arrays as arguments, or as results.

What is timed is that an array is there: tasks look at its ends, and whoever asks gets the results.
Between threads that is a reference. There are few arrays at a time, else what is measured is how
fast memory can be had.
"""

from __future__ import annotations

import statistics
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import arrays
import pools
from contenders import JOBLIB
from rows import Row, Sample, Unit
from tasks import ARRAY_BYTES, look_at_ends, send_array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contenders import Contender, Mapper

# Arrays of one map, and tasks that have one array together.
COUNT = 4
SHARERS = 8
# The part of an array's time that its floor is measured for.
SHARE_OF_FLOOR = 0.2


@cache
def _kept() -> list[Any]:
    """Return arrays whose pages are all there, made once in a process."""
    return [arrays.ones(ARRAY_BYTES) for _ in range(COUNT)]


def _different(mapper: Mapper) -> None:
    """Send arrays that nobody has seen before: joblib knows again those that it has sent."""
    _map(mapper, [array.view() for array in _kept()])


def _same(mapper: Mapper) -> None:
    """Send an array to many tasks that no map before has sent."""
    _map(mapper, [_kept()[0].view()] * SHARERS)


def _map(mapper: Mapper, items: list[Any]) -> None:
    found = mapper.map(look_at_ends, items, chunksize=1)
    if found != [2] * len(items):
        message = f"both ends of the arrays together are {found}"
        raise RuntimeError(message)


def _results(mapper: Mapper) -> None:
    found = mapper.map(send_array, range(COUNT), chunksize=1)
    if [look_at_ends(array) for array in found] != [2] * COUNT:
        message = "the arrays that came aren't those that were sent"
        raise RuntimeError(message)


def _measure(
    work: Callable[[Mapper], None], tasks: int, contender: Contender, seconds: float
) -> Sample:
    """Measure what an array takes, and how many times that is what copying it takes."""
    floor = arrays.copy_seconds(_kept()[0], seconds * SHARE_OF_FLOOR)
    with pools.warm_mapper(contender) as mapper:
        sample = pools.repeated(partial(work, mapper), tasks, seconds)
    copies = statistics.median(sample.values) / (1e6 * floor)
    return Sample(sample.values, {**sample.details, "copy_us": 1e6 * floor, "copies": copies})


def _row(
    name: str,
    title: str,
    work: Callable[[Mapper], None],
    tasks: int = COUNT,
    rivals: Mapping[str, float] | None = None,
) -> Row:
    measure, reach = partial(_measure, work, tasks), {"multiprocessing": 15}
    unit = Unit.MICROSECONDS
    return Row(name, title, unit, measure, reach, rivals=rivals or {}, note=pools.NOTE)


ROWS = [
    _row(
        "pool_array_argument",
        "pool.map, chunksize=1, 8 MiB NumPy arrays",
        _different,
        rivals={JOBLIB: 1},
    ),
    _row(
        "pool_array_shared",
        f"the same, one array for {SHARERS} tasks, per task",
        _same,
        SHARERS,
        {JOBLIB: 1},
    ),
    _row("pool_array_result", "the same, 8 MiB NumPy arrays as results", _results),
]
