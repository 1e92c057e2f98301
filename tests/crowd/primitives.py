"""Plays with locks, semaphores, events, conditions and barriers."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from freethreading import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from stage import Member, Play, Slots

if TYPE_CHECKING:
    from collections.abc import Callable


class BadLuckError(Exception):
    """Raised within a block that holds something."""


class Room:
    """What a lock protects: one may be inside, and whoever leaves has been counted."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.lock = make()
        self.inside: int | None = None
        self.visits = 0
        self.tickets: list[int] = []

    def visit(self, member: Member) -> None:
        """Be inside; what is read and written here is nobody else's meanwhile."""
        assert self.inside is None, f"{self.inside} is inside {self.lock!r}"
        self.inside = member.number
        visits = self.visits
        member.pause()
        assert self.inside == member.number
        self.visits = visits + 1
        self.inside = None
        self.tickets.append(member.number)

    def check(self) -> None:
        assert self.inside is None
        assert self.visits == len(self.tickets)


def refused(call: Callable[[], object], *errors: type[Exception]) -> None:
    """Require an exception that is of all these classes."""
    found: Exception | None = None
    try:
        call()
    except errors[0] as error:
        found = error
    assert all(isinstance(found, one) for one in errors), f"{call}: {found!r}"


class Locks(Play):
    """Lock and RLock: whoever has it is alone."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rooms = Slots([lambda: Room(Lock), lambda: Room(RLock), lambda: Room(Lock)])
        self.handed: list[Any] = []

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.enter: 10,
            self.fall_out: 3,
            self.acquire: 10,
            self.enter_twice: 5,
            self.hand_over: 3,
            self.release_handed: 5,
            self.look: 5,
            self.misuse: 2,
            self.drop_held: 1,
            self.rooms.renew: 1,
        }

    def objects(self) -> object:
        return [room.lock for room in self.rooms.slots]

    def enter(self, member: Member) -> None:
        room: Room = self.rooms.pick(member)
        with room.lock as entered:
            assert entered is True
            room.visit(member)

    def fall_out(self, member: Member) -> None:
        room: Room = self.rooms.pick(member)
        with contextlib.suppress(BadLuckError), room.lock:
            room.visit(member)
            raise BadLuckError

    def acquire(self, member: Member) -> None:
        room: Room = self.rooms.pick(member)
        choice = member.random.randrange(3)
        if choice == 0:
            has_it = room.lock.acquire(False)
        elif choice == 1:
            has_it = room.lock.acquire(timeout=member.moment())
        else:
            has_it = room.lock.acquire()
        if has_it:
            assert room.lock.locked()
            room.visit(member)
            room.lock.release()

    def enter_twice(self, member: Member) -> None:
        room: Room = self.rooms.slots[1]
        with room.lock:
            assert room.lock.acquire(timeout=member.moment())
            room.visit(member)
            room.lock.release()
            member.pause()
            room.visit(member)

    def hand_over(self, member: Member) -> None:
        room: Room = self.rooms.slots[0]
        room.lock.acquire()
        room.visit(member)
        self.handed.append(room.lock)

    def release_handed(self, _: Member) -> None:
        with contextlib.suppress(IndexError):
            self.handed.pop().release()

    def look(self, member: Member) -> None:
        lock = self.rooms.pick(member).lock
        assert isinstance(lock.locked(), bool)
        assert type(lock).__name__ in repr(lock)
        assert weakref.ref(lock)() is lock

    def misuse(self, _: Member) -> None:
        refused(Lock().release, RuntimeError, ValueError)
        # Nobody has it twice: this thread has nothing at the moment.
        refused(self.rooms.slots[1].lock.release, RuntimeError, AssertionError)

    def drop_held(self, member: Member) -> None:
        for make in (Lock, RLock):
            lock: Any = make()
            for _ in range(member.random.randint(1, 3 if make is RLock else 1)):
                lock.acquire()

    def let_go(self) -> None:
        while self.handed:
            self.handed.pop().release()

    def check(self) -> None:
        self.let_go()
        for room in self.rooms:
            room.check()
            assert room.lock.acquire(False), f"{room.lock!r} was not released"


class Hall:
    """What a semaphore protects: so many may be inside."""

    def __init__(self, make: Callable[[int], Any], permits: int) -> None:
        self.semaphore = make(permits)
        self.permits = permits
        self.counting = threading.Lock()
        self.inside = 0

    def visit(self, member: Member) -> None:
        with self.counting:
            self.inside += 1
            assert self.inside <= self.permits, f"{self.inside} of {self.permits} are inside"
        member.pause()
        with self.counting:
            self.inside -= 1


class Semaphores(Play):
    """Semaphore and BoundedSemaphore: no more have it than there are permits."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.halls = Slots(
            [
                lambda: Hall(Semaphore, 1),
                lambda: Hall(Semaphore, 3),
                lambda: Hall(BoundedSemaphore, 1),
                lambda: Hall(BoundedSemaphore, 5),
            ]
        )

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.enter: 10,
            self.fall_out: 3,
            self.acquire: 10,
            self.add: 2,
            self.look: 4,
            self.misuse: 2,
            self.halls.renew: 1,
        }

    def objects(self) -> object:
        return [hall.semaphore for hall in self.halls.slots]

    def enter(self, member: Member) -> None:
        hall: Hall = self.halls.pick(member)
        with hall.semaphore as entered:
            assert entered is True
            hall.visit(member)

    def fall_out(self, member: Member) -> None:
        hall: Hall = self.halls.pick(member)
        with contextlib.suppress(BadLuckError), hall.semaphore:
            hall.visit(member)
            raise BadLuckError

    def acquire(self, member: Member) -> None:
        hall: Hall = self.halls.pick(member)
        choice = member.random.randrange(3)
        if choice == 0:
            has_it = hall.semaphore.acquire(False)
        elif choice == 1:
            has_it = hall.semaphore.acquire(timeout=abs(member.moment()))
        else:
            has_it = hall.semaphore.acquire()
        if has_it:
            hall.visit(member)
            hall.semaphore.release()

    def add(self, member: Member) -> None:
        """Add a permit to a semaphore that takes it."""
        hall: Hall = self.halls.slots[member.random.randrange(2)]
        with hall.counting:
            hall.permits += 1
        hall.semaphore.release()

    def look(self, member: Member) -> None:
        semaphore = self.halls.pick(member).semaphore
        assert type(semaphore).__name__ in repr(semaphore)
        assert weakref.ref(semaphore)() is semaphore

    def misuse(self, member: Member) -> None:
        refused(BoundedSemaphore(member.random.randrange(3)).release, ValueError)
        refused(lambda: Semaphore(-1), ValueError)
        Semaphore(2).acquire()

    def check(self) -> None:
        for hall in self.halls:
            assert hall.inside == 0
            for _ in range(hall.permits):
                assert hall.semaphore.acquire(False)
            assert not hall.semaphore.acquire(False)


class Store:
    """Goods that are brought and taken under a condition, some at a time."""

    def __init__(self, lock: Any) -> None:  # noqa: ANN401 - one of ours, or none
        self.condition = Condition(lock)
        self.is_reentrant = not isinstance(lock, Lock)
        self.goods = 0
        self.brought: list[int] = []
        self.taken: list[int] = []
        self.is_closed = False


class Conditions(Play):
    """Condition, and Event beside it: who waits for what has come comes back."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.stores = Slots([lambda: Store(Lock()), lambda: Store(RLock()), lambda: Store(None)])
        self.events = Slots([Event, Event])

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.bring: 12,
            self.take: 10,
            self.wait_a_moment: 4,
            self.misuse: 2,
            self.use_event: 8,
            self.wait_for_event: 3,
            self.acquire: 3,
            self.events.renew: 1,
            self.stores.renew: 1,
        }

    def objects(self) -> object:
        return [store.condition for store in self.stores.slots], list(self.events.slots)

    def bring(self, member: Member) -> None:
        store: Store = self.stores.pick(member)
        with store.condition:
            goods, number = store.goods, member.random.randint(1, 3)
            member.pause()
            store.goods = goods + number
            store.brought.append(number)
            if member.random.random() < 0.5:
                store.condition.notify(number)
            else:
                store.condition.notify_all()

    def take(self, member: Member) -> None:
        """Wait for goods: for ever, or at most a moment; two levels deep where that is possible."""
        store: Store = self.stores.pick(member)
        timeout = member.random.choice((None, None, member.moment()))
        with store.condition, contextlib.ExitStack() as stack:
            if store.is_reentrant and member.random.random() < 0.3:
                stack.enter_context(store.condition)
            found = store.condition.wait_for(lambda: store.goods or store.is_closed, timeout)
            assert found or timeout is not None
            if not store.goods:
                assert not found or store.is_closed
                return
            goods = store.goods
            member.pause()
            store.goods = goods - 1
            store.taken.append(1)

    def wait_a_moment(self, member: Member) -> None:
        store: Store = self.stores.pick(member)
        with store.condition:
            assert isinstance(store.condition.wait(abs(member.moment())), bool)
            assert store.condition.locked()
            # It may have been woken for others.
            store.condition.notify()

    def misuse(self, _: Member) -> None:
        for store in self.stores.slots[1:]:
            refused(store.condition.notify_all, RuntimeError, AssertionError)
            refused(store.condition.wait, RuntimeError, AssertionError)
            refused(store.condition.release, RuntimeError, AssertionError)

    def acquire(self, member: Member) -> None:
        store: Store = self.stores.pick(member)
        if store.condition.acquire(timeout=member.moment()):
            goods = store.goods
            member.pause()
            assert store.goods == goods
            store.condition.release()

    def use_event(self, member: Member) -> None:
        event: Event = self.events.pick(member)
        choice = member.random.randrange(4)
        if choice == 0:
            event.set()
        elif choice == 1:
            event.clear()
        else:
            assert isinstance(event.is_set(), bool)
            assert isinstance(event.wait(abs(member.moment())), bool)
            assert weakref.ref(event)() is event

    def wait_for_event(self, member: Member) -> None:
        """Be one of those who wait when it is set; it may be clear again at once."""
        assert self.events.pick(member).wait() is True

    def let_go(self) -> None:
        for store in self.stores:
            with store.condition:
                store.is_closed = True
                store.condition.notify_all()
        for event in self.events:
            event.set()

    def check(self) -> None:
        for store in self.stores:
            assert store.goods >= 0
            assert sum(store.brought) == store.goods + len(store.taken)


class Gate:
    """A barrier that counts: its cycles, and who was let through with which number."""

    def __init__(self, parties: int) -> None:
        self.cycles: list[int] = []
        self.passed: list[int] = []
        self.is_disturbed = False
        self.barrier = Barrier(parties, self.count)

    def count(self) -> None:
        self.cycles.append(1)


class Barriers(Play):
    """Barrier: as many as it is for go through at once, each with a number of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.quiet = Slots([lambda: Gate(4), lambda: Gate(2), lambda: Gate(1)])
        self.disturbed = Slots([lambda: Gate(3), lambda: Gate(5)])

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {self.wait: 30, self.wait_disturbed: 20, self.disturb: 2, self.look: 3}

    def objects(self) -> object:
        return [gate.barrier for gate in (*self.quiet.slots, *self.disturbed.slots)]

    def wait(self, member: Member) -> None:
        gate: Gate = self.quiet.pick(member)
        try:
            gate.passed.append(gate.barrier.wait())
        except threading.BrokenBarrierError:
            assert gate.is_disturbed, f"nobody broke {gate.barrier!r}"

    def wait_disturbed(self, member: Member) -> None:
        gate: Gate = self.disturbed.pick(member)
        timeout = member.random.choice((None, None, None, abs(member.moment())))
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.passed.append(gate.barrier.wait(timeout))

    def disturb(self, member: Member) -> None:
        gate: Gate = self.disturbed.pick(member)
        if member.random.random() < 0.3:
            gate.barrier.abort()
            self.disturbed.renew(member)
        gate.barrier.reset()

    def look(self, member: Member) -> None:
        gate: Gate = member.random.choice((self.quiet, self.disturbed)).pick(member)
        assert 0 <= gate.barrier.n_waiting <= gate.barrier.parties
        assert isinstance(gate.barrier.broken, bool)
        assert "Barrier" in repr(gate.barrier)

    def let_go(self) -> None:
        for gate in (*self.quiet, *self.disturbed):
            gate.is_disturbed = True
            gate.barrier.abort()

    def check(self) -> None:
        for gate in (*self.quiet, *self.disturbed):
            numbers = Counter(gate.passed)
            parties = gate.barrier.parties
            assert set(numbers) <= set(range(parties)), numbers
            assert all(number <= len(gate.cycles) for number in numbers.values()), numbers
        for gate in self.quiet:
            # Only the last cycle may have met the end.
            parties = gate.barrier.parties
            missing = parties * len(gate.cycles) - len(gate.passed)
            assert 0 <= missing <= parties, (parties, missing)
