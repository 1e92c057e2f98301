"""The steps of a test run: each is a command, counted, timed, and shown in full when it fails."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import places
import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

LINES_OF_A_FAILURE = 400


@dataclass(frozen=True)
class Totals:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Totals) -> Totals:
        """Add up."""
        return Totals(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        """Return the closing line of `make test`."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


ONE_PASSED = Totals(passed=1)
ONE_FAILED = Totals(failed=1)


def count_one(ended: watched.Ended) -> Totals:
    """Count a command that is one test: it succeeds or it doesn't."""
    return ONE_PASSED if ended.is_good else ONE_FAILED


def count_rust(ended: watched.Ended) -> Totals:
    """Add up what cargo test or cargo nextest said; a build that failed is one failed test."""
    text = ended.log.read_text(encoding="utf-8", errors="replace")
    summaries = re.findall(r"^(?:test result:|\s*Summary \[).*$", text, re.MULTILINE)
    lines = "\n".join(summaries)

    def total(what: str) -> int:
        return sum(map(int, re.findall(rf"(\d+) (?:{what})\b", lines)))

    told = Totals(total("passed"), total("failed|timed out|exec failed"), total("ignored|skipped"))
    return told if ended.is_good or told.failed else told + ONE_FAILED


class TestRun:
    """What has been run so far, and how it went."""

    __test__ = False

    def __init__(self) -> None:
        """Start with nothing run."""
        self.totals = Totals()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def command(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        timeout: float,
        count: Callable[[watched.Ended], Totals] = count_one,
        env: Mapping[str, str] | None = None,
    ) -> bool:
        """Run one step in the repository and count it; tell whether it succeeded."""
        progress = watched.Progress(name)
        log = places.OUTPUT / "logs" / f"{name.replace(' ', '-')}.log"
        ended = watched.run(command, log, progress, timeout=timeout, cwd=places.REPOSITORY, env=env)
        totals = count(ended)
        if not totals.failed:
            self.record(progress, name, totals)
            return True
        how = f"timed out after {timeout:g} s" if ended.timed_out else f"exit {ended.returncode}"
        self.record(progress, name, totals, f"{how}\n{ended.tail(LINES_OF_A_FAILURE)}")
        return False

    def record(self, progress: watched.Progress, name: str, totals: Totals, why: str = "") -> None:
        """Count a step and say how it went; `why` is the story of a failure."""
        with self._lock:
            self.totals += totals
            if totals.failed:
                self.failures.append(name)
        if not totals.failed:
            progress.end("ok" if totals == ONE_PASSED else f"ok, {totals}")
            return
        progress.end(f"FAILED, {totals}", f"{why}\n--- end of {name} ---")
