"""Shows results: tables for a person, and one JSON file with every single sample."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import floors
from contenders import OURS, STDLIB
from session import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from results import Measured, OnInterpreter, Summary

HEADING = ("", "unit", "ours", "min..max", "stdlib", "min..max", "ratio", "min..max", "goal")
NOTE = (
    "ours, stdlib: median of the rounds, min and max of all repeats. ratio: how many times as good "
    "as the stdlib,\nabove 1 is better: of the medians, then the extremes of single rounds. goal: "
    "the ratio, or what\nours may be at most. Loops are unrolled, nothing is subtracted."
)


def tables(found: Sequence[OnInterpreter], floor: dict[str, Summary]) -> str:
    """Return everything as aligned text."""
    parts = [_table(one) for one in found]
    if floor:
        width = max(map(len, floors.TITLES.values()))
        lines = [
            f"  {floors.TITLES[name]:<{width}}  {_number(one.median):>8}  {_range(one)}"
            for name, one in floor.items()
        ]
        parts.append("\n".join(["Floors, without Python, in us (median, min..max)", *lines]))
    return "\n\n".join([*parts, NOTE])


def _table(one: OnInterpreter) -> str:
    """Return the table of an interpreter, and below it what doesn't fit into columns."""
    cells = [HEADING, *(_cells(measured, one.backend) for measured in one.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)  # noqa: PLR2004 - two are words
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    how = "threads" if one.backend == "threading" else "processes, forkserver"
    title = f"CPython {one.version} ({one.kind}), {one.backend} ({how})"
    return "\n".join([title, *lines, *_notes(one)])


def _cells(measured: Measured, backend: str) -> tuple[str, ...]:
    ours, theirs, ratio = measured.values(OURS), measured.values(STDLIB), measured.ratio()
    goal, limit = measured.row.goals.get(backend), measured.row.limits.get(backend)
    return (
        measured.row.title,
        measured.row.unit.text,
        *_pair(ours),
        *_pair(theirs),
        *_pair(ratio),
        f"{goal:g}" if goal else f"<= {limit:g}" if limit else "",
    )


def _pair(found: Summary | None) -> tuple[str, str]:
    return (_number(found.median), _range(found)) if found else ("-", "")


def _range(found: Summary) -> str:
    return f"{_number(found.least)}..{_number(found.greatest)}"


def _number(value: float) -> str:
    """Return three significant digits, without exponents."""
    for bound, decimals in ((1, 3), (10, 2), (100, 1)):
        if abs(value) < bound:
            return f"{value:.{decimals}f}"
    return f"{value:,.0f}"


def _notes(one: OnInterpreter) -> Iterator[str]:
    """Tell the details of each row, ours / the stdlib's, what went wrong, and the rows' notes."""
    for measured in one.rows:
        ours, theirs = measured.details(OURS), measured.details(STDLIB)
        told = [
            f"{name} {_detail(ours, name)} / {_detail(theirs, name)}"
            for name in dict.fromkeys([*ours, *theirs])
        ]
        if told:
            yield f"  {measured.row.name} (ours / stdlib): {', '.join(told)}"
        for rival, goal in measured.row.rivals.items():
            if measured.values(rival):
                yield f"  {measured.row.name}, {rival}: {_rivalry(measured, rival, goal)}"
        for contender, problem in measured.problems.items():
            yield f"  {measured.row.name}, {contender}: NOT MEASURED: {problem}"
    for note in dict.fromkeys(measured.row.note for measured in one.rows if measured.row.note):
        names = [measured.row.name for measured in one.rows if measured.row.note == note]
        yield f"  {', '.join(names)}: {note}"


def _rivalry(measured: Measured, rival: str, goal: float) -> str:
    """Tell what a rival takes, and how many times as good as it we are."""
    (value, spread), (ratio, ratios) = _pair(measured.values(rival)), _pair(measured.ratio(rival))
    told = f"{value} {measured.row.unit.text} ({spread}), ratio {ratio} ({ratios})"
    return f"{told}, goal {goal:g}" if goal else told


def _detail(details: dict[str, float], name: str) -> str:
    value = details.get(name)
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() else _number(value)


def write(
    found: Sequence[OnInterpreter],
    floor: dict[str, Summary],
    where: dict[str, object],
    settings: dict[str, object],
) -> Path:
    """Write the JSON file of this run and return its path."""
    now = time.strftime("%Y%m%d-%H%M%S")
    told = {
        "time": now,
        "machine": where,
        "settings": settings,
        "floors_us": {name: one.as_json() for name, one in floor.items()},
        "interpreters": [one.as_json() for one in found],
    }
    file = OUTPUT / f"{now}-{where['commit']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return file


def last_line(found: Sequence[OnInterpreter], seconds: float, file: Path) -> str:
    """Sum the run up."""
    rows = [measured for one in found for measured in one.rows]
    ratios = [ratio.median for measured in rows if (ratio := measured.ratio()) is not None]
    goals = [
        is_reached
        for one in found
        for measured in one.rows
        for is_reached in measured.reached(one.backend)
    ]
    failed = sum(bool(measured.problems) for measured in rows)
    return (
        f"bench: {len(rows)} rows in {seconds:.0f} s, better than the stdlib in "
        f"{sum(ratio > 1 for ratio in ratios)}, {sum(goals)} of {len(goals)} goals reached, "
        f"{failed} rows not measured; {file}"
    )
