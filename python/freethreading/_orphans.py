"""What multiprocessing believes of a worker's end, put right.

Workers may outlive the fork server they were started by, and several threads may ask for an end.

multiprocessing hears of a worker's end from the fork server, through a pipe. Once that was killed
the pipe ends, which multiprocessing takes for the end of the worker: with the exit code 255, though
it runs. Whoever believes that gives its tasks and its locks away while it has them.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any

# What multiprocessing makes of a pipe that has ended without an exit code.
_UNKNOWN = 255
_ENDED = b"Z"
# How often, in seconds, to look where there is no pidfd.
_PAUSE = 0.02


def keep(popen: Any) -> None:  # noqa: ANN401  # any of multiprocessing's Popen classes
    """Let a process that was just started be alive for as long as it is."""
    if getattr(popen, "method", None) == "forkserver":  # the others ask the kernel
        kept = popen._freethreading_kept = _Kept(popen)  # noqa: SLF001  # a mark of ours
        popen.poll, popen.wait = kept.poll, kept.wait


def guard(popen: Any) -> None:  # noqa: ANN401  # any of multiprocessing's Popen classes
    """Let one thread at a time ask whether a process has ended: its status can be read once.

    multiprocessing asks for all children whenever one is started, in whatever thread that is. A
    finalizer may do so amidst another question; the first answer counts.
    """
    poll, lock = popen.poll, threading.RLock()
    known: list[int] = []
    # The fork server tells of an end, or its own end has made that a question to ask again.
    is_told = popen.method == "forkserver"

    def guarded(flag: int = os.WNOHANG) -> int | None:
        while True:
            if flag != os.WNOHANG:
                from multiprocessing.connection import wait  # noqa: PLC0415  # not for threads

                wait([popen.sentinel])
            with lock:
                code: int | None = poll(os.WNOHANG if is_told else flag)
                if code is not None and not known:
                    known.append(code)
                if known:
                    popen.returncode = known[0]
                    return known[0]
            if flag == os.WNOHANG:
                return None

    popen.poll = guarded


def is_orphan(popen: Any) -> bool:  # noqa: ANN401  # as above
    """Return whether nobody can know a process's exit code any more."""
    kept: _Kept | None = getattr(popen, "_freethreading_kept", None)
    return kept is not None and kept.is_orphan


class _Kept:
    """Stands between multiprocessing and what it believes of a process."""

    def __init__(self, popen: Any) -> None:  # noqa: ANN401  # as above
        self.is_orphan = False
        self._popen = popen
        self._poll = popen.poll
        self._started = _state(popen.pid)[1]
        self._has_pidfd = False

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the process runs."""
        if flag != os.WNOHANG:
            return self.wait()
        code: int | None = self._poll(flag)
        if code != _UNKNOWN or self._has_pidfd or self._started is None:
            return code
        self._has_pidfd = self._watch()
        state, started = _state(self._popen.pid)
        if started != self._started:
            return code
        # The fork server is gone, not the process.
        self.is_orphan = True
        if self._has_pidfd:
            self._popen.returncode = None
            code = self._poll(flag)
        elif state != _ENDED:
            self._popen.returncode = code = None
            time.sleep(_PAUSE)  # for the old sentinel doesn't make anybody wait
        return code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, at most `timeout` seconds, and return the exit code."""
        from multiprocessing.connection import wait  # noqa: PLC0415  # as multiprocessing does

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Whoever has replaced `poll` since is asked as well.
            code: int | None = self._popen.poll(os.WNOHANG)
            left = None if deadline is None else deadline - time.monotonic()
            if code is not None or (left is not None and left <= 0):
                return code
            wait([self._popen.sentinel], left)

    def _watch(self) -> bool:
        """Have waits wait for the kernel's word; return whether that can be had."""
        try:
            pidfd = os.pidfd_open(self._popen.pid)
        except OSError:
            return False  # a kernel without it, or no descriptors
        weakref.finalize(self._popen, os.close, pidfd).atexit = False
        self._popen.sentinel = pidfd
        return True


def _state(pid: int) -> tuple[bytes | None, bytes | None]:
    """Return a process's state, and when it was started, which tells it from later ones."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib isn't needed here
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None, None
    return fields[0], fields[19]
