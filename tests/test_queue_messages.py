"""Messages between workers: what is encoded directly, what is pickled, what lies in a blob."""

from __future__ import annotations

import array
import gc
import pickle
import queue
from typing import Any

import pytest

from freethreading import Event, Queue, Worker, _native
from test_worker import DEADLINE, PROCESSES, finish, kill, only_processes, start

LARGE = 64 << 10

DEEP: list[Any] = []
DEEP.append([[[[[[1]]]]]])


@pytest.mark.parametrize(
    "item",
    [
        (),
        [],
        {},
        (1, "abc", 2.5, None, True, False, b"x"),
        ((), [()], {}),
        [1, [2, [3, [4, [5, [6]]]]]],
        {"a": 1, "b": [2, 3], ("c", 4): {"d": (5,)}, None: b"", 1.5: False},
        (2**63 - 1, -(2**63)),
        (2**63,),
        [-(2**63) - 1],
        ["ä€😀", "", "\0"],
        ["\ud800"],
        [b"\0" * 1024],
        [b"\0" * 1025],
        ["x" * 1025],
        list(range(64)),
        list(range(65)),
        {number: str(number) for number in range(64)},
        {number: str(number) for number in range(65)},
        [["x" * 1000] * 3] + [["y" * 1000] for _ in range(3)],
        DEEP,
        ["a" * 500] * 64,
    ],
)
def test_plain_containers_come_out_as_they_went_in(item: Any) -> None:  # noqa: ANN401
    source: Queue[Any] = Queue()
    source.put(item)
    got = source.get()
    assert got == item
    assert repr(got) == repr(item)


class Text(str):
    """A class of its own."""

    __slots__ = ()


class Number(int):
    """A class of its own."""


class Row(tuple[int, ...]):
    """A class of its own."""

    __slots__ = ()


class Table(dict[str, int]):
    """A class of its own."""


@pytest.mark.parametrize(
    "item", [[Text("a")], (Number(1),), [Row((1, 2))], {"a": Table(b=1)}, {Text("k"): 1}]
)
def test_elements_keep_their_class(item: Any) -> None:  # noqa: ANN401
    source: Queue[Any] = Queue()
    source.put(item)
    got = source.get()
    assert got == item
    inner, inner_before = ([*it.items()] if isinstance(it, dict) else it for it in (got, item))
    assert pickle.dumps(inner) == pickle.dumps(inner_before)


def test_lists_and_dicts_that_are_shared_stay_one_object() -> None:
    shared: list[int] = [1]
    source: Queue[Any] = Queue()
    source.put([shared, shared])
    first, second = source.get()
    assert first is second
    table: dict[str, Any] = {}
    table["itself"] = [table]
    source.put((table, table))
    first, second = source.get()
    assert first is second
    assert first["itself"][0] is first


# --- blobs --------------------------------------------------------------------------------------


def objects() -> int:
    """Return how many objects the shared memory holds, those of the dead and in cycles left out."""
    gc.collect()
    statistics = _native.family_statistics()
    return statistics[1] if statistics else 0


@only_processes
@pytest.mark.parametrize(
    "item",
    [
        b"x" * LARGE,
        "x" * LARGE,
        "ä" * LARGE,
        bytearray(b"y" * LARGE),
        list(range(LARGE)),
        array.array("d", [1.5] * LARGE),
        {"a": b"z" * (1 << 20), "b": "t" * (1 << 20)},
        [pickle.PickleBuffer(bytearray(b"1" * LARGE))],
    ],
    ids=["bytes", "str", "wide str", "bytearray", "list", "array", "dict", "buffer"],
)
def test_large_items_come_out_as_they_went_in_and_leave_nothing(item: Any) -> None:  # noqa: ANN401
    source: Queue[Any] = Queue()
    before = objects()
    for _ in range(3):
        source.put(item)
    assert objects() == before + 3
    for _ in range(3):
        got = source.get()
        if isinstance(item, list) and isinstance(item[0], pickle.PickleBuffer):
            assert bytes(got[0]) == bytes(item[0])
        else:
            assert type(got) is type(item)
            assert got == item
        del got
    assert objects() == before


@only_processes
def test_a_queue_that_is_dropped_frees_its_large_items() -> None:
    before = objects()
    source: Queue[Any] = Queue()
    source.put(b"x" * LARGE)
    source.put(b"x" * LARGE)
    assert objects() == before + 3
    del source
    assert objects() == before


@only_processes
def test_a_view_outlives_its_queue_and_is_written_to_if_it_was() -> None:
    before = objects()
    source: Queue[Any] = Queue()
    original = bytearray(b"1" * LARGE)
    source.put([pickle.PickleBuffer(original), pickle.PickleBuffer(bytes(original))])
    ours, fixed = (memoryview(it) for it in source.get())
    del source
    assert objects() == before + 1
    assert (ours.readonly, fixed.readonly) == (False, True)
    ours[0] = 7
    assert original[0] == fixed[0] == ord("1")
    assert ours[0] == 7
    del ours, fixed
    assert objects() == before


def hold(source: Queue[Any], is_held: Event) -> None:
    kept = source.get()
    is_held.set()
    Event().wait()
    del kept


@only_processes
def test_a_killed_workers_large_items_are_freed() -> None:
    before = objects()
    source: Queue[Any] = Queue()
    is_held = Event()
    worker = start(hold, source, is_held)
    source.put([pickle.PickleBuffer(b"x" * LARGE)])
    assert is_held.wait(DEADLINE)
    kill(worker)
    del source, is_held
    assert objects() == before


def send(target: Queue[Any]) -> None:
    target.put([pickle.PickleBuffer(bytes([number]) * LARGE) for number in range(3)])


def test_a_large_item_outlives_its_sender() -> None:
    source: Queue[Any] = Queue()
    worker = Worker(target=send, args=(source,))
    worker.start()
    finish(worker)
    got = source.get(timeout=DEADLINE)
    assert [bytes(it) for it in got] == [bytes([number]) * LARGE for number in range(3)]
    if PROCESSES:
        assert all(memoryview(it).readonly for it in got)


def test_a_bounded_queue_counts_large_items_like_others() -> None:
    source: Queue[bytes] = Queue(1)
    source.put(b"x" * LARGE)
    assert source.full()
    with pytest.raises(queue.Full):
        source.put(b"y" * LARGE, timeout=0.01)
    assert source.get() == b"x" * LARGE
    assert source.empty()


@only_processes
def test_a_bare_buffer_is_like_a_memoryview_that_can_be_sent_on() -> None:
    source: Queue[Any] = Queue()
    for data in (b"12" * LARGE, bytearray(b"34" * LARGE)):
        view: Any = data
        for _ in range(2):
            source.put(pickle.PickleBuffer(view) if view is data else view)
            view = source.get()
        assert (len(view), view[1], bytes(view[:4])) == (2 * LARGE, data[1], bytes(data[:4]))
        assert view == data
        assert view != bytes(data[1:])
        assert view.tobytes() == data
        assert view.readonly is isinstance(data, bytes)
        # Without the queue the bytes go along.
        for protocol in (2, 4, 5):
            copy = pickle.loads(pickle.dumps(view, protocol))
            assert copy == data
            assert type(copy) is type(data)
        if view.readonly:
            with pytest.raises(TypeError):
                view[0] = 7
        else:
            view[0] = 7
            assert view[0] == 7
