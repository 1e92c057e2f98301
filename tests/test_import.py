"""What `import freethreading` gives, and what it leaves alone."""

from __future__ import annotations

import inspect
import sysconfig
from typing import Any

import pytest

import freethreading
from support import run_python

NAMES = {
    "get_backend",
    "Worker",
    "current_worker",
    "active_children",
    "enumerate",
    "active_count",
    "get_ident",
    "Lock",
    "RLock",
    "Semaphore",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Barrier",
    "Queue",
    "SimpleQueue",
    "WorkerPool",
    "WorkerPoolExecutor",
}
# What later work added on purpose; each is documented.
ADDITIONS = {"OwnerDiedError", "WorkerDiedError"}

every_name = pytest.mark.parametrize("name", sorted(NAMES | ADDITIONS))


def test_exactly_the_documented_names_are_exported() -> None:
    assert len(NAMES) == 18
    assert set(freethreading.__all__) == NAMES | ADDITIONS
    assert len(freethreading.__all__) == len(set(freethreading.__all__))


def test_dir_lists_the_names() -> None:
    assert set(dir(freethreading)) >= NAMES | ADDITIONS


def test_a_star_import_gives_the_names() -> None:
    finished = run_python("""
        from freethreading import *
        print(*sorted(name for name in globals() if not name.startswith("__")))
    """).check()
    assert finished.stdout.split() == sorted(NAMES | ADDITIONS)


@every_name
def test_every_name_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(freethreading, name))
    assert text is not None
    assert len(text.split()) >= 3


def public_members() -> list[tuple[str, str]]:
    """Return class and name of each method and property in API.md's tables."""
    members = {
        "Lock": "acquire release locked",
        "RLock": "acquire release",
        "Semaphore": "acquire release",
        "BoundedSemaphore": "acquire release",
        "Condition": "acquire release wait wait_for notify notify_all",
        "Event": "is_set set clear wait",
        "Barrier": "wait reset abort parties n_waiting broken",
        "Queue": "put put_nowait get get_nowait empty full qsize task_done join",
        "SimpleQueue": "put get empty",
    }
    return [(owner, name) for owner, names in members.items() for name in names.split()]


@pytest.mark.parametrize(("owner", "name"), public_members(), ids=".".join)
def test_every_method_is_documented(owner: str, name: str) -> None:
    text = inspect.getdoc(getattr(getattr(freethreading, owner), name))
    assert text


@every_name
def test_every_name_says_that_it_is_ours(name: str) -> None:
    assert getattr(freethreading, name).__module__.split(".")[0] == "freethreading"
    assert getattr(freethreading, name).__name__ == name


def test_owner_died_error_is_a_runtime_error() -> None:
    assert issubclass(freethreading.OwnerDiedError, RuntimeError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    module: Any = freethreading
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_import_starts_nothing_opens_nothing_and_loads_little() -> None:
    finished = run_python("""
        import os, sys, threading, queue

        def count():
            folder = "/proc/self/task"
            children = "".join(
                open(f"{folder}/{task}/children").read() for task in os.listdir(folder)
            )
            return len(os.listdir("/proc/self/fd")), len(os.listdir(folder)), children

        heavy = {"multiprocessing", "pickle", "concurrent", "concurrent.futures", "_pickle"}
        assert not heavy & set(sys.modules)
        before = count()
        import freethreading
        assert count() == before, (before, count())
        loaded = heavy & set(sys.modules)
        assert not loaded, loaded
        print("nothing")
    """).check()
    assert finished.stdout == "nothing\n"


def test_import_leaves_signal_handlers_and_the_start_method_alone() -> None:
    finished = run_python("""
        import signal
        before = {number: signal.getsignal(number) for number in signal.valid_signals()}
        import freethreading
        assert before == {number: signal.getsignal(number) for number in signal.valid_signals()}
        import multiprocessing
        assert multiprocessing.get_start_method(allow_none=True) is None
        print("as before")
    """).check()
    assert finished.stdout == "as before\n"


def test_import_warns_of_nothing() -> None:
    finished = run_python("import freethreading", options=("-W", "error", "-b")).check()
    assert finished.stderr == ""


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded build"
)
def test_import_does_not_switch_the_gil_on() -> None:
    finished = run_python(
        """
        import sys
        assert not sys._is_gil_enabled()
        from freethreading import *
        assert not sys._is_gil_enabled()
        with Lock(), RLock(), Semaphore(), Condition():
            queue = Queue()
            queue.put([1])
        print(sys._is_gil_enabled())
        """,
        env={"PYTHON_GIL": None, "FREETHREADING_BACKEND": None},
        options=("-W", "error"),
    ).check()
    assert finished.stdout == "False\n"


def test_import_works_in_a_thread_and_twice() -> None:
    finished = run_python("""
        import sys, threading

        seen = []

        def load():
            import freethreading
            seen.append((freethreading.Lock, freethreading.WorkerPool))

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(seen), len(set(seen)))
    """).check()
    assert finished.stdout == "8 1\n"


def test_the_program_ends_cleanly_whatever_was_made() -> None:
    finished = run_python(
        """
        import freethreading
        from freethreading import *

        made = [Lock(), RLock(), Semaphore(), BoundedSemaphore(), Condition(), Event(), Barrier(2)]
        made += [Queue(), SimpleQueue(), Worker()]
        made[0].acquire()
        made[-2].put(made[:5])
        made[-3].put(b"x" * 1_000_000)
        cycle = [made]
        cycle.append(cycle)
        """,
        options=("-W", "error", "-X", "dev"),
    ).check()
    assert finished.stderr == ""


def test_the_native_module_may_be_imported_again() -> None:
    """Its classes are the same then, and so are their methods."""
    finished = run_python("""
        import importlib, sys
        from freethreading import Lock, Semaphore
        del sys.modules["freethreading._native"]
        again = importlib.import_module("freethreading._native")
        assert again.Lock is Lock
        for thing in (Lock(), Semaphore()):
            assert thing.acquire()
            assert not thing.acquire(timeout=0.01)
            thing.release()
        print("works")
    """).check()
    assert finished.stdout == "works\n"


def test_ten_thousand_primitives_cost_at_most_one_descriptor() -> None:
    """Each of multiprocessing's costs a named semaphore, or several."""
    finished = run_python("""
        import os
        from freethreading import Barrier, Condition, Event, Lock, RLock, Semaphore

        makers = [Lock, RLock, Semaphore, Event, Condition, lambda: Barrier(2)]
        if __name__ == "__main__":
            before = len(os.listdir("/proc/self/fd"))
            things = [makers[index % len(makers)]() for index in range(10_000)]
            print(len(os.listdir("/proc/self/fd")) - before)
    """).check()
    assert int(finished.stdout) <= 1
