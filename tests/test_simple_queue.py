"""SimpleQueue: first in, first out, and nothing else."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from typing import Any

import pytest

from freethreading import Event, Queue, SimpleQueue
from test_queue import (
    EIGHT_MIB,
    ITEMS,
    PutsWhenDeleted,
    PutsWhenPickled,
    RaisesAtLoading,
    check_intact,
    digest,
    get_and_tell,
    get_for_ever,
    move,
    ping_pong,
    put_all,
    put_for_ever,
    put_random,
    same,
    send_round,
    unpicklable_items,
)
from test_worker import (
    DEADLINE,
    PROCESSES,
    Launcher,
    finish,
    kill,
    launchers,
    only_processes,
    only_threads,
    signature_of,
    start,
    wait_until_asleep,
)


def drain(source: SimpleQueue[Any]) -> list[Any]:
    """Return all that is there; there must be no other reader."""
    found = []
    while not source.empty():
        found.append(source.get())
    return found


def test_signatures_are_the_documented_ones() -> None:
    source: SimpleQueue[int] = SimpleQueue()
    assert signature_of(SimpleQueue) == "()"
    assert signature_of(source.put) == "(item)"
    assert signature_of(source.get) == "()"
    assert signature_of(source.empty) == "()"


def test_it_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        SimpleQueue(1)  # type: ignore[call-arg]


def test_items_come_out_in_the_order_they_went_in() -> None:
    source: SimpleQueue[int] = SimpleQueue()
    assert source.empty() is True
    for number in range(3000):
        assert source.put(number) is None  # type: ignore[func-returns-value]
    assert source.empty() is False
    assert [source.get() for _ in range(3000)] == list(range(3000))
    assert source.empty() is True


def test_objects_of_many_kinds_make_the_round_trip() -> None:
    send_round(ITEMS, SimpleQueue(), SimpleQueue())


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: type(item).__name__)
def test_an_item_comes_back_as_it_was(item: object) -> None:
    source: SimpleQueue[object] = SimpleQueue()
    source.put(item)
    assert same(source.get(), item)


@only_threads
def test_between_threads_an_item_is_passed_by_reference() -> None:
    source: SimpleQueue[object] = SimpleQueue()
    for item in ([1], lambda: "not picklable", threading.Lock()):
        source.put(item)
        assert source.get() is item


@only_processes
def test_between_processes_later_changes_are_not_seen() -> None:
    source: SimpleQueue[Any] = SimpleQueue()
    item = [1]
    source.put(item)
    item.append(2)
    assert source.get() == [1]


@only_processes
def test_an_item_that_can_not_be_pickled_raises_in_put_and_changes_nothing() -> None:
    source: SimpleQueue[Any] = SimpleQueue()
    source.put("before")
    for item, error in unpicklable_items():
        with pytest.raises(error):
            source.put(item)
    source.put("after")
    assert drain(source) == ["before", "after"]


@only_processes
def test_an_item_that_can_not_be_loaded_raises_in_get_and_the_next_one_comes() -> None:
    """A5: what pickles but doesn't unpickle hung or broke everything behind it."""
    source: SimpleQueue[Any] = SimpleQueue()
    source.put(RaisesAtLoading())
    source.put("next")
    with pytest.raises(LookupError, match="can't be loaded"):
        source.get()
    assert drain(source) == ["next"]


def test_pickling_an_item_may_use_the_same_queue() -> None:
    """No Python code runs while an internal lock is held."""
    source: SimpleQueue[Any] = SimpleQueue()
    source.put(PutsWhenPickled(source))
    if PROCESSES:
        assert sorted(drain(source)) == ["from __reduce__", "loaded"]
    else:
        assert len(drain(source)) == 1


def find_at_once(source: SimpleQueue[Any], told: Queue[Any]) -> None:
    told.put((source.empty(), len(source.get())))


@pytest.mark.parametrize("size", [1, 1000, 100_000, 2_000_000])
def test_an_item_is_there_when_put_returns(size: int) -> None:
    source: SimpleQueue[bytes] = SimpleQueue()
    told: Queue[Any] = Queue()
    for _ in range(20):
        source.put(b"x" * size)
        assert source.empty() is False
        assert len(source.get()) == size
    source.put(b"x" * size)
    finish(start(find_at_once, source, told))
    assert told.get_nowait() == (False, size)


def test_big_items_need_no_reader() -> None:
    """A4: `multiprocessing.SimpleQueue.put` blocks in a pipe of 64 KiB."""
    source: SimpleQueue[Any] = SimpleQueue()
    items = [os.urandom(EIGHT_MIB), bytearray(EIGHT_MIB), [b"a" * EIGHT_MIB, b"b"]]
    put_all(source, items)
    assert digest(source.get()) == digest(items[0])
    assert drain(source) == items[1:]


def test_joining_the_producer_before_draining_does_not_hang() -> None:
    """A4: a worker that had put more than the pipe held could not be joined."""
    source: SimpleQueue[bytes] = SimpleQueue()
    sums: Queue[str] = Queue()
    finish(start(put_random, source, sums, [200_000, EIGHT_MIB, 1, 70_000]))
    assert [digest(item) for item in drain(source)] == [sums.get_nowait() for _ in range(4)]


def test_get_waits_for_an_item() -> None:
    source: SimpleQueue[int] = SimpleQueue()
    told: Queue[int] = Queue()
    workers = [start(get_and_tell, source, told) for _ in range(3)]
    wait_until_asleep(*workers)
    assert told.empty()
    put_all(source, [1, 2, 3])
    finish(*workers)
    assert sorted(told.get_nowait() for _ in workers) == [1, 2, 3]


@launchers
@pytest.mark.parametrize(("count", "payload"), [(1000, b""), (50, b"x" * 300_000)])
def test_two_producers_and_two_consumers_lose_nothing(
    launch: Launcher, count: int, payload: bytes
) -> None:
    move(SimpleQueue(), count, payload, launch)


def test_no_wake_up_is_lost_in_many_round_trips() -> None:
    requests: SimpleQueue[int] = SimpleQueue()
    results: SimpleQueue[int] = SimpleQueue()
    worker = start(ping_pong, requests, results, 1000)
    for number in range(1000):
        requests.put(number)
        assert results.get() == number + 1
    finish(worker)


def test_a_queue_in_a_queue() -> None:
    outer: SimpleQueue[Any] = SimpleQueue()
    inner: SimpleQueue[str] = SimpleQueue()
    outer.put({"inner": inner})
    outer.get()["inner"].put("inside")
    assert inner.get() == "inside"
    assert pickle.loads(pickle.dumps(inner)).empty()


def test_put_works_in_del() -> None:
    source: SimpleQueue[Any] = SimpleQueue()
    for _ in range(100):
        PutsWhenDeleted(source)
        source.put([[], [], []])
    gc.collect()
    found = drain(source)
    assert found.count("deleted") == 100
    assert found.count([[], [], []]) == 100


@only_processes
@pytest.mark.parametrize("size", [10, 3000, 150_000])
def test_a_producer_killed_in_the_middle_leaves_the_queue_usable(size: int) -> None:
    """A3: half a frame in the pipe, and a lock held for ever."""
    source: SimpleQueue[Any] = SimpleQueue()
    for turn in range(3):
        started = Event()
        worker = start(put_for_ever, source, started, size)
        assert started.wait(DEADLINE)
        found = [source.get() for _ in range(3 * turn)]
        kill(worker)
        check_intact(found + drain(source))
        finish(start(put_all, source, ["alive", b"x" * size]))
        assert drain(source) == ["alive", b"x" * size]


@only_processes
def test_a_consumer_killed_in_the_middle_leaves_the_queue_usable() -> None:
    """A3: a reader killed inside `get` kept the reader's lock for ever."""
    source: SimpleQueue[Any] = SimpleQueue()
    for _ in range(3):
        started = Event()
        put_all(source, [b"x" * 5000] * 50)
        worker = start(get_for_ever, source, started)
        assert started.wait(DEADLINE)
        kill(worker)
        assert set(drain(source)) <= {b"x" * 5000}
        put_all(source, list(range(50)))
        assert drain(source) == list(range(50))


@only_processes
def test_killed_while_waiting_it_takes_nothing_with_it() -> None:
    source: SimpleQueue[Any] = SimpleQueue()
    told: Queue[Any] = Queue()
    killed, survivor = [start(get_and_tell, source, told) for _ in range(2)]
    wait_until_asleep(killed, survivor)
    kill(killed)
    source.put("item")
    assert told.get(timeout=DEADLINE) == "item"
    finish(survivor)
    assert source.empty()
