"""Objects of ours in messages: kept until the message is read, and not a moment longer."""

from __future__ import annotations

import functools
import gc
import os
import pickle
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
    WorkerPool,
    WorkerPoolExecutor,
    _native,
)
from freethreading._picklable import try_pickling as check_picklable
from freethreading._tasks import pack
from support import run_python, wait_until
from test_worker import finish, kill, only_processes, start

if TYPE_CHECKING:
    from collections.abc import Callable

AnyQueue = Any
both_queues = pytest.mark.parametrize("new", [Queue, SimpleQueue])

MAKERS: list[Callable[[], Any]] = [
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Event,
    Condition,
    lambda: Condition(Lock()),
    lambda: Barrier(2),
    Queue,
    SimpleQueue,
]


def objects() -> int:
    """How many objects the family has."""
    statistics = _native.family_statistics()
    assert statistics is not None
    return statistics[1]


@only_processes
@both_queues
def test_an_object_lives_as_long_as_the_message_that_names_it(new: AnyQueue) -> None:
    queue = new()
    before = objects()
    for make in MAKERS:
        item = make()
        queue.put(item)
        kind = type(item)
        del item
        assert objects() > before
        received = queue.get()
        assert objects() > before
        assert type(received) is kind
        del received
        assert objects() == before, make


def answer(requests: Queue[Any]) -> None:
    """Answer each request where it says."""
    while (request := requests.get()) is not None:
        reply, number = request
        reply.put(number + 1)


def ask(requests: Queue[Any], number: int) -> int:
    """Send a request, and wait for its reply."""
    reply: Queue[int] = Queue()
    requests.put((reply, number))
    return reply.get(timeout=60)


@only_processes
def test_a_queue_for_each_reply_costs_nothing_afterwards() -> None:
    requests: Queue[Any] = Queue()
    before = objects()
    server = start(answer, requests)
    for number in range(300):
        assert ask(requests, number) == number + 1
    requests.put(None)
    finish(server)
    assert objects() == before


@only_processes
@both_queues
def test_a_queue_that_is_dropped_drops_what_its_messages_name(new: AnyQueue) -> None:
    before = objects()
    queue = new()
    for _ in range(20):
        queue.put([Lock(), Queue(), bytes(100_000)])
    del queue
    assert objects() == before


@only_processes
def test_a_long_chain_of_queues_in_queues_is_dropped_at_once() -> None:
    before = objects()
    queue: SimpleQueue[Any] = SimpleQueue()
    for _ in range(20_000):
        inner, queue = queue, SimpleQueue()
        queue.put(inner)
        del inner
    del queue
    assert objects() == before


@only_processes
def test_one_object_in_many_messages() -> None:
    before = objects()
    queue: Queue[Any] = Queue()
    lock = Lock()
    for number in range(100):
        queue.put((number, lock, [lock], lock))
    del lock
    first = queue.get()[1]
    for number in range(1, 99):
        position, direct, [listed], again = queue.get()
        assert position == number
        assert direct is listed is again
        assert direct == first
        del direct, listed, again
    last = queue.get()[1]
    with last:
        assert first.locked()
    del first, last, queue
    assert objects() == before


@only_processes
def test_a_message_that_is_not_put_keeps_nothing() -> None:
    full: Queue[Any] = Queue(1)
    full.put(None)
    before = objects()
    for _ in range(10):
        assert not puts(full, [Lock(), Queue()])
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            full.put([Lock(), lambda: None])
    gc.collect()  # the exceptions refer to what was pickled
    assert objects() == before


def puts(queue: Queue[Any], item: object) -> bool:
    """Whether there is room for it."""
    from queue import Full  # noqa: PLC0415  # as users have it

    try:
        queue.put_nowait(item)
    except Full:
        return False
    return True


class Sealed:
    """Pickles what it has apart, and unpickles it when it is asked for."""

    def __init__(self, lock: Lock) -> None:
        """Hold a lock."""
        self.lock = lock

    def __reduce__(self) -> tuple[type[Opened], tuple[bytes]]:
        """Return what becomes of it."""
        return Opened, (pickle.dumps(self.lock),)


class Opened:
    """The other side of it."""

    def __init__(self, pickled: bytes) -> None:
        """Hold what was sealed."""
        self.pickled = pickled


class Sending:
    """Sends something else while it is pickled."""

    def __init__(self, lock: Lock, others: Queue[Any]) -> None:
        """Hold a lock and a queue for others."""
        self.lock = lock
        self.others = others

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Put a message into another queue."""
        self.others.put((Lock(), "meanwhile"))
        return Sending, (self.lock, self.others)


@only_processes
def test_what_is_pickled_apart_may_be_read_later() -> None:
    """A pickle within a message may be read after the message is gone, and more than once."""
    queue: Queue[Any] = Queue()
    queue.put(Sealed(Lock()))
    opened = queue.get()
    gc.collect()
    first, second = pickle.loads(opened.pickled), pickle.loads(opened.pickled)
    with first:
        assert second.locked()


@only_processes
def test_a_message_put_while_another_is_pickled() -> None:
    queue: Queue[Any] = Queue()
    others: Queue[Any] = Queue()
    before = objects()
    for _ in range(10):
        queue.put([Lock(), Sending(Lock(), others), Lock()])
        received = queue.get()
        lock, text = others.get()
        assert text == "meanwhile"
        assert all(use(each) == 0 for each in (received[0], received[1].lock, received[2], lock))
        del received, lock
    assert objects() == before


@only_processes
def test_a_message_put_while_something_is_pickled_for_trial_or_for_a_new_process() -> None:
    others: Queue[Any] = Queue()
    before = objects()
    check_picklable(Sending(Lock(), others))
    finish(start(print, Sending(Lock(), others)))
    while not others.empty():
        lock, text = others.get()
        assert text == "meanwhile"
        assert use(lock) == 0
        del lock
    # What workers are given may be freed by the garbage collector only.
    wait_until(lambda: gc.collect() >= 0 and objects() == before, "the objects are freed")


class Stubborn:
    """Is only pickled by who asks twice: as what only multiprocessing's pickler knows."""

    asked = 0

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse at first."""
        self.asked += 1
        if self.asked == 1:
            msg = "not by you"
            raise TypeError(msg)
        return Stubborn, ()


class Packing:
    """Pickles something apart that needs multiprocessing's pickler, as pools do with tasks."""

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        """Return the pickle."""
        return bytes, (pack(Stubborn()),)


@only_processes
@pytest.mark.parametrize("last", [None, Stubborn], ids=["pickle", "multiprocessing"])
def test_what_multiprocessing_pickles_apart_leaves_the_message_as_it_is(
    last: type[Stubborn] | None,
) -> None:
    queue: Queue[Any] = Queue()
    before = objects()
    queue.put([Lock(), Packing(), Lock(), last and last()])
    received = queue.get()
    assert use(received[0]) == use(received[2]) == 0
    assert isinstance(pickle.loads(received[1]), Stubborn)
    del received
    assert objects() == before


class Derived(Lock):
    """A class of the user's, with state."""

    owner = "nobody"


@only_processes
def test_derived_classes_and_what_they_hold() -> None:
    before = objects()
    queue: Queue[Any] = Queue()
    lock = Derived()
    lock.owner = "somebody"
    queue.put(lock)
    del lock
    received = queue.get()
    assert isinstance(received, Derived)
    assert received.owner == "somebody"
    with received:
        assert received.locked()
    del received, queue
    assert objects() == before


@only_processes
@both_queues
def test_whose_receiver_is_killed_is_freed(new: AnyQueue) -> None:
    queue, held = new(), Event()
    before = objects()
    for _ in range(5):
        queue.put([Lock(), Queue(), bytes(70_000)])
        worker = start(hold, queue, held)
        assert held.wait(60)
        held.clear()
        kill(worker)
        del worker
    wait_until(lambda: objects() == before, "the objects are freed")


def hold(queue: AnyQueue, held: Event) -> None:
    """Take a message, say so, and keep it."""
    item = queue.get()
    held.set()
    Event().wait()
    del item


@only_processes
def test_whose_sender_is_gone_is_there() -> None:
    queue: Queue[Any] = Queue()
    before = objects()
    finish(start(send, queue))
    for _ in range(10):
        lock, other = queue.get(timeout=60)
        assert use(lock) == 0
        assert other.get() == "within"
        del lock, other
    wait_until(lambda: objects() == before, "the objects are freed")


def send(queue: Queue[Any]) -> None:
    """Send what only the messages keep then."""
    for _ in range(10):
        other: SimpleQueue[str] = SimpleQueue()
        other.put("within")
        queue.put((Lock(), other))


@only_processes
def test_a_forked_child_may_have_the_message_too() -> None:
    """The parent's view of a message is also the child's: its objects live for both."""
    numpy = pytest.importorskip("numpy")
    queue: Queue[Any] = Queue()
    before = objects()
    queue.put((Lock(), numpy.zeros(100_000)))
    lock, array = queue.get()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if lock.acquire(timeout=60) and array.sum() == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    del lock, array
    wait_until(lambda: objects() == before, "the objects are freed")


def use(lock: Lock, number: int = 0) -> int:
    """Take the lock."""
    with lock:
        return number


def make(number: int) -> tuple[Any, Any]:
    """Return objects that nobody else has."""
    queue: Queue[int] = Queue()
    queue.put(number)
    return Lock(), queue


@only_processes
def test_tasks_and_outcomes_of_pools() -> None:
    with WorkerPool(2) as pool, WorkerPoolExecutor(2) as executor:
        before = 0
        for turn in range(4):
            assert pool.map(use, [Lock() for _ in range(20)], chunksize=3) == [0] * 20
            partial = functools.partial(use, Lock())
            assert pool.map(partial, range(20)) == list(range(20))
            assert sorted(pool.imap_unordered(partial, range(20))) == list(range(20))
            for number, (lock, queue) in enumerate(pool.map(make, range(20))):
                with lock:
                    assert queue.get(timeout=60) == number
            shared = Lock()
            futures = [executor.submit(use, shared, number) for number in range(20)]
            assert [future.result(60) for future in futures] == list(range(20))
            assert executor.submit(partial, 5).result(60) == 5
            del futures, lock, queue, partial, shared
            if turn == 0:
                before = objects()
        # A worker keeps what it did last until it does something else.
        assert objects() <= before + 10


@only_processes
def test_what_a_worker_made_outlives_it_whatever_its_main_module_makes() -> None:
    """The worker imports the main module first, and with that makes objects of its own."""
    finished = run_python(
        """
        from freethreading import Lock, Queue, Worker

        lock = Lock()

        def take(given, results):
            with given:
                results.put(given.locked())

        def send(queue):
            inner = Queue()
            inner.put("within")
            queue.put((Lock(), inner))
            # An object of the worker's own, for a worker of its own.
            given = Lock()
            workers = [Worker(target=take, args=(each, inner)) for each in (lock, given)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        if __name__ == "__main__":
            queue = Queue()
            worker = Worker(target=send, args=(queue,))
            worker.start()
            worker.join()
            lock, inner = queue.get(timeout=60)
            with lock:
                print([inner.get() for _ in range(3)])
        """
    ).check()
    assert finished.stdout == "['within', True, True]\n"
