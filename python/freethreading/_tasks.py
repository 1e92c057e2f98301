"""What tasks, and what became of them, are made of on their way between processes.

What belongs to the user is pickled and unpickled under a guard, so that whatever it raises there is
the outcome of that one task. The native module comes here for what is rare: failures, and
initializers.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import TYPE_CHECKING

from freethreading._backend import get_backend
from freethreading._errors import TaskError
from freethreading._picklable import PROTOCOL, dumps_for_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# What can always be told of a worker's exception, whether or not it can travel itself: the name of
# its type, its message, its traceback and its notes.
Failure = tuple[str, str, str, list[str]]


class RemoteTraceback(Exception):  # noqa: N818 - the name that the stdlib's pools show
    """The cause of an exception that came from a worker process: the traceback there, as text."""

    def __init__(self, text: str) -> None:
        """Keep `text`, a whole formatted traceback."""
        super().__init__(text)
        self.tb = text

    def __str__(self) -> str:
        """Return the text, set off from the local traceback that it is printed above."""
        return f'\n"""\n{self.tb}"""'


class Task:
    """A call that a worker is to make."""

    __slots__ = ("args", "func", "kwargs")

    def __init__(
        self,
        func: Callable[..., object],
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Keep the parts; they have been checked, but are pickled only when the task is sent."""
        self.func = func
        self.args = tuple(args)
        self.kwargs = kwargs or {}

    def __call__(self) -> object:
        """Make the call."""
        return self.func(*self.args, **self.kwargs)

    def __reduce__(self) -> tuple[type[PackedTask], tuple[bytes]]:
        """Travel as bytes that are opened only where the task is run."""
        try:
            packed = pack((self.func, self.args, self.kwargs))
        except BaseException as error:
            # One error for all: some end the thread that sends, which is not this task's to end.
            message = f"a task for {self.func!r} can't be pickled: {error}"
            raise ValueError(message) from error
        return PackedTask, (packed,)


class PackedTask:
    """A task as it arrives in a worker process, to be run once."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes) -> None:
        """Keep what `Task` was pickled to."""
        self._packed = packed

    def __call__(self) -> object:
        """Unpickle the task and make the call."""
        packed, self._packed = self._packed, b""
        try:
            func, args, kwargs = pickle.loads(packed)  # noqa: S301 - from our own parent process
        except BaseException as error:
            error.add_note("Raised in the worker while the task was unpickled, before it ran.")
            raise
        del packed
        return func(*args, **kwargs)


def pack(value: object) -> bytes:
    """Pickle something of the user's."""
    try:
        return pickle.dumps(value, PROTOCOL)
    except Exception as error:  # noqa: BLE001 - pickling runs anybody's code
        return dumps_for_process(value, error)


def described(error: BaseException, value: object) -> tuple[bytes, Failure]:
    """Return what a worker process sends of an exception: its pickle, if there is one, and more.

    If `error` is what pickling a result raised, `value` is that result.
    """
    if value is not None:
        message = (
            f"the task's result, of type {type(value).__qualname__}, can't be pickled: "
            f"{_message(error)}; let the task return plain data"
        )
        return b"", _told(error, message, [])
    failure = _told(error, _message(error), _notes(error))
    try:
        return pack((error, error.args)), failure
    except BaseException:  # noqa: BLE001 - whatever it was, `opened` has a stand-in for it
        return b"", failure


def _notes(error: BaseException) -> list[str]:
    try:
        return [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    except Exception:  # noqa: BLE001 - a property of the user's, or no list
        return []


def _told(error: BaseException, message: str, notes: list[str]) -> Failure:
    """Describe an exception while its traceback is at hand."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - it looks at attributes, which may be properties of the user's
        text = "".join(traceback.format_tb(error.__traceback__))
    return type(error).__qualname__, message, text, notes


def opened(described: tuple[bytes, Failure]) -> BaseException:
    """Return the exception that a worker process described, or a stand-in for it. Never raises."""
    packed, failure = described
    if not packed:
        return _stand_in(failure)
    try:
        error, args = pickle.loads(packed)  # noqa: S301 - from our own worker
        # A class whose `__init__` changes its arguments has changed them a second time by now.
        error.args = args
        if failure[3] and not _notes(error):
            for note in failure[3]:
                error.add_note(note)
        error.__cause__ = RemoteTraceback(failure[2])
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the stand-in tells more than this would
        return _stand_in(failure)
    return error if isinstance(error, BaseException) else _stand_in(failure)


def unreadable(error: BaseException) -> BaseException:
    """Return what stands for a result whose unpickling raised `error`."""
    message = f"the task's result can't be unpickled: {_message(error)}"
    return _stand_in(_told(error, message, []))


def broken_by(
    error: BaseException, what: str = "the pool's initializer failed in a worker"
) -> BaseException:
    """Return what ends everything in a pool: `what`, by default its initializer, raised `error`."""
    message = f"{what}: {error!r}"
    broken: BaseException
    if get_backend() == "threading":
        from concurrent.futures.thread import BrokenThreadPool  # noqa: PLC0415 - rarely needed

        broken = BrokenThreadPool(message)
    else:
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415 - as above

        broken = BrokenProcessPool(message)
    broken.__cause__ = error
    return broken


def again(error: BaseException) -> BaseException:
    """Return a copy of an exception of ours, for one more who is to raise it."""
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


def _stand_in(failure: Failure) -> TaskError:
    """Return what is raised instead of something that can't be brought here."""
    return TaskError(*failure[:3])


def _message(error: BaseException) -> str:
    """Return `str(error)`, even for an exception that can't be shown."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - user code, and nothing depends on it
        return "<its str() failed>"
