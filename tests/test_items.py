"""What may be sent through a queue, and how it arrives: every kind of object, on both backends.

Between threads that is the object itself. Between processes it is a copy, equal down to types,
signs and shared parts; also by way of another worker. `test_queue` and `test_simple_queue` have the
short list of items, what can't be sent, and sizes; `test_buffers` and `test_arrays` have what is
large.
"""

# Longer than other files: it has a test for every kind of object.

from __future__ import annotations

import datetime as dt
import enum
import functools
import itertools
import operator
import pickle
import struct
import sys
import types
from collections import namedtuple
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

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
)
from test_queue import (
    EIGHT_MIB,
    ITEMS,
    AnyQueue,
    MyBytes,
    MyInt,
    MyStr,
    MyTuple,
    echo,
    same,
    send_round,
)
from test_worker import PROCESSES, finish, only_threads, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

queues = pytest.mark.parametrize("make", [Queue, SimpleQueue])
copied = pytest.mark.skipif(not PROCESSES, reason="between threads nothing is copied")

# Around these lengths and powers of two, formats and ways through the engine change.
LENGTHS = sorted(
    {
        max(0, length + delta)
        for length in (0, 8, 16, 32, 64, 128, 256, 1 << 12, 1 << 15, 1 << 16, 1 << 17, 1 << 20)
        for delta in (-1, 0, 1)
    }
)
CHARACTERS = {"ascii": "a", "latin": "\xe4", "wide": "\u20ac", "astral": "\U0001f40d"}


def passed(make: Callable[[], AnyQueue], item: Any) -> Any:  # noqa: ANN401 - of any type
    """Return what comes out of a new queue into which an item was put."""
    source = make()
    source.put(item)
    return source.get()


def passed_on(make: Callable[[], AnyQueue], item: Any) -> Any:  # noqa: ANN401 - of any type
    """Return what comes back from another worker, which sends on what it got."""
    requests, results = make(), make()
    worker = start(echo, requests, results)
    requests.put(item)
    got = results.get()
    requests.put("stop")
    results.get()
    finish(worker)
    return got


def both_ways(make: Callable[[], AnyQueue], item: Any) -> Iterator[Any]:  # noqa: ANN401 - likewise
    """Yield what comes out here, and what another worker got and sent back."""
    yield passed(make, item)
    yield passed_on(make, item)


# --- numbers, text, bytes -------------------------------------------------------------------


@queues
def test_integers_around_every_power_of_two(make: Callable[[], AnyQueue]) -> None:
    source = make()
    powers = [*range(258), 511, 512, 2039, 2040, 2047, 2048, 65_536]
    for power, delta, sign in itertools.product(powers, (-1, 0, 1), (1, -1)):
        number = sign * (2**power + delta)
        source.put(number)
        assert same_number(source.get(), number), (power, delta, sign)


def same_number(got: object, sent: int) -> bool:
    """As `same`, without `repr`, which refuses to write so many digits."""
    return type(got) is int and got == sent


@queues
def test_floats_keep_every_bit(make: Callable[[], AnyQueue]) -> None:
    """The sign of zero and what a NaN carries, too."""
    patterns = [0, 1, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 0xFFF8 << 48]
    patterns += [0x7FF8_DEAD_BEEF_0001, 0x000F_FFFF_FFFF_FFFF, 0x7FEF_FFFF_FFFF_FFFF]
    source = make()
    for pattern in patterns:
        (number,) = struct.unpack("<d", struct.pack("<Q", pattern))
        source.put(number)
        source.put((number,))
        assert struct.pack("<d", source.get()) == struct.pack("<Q", pattern)
        assert struct.pack("<d", *source.get()) == struct.pack("<Q", pattern)


@queues
def test_text_of_every_width_and_length(make: Callable[[], AnyQueue]) -> None:
    source = make()
    for name, character in CHARACTERS.items():
        for length in LENGTHS:
            text = "a" * (length - 1) + character if length else ""
            source.put(text)
            assert same_text(source.get(), text), (name, length)


def same_text(got: object, sent: str) -> bool:
    return type(got) is str and got == sent and hash(got) == hash(sent)


@queues
@pytest.mark.parametrize(
    "text",
    [
        "\ud83d\udc0d",  # two surrogates, which are no character together
        "\udcff",
        "a\ud800b\U0001f40d",
        "\ud800" * 70_000,
        "\0" * 1000,
        "\ufeff",
        "e\u0301",  # no normalization
        "\U0010ffff",
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_text_that_is_no_valid_utf8_or_utf16(make: Callable[[], AnyQueue], text: str) -> None:
    assert all(same_text(got, text) for got in both_ways(make, text))


@queues
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_of_every_length(make: Callable[[], AnyQueue], kind: type[bytes | bytearray]) -> None:
    source = make()
    pattern = bytes(range(251)) * 4200
    for length in LENGTHS:
        source.put(kind(pattern[:length]))
        got = source.get()
        assert type(got) is kind
        assert got == pattern[:length]


@queues
def test_a_bytearray_that_was_received_can_grow(make: Callable[[], AnyQueue]) -> None:
    for got in both_ways(make, bytearray(EIGHT_MIB)):
        size = len(got)
        got.extend(b"more")
        assert got[size - 1 :] == b"\0more"
        del got[size:]  # between threads it is what was sent


@queues
def test_a_memoryview_is_refused_as_pickle_does(make: Callable[[], AnyQueue]) -> None:
    view = memoryview(b"there")
    if PROCESSES:
        source = make()
        with pytest.raises(TypeError, match="memoryview"):
            source.put(view)
        with pytest.raises(TypeError, match="memoryview"):
            source.put((1, [view]))
        assert source.empty()
        source.put("usable")
        assert source.get() == "usable"
    else:
        assert passed(make, view) is view


# --- containers -----------------------------------------------------------------------------

# Small ones of plain items, for which the engine may have a way of its own; and hardly others.
TUPLES: list[tuple[Any, ...]] = [
    (),
    ((),),
    (((), ()), ((),)),
    (None,),
    (True, 1, 1.0, "1", b"1"),
    (False, 0, 0.0, -0.0, "", b"", ()),
    (1, (2.5, ("three", (b"four", (None, (True, (2**200,))))))),
    tuple(range(1000)),
    tuple(map(str, range(1000))),
    ("x" * 100_000, b"y" * 100_000, 10**1000),
    (MyInt(1), MyStr("s"), MyBytes(b"b"), MyTuple((3,))),
    (1, MyTuple((1, MyInt(2)))),
    (1, [2], {3: (4,)}, {5}, frozenset({6})),
    ("\ud800", "\U0001f40d"),
    (..., NotImplemented, int, len, operator.add),
]


@queues
@pytest.mark.parametrize("item", TUPLES, ids=range(len(TUPLES)))
def test_tuples(make: Callable[[], AnyQueue], item: tuple[Any, ...]) -> None:
    for got in both_ways(make, item):
        assert same(got, item)
        assert types_in(got) == types_in(item)


def types_in(item: object) -> object:
    """Return the types of all that is in nested tuples, which `repr` doesn't always tell."""
    if isinstance(item, tuple):
        return (type(item), [types_in(each) for each in item])
    return type(item)


@queues
def test_constants_are_the_only_ones_of_their_kind(make: Callable[[], AnyQueue]) -> None:
    constants = (None, True, False, ..., NotImplemented, ())
    for got in both_ways(make, constants):
        assert all(map(operator.is_, got, constants))
    for constant in constants:
        assert passed(make, constant) is constant


@queues
def test_a_tuple_nested_deep(make: Callable[[], AnyQueue]) -> None:
    """Deeper than any real message is; the stack holds it."""
    item: tuple[Any, ...] = ("bottom",)
    for _ in range(100):
        item = (item, 1)
    for got in both_ways(make, item):
        assert same(got, item)


@copied
@queues
def test_a_tuple_nested_too_deep_is_an_error_and_not_a_crash(make: Callable[[], AnyQueue]) -> None:
    item: tuple[Any, ...] = ()
    for _ in range(200_000):
        item = (item,)
    source = make()
    with pytest.raises(RecursionError):
        source.put(item)
    assert source.empty()
    source.put("usable")
    assert source.get() == "usable"


@queues
def test_shared_parts_stay_shared(make: Callable[[], AnyQueue]) -> None:
    part, words, data = [1], "word" * 50, b"data" * 50
    shared = (part, part, words, [words], data, {"data": data}, (part, (part,)))
    for got in both_ways(make, shared):
        assert same(got, shared)
        assert got[0] is got[1] is got[6][0] is got[6][1][0]
        assert got[2] is got[3][0]
        assert got[4] is got[5]["data"]
        got[0].append(2)
        assert got[6] == ([1, 2], ([1, 2],))
        got[0].pop()  # between threads it is what was sent


@queues
def test_cycles_of_every_kind_stay_cycles(make: Callable[[], AnyQueue]) -> None:
    ring: list[Any] = []
    ring.append(ring)
    table: dict[str, Any] = {}
    table["itself"] = table
    through_tuple: tuple[list[Any]] = ([],)
    through_tuple[0].append(through_tuple)
    node = Node("a")
    node.other = Node("b", node)
    for got in both_ways(make, [ring, table, through_tuple, node]):
        got_ring, got_table, got_tuple, got_node = got
        assert got_ring[0] is got_ring
        assert got_table["itself"] is got_table
        assert got_tuple[0][0] is got_tuple
        assert got_node.other.other is got_node


class Node:
    def __init__(self, name: str, other: Node | None = None) -> None:
        """Know another one."""
        self.name = name
        self.other = other


# --- classes of users -----------------------------------------------------------------------


class Suit(enum.Enum):
    HEARTS = "h"
    SPADES = "s"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclass(frozen=True)
class Frozen:
    number: int
    words: tuple[str, ...] = ()


@dataclass(slots=True)
class Slotted:
    number: int
    parts: list[Slotted] = field(default_factory=list)


@dataclass(order=True, kw_only=True)
class Ordered:
    rank: int
    hidden: str = field(default="", compare=False)


class Reduced:
    """Says itself how it is pickled."""

    def __init__(self, number: int) -> None:
        """Keep a number."""
        self.number = number

    def __reduce__(self) -> tuple[type[Reduced], tuple[int], dict[str, str]]:
        return Reduced, (self.number,), {"loaded": "yes"}


class WithState:
    """Leaves something at home."""

    def __init__(self) -> None:
        """Have what can be pickled, and what can't."""
        self.kept = [1]
        self.left = (each for each in "abc")

    def __getstate__(self) -> dict[str, list[int]]:
        return {"kept": self.kept}


Point = namedtuple("Point", "x y", defaults=[0])  # noqa: PYI024 - the old way, as users have it


INSTANCES: list[object] = [
    *Suit,
    *Level,
    *Word,
    Access.READ | Access.WRITE,
    Frozen(1, ("a", "b")),
    Slotted(1, [Slotted(2), Slotted(3)]),
    Ordered(rank=1, hidden="h"),
    Point(1),
    types.SimpleNamespace(a=1, b=[2]),
    dt.timedelta(days=-1, microseconds=1),
    dt.date.max,
    dt.datetime(2026, 11, 22, 1, 2, fold=1, tzinfo=dt.timezone(dt.timedelta(hours=-3), "x")),
    list[int],
    dict[str, tuple[int, ...]],
    int | None,
]


@queues
def test_instances_of_users_classes(make: Callable[[], AnyQueue]) -> None:
    send_round(INSTANCES, make(), make())
    for item in INSTANCES:
        assert same(passed(make, item), item)


@queues
def test_members_of_an_enum_are_the_only_ones(make: Callable[[], AnyQueue]) -> None:
    members = (Suit.SPADES, Level.HIGH, Word.YES, Access.READ)
    for got in both_ways(make, members):
        assert all(map(operator.is_, got, members))
    for member in members:
        assert passed(make, member) is member


@copied
@queues
def test_a_class_decides_how_it_is_pickled(make: Callable[[], AnyQueue]) -> None:
    reduced = passed_on(make, Reduced(5))
    assert (type(reduced), reduced.number, reduced.loaded) == (Reduced, 5, "yes")
    assert vars(passed(make, WithState())) == {"kept": [1]}


@queues
def test_functions_and_what_is_made_of_them(make: Callable[[], AnyQueue]) -> None:
    for got in both_ways(make, (same, Node, str.upper, operator.itemgetter(1), math_pi)):
        function, cls, method, getter, partial = got
        assert function is same
        assert cls is Node
        assert method("a") == "A"
        assert getter("ab") == "b"
        assert (partial.func, partial.args, partial.keywords) == (round, (3.14159,), {"ndigits": 2})
        assert partial() == 3.14
    bound = passed(make, Point(1, 2).index)
    assert bound(2) == 1


math_pi = functools.partial(round, 3.14159, ndigits=2)


# --- exceptions -----------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818 - a name as users have it
    """Has attributes, and an `__init__` that takes what `args` holds."""

    def __init__(self, code: int, reason: str) -> None:
        """Tell a code, and why."""
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.extra: list[int] = []


def refusal() -> Refused:
    """Return one that was raised, from another one."""
    error = Refused(5, "reason")
    error.extra = [1]
    error.add_note("first note")
    error.add_note("second note")
    try:
        raise error from KeyError("cause")
    except Refused as caught:
        return caught


@queues
def test_an_exception_keeps_its_attributes_and_notes(make: Callable[[], AnyQueue]) -> None:
    for got in both_ways(make, refusal()):
        assert type(got) is Refused
        assert (got.args, got.code, got.reason) == ((5, "reason"), 5, "reason")
        assert got.extra == [1]
        assert got.__notes__ == ["first note", "second note"]


@only_threads
@queues
def test_between_threads_an_exception_keeps_its_cause_and_traceback(
    make: Callable[[], AnyQueue],
) -> None:
    """Pickle leaves them out, here as everywhere."""
    error = refusal()
    for got in both_ways(make, error):
        assert got is error
        assert isinstance(got.__cause__, KeyError)
        assert got.__traceback__ is not None


@queues
def test_a_group_of_exceptions(make: Callable[[], AnyQueue]) -> None:
    group = ExceptionGroup("several", [OSError(2, "text", "name"), refusal()])
    for got in both_ways(make, group):
        assert (type(got), got.message) == (ExceptionGroup, "several")
        first, second = got.exceptions
        assert (type(first), first.errno, first.filename) == (FileNotFoundError, 2, "name")
        assert second.__notes__ == ["first note", "second note"]


def test_exceptions_that_end_programs_are_items_too() -> None:
    """None of them is raised by the queue that holds it."""
    source: Queue[Any] = Queue()
    for error in (KeyboardInterrupt("a"), SystemExit(3), GeneratorExit(), StopIteration(5)):
        source.put(error)
        got = source.get_nowait()
        assert type(got) is type(error)
        assert got.args == error.args


# --- objects of this package ----------------------------------------------------------------

PRIMITIVES: list[Callable[[], Any]] = [
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    Event,
    functools.partial(Barrier, 2),
    Queue,
    SimpleQueue,
]


@queues
@pytest.mark.parametrize("kind", PRIMITIVES)
def test_a_primitive_arrives_as_the_same_one(
    make: Callable[[], AnyQueue], kind: Callable[[], Any]
) -> None:
    primitive, other = kind(), kind()
    for got in both_ways(make, [primitive, primitive, (primitive,), other]):
        assert got[0] == primitive
        assert got[0] is got[1] is got[2][0]
        assert got[3] == other != primitive
        assert type(got[0]) is type(primitive)
        if not PROCESSES:
            assert got[0] is primitive


def use_what_comes(inbox: AnyQueue) -> None:
    lock, event, queue, done = inbox.get()
    assert lock.locked()
    assert not lock.acquire(blocking=False)
    queue.put("from the other")
    event.wait()
    lock.release()
    done.set()


@queues
def test_primitives_that_were_sent_are_used_by_both_sides(make: Callable[[], AnyQueue]) -> None:
    inbox, queue = make(), make()
    lock, event, done = Lock(), Event(), Event()
    lock.acquire()
    worker = start(use_what_comes, inbox)
    inbox.put((lock, event, queue, done))
    assert queue.get() == "from the other"
    assert lock.locked()
    event.set()
    assert done.wait()
    assert not lock.locked()
    finish(worker)


# --- between threads ------------------------------------------------------------------------


@only_threads
@queues
def test_between_threads_every_item_is_the_one_that_was_put(make: Callable[[], AnyQueue]) -> None:
    source = make()
    unpicklable = [memoryview(b"x"), WithState().left, sys, lambda: None]
    others = [refusal(), pickle.PickleBuffer(b"x"), bytearray(EIGHT_MIB)]
    for item in [*ITEMS, *TUPLES, *INSTANCES, *unpicklable, *others]:
        source.put(item)
        assert source.get() is item
