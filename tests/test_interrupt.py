"""Ctrl-C and other signals reach the main thread whatever it waits for (A15)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import IO

import pytest

from support import run_python
from test_worker import DEADLINE, wait_until_task_sleeps

# Each waits for ever; `setup` runs before, the statement behind the bar is what SIGINT must end.
WAITS = {
    "Lock.acquire": "it = Lock(); it.acquire() | it.acquire()",
    "Lock.acquire with a timeout": "it = Lock(); it.acquire() | it.acquire(timeout=1000)",
    "with Lock": "it = Lock(); it.acquire() | it.__enter__()",
    "RLock.acquire": "it = RLock(); hold(it) | it.acquire()",
    "with RLock": "it = RLock(); hold(it) | it.__enter__()",
    "Semaphore.acquire": "it = Semaphore(0) | it.acquire()",
    "with Semaphore": "it = Semaphore(0) | it.__enter__()",
    "BoundedSemaphore.acquire": "it = BoundedSemaphore(0) | it.acquire(timeout=1000)",
    "Condition.acquire": "it = Condition(); hold(it) | it.acquire()",
    "Condition.wait": "it = Condition(); it.acquire() | it.wait()",
    "Condition.wait with a timeout": "it = Condition(); it.acquire() | it.wait(1000)",
    "Condition.wait_for": "it = Condition(); it.acquire() | it.wait_for(int)",
    "Event.wait": "it = Event() | it.wait()",
    "Event.wait with a timeout": "it = Event() | it.wait(1000)",
    "Barrier.wait": "it = Barrier(2) | it.wait()",
    "Queue.get": "it = Queue() | it.get()",
    "Queue.get with a timeout": "it = Queue() | it.get(timeout=1000)",
    "Queue.put": "it = Queue(1); it.put(1) | it.put(2)",
    "Queue.join": "it = Queue(); it.put(1) | it.join()",
    "SimpleQueue.get": "it = SimpleQueue() | it.get()",
    "Worker.join": "event = Event(); it = worker(event) | it.join()",
    "Worker.join with a timeout": "event = Event(); it = worker(event) | it.join(1000)",
}

PROGRAM = """
    import sys, threading
    from freethreading import *

    def hold(lock):
        held = threading.Event()

        def take():
            lock.acquire()
            held.set()
            threading.Event().wait()

        threading.Thread(target=take, daemon=True).start()
        held.wait()

    def worker(event):
        worker = Worker(target=event.wait, daemon=True)
        worker.start()
        return worker

    if __name__ == "__main__":
        # Compiled, for `exec` of a text lets 3.11 die of a KeyboardInterrupt that was caught.
        setup, wait = (compile(part, "wait", "exec") for part in sys.argv[1].split(" | "))
        exec(setup)
        print("ready", flush=True)
        try:
            exec(wait)
        except KeyboardInterrupt:
            print("interrupted")
        else:
            print("not interrupted")
        {afterwards}
"""


def interrupt(program: str, *arguments: str, folder: Path) -> tuple[int, str]:
    """Run a program, send one SIGINT once it said `ready` and sleeps; return status and output."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(program), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    ) as process:
        output: IO[str] | None = process.stdout
        assert output is not None
        try:
            first = output.readline()
            assert first == "ready\n", first + output.read()
            wait_until_task_sleeps(Path(f"/proc/{process.pid}/task/{process.pid}"))
            os.kill(process.pid, signal.SIGINT)
            rest, _ = process.communicate(timeout=DEADLINE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, rest


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_one_ctrl_c_ends_the_wait(wait: str, tmp_path: Path) -> None:
    """A15: a wait in the parent that no signal could end had to be killed."""
    program = PROGRAM.replace("{afterwards}", "")
    assert interrupt(program, wait, folder=tmp_path) == (0, "interrupted\n")


AFTERWARDS = {
    "Lock.acquire": "assert it.locked(); it.release(); assert it.acquire(False)",
    "Semaphore.acquire": "it.release(); assert it.acquire(False) and not it.acquire(False)",
    "Condition.wait": "it.notify_all(); it.release(); assert it.acquire(False)",
    "Event.wait": "it.set(); assert it.wait()",
    "Barrier.wait": "it.reset(); assert it.n_waiting == 0 and not it.broken",
    "Queue.get": "it.put(1); assert it.get_nowait() == 1 and it.empty()",
    "Queue.put": "assert it.get_nowait() == 1 and it.empty()",
    "Queue.join": "it.task_done(); it.join()",
    "SimpleQueue.get": "it.put(1); assert it.get() == 1 and it.empty()",
    "Worker.join": "event.set(); it.join(); assert not it.is_alive()",
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_what_was_waited_for_works_after_ctrl_c(name: str, tmp_path: Path) -> None:
    program = PROGRAM.replace("{afterwards}", AFTERWARDS[name] + '; print("works")')
    assert interrupt(program, WAITS[name], folder=tmp_path) == (0, "interrupted\nworks\n")


HANDLED = """
    import signal, threading, time
    from freethreading import *

    # Sent once the wait has begun, as far as /proc tells; a handler that returns ends no wait.
    def send_when_asleep():
        me = threading.main_thread().native_id
        looks = [None, None]
        while not (looks[-1] == looks[-2] and looks[-1]):
            time.sleep(0.005)
            status = open(f"/proc/self/task/{me}/status").read()
            looks.append("State:\\tS" in status and status.split("voluntary_ctxt_switches")[1])
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    handled = []

    def during(handle, wait):
        def handler(number, frame):
            handled.append(number)
            handle()
        signal.signal(signal.SIGUSR1, handler)
        sender = threading.Thread(target=send_when_asleep)
        sender.start()
        result = wait()
        sender.join()
        return result

    if __name__ == "__main__":
        lock, semaphore, event, queue = Lock(), Semaphore(0), Event(), Queue()
        simple, full, condition, unfinished = SimpleQueue(), Queue(1), Condition(), Queue()
        lock.acquire()
        {body}
        print("handled", len(handled))
"""


def test_a_handler_may_end_the_wait_it_interrupts() -> None:
    body = """
        assert during(lock.release, lock.acquire) is True
        assert during(semaphore.release, semaphore.acquire) is True
        assert during(event.set, event.wait) is True
        assert during(lambda: queue.put("item"), queue.get) == "item"
        assert during(lambda: simple.put("item"), simple.get) == "item"
        full.put(1)
        during(full.get_nowait, lambda: full.put(2))
        assert full.get_nowait() == 2
        unfinished.put(1)
        during(unfinished.task_done, unfinished.join)
    """
    program = HANDLED.replace("{body}", body.strip())
    assert run_python(program).check().stdout == "handled 7\n"


def test_a_handler_that_returns_neither_ends_nor_prolongs_the_wait() -> None:
    body = """
        def timed(wait, expected):
            began = time.monotonic()
            assert during(lambda: None, wait) == expected
            assert time.monotonic() - began >= 0.1499

        def full_after(call):
            import queue
            try:
                call()
            except (queue.Empty, queue.Full) as error:
                return type(error).__name__

        timed(lambda: lock.acquire(timeout=0.15), False)
        timed(lambda: semaphore.acquire(timeout=0.15), False)
        timed(lambda: event.wait(0.15), False)
        condition.acquire()
        timed(lambda: condition.wait(0.15), False)
        timed(lambda: full_after(lambda: queue.get(timeout=0.15)), "Empty")
        full.put(1)
        timed(lambda: full_after(lambda: full.put(1, timeout=0.15)), "Full")
    """
    program = HANDLED.replace("{body}", body.strip())
    assert run_python(program).check().stdout == "handled 6\n"


RAISING = """
    import signal
    from freethreading import *

    class Stop(Exception):
        pass

    def stop(number, frame):
        raise Stop

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, stop)
        queue = Queue()
        print("ready", flush=True)
        try:
            queue.get()
        except Stop:
            print("stopped")
"""


def test_the_exception_of_a_handler_leaves_the_wait(tmp_path: Path) -> None:
    assert interrupt(RAISING, folder=tmp_path) == (0, "stopped\n")
