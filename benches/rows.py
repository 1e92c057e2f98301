"""What a row of the table is: a piece of work, how it is measured, and what it should reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contenders import Contender

# A row that is measured in each round, however many there are.
ALWAYS = 1000


class Unit(Enum):
    """What the numbers of a row count, and whether more of it is better."""

    MICROSECONDS = ("us", False)
    PER_SECOND = ("1000/s", True)
    CPU = ("CPU us/s", False)
    SHARED = ("shared/own", True)

    @property
    def text(self) -> str:
        """The unit as it is printed."""
        return self.value[0]

    @property
    def more_is_better(self) -> bool:
        """Which way the ratio goes: it is above 1 where we are better."""
        return self.value[1]


@dataclass(frozen=True)
class Sample:
    """What one measurement found: repeated values of a row's unit, and what else is to be known."""

    values: list[float]
    details: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return what `json` can write."""
        return asdict(self)


@dataclass(frozen=True)
class Row:
    """A piece of work. `measure` is told who does it and how many seconds it may take, roughly.

    `goals` are the ratios to reach, by backend, and `limits` what may at most be measured, in the
    row's unit; nothing fails where one isn't reached. `most_rounds` is for rows that take long or
    vary little. `is_fresh` is for those that want a process of their own, in which no earlier row
    has left memory to be used again. `rivals` are measured, too, between processes, where they can
    be installed; with the ratio to reach, 0 if none is set. `note` is what a reader has to know.
    """

    name: str
    title: str
    unit: Unit
    measure: Callable[[Contender, float], Sample]
    goals: Mapping[str, float] = field(default_factory=dict)
    most_rounds: int = ALWAYS
    is_fresh: bool = False
    rivals: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def goals(processes: float, threads: float) -> dict[str, float]:
    """Name the ratios to reach on both backends."""
    return {"multiprocessing": processes, "threading": threads}
