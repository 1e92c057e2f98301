"""`WorkerDiedError`, in a module of its own because its base class takes long to import."""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool


class WorkerDiedError(BrokenProcessPool):
    """A worker process died while it had a task; this is what the task ended with.

    Only this task is lost: the worker is replaced, and all others go on.

    Attributes:
        exitcode: As `multiprocessing.Process.exitcode`: the status that the process exited with, or
            minus the number of the signal that killed it; None if it isn't known.
        signal_name: The signal's name, such as "SIGKILL"; None if it wasn't killed.
        pid: The id that the process had.
        function: The name of the function that it was running; None if it had no task.
    """

    __module__ = "freethreading"

    def __init__(
        self,
        message: str = "",
        exitcode: int | None = None,
        pid: int | None = None,
        function: str | None = None,
    ) -> None:
        """Keep what is known, which are also the arguments for pickling."""
        super().__init__(message, exitcode, pid, function)
        self.exitcode = exitcode
        self.signal_name = _signal_name(exitcode)
        self.pid = pid
        self.function = function

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0])

    @classmethod
    def of(cls, exitcode: int | None, pid: int | None, function: str | None) -> WorkerDiedError:
        """Make one that says how the worker ended."""
        if exitcode is None:
            how = "died"
        elif exitcode < 0:
            how = f"was killed by {_signal_name(exitcode)}"
        else:
            how = f"exited with status {exitcode}"
        who = f"a worker process (pid {pid}) {how}"
        if function is None:
            hint = "see its output; a program that starts workers needs `if __name__ == '__main__'`"
            return cls(f"{who} before it could take a task ({hint})", exitcode, pid, None)
        message = f"{who} while it ran {function}; only this task is lost"
        return cls(message, exitcode, pid, function)


def _signal_name(exitcode: int | None) -> str | None:
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"
