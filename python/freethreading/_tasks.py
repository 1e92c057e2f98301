"""What runs around a task in a worker, and how a task and its outcome travel between processes.

    caller                                       worker
    Task ───────── pickled as ────────▶ PackedTask, unpickled by `run_and_pack` when it is run
    Outcome ◀── unpickled by `open_reply` ────── Reply, pickled by `run_and_pack`

The machinery of a pool (its queues, its threads, its workers' main loop) only ever pickles and
unpickles our shells, which can't fail. What belongs to the user is pickled and unpickled inside
them, under a guard, so that whatever it raises there is the outcome of that one task.
Worker threads are handed the `Task` itself and hand back the `Outcome` itself.
"""

from __future__ import annotations

import io
import itertools
import pickle
import signal
import threading
import traceback
from concurrent.futures import BrokenExecutor
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from freethreading._errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from freethreading._bootstrap import Ticket

T = TypeVar("T")


class Outcome(NamedTuple):
    """How a task ended: with a value, or, if `error` is not None, with an exception."""

    value: object
    error: BaseException | None

    def get(self) -> object:
        """Return the value or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Failure(NamedTuple):
    """What can always be told of a worker's exception, whether or not it can travel itself."""

    type_name: str
    message: str
    text: str
    notes: list[str]


class RemoteTraceback(Exception):  # noqa: N818 - the name that the stdlib's pools show
    """The cause of an exception that came from a worker process: the traceback there, as text."""

    def __init__(self, text: str) -> None:
        """Keep `text`, a whole formatted traceback."""
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Return the text, set off from the local traceback that it is printed above."""
        return f'\n"""\n{self.text}"""'


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


class Reply:
    """The outcome of a task as a worker process sends it; it arrives as an Outcome."""

    __slots__ = ("_failure", "_packed")

    def __init__(self, packed: bytes, failure: Failure | None) -> None:
        """Keep a pickled value, or what `pack_error` makes of an exception."""
        self._packed = packed
        self._failure = failure

    def __reduce__(self) -> tuple[Callable[..., Outcome], tuple[bytes, Failure | None]]:
        """Arrive as what `open_reply` returns."""
        return open_reply, (self._packed, self._failure)


_worker = threading.local()


def run(task: Task | PackedTask) -> Outcome:
    """Run a task in a worker thread; whatever it raises is its outcome, not the worker's end."""
    try:
        _check_started()
        return Outcome(task(), None)
    except BaseException as error:  # noqa: BLE001 - also SystemExit: it ends the task, not the worker
        return Outcome(None, error)


def _check_started() -> None:
    """Raise if the initializer failed in this worker."""
    failure: BaseException | None = getattr(_worker, "failure", None)
    if failure is not None:
        message = f"the pool's initializer failed in this worker: {failure!r}"
        raise BrokenExecutor(message) from failure


def run_and_pack(task: Task | PackedTask) -> Reply:
    """Run a task in a worker process."""
    value, error = run(task)
    if error is not None:
        return pack_error(error)
    try:
        return Reply(pack(value), None)
    except BaseException as reason:  # noqa: BLE001 - user code runs here, too
        message = (
            f"the task's result, of type {type(value).__qualname__}, can't be pickled: "
            f"{_message(reason)}; let the task return plain data"
        )
        return Reply(b"", _described(reason, message, []))


class _Packer(pickle.Pickler):
    """Pickles as the multiprocessing module does, so that connections and the like can be sent.

    Its own pickler makes the table of what it knows anew each time, which takes longer than a task.
    """

    dispatch_table = ForkingPickler(io.BytesIO()).dispatch_table


def pack(value: object) -> bytes:
    """Pickle something of the user's."""
    buffer = io.BytesIO()
    _Packer(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def pack_error(error: BaseException) -> Reply:
    """Make a reply of an exception, or of its description alone if it can't be pickled."""
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    failure = _described(error, _message(error), notes)
    try:
        packed = pack((error, error.args))
    except BaseException:  # noqa: BLE001 - whatever it was, `open_reply` has a stand-in for it
        packed = b""
    return Reply(packed, failure)


def _described(error: BaseException, message: str, notes: list[str]) -> Failure:
    """Describe an exception while its traceback is at hand."""
    text = "".join(traceback.format_exception(error))
    return Failure(type(error).__qualname__, message, text, notes)


def open_reply(packed: bytes, failure: Failure | None) -> Outcome:
    """Turn a reply back into an outcome, in the caller's process. Never raises."""
    if failure is not None:
        return Outcome(None, _opened_error(packed, failure))
    try:
        return Outcome(pickle.loads(packed), None)  # noqa: S301 - from our own worker
    except BaseException as error:  # noqa: BLE001 - user code runs here, too
        message = f"the task's result can't be unpickled: {_message(error)}"
        return Outcome(None, _stand_in(_described(error, message, [])))


def _opened_error(packed: bytes, failure: Failure) -> BaseException:
    """Return the worker's exception as it was there, or a stand-in for it."""
    if not packed:
        return _stand_in(failure)
    try:
        error, args = pickle.loads(packed)  # noqa: S301 - from our own worker
        # A class whose `__init__` changes its arguments has changed them a second time by now.
        error.args = args
        if not getattr(error, "__notes__", None):
            for note in failure.notes:
                error.add_note(note)
        error.__cause__ = RemoteTraceback(failure.text)
    except BaseException:  # noqa: BLE001 - the stand-in tells more than this would
        return _stand_in(failure)
    return error if isinstance(error, BaseException) else _stand_in(failure)


def _stand_in(failure: Failure) -> TaskError:
    """Return what is raised instead of something that can't be brought here."""
    return TaskError(failure.type_name, failure.message, failure.text)


def _message(error: BaseException) -> str:
    """Return `str(error)`, even for an exception that can't be shown."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - user code, and nothing depends on it
        return "<its str() failed>"


def run_chunk(func: Callable[[object], object], items: Iterable[object]) -> list[object]:
    """Return what `func` returns for each item."""
    return [func(item) for item in items]


def run_star_chunk(func: Callable[..., object], items: Iterable[Iterable[object]]) -> list[object]:
    """Return what `func` returns for each item, unpacked to its arguments."""
    return [func(*item) for item in items]


def in_chunks(iterable: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Return an iterator over the items in tuples of `size`, the last one perhaps shorter."""
    items = iter(iterable)
    return iter(lambda: tuple(itertools.islice(items, size)), ())


class Chunks:
    """The tasks of a map, each made when it is sent, over at most `size` of the items."""

    def __init__(
        self,
        run: Callable[..., list[object]],
        func: Callable[..., object],
        items: Sequence[object],
        size: int,
    ) -> None:
        """Have `run`, which is `run_chunk` or `run_star_chunk`, call `func`."""
        self._run = run
        self._func = func
        self._items = items
        self._size = size

    def __len__(self) -> int:
        """Return the number of tasks."""
        return (len(self._items) + self._size - 1) // self._size

    def __iter__(self) -> Iterator[Task]:
        """Make the tasks."""
        return (Task(self._run, (self._func, chunk)) for _, chunk in self.items())

    def items(self) -> Iterator[tuple[int, Sequence[object]]]:
        """Return each chunk's items, and the position of the first of them."""
        starts = range(0, len(self._items), self._size)
        return ((start, self._items[start : start + self._size]) for start in starts)


def start_process(ticket: Ticket, initializer: Task | None) -> None:
    """Make a process that has just started a worker of this family; then run the initializer."""
    ticket.join()
    # A Ctrl-C reaches every process of the terminal. It is the main one's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initializer is not None:
        initializer()


def keep_failure(initialize: Callable[..., object], *args: object) -> None:
    """Run an initializer; should it fail, all tasks of this worker fail, and say why.

    To a stdlib pool a worker whose initializer raises is a dead one, which it replaces for ever.
    """
    try:
        initialize(*args)
    except BaseException as error:  # noqa: BLE001 - kept for `run`, which raises it
        _worker.failure = error
