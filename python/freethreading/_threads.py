"""The threads of a pool: they can be joined by a signal handler that interrupts their join.

Up to CPython 3.12, who joins a thread holds a lock of it for a moment. A handler that comes in that
moment, and joins the same thread, would wait for what it has interrupted. So here the end of the
function is waited for first, and then the thread is joined by the outermost call alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from freethreading._native import Event

if TYPE_CHECKING:
    from collections.abc import Callable


# How often, in seconds, who waits for a thread's end asks the thread itself.
_LOOK = 1.0


class PoolThread(threading.Thread):
    """A daemon thread that is ended, for all who ask, when its function is."""

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...] = (), name: str | None = None
    ) -> None:
        """Prepare; without a name, it is named as any other thread."""
        super().__init__(target=target, args=args, name=name, daemon=True)
        self._is_over = Event()
        # The threads that are in the middle of joining this one.
        self._joining: set[int] = set()

    def run(self) -> None:
        """Run the function."""
        try:
            super().run()
        finally:
            self._is_over.set()

    def is_alive(self) -> bool:
        """Return True while its function runs."""
        return not self._is_over.is_set() and super().is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds; in itself, don't."""
        me = threading.get_ident()
        if me == self.ident or not self._await_end(timeout) or me in self._joining:
            return
        self._joining.add(me)
        try:
            super().join()
        finally:
            self._joining.discard(me)

    def _await_end(self, timeout: float | None) -> bool:
        """Wait for the end of its function; False: not in time."""
        if timeout is not None:
            return self._is_over.wait(timeout) or not super().is_alive()
        # Between processes the event lies in shared memory. Somebody may have overwritten it.
        while not self._is_over.wait(_LOOK):
            if not super().is_alive():
                break
        return True
