"""Pickling for trial, and pickling what only multiprocessing can pickle.

The native module comes here when its own checks don't know an object.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pickle import PickleBuffer

PROTOCOL = 5


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        return len(data)


_table: dict[Any, Any] | None = None
_made_of = -1, -1


def dispatch_table() -> dict[Any, Any] | None:
    """Return how multiprocessing pickles classes, beside what all picklers know, once it is loaded.

    Some can be pickled without that, such as connections, and would name another descriptor in the
    process that they get to. The two parts never get smaller.
    """
    global _table, _made_of  # noqa: PLW0603  # a cache
    reduction = sys.modules.get("multiprocessing.reduction")
    pickler = getattr(reduction, "ForkingPickler", None)
    if pickler is None:  # not loaded, or in the middle of it
        return None
    extra = pickler._extra_reducers  # noqa: SLF001  # what `register` adds to
    sizes = len(copyreg.dispatch_table), len(extra)
    if sizes != _made_of:
        _table = {**copyreg.dispatch_table, **extra}
        _made_of = sizes
    return _table


class NoProcess:
    """Stands for a process being started, for objects that may only be pickled then."""

    sentinel = None

    def duplicate_for_child(self, descriptor: int) -> int:
        return descriptor

    def DupFd(self, descriptor: int) -> int:  # noqa: N802  # multiprocessing's name
        return descriptor


def _leave_out(_buffer: PickleBuffer) -> None:
    """Take a buffer out of band, where nobody copies it."""


def try_pickling(obj: object) -> None:
    """Raise what pickling `obj` for a new worker would raise; nothing else happens."""
    if "multiprocessing.context" not in sys.modules:
        try:
            pickle.Pickler(_Nowhere(), PROTOCOL, buffer_callback=_leave_out).dump(obj)
        except Exception:  # noqa: BLE001  # pickling runs anybody's code; now ask who knows more
            _try_pickling_for_process(obj)
    else:
        _try_pickling_for_process(obj)


def _try_pickling_for_process(obj: object) -> None:
    from multiprocessing import context  # noqa: PLC0415  # imported when needed
    from multiprocessing.reduction import ForkingPickler  # noqa: PLC0415

    before = context.get_spawning_popen()
    context.set_spawning_popen(NoProcess())  # type: ignore[arg-type]  # what it needs of one
    try:
        ForkingPickler(_Nowhere(), PROTOCOL, True, _leave_out).dump(obj)
    finally:
        context.set_spawning_popen(before)


def dumps_for_process(obj: object, error: BaseException, is_message: bool = False) -> bytes:
    """Pickle what plain pickle refused with `error`, if multiprocessing knows how.

    `is_message` says that it is what the thread's message is made of, and no part that is pickled
    apart while the message is.
    """
    if not isinstance(error, Exception):
        raise error
    from multiprocessing.reduction import ForkingPickler  # noqa: PLC0415  # imported when needed

    from freethreading import _native  # noqa: PLC0415  # which imports this module

    file = io.BytesIO()
    pickler = ForkingPickler(file, PROTOCOL)
    try:
        if is_message:
            _native.board_anew()
        pickler.dump(obj)
        return file.getvalue()
    except Exception:  # noqa: BLE001  # pickling runs anybody's code; the first error says more
        raise error from None
