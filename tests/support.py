"""Helpers of the tests: waiting for something observable, and running a program that may hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

T = TypeVar("T")

_FIRST_PAUSE = 0.000_5
_LONGEST_PAUSE = 0.02
_SECONDS_TO_DUMP_STACKS = 2.0


def wait_until(predicate: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Poll `predicate` until it is true and return its value; `what` names it in the failure.

    The deadline is only there so that a broken test ends: no test may depend on its length.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            message = f"waited {timeout:g} s in vain until {what}"
            raise AssertionError(message)
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return value


@dataclass(frozen=True)
class Finished:
    """How a program ended; `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool

    def check(self) -> Self:
        """Fail, showing all output, unless the program ended by itself with exit status 0."""
        if self.returncode != 0 or self.timed_out:
            raise AssertionError(str(self))
        return self

    def __str__(self) -> str:
        """Return everything that is known, for a failure message."""
        how = f"exit status {self.returncode}" + (" (killed: timed out)" if self.timed_out else "")
        return f"{how}\n--- stdout ---\n{self.stdout}\n--- stderr ---\n{self.stderr}"


def run_python(
    code_or_file: str | Path,
    *arguments: str,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 30.0,
    options: Sequence[str] = (),
) -> Finished:
    """Run a program text (a `str`, dedented) or a file (a `Path`) with this test's interpreter.

    A text is written to a file first, so that workers can import its `__main__`. `env` is laid over
    the environment (None removes a variable), `options` go to the interpreter (`-X`, `-W`, ...).

    The run lasts until the program has ended *and* everything that it started has let go of its
    output, so an orphan that never ends shows as `timed_out`. When `timeout` has passed, or the run
    is interrupted, all processes dump their stacks to stderr and the whole process group is killed.
    """
    with tempfile.TemporaryDirectory(prefix="freethreading-test-") as folder:
        script = _script(code_or_file, Path(folder))
        command = [sys.executable, *options, str(script), *arguments]
        with subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        ) as process:
            return _finish(process, timeout)


def _script(code_or_file: str | Path, folder: Path) -> Path:
    """Return the file to run."""
    if isinstance(code_or_file, Path):
        return code_or_file.resolve(strict=True)
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code_or_file), encoding="utf-8")
    return script


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with `changes` made; SIGABRT dumps stacks in it."""
    merged = {**os.environ, "PYTHONFAULTHANDLER": "1", **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _finish(process: subprocess.Popen[str], timeout: float) -> Finished:
    """Wait for the output to end; leave nothing of the process group behind."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_SECONDS_TO_DUMP_STACKS)
        _signal_group(process, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Finished(process.returncode, stdout, stderr, timed_out=True)
    finally:
        _signal_group(process, signal.SIGKILL)
    return Finished(process.returncode, stdout, stderr, timed_out=False)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to every process of the group that is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
