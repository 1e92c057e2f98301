"""Signs between the processes of a scenario and the one that watches it: empty files in a folder.

Nothing that is tested takes part in them, and they outlive whoever gave them. Who waits for one
polls; no order of events depends on how often.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = "CHAOS_FOLDER"
# How long anybody waits for what must come: a bound for what hangs, not on speed.
PATIENCE = float(os.environ.get("CHAOS_PATIENCE", "20"))
_PAUSE = 0.002


class NeverCameError(Exception):
    """A sign didn't come."""


def folder() -> Path:
    """Return where this scenario's signs are."""
    return Path(os.environ[FOLDER])


def give(name: str) -> None:
    """Say that this process has come to a point."""
    (folder() / f"{name}.{os.getpid()}").touch()


def given(name: str, where: Path | None = None) -> list[int]:
    """Return which processes have said so."""
    return sorted(int(file.suffix[1:]) for file in (where or folder()).glob(f"{name}.[0-9]*"))


def expect(name: str, count: int = 1, seconds: float = PATIENCE) -> list[int]:
    """Wait until so many processes have come to a point; return their ids."""
    deadline = time.monotonic() + seconds
    while len(pids := given(name)) < count:
        _pause(deadline, name)
    return pids


def is_first(name: str) -> bool:
    """Return True in one call of all, whatever process it is made in."""
    try:
        (folder() / f"first-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def open_gate(name: str, where: Path | None = None) -> None:
    """Let all pass who wait at a gate, and all who come later."""
    ((where or folder()) / f"gate-{name}").touch()


def pass_gate(name: str, seconds: float = 600.0) -> None:
    """Wait until a gate is open."""
    deadline = time.monotonic() + seconds
    while not (folder() / f"gate-{name}").exists():
        _pause(deadline, name)


def _pause(deadline: float, name: str) -> None:
    if time.monotonic() >= deadline:
        raise NeverCameError(name)
    time.sleep(_PAUSE)
