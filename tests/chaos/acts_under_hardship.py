"""Everything once, where the system lacks something, and what happens when it refuses."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import acts_of_pools
import acts_of_sharing
import cues
import deeds
import subjects

if TYPE_CHECKING:
    from part import Part

LARGE = 4 << 20


def everything(part: Part) -> None:
    """Use each primitive, each queue, a worker and a pool once."""
    part.step("everything")
    try:
        _use_everything(part)
    except (OSError, RuntimeError, ImportError) as error:
        part.facts.usable = False
        part.facts.told = f"{type(error).__name__}: {error}".split("\n")[0]


def _use_everything(part: Part) -> None:
    if part.subject in subjects.POOLS:
        pool = part.pool()
        tally = acts_of_pools.Tally(part, pool)
        tally.submit()
        ticket = pool.submit(bytes, LARGE)
        tally.gather()
        part.facts.torn += pool.result(ticket, cues.PATIENCE) != bytes(LARGE)
        pool.close()
        return
    primitives = part.primitives()
    things = [
        primitives.make(kind, *arguments)
        for kind, *arguments in (
            ("Lock",),
            ("RLock",),
            ("Semaphore", 1),
            ("BoundedSemaphore", 1),
            ("Condition",),
            ("Event",),
            ("Barrier", 2),
            ("Queue",),
            ("SimpleQueue",),
        )
    ]
    worker = primitives.start(_share, *things)
    *locks, event, barrier, queue, simple = things
    event.set()
    barrier.wait(cues.PATIENCE)
    part.facts.items = 2
    part.facts.torn = (len(queue.get()) != LARGE) + (simple.get() != "small")
    for one in locks:
        with one:
            pass
    worker.join()


def _share(*things: Any) -> None:  # noqa: ANN401
    *locks, event, barrier, queue, simple = things
    for one in locks:
        with one:
            pass
    event.wait(cues.PATIENCE)
    barrier.wait(cues.PATIENCE)
    queue.put(bytes(LARGE))
    simple.put("small")


def clock_set_back(part: Part) -> None:
    """Set the clock a day back amidst waits with a time limit; they end, and all goes on."""
    primitives = part.primitives()
    lock, event, queue = (primitives.make(kind) for kind in ("Lock", "Event", "Queue"))
    lock.acquire()
    waits = [lambda: lock.acquire(True, 1.0), lambda: event.wait(1.0), lambda: _get_in(queue, 1.0)]
    threads = [threading.Thread(target=wait) for wait in waits]
    for thread in threads:
        thread.start()
    before = time.time()
    cues.open_gate("back")
    if time.time() >= before:
        part.facts.skipped = "the library that sets the clock back has no effect"
    for thread in threads:
        thread.join()
    lock.release()
    everything(part)


def _get_in(queue: Any, seconds: float) -> None:  # noqa: ANN401
    with contextlib.suppress(Empty):
        queue.get(timeout=seconds)


def pid_comes_again(part: Part) -> None:
    """Have another process get the id of one that was killed as the owner of a lock."""
    primitives = part.primitives()
    lock, semaphore = primitives.make("Lock"), primitives.make("Semaphore", 1)
    holders = [primitives.start(acts_of_sharing.hold, one) for one in (lock, semaphore)]
    others = []
    for holder in holders:
        cues.expect("ready", 2)
        holder.kill()
        holder.join()
    for holder in holders:
        for _ in range(50):
            Path("/proc/sys/kernel/ns_last_pid").write_text(f"{holder.pid - 1}", encoding="ascii")
            child = os.fork()
            if not child:
                signal.pause()
                os._exit(0)
            others.append(child)
            if child == holder.pid:
                break
        else:
            part.facts.skipped = "the kernel gives no id twice here"
    part.step("using it afterwards")
    try:
        part.facts.told = acts_of_sharing.use("Lock", lock)
        acts_of_sharing.use("Semaphore", semaphore)
    except acts_of_sharing.StuckError as error:
        part.facts.usable, part.facts.told = False, str(error)
    for child in others:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def no_descriptors(part: Part, *, at_first: bool) -> None:
    """Have no descriptors left: an error, and all works when there are some again."""
    if not at_first:
        everything(part)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    kept: list[int] = []
    _try_with_none_left(part, kept)
    for descriptor in kept:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = part.facts.told or "works"
    everything(part)
    part.facts.told = told


def _try_with_none_left(part: Part, kept: list[int]) -> None:
    """Use all descriptors up, then everything."""
    try:
        while True:
            kept.append(os.dup(0))
    except OSError:
        pass
    _try_everything(part)


def no_threads(part: Part, *, at_first: bool) -> None:
    """Have no processes or threads left: an error, and all works when there may be some again."""
    if not at_first:
        everything(part)
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    _try_everything(part)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    told = part.facts.told or "works"
    everything(part)
    part.facts.told = told


def _try_everything(part: Part) -> None:
    """Begin everything where it can't be done; what it raises is told, no more."""
    part.step("everything, in vain")
    try:
        if part.subject in subjects.POOLS:
            pool = part.pool()
            told, _ = acts_of_pools.ended(pool, pool.submit(deeds.square, 2))
            part.facts.told = "" if told == "value" else told
            pool.terminate()
        else:
            primitives = part.primitives()
            queue = primitives.make("Queue")
            queue.put("item")
            primitives.start(deeds.take, queue).join()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        part.facts.told = type(error).__name__


def hard_objects(part: Part) -> None:
    """Put and get what raises when it is pickled, unpickled and freed; the queue stays whole."""
    primitives = part.primitives()
    for kind in ("Queue", "SimpleQueue"):
        queue = primitives.make(kind)
        queue.put("first")
        for odd in (deeds.Odd(deeds.fail, deeds.whoami), deeds.Odd(None, deeds.fail)):
            try:
                queue.put(odd)
            except RuntimeError:
                part.facts.told = "put raises"
        queue.put(deeds.BadEnd())
        queue.put("last")
        got: list[Any] = []
        while "last" not in got:
            try:
                got.append(queue.get())
            except RuntimeError:
                part.facts.items += 1
        part.facts.torn += got[0] != "first"
