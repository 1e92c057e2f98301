"""Short tasks, of which a worker may claim several at a time, and one among them that takes long.

Whoever claims them, a task may wait for the next one, outcomes are there when their tasks are done,
and what nobody has begun can be taken back.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Event, Queue, WorkerPool, WorkerPoolExecutor
from test_worker import DEADLINE, only_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Call = Callable[[Callable[[int], int], range], Iterable[int]]

# So many that workers have learnt how short the tasks are; the long one is somewhere behind.
MANY = 3000
places = pytest.mark.parametrize("place", range(1500, 2300, 97))


def meet(begun: Event, place: int, number: int) -> int:
    """Have the task at the place wait until the next one has begun."""
    if number == place:
        return number if begun.wait(DEADLINE) else -1
    if number == place + 1:
        begun.set()
    return number


def stop(begun: Event, goes_on: Event, place: int, number: int) -> int:
    """Have the task at the place wait until it may go on."""
    if number == place:
        begun.set()
        return number if goes_on.wait(DEADLINE) else -1
    return number


def note(ran: Queue[Any], begun: Event, goes_on: Event, place: int, number: int) -> int:
    """Do as `stop`, and tell that the task was run."""
    ran.put(number)
    return stop(begun, goes_on, place, number)


CALLS: dict[str, Callable[[WorkerPool], Call]] = {
    "map": lambda pool: lambda func, items: pool.map(func, items, 1),
    "imap": lambda pool: pool.imap,
    "imap_unordered": lambda pool: lambda func, items: sorted(pool.imap_unordered(func, items)),
}


@places
@pytest.mark.parametrize("call", CALLS)
def test_a_task_may_wait_for_the_next_one(call: str, place: int) -> None:
    with WorkerPool(2) as pool:
        results = CALLS[call](pool)(functools.partial(meet, Event(), place), range(MANY))
        assert list(results) == list(range(MANY))


@places
def test_a_task_of_an_executor_may_wait_for_the_next_one(place: int) -> None:
    with WorkerPoolExecutor(2) as executor:
        results = executor.map(functools.partial(meet, Event(), place), range(MANY))
        assert list(results) == list(range(MANY))


@places
def test_results_are_there_though_the_task_after_them_takes_long(place: int) -> None:
    begun, goes_on = Event(), Event()
    with WorkerPool(2) as pool:
        results = pool.imap(functools.partial(stop, begun, goes_on, place), range(MANY))
        assert [results.next(DEADLINE) for _ in range(place)] == list(range(place))
        goes_on.set()
        assert [results.next(DEADLINE) for _ in range(place, MANY)] == list(range(place, MANY))


@places
def test_all_other_results_come_before_that_of_the_task_that_takes_long(place: int) -> None:
    begun, goes_on = Event(), Event()
    with WorkerPool(2) as pool:
        results = pool.imap_unordered(functools.partial(stop, begun, goes_on, place), range(MANY))
        others = [results.next(DEADLINE) for _ in range(MANY - 1)]
        goes_on.set()
        assert results.next(DEADLINE) == place
    assert sorted(others) == [number for number in range(MANY) if number != place]


@only_threads
@places
def test_what_nobody_has_begun_is_cancelled(place: int) -> None:
    ran: Queue[int] = Queue()
    begun, goes_on = Event(), Event()
    with WorkerPoolExecutor(1) as executor:
        task = functools.partial(note, ran, begun, goes_on, place)
        results = executor.map(task, range(MANY))
        assert begun.wait(DEADLINE)
        executor.shutdown(wait=False, cancel_futures=True)
        goes_on.set()
        assert list(itertools.islice(results, place + 1)) == list(range(place + 1))
    assert ran.get_many(MANY) == list(range(place + 1))


@only_threads
@places
def test_a_terminated_pool_begins_no_other_task(place: int) -> None:
    ran: Queue[int] = Queue()
    begun, goes_on = Event(), Event()
    pool = WorkerPool(1)
    task = functools.partial(note, ran, begun, goes_on, place)
    result = pool.map_async(task, range(MANY), 1)
    assert begun.wait(DEADLINE)
    pool.terminate()
    goes_on.set()
    pool.join()
    assert ran.get_many(MANY) == list(range(place + 1))
    with pytest.raises(ValueError, match="terminate"):
        result.get(DEADLINE)


@only_threads
@places
def test_another_call_comes_next_and_then_the_rest(place: int) -> None:
    ran: Queue[Any] = Queue()
    begun, goes_on = Event(), Event()
    with WorkerPool(1) as pool:
        task = functools.partial(note, ran, begun, goes_on, place)
        result = pool.map_async(task, range(MANY), 1)
        assert begun.wait(DEADLINE)
        other = pool.apply_async(ran.put, ("other",))
        goes_on.set()
        assert result.get(DEADLINE) == list(range(MANY))
        assert other.get(DEADLINE) is None
    assert ran.get_many(MANY + 1) == [*range(place + 1), "other", *range(place + 1, MANY)]
