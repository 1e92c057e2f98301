"""Runs of pytest against the built package: each under one configuration, ended and counted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import places
import venvs
import watched
from steps import ONE_FAILED, TestRun, Totals

if TYPE_CHECKING:
    from collections.abc import Mapping

# With `make fuzz` and `make crowd` for as long as is asked for beyond that.
MINUTES_MORE = sum(float(os.environ.get(f"{name}_MINUTES") or 0) for name in ("FUZZ", "CROWD"))
SECONDS_FOR_A_RUN = 600.0 + 60 * MINUTES_MORE
SECONDS_FOR_STRAYS = 5.0
NO_TESTS_COLLECTED = 5
# No cache, as one interpreter's would mislead the next; short tracebacks, as all are shown.
PLAIN = ("-p", "no:cacheprovider", "--tb=short")
# Each process of a run carries it in its environment, whatever group or session it is in.
MARK = "FREETHREADING_TEST_RUN"


@dataclass(frozen=True)
class Configuration:
    """One way to run the tests: an interpreter, and what is set in the environment."""

    kind: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name of the step."""
        return " ".join([self.kind, *(f"{key}={value}" for key, value in self.settings.items())])


ALL = (
    Configuration("3.11"),
    Configuration("3.12"),
    Configuration("3.13"),
    Configuration("3.14", {"FREETHREADING_BACKEND": "multiprocessing"}),
    Configuration("3.14", {"FREETHREADING_BACKEND": "threading"}),
    Configuration("3.14t"),
    Configuration("3.14t", {"PYTHON_GIL": "1"}),
)

# Where and how each test is run by many threads at once.
PARALLEL = Configuration("3.14t")
IN_PARALLEL = ("--parallel-threads=8", "--skip-thread-unsafe=true")
# Left out are those that are about other processes, and those that take long; a test that can't be
# run so (it has one signal handler, one list of what was seen) is marked as `thread_unsafe`.
PARALLEL_FILES = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("lock", "rlock", "semaphore", "event", "condition", "barrier"),
        *("queue", "simple_queue", "queue_many", "queue_life", "queue_messages"),
        *("items", "subclasses"),
        *("pool", "pool_lanes", "pool_nested", "executor", "futures"),
    )
)

# Where shared memory, messages and handles are overwritten at random, for how long.
MINUTES_OF_NONSENSE = "1"
NONSENSE = ["tests/test_hostile.py", "-k", "nonsense"]
FUZZED = tuple(
    Configuration(kind, {"FUZZ_MINUTES": os.environ.get("FUZZ_MINUTES", MINUTES_OF_NONSENSE)})
    for kind in ("3.14", "3.14t")
)


def run(
    test_run: TestRun,
    venv: venvs.Venv,
    configuration: Configuration,
    what: str,
    arguments: list[str],
    *,
    may_be_empty: bool = False,
) -> None:
    """Run pytest once; what it leaves running is killed, and counted as a failure."""
    name = f"{what} on {configuration}"
    mark = f"{os.getpid()}-{name.replace(' ', '-')}"
    report = places.OUTPUT / "logs" / f"{mark}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)

    def count(ended: watched.Ended) -> Totals:
        if ended.returncode == NO_TESTS_COLLECTED and may_be_empty:
            return Totals()
        totals = _totals(report)
        return totals if ended.is_good or totals.failed else totals + ONE_FAILED

    test_run.command(
        name,
        [venv.program("pytest"), *PLAIN, f"--junitxml={report}", *arguments],
        timeout=SECONDS_FOR_A_RUN,
        count=count,
        env={**venvs.clean_environment(), **configuration.settings, MARK: mark},
    )
    report.unlink(missing_ok=True)
    if strays := _end_strays(mark):
        name = f"processes left behind by {name}"
        test_run.record(watched.Progress(name), name, ONE_FAILED, "\n".join(strays))


def _totals(report: Path) -> Totals:
    """Read pytest's own count; a run that was cut off has none."""
    try:
        suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - our own file
    except (OSError, ET.ParseError):
        return Totals()
    totals = Totals()
    for suite in suites:
        tests, failures, errors, skipped = (
            int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        totals += Totals(max(0, tests - failed - skipped), failed, skipped)
    return totals


def _end_strays(mark: str) -> list[str]:
    """Give what carries the mark a moment to end, then kill it; return what had to be killed."""
    deadline = time.monotonic() + SECONDS_FOR_STRAYS
    while strays := _strays(mark):
        if time.monotonic() > deadline:
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return [f"{pid}: {command}" for pid, command in strays.items()]
        time.sleep(watched.SECONDS_BETWEEN_UPDATES)
    return []


def _strays(mark: str) -> dict[int, str]:
    """Return the processes whose environment carries the mark, with their command lines."""
    entry = f"{MARK}={mark}".encode()
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = command.decode(errors="replace")
    return found
