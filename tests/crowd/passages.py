"""Plays with queues, and with objects that two threads use once and drop."""

from __future__ import annotations

import contextlib
import gc
import queue as stdlib_queue
import threading
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

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
from primitives import refused
from stage import Member, Play, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# An item's load: small ones, and some that don't fit where small ones do.
LOADS = (0, 0, 0, 10, 100, 5_000, 70_000)


class Item:
    """What goes through a queue: who put it, its number, and a load."""

    def __init__(self, member: int, number: int, load: bytes) -> None:
        self.member = member
        self.number = number
        self.load = load


class Line:
    """A queue, and what was put into it and got from it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.queue = make()
        self.has_tasks = isinstance(self.queue, Queue)
        self.put: deque[tuple[int, int]] = deque()
        self.got: deque[tuple[int, int]] = deque()

    def take(self, items: Iterable[Item], last: dict[int, int]) -> None:
        """Note what one consumer got at once: of each producer, later items than before."""
        for item in items:
            assert item.number > last.get(item.member, 0), "an item was overtaken"
            assert item.load == b"x" * len(item.load)
            last[item.member] = item.number
            self.got.append((item.member, item.number))
            if self.has_tasks:
                self.queue.task_done()


class Queues(Play):
    """Queue and SimpleQueue: each item comes out once, in the order of its producer."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.lines = Slots(
            [
                lambda: Line(Queue),
                lambda: Line(lambda: Queue(1)),
                lambda: Line(lambda: Queue(5)),
                lambda: Line(SimpleQueue),
            ]
        )
        # What each member got last, of each line and producer.
        self.last: dict[tuple[int, int], dict[int, int]] = {}

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.put: 20,
            self.put_many: 5,
            self.get: 24,
            self.get_many: 8,
            self.look: 6,
            self.join: 1,
            self.misuse: 1,
            self.drop_full: 1,
            self.lines.renew: 1,
        }

    def objects(self) -> object:
        return [line.queue for line in self.lines.slots]

    def item(self, member: Member) -> Item:
        load = b"x" * member.random.choice(LOADS)
        return Item(member.number, member.next(), load)

    def last_of(self, member: Member, line: Line) -> dict[int, int]:
        return self.last.setdefault((member.number, id(line)), {})

    def put(self, member: Member) -> None:
        line: Line = self.lines.pick(member)
        item = self.item(member)
        choice = member.random.randrange(3)
        try:
            if not line.has_tasks or choice == 0:
                line.queue.put(item)
            elif choice == 1:
                line.queue.put_nowait(item)
            else:
                line.queue.put(item, timeout=abs(member.moment()))
        except stdlib_queue.Full:
            assert line.has_tasks
            assert line.queue.maxsize > 0
        else:
            line.put.append((item.member, item.number))

    def put_many(self, member: Member) -> None:
        line: Line = self.lines.pick(member)
        items = [self.item(member) for _ in range(member.random.randint(0, 7))]
        count = len(items)
        try:
            line.queue.put_many(items, timeout=member.random.choice((None, 0, 1e-4)))
        except stdlib_queue.Full as error:
            count = getattr(error, "count", 0)
        line.put.extend((item.member, item.number) for item in items[:count])

    def get(self, member: Member) -> None:
        line: Line = self.lines.pick(member)
        choice = member.random.randrange(3)
        try:
            if not line.has_tasks or choice == 0:
                if line.queue.empty() and not line.has_tasks:
                    return
                item = line.queue.get()
            elif choice == 1:
                item = line.queue.get_nowait()
            else:
                item = line.queue.get(timeout=abs(member.moment()))
        except stdlib_queue.Empty:
            assert line.has_tasks
        else:
            self.took(member, line, [item])

    def get_many(self, member: Member) -> None:
        line: Line = self.lines.pick(member)
        with contextlib.suppress(stdlib_queue.Empty):
            most = member.random.randint(1, 9)
            items = line.queue.get_many(most, timeout=abs(member.moment()))
            assert 1 <= len(items) <= most
            self.took(member, line, items)

    def took(self, member: Member, line: Line, items: list[Any]) -> None:
        """Note what was got; `None` only wakes those who wait at the end."""
        line.take([item for item in items if item is not None], self.last_of(member, line))
        if line.has_tasks:
            for item in items:
                if item is None:
                    line.queue.task_done()

    def look(self, member: Member) -> None:
        queue = self.lines.pick(member).queue
        assert isinstance(queue.empty(), bool)
        assert type(queue).__name__ in repr(queue)
        assert weakref.ref(queue)() is queue
        if isinstance(queue, Queue):
            assert isinstance(queue.full(), bool)
            assert queue.qsize() >= 0
            assert queue.maxsize <= 0 or queue.qsize() <= queue.maxsize

    def join(self, member: Member) -> None:
        """Wait until all is done, together with others who put and get."""
        queue: Queue[int] = Queue()
        for number in range(member.random.randint(0, 5)):
            queue.put(number)
        thread = threading.Thread(target=queue.join)
        thread.start()
        while not queue.empty():
            queue.get()
            member.pause()
            queue.task_done()
        queue.join()
        thread.join()

    def misuse(self, _: Member) -> None:
        queue: Queue[int] = Queue(1)
        refused(queue.task_done, ValueError)
        refused(queue.get_nowait, stdlib_queue.Empty)
        queue.put(1)
        refused(lambda: queue.put_nowait(2), stdlib_queue.Full)
        refused(lambda: queue.get_many(0), ValueError)

    def drop_full(self, member: Member) -> None:
        for make in (Queue, SimpleQueue):
            queue: Any = make()
            for _ in range(member.random.randint(1, 9)):
                queue.put(self.item(member))

    def let_go(self) -> None:
        """Make room for those who put, and give those something who get."""
        for line in self.lines:
            if line.has_tasks:
                with contextlib.suppress(stdlib_queue.Full):
                    line.queue.put_nowait(None)
            else:
                line.queue.put(None)
            if line.has_tasks and line.queue.full():
                self.drain(line, 1)

    def drain(self, line: Line, most: int) -> None:
        with contextlib.suppress(stdlib_queue.Empty):
            for _ in range(most):
                for item in line.queue.get_many(1, False):
                    if item is not None:
                        line.got.append((item.member, item.number))
                    if line.has_tasks:
                        line.queue.task_done()

    def check(self) -> None:
        for line in self.lines:
            self.drain(line, 10**9)
            assert line.queue.empty()
            put, got = Counter(line.put), Counter(line.got)
            assert max(got.values(), default=1) == 1, "an item was got twice"
            assert put == got, f"lost: {put - got}, made up: {got - put}"
            if line.has_tasks:
                line.queue.join()


class Meeting:
    """An object that two threads use once, each in its way; the first one waits."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.thing = make()
        self.is_here = False
        if isinstance(self.thing, Lock):
            self.thing.acquire()
        elif isinstance(self.thing, Queue):
            self.thing.put("first")

    def first(self, choice: float) -> None:
        thing = self.thing
        if isinstance(thing, Event):
            assert thing.wait()
        elif isinstance(thing, Lock | RLock | Semaphore | BoundedSemaphore):
            assert thing.acquire()
        elif isinstance(thing, Condition):
            with thing:
                assert thing.wait_for(lambda: self.is_here)
        elif isinstance(thing, Barrier):
            thing.wait()
        elif isinstance(thing, Queue):
            thing.join() if choice < 0.5 else thing.put("second")
        else:
            assert thing.get() == "first"

    def second(self) -> None:
        thing = self.thing
        if isinstance(thing, Event):
            thing.set()
        elif isinstance(thing, RLock):
            with thing:
                pass
        elif isinstance(thing, Lock | Semaphore | BoundedSemaphore):
            thing.release()
        elif isinstance(thing, Condition):
            with thing:
                self.is_here = True
                thing.notify()
        elif isinstance(thing, Barrier):
            thing.wait()
        elif isinstance(thing, Queue):
            assert thing.get() == "first"
            thing.task_done()
        else:
            thing.put("first")


def taken_semaphore() -> BoundedSemaphore:
    """Return one whose permit somebody has."""
    semaphore = BoundedSemaphore(1)
    semaphore.acquire()
    return semaphore


KINDS: tuple[Callable[[], Any], ...] = (
    Event,
    Lock,
    lambda: Semaphore(0),
    taken_semaphore,
    Condition,
    lambda: Condition(Lock()),
    lambda: Barrier(2),
    lambda: Queue(1),
    SimpleQueue,
)


class Meetings(Play):
    """All of them: two threads use one once, and whoever is later frees it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.offers: list[Meeting] = []
        self.alive: list[weakref.ref[Any]] = []

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {self.meet: 1}

    def objects(self) -> object:
        return list(self.offers)

    def meet(self, member: Member) -> None:
        if self.accept():
            return
        meeting = Meeting(member.random.choice(KINDS))
        if member.random.random() < 0.05:
            self.alive.append(weakref.ref(meeting.thing))
        self.offers.append(meeting)
        meeting.first(member.random.random())

    def accept(self) -> bool:
        try:
            meeting = self.offers.pop(0)
        except IndexError:
            return False
        meeting.second()
        return True

    def let_go(self) -> None:
        while self.accept():
            pass

    def check(self) -> None:
        gc.collect()
        assert not [one for one in self.alive if one() is not None], "something was not freed"
