"""The exceptions that are ours.

Where the stdlib's modules raise different classes for one mistake, ours is a subclass of all of
them, so that one `except` works on every backend.
"""

from __future__ import annotations

import queue


class OwnerDiedError(RuntimeError):
    """The process that held a lock died without releasing it.

    Who waits for the lock at that moment gets this; the lock is free again then and works as
    before. What it protects may be half done.
    """

    __module__ = "freethreading"


class NotHeldError(RuntimeError, ValueError, AssertionError):
    """A lock was released, or a condition used, by somebody who doesn't hold the lock.

    RuntimeError as in `threading`, ValueError and AssertionError as in `multiprocessing`.
    """


class WorkerStateError(RuntimeError, AssertionError):
    """A worker was used in a way that its state doesn't allow, such as started twice.

    RuntimeError as in `threading`, AssertionError as in `multiprocessing`.
    """


class NegativeTimeoutError(ValueError, queue.Empty, queue.Full):
    """A negative timeout was given to a queue.

    ValueError as in `queue`, Empty or Full as in `multiprocessing`.
    """


class TaskError(RuntimeError):
    """Stands for what a task raised or returned if that can't be brought back as it is.

    Attributes:
        type_name: The name of the exception's class, or of the error that the result met.
        message: What the exception said.
        traceback_text: The traceback in the worker.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str) -> None:
        """Keep the three, which are also the arguments for pickling."""
        super().__init__(type_name, message, traceback_text)
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        """Name the exception and show where in the worker it came from."""
        return f"{self.type_name}: {self.message}\n\n{self.traceback_text}".rstrip()
