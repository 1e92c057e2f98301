"""How programs end amidst things, and what workers outlive."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import acts_of_sharing
import cues
import deeds
import subjects

if TYPE_CHECKING:
    from part import Part

# Kept until the interpreter itself lets go of it.
_kept: list[Any] = []


def program_ends(part: Part, amidst: str, how: str) -> None:
    """End the program while everything still runs: it ends, with the status that was asked for."""
    _AMIDST[amidst](part)
    part.step("the end")
    part.report()
    if how == "sys.exit(7)":
        sys.exit(7)
    if how == "os._exit(7)":
        os._exit(7)
    if how == "an exception":
        deeds.fail()


def _waiting_workers(part: Part) -> None:
    """Have a daemon wait in each primitive and each queue."""
    primitives = part.primitives()
    things = {kind: primitives.make(kind) for kind in ("Lock", "RLock", "Condition", "Event")}
    things |= {
        "Semaphore": primitives.make("Semaphore", 1),
        "Barrier": primitives.make("Barrier", 2),
    }
    for kind in ("Lock", "RLock", "Semaphore"):
        things[kind].acquire()
    workers = [
        primitives.start(acts_of_sharing.wait, kind, thing) for kind, thing in things.items()
    ]
    cues.expect("ready", 1 if _has_threads() else len(workers))
    _kept.extend([things, workers])


def _has_threads() -> bool:
    import freethreading  # noqa: PLC0415 - only where it is there

    return freethreading.get_backend() == "threading"


def _waiting_threads(part: Part) -> None:
    """Have daemon threads wait in queues, beside the main thread."""
    primitives = part.primitives()
    full = primitives.make("Queue", 1)
    full.put("first")
    empty, simple = primitives.make("Queue"), primitives.make("SimpleQueue")
    for func, arguments in ((full.put, ("second",)), (empty.get, ()), (simple.get, ())):
        threading.Thread(target=func, args=arguments, daemon=True).start()
    _kept.extend([full, empty, simple])


def _full_queues(part: Part) -> None:
    """Leave queues full of what nobody gets."""
    primitives = part.primitives()
    # The standard library's simple queue has no room for them: put waits for a reader.
    for kind in ("Queue",) if part.subject == subjects.STDLIB else ("Queue", "SimpleQueue"):
        filled = primitives.make(kind)
        for number in range(200):
            filled.put(acts_of_sharing.item(number))
        _kept.append(filled)


def _busy_pool(part: Part) -> None:
    """Leave a pool with tasks under way and tasks that nobody has begun."""
    pool = part.pool()
    _kept.append(pool)
    _kept.append([pool.submit(deeds.square, number) for number in range(200)])


def _idle_pool(part: Part) -> None:
    pool = part.pool()
    pool.result(pool.submit(deeds.square, 1), cues.PATIENCE)
    _kept.append(pool)


_AMIDST = {
    "waiting workers": _waiting_workers,
    "waiting threads": _waiting_threads,
    "full queues": _full_queues,
    "a busy pool": _busy_pool,
    "an idle pool": _idle_pool,
}


def worker_strike(part: Part, when: str) -> None:
    """Have a plain worker struck when it starts or ends; others start and end as before."""
    primitives = part.primitives()
    if when == "starting":
        worker = primitives.start(deeds.take, deeds.SlowToArrive())
    else:
        worker = primitives.start(deeds.end_slowly)
    part.step("waiting for the strike")
    cues.pass_gate("over", cues.PATIENCE)
    part.step("joining the worker")
    worker.join()
    part.facts.told = str(worker.exitcode)
    event = primitives.make("Event")
    other = primitives.start(_set, event)
    part.facts.usable = event.wait(cues.PATIENCE)
    other.join()


def _set(event: Any) -> None:  # noqa: ANN401
    event.set()


def sharing_main(part: Part) -> None:
    """Be struck as the main process of workers that wait in everything."""
    _waiting_workers(part)
    part.step("waiting to be struck")
    cues.open_gate("go")
    part.primitives().make("Event").wait(600)


def fork_amidst(part: Part) -> None:
    """Fork while other threads hold every lock; the child can use all, and ends."""
    primitives = part.primitives()
    held = [primitives.make(kind) for kind in ("Lock", "RLock", "Semaphore", "Condition")]
    is_held, is_over = threading.Barrier(len(held) + 1), threading.Event()
    holders = [threading.Thread(target=_hold, args=(one, is_held, is_over)) for one in held]
    for holder in holders:
        holder.start()
    churning = [threading.Thread(target=_churn, args=(primitives, is_over)) for _ in range(2)]
    for thread in churning:
        thread.start()
    is_held.wait()
    statuses = []
    for _ in range(10):
        part.step("forking")
        child = os.fork()
        if not child:
            os._exit(_use_in_child(primitives, held))
        statuses.append(os.waitpid(child, 0)[1])
    part.facts.items, part.facts.lost = len(statuses), sum(map(bool, statuses))
    is_over.set()
    for thread in (*holders, *churning):
        thread.join()
    for one in held:
        part.facts.usable = part.facts.usable and bool(one.acquire())
        one.release()


def _hold(thing: Any, is_held: threading.Barrier, is_over: threading.Event) -> None:  # noqa: ANN401
    with thing:
        is_held.wait()
        is_over.wait()


def _churn(primitives: Any, is_over: threading.Event) -> None:  # noqa: ANN401
    """Be in the middle of everything when another thread forks."""
    lock, queue = primitives.make("Lock"), primitives.make("SimpleQueue")
    while not is_over.is_set():
        with lock:
            queue.put(primitives.make("Event"))
        queue.get()


def _use_in_child(primitives: Any, held: list[Any]) -> int:  # noqa: ANN401
    """Use what is held, which may be refused, and what is new, which may not; return a status."""
    for one in held:
        # Its owner, a thread of the parent, isn't here: that may be an error.
        with contextlib.suppress(RuntimeError):
            one.acquire(False)
    lock, queue = primitives.make("Lock"), primitives.make("Queue")
    with lock:
        queue.put("item")
    return int(queue.get() != "item")
