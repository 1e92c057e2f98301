"""Queue: first in, first out, with task tracking."""

from __future__ import annotations

import array
import collections
import contextlib
import datetime as dt
import decimal
import enum
import fractions
import functools
import gc
import hashlib
import itertools
import math
import os
import pathlib
import queue
import re
import signal
import sys
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from freethreading import Event, Lock, Queue, SimpleQueue, Worker
from support import run_python, wait_until
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    PROCESSES,
    SHORT,
    Launcher,
    finish,
    kill,
    lasts_at_least,
    launchers,
    only_processes,
    only_threads,
    signature_of,
    start,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

AnyQueue = Queue[Any] | SimpleQueue[Any]
EIGHT_MIB = 8 << 20


def drain(source: Queue[Any]) -> list[Any]:
    """Return all that is there."""
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(source.get_nowait())
    return found


def full_queue() -> Queue[Any]:
    """Return a queue of one place, with an item in it."""
    source: Queue[Any] = Queue(1)
    source.put("there")
    return source


# --- one worker -----------------------------------------------------------------------------


def test_signatures_are_the_documented_ones() -> None:
    source: Queue[int] = Queue()
    assert signature_of(Queue) == "(maxsize=0)"
    assert signature_of(source.put) == "(item, block=True, timeout=None)"
    assert signature_of(source.put_nowait) == "(item)"
    assert signature_of(source.get) == "(block=True, timeout=None)"
    for name in ("get_nowait", "empty", "full", "qsize", "task_done", "join"):
        assert signature_of(getattr(source, name)) == "()", name


def test_items_come_out_in_the_order_they_went_in() -> None:
    source: Queue[int] = Queue()
    for number in range(100):
        assert source.put(number) is None  # type: ignore[func-returns-value]
    assert [source.get() for _ in range(100)] == list(range(100))


def test_empty_full_and_qsize_are_exact() -> None:
    source: Queue[int] = Queue(3)
    for size in range(4):
        assert source.qsize() == size
        assert source.empty() is (size == 0)
        assert source.full() is (size == 3)
        if size < 3:
            source.put_nowait(size)
    for size in (2, 1, 0):
        source.get_nowait()
        assert source.qsize() == size
        assert source.full() is False
    assert source.empty() is True


def test_an_empty_queue_raises_empty() -> None:
    source: Queue[int] = Queue()
    for get in (
        source.get_nowait,
        lambda: source.get(False),
        lambda: source.get(block=False),
        lambda: source.get(False, 1000),
        lambda: source.get(timeout=0),
        lambda: source.get(True, 0),
    ):
        with pytest.raises(queue.Empty):
            get()


def test_a_full_queue_raises_full() -> None:
    source: Queue[int] = Queue(2)
    source.put(1)
    source.put(2)
    puts: list[Callable[[], None]] = [
        lambda: source.put_nowait(3),
        lambda: source.put(3, False),
        lambda: source.put(3, block=False),
        lambda: source.put(3, False, 1000),
        lambda: source.put(3, timeout=0),
        lambda: source.put(3, True, 0),
    ]
    for put in puts:
        with pytest.raises(queue.Full):
            put()
    assert drain(source) == [1, 2]
    source.put_nowait(3)
    assert source.get_nowait() == 3


def time_out(call: Callable[[], object]) -> str:
    try:
        call()
    except (queue.Empty, queue.Full) as error:
        return type(error).__name__
    return "no timeout"


def test_get_and_put_give_up_after_their_timeouts() -> None:
    source: Queue[int] = Queue(1)
    assert lasts_at_least(SHORT, lambda: time_out(lambda: source.get(timeout=SHORT))) == "Empty"
    assert lasts_at_least(SHORT, lambda: time_out(lambda: source.get(True, SHORT))) == "Empty"
    source.put(1)
    assert lasts_at_least(SHORT, lambda: time_out(lambda: source.put(2, timeout=SHORT))) == "Full"
    assert lasts_at_least(SHORT, lambda: time_out(lambda: source.put(2, True, SHORT))) == "Full"
    assert drain(source) == [1]


@pytest.mark.parametrize("maxsize", [0, -1, -100])
def test_without_maxsize_it_is_unlimited(maxsize: int) -> None:
    source: Queue[int] = Queue(maxsize)
    for number in range(5000):
        source.put_nowait(number)
    assert source.full() is False
    assert source.qsize() == 5000
    assert drain(source) == list(range(5000))


@pytest.mark.parametrize("maxsize", [1, 2, 7, 1000])
def test_maxsize_is_exact(maxsize: int) -> None:
    source: Queue[int] = Queue(maxsize=maxsize)
    for turn in range(3):
        for number in range(maxsize):
            source.put_nowait(number + turn)
        assert source.full()
        with pytest.raises(queue.Full):
            source.put_nowait(0)
        assert drain(source) == list(range(turn, maxsize + turn))


def test_a_queue_with_a_huge_maxsize_costs_nothing() -> None:
    source: Queue[int] = Queue(2**31 - 1)
    source.put(1)
    assert source.full() is False
    assert source.get_nowait() == 1


@pytest.mark.parametrize("maxsize", ["1", None, 1.5, []])
def test_a_maxsize_of_a_wrong_type_is_named(maxsize: object) -> None:
    with pytest.raises(TypeError, match="maxsize"):
        Queue(maxsize)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, -0.5, -1e9])
def test_a_negative_timeout_is_what_it_is_in_the_stdlib(timeout: float) -> None:
    """An error in the queue module; in multiprocessing one that has passed."""
    source = full_queue()
    empty: Queue[int] = Queue()
    if PROCESSES:
        with pytest.raises(queue.Empty):
            empty.get(timeout=timeout)
        with pytest.raises(queue.Full):
            source.put(1, timeout=timeout)
        assert source.get(timeout=timeout) == "there"
    else:
        with pytest.raises(ValueError, match="timeout"):
            empty.get(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            source.put(1, timeout=timeout)
        assert source.qsize() == 1


@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    source = full_queue()
    with pytest.raises(TypeError, match="timeout"):
        source.get(timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        source.put(1, timeout=timeout)  # type: ignore[arg-type]
    assert drain(source) == ["there"]


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    source: Queue[int] = Queue()
    outcome = survives_odd_timeout(lambda: source.put(1, timeout=timeout))
    assert outcome in {None, "refused"}
    assert source.qsize() == (outcome is None)
    source.put(1)
    assert survives_odd_timeout(lambda: source.get(timeout=timeout)) in {1, "refused"}


# --- task tracking --------------------------------------------------------------------------


def test_join_of_a_fresh_queue_returns_at_once() -> None:
    source: Queue[int] = Queue()
    assert source.join() is None  # type: ignore[func-returns-value]


def test_one_task_done_too_many_is_an_error() -> None:
    source: Queue[int] = Queue()
    with pytest.raises(ValueError, match="task_done"):
        source.task_done()
    source.put(1)
    source.put(2)
    source.get()
    assert source.task_done() is None  # type: ignore[func-returns-value]
    source.task_done()  # it counts what was put, not what was got
    with pytest.raises(ValueError, match="task_done"):
        source.task_done()
    source.join()


def test_a_put_that_was_refused_is_no_task() -> None:
    source = full_queue()
    with pytest.raises(queue.Full):
        source.put_nowait(2)
    source.get()
    source.task_done()
    source.join()
    with pytest.raises(ValueError, match="task_done"):
        source.task_done()


def join_and_tell(source: Queue[Any], told: Queue[str]) -> None:
    source.join()
    told.put("joined")


def test_join_waits_for_every_task() -> None:
    source: Queue[int] = Queue()
    told: Queue[str] = Queue()
    for number in range(3):
        source.put(number)
    workers = [start(join_and_tell, source, told) for _ in range(2)]
    wait_until_asleep(*workers)
    for _ in range(3):
        assert told.empty()
        source.get()
        source.task_done()
    finish(*workers)
    assert drain(told) == ["joined"] * 2
    source.join()


def work_off(source: Queue[Any], done: Queue[Any]) -> None:
    while (item := source.get()) is not None:
        done.put(item)
        source.task_done()
    source.task_done()


def test_join_sees_what_other_workers_did() -> None:
    source: Queue[int | None] = Queue()
    done: Queue[int] = Queue()
    workers = [start(work_off, source, done) for _ in range(2)]
    for turn in range(5):
        for number in range(20):
            source.put(number)
        source.join()
        assert done.qsize() == 20 * (turn + 1)
    for _ in workers:
        source.put(None)
    source.join()
    finish(*workers)
    assert sorted(drain(done)) == sorted(list(range(20)) * 5)


# --- items ----------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class MyInt(int):
    """A subclass must not arrive as its base."""


class MyStr(str):  # noqa: SLOT000 - it has a dictionary on purpose
    """A subclass with an attribute."""


class MyBytes(bytes):
    """A subclass of bytes."""


class MyList(list[int]):
    """A subclass of list."""


class MyTuple(tuple[int, ...]):  # noqa: SLOT001 - it has a dictionary on purpose
    """A subclass of tuple."""


class MyDict(dict[str, int]):
    """A subclass of dict."""


class MyFloat(float):
    """A subclass of float."""


class Pair(NamedTuple):
    left: int
    right: str


@dataclass
class Record:
    name: str
    values: list[float]


def module_function() -> str:
    return "called"


ITEMS: list[object] = [
    None,
    True,
    False,
    ...,
    NotImplemented,
    *(sign * (2**power + delta) for power in (7, 8, 15, 31, 32, 63, 64, 200) for delta in (-1, 0)
      for sign in (1, -1)),
    0,
    10**1000,
    0.0,
    -0.0,
    1.5,
    5e-324,
    math.inf,
    -math.inf,
    1 + 2j,
    "",
    "text",
    "\0",
    "\xe4\xf6\xfc \u20ac \U0001f40d",
    "\ud800 lone surrogate",
    "x" * 100_000,
    b"",
    b"\0\xff",
    b"x" * 100_000,
    bytearray(),
    bytearray(b"changeable"),
    (),
    (1, "two", b"three", None),
    ((((),),),),
    [],
    [1, [2, [3, [4]]]],
    {},
    {"a": 1, 2: (3,), None: [4]},
    set(),
    {1, 2, 3},
    frozenset({"x"}),
    range(3, 30, 4),
    slice(1, 2, 3),
    list(range(10_000)),
    dt.datetime(2026, 11, 22, 10, 37, tzinfo=dt.UTC),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    pathlib.PurePosixPath("/a/b"),
    array.array("d", [1.0, 2.0]),
    collections.OrderedDict(a=1),
    collections.Counter("hello"),
    collections.deque([1, 2], maxlen=5),
    Color.RED,
    MyInt(5),
    MyStr("mine"),
    MyBytes(b"mine"),
    MyFloat(2.5),
    MyList([1, 2]),
    MyTuple((1, 2)),
    MyDict(a=1),
    [MyInt(1), MyStr("s"), MyBytes(b"b"), MyTuple((3,))],
    Pair(1, "r"),
    Record("r", [1.0]),
    module_function,
    len,
    Record,
    int,
]  # fmt: skip


def same(got: object, sent: object) -> bool:
    """Tell whether they are equal, of one type, and alike down to a float's sign."""
    return type(got) is type(sent) and got == sent and repr(got) == repr(sent)


def echo(requests: AnyQueue, results: AnyQueue) -> None:
    while True:
        item = requests.get()
        results.put(item)
        if isinstance(item, str) and item == "stop":
            break


def send_round(items: list[Any], requests: AnyQueue, results: AnyQueue) -> None:
    """Send each item to another worker and back, and compare."""
    worker = start(echo, requests, results)
    for item in items:
        requests.put(item)
        got = results.get()
        assert same(got, item), (got, item)
    requests.put("stop")
    results.get()
    finish(worker)


def test_objects_of_many_kinds_make_the_round_trip() -> None:
    send_round(ITEMS, Queue(), Queue())


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: type(item).__name__)
def test_an_item_comes_back_as_it_was(item: object) -> None:
    source: Queue[object] = Queue()
    source.put(item)
    assert same(source.get(), item)


class Numbered(int):
    """Not just an int."""


SCALARS = [
    *(None, True, False, 0, -1, 255, 257, 2**31, -(2**31), 2**62, -(2**62)),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 2**200, -(2**200)),
    *(0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, Numbered(3)),
]


def test_scalars_come_back_the_same_by_each_way_in_and_out() -> None:
    """The shortest calls take a way of their own; so do scalars that fit into eight bytes."""
    source: Queue[Any] = Queue()
    simple: SimpleQueue[Any] = SimpleQueue()
    puts = [
        source.put,
        source.put_nowait,
        lambda item: source.put(item=item),
        lambda item: source.put(item, True, None),
    ]
    gets = [source.get, source.get_nowait, lambda: source.get(timeout=DEADLINE)]
    ways = [*itertools.product(puts, gets), (simple.put, simple.get)]
    for (put, get), item in itertools.product(ways, SCALARS):
        put(item)
        found = get()
        assert (type(found), repr(found)) == (type(item), repr(item))
    assert source.empty()
    assert simple.empty()


@only_threads
def test_a_put_counts_one_reference_and_a_refused_one_none() -> None:
    """Whichever way it was called."""
    source: Queue[Any] = Queue(maxsize=1)
    item = object()
    count = sys.getrefcount(item)
    source.put(item)
    assert sys.getrefcount(item) == count + 1
    for put in (source.put_nowait, functools.partial(source.put, block=False)):
        with pytest.raises(queue.Full):
            put(item)
        assert sys.getrefcount(item) == count + 1
    assert source.get() is item
    assert sys.getrefcount(item) == count


def test_not_a_number_and_attributes_survive() -> None:
    source: Queue[Any] = Queue()
    source.put(math.nan)
    assert math.isnan(source.get())
    text = MyStr("mine")
    text.attribute = [1]  # type: ignore[attr-defined]
    source.put(text)
    assert source.get().attribute == [1]


def test_shared_and_recursive_structure_survives() -> None:
    source: Queue[Any] = Queue()
    shared = [1]
    recursive: list[Any] = [shared, shared]
    recursive.append(recursive)
    source.put(recursive)
    got = source.get()
    assert got[0] is got[1]
    assert got[2] is got
    bound = functools.partial(max, 1)
    source.put((bound, shared.count))
    assert [call(2) for call in source.get()] == [2, 0]


def test_an_exception_is_an_item_like_any_other() -> None:
    source: Queue[Any] = Queue()
    source.put(LookupError("reason", 5))
    got = source.get()
    assert type(got) is LookupError
    assert got.args == ("reason", 5)


@only_threads
def test_between_threads_an_item_is_passed_by_reference() -> None:
    source: Queue[object] = Queue()
    item = [1]
    source.put(item)
    assert source.get() is item
    function = lambda: "not picklable"  # noqa: E731
    source.put(function)
    assert source.get() is function


@only_processes
def test_between_processes_later_changes_are_not_seen() -> None:
    source: Queue[Any] = Queue()
    item: list[Any] = [1, bytearray(b"x" * 100_000)]
    source.put(item)
    item[1][:] = b"changed"
    item.append(2)
    assert source.get() == [1, bytearray(b"x" * 100_000)]


class RaisesAtPickling:
    def __init__(self, error: BaseException) -> None:
        """Raise `error` when pickled."""
        self.error = error

    def __reduce__(self) -> str:
        """Raise."""
        raise self.error


def nest(depth: int) -> list[Any]:
    """Return lists in lists, deeper than pickle can follow."""
    item: list[Any] = []
    for _ in range(depth):
        item = [item]
    return item


def unpicklable_items() -> Iterator[tuple[object, type[BaseException]]]:
    yield lambda: None, Exception
    yield threading.Lock(), TypeError
    yield (number for number in range(3)), TypeError
    yield [1, {"deep": threading.Lock()}], TypeError
    yield RaisesAtPickling(ZeroDivisionError("mine")), ZeroDivisionError
    yield RaisesAtPickling(KeyboardInterrupt()), KeyboardInterrupt
    yield [b"x" * 200_000, RaisesAtPickling(ZeroDivisionError("mine"))], ZeroDivisionError


@only_processes
def test_an_item_that_can_not_be_pickled_raises_in_put_and_changes_nothing() -> None:
    """`multiprocessing.Queue` loses it in its feeder thread, which only prints a traceback."""
    source: Queue[Any] = Queue(3)
    source.put("before")
    for item, error in unpicklable_items():
        with pytest.raises(error):
            source.put(item)
        with pytest.raises(error):
            source.put_nowait(item)
        with pytest.raises(error):
            source.put(item, timeout=DEADLINE)
        assert source.qsize() == 1
    source.put("after")
    assert drain(source) == ["before", "after"]
    source.task_done()
    source.task_done()
    source.join()
    with pytest.raises(ValueError, match="task_done"):
        source.task_done()


@only_processes
def test_an_item_nested_too_deep_is_an_error_and_not_a_crash() -> None:
    source: Queue[Any] = Queue()
    item = nest(200_000)
    with pytest.raises(RecursionError):
        source.put(item)
    assert source.empty()
    while item:
        item = item[0]


def refuse_to_load() -> object:
    message = "can't be loaded"
    raise LookupError(message)


class RaisesAtLoading:
    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        """Pickle well, and raise when loaded."""
        return refuse_to_load, ()


@only_processes
def test_an_item_that_can_not_be_loaded_raises_in_get_and_the_next_one_comes() -> None:
    """A5: what pickles but doesn't unpickle hung or broke everything behind it."""
    source: Queue[Any] = Queue()
    source.put(RaisesAtLoading())
    source.put("next")
    with pytest.raises(LookupError, match="can't be loaded"):
        source.get()
    assert source.get_nowait() == "next"
    assert source.empty()


class PutsWhenPickled:
    def __init__(self, source: AnyQueue) -> None:
        """Put into `source` when pickled."""
        self.source = source

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Put something, and arrive as another thing."""
        self.source.put("from __reduce__")
        return str, ("loaded",)


def test_pickling_an_item_may_use_the_same_queue() -> None:
    """No Python code runs while an internal lock is held."""
    source: Queue[Any] = Queue()
    source.put(PutsWhenPickled(source))
    if PROCESSES:
        assert sorted(drain(source)) == ["from __reduce__", "loaded"]
    else:
        assert len(drain(source)) == 1


# --- there at once, and big -----------------------------------------------------------------


def find_at_once(source: Queue[Any], told: Queue[Any]) -> None:
    told.put((source.empty(), source.qsize(), source.get_nowait()))


@pytest.mark.parametrize("size", [1, 1000, 100_000, 2_000_000])
def test_an_item_is_there_when_put_returns(size: int) -> None:
    """`multiprocessing.Queue` says it is empty until its feeder thread gets around to it."""
    source: Queue[Any] = Queue()
    told: Queue[Any] = Queue()
    for _ in range(20):
        source.put(b"x" * size)
        assert source.empty() is False
        assert source.qsize() == 1
        assert len(source.get_nowait()) == size
    source.put(b"x" * size)
    finish(start(find_at_once, source, told))
    empty, qsize, item = told.get_nowait()
    assert (empty, qsize, len(item)) == (False, 1, size)


def put_all(source: AnyQueue, items: list[Any]) -> None:
    for item in items:
        source.put(item)


def test_items_of_a_worker_that_has_ended_are_there_at_once() -> None:
    source: Queue[Any] = Queue()
    finish(start(put_all, source, [1, "two", [3]]))
    assert drain(source) == [1, "two", [3]]


def digest(item: object) -> str:
    return hashlib.sha256(memoryview(item).cast("B")).hexdigest()  # type: ignore[arg-type]


def test_big_items_need_no_reader() -> None:
    """A4: the stdlib's put ends in a pipe of 64 KiB."""
    source: Queue[Any] = Queue()
    items = [os.urandom(EIGHT_MIB), bytearray(EIGHT_MIB), [b"a" * EIGHT_MIB, b"b"]]
    put_all(source, items)
    assert source.qsize() == 3
    assert digest(source.get()) == digest(items[0])
    assert source.get() == items[1]
    assert source.get() == items[2]
    assert source.empty()


def put_random(source: AnyQueue, sums: Queue[str], sizes: list[int]) -> None:
    for size in sizes:
        item = os.urandom(size)
        source.put(item)
        sums.put(digest(item))


def test_joining_the_producer_before_draining_does_not_hang() -> None:
    """A4: 200 KB put, then `join()`: every stdlib version hangs."""
    source: Queue[bytes] = Queue()
    sums: Queue[str] = Queue()
    worker = start(put_random, source, sums, [200_000, EIGHT_MIB, 1, 70_000] * 2)
    finish(worker)
    assert [digest(item) for item in drain(source)] == drain(sums)


# --- several workers ------------------------------------------------------------------------


def get_and_tell(source: AnyQueue, told: Queue[Any]) -> None:
    told.put(source.get())


def test_get_waits_for_an_item() -> None:
    source: Queue[int] = Queue()
    told: Queue[int] = Queue()
    workers = [start(get_and_tell, source, told) for _ in range(3)]
    wait_until_asleep(*workers)
    assert told.empty()
    put_all(source, [1, 2, 3])
    finish(*workers)
    assert sorted(drain(told)) == [1, 2, 3]


def put_and_tell(source: Queue[Any], item: object, told: Queue[Any]) -> None:
    source.put(item)
    told.put("put")


def test_put_waits_for_room() -> None:
    source: Queue[Any] = Queue(1)
    told: Queue[Any] = Queue()
    source.put("there")
    workers = [start(put_and_tell, source, index, told) for index in range(2)]
    wait_until_asleep(*workers)
    assert told.empty()
    assert source.qsize() == 1
    assert source.get() == "there"
    got = [source.get(timeout=DEADLINE) for _ in workers]
    assert sorted(got) == [0, 1]
    finish(*workers)
    assert drain(told) == ["put"] * 2
    assert source.empty()


def produce(source: AnyQueue, producer: int, count: int, payload: bytes) -> None:
    for number in range(count):
        source.put((producer, number, payload))


def consume(source: AnyQueue, told: Queue[Any]) -> None:
    found = []
    while (item := source.get()) is not None:
        found.append(item[:2])
    told.put(found)


def move(source: AnyQueue, count: int, payload: bytes, launch: Launcher = start) -> None:
    """Have two producers and two consumers; check that nothing is lost, doubled or overtaken."""
    told: Queue[Any] = Queue()
    consumers = [launch(consume, source, told) for _ in range(2)]
    producers = [launch(produce, source, index, count, payload) for index in range(2)]
    finish(*producers)
    for _ in consumers:
        source.put(None)
    received = [told.get(timeout=DEADLINE) for _ in consumers]
    finish(*consumers)
    for found in received:
        for producer in range(2):
            numbers = [number for who, number in found if who == producer]
            assert numbers == sorted(numbers), "items of one producer overtook each other"
    expected = [(producer, number) for producer in range(2) for number in range(count)]
    assert sorted(itertools.chain.from_iterable(received)) == expected
    assert source.empty()


@launchers
@pytest.mark.parametrize("maxsize", [0, 1, 10])
def test_two_producers_and_two_consumers_lose_nothing(launch: Launcher, maxsize: int) -> None:
    move(Queue(maxsize), 1000, b"", launch)


def test_big_and_small_items_mix() -> None:
    move(Queue(4), 50, b"x" * 300_000)


def ping_pong(requests: AnyQueue, results: AnyQueue, rounds: int) -> None:
    for _ in range(rounds):
        results.put(requests.get() + 1)


def test_no_wake_up_is_lost_in_many_round_trips() -> None:
    requests: Queue[int] = Queue()
    results: Queue[int] = Queue()
    worker = start(ping_pong, requests, results, 1000)
    for number in range(1000):
        requests.put(number)
        assert results.get(timeout=DEADLINE) == number + 1
    finish(worker)


def fill_what_comes(outer: Queue[Any]) -> None:
    while (item := outer.get()) is not None:
        inner, filled = item
        while not inner.full():
            inner.put_nowait("inside")
        filled.put(inner.qsize())


def test_a_queue_in_a_queue() -> None:
    outer: Queue[Any] = Queue()
    worker = start(fill_what_comes, outer)
    for maxsize in (1, 2, 5):
        inner: Queue[Any] = Queue(maxsize)
        filled: Queue[Any] = Queue()
        outer.put([inner, filled])
        assert filled.get(timeout=DEADLINE) == maxsize
        assert drain(inner) == ["inside"] * maxsize
    outer.put(None)
    finish(worker)


def test_a_queue_in_itself() -> None:
    source: Queue[Any] = Queue()
    source.put([source, 1])
    again, one = source.get()
    again.put(one)
    assert source.get_nowait() == 1


# --- awkward places -------------------------------------------------------------------------


class PutsWhenDeleted:
    def __init__(self, source: AnyQueue) -> None:
        """Put into `source` at the end, and be part of a cycle: any allocation may be the end."""
        self.source = source
        self.cycle = self

    def __del__(self) -> None:
        """Put."""
        self.source.put("deleted")


def test_put_works_in_del() -> None:
    source: Queue[Any] = Queue()
    for _ in range(100):
        PutsWhenDeleted(source)
        source.put([[], [], []])
    gc.collect()
    found = drain(source)
    assert found.count("deleted") == 100
    assert found.count([[], [], []]) == 100


@pytest.mark.thread_unsafe(reason="sets a signal handler")
def test_put_works_in_a_signal_handler() -> None:
    """The handler may run in the middle of a put or a get of the same queue."""
    source: Queue[Any] = Queue()
    handled = 0
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal handled
        source.put(("handler", handled))
        handled += 1

    def send() -> None:
        while not stop.is_set():
            before = handled
            os.kill(os.getpid(), signal.SIGUSR1)
            while handled == before and not stop.wait(0.000_1):  # never two handlers at once
                pass

    previous = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        found = []
        for number in range(1500):
            source.put(("main", number))
            found.append(source.get())
    finally:
        stop.set()
        sender.join()
        signal.signal(signal.SIGUSR1, previous)
    found += drain(source)
    assert [number for who, number in found if who == "main"] == list(range(1500))
    assert sorted(n for who, n in found if who == "handler") == list(range(handled))


# --- killed workers -------------------------------------------------------------------------


def put_for_ever(source: AnyQueue, started: Event, size: int) -> None:
    number = 0
    while True:
        item = bytes([number % 256]) * size
        source.put((number, item, digest(item)))
        number += 1
        started.set()


def get_for_ever(source: AnyQueue, started: Event) -> None:
    while True:
        source.get()
        started.set()


def check_intact(found: list[Any]) -> None:
    """Require a whole message in each place, and no gap between them."""
    for _number, item, expected in found:
        assert digest(item) == expected
    numbers = [number for number, _item, _expected in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@only_processes
@pytest.mark.parametrize("size", [10, 3000, 150_000, 2_000_000])
@pytest.mark.parametrize("maxsize", [0, 5])
def test_a_producer_killed_in_the_middle_leaves_the_queue_usable(maxsize: int, size: int) -> None:
    """A3: half a frame in the pipe and a lock held for ever; `get(timeout=1)` never returned."""
    source: Queue[Any] = Queue(maxsize)
    for turn in range(3):
        started = Event()
        worker = start(put_for_ever, source, started, size)
        assert started.wait(DEADLINE)
        found = [source.get(timeout=DEADLINE) for _ in range(3 * turn)]
        kill(worker)
        assert source.qsize() >= 0
        found += drain(source)
        check_intact(found)
        assert source.empty()
        assert source.qsize() == 0
        with pytest.raises(queue.Empty):
            source.get(timeout=SHORT)
        finish(start(put_all, source, ["alive", b"x" * size]))
        assert drain(source) == ["alive", b"x" * size]


@only_processes
@pytest.mark.parametrize("size", [10, 150_000])
def test_a_consumer_killed_in_the_middle_leaves_the_queue_usable(size: int) -> None:
    """A3: a reader killed inside `get` kept the reader's lock for ever."""
    source: Queue[Any] = Queue()
    item = b"x" * size
    for _ in range(3):
        started = Event()
        put_all(source, [(0, item, digest(item))] * 50)
        worker = start(get_for_ever, source, started)
        assert started.wait(DEADLINE)
        kill(worker)
        for _number, left, expected in drain(source):
            assert digest(left) == expected
        assert source.qsize() == 0
        put_all(source, list(range(50)))
        assert drain(source) == list(range(50))
        told: Queue[Any] = Queue()
        source.put("alive")
        finish(start(get_and_tell, source, told))
        assert told.get_nowait() == "alive"


@only_processes
def test_killed_while_waiting_they_take_nothing_with_them() -> None:
    source: Queue[Any] = Queue(1)
    told: Queue[Any] = Queue()
    killed, survivor = [start(get_and_tell, source, told) for _ in range(2)]
    wait_until_asleep(killed, survivor)
    kill(killed)
    source.put("item")
    assert told.get(timeout=DEADLINE) == "item"
    finish(survivor)
    source.put("there")
    killed, survivor = [start(put_and_tell, source, name, told) for name in ("killed", "survivor")]
    wait_until_asleep(killed, survivor)
    kill(killed)
    assert source.get() == "there"
    assert source.get(timeout=DEADLINE) == "survivor"
    finish(survivor)
    assert source.empty()


@only_processes
def test_many_random_kills_lose_nothing_that_was_put() -> None:
    """A3, once more: killed at any moment, it has put an item or it hasn't."""
    source: Queue[Any] = Queue()
    counts: Queue[Any] = Queue()
    for _ in range(8):
        worker = start(put_and_count, source, counts)
        wait_until(lambda: source.qsize() > 20, "some were put")
        kill(worker)
        put = drain(counts)[-1:] or [-1]
        found = drain(source)
        assert found == list(range(len(found)))
        assert len(found) - 1 in {put[0], put[0] + 1}


def put_and_count(source: Queue[int], counts: Queue[int]) -> None:
    number = 0
    while True:
        source.put(number)
        counts.put(number)
        number += 1


def produce_until(source: Queue[Any], name: int, stop: Event) -> None:
    number = 0
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            source.put((name, number, b"x" * (number % 3 * 20_000)), timeout=0.1)
            number += 1


def consume_and_tell(source: Queue[Any], told: Queue[Any]) -> None:
    while (item := source.get()) is not None:
        told.put(item[:2])


@only_processes
def test_random_kills_on_both_ends_lose_at_most_what_was_in_hand() -> None:
    """A3, with everybody at work: no hang, nothing twice, one item at most for each kill."""
    source: Queue[Any] = Queue(5)
    told: Queue[Any] = Queue()
    stop = Event()
    names = iter(range(100))
    producers = [start(produce_until, source, next(names), stop) for _ in range(2)]
    consumers = [start(consume_and_tell, source, told) for _ in range(2)]
    for _ in range(6):
        before = told.qsize()
        wait_until(lambda before=before: told.qsize() > before + 20, "items are moving")  # type: ignore[misc]
        kill(producers.pop(0))
        producers.append(start(produce_until, source, next(names), stop))
        kill(consumers.pop(0))
        consumers.append(start(consume_and_tell, source, told))
    stop.set()
    finish(*producers)
    for _ in consumers:
        source.put(None, timeout=DEADLINE)
    finish(*consumers)
    found = collections.Counter(drain(told))
    assert max(found.values()) == 1, "something came twice"
    missing = 0
    for name in range(next(names)):
        numbers = {number for who, number in found if who == name}
        missing += max(numbers, default=-1) + 1 - len(numbers)
    assert missing <= 6


MEMORY = """
    from freethreading import Queue, SimpleQueue

    def kibibytes(*names):
        lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        return sum(int(lines[name].split()[0]) for name in names)

    if __name__ == "__main__":
        item = b"x" * (8 << 20)
        kept = Queue()
        for turn in range(20):
            for make in (Queue, SimpleQueue):
                source = make()
                for _ in range(4):
                    source.put(item)
                for _ in range(turn % 4):
                    assert len(source.get()) == len(item)
            kept.put(item)
            assert len(kept.get()) == len(item)
        print(kibibytes("RssShmem", "RssAnon"))
"""


def test_the_memory_of_messages_is_given_back() -> None:
    """A10: 1.4 GB in messages, read or dropped with their queue, leave nothing behind."""
    used = int(run_python(MEMORY).check().stdout)
    assert used < 300_000, f"{used} KiB"


@only_processes
def test_waiting_for_tasks_of_a_killed_worker_can_be_taken_over() -> None:
    source: Queue[Any] = Queue()
    started = Event()
    put_all(source, [1, 2])
    worker = start(get_for_ever, source, started)
    assert started.wait(DEADLINE)
    wait_until(source.empty, "both were got")
    kill(worker)
    source.task_done()
    source.task_done()
    source.join()


def test_repr_is_short_even_when_full() -> None:
    source: Queue[Any] = Queue()
    put_all(source, ["x" * 1000] * 10)
    assert re.search(r"\bQueue\b", repr(source))
    assert len(repr(source)) < 200


def use_under_lock(source: Queue[Any], lock: Lock, count: int) -> None:
    for _ in range(count):
        with lock:
            source.put(source.get(timeout=DEADLINE) + 1)


def test_a_queue_is_a_safe_place_for_a_shared_value() -> None:
    source: Queue[int] = Queue()
    source.put(0)
    finish(*[start(use_under_lock, source, Lock(), 100) for _ in range(3)])
    assert drain(source) == [300]


def test_a_worker_may_be_made_with_a_bound_method_of_a_queue() -> None:
    source: Queue[Any] = Queue()
    worker = Worker(target=source.put, args=("item",))
    worker.start()
    assert source.get(timeout=DEADLINE) == "item"
    finish(worker)


PUT_INTERRUPTED = """
    import gc, signal, weakref
    from freethreading import Queue

    class Item:
        pass

    def give_up(*_):
        raise ZeroDivisionError

    signal.signal(signal.SIGALRM, give_up)
    queue = Queue(1)
    queue.put("full")
    item = Item()
    alive = weakref.ref(item)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        queue.put(item)
    except ZeroDivisionError:
        print("given up")
    del item
    gc.collect()
    print(alive() is None, queue.qsize())
"""


def test_a_put_ended_by_a_signal_handler_lets_go_of_its_item() -> None:
    """The reference that was meant for the queue was never given back."""
    finished = run_python(PUT_INTERRUPTED).check()
    assert finished.stdout == "given up\nTrue 1\n"
