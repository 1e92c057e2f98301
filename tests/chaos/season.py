"""A run of many plays: in an order that a seed decides, some at a time, counted and shown."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import random
import signal
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import subjects
import theatre
import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import watched
    from scenarios import Scenario
    from theatre import Cast, Outcome

_LINES_OF_A_FAILURE = 40
# What hangs elsewhere needn't be waited for as long as what must not hang here.
PATIENCE = 20.0
OTHERS_PATIENCE, OTHERS_SECONDS = 5.0, 25.0
AT_A_TIME = max(2, 2 * (os.cpu_count() or 1))
# Most of what others do is hang.
OTHERS_AT_A_TIME = 2 * AT_A_TIME


@dataclass(frozen=True)
class Entry:
    """One play: who does what."""

    scenario: Scenario
    subject: str
    cast: Cast

    def __str__(self) -> str:
        """Return a name that no other play of a round has."""
        return f"{self.scenario.title} [{self.subject}, {self.cast.name}]"


@dataclass
class Totals:
    """What all plays came to."""

    plays: int = 0
    failed: int = 0
    skipped: int = 0
    kills: int = 0
    items: int = 0
    lost: int = 0
    doubled: int = 0
    torn: int = 0
    hangs: int = 0
    leftovers: int = 0
    scenarios: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry, outcome: Outcome, problems: list[str]) -> None:
        """Count a play."""
        facts, strike = outcome.facts, entry.scenario.strike
        if skipped := outcome.skipped or facts.get("skipped", ""):
            self.skipped += 1
            self.reasons[entry.scenario.title] = skipped
            return
        self.plays += 1
        self.scenarios.add(entry.scenario.title)
        self.failed += bool(problems)
        self.kills += facts.get("kills", 0)
        self.kills += strike is not None and strike.number == signal.SIGKILL
        self.hangs += outcome.timed_out
        for what in ("items", "lost", "doubled", "torn"):
            setattr(self, what, getattr(self, what) + facts.get(what, 0))
        self.leftovers += len(outcome.left.processes)

    def __str__(self) -> str:
        """Return the closing line."""
        return (
            f"{self.plays} plays of {len(self.scenarios)} scenarios, {self.kills} kills, "
            f"{self.items} items moved, {self.lost} lost in killed workers' hands, "
            f"{self.doubled} doubled, {self.torn} torn, {self.hangs} hangs, "
            f"{self.leftovers} processes left; {self.failed} failed, {self.skipped} skipped"
        )


class Season:
    """Plays entries, round after round, and shows what comes of them."""

    def __init__(self, entries: Sequence[Entry], seed: int, progress: watched.Progress) -> None:
        """Begin; nothing is played yet."""
        has_others = any(entry.subject not in subjects.IS_OURS for entry in entries)
        self._at_a_time = OTHERS_AT_A_TIME if has_others else AT_A_TIME
        self._entries, self._seed, self._progress = list(entries), seed, progress
        self.totals = Totals()
        self.found: list[tuple[Entry, Outcome]] = []
        self._under_way: dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self, seconds: float, *, once: bool) -> None:
        """Play for so long, or everything once."""
        deadline = time.monotonic() + seconds
        queue = self._order(once=once)
        with concurrent.futures.ThreadPoolExecutor(self._at_a_time) as threads:
            running: set[concurrent.futures.Future[None]] = set()
            try:
                for number, entry in queue:
                    while len(running) >= self._at_a_time:
                        running = self._wait(running)
                    if not once and time.monotonic() >= deadline:
                        break
                    running.add(threads.submit(self._play, number, entry))
                while running:
                    running = self._wait(running)
            except BaseException:
                theatre.is_over.set()
                raise

    def _order(self, *, once: bool) -> Iterator[tuple[int, Entry]]:
        number = 0
        while not (once and number):
            entries = list(self._entries)
            random.Random(f"{self._seed} {number}").shuffle(entries)
            yield from ((number, entry) for entry in entries)
            number += 1

    def _wait(
        self, running: set[concurrent.futures.Future[None]]
    ) -> set[concurrent.futures.Future[None]]:
        done, rest = concurrent.futures.wait(
            running, 0.2, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for one in done:
            one.result()
        with self._lock:
            kills = self.totals.kills + sum(self._under_way.values())
            told = f"{self.totals.plays} plays, {self.totals.failed} failed, {kills} kills so far"
        self._progress.phase(told)
        return set(rest)

    def _play(self, number: int, entry: Entry) -> None:
        seed = zlib.crc32(f"{self._seed} {number} {entry}".encode())
        name = f"{number} {entry}"

        def watch(kills: int) -> None:
            with self._lock:
                self._under_way[name] = kills

        is_ours = entry.subject in subjects.IS_OURS
        scenario, patience = entry.scenario, PATIENCE
        if not is_ours:
            scenario, patience = (
                dataclasses.replace(scenario, seconds=OTHERS_SECONDS),
                OTHERS_PATIENCE,
            )
        outcome = theatre.play(
            scenario, entry.subject, entry.cast, seed, watch=watch, patience=patience
        )
        problems = verdicts.failures(scenario, outcome) if is_ours else []
        with self._lock:
            self._under_way.pop(name, None)
            if theatre.is_over.is_set():
                return
            if is_ours:
                self.totals.add(entry, outcome, problems)
            self.found.append((entry, outcome))
        if problems:
            self._show(entry, outcome, problems)

    def _show(self, entry: Entry, outcome: Outcome, problems: list[str]) -> None:
        lines = outcome.log.strip().splitlines()[-_LINES_OF_A_FAILURE:]
        # Double quotes within, for there are apostrophes in the names.
        words = f'--only \\"{entry.scenario.title}\\"'
        again = f'make chaos CHAOS_SEED={self._seed} ARGS="{words}"'
        told = [*(f"  {problem}" for problem in problems), f"  again: {again}"]
        told += [f"  | {line}" for line in lines]
        with self._lock:
            print(f"FAILED {entry}", *told, sep="\n", flush=True)
