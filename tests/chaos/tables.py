"""The tables of docs/reliability.md, from outcomes; rows that say the same become one."""

from __future__ import annotations

import os
import platform
import re
from typing import TYPE_CHECKING

import subjects
import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from season import Entry
    from theatre import Outcome

    Row = tuple[str, tuple[str, ...]]

BEGIN, END = "<!-- tables: begin (make chaos ARGS=--table) -->", "<!-- tables: end -->"
_HERE = "here"
# Groups of scenarios, what stands above them, and the columns.
_POOL_COLUMNS = (_HERE, *subjects.POOLS[2:])
_SHARING_COLUMNS = (_HERE, "multiprocessing")
_MERGED = (
    r"killed|told to end \(SIGTERM\)|interrupted \(SIGINT\)|stopped for [\d.]+ s",
    r"\b(?:BoundedSemaphore|Semaphore|RLock|Lock|Condition|Event|Barrier|SimpleQueue|Queue)\b",
    r"the main process|the process group",
    r"by its end|by sys\.exit\(7\)|by an exception|by os\._exit\(7\)",
    r"an idle pool|a busy pool",
    r"waiting workers|full queues",
    r"is missing|is read-only|has 64 KiB",
)


def write(file: Path, found: Iterable[tuple[Entry, Outcome]]) -> None:
    """Put the tables where the page has its marks for them."""
    cells: dict[tuple[str, bool], dict[str, dict[str, str]]] = {}
    counted = {True: _Counts(), False: _Counts()}
    for entry, outcome in found:
        is_of_pools = entry.subject in subjects.POOLS
        rows = cells.setdefault((entry.scenario.group, is_of_pools), {})
        told = rows.setdefault(entry.scenario.name, {})
        told[entry.subject] = verdicts.words(entry.scenario, outcome)
        counted[entry.subject in subjects.IS_OURS].add(outcome)
    text = [f"CPython 3.14 on {_where()}.", ""]
    for (group, is_of_pools), rows in sorted(cells.items()):
        columns = _POOL_COLUMNS if is_of_pools else _SHARING_COLUMNS
        title = _TITLES[group, is_of_pools]
        text += [f"### {title}", "", *_table(columns, _rows(rows, is_of_pools=is_of_pools)), ""]
    text += [f"Here: {counted[True]}.", "", f"All others together: {counted[False]}."]
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    body = "\n".join(text)
    file.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


_TITLES = {
    ("pool", True): "Pools",
    ("sharing", False): "Primitives",
    ("queue", False): "Queues",
    ("end", True): "Programs that end with pools",
    ("end", False): "Programs that end, or fork, with workers",
    ("hardship", True): "Pools where the system lacks something",
    ("hardship", False): "Primitives, queues and workers where the system lacks something",
    ("soak", True): "Many kills: pools",
    ("soak", False): "Many kills: queues and locks",
}


class _Counts:
    """What all plays of some came to."""

    def __init__(self) -> None:
        self._plays = self._hangs = self._left = self._kills = 0
        self._facts = dict.fromkeys(("items", "doubled", "torn", "unanswered"), 0)

    def add(self, outcome: Outcome) -> None:
        """Count a play."""
        if outcome.skipped:
            return
        self._plays += 1
        self._hangs += outcome.timed_out
        self._left += len(outcome.left.processes)
        self._kills += outcome.facts.get("kills", 0)
        for name in self._facts:
            self._facts[name] += outcome.facts.get(name, 0)

    def __str__(self) -> str:
        """Return them in a sentence."""
        facts = ", ".join(f"{count} {name}" for name, count in self._facts.items())
        return (
            f"{self._plays} plays, {self._hangs} hangs, {self._kills} kills in the soaks, {facts}, "
            f"{self._left} processes left"
        )


def _where() -> str:
    kernel = ".".join(platform.release().split(".")[:2])
    return f"Linux {kernel} ({platform.machine()}), {os.cpu_count()} cores, forkserver"


def _rows(rows: dict[str, dict[str, str]], *, is_of_pools: bool) -> list[Row]:
    """Return rows in the order of the scenarios, those that say the same made one."""
    found = [(name, _cells(told, is_of_pools=is_of_pools)) for name, told in sorted(rows.items())]
    for words in _MERGED:
        found = _merge(found, re.compile(words))
    return found


def _cells(told: dict[str, str], *, is_of_pools: bool) -> tuple[str, ...]:
    ours = [told[name] for name in subjects.IS_OURS if name in told]
    here = ours[0] if len(set(ours)) == 1 else " / ".join(ours)
    others = subjects.POOLS[2:] if is_of_pools else (subjects.STDLIB,)
    return (here or "-", *(told.get(name, "-") for name in others))


def _merge(rows: Sequence[Row], words: re.Pattern[str]) -> list[Row]:
    """Make one of rows whose names differ in one of the words only, and whose cells are alike."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, cells in rows:
        match = words.search(name)
        template = name if match is None else words.sub("{}", name, count=1)
        together.setdefault((template, cells), []).append("" if match is None else match[0])
    return [
        (template.replace("{}", _either(found)), cells)
        for (template, cells), found in together.items()
    ]


def _either(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _table(columns: tuple[str, ...], rows: list[Row]) -> list[str]:
    head = ["| what happens |", *(f" {column} |" for column in columns)]
    lines = ["".join(head), "| --- |" + " --- |" * len(columns)]
    for name, cells in rows:
        safe = [cell.replace("|", "\\|").replace("\n", " ") for cell in (name, *cells)]
        lines.append("| " + " | ".join(safe) + " |")
    return lines
