"""Queues in processes that have less memory, or less of something else, than others."""

from __future__ import annotations

import contextlib
import os
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Queue
from support import run_python, wait_until
from test_worker import only_processes

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITED = """
    import os
    import resource
    import sys
    import threading
    import time
    import queue

    from freethreading import Queue, SimpleQueue, _native

    def limit(room):
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    def unlimit():
        infinite = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (infinite, infinite))

    def raises_memory_error(action):
        try:
            action()
        except MemoryError:
            return True
        return False

    def in_child(action):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if action() else 2
            finally:
                os._exit(code)
        return pid

    def succeeded(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    shared = Queue()
"""


def run(code: str) -> None:
    finished = run_python(LIMITED + code)
    assert finished.returncode == 0, finished
    assert finished.stdout.split() == ["done"], finished


@only_processes
def test_who_cannot_map_the_end_of_a_queue_puts_nothing() -> None:
    run("""
    shared.put_many(("first", number) for number in range(5))
    ready, go = os.pipe()

    def put():
        os.read(ready, 1)
        limit(1 << 20)
        return raises_memory_error(lambda: shared.put("lost?"))

    child = in_child(put)
    # Until the end of the queue lies in memory that the child hasn't mapped.
    shared.put_many(bytes(1000) for _ in range(100_000))
    os.write(go, b"x")
    assert succeeded(child)
    assert shared.qsize() == 100_005
    assert shared.get_many(5) == [("first", number) for number in range(5)]
    assert shared.get_many(200_000) == [bytes(1000)] * 100_000
    print("done")
    """)


@only_processes
def test_who_cannot_map_a_message_leaves_it_in_the_queue() -> None:
    run("""
    ready, go = os.pipe()

    def get():
        os.read(ready, 1)
        limit(1 << 20)
        return raises_memory_error(shared.get) and raises_memory_error(shared.get_nowait)

    child = in_child(get)
    shared.put(b"x" * (50 << 20))
    os.write(go, b"x")
    assert succeeded(child)
    assert shared.get_nowait() == b"x" * (50 << 20)
    print("done")
    """)


@only_processes
def test_memory_that_one_process_cannot_map_is_not_made() -> None:
    run("""
    memory = _native.family_id()[1]
    large = bytes(70 << 20)
    limit(100 << 20)
    for _ in range(30):
        assert raises_memory_error(lambda: shared.put(large))
    assert os.fstat(memory).st_size < 1 << 30
    shared.put("works on")
    assert shared.get() == "works on"
    unlimit()
    shared.put(large)
    assert shared.get() == large
    print("done")
    """)


@only_processes
@pytest.mark.skipif(
    sysconfig.get_config_var("Py_GIL_DISABLED") == 1,
    reason="that build's allocator has address space in reserve",
)
@pytest.mark.parametrize("item", ['b"x" * size', '"y" * size', "bytearray(size)"])
def test_no_memory_for_a_copy_is_a_memory_error(item: str) -> None:
    run(f"""
    size = 60 << 20
    item = {item}
    shared.put(item)
    shared.put(item)
    limit(10 << 20)
    assert raises_memory_error(shared.get)
    unlimit()
    assert shared.get() == item
    assert shared.empty()
    print("done")
    """)


EXHAUSTED = """
    item = {item}
    shared.put(item)
    assert shared.get() == item
    shared.put_many([item] * 300)

    def leave_nothing():
        ballast = []
        for size in (1 << 20, 100_000, 10_000, 1000, 100):
            try:
                while True:
                    ballast.append(bytearray(size))
            except MemoryError:
                pass
        return ballast

    puts = got = put_errors = get_errors = 0
    limit(0)
    ballast = leave_nothing()
    for _ in range(50):
        try:
            shared.put(item)
            puts += 1
        except MemoryError:
            put_errors += 1
    for _ in range(50):
        try:
            shared.get_nowait()
            got += 1
        except MemoryError:
            get_errors += 1
    ballast.clear()
    unlimit()
    assert puts + put_errors == got + get_errors == 50
    left = shared.get_many(1000)
    assert all(each == item for each in left)
    # What it had no memory to copy is in the queue; what it had none to unpickle is taken.
    missing = 300 + puts - got - len(left)
    assert {lost}, (missing, get_errors)
    shared.put(item)
    assert shared.get() == item and shared.empty()
    print("done")
    """


@only_processes
@pytest.mark.parametrize(
    ("item", "lost"),
    [
        pytest.param("b'x' * 60_000", "missing == 0", id="bytes"),
        pytest.param("'y' * 60_000", "missing == 0", id="str"),
        pytest.param("{'number': 10**9, 'text': 'x' * 900, 'it': [b'y' * 900, 1.5]}", "True"),
        pytest.param("(1 << 40, 2.5, 'text', (b'bytes', [None, True]))", "True"),
        pytest.param("[10**50, {1}] * 40", "True"),
        pytest.param("10**12", "True"),
    ],
)
def test_without_any_memory_left_there_are_only_memory_errors(item: str, lost: str) -> None:
    run(EXHAUSTED.replace("{item}", item).replace("{lost}", lost))


@only_processes
def test_a_file_size_limit_is_a_memory_error() -> None:
    run("""
    infinite = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, infinite))
    large = bytes(5 << 20)
    assert raises_memory_error(lambda: shared.put(large))
    puts = 0
    while not raises_memory_error(lambda: shared.put(bytes(70_000))):
        puts += 1
    assert puts > 5
    assert shared.get_many(1000) == [bytes(70_000)] * puts
    print("done")
    """)


@only_processes
def test_a_dict_that_changes_while_a_dict_in_it_is_locked() -> None:
    # On free-threaded builds, who waits for an inner dict opens the lock of the outer one.
    run("""
    class Slow:
        def __eq__(self, other):
            for _ in range(3000):
                pass
            return True

    inner = {f"key {number}": number for number in range(8)}
    slow = {key: Slow() for key in inner}
    outer = {"a": 1, "inner": inner, "b": 2, "c": 3}
    is_over = False

    def hold():
        while not is_over:
            assert slow == inner

    def change():
        number = 0
        while not is_over:
            outer[f"key {number % 5}"] = number
            outer.pop(f"key {(number + 2) % 5}", None)
            number += 1

    threads = [threading.Thread(target=target) for target in (hold, hold, change)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 2
    try:
        while time.monotonic() < until:
            shared.put(outer)
            got = shared.get()
            assert got["inner"] == inner and [got["a"], got["b"], got["c"]] == [1, 2, 3]
    finally:
        is_over = True
        for thread in threads:
            thread.join()
    print("done")
    """)


LIMIT = 128 << 20


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """Return a new control group whose processes may use so much memory, and no swap."""
    name = f"freethreading-test-{os.getpid()}"
    first, unified = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (first if (first / "memory.limit_in_bytes").exists() else unified) / name
    limit = "memory.limit_in_bytes" if group.parent == first else "memory.max"
    swap = "memory.memsw.limit_in_bytes" if group.parent == first else "memory.swap.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups can't be made here: {error}")
    try:
        try:
            (group / limit).write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"their memory can't be limited here: {error}")
        with contextlib.suppress(OSError):  # perhaps there is no swap
            (group / swap).write_text(str(LIMIT if group.parent == first else 0))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "its processes have ended")
        group.rmdir()


IN_GROUP = """
    with open(f"{sys.argv[1]}/cgroup.procs", "w") as processes:
        processes.write(str(os.getpid()))
    item = bytes({size})
    for _ in range(2):
        puts = 0
        while not raises_memory_error(lambda: shared.put(item)):
            puts += 1
            assert puts * len(item) < 1 << 30
        assert shared.qsize() == puts
        # Nearly all of it can be used.
        assert puts * len(item) > 64 << 20, puts
        for _ in range(20):
            raises_memory_error(lambda: shared.put(item))
        for _ in range(shared.qsize()):
            assert shared.get() == item
    shared.put("works on")
    assert shared.get() == "works on"
    print("done")
"""


@only_processes
@pytest.mark.parametrize("size", [60_000, 100_000, 10 << 20])
def test_beyond_a_containers_limit_put_raises_memory_error(limited_group: Path, size: int) -> None:
    code = IN_GROUP.replace("{size}", str(size))
    finished = run_python(textwrap.dedent(LIMITED) + textwrap.dedent(code), str(limited_group))
    assert finished.returncode == 0, finished
    assert finished.stdout.split() == ["done"], finished


@dataclass(frozen=True)
class FrozenError(Exception):
    """One whose attributes can't be set in the usual way."""

    number: int


class Unreadable:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, ()


def _raise() -> None:
    raise FrozenError(5)


@only_processes
def test_what_was_taken_is_not_lost_with_an_exception_of_any_class() -> None:
    source: Queue[Any] = Queue()
    source.put_many([1, 2, Unreadable(), 3])
    with pytest.raises(FrozenError) as caught:
        source.get_many(10)
    assert caught.value.items == [1, 2]  # type: ignore[attr-defined]
    assert source.get_many(10) == [3]
