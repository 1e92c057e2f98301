"""Workers that do what they are told, again and again: started once, timed many times.

A role is a module-level function `role(index, things, order) -> result`. Orders and results go
through the contender's own simple queues, outside of what is timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, Self

    from contenders import Contender, Queue

Numbers: TypeAlias = "tuple[float, ...]"
Role: TypeAlias = "Callable[[int, Any, Numbers], Numbers]"


class WorkerFailedError(Exception):
    """A worker ended with an exception, which it has shown itself."""


class Peers:
    """Workers of one contender in one role; `with` starts them and ends them."""

    def __init__(
        self, contender: Contender, role: Role, count: int, things: Sequence[object]
    ) -> None:
        """Make the workers; worker i knows its number, and all know the same things."""
        # A started process forgets its arguments, and with their last user the stdlib's primitives
        # are gone, also for a worker that has yet to unpickle them.
        self._things = tuple(things)
        self._inboxes = [contender.simple_queue() for _ in range(count)]
        self._results = contender.simple_queue()
        self._workers = [
            contender.worker(
                target=_serve,
                args=(role, index, self._things, inbox, self._results),
                daemon=True,
            )
            for index, inbox in enumerate(self._inboxes)
        ]

    def __enter__(self) -> Self:
        """Start the workers and wait until all of them are there."""
        for worker in self._workers:
            worker.start()
        self.results()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the workers end, unless something went wrong: they are daemons."""
        if exc_type is not None:
            return
        for inbox in self._inboxes:
            inbox.put(None)
        for worker in self._workers:
            worker.join()

    def order(self, *order: float) -> None:
        """Tell all workers to begin."""
        for inbox in self._inboxes:
            inbox.put(order)

    def results(self) -> list[Numbers]:
        """Wait until all are done; return what each found, in their order."""
        told: dict[int, Numbers] = {}
        while len(told) < len(self._workers):
            index, found = self._results.get()
            if found is None:
                message = f"worker {index} failed; its own traceback is above"
                raise WorkerFailedError(message)
            told[index] = found
        return [told[index] for index in range(len(self._workers))]

    def ask(self, *order: float) -> list[Numbers]:
        """Tell all workers to begin, and wait for the results."""
        self.order(*order)
        return self.results()


def _serve(role: Role, index: int, things: Sequence[object], inbox: Queue, results: Queue) -> None:
    """Follow orders until there are no more."""
    results.put((index, ()))
    try:
        while (order := inbox.get()) is not None:
            results.put((index, role(index, things, order)))
    except BaseException:
        results.put((index, None))
        raise
