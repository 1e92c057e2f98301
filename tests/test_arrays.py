"""NumPy's arrays in messages: equal, laid out as before, independent, and alive on their own.

Between processes a large array may arrive as a copy or as a view of shared memory; what is tested
here has to hold for both. Between threads it is the array itself.
"""

from __future__ import annotations

import gc
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Event, Queue, _native
from test_items import both_ways, copied, passed, queues
from test_queue import EIGHT_MIB, AnyQueue, echo
from test_worker import DEADLINE, PROCESSES, finish, kill, only_processes, start

if TYPE_CHECKING:
    from collections.abc import Callable

np: Any = pytest.importorskip("numpy")

# From 64 KiB on an array may have a place of its own, beside its message.
SMALL, MEDIUM, LARGE = 64 << 10, 512 << 10, EIGHT_MIB
CACHE_LINE = 64


def numbers(size: int, dtype: str = "f8") -> Any:  # noqa: ANN401 - an array
    """Return an array of a size in bytes, each of whose elements is another one."""
    return np.arange(size // np.dtype(dtype).itemsize).astype(dtype)


def read_only(array: Any) -> Any:  # noqa: ANN401 - an array
    array.flags.writeable = False
    return array


def structured() -> Any:  # noqa: ANN401 - an array
    """Return an array with fields at odd places, one of them an array."""
    dtype = np.dtype([("id", "<u2"), ("name", "U5"), ("at", "<f8", (3,)), ("ok", "?")])
    array = np.zeros(3000, dtype)
    array["id"] = np.arange(3000)
    array["name"] = "w\xf6rd"
    array["at"] = np.arange(9000).reshape(3000, 3)
    return array


def square(side: int = 256) -> Any:  # noqa: ANN401 - an array
    return np.arange(side * side, dtype="f8").reshape(side, side)


ARRAYS: dict[str, Callable[[], Any]] = {
    "small": lambda: numbers(800),
    "64 KiB": lambda: numbers(SMALL),
    "below 64 KiB": lambda: numbers(SMALL - 8),
    "above 64 KiB": lambda: numbers(SMALL + 8),
    "odd size": lambda: numbers(SMALL + 1, "u1"),
    "8 MiB": lambda: numbers(LARGE),
    "two-dimensional": square,
    "Fortran's order": lambda: np.asfortranarray(square()),
    "transposed": lambda: square().T,
    "every third": lambda: numbers(MEDIUM)[::3],
    "backwards": lambda: numbers(MEDIUM)[::-1],
    "a part": lambda: square()[100:200, 50:250],
    "a row": lambda: square()[7],
    "a column": lambda: square()[:, 7],
    "repeated by strides": lambda: np.broadcast_to(np.arange(8.0), (2000, 8)),
    "five dimensions": lambda: numbers(MEDIUM).reshape(4, 4, 8, 16, 32),
    "0-d": lambda: np.array(2.5),
    "empty": lambda: np.empty(0),
    "empty, with a shape": lambda: np.empty((3, 0, 5), "i4"),
    "read-only": lambda: read_only(numbers(MEDIUM)),
    "read-only, Fortran's order": lambda: read_only(np.asfortranarray(square())),
    "small and read-only": lambda: read_only(numbers(80)),
    "structured": structured,
    "record": lambda: structured().view(np.recarray),
    "aligned structure": lambda: np.ones(9000, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "objects": lambda: np.array([1, "two", [3], None, (4.5,)] * 3000, dtype=object),
    "text": lambda: np.array(["short", "l\xf6nger \U0001f40d"] * 3000),
    "bytes": lambda: np.array([b"short", b"longer"] * 3000),
    "bool": lambda: numbers(MEDIUM, "u1") % 3 == 0,
    "complex": lambda: numbers(MEDIUM, "f8").view("c16"),
    "half": lambda: numbers(MEDIUM, "u2").view("f2"),
    "big endian": lambda: numbers(MEDIUM, ">i4"),
    "dates": lambda: numbers(MEDIUM, "i8").view("M8[us]"),
    "not a number": lambda: np.full(SMALL, np.nan),
    "masked": lambda: np.ma.masked_greater(numbers(SMALL), 1000.0),
    "scalar": lambda: np.float32(1.5),
    "type": lambda: np.dtype([("a", "i4"), ("b", "U3")]),
}
# What NumPy pickles as it lies: the receiver's has the same order and can be written if that could.
IN_ONE_PIECE = [
    *("small", "64 KiB", "below 64 KiB", "above 64 KiB", "odd size", "8 MiB", "two-dimensional"),
    *("Fortran's order", "transposed", "a row", "five dimensions", "0-d"),
    *("read-only", "read-only, Fortran's order", "small and read-only", "structured"),
    *("text", "bytes", "bool", "complex", "half", "big endian", "dates"),
]


def assert_same(got: Any, sent: Any) -> None:  # noqa: ANN401 - arrays, or what NumPy has otherwise
    """Require the same type, form and content."""
    assert type(got) is type(sent)
    if isinstance(sent, np.ndarray):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(got, sent)  # for which NaN is NaN
        assert got.flags.aligned or not sent.flags.aligned
    else:
        assert got == sent


def assert_laid_out_alike(got: Any, sent: Any) -> None:  # noqa: ANN401 - arrays
    """Require the same order, and that it can be written if that could."""
    assert got.strides == sent.strides
    assert got.flags.writeable == sent.flags.writeable
    if got.flags.writeable:
        got.flat[-1] = got.flat[0]
    else:
        with pytest.raises(ValueError, match="read-only"):
            got.flat[-1] = got.flat[0]


@queues
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was(make: Callable[[], AnyQueue], name: str) -> None:
    sent = ARRAYS[name]()
    got = passed(make, sent)
    assert got is sent or PROCESSES
    assert_same(got, sent)
    if name in IN_ONE_PIECE:
        assert_laid_out_alike(got, sent)


@queues
def test_arrays_come_back_from_another_worker_as_they_were(make: Callable[[], AnyQueue]) -> None:
    requests, results = make(), make()
    worker = start(echo, requests, results)
    for name, array in ARRAYS.items():
        sent = array()
        requests.put(sent)
        got = results.get()
        assert got is sent or PROCESSES
        assert_same(got, sent)
        if name in IN_ONE_PIECE:
            assert_laid_out_alike(got, sent)
    requests.put("stop")
    assert results.get() == "stop"
    finish(worker)


@copied
@queues
def test_the_data_of_a_large_array_begins_a_cache_line(make: Callable[[], AnyQueue]) -> None:
    """What vector instructions want, and two processes that write side by side."""
    sent = [numbers(size) for size in [SMALL, SMALL + 8, LARGE] * 8]
    for got in both_ways(make, sent):
        assert {array.ctypes.data % CACHE_LINE for array in got} == {0}


# --- several in one message -----------------------------------------------------------------


@queues
def test_many_arrays_in_one_message(make: Callable[[], AnyQueue]) -> None:
    sent = {name: array() for name, array in ARRAYS.items()}
    for got in both_ways(make, sent):
        assert list(got) == list(sent)
        for name, array in sent.items():
            assert_same(got[name], array)


@queues
def test_an_array_twice_in_a_message_is_one_array(make: Callable[[], AnyQueue]) -> None:
    for size in (800, SMALL, LARGE):
        array = numbers(size)
        for got in both_ways(make, [array, {"again": array}, (array,)]):
            assert got[0] is got[1]["again"] is got[2][0]
            got[0][0] = -1
            assert got[2][0][0] == -1
            got[0][0] = 0  # between threads it is what was sent


@queues
def test_an_array_within_an_object_within_a_message(make: Callable[[], AnyQueue]) -> None:
    array = numbers(LARGE)
    sent = {"deep": [(1, {"array": array, "slice": array[10:20]}, "x" * 100_000)]}
    for got in both_ways(make, sent):
        inner = got["deep"][0][1]
        assert_same(inner["array"], array)
        assert_same(inner["slice"], array[10:20])
        assert got["deep"][0][2] == "x" * 100_000


# --- whose it is ----------------------------------------------------------------------------


@copied
@queues
@pytest.mark.parametrize("size", [800, SMALL, LARGE])
def test_a_consumers_change_is_seen_by_nobody_else(make: Callable[[], AnyQueue], size: int) -> None:
    array, source = numbers(size), make()
    source.put(array)
    source.put([array, array[:]])
    array[1] = -1  # after it was put: seen here only
    first, (second, third) = source.get(), source.get()
    first[0] = -2
    second[0] = -3
    assert [each[0] for each in (array, first, second, third)] == [0, -2, -3, 0]
    assert [each[1] for each in (array, first, second, third)] == [-1, 1, 1, 1]


def change_and_tell(source: AnyQueue, told: AnyQueue) -> None:
    array = source.get()
    array += 1
    told.put((float(array[0]), float(array[-1])))
    told.put(array)


@copied
@queues
def test_a_change_in_another_worker_is_not_seen_here(make: Callable[[], AnyQueue]) -> None:
    source, told, array = make(), make(), numbers(LARGE)
    workers = [start(change_and_tell, source, told) for _ in range(2)]
    for _ in workers:
        source.put(array)
    found = [told.get() for _ in range(4)]
    finish(*workers)
    assert sorted(each[0] for each in found if isinstance(each, tuple)) == [1.0, 1.0]
    assert_same(array, numbers(LARGE))
    for changed in (each for each in found if not isinstance(each, tuple)):
        assert_same(changed, numbers(LARGE) + 1)


def put_arrays(source: AnyQueue, count: int) -> None:
    for number in range(count):
        source.put(np.full(LARGE // 8, float(number)))


def overwrite_what_is_free() -> None:
    """Use memory again that somebody may still look at."""
    later: Queue[Any] = Queue()
    for _ in range(6):
        later.put(np.full(LARGE // 8, -1.0))
    while not later.empty():
        later.get()[:] = -2.0


@queues
def test_an_array_lives_on_after_its_sender_and_its_queue(make: Callable[[], AnyQueue]) -> None:
    source = make()
    finish(start(put_arrays, source, 4))
    got = [source.get() for _ in range(4)]
    del source
    gc.collect()
    overwrite_what_is_free()
    for number, array in enumerate(got):
        assert (array == float(number)).all()
        array[:] += 1
        assert (array == number + 1.0).all()


def put_and_stay(source: AnyQueue, count: int, done: Event) -> None:
    put_arrays(source, count)
    done.set()
    Event().wait()


@only_processes
@queues
def test_an_array_lives_on_after_its_sender_was_killed(make: Callable[[], AnyQueue]) -> None:
    """Before it was got, and after."""
    source, done = make(), Event()
    worker = start(put_and_stay, source, 4, done)
    before = [source.get(), source.get()]
    assert done.wait(DEADLINE)
    kill(worker)
    got = [*before, source.get(), source.get()]
    del source
    gc.collect()
    overwrite_what_is_free()
    for number, array in enumerate(got):
        assert (array == float(number)).all()


@queues
def test_a_part_of_an_array_keeps_what_it_needs(make: Callable[[], AnyQueue]) -> None:
    parts = [passed(make, np.full(LARGE // 8, float(number)))[5:15] for number in range(4)]
    views = [memoryview(passed(make, np.full(LARGE // 8, float(number)))) for number in range(4)]
    gc.collect()
    overwrite_what_is_free()
    for number in range(4):
        assert parts[number].tolist() == [float(number)] * 10
        assert views[number][-1] == float(number)


def send_on(source: AnyQueue, onwards: AnyQueue) -> None:
    while (array := source.get()) is not None:
        onwards.put(array)
    onwards.put(None)


@queues
def test_a_received_array_is_sent_on_and_on(make: Callable[[], AnyQueue]) -> None:
    """Each sends on what it has received, and forgets it."""
    chain = [make() for _ in range(4)]
    workers = [start(send_on, *pair) for pair in itertools.pairwise(chain)]
    for number in range(6):
        chain[0].put(numbers(LARGE) + number)
    chain[0].put(None)
    for number in range(6):
        assert_same(chain[-1].get(), numbers(LARGE) + number)
    assert chain[-1].get() is None
    finish(*workers)


# --- whose memory it is ---------------------------------------------------------------------


def bytes_taken() -> int:
    """Return the shared memory that the family has taken."""
    gc.collect()
    statistics = _native.family_statistics()
    assert statistics is not None
    return statistics[2]


@only_processes
@queues
def test_the_memory_of_arrays_comes_back_in_whatever_order_they_go(
    make: Callable[[], AnyQueue],
) -> None:
    kept = make()  # the family's first object isn't counted
    before, source = bytes_taken(), make()
    chosen = random.Random(1)  # noqa: S311 - the same in each run
    held: list[Any] = []
    for number in range(200):
        source.put(np.full(chosen.choice([SMALL, MEDIUM]) // 8, float(number)))
        held.append((number, source.get()))
        if len(held) > 20:
            then, array = held.pop(chosen.randrange(len(held)))
            assert (array == float(then)).all()
    for then, array in held:
        assert (array == float(then)).all()
    del source, array, held
    assert bytes_taken() - before < SMALL
    assert kept.empty()


@only_processes
@queues
def test_the_memory_of_arrays_that_nobody_got_comes_back(make: Callable[[], AnyQueue]) -> None:
    kept = make()
    before, source = bytes_taken(), make()
    for _ in range(4):
        source.put([numbers(LARGE), numbers(SMALL)])
    assert bytes_taken() - before >= 4 * LARGE
    del source
    assert bytes_taken() - before < SMALL
    assert kept.empty()


@only_processes
@queues
def test_a_queue_that_was_emptied_keeps_no_large_memory(make: Callable[[], AnyQueue]) -> None:
    source = make()
    source.put(0)
    source.get()
    before = bytes_taken()
    source.put(numbers(LARGE))
    source.get()
    assert bytes_taken() - before < SMALL


def hold_arrays(source: AnyQueue, count: int, done: Event) -> None:
    held = [source.get() for _ in range(count)]
    done.set()
    Event().wait()
    assert held


@only_processes
@queues
def test_the_memory_of_arrays_that_a_killed_worker_held_comes_back(
    make: Callable[[], AnyQueue],
) -> None:
    done = Event()
    before, source = bytes_taken(), make()
    worker = start(hold_arrays, source, 4, done)
    put_arrays(source, 4)
    assert done.wait(DEADLINE)
    kill(worker)
    del source
    assert bytes_taken() - before < SMALL
