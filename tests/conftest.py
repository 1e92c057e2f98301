"""What every test gets: a watchdog, a check that nothing is left running, and the `backend` id."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import platform
import signal
import sys
import sysconfig
import threading
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import pytest

import freethreading
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

# A shell starts what runs in its background with SIGINT ignored, and every program started from
# there inherits that; tests of Ctrl-C need the usual disposition.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WATCHDOG_SECONDS = 60.0
# What a wait that no signal can interrupt gets on top, before the whole run is ended.
LAST_RESORT_SECONDS = 15.0
SECONDS_TO_END = 5.0
BACKEND_IDS = {"threading": "thread", "multiprocessing": "process"}
STDERR = pytest.StashKey[int]()

# Workers inherit it: SIGABRT makes them dump their stacks.
os.environ["PYTHONFAULTHANDLER"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr for stacks: pytest redirects the descriptor while a test runs."""
    config.stash[STDERR] = os.dup(2)


def pytest_report_header() -> str:
    """Say which interpreter this is, whether its GIL is on, and which backend is tested."""
    build = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "standard"
    gil = "GIL on" if _is_gil_enabled() else "GIL off"
    return (
        f"freethreading: CPython {platform.python_version()} ({build} build, {gil}), "
        f"backend {freethreading.get_backend()}"
    )


def _is_gil_enabled() -> bool:
    """Tell whether the GIL is on now; before 3.13 it always is."""
    ask: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return ask()


@pytest.fixture(
    scope="session", params=[freethreading.get_backend()], ids=lambda name: BACKEND_IDS[name]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Return the active backend; the test's id says `thread` or `process`."""
    name: str = request.param
    return name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Stop a test that takes too long.

    First by an exception in the main thread, which every wait that runs signal handlers lets
    through: that test fails, and the others run. What doesn't end by that ends the whole run.
    """
    marker = item.get_closest_marker("watchdog")
    stderr = item.config.stash[STDERR]
    seconds = float(marker.args[0]) if marker else WATCHDOG_SECONDS

    def expire(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=stderr, all_threads=True)
        for child in multiprocessing.active_children():
            _send(child, signal.SIGABRT)
        # No ordinary exception: nothing on the way may take it for one of its own.
        pytest.fail(f"the watchdog stopped {item.nodeid} after {seconds:g} s; stacks are on stderr")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + LAST_RESORT_SECONDS, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _send(child: BaseProcess, number: signal.Signals) -> None:
    """Send a signal to a worker process that may have ended by now."""
    if child.pid is not None and child.is_alive():
        os.kill(child.pid, number)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a worker, a process or a non-daemon thread running."""
    before = set(_running())
    yield
    if not _leftovers(before):
        return
    gc.collect()  # a pool that was dropped without being closed ends when it is collected
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not _leftovers(before), "all workers have ended", SECONDS_TO_END)
        return
    left = _leftovers(before)
    message = f"left running by the test: {', '.join(map(repr, left))}"
    for worker in left:
        if isinstance(worker, BaseProcess):
            worker.kill()
            worker.join()
    pytest.fail(message, pytrace=False)


def _leftovers(
    before: set[threading.Thread | BaseProcess],
) -> list[threading.Thread | BaseProcess]:
    """Return what runs now and didn't before the test."""
    return [worker for worker in _running() if worker not in before]


def _running() -> list[threading.Thread | BaseProcess]:
    """Return all workers and processes, and the threads that would keep the program from ending."""
    threads = [thread for thread in threading.enumerate() if not thread.daemon]
    workers = [*freethreading.active_children(), *multiprocessing.active_children()]
    return list(dict.fromkeys([*workers, *threads]))
