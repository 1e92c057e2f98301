"""How a new process comes into the family: with a ticket, pickled while it is being started.

The ticket holds the family's memory file (as a descriptor duplicated for the new process), the
place that was reserved there, in whose name everything that the process is given is kept alive
from that moment, and the parent's name, for the watchdog. Unpickling it joins.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import weakref
from multiprocessing import context, forkserver, process, util
from typing import TYPE_CHECKING, Any

from freethreading import _native
from freethreading._backend import get_backend, pass_on_to_processes
from freethreading._functions import process_name
from freethreading._picklable import NoProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext

_PRELOAD = "freethreading._preload"


def start_method() -> str:
    """Return how to start processes: as the user said, else "forkserver", else "spawn".

    In a worker: as it was started itself. (multiprocessing tells a new process its parent's
    default as if the user had chosen that, before it imports the main module.)
    """
    current = process.current_process()
    inherited: str | None = getattr(current, "_start_method", None)
    if inherited is not None:
        return inherited
    chosen: str | None = multiprocessing.get_start_method(allow_none=True)
    if chosen is not None and not getattr(current, "_inheriting", False):
        return chosen
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


_context: BaseContext | None = None


def process_context() -> BaseContext:
    """Return the context in which workers are started; the first call settles it.

    (Starting a process makes multiprocessing settle on a start method, too, which later looks
    as if the user had set it.)
    """
    global _context  # noqa: PLW0603  # settled once per process
    if _context is None:
        method = start_method()
        _context = multiprocessing.get_context(method)
        util.register_after_fork(_LEAVING, _settle_in)
        os.register_at_fork(after_in_child=_leave_parents)
        pass_on_to_processes()
        _settle_in()
        if method == "forkserver":
            _preload(_context)
    return _context


class _Leaving:
    """Asks multiprocessing, which forgets what is to be done at a child's end, to ask again."""


_LEAVING = _Leaving()


def _settle_in(_leaving: _Leaving = _LEAVING) -> None:
    """Say what this process is called, and that it leaves its locks taken at its regular end."""
    _native.family_name(process_name())
    util.Finalize(None, _native.family_disown, exitpriority=-100)


def _leave_parents() -> None:
    """In a forked child: let multiprocessing not take the parent's children for its own.

    (It would ask after its fork server, and wait for workers at its end, and fail.)
    """
    children: set[Any] = process._children  # type: ignore[attr-defined]  # noqa: SLF001
    for child in list(children):
        if child._parent_pid != os.getpid():  # noqa: SLF001
            children.discard(child)
    server: Any = getattr(forkserver, "_forkserver", None)
    if getattr(server, "_forkserver_pid", None) is not None:
        with contextlib.suppress(OSError):
            os.close(server._forkserver_alive_fd)  # noqa: SLF001
        server._forkserver_pid = None  # noqa: SLF001
        server._forkserver_address = None  # noqa: SLF001
        server._forkserver_alive_fd = None  # noqa: SLF001
        server._lock = threading.Lock()  # noqa: SLF001  # another thread may have held it


def _preload(chosen: BaseContext) -> None:
    """Have the fork server import what workers need, unless the user said what to import."""
    server = getattr(forkserver, "_forkserver", None)
    if getattr(server, "_preload_modules", None) == ["__main__"]:
        chosen.set_forkserver_preload(["__main__", _PRELOAD])


class Ticket:
    """Brings the process that unpickles it at its start into the family.

    Outside the start of a process its pickle means nothing, and does no harm.
    """

    def __init__(self, token: int | None = None) -> None:
        """Keep the number of the reserved place, if there is one."""
        self.token = token
        self.journey: tuple[Any, ...] = ()

    def join(self) -> None:
        """Do what unpickling does, in a process that was forked and is in the family already."""
        watch_parent(os.getppid(), 0)

    def __reduce__(self) -> tuple[Callable[..., Ticket], tuple[Any, ...]]:
        """Become the ticket of the process that is being started."""
        popen: object = context.get_spawning_popen()
        if popen is None or isinstance(popen, NoProcess) or get_backend() == "threading":
            return Ticket, ()
        the_one = ticket_of(popen)
        return _arrive, the_one.journey if self is the_one else (the_one,)


def ticket_of(popen: Any) -> Ticket:  # noqa: ANN401  # any of multiprocessing's Popen classes
    """Return the one ticket of a process that is being started."""
    ticket: Ticket | None = getattr(popen, "_freethreading_ticket", None)
    if ticket is None:
        from multiprocessing.reduction import DupFd  # noqa: PLC0415  # not on every platform

        family, descriptor = _native.family_id()
        token = _native.family_reserve()
        ticket = popen._freethreading_ticket = Ticket(token)  # noqa: SLF001  # a mark of ours
        # A process that fails to start leaves its Popen to the garbage collector.
        weakref.finalize(popen, _cancel, token, os.getpid()).atexit = False
        # Once per process: the start methods refuse a descriptor that is passed on twice.
        parent = os.getpid(), _native.process_start_time()
        ticket.journey = (family, DupFd(descriptor), token, *parent)
    return ticket


def _cancel(token: int, pid: int) -> None:
    """Give up the place of a process that was never started; not in a forked child."""
    if os.getpid() == pid:
        _native.family_cancel(token)


_arrived: set[tuple[int, int]] = set()


def _arrive(ticket_or_family: Ticket | tuple[int, int], *journey: Any) -> Ticket:  # noqa: ANN401
    """Unpickle a ticket: join the family, unless another copy of the ticket has done it."""
    if isinstance(ticket_or_family, Ticket):
        return ticket_or_family
    family = ticket_or_family
    descriptor, token, pid, start_time = journey
    if family not in _arrived:
        util.register_after_fork(_LEAVING, _settle_in)
        _native.family_join(descriptor.detach(), family, token)
        _arrived.add(family)
        _native.family_name(process_name())
        watch_parent(pid, start_time)
    return Ticket(token)


_watching = 0


def watch_parent(pid: int, start_time: int) -> None:
    """End this process when its parent has died; once, however often it is called."""
    global _watching  # noqa: PLW0603  # one watchdog per process
    if _watching != os.getpid():
        _watching = os.getpid()
        _native.watch_parent(pid, start_time)
