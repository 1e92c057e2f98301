"""The other end of `measure.py`: a fresh process per contender and round, asked row by row."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import places
import venvs
import watched

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

MEASURE = Path(__file__).with_name("measure.py")
OUTPUT = places.REPOSITORY / "target" / "bench"
SECONDS_FOR_AN_ANSWER = 60.0
SECONDS_TO_END = 10.0
SECONDS_TO_TIDY_UP = 3.0
SECONDS_BETWEEN_UPDATES = 0.2
LINES_OF_A_FAILURE = 15


class MeasureError(Exception):
    """A row could not be measured; the text is the end of what the process said."""


class Session:
    """A process that measures. Its group and temporary files are gone when the `with` is left."""

    def __init__(
        self, python: Path, contender: str, backend: str, name: str, modules: Path | None = None
    ) -> None:
        """Name what is measured; `name` is that of the log, `modules` a folder for it alone."""
        self._command: list[str | Path] = [python, MEASURE, contender, backend]
        self._settings = {"FREETHREADING_BACKEND": backend}
        if modules is not None:
            self._settings["PYTHONPATH"] = str(modules)
        self._log = OUTPUT / "logs" / f"{name}-{contender}.log"

    def __enter__(self) -> Self:
        """Start the process."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix="bench-")
        own = {**self._settings, "TMPDIR": self._folder}
        environment = {**venvs.clean_environment(), **own}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the process end, by itself if nothing is wrong."""
        self.end(gently=exc_type is None)

    def end(self, *, gently: bool) -> None:
        """End the process and its group, once; gently, it is first let clean up after itself.

        What removes shared files when all others are gone (stdlib's resource tracker, and those
        made after it) ignores SIGTERM and ends by itself.
        """
        if self._process.returncode is not None and _pipe(self._process.stdout).closed:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _pipe(self._process.stdin).close()
            self._process.wait(SECONDS_TO_END if gently else 0)
        group, deadline = self._process.pid, time.monotonic() + SECONDS_TO_TIDY_UP
        watched.signal_group(group, signal.SIGTERM)
        while _is_there(group) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_UPDATES / 10)
        watched.signal_group(group, signal.SIGKILL)
        self._process.wait()
        _pipe(self._process.stdout).close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def hello(self, progress: watched.Progress) -> dict[str, Any]:
        """Return what the process says that it is, first of all."""
        return self._answer(progress)

    def ask(self, row: str, seconds: float, progress: watched.Progress) -> dict[str, Any]:
        """Have a row measured and return the sample."""
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(f"{json.dumps({'row': row, 'seconds': seconds})}\n".encode())
            stdin.flush()
        except OSError as error:
            raise MeasureError(self._story("is gone")) from error
        return self._answer(progress)

    def _answer(self, progress: watched.Progress) -> dict[str, Any]:
        stdout = _pipe(self._process.stdout)
        deadline = time.monotonic() + SECONDS_FOR_AN_ANSWER
        while not select.select([stdout], [], [], SECONDS_BETWEEN_UPDATES)[0]:
            progress.tick()
            if time.monotonic() >= deadline:
                raise MeasureError(self._story(f"no answer within {SECONDS_FOR_AN_ANSWER:g} s"))
        line = stdout.readline()
        if not line:
            raise MeasureError(self._story("ended without an answer"))
        told: dict[str, Any] = json.loads(line)
        return told

    def _story(self, what: str) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n  ".join([what, *lines[-LINES_OF_A_FAILURE:]])


def _is_there(group: int) -> bool:
    """Return whether a process of a group runs; one that has ended and wasn't reaped doesn't."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in {"Z", "X"}:
                return True
    return False


def _pipe(pipe: Any) -> Any:  # noqa: ANN401 - of either direction
    """Return a pipe that was asked for, so it is there."""
    if pipe is None:
        message = "the process was started with pipes"
        raise RuntimeError(message)
    return pipe
