"""Classes derived from ours behave as those derived from the standard library's do."""

from __future__ import annotations

import gc
import inspect
import pickle
import weakref
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

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
    Worker,
)
from test_worker import finish

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class NamedEvent(Event):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class NamedLock(Lock):
    def __init__(self, *, name: str) -> None:
        super().__init__()
        self.name = name


class NamedRLock(RLock):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class NamedSimpleQueue(SimpleQueue[Any]):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class NamedSemaphore(Semaphore):
    def __init__(self, name: str, permits: int = 2) -> None:
        super().__init__(permits)
        self.name = name


class NamedBoundedSemaphore(BoundedSemaphore):
    def __init__(self, name: str) -> None:
        super().__init__(value=2)
        self.name = name


class NamedQueue(Queue[Any]):
    def __init__(self, name: str) -> None:
        super().__init__(maxsize=2)
        self.name = name


def cheer() -> None:
    CHEERS.append(1)


CHEERS: list[int] = []


class NamedBarrier(Barrier):
    def __init__(self, name: str) -> None:
        super().__init__(1, cheer, timeout=5)
        self.name = name


class NamedCondition(Condition):
    def __init__(self, name: str, lock: Lock | None = None) -> None:
        super().__init__(lock)
        self.name = name


MAKERS = [
    lambda: NamedEvent("it"),
    lambda: NamedLock(name="it"),
    lambda: NamedRLock("it"),
    lambda: NamedSimpleQueue("it"),
    lambda: NamedSemaphore("it"),
    lambda: NamedBoundedSemaphore("it"),
    lambda: NamedQueue("it"),
    lambda: NamedBarrier("it"),
    lambda: NamedCondition("it"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_an_init_of_its_own_takes_other_arguments(make: Callable[[], Any]) -> None:
    instance = make()
    assert instance.name == "it"
    copy = pickle.loads(pickle.dumps(instance))
    assert copy == instance
    assert type(copy) is type(instance)
    assert copy.name == "it"


def test_what_it_gives_to_our_init_is_used() -> None:
    assert "value=3" in repr(NamedSemaphore("it", 3))
    semaphore = NamedBoundedSemaphore("it")
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert NamedQueue("it").maxsize == 2
    barrier = NamedBarrier("it")
    assert barrier.parties == 1
    del CHEERS[:]
    assert barrier.wait() == 0
    assert CHEERS == [1]
    lock = Lock()
    with NamedCondition("it", lock):
        assert lock.locked()


def test_a_copy_has_the_settings_too() -> None:
    barrier = pickle.loads(pickle.dumps(NamedBarrier("it")))
    del CHEERS[:]
    assert barrier.wait() == 0
    assert CHEERS == [1]
    condition = NamedCondition("it", NamedLock(name="inner"))
    with condition:
        assert pickle.loads(pickle.dumps(condition)).locked()


class SlottedQueue(Queue[Any]):
    __slots__ = ("hint", "never_set")

    def __init__(self, hint: str) -> None:
        super().__init__(3)
        self.hint = hint


class SlottedLock(Lock):
    __slots__ = ("hint",)


class SlottedEvent(NamedEvent):
    __slots__ = ("hint",)


class OwnState(SimpleQueue[Any]):
    """Says what of it is pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = "not pickled"

    def __getstate__(self) -> dict[str, str]:
        """Leave what is hidden out."""
        return {"said": "so"}


def test_attributes_in_slots_are_pickled() -> None:
    source = SlottedQueue("here")
    source.put("item")
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert copy.hint == "here"
    assert not hasattr(copy, "never_set")
    assert copy.get() == "item"
    lock = SlottedLock()
    lock.hint = "slot"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(lock)).hint == "slot"
    event = SlottedEvent("dict")
    event.hint = "slot"  # type: ignore[attr-defined]
    copied = pickle.loads(pickle.dumps(event))
    assert (copied.name, copied.hint) == ("dict", "slot")


def test_a_class_may_say_what_is_pickled() -> None:
    copy = pickle.loads(pickle.dumps(OwnState()))
    assert vars(copy) == {"said": "so"}


def test_bad_arguments_are_refused_in_our_parameters_names() -> None:
    with pytest.raises(ValueError, match="value must be from 0"):
        NamedSemaphore("it", -1)
    with pytest.raises(TypeError, match="lock must be a"):
        NamedCondition("it", 3)  # type: ignore[arg-type]


class Careless:
    """Its `__init__` doesn't call the next one."""

    def __init__(self, *arguments: object) -> None:
        pass


class CarelessCondition(Careless, Condition):
    pass


class CarelessBarrier(Careless, Barrier):
    pass


@pytest.mark.parametrize(
    "use",
    [
        lambda: CarelessCondition(1).wait(1),
        lambda: CarelessCondition().acquire(),
        lambda: CarelessCondition().__enter__(),
        lambda: CarelessCondition().__exit__(None, None, None),
        lambda: CarelessCondition().notify(),
        lambda: CarelessCondition().notify_all(),
        lambda: CarelessCondition().locked(),
        lambda: repr(CarelessCondition()),
        lambda: pickle.dumps(CarelessCondition()),
        lambda: CarelessBarrier("it").wait(),
        lambda: pickle.dumps(CarelessBarrier()),
    ],
)
def test_our_init_must_be_called(use: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"__init__\(\) was not called"):
        use()


class Mixin:
    """Takes part in `__init__` and `__init_subclass__`."""

    mark: ClassVar[int]

    def __init_subclass__(cls, mark: int = 0, **others: object) -> None:
        super().__init_subclass__(**others)
        cls.mark = mark

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__(*arguments, **keywords)
        self.is_mixed = True


class MixedBefore(Mixin, Queue[Any], mark=1):
    pass


class MixedAfter(Queue[Any], Mixin, mark=2):
    pass


def test_other_bases_come_into_their_own() -> None:
    assert (MixedBefore.mark, MixedAfter.mark) == (1, 2)
    first = MixedBefore(maxsize=3)
    assert (first.maxsize, first.is_mixed) == (3, True)
    assert MixedAfter(3).maxsize == 3


def test_unknown_keywords_of_a_class_are_refused() -> None:
    with pytest.raises(TypeError, match="takes no keyword arguments"):
        type("Derived", (Event,), {}, color="red")


class Plain(Queue[Any]):
    pass


class Grandchild(NamedQueue):
    pass


class WithNew(Queue[Any]):
    def __new__(cls, words: str) -> Self:
        return super().__new__(cls, maxsize=len(words.split()))  # type: ignore[call-arg]


def test_without_an_init_of_its_own_new_gets_the_arguments() -> None:
    assert Plain(7).maxsize == 7
    assert WithNew("three words here").maxsize == 3
    with pytest.raises(TypeError, match="positional"):
        Plain(1, 2)  # type: ignore[call-arg]
    grandchild = Grandchild("small")
    assert (grandchild.maxsize, grandchild.name) == (2, "small")


def test_signatures_are_those_of_the_derived_class() -> None:
    assert str(inspect.signature(Plain)) == "(maxsize=0)"
    assert [*inspect.signature(NamedQueue).parameters] == ["name"]


def test_its_instances_are_freed() -> None:
    condition = NamedCondition("it", NamedLock(name="inner"))
    gone = weakref.ref(condition)
    del condition
    gc.collect()
    assert gone() is None


def use_named(event: NamedEvent, queue: NamedQueue) -> None:
    queue.put((event.name, queue.name, event.is_set()))


def test_workers_get_them_with_their_attributes() -> None:
    event, queue = NamedEvent("first"), NamedQueue("second")
    event.set()
    worker = Worker(target=use_named, args=(event, queue))
    worker.start()
    assert queue.get(timeout=30) == ("first", "second", True)
    finish(worker)


@pytest.mark.parametrize("make", [Lock, RLock, Semaphore, Event, Condition, Queue, SimpleQueue])
def test_comparing_with_strangers_is_left_to_them(make: Callable[[], Any]) -> None:
    instance = make()
    assert instance == mock.ANY
    assert instance != 3
    assert instance != make()
    assert instance.__eq__(3) is NotImplemented
