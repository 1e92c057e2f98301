"""`Worker` on the multiprocessing backend."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

from freethreading import _native
from freethreading._bootstrap import Ticket, process_context, start_method, watch_parent
from freethreading._errors import WorkerStateError
from freethreading._orphans import guard, keep
from freethreading._worker_arguments import check_arguments, claim_start, waive_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from multiprocessing.process import BaseProcess

    _Process = BaseProcess
else:
    _Process = multiprocessing.get_context(start_method()).Process


class Worker(_Process):
    # The same words as in `_worker_thread`: the docs show one of the two classes.
    __doc__ = """A worker of its own: a thread or a process, whatever the backend is.

    Like `threading.Thread` and `multiprocessing.Process`, and a subclass of one of them:
    `target(*args, **kwargs)` is called in the worker, or an overridden `run()`.

    Args:
        group: None.
        target: What the worker calls; None calls nothing.
        name: The worker's name; None makes one up.
        args: Positional arguments for target.
        kwargs: Keyword arguments for target.
        daemon: Whether the worker is ended with the program instead of waited for; None takes
            it from the current worker.

    Raises:
        ValueError: target, args or kwargs can't be pickled; on both backends.
        TypeError: target can't be called, or args or kwargs are of no use.
        RuntimeError: group isn't None (it is an AssertionError, too).

    Example:
        >>> from freethreading import Queue, Worker
        >>> queue = Queue()
        >>> worker = Worker(target=queue.put, args=("done",))
        >>> worker.start()
        >>> worker.join()
        >>> queue.get()
        'done'

    Differences from threading / multiprocessing: misuse (started twice, joined before it was
    started or by itself, made a daemon too late) raises one class, a RuntimeError that is an
    AssertionError. A worker process ends by itself within two seconds when its parent has died.
    """

    if TYPE_CHECKING:  # multiprocessing's own attributes, unknown to its type hints
        _parent_pid: int
        _start_method: str | None
        _popen: Any

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        """Make a worker; see the class."""
        kept_args, kept_kwargs = check_arguments(group, target, args, kwargs)
        super().__init__(
            None,
            target,
            None if name is None else str(name),
            kept_args,
            kept_kwargs,
            daemon=daemon,
        )
        if name is None and type(self) is Worker:
            self.name = f"{_Process.__name__}-{self.name.rpartition('-')[2]}"
        self._ticket = Ticket()
        self._parent_start_time = 0

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: ANN401, N802  # multiprocessing's hook
        popen = process_context().Process._Popen(process_obj)  # type: ignore[attr-defined]  # noqa: SLF001
        keep(popen)
        guard(popen)
        return popen

    def start(self) -> None:
        """Start the worker, once.

        Raises:
            RuntimeError: It was started before, or a daemon tries to start it (it is an
                AssertionError, too).
        """
        if self._is_started():
            message = f"{self.name} was started before; a worker can be started once"
            raise WorkerStateError(message)
        if multiprocessing.current_process().daemon:
            message = f"{self.name} can't be started by a worker that is a daemon process"
            raise WorkerStateError(message)
        self._check_made_here("started")
        self._start_method = process_context().get_start_method()
        self._parent_start_time = _native.process_start_time()
        claim_start(self)
        try:
            super().start()
        except BaseException:
            waive_start(self)
            raise

    def _bootstrap(self, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  # passed on
        """Run in the new process: multiprocessing's own, and the watchdog before it."""
        watch_parent(self._parent_pid, self._parent_start_time)
        return super()._bootstrap(*args, **kwargs)  # type: ignore[misc, no-any-return]

    def join(self, timeout: float | None = None) -> None:
        """Wait until the worker has ended, at most `timeout` seconds.

        Raises:
            RuntimeError: It wasn't started, or it is the current worker or not a child of it
                (it is an AssertionError, too).
        """
        if multiprocessing.current_process() is self:
            message = f"{self.name} can't join itself"
            raise WorkerStateError(message)
        self._check_made_here("joined")
        if not self._is_started():
            message = f"{self.name} can't be joined before it is started"
            raise WorkerStateError(message)
        super().join(timeout)
        if self.exitcode is not None:
            self._give_up_place()

    def _give_up_place(self) -> None:
        """Free what the ended worker held, its place in the family included."""
        ticket = getattr(self._popen, "_freethreading_ticket", None)
        if ticket is not None and ticket.token is not None:
            _native.family_reap(ticket.token)
            ticket.token = None

    def is_alive(self) -> bool:
        """Return whether the worker runs.

        Raises:
            RuntimeError: It is not a child of the current process (it is an AssertionError,
                too).
        """
        if multiprocessing.current_process() is not self:
            self._check_made_here("asked whether it is alive")
        is_alive: bool = super().is_alive()
        if not is_alive and self._is_started():
            self._give_up_place()
        return is_alive

    @property
    def daemon(self) -> bool:
        """Whether the worker is ended with the program instead of waited for."""
        return super().daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        if self._is_started():
            message = f"daemon of {self.name} can't be set after it was started"
            raise WorkerStateError(message)
        _Process.daemon.__set__(self, daemon)  # type: ignore[attr-defined]

    def _is_started(self) -> bool:
        # A worker is its own current process, and has no handle of itself.
        return self._popen is not None or multiprocessing.current_process() is self

    def _check_made_here(self, what: str) -> None:
        if self._parent_pid != os.getpid():
            message = f"{self.name} can only be {what} by the process that made it"
            raise WorkerStateError(message)
