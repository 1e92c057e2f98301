"""How queues live and end: collected, used by finalizers, left blocked, nested, and watched."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Barrier, Event, Queue, SimpleQueue
from support import run_python, wait_until
from test_queue import drain as drain_queue
from test_simple_queue import drain as drain_simple_queue
from test_worker import (
    DEADLINE,
    PROCESSES,
    Launcher,
    finish,
    launchers,
    only_threads,
    start,
)

if TYPE_CHECKING:
    from collections.abc import Callable

AnyQueue = Queue[Any] | SimpleQueue[Any]

only_pickled = pytest.mark.skipif(not PROCESSES, reason="threads don't pickle their items")
both_queues = pytest.mark.parametrize("make", [Queue, SimpleQueue])


def drain(source: AnyQueue) -> list[Any]:
    """Return all that is there."""
    if isinstance(source, Queue):
        return drain_queue(source)
    return drain_simple_queue(source)


def check_counts(source: AnyQueue, expected: list[str]) -> None:
    """Require exactly these items, in any order, and as many tasks."""
    if isinstance(source, Queue):
        assert source.qsize() == len(expected)
    assert sorted(drain(source)) == sorted(expected)
    assert source.empty()
    if isinstance(source, Queue):
        for _ in expected:
            source.task_done()
        with pytest.raises(ValueError, match="task_done"):
            source.task_done()


# --- cycles ---------------------------------------------------------------------------------


class Holder:
    """Something that can be weakly referenced and holds whatever it is given."""

    def __init__(self, held: object = None) -> None:
        """Hold `held`."""
        self.held = held


@only_threads
@both_queues
def test_a_queue_in_itself_is_collected(make: type[AnyQueue]) -> None:
    source = make()
    source.put(source)
    alive = weakref.ref(source)
    del source
    gc.collect()
    assert alive() is None


@only_threads
@both_queues
def test_a_queue_and_what_holds_it_are_collected(make: type[AnyQueue]) -> None:
    source = make()
    holder = Holder(source)
    source.put("before")
    source.put(holder)
    source.put("after")
    alive: list[weakref.ref[Any]] = [weakref.ref(source), weakref.ref(holder)]
    del source, holder
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


@only_threads
@both_queues
def test_a_collection_leaves_a_queue_in_use_as_it_is(make: type[AnyQueue]) -> None:
    source = make()
    source.put(Holder(source))
    source.put("next")
    gc.collect()
    holder: Any = source.get()
    assert holder.held is source
    assert drain(source) == ["next"]


# --- finalizers -----------------------------------------------------------------------------


class PutsWhenDropped:
    def __init__(self, source: AnyQueue) -> None:
        """Put into `source` at the end."""
        self.source = source

    def __del__(self) -> None:
        """Put."""
        self.source.put("finalizer")


def drop_by_del(source: AnyQueue) -> Callable[[], object]:
    """Return a function that drops an object whose `__del__` puts."""
    return [PutsWhenDropped(source)].clear


def drop_by_callback(source: AnyQueue) -> Callable[[], object]:
    """Return a function that drops an object of which a weak reference's callback puts."""
    held = [Holder()]
    ref = weakref.ref(held[0], lambda _ref: source.put("finalizer"))

    def drop() -> object:
        held.clear()
        return ref

    return drop


both_finalizers = pytest.mark.parametrize("arrange", [drop_by_del, drop_by_callback])
TURNS = 100


@both_queues
@both_finalizers
def test_put_works_in_a_finalizer(
    make: type[AnyQueue], arrange: Callable[[AnyQueue], Callable[[], object]]
) -> None:
    source = make()
    for _ in range(TURNS):
        drop = arrange(source)
        source.put("item")
        drop()
    check_counts(source, ["item", "finalizer"] * TURNS)


class DropsWhenPickled:
    def __init__(self, drop: Callable[[], object]) -> None:
        """Call `drop` when pickled."""
        self.drop = drop

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Drop, and arrive as another thing."""
        self.drop()
        return str, ("item",)


@only_pickled
@both_queues
@both_finalizers
def test_put_works_in_a_finalizer_in_the_middle_of_a_put(
    make: type[AnyQueue], arrange: Callable[[AnyQueue], Callable[[], object]]
) -> None:
    source = make()
    for _ in range(TURNS):
        source.put(DropsWhenPickled(arrange(source)))
    check_counts(source, ["item", "finalizer"] * TURNS)


@only_pickled
@both_finalizers
def test_many_puts_of_finalizers_in_the_middle_of_one_put_many(
    arrange: Callable[[AnyQueue], Callable[[], object]],
) -> None:
    source: Queue[Any] = Queue()
    source.put_many([DropsWhenPickled(arrange(source)) for _ in range(TURNS)])
    check_counts(source, ["item", "finalizer"] * TURNS)


# --- getters --------------------------------------------------------------------------------

GETTERS = 4
ENOUGH = 20
# So many that putting them lasts far longer than any turn that the kernel gives to a worker: two
# that are awake may well pass some 10,000 items to and fro before a third one has woken.
ALL = 1_000_000


def get_until_none(source: Queue[int | None], told: Queue[int], barrier: Barrier) -> None:
    """Take items; tell when there have been enough, and go on."""
    barrier.wait(DEADLINE)
    count = 0
    while source.get(timeout=DEADLINE) is not None:
        count += 1
        if count == ENOUGH:
            told.put(count)


@pytest.mark.parametrize("maxsize", [1, GETTERS])
def test_no_blocked_getter_starves(maxsize: int) -> None:
    source: Queue[int | None] = Queue(maxsize)
    told: Queue[int] = Queue()
    barrier = Barrier(GETTERS + 1)
    getters = [start(get_until_none, source, told, barrier) for _ in range(GETTERS)]
    barrier.wait(DEADLINE)
    for number in range(ALL):
        source.put(number, timeout=DEADLINE)
        if told.qsize() == GETTERS:
            break
    satisfied = told.qsize()
    for _ in getters:
        source.put(None, timeout=DEADLINE)
    finish(*getters)
    assert satisfied == GETTERS, f"{satisfied} of {GETTERS} getters had {ENOUGH} of {ALL} items"


def put_batches(source: Queue[int], batches: int, stop: Event) -> None:
    """Put a generous count of items, or until told to stop."""
    batch = list(range(100))
    for _ in range(batches):
        if stop.is_set():
            break
        source.put_many(batch, timeout=DEADLINE)


@launchers
def test_get_many_ends_while_others_go_on_putting(launch: Launcher) -> None:
    """It takes at most what was there when its first item came."""
    most = 1000
    source: Queue[int] = Queue(most)
    stop = Event()
    producer = launch(put_batches, source, 5000, stop)
    wait_until(source.full, "there is much to take")
    items = source.get_many(10**12, timeout=DEADLINE)
    stop.set()
    drain(source)  # makes room for the rest of the batch
    finish(producer)
    # One more: its place may have been filled again when the first item had been taken.
    assert 1 <= len(items) <= most + 1


LAST = 1000
here: list[Queue[Any]] = []


def load_and_put_next(number: int) -> int:
    """Put the next one while this one is being taken."""
    if number < LAST:
        here[-1].put(PutsNextWhenLoaded(number + 1))
    return number


class PutsNextWhenLoaded:
    def __init__(self, number: int) -> None:
        """Arrive as `number`."""
        self.number = number

    def __reduce__(self) -> tuple[Callable[[int], int], tuple[int]]:
        """Put the next one when loaded."""
        return load_and_put_next, (self.number,)


@only_pickled
def test_get_many_leaves_what_its_own_items_put() -> None:
    """The same in one thread: each item puts one more while it is being taken."""
    source: Queue[Any] = Queue()
    here.append(source)
    try:
        source.put(PutsNextWhenLoaded(0))
        source.put(PutsNextWhenLoaded(LAST))
        # What the first item puts may count as there, for it comes while the first is taken.
        assert len(source.get_many(10**12)) in (2, 3)
        assert source.qsize() == 1
    finally:
        here.clear()


# --- the size -------------------------------------------------------------------------------


def put_and_get(source: Queue[int], barrier: Barrier, stop: Event) -> None:
    """Put one item and take one, over and over: each who does so adds at most one to the queue."""
    barrier.wait(DEADLINE)
    while not stop.is_set():
        source.put(0, timeout=DEADLINE)
        source.get(timeout=DEADLINE)


@launchers
def test_qsize_never_shows_more_than_there_can_be(launch: Launcher) -> None:
    source: Queue[int] = Queue(2)
    barrier = Barrier(3)
    stop = Event()
    movers = [launch(put_and_get, source, barrier, stop) for _ in range(2)]
    barrier.wait(DEADLINE)
    seen = {source.qsize() for _ in range(100_000)}
    stop.set()
    finish(*movers)
    assert seen <= {0, 1, 2}
    assert source.empty()


# --- the end --------------------------------------------------------------------------------

LEFT_BLOCKED = """
    import sys
    import threading
    import time

    from freethreading import Queue, SimpleQueue, Worker, get_backend

    def looks_of(task):
        with open(f"{task}/status") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        return fields["State"].split()[0], fields["voluntary_ctxt_switches"]

    def wait_until_asleep(task):
        looks = []
        while len(looks) < 3 or looks[-1][0] != "S" or len(set(looks[-3:])) != 1:
            looks.append(looks_of(task))
            time.sleep(0.005)

    def task_of(worker):
        thread = getattr(worker, "native_id", None)
        return f"/proc/{worker.ident}" if thread is None else f"/proc/self/task/{thread}"

    def tell_and_call(started, call, *args):
        started.put("started")
        call(*args)

    def main(make):
        full, empty, simple = Queue(1), Queue(), SimpleQueue()
        full.put("first")
        started = Queue()
        left = [Queue(), SimpleQueue()]
        for queue in left:
            for number in range(1000):
                queue.put([number, "x" * number])
            queue.put(queue)
        calls = [(full.put, "second"), (empty.get,), (simple.get,)] * 2
        workers = [make(target=tell_and_call, args=(started, *call), daemon=True) for call in calls]
        for worker in workers:
            worker.start()
        for worker in workers:
            started.get()
        for worker in workers:
            wait_until_asleep(task_of(worker))
        assert full.full() and empty.empty() and simple.empty()
        print("ending", flush=True)
        return full, empty, simple, left

    if __name__ == "__main__":
        KEPT = main({"thread": threading.Thread, "worker": Worker}[sys.argv[1]])
"""


@pytest.mark.parametrize("kind", ["worker", *(["thread"] * PROCESSES)])
def test_a_program_ends_while_daemons_are_blocked_in_its_queues(kind: str) -> None:
    finished = run_python(LEFT_BLOCKED, kind).check()
    assert (finished.stdout, finished.stderr) == ("ending\n", "")


ITEMS_LEFT = """
    from freethreading import Queue, SimpleQueue

    class PutsWhenDropped:
        def __init__(self, queue):
            self.queue = queue
        def __del__(self):
            self.queue.put("dropped")

    if __name__ == "__main__":
        queues = [Queue(), SimpleQueue(), Queue(5000)]
        for queue in queues:
            for number in range(1000):
                queue.put([number, "x" * number])
            queue.put(bytes(1 << 20))
            queue.put(queue)
        kept = [PutsWhenDropped(queue) for queue in queues]
        print("ending", flush=True)
"""


def test_a_program_ends_with_items_left_in_its_queues() -> None:
    finished = run_python(ITEMS_LEFT).check()
    assert (finished.stdout, finished.stderr) == ("ending\n", "")


NESTED_DEEP = """
    import gc
    import sys

    from freethreading import Queue, SimpleQueue

    make = {"Queue": Queue, "SimpleQueue": SimpleQueue}[sys.argv[1]]
    innermost = make()
    innermost.put("inside")
    outer = innermost
    for _ in range(20_000):
        inner, outer = outer, make()
        outer.put(inner)
    del inner
    outer = None
    gc.collect()
    assert innermost.get() == "inside"
    print("dropped")
"""


@pytest.mark.parametrize("name", ["Queue", "SimpleQueue"])
def test_queues_nested_deep_are_dropped(name: str) -> None:
    """On threads, where a queue holds its items themselves."""
    finished = run_python(NESTED_DEEP, name, env={"FREETHREADING_BACKEND": "threading"}).check()
    assert (finished.stdout, finished.stderr) == ("dropped\n", "")
