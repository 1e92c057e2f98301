"""All rows, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import break_even
import contention
import cost
import handover
import pool_arrays
import pools
import queues
import single

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rows import Row

ROWS: tuple[Row, ...] = (
    *single.ROWS,
    *handover.ROWS,
    *queues.ROWS,
    *pools.ROWS,
    *pool_arrays.ROWS,
    *break_even.ROWS,
    *contention.ROWS,
    *cost.ROWS,
)


def matching(words: Sequence[str]) -> list[Row]:
    """Return the rows with one of the words in the name; all, if there are no words."""
    return [row for row in ROWS if not words or any(word in row.name for word in words)]
