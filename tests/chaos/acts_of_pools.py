"""What happens to pools: a worker that is struck, a task that does what nobody should do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cues
import deeds
import subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    from part import Part

TASKS = 12


class Tally:
    """Ordinary tasks that were given to a pool, and what came of them."""

    def __init__(self, part: Part, pool: subjects.Pool) -> None:
        self._part, self._pool = part, pool
        self._tickets: list[tuple[int, Any]] = []
        self.values: list[int] = []

    def submit(self, count: int = TASKS) -> None:
        """Give the pool some tasks."""
        facts = self._part.facts
        for _ in range(count):
            number = facts.items
            facts.items += 1
            try:
                self._tickets.append((number, self._pool.submit(deeds.square, number)))
            except Exception:  # noqa: BLE001 - whatever a broken pool raises
                facts.lost += 1

    def gather(self) -> None:
        """Take in all results."""
        facts, deadline = self._part.facts, time.monotonic() + cues.PATIENCE
        for number, ticket in self._tickets:
            told, value = ended(self._pool, ticket, max(deadline - time.monotonic(), 0.05))
            facts.unanswered += told == "nothing"
            facts.lost += told != "value"
            facts.torn += told == "value" and value != number * number
        self._tickets.clear()


def ended(pool: subjects.Pool, ticket: Any, seconds: float = cues.PATIENCE) -> tuple[str, Any]:  # noqa: ANN401
    """Return how a task ended: "value" and what it is, the name of an exception, or "nothing"."""
    try:
        return "value", pool.result(ticket, seconds)
    except subjects.UnansweredError:
        return "nothing", None
    except BaseException as error:  # noqa: BLE001 - tasks raise anything
        return type(error).__name__, None


def finish(part: Part, pool: subjects.Pool, tally: Tally, end: str = "close") -> None:
    """Look whether the pool is as good as before, and end it."""
    lost, unanswered = part.facts.lost, part.facts.unanswered
    part.step("using the pool afterwards")
    tally.submit(4)
    tally.gather()
    part.facts.usable = part.facts.lost == lost
    # These only show whether it works; who gave them up knows it is broken.
    part.facts.lost, part.facts.unanswered = lost, unanswered
    part.facts.items -= 4
    part.report()
    part.step("ending the pool")
    try:
        getattr(pool, end)()
    except Exception as error:  # noqa: BLE001 - whatever a broken pool raises
        part.facts.raised = type(error).__name__


def pool_deed(part: Part, deed: str) -> None:
    """Have one of many tasks do what nobody should do."""
    done = deeds.DEEDS[deed]
    pool = part.pool()
    tally = Tally(part, pool)
    tally.submit()
    arguments = () if done.argument is None else (done.argument(),)
    part.step("submitting the task")
    try:
        ticket = pool.submit(done.func, *arguments)
    except Exception as error:  # noqa: BLE001 - what can't be pickled
        ticket, part.facts.told = None, type(error).__name__
    tally.submit()
    part.step("waiting for the tasks")
    if ticket is not None:
        part.facts.told, _ = ended(pool, ticket)
    tally.gather()
    finish(part, pool, tally)


# What the struck worker is given to do, so that it is in the middle of that.
_BUSY: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
    "busy": (deeds.busy, ()),
    "pickling its result": (deeds.return_slowly, ()),
    "sending a large result": (deeds.return_much, ()),
    "unpickling its task": (deeds.take, (deeds.SlowToArrive(),)),
    "ending": (deeds.end_slowly, ()),
}


def pool_strike(part: Part, when: str, end: str = "close") -> None:
    """Have a worker struck when it is idle, starting, ending, or in the middle of a task."""
    pool = part.pool(initializer=deeds.start_slowly if when == "starting" else None)
    tally = Tally(part, pool)
    if when == "idle":
        tally.submit(4)
        tally.gather()
        pool.result(pool.submit(deeds.whoami), cues.PATIENCE)
        cues.open_gate("go")  # the driver strikes who was present
        cues.pass_gate("struck")
    tally.submit()
    ticket = None
    if when in _BUSY:
        func, arguments = _BUSY[when]
        ticket = pool.submit(func, *arguments)
    tally.submit()
    if when == "ending":
        part.facts.told, _ = ended(pool, ticket)
        tally.gather()
        part.report()
        part.step("ending the pool")
        pool.close()
        return
    part.step("waiting for the strike")
    cues.pass_gate("struck")
    part.step("waiting for the tasks")
    tally.gather()
    if ticket is not None:
        part.facts.told, value = ended(pool, ticket)
        part.facts.torn += part.facts.told == "value" and value not in {
            deeds.DONE,
            bytes(range(256)) * (deeds.LARGE // 256),
        }
    finish(part, pool, tally, end)


def pool_callback(part: Part) -> None:
    """Have callbacks raise."""
    pool = part.pool()
    tally = Tally(part, pool)
    ticket = pool.submit(deeds.square, 1, callback=_raise)
    tally.submit()
    part.step("waiting for the tasks")
    part.facts.told, _ = ended(pool, ticket)
    tally.gather()
    finish(part, pool, tally)


def _raise(_: object) -> None:
    deeds.fail()


def pool_main(part: Part, *, lives_on: bool) -> None:
    """Be struck as a pool's main process, waiting for tasks that never end.

    Where it lives on to end by itself they do end, as executors wait for them.
    """
    pool = part.pool()
    tickets = [pool.submit(deeds.busy if lives_on else deeds.busy_for_ever) for _ in range(4)]
    cues.expect("ready", 2)
    part.step("waiting to be struck")
    cues.open_gate("go")
    pool.result(tickets[0], 600)


def pool_server(part: Part) -> None:
    """Have the fork server killed, and then workers, so that new ones are needed."""
    pool = part.pool()
    tally = Tally(part, pool)
    tally.submit()
    tally.gather()
    cues.open_gate("go")
    cues.pass_gate("struck")
    part.step("waiting for the tasks")
    for _ in range(2):
        try:
            part.facts.told, _ = ended(pool, pool.submit(deeds.is_killed))
        except Exception as error:  # noqa: BLE001 - whatever a broken pool raises
            part.facts.told = type(error).__name__
    tally.submit()
    tally.gather()
    finish(part, pool, tally)
