"""Has one scenario played: a process of its own session, strikes at the right moment, an end.

Whatever happens, nothing of a scenario outlives `play`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cues
import hardships
import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scenarios import Scenario, Strike

# Set when no play shall go on.
is_over = threading.Event()
# As it was at first: pytest changes it amidst plays, in another thread.
_ENVIRONMENT = dict(os.environ)
_PAUSE = 0.01
_DEADLY = (signal.SIGKILL, signal.SIGTERM)
_SECONDS_TO_END = 2.0
_SECONDS_TO_DUMP_STACKS = 1.0


@dataclass(frozen=True)
class Cast:
    """Who plays: an interpreter, a backend, and for other packages where their modules are."""

    python: str
    backend: str
    name: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How it went. `facts` are those of the main process, if it lived to tell any."""

    seconds: float
    returncode: int
    timed_out: bool
    step: str
    facts: Mapping[str, Any]
    left: leftovers.Leftovers
    log: str
    skipped: str = ""

    @property
    def last_line(self) -> str:
        """Return the last line of what was printed."""
        lines = self.log.strip().splitlines()
        return lines[-1] if lines else ""


def play(
    scenario: Scenario,
    subject: str,
    cast: Cast,
    seed: int,
    *,
    watch: Callable[[int], None] = lambda _: None,
    patience: float = 20.0,
) -> Outcome:
    """Have a scenario played by a subject; `watch` is told now and then how many were killed."""
    if reason := hardships.why_not(scenario.hardship):
        return Outcome(0, 0, False, "", {}, leftovers.Leftovers(), "", skipped=reason)
    # Short, as sockets have their names in it; open to all, as some play as another user.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.chmod(0o777)
    try:
        return _Play(scenario, subject, cast, seed, folder).run(watch, patience)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Play:
    """One play, in a folder of its own."""

    def __init__(
        self, scenario: Scenario, subject: str, cast: Cast, seed: int, folder: Path
    ) -> None:
        self._scenario, self._subject, self._cast = scenario, subject, cast
        self._seed, self._folder = seed, folder
        self._mark = f"{cues.FOLDER}={folder}"

    def run(self, watch: Callable[[int], None], patience: float) -> Outcome:
        """Start the program, watch it, and see what is left."""
        for name in ("tmp", "cwd"):
            (self._folder / name).mkdir()
            (self._folder / name).chmod(0o777)
        started = time.monotonic()
        process = self._start(patience)
        try:
            timed_out = not self._watch(process, watch)
            seconds = time.monotonic() - started
            if timed_out:
                self._dump_stacks(process)
                leftovers.kill_all(self._mark)
            left = leftovers.collect(self._mark, self._folder)
        finally:
            leftovers.kill_all(self._mark)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        step, log = _read(self._folder / "step"), _read(self._folder / "log")
        return Outcome(seconds, process.returncode, timed_out, step, self._facts(), left, log)

    def _start(self, patience: float) -> subprocess.Popen[bytes]:
        scenario = self._scenario
        order = {
            "subject": self._subject,
            "act": scenario.act,
            "arguments": dict(scenario.arguments),
            "hardship": scenario.hardship,
            "seed": self._seed,
            "measures": scenario.measures,
        }
        program = [self._cast.python, str(Path(__file__).with_name("play.py")), json.dumps(order)]
        command, settings = hardships.command(scenario.hardship, program, self._folder)
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder / "cwd",
                env={**self._environment(patience), **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, patience: float) -> dict[str, str]:
        unwanted = ("PYTHON", "FREETHREADING_", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "CHAOS_")
        kept = {
            name: value
            for name, value in _ENVIRONMENT.items()
            if name == "PYTHON_GIL" or not name.startswith(unwanted)
        }
        modules = self._cast.modules.get(self._subject)
        return {
            **kept,
            **({} if modules is None else {"PYTHONPATH": modules}),
            cues.FOLDER: str(self._folder),
            "TMPDIR": str(self._folder / "tmp"),
            "CHAOS_PATIENCE": str(patience),
            "PYTHONFAULTHANDLER": "1",
            "FREETHREADING_BACKEND": self._cast.backend,
        }

    def _watch(self, process: subprocess.Popen[bytes], watch: Callable[[int], None]) -> bool:
        """Strike when it is time; return whether the program ended within its time.

        A soak has that time again whenever it has come further.
        """
        deadline = time.monotonic() + self._scenario.seconds
        strike = self._scenario.strike
        next_look = time.monotonic() + 1.0
        known: dict[str, Any] = {}
        while process.poll() is None:
            if time.monotonic() >= deadline or is_over.is_set():
                return False
            if strike is not None and self._is_time(strike):
                self._strike(strike, process)
                strike = None
            if time.monotonic() >= next_look:
                next_look += 1.0
                facts = self._facts()
                watch(int(facts.get("kills", 0)))
                if self._scenario.is_soak and facts != known:
                    known = facts
                    deadline = time.monotonic() + self._scenario.seconds
            time.sleep(_PAUSE)
        return True

    def _is_time(self, strike: Strike) -> bool:
        if strike.at_gate:
            return (self._folder / "gate-go").exists()
        return bool(cues.given("ready", self._folder))

    def _strike(self, strike: Strike, process: subprocess.Popen[bytes]) -> None:
        """Send the signal, and SIGCONT after a while if there is to be one."""
        # A moment from the seed: the one who is struck goes on meanwhile.
        time.sleep(self._seed % 997 / 997 * strike.within)
        pids = self._whom(strike, process)
        _send(pids, strike.number)
        if strike.whom == "group":
            os.killpg(process.pid, strike.number)
        if strike.whom == "worker" and strike.number in _DEADLY:
            _await_end(pids)
        cues.open_gate("struck", self._folder)
        if strike.resumes_after:
            time.sleep(strike.resumes_after)
            _send(pids, signal.SIGCONT)
        cues.open_gate("over", self._folder)

    def _whom(self, strike: Strike, process: subprocess.Popen[bytes]) -> list[int]:
        if strike.whom == "worker":
            return cues.given("present" if strike.at_gate else "ready", self._folder)[:1]
        if strike.whom == "main":
            return [process.pid]
        if strike.whom == "server":
            children = leftovers.marked(self._mark, lambda pid: _parent(pid) == process.pid)
            return [pid for pid in children if _is_fork_server(pid)]
        return []

    def _dump_stacks(self, process: subprocess.Popen[bytes]) -> None:
        """Have all processes show their stacks, by the signal that also ends them."""
        _send(leftovers.marked(self._mark), signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_DUMP_STACKS)

    def _facts(self) -> dict[str, Any]:
        text = _read(self._folder / "facts")
        facts: dict[str, Any] = json.loads(text) if text else {}
        return facts


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _await_end(pids: list[int]) -> None:
    """Wait until processes run no more, but for those that don't end by a signal."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while any(map(leftovers.is_running, pids)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[1])


def _is_fork_server(pid: int) -> bool:
    return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
