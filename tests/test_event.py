"""Event: a flag that workers wait for."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Event, Queue
from support import wait_until
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    SHORT,
    finish,
    kill,
    lasts_at_least,
    only_processes,
    signature_of,
    start,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_signatures_are_the_documented_ones() -> None:
    event = Event()
    assert signature_of(Event) == "()"
    assert signature_of(event.is_set) == "()"
    assert signature_of(event.set) == "()"
    assert signature_of(event.clear) == "()"
    assert signature_of(event.wait) == "(timeout=None)"


def test_it_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        Event(True)  # type: ignore[call-arg]


class Soon:
    def __float__(self) -> float:
        return SHORT


@pytest.mark.parametrize("timeout", [Fraction(1, 100), Decimal("0.01"), Soon()])
def test_a_timeout_is_anything_that_is_a_number(timeout: float) -> None:
    event = Event()
    assert event.wait(timeout) is False
    event.set()
    assert event.wait(timeout) is True


@pytest.mark.parametrize("timeout", ["1", b"1", [], 1j, object()])
def test_a_timeout_that_is_no_number_is_refused(timeout: object) -> None:
    name = type(timeout).__name__
    with pytest.raises(TypeError, match=f"timeout must be a number of seconds or None, not {name}"):
        Event().wait(timeout)  # type: ignore[arg-type]


def test_it_is_set_and_cleared() -> None:
    event = Event()
    assert event.is_set() is False
    assert event.set() is None  # type: ignore[func-returns-value]
    assert event.is_set() is True
    event.set()
    assert event.is_set() is True
    assert event.clear() is None  # type: ignore[func-returns-value]
    assert event.is_set() is False
    event.clear()
    assert event.is_set() is False


@pytest.mark.parametrize(
    "wait",
    [
        lambda event: event.wait(),
        lambda event: event.wait(None),
        lambda event: event.wait(0),
        lambda event: event.wait(timeout=DEADLINE),
        lambda event: event.wait(-1),
    ],
)
def test_a_set_event_is_not_waited_for(wait: Callable[[Event], bool]) -> None:
    event = Event()
    event.set()
    assert wait(event) is True
    assert wait(event) is True
    assert event.is_set()


def test_wait_gives_up_after_its_timeout() -> None:
    event = Event()
    assert lasts_at_least(SHORT, lambda: event.wait(SHORT)) is False
    assert lasts_at_least(SHORT, lambda: event.wait(timeout=SHORT)) is False
    assert event.wait(0) is False
    event.set()
    event.clear()
    assert lasts_at_least(SHORT, lambda: event.wait(SHORT)) is False


@pytest.mark.parametrize("timeout", [-1, -0.5, -1e9])
def test_a_negative_timeout_has_passed_as_in_the_stdlib(timeout: float) -> None:
    assert Event().wait(timeout) is False


@pytest.mark.parametrize("timeout", ["1", [], 1j])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout"):
        Event().wait(timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    event = Event()
    event.set()
    assert survives_odd_timeout(lambda: event.wait(timeout)) in {True, "refused"}


def wait_and_tell(event: Event, timeout: float | None, results: Queue[bool]) -> None:
    results.put(event.wait(timeout))


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_set_wakes_every_waiter(timeout: float | None) -> None:
    event = Event()
    results: Queue[bool] = Queue()
    workers = [start(wait_and_tell, event, timeout, results) for _ in range(5)]
    wait_until_asleep(*workers)
    assert results.empty()
    event.set()
    finish(*workers)
    assert [results.get(timeout=DEADLINE) for _ in workers] == [True] * 5
    assert event.is_set()


def announce_and_wait(event: Event, announced: Queue[int], results: Queue[bool]) -> None:
    announced.put(1)
    results.put(event.wait())


def test_a_clear_right_after_set_takes_nothing_from_those_who_waited() -> None:
    event = Event()
    announced: Queue[int] = Queue()
    results: Queue[bool] = Queue()
    workers = [start(announce_and_wait, event, announced, results) for _ in range(3)]
    for _ in workers:
        announced.get(timeout=DEADLINE)
    wait_until_asleep(*workers)
    event.set()
    event.clear()
    finish(*workers)
    assert [results.get(timeout=DEADLINE) for _ in workers] == [True] * 3
    assert event.wait(0) is False


def set_it(event: Event) -> None:
    event.set()


def test_another_worker_may_set_it() -> None:
    event = Event()
    worker = start(set_it, event)
    assert event.wait(DEADLINE) is True
    finish(worker)


def clear_it(event: Event) -> None:
    assert event.is_set()
    event.clear()


def test_another_worker_may_clear_it() -> None:
    event = Event()
    event.set()
    finish(start(clear_it, event))
    assert not event.is_set()


def answer(ping: Event, pong: Event, times: int) -> None:
    for _ in range(times):
        assert ping.wait(DEADLINE)
        ping.clear()
        pong.set()


def test_no_wake_up_is_lost_in_many_round_trips() -> None:
    ping, pong = Event(), Event()
    worker = start(answer, ping, pong, 500)
    for _ in range(500):
        ping.set()
        assert pong.wait(DEADLINE)
        pong.clear()
    finish(worker)


def wait_for_all(events: list[Event], results: Queue[Any]) -> None:
    results.put([event.wait(DEADLINE) for event in events])


def test_many_events_do_not_share_state() -> None:
    events = [Event() for _ in range(100)]
    results: Queue[Any] = Queue()
    worker = start(wait_for_all, events, results)
    for event in events[1::2]:
        event.set()
    assert [event.is_set() for event in events] == [False, True] * 50
    assert results.empty()
    for event in events:
        event.set()
    assert results.get(timeout=DEADLINE) == [True] * 100
    finish(worker)


@only_processes
def test_a_killed_waiter_does_not_keep_others_from_waking() -> None:
    event = Event()
    results: Queue[bool] = Queue()
    workers = [start(wait_and_tell, event, None, results) for _ in range(3)]
    wait_until_asleep(*workers)
    kill(workers.pop(0))
    event.set()
    finish(*workers)
    wait_until(lambda: results.qsize() == 2, "both survivors have told")
    assert [results.get_nowait() for _ in workers] == [True, True]
