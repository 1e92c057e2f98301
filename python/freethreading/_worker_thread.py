"""`Worker` on the threading backend."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from freethreading._backend import warn_if_gil_returned
from freethreading._errors import WorkerStateError
from freethreading._worker_arguments import check_arguments, claim_start, waive_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Worker(threading.Thread):
    """A worker of its own: a thread or a process, whatever the backend is.

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
        super().__init__(None, target, name, kept_args, kept_kwargs, daemon=daemon)

    def start(self) -> None:
        """Start the worker, once.

        Raises:
            RuntimeError: It was started before (it is an AssertionError, too).
        """
        if self.ident is not None:
            message = f"{self.name} was started before; a worker can be started once"
            raise WorkerStateError(message)
        warn_if_gil_returned()
        claim_start(self)
        try:
            super().start()
        except BaseException:
            waive_start(self)
            raise

    def join(self, timeout: float | None = None) -> None:
        """Wait until the worker has ended, at most `timeout` seconds.

        Raises:
            RuntimeError: It wasn't started, or it is the current worker (it is an
                AssertionError, too).
        """
        if self.ident is None:
            message = f"{self.name} can't be joined before it is started"
            raise WorkerStateError(message)
        if threading.current_thread() is self:
            message = f"{self.name} can't join itself"
            raise WorkerStateError(message)
        super().join(timeout)

    @property
    def daemon(self) -> bool:
        """Whether the worker is ended with the program instead of waited for."""
        return super().daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        if self.ident is not None:
            message = f"daemon of {self.name} can't be set after it was started"
            raise WorkerStateError(message)
        threading.Thread.daemon.__set__(self, daemon)  # type: ignore[attr-defined]
