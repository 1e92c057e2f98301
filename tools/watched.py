"""Long commands with a person watching: progress, a hard time limit, no process left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_UPDATES = 0.2
SECONDS_TO_DUMP_STACKS = 5.0

_STARTED = time.monotonic()
# Commands may run in several threads.
_output = threading.Lock()
_is_stopped = threading.Event()


class StoppedError(Exception):
    """The whole run is to end."""


def stop_all() -> None:
    """Have all commands end that run in other threads, and those that wait for their turn."""
    _is_stopped.set()


class Progress:
    """Says what goes on: one updating line on a terminal, elsewhere a line every 15 seconds."""

    def __init__(self, what: str, out: TextIO = sys.stdout) -> None:
        """Start the clock of one piece of work."""
        self._what = what
        self._out = out
        self._is_terminal = out.isatty()
        self._started = time.monotonic()
        self._next_line = self._started + SECONDS_BETWEEN_LINES

    @property
    def seconds(self) -> float:
        """How long this piece of work has taken so far."""
        return time.monotonic() - self._started

    def phase(self, what: str) -> None:
        """Name what is done now."""
        self._what = what
        self.tick()

    def tick(self) -> None:
        """Show that the work goes on."""
        if self._is_terminal:
            with _output:
                print(f"\r\x1b[K{self._line(' ...')}", end="", flush=True, file=self._out)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            with _output:
                print(self._line(" ..."), flush=True, file=self._out)

    def end(self, outcome: str, details: str = "") -> None:
        """Say how the work ended, on a line of its own, and below it what else is to be known."""
        with _output:
            if self._is_terminal:
                print("\r\x1b[K", end="", file=self._out)
            print(self._line(f": {outcome}"), *details.splitlines(), sep="\n", file=self._out)
            self._out.flush()

    def _line(self, state: str) -> str:
        total = time.monotonic() - _STARTED
        return f"[{total:6.1f} s] {self._what}{state} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and where its output is."""

    returncode: int
    timed_out: bool
    log: Path

    @property
    def is_good(self) -> bool:
        """Whether it ended by itself with exit status 0."""
        return self.returncode == 0 and not self.timed_out

    def tail(self, lines: int) -> str:
        """Return the last lines of the output."""
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        cut = [f"... ({len(text) - lines} lines more in {self.log})"] if len(text) > lines else []
        return "\n".join(cut + text[-lines:])


def run(
    command: Sequence[str | Path],
    log: Path,
    progress: Progress,
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command in a process group of its own, its output in `log`.

    After `timeout` seconds the group gets SIGABRT, which makes Python dump its stacks, and a little
    later SIGKILL. Nothing of the group outlives this call, however it ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"{command[0]}: {error}\n".encode())
            return Ended(127, timed_out=False, log=log)
        with process, _group_ended(process):
            timed_out = not _wait(process, timeout, progress)
    return Ended(process.returncode, timed_out=timed_out, log=log)


@contextlib.contextmanager
def _group_ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave nothing of the process group behind."""
    try:
        yield
    finally:
        signal_group(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], timeout: float, progress: Progress) -> bool:
    """Wait for the end and return True, or stop the command when the time is up."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if _is_stopped.is_set():
            raise StoppedError
        progress.tick()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_UPDATES)
            return True
    signal_group(process.pid, signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_DUMP_STACKS)
    return False


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to every process of a group that is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def take(lock: TextIO, progress: Progress, what: str) -> None:
    """Take the lock of a file; the kernel frees it when the file is closed or its holder ends."""
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.phase(f"waiting for another process that uses {what}")
            time.sleep(SECONDS_BETWEEN_UPDATES)


def end_by_exception() -> None:
    """Make a request to end this process an exception, so that what it started ends with it."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
