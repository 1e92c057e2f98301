"""`put_many` and `get_many`, of both queues."""

from __future__ import annotations

import queue
import signal
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Event, Queue, SimpleQueue
from freethreading._errors import NegativeTimeoutError
from test_worker import (
    DEADLINE,
    PROCESSES,
    SHORT,
    finish,
    lasts_at_least,
    only_processes,
    signature_of,
    start,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AnyQueue = Queue[Any] | SimpleQueue[Any]

both_kinds = pytest.mark.parametrize("kind", [Queue, SimpleQueue])


@both_kinds
def test_signatures_are_the_documented_ones(kind: Callable[[], AnyQueue]) -> None:
    source = kind()
    assert signature_of(source.put_many) == "(items, block=True, timeout=None)"
    assert signature_of(source.get_many) == "(max_items, block=True, timeout=None)"


@both_kinds
def test_items_come_out_in_their_order(kind: Callable[[], AnyQueue]) -> None:
    source = kind()
    source.put_many(iter(range(5)))
    source.put_many([])
    source.put("last")
    assert source.get_many(2) == [0, 1]
    assert source.get() == 2
    assert source.get_many(100) == [3, 4, "last"]
    assert source.empty()


@both_kinds
def test_an_empty_queue_is_empty_in_time(kind: Callable[[], AnyQueue]) -> None:
    source = kind()
    with pytest.raises(queue.Empty):
        source.get_many(3, block=False)
    with pytest.raises(queue.Empty):
        lasts_at_least(SHORT, lambda: source.get_many(3, timeout=SHORT))


def test_a_negative_timeout_of_put_many_is_what_it_is_for_put() -> None:
    source: Queue[int] = Queue(2)
    if not PROCESSES:
        with pytest.raises(NegativeTimeoutError):
            source.put_many([1, 2], timeout=-1)
        return
    source.put_many([1], timeout=-1)
    with pytest.raises(NegativeTimeoutError) as caught:
        source.put_many([2, 3], timeout=-1)
    assert isinstance(caught.value, queue.Full)
    assert caught.value.count == 1  # type: ignore[attr-defined]
    assert source.get_many(3) == [1, 2]
    with pytest.raises(NegativeTimeoutError):
        source.get_many(3, timeout=-1)


@both_kinds
@pytest.mark.parametrize("most", [0, -1, -(10**30)])
def test_at_least_one_item_is_asked_for(kind: Callable[[], AnyQueue], most: int) -> None:
    with pytest.raises(ValueError, match="max_items"):
        kind().get_many(most)


@both_kinds
def test_wrong_types_are_named(kind: Callable[[], AnyQueue]) -> None:
    with pytest.raises(TypeError, match="max_items"):
        kind().get_many("2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="iterable"):
        kind().put_many(3)  # type: ignore[arg-type]


def test_a_full_queue_takes_what_it_has_room_for_and_says_how_many() -> None:
    source: Queue[int] = Queue(3)
    with pytest.raises(queue.Full, match="3 of 5 items were put") as caught:
        source.put_many(range(5), block=False)
    assert caught.value.count == 3  # type: ignore[attr-defined]
    with pytest.raises(queue.Full, match="0 of 2 items were put"):
        lasts_at_least(SHORT, lambda: source.put_many([8, 9], timeout=SHORT))
    assert source.get_many(9) == [0, 1, 2]


@both_kinds
def test_nothing_is_put_if_the_items_end_in_an_exception(kind: Callable[[], AnyQueue]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError

    source = kind()
    with pytest.raises(LookupError):
        source.put_many(items())
    assert source.empty()


@only_processes
@both_kinds
def test_nothing_is_put_if_one_cannot_be_pickled(kind: Callable[[], AnyQueue]) -> None:
    source = kind()
    with pytest.raises(Exception, match="local"):
        source.put_many([1, lambda: None])
    assert source.empty()


class Unreadable:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (int, ("no number",))


@only_processes
@both_kinds
def test_what_was_got_before_an_exception_comes_with_it(kind: Callable[[], AnyQueue]) -> None:
    source = kind()
    source.put_many([1, "two", Unreadable(), 4])
    with pytest.raises(ValueError, match="no number") as caught:
        source.get_many(10)
    assert caught.value.items == [1, "two"]  # type: ignore[attr-defined]
    assert source.get_many(10) == [4]


def put_many(target: AnyQueue, items: list[int], is_done: Event) -> None:
    target.put_many(items)
    is_done.set()


def test_putting_many_waits_for_room_and_getting_many_for_the_first() -> None:
    bounded: Queue[int] = Queue(2)
    is_done = Event()
    worker = start(put_many, bounded, list(range(50)), is_done)
    got: list[int] = []
    while len(got) < 50:
        items = bounded.get_many(7, timeout=DEADLINE)
        assert 1 <= len(items) <= 7
        got += items
    assert got == list(range(50))
    assert is_done.wait(DEADLINE)
    finish(worker)


def test_each_item_that_was_got_is_to_be_reported_done() -> None:
    source: Queue[int] = Queue()
    source.put_many([1, 2, 3])
    for _ in source.get_many(3):
        source.task_done()
    source.join()
    with pytest.raises(ValueError, match="too many"):
        source.task_done()


@pytest.mark.thread_unsafe(reason="sets a signal handler")
def test_a_signal_ends_a_long_put_and_says_how_many_were_put() -> None:
    class Rung(Exception):  # noqa: N818 - it is no error
        """Raised by the handler."""

    def ring(*_: object) -> None:
        raise Rung

    source: Queue[int] = Queue(2)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, SHORT)
        with pytest.raises(Rung) as caught:
            source.put_many(range(5))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.count == 2  # type: ignore[attr-defined]
    assert source.get_many(9) == [0, 1]
