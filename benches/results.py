"""What was found: samples by interpreter, row and contender, and what follows from them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contenders import OURS, STDLIB

if TYPE_CHECKING:
    from rows import Row, Unit

# What stands for nothing in a ratio.
LEAST = 1e-9


@dataclass(frozen=True)
class Summary:
    """A median with the least and the greatest of its values."""

    median: float
    least: float
    greatest: float

    def as_json(self) -> dict[str, float]:
        """Return what `json` can write."""
        return {"median": self.median, "min": self.least, "max": self.greatest}


def summary(values: list[float]) -> Summary:
    """Sum values up."""
    return Summary(statistics.median(values), min(values), max(values))


@dataclass
class Measured:
    """The samples of one row on one interpreter: by contender, in the order of the rounds."""

    row: Row
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, sample: dict[str, Any]) -> None:
        """Keep a round's sample."""
        self.samples.setdefault(contender, []).append(sample)

    def of_rounds(self, contender: str) -> list[float]:
        """Return one value a round, the median of its repeats."""
        return [statistics.median(one["values"]) for one in self.samples.get(contender, [])]

    def values(self, contender: str) -> Summary | None:
        """Sum a contender up: the median of the rounds, and the extremes of all repeats."""
        if not self.samples.get(contender):
            return None
        every = [value for one in self.samples[contender] for value in one["values"]]
        return Summary(statistics.median(self.of_rounds(contender)), min(every), max(every))

    def goals(self, backend: str) -> dict[str, float]:
        """Name the ratios to reach, by contender; not those of a rival that isn't there."""
        rivals = {
            name: goal
            for name, goal in self.row.rivals.items()
            if goal and (name in self.samples or name in self.problems)
        }
        goal = self.row.goals.get(backend)
        return {STDLIB: goal, **rivals} if goal else rivals

    def reached(self, backend: str) -> list[bool]:
        """Say of each goal, and of the limit if there is one, whether it is reached."""
        told = [
            (ratio := self.ratio(contender)) is not None and ratio.median >= goal
            for contender, goal in self.goals(backend).items()
        ]
        if limit := self.row.limits.get(backend):
            ours = self.values(OURS)
            told.append(ours is not None and ours.median <= limit)
        return told

    def ratio(self, other: str = STDLIB) -> Summary | None:
        """How many times as good as another we are: of the medians, and of single rounds."""
        ours, theirs = self.of_rounds(OURS), self.of_rounds(other)
        if not ours or not theirs:
            return None
        pairs = [_ratio(self.row.unit, *pair) for pair in zip(ours, theirs, strict=False)]
        whole = _ratio(self.row.unit, statistics.median(ours), statistics.median(theirs))
        return Summary(whole, min(pairs), max(pairs))

    def details(self, contender: str) -> dict[str, float]:
        """Return the medians of what else was told."""
        told = [one["details"] for one in self.samples.get(contender, [])]
        return {
            key: statistics.median(one[key] for one in told) for key in (told[0] if told else ())
        }

    def as_json(self, backend: str) -> dict[str, object]:
        """Return what `json` can write; no sample is left out."""
        return {
            "row": self.row.name,
            "title": self.row.title,
            "unit": self.row.unit.text,
            "more_is_better": self.row.unit.more_is_better,
            "goals": self.goals(backend),
            "limit": self.row.limits.get(backend),
            "note": self.row.note,
            "contenders": {
                name: {
                    "summary": found and found.as_json(),
                    "ratio": ratio and ratio.as_json(),
                    "details": self.details(name),
                    "rounds": self.samples.get(name, []),
                    "problem": self.problems.get(name),
                }
                for name in (OURS, STDLIB, *self.row.rivals)
                for found, ratio in [(self.values(name), self.ratio(name))]
            },
        }


def _ratio(unit: Unit, ours: float, theirs: float) -> float:
    """Say how many times as good ours is, also where it took no measurable time."""
    better, worse = (ours, theirs) if unit.more_is_better else (theirs, ours)
    return better / max(worse, LEAST)


@dataclass
class OnInterpreter:
    """All rows on one interpreter; `processes` is what the processes said of themselves."""

    kind: str
    version: str
    backend: str
    rows: list[Measured]
    processes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return what `json` can write."""
        return {
            "interpreter": self.kind,
            "python": self.version,
            "backend": self.backend,
            "processes": self.processes,
            "rows": [measured.as_json(self.backend) for measured in self.rows],
        }
