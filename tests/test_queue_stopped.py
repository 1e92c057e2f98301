"""Queues while another process is stopped (SIGSTOP) in the middle of a change of shared memory.

Who waits for it is detached from the interpreter, runs signal handlers, and gives up in time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING

import pytest

from freethreading import Lock, Queue, SimpleQueue, _native
from support import wait_until
from test_worker import only_processes, wait_until_task_sleeps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

pytestmark = only_processes

# Where the mutex of the shared memory lies in it: not zero while somebody has it.
MUTEX = 36
LARGE = bytes(100_000)


class AlarmError(Exception):
    """What the signal handler raises."""


def change_memory() -> None:
    """Allocate and free for as long as this process lives."""
    while True:
        Lock()


def has_mutex(memory: int) -> bool:
    return os.pread(memory, 4, MUTEX) != bytes(4)


@contextlib.contextmanager
def somebody_stopped() -> Iterator[None]:
    """Have a process stopped in the middle of a change of shared memory."""
    Lock()  # so that there is shared memory
    identity = _native.family_id()
    assert identity is not None
    memory = identity[1]
    victim = os.fork()
    if victim == 0:
        try:
            change_memory()
        finally:
            os._exit(1)

    def is_stopped_inside() -> bool:
        os.kill(victim, signal.SIGSTOP)
        os.waitpid(victim, os.WUNTRACED)
        if has_mutex(memory):
            return True
        os.kill(victim, signal.SIGCONT)
        return False

    try:
        wait_until(is_stopped_inside, "it is stopped with the mutex", 30.0)
        yield
        assert has_mutex(memory)
    finally:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


@contextlib.contextmanager
def interrupted_asleep() -> Iterator[None]:
    """Require that a signal's handler ends the block, sent once this thread sleeps in it.

    That it is sent at all shows that another thread runs meanwhile.
    """
    task = Path(f"/proc/self/task/{threading.get_native_id()}")
    main_thread = threading.get_ident()

    def send() -> None:
        wait_until_task_sleeps(task)
        signal.pthread_kill(main_thread, signal.SIGUSR1)

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise AlarmError

    previous = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(AlarmError):
            yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)


def put_first(source: Queue[object]) -> Callable[[float | None], None]:
    """Return a put that needs memory for the queue."""
    return lambda timeout: source.put("first", timeout is None or timeout > 0, timeout)


def put_large(source: Queue[object]) -> Callable[[float | None], None]:
    """Return a put that needs memory for the item."""
    source.put("before")
    assert source.get() == "before"
    return lambda timeout: source.put(LARGE, timeout is None or timeout > 0, timeout)


def put_named(source: Queue[object]) -> Callable[[float | None], None]:
    """Return a put that needs memory for an item that names an object."""
    lock = Lock()
    source.put("before")
    assert source.get() == "before"
    return lambda timeout: source.put([lock], timeout is None or timeout > 0, timeout)


def get_large(source: Queue[object]) -> Callable[[float | None], None]:
    """Return a get of an item whose memory changes hands."""
    source.put(LARGE)

    def get(timeout: float | None) -> None:
        assert source.get(timeout is None or timeout > 0, timeout) == LARGE

    return get


CALLS = {
    "put first": put_first,
    "put large": put_large,
    "put named": put_named,
    "get large": get_large,
}
calls = pytest.mark.parametrize("arrange", CALLS.values(), ids=CALLS.keys())


@calls
@pytest.mark.parametrize("timeout", [0, 0.01], ids=["nowait", "timeout"])
def test_a_call_gives_up_in_time(
    arrange: Callable[[Queue[object]], Callable[[float | None], None]], timeout: float
) -> None:
    source: Queue[object] = Queue()
    call = arrange(source)
    size = source.qsize()
    with somebody_stopped():
        with pytest.raises((queue.Full, queue.Empty)):
            call(timeout)
        assert source.qsize() == size
    call(None)


@calls
def test_a_signal_ends_the_call(
    arrange: Callable[[Queue[object]], Callable[[float | None], None]],
) -> None:
    source: Queue[object] = Queue()
    call = arrange(source)
    size = source.qsize()
    with somebody_stopped():
        with interrupted_asleep():
            call(None)
        assert source.qsize() == size
    call(None)


def test_a_signal_ends_the_making_of_an_object() -> None:
    with somebody_stopped(), interrupted_asleep():
        SimpleQueue()


def test_what_needs_no_memory_goes_on() -> None:
    source: Queue[object] = Queue()
    source.put("before")
    with somebody_stopped():
        for number in range(50):
            source.put(number)
        assert source.get_many(51) == ["before", *range(50)]


def test_what_is_dropped_meanwhile_is_freed_afterwards() -> None:
    before = _native.family_statistics()
    source: Queue[object] = Queue()
    kept = [Queue(), Queue(), Lock(), source]
    source.put(PickleBuffer(bytearray(LARGE)))
    arrays = [source.get()]
    with somebody_stopped():
        kept.clear()
        arrays.clear()
        del source
    Lock()  # whoever gets the mutex next sees to it
    assert _native.family_statistics() == before
