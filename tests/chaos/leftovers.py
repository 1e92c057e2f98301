"""What a scenario leaves behind: processes, whatever group or session they are in, and files."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What workers have to notice that their parent is gone, and to end.
SECONDS_TO_END = 6.0
_PAUSE = 0.02


@dataclass(frozen=True)
class Leftovers:
    """What is still there; processes by their command lines."""

    processes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    # Names in /dev/shm, where the play has one of its own.
    shared: tuple[str, ...] = ()


def collect(mark: str, folder: Path) -> Leftovers:
    """Wait for what ends by itself, kill what doesn't, and tell it."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (pids := marked(mark)) and time.monotonic() < deadline:
        # To look at every process of the system takes long.
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
    told = tuple(_command_line(pid) for pid in pids)
    kill_all(mark)
    return Leftovers(told, _files(folder / "tmp"), _files(folder / "shm"))


def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(str(file.relative_to(folder)) for file in folder.rglob("*")))


def marked(mark: str, only: Callable[[int], bool] = lambda _: True) -> list[int]:
    """Return the processes with something in their environment, but for those that have ended."""
    wanted, found = mark.encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes() and only(int(folder.name)):
                found.append(int(folder.name))
    return sorted(found)


def is_running(pid: int) -> bool:
    """Return whether a process hasn't ended, with all of its threads."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)


def kill_all(mark: str) -> None:
    """Kill all processes of a scenario, and those that they start meanwhile."""
    while pids := marked(mark):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return f"{pid}: {text[:160]}"
    return str(pid)
