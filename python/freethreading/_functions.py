"""The functions that tell who works here."""

from __future__ import annotations

import os
import sys
import threading

from freethreading._backend import get_backend

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from typing import TypeAlias

    AnyWorker: TypeAlias = threading.Thread | BaseProcess


def _current_process() -> AnyWorker:
    from multiprocessing import current_process  # noqa: PLC0415  # imported when needed

    return current_process()


def _child_processes() -> list[AnyWorker]:
    from multiprocessing import active_children as children  # noqa: PLC0415  # as above

    return [*children()]


def _other_threads() -> list[AnyWorker]:
    current = threading.current_thread()
    return [thread for thread in threading.enumerate() if thread is not current]


_current: Callable[[], AnyWorker]
_others: Callable[[], list[AnyWorker]]
_ident: Callable[[], int]
if get_backend() == "threading":
    _current, _others, _ident = threading.current_thread, _other_threads, threading.get_ident
else:
    _current, _others, _ident = _current_process, _child_processes, os.getpid


def process_name() -> str:
    """Return what this process is called, without importing multiprocessing for it."""
    module = sys.modules.get("multiprocessing.process")
    current = getattr(module, "current_process", None)
    return "MainProcess" if current is None else as_utf8(current().name)


def as_utf8(name: object) -> str:
    """Return a name that can be kept as UTF-8, with a mark for what can't."""
    return str(name).encode(errors="replace").decode()


def find_thread(native_id: int) -> tuple[str, int] | None:
    """Return name and identifier of the thread that the kernel numbers so, if there is one."""
    # Not `threading.enumerate`, which takes a lock: this is called by `repr`, perhaps in a signal
    # handler.
    for thread in list(threading._active.values()):  # type: ignore[attr-defined]  # noqa: SLF001
        if thread.native_id == native_id:
            return as_utf8(thread.name), thread.ident
    return None


def current_worker() -> AnyWorker:
    """Return the worker that calls: a Thread or a process object.

    In a Worker it is that Worker, else MainThread or MainProcess or the like. Like
    `threading.current_thread()` and `multiprocessing.current_process()`.

    >>> from freethreading import current_worker
    >>> current_worker().name in ("MainThread", "MainProcess")
    True
    """
    return _current()


def active_children() -> list[AnyWorker]:
    """Return the live workers, without the one that calls.

    Like `multiprocessing.active_children()`; on threads, `threading.enumerate()` without the
    current one. Workers of pools are among them.
    """
    return _others()


def enumerate() -> list[AnyWorker]:
    """Return the live workers, with the one that calls.

    Like `threading.enumerate()`.
    """
    return [_current(), *_others()]


def active_count() -> int:
    """Return the number of live workers, with the one that calls: `len(enumerate())`.

    Like `threading.active_count()`.
    """
    return len(enumerate())


def get_ident() -> int:
    """Return a number that no other live worker has: the thread's identifier or process id.

    Like `threading.get_ident()` and `os.getpid()`.
    """
    return _ident()
