"""A program that ends while sixteen threads are at it: `python tests/crowd/ends.py HOW SEED`.

Each object is in use by several of them, and so are a pool and an executor. Every other thread is a
daemon, and goes on until the interpreter stops it; the others end some time after the main thread.
What the end brings about (pools and executors that take no more, barriers that are broken) is
expected; anything else is on stderr, where a thread reports it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import queue as stdlib_queue
import random
import sys
import threading
from concurrent.futures import CancelledError
from itertools import count
from multiprocessing import TimeoutError as PoolTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pool_tasks as tasks
from freethreading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    WorkerPool,
    WorkerPoolExecutor,
)

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 16
# What a thread does before the main thread may end, and what one that isn't a daemon does at most.
DEEDS_BEFORE, DEEDS_AFTER = 20, 100
PATIENCE = 60
STATUS = 5
MOMENTS = (0, 1e-4, 1e-3, 5e-3)


class Things:
    """One object of each class, and what may be done with it; most waits are short ones."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.rlock = RLock()
        self.semaphore = Semaphore(2)
        self.bounded = BoundedSemaphore(2)
        self.condition = Condition()
        self.event = Event()
        self.barrier = Barrier(3)
        self.queue: Queue[bytes] = Queue(5)
        self.simple: SimpleQueue[bytes] = SimpleQueue()
        self.pool = WorkerPool(2)
        self.executor = WorkerPoolExecutor(2)

    def deeds(self) -> list[Callable[[random.Random], object]]:
        return [
            self.exclude,
            self.notify,
            self.use_event,
            self.meet,
            self.pass_on,
            self.pass_simply,
            self.call,
            self.submit,
            self.collect,
        ]

    def exclude(self, source: random.Random) -> None:
        for one in (self.lock, self.rlock, self.semaphore, self.bounded):
            with one:
                pass
            if one.acquire(timeout=source.choice(MOMENTS)):
                one.release()

    def notify(self, source: random.Random) -> None:
        with self.condition:
            self.condition.notify_all()
            self.condition.wait(source.choice(MOMENTS))

    def use_event(self, source: random.Random) -> None:
        self.event.wait(source.choice(MOMENTS))
        self.event.set()
        self.event.clear()

    def meet(self, source: random.Random) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(source.choice(MOMENTS))
        if self.barrier.broken:
            self.barrier.reset()

    def pass_on(self, source: random.Random) -> None:
        with contextlib.suppress(stdlib_queue.Full):
            self.queue.put(b"x" * source.choice((1, 70_000)), timeout=source.choice(MOMENTS))
        with contextlib.suppress(stdlib_queue.Empty):
            self.queue.get(timeout=source.choice(MOMENTS))
            self.queue.task_done()

    def pass_simply(self, _: random.Random) -> None:
        """Each takes no more than it has put."""
        self.simple.put(b"y" * 100)
        self.simple.get()

    def call(self, source: random.Random) -> None:
        with contextlib.suppress(PoolTimeoutError):
            called: list[object] = []
            result = self.pool.apply_async(tasks.square, (3,), {}, called.append, called.append)
            assert result.get(source.choice((None, 1e-3))) == 9
            assert list(self.pool.imap(tasks.square, range(5))) == [0, 1, 4, 9, 16]

    def submit(self, source: random.Random) -> None:
        with contextlib.suppress(TimeoutError, CancelledError):
            future = self.executor.submit(tasks.square, 4)
            future.add_done_callback(tasks.repeat)
            assert future.result(source.choice((None, 1e-3))) == 16

    def collect(self, _: random.Random) -> None:
        cycle: list[Any] = [Lock(), Queue(), Event(), Barrier(2)]
        cycle[1].put(b"never taken")
        cycle.append(cycle)
        del cycle
        gc.collect()


class Ending:
    """The threads, and what they and the main thread tell each other."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.deeds = Things().deeds()
        self.begun = threading.Semaphore(0)
        self.has_ended = threading.Event()

    def act(self, number: int, *, is_daemon: bool) -> None:
        """Do one deed after the other; where it meets the end is left to chance."""
        source = random.Random(f"{self.seed} {number}")
        for done in count():
            if done == DEEDS_BEFORE:
                self.begun.release()
            is_late = done >= DEEDS_BEFORE + DEEDS_AFTER and self.has_ended.is_set()
            if is_late and not is_daemon:
                return
            try:
                source.choice(self.deeds)(source)
            except (ValueError, RuntimeError):
                # The pool, or the executor, has ended, as has the main thread.
                if not self.has_ended.is_set():
                    raise

    def start(self, number: int, *, is_daemon: bool) -> None:
        threading.Thread(
            target=self.act, args=(number,), kwargs={"is_daemon": is_daemon}, daemon=is_daemon
        ).start()


def main() -> None:
    """Start all, and end in the way that was asked for."""
    how, seed = sys.argv[1:]
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    sys.setswitchinterval(1e-5)
    ending = Ending(seed)
    for number in range(THREADS):
        ending.start(number, is_daemon=number % 2 == 0)
    for _ in range(THREADS):
        ending.begun.acquire()
    ending.has_ended.set()
    if how == "exit":
        sys.exit(3)
    if how == "_exit":
        os._exit(STATUS)
    if how == "raise":
        message = "the main thread ends"
        raise LookupError(message)


if __name__ == "__main__":
    main()
