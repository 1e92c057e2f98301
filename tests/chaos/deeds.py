"""What tasks of a pool do in the scenarios: ordinary work, and everything that nobody should do.

All are found by their names, as workers import them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import util
from typing import TYPE_CHECKING, Any, NoReturn

import cues

if TYPE_CHECKING:
    from collections.abc import Callable

DONE = "done"
LARGE = 24 << 20


def square(number: int) -> int:
    """Do ordinary work, for long enough that both workers get some."""
    time.sleep(0.002)
    return number * number


def whoami() -> int:
    """Tell the process's id, once another worker is there as well."""
    cues.give("present")
    return os.getpid()


def busy() -> str:
    """Be in the middle of a task when it happens."""
    cues.give("ready")
    cues.pass_gate("over")
    return DONE


def busy_for_ever() -> None:
    """Be in the middle of a task for as long as this process lives."""
    cues.give("ready")
    threading.Event().wait()


def start_slowly() -> None:
    """Be in the middle of starting, the first worker only."""
    if cues.is_first("start"):
        busy()


def end_slowly() -> str:
    """Be in the middle of ending, later."""
    util.Finalize(None, busy, exitpriority=50)
    return DONE


def return_much() -> bytes:
    """Be about to return, or in the middle of it."""
    cues.give("ready")
    return bytes(range(256)) * (LARGE // 256)


class SlowToPickle:
    """Is in the middle of being pickled."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        busy()
        return _done, ()


def return_slowly() -> SlowToPickle:
    """Have the result pickled when it happens."""
    return SlowToPickle()


def _done() -> str:
    return DONE


class SlowToArrive:
    """Is in the middle of being unpickled, in a worker."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return busy, ()


def take(_: object) -> str:
    """Have an argument."""
    return DONE


# --- what nobody should do ----------------------------------------------------------------------


def exits() -> None:
    os._exit(3)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def aborts() -> None:
    os.abort()


def segfaults() -> None:
    ctypes.string_at(0)


def recurses() -> None:
    recurses()


def recurses_in_c() -> None:
    """Go deep where the interpreter counts less, with its limit out of the way."""
    sys.setrecursionlimit(10**9)
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    repr(nested)


def fills_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - as little as can be
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20), hard))
    try:
        kept = []
        while True:
            kept.append(bytearray(8 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def forks() -> str:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return DONE


def forks_and_both_return() -> str:
    os.fork()
    return DONE


def forks_and_raises() -> str:
    if not os.fork():
        raise SystemExit
    return DONE


def starts_threads() -> str:
    for _ in range(8):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    threading.Thread(target=time.sleep, args=(0.2,)).start()
    return DONE


def closes_descriptors() -> str:
    os.closerange(3, 4096)
    return DONE


def closes_standard_streams() -> str:
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return DONE


def changes_directory() -> str:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
    return DONE


class Broken:
    """Can't be written to."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


def replaces_stdout() -> str:
    sys.stdout = sys.stderr = Broken()
    return DONE


def sets_alarm() -> str:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    return DONE


def execs() -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606 - to be another program


def runs_a_program() -> str:
    subprocess.run(["true"], check=True)
    return DONE


def raises_system_exit() -> None:
    sys.exit(5)


def raises_interrupt() -> None:
    raise KeyboardInterrupt


def interrupts_itself() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return DONE


class TwoArgumentsError(Exception):
    """Can be pickled, and not unpickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


def raises_two_arguments() -> None:
    raise TwoArgumentsError(1, 2)


def raises_unpicklable() -> None:
    error = ValueError("has a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def returns_unpicklable() -> object:
    return threading.Lock()


class Odd:
    """Does something odd when it is pickled, unpickled, or freed."""

    def __init__(
        self, going: Callable[..., object] | None, arriving: Callable[..., object]
    ) -> None:
        self.going, self.arriving = going, arriving

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        if self.going is not None:
            self.going()
        return self.arriving, ()


class BadEnd:
    """Raises when it is freed."""

    def __del__(self) -> None:
        raise RuntimeError


def fail() -> NoReturn:
    """Raise something."""
    message = "on purpose"
    raise RuntimeError(message)


def returns_failing_reduce() -> object:
    return Odd(fail, _done)


def returns_exiting_reduce() -> object:
    return Odd(exits, _done)


def returns_failing_arrival() -> object:
    return Odd(None, fail)


def returns_bad_end() -> object:
    return BadEnd()


def ignores_sigterm() -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return DONE


def blocks_signals() -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return DONE


def leaves_the_session() -> str:
    os.setsid()
    return DONE


def limits_descriptors() -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
    return DONE


def forgets_modules() -> str:
    sys.modules.clear()
    return DONE


@dataclass(frozen=True)
class Deed:
    """One of them, and how such a task may end here: a class of exceptions, or "value"."""

    func: Callable[..., object]
    ends: tuple[str, ...] = ("value",)
    # Whether threads can do it without harm to all others.
    on_threads: bool = False
    # How many ordinary tasks it may take along: one, if it kills its worker later.
    loses: int = 0
    argument: Callable[[], object] | None = None


_DIED = ("WorkerDiedError",)
DEEDS: dict[str, Deed] = {
    "calls os._exit": Deed(exits, _DIED),
    "kills itself": Deed(is_killed, _DIED),
    "aborts": Deed(aborts, _DIED),
    "segfaults": Deed(segfaults, _DIED),
    "recurses without bound": Deed(recurses, ("RecursionError",), on_threads=True),
    "recurses in C code": Deed(recurses_in_c, ("RecursionError", "MemoryError", *_DIED)),
    "fills memory under RLIMIT_AS": Deed(fills_memory, ("MemoryError",)),
    "forks": Deed(forks),
    "forks, and both return": Deed(forks_and_both_return),
    "forks, and the child raises": Deed(forks_and_raises),
    "starts threads": Deed(starts_threads),
    "closes all descriptors above 2": Deed(closes_descriptors, ("value", *_DIED), loses=1),
    "closes the standard streams": Deed(closes_standard_streams),
    "changes to a directory that goes": Deed(changes_directory),
    "replaces sys.stdout": Deed(replaces_stdout),
    "sets an alarm": Deed(sets_alarm, ("value", *_DIED), loses=1),
    "execs another program": Deed(execs, _DIED),
    "runs a program": Deed(runs_a_program, on_threads=True),
    "raises SystemExit": Deed(raises_system_exit, ("SystemExit",), on_threads=True),
    "raises KeyboardInterrupt": Deed(raises_interrupt, ("KeyboardInterrupt",), on_threads=True),
    "sends itself SIGINT": Deed(interrupts_itself),
    "raises what can't be unpickled": Deed(
        raises_two_arguments, ("TaskError", "TwoArgumentsError"), on_threads=True
    ),
    "raises what can't be pickled": Deed(
        raises_unpicklable, ("TaskError", "ValueError"), on_threads=True
    ),
    "returns what can't be pickled": Deed(
        returns_unpicklable, ("TaskError", "PicklingError", "TypeError", "ValueError")
    ),
    "returns what fails in __reduce__": Deed(returns_failing_reduce, ("TaskError", "RuntimeError")),
    "returns what exits in __reduce__": Deed(returns_exiting_reduce, _DIED),
    "returns what fails to arrive": Deed(returns_failing_arrival, ("TaskError", "RuntimeError")),
    "returns what fails in __del__": Deed(returns_bad_end, on_threads=True),
    "is given what fails to arrive": Deed(
        take, ("TaskError", "RuntimeError"), argument=lambda: Odd(None, fail)
    ),
    "is given what exits when it arrives": Deed(take, _DIED, argument=lambda: Odd(None, exits)),
    "is given what fails in __reduce__": Deed(
        take, ("ValueError", "RuntimeError"), argument=lambda: Odd(fail, _done)
    ),
    "ignores SIGTERM": Deed(ignores_sigterm),
    "blocks all signals": Deed(blocks_signals),
    "leaves the session": Deed(leaves_the_session),
    "limits descriptors to 4": Deed(limits_descriptors, ("value", *_DIED)),
    "forgets all modules": Deed(forgets_modules, ("value", "TaskError", "KeyError", *_DIED)),
}
