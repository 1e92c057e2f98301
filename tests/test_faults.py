"""Processes that are killed at each named step of the engine, by what Python programs do there.

Only with a module that was built with the feature `faults`: `make faults` builds one. A scene is
something that a process does with objects which others have, too. First it is done by a child that
counts which steps it comes to; then, for each of them, by a child that is killed there. The others
go on, lose nothing but what was in its hands, and get its memory back.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    OwnerDiedError,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    WorkerDiedError,
    WorkerPool,
    WorkerPoolExecutor,
    _native,
)
from support import wait_until
from test_worker import DEADLINE, only_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The functions are there with the feature only, so no type checker knows them.
NATIVE: Any = _native

pytestmark = [
    only_processes,
    pytest.mark.skipif(
        not hasattr(_native, "arm_fault"), reason="needs a build with fault points: make faults"
    ),
]

AnyQueue = Queue[bytes] | SimpleQueue[bytes]

SHORT = 0.01
LARGE = bytes(100_000)


@dataclass(frozen=True)
class Scene:
    """What a process does, what it needs for that, and how it is seen that the others go on."""

    prepare: Callable[[], Any]
    act: Callable[[Any], object]
    check: Callable[[Any], object] = field(default=lambda _: None)


def in_child(act: Callable[[], object]) -> int:
    """Do something in a forked process; return its exit status, or minus the signal's number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def steps_of(scene: Scene) -> dict[str, int]:
    """Count how often a scene comes to each step."""
    objects = scene.prepare()
    read, write = os.pipe()

    def count() -> None:
        NATIVE.start_counting_steps()
        scene.act(objects)
        counts = {name: count for name, count in NATIVE.step_counts().items() if count}
        os.write(write, json.dumps(counts).encode())

    status = in_child(count)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        text = told.read()
    assert status == 0
    scene.check(objects)
    counts: dict[str, int] = json.loads(text)
    return counts


def goes_on(lock: Lock | RLock) -> None:
    """The lock can be taken, perhaps after a word on its owner's death."""
    with contextlib.suppress(OwnerDiedError):
        assert lock.acquire(timeout=DEADLINE)
        lock.release()
        return
    with lock:
        assert lock.locked()


def use_lock(lock: Lock) -> None:
    with lock:
        assert not lock.acquire(timeout=SHORT)
    lock.acquire()
    lock.release()


def use_rlock(lock: RLock) -> None:
    with lock, lock:
        pass
    lock.acquire()
    lock.acquire()
    lock.release()
    lock.release()


def use_semaphore(semaphore: Semaphore) -> None:
    with semaphore, semaphore:
        assert not semaphore.acquire(timeout=SHORT)


def check_semaphore(semaphore: Semaphore) -> None:
    """What was borrowed for a block comes back."""
    for _ in range(2):
        assert semaphore.acquire(timeout=DEADLINE)
    assert not semaphore.acquire(blocking=False)
    semaphore.release()
    semaphore.release()


def use_plain_semaphore(semaphore: BoundedSemaphore) -> None:
    semaphore.acquire()
    assert not semaphore.acquire(timeout=SHORT)
    semaphore.release()


def check_plain_semaphore(semaphore: BoundedSemaphore) -> None:
    """A permit that was taken for good is lost, at most; none is made."""
    if semaphore.acquire(timeout=SHORT):
        assert not semaphore.acquire(blocking=False)
    semaphore.release()
    assert semaphore.acquire(timeout=DEADLINE)


def use_condition(condition: Condition) -> None:
    with condition:
        condition.wait(SHORT)
        condition.notify_all()
        condition.wait(SHORT)


def dies_at(step: str, act: Callable[[], object]) -> None:
    """Have somebody killed at a step, before the scene begins."""

    def die() -> None:
        NATIVE.arm_fault(f"{step}:kill")
        act()

    assert in_child(die) == -signal.SIGKILL


def prepare_awaited() -> Condition:
    """Make a condition in which one waits who has died."""
    condition = Condition()
    dies_at("waiter.sleep.announced", lambda: use_condition(condition))
    return condition


def notify(condition: Condition) -> None:
    with condition:
        condition.notify()


def check_condition(condition: Condition) -> None:
    for _ in range(2):
        with contextlib.suppress(OwnerDiedError), condition:
            pass
    with condition:
        assert not condition.wait(SHORT)
        condition.notify_all()


def prepare_orphan() -> Lock:
    """Make a lock whose owner is dead."""
    lock = Lock()
    dies_at("lock.changed", lock.acquire)
    return lock


def bury(lock: Lock) -> None:
    with pytest.raises(OwnerDiedError):
        lock.acquire(timeout=DEADLINE)


def prepare_broken_list() -> Condition:
    """Make a condition in whose list somebody died."""
    condition = Condition(Lock())
    dies_at("waiter.enter.linked", lambda: use_condition(condition))
    with contextlib.suppress(OwnerDiedError):
        condition.acquire(timeout=DEADLINE)
    return condition


def use_broken_list(condition: Condition) -> None:
    with contextlib.suppress(OwnerDiedError):
        use_condition(condition)


def prepare_broken_queue() -> Queue[bytes]:
    """Make a queue in which somebody died in the middle of a put."""
    queue: Queue[bytes] = Queue()
    dies_at("side.committed", lambda: queue.put(b"1"))
    return queue


def use_broken_queue(queue: Queue[bytes]) -> None:
    queue.put(b"2")
    queue.get()


def check_broken_queue(queue: Queue[bytes]) -> None:
    queue.put(b"last")
    assert list(iter(queue.get, b"last")) in ([b"1"], [b"1", b"2"], [b"2"], [])
    assert queue.empty()


def fork(_: object) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def use_event(event: Event) -> None:
    event.clear()
    assert not event.wait(SHORT)
    event.set()


def check_event(event: Event) -> None:
    event.set()
    assert event.wait(DEADLINE)
    event.clear()
    assert not event.is_set()


def use_barrier(barriers: tuple[Barrier, Barrier]) -> None:
    single, double = barriers
    single.wait()
    with contextlib.suppress(RuntimeError):
        double.wait(SHORT)
    double.reset()
    double.abort()


def check_barrier(barriers: tuple[Barrier, Barrier]) -> None:
    for barrier in barriers:
        barrier.reset()
        assert not barrier.broken
        assert barrier.n_waiting == 0
    with contextlib.suppress(RuntimeError):  # its action's runner may have died
        barriers[0].wait(DEADLINE)
    barriers[0].reset()
    barriers[0].wait(DEADLINE)


def filled(queue: AnyQueue) -> AnyQueue:
    """Put items in, of which each process that dies takes some."""
    for item in (b"1", LARGE, b"2"):
        queue.put(item)
    return queue


def use_queue(queue: Queue[bytes]) -> None:
    queue.put(b"3")
    queue.put(LARGE)
    for _ in range(5):
        queue.get()
        queue.task_done()
    with contextlib.suppress(Empty):
        queue.get(timeout=SHORT)
    queue.put(b"4")
    queue.get()
    queue.task_done()
    queue.join()


def use_simple_queue(queue: SimpleQueue[bytes]) -> None:
    queue.put(b"3")
    queue.put(LARGE)
    for _ in range(5):
        queue.get()
    assert queue.empty()
    queue.put(b"4")
    queue.get()


def check_queue(queue: AnyQueue) -> None:
    """What is left is whole, in order, and there once."""
    queue.put(b"last")
    left = list(iter(queue.get, b"last"))
    order = [b"1", LARGE, b"2", b"3", LARGE, b"4"]
    assert any(order[start : start + len(left)] == left for start in range(len(order)))
    assert queue.empty()


def send_objects(queue: Queue[Any]) -> None:
    """Take what only a message has, and send as much."""
    lock, inner = queue.get()
    with lock:
        assert inner.get() == "within"
    inner.put("within")
    queue.put((Lock(), inner))
    dropped: Queue[Any] = Queue()
    dropped.put([Lock(), inner])


def prepare_objects() -> Queue[Any]:
    queue: Queue[Any] = Queue()
    for _ in range(2):
        inner: Queue[str] = Queue()
        inner.put("within")
        queue.put((Lock(), inner))
    return queue


def check_objects(queue: Queue[Any]) -> None:
    """Who was killed had one message in its hands."""
    left = queue.qsize()
    assert 1 <= left <= 2
    for _ in range(left):
        lock, inner = queue.get()
        goes_on(lock)
        assert inner.get(timeout=DEADLINE) == "within"
    assert queue.empty()


def make_objects(_: object) -> None:
    kept = [Lock(), RLock(), Semaphore(), Condition(), Event(), Barrier(2), Queue(), SimpleQueue()]
    kept.clear()
    _native.family_name("one that has a name")


def hold_at_the_end(locks: tuple[Lock, RLock]) -> None:
    for lock in locks:
        lock.acquire()
    _native.family_disown()


SCENES = {
    "lock": Scene(Lock, use_lock, goes_on),
    "rlock": Scene(RLock, use_rlock, goes_on),
    "semaphore": Scene(lambda: Semaphore(2), use_semaphore, check_semaphore),
    "plain semaphore": Scene(BoundedSemaphore, use_plain_semaphore, check_plain_semaphore),
    "condition": Scene(Condition, use_condition, check_condition),
    "notification": Scene(prepare_awaited, notify, check_condition),
    "burial": Scene(prepare_orphan, bury, goes_on),
    "broken list": Scene(prepare_broken_list, use_broken_list, check_condition),
    "broken queue": Scene(prepare_broken_queue, use_broken_queue, check_broken_queue),
    "fork": Scene(lambda: None, fork),
    "event": Scene(Event, use_event, check_event),
    "barrier": Scene(lambda: (Barrier(1, action=int), Barrier(2)), use_barrier, check_barrier),
    "queue": Scene(lambda: filled(Queue(10)), use_queue, check_queue),
    "simple queue": Scene(lambda: filled(SimpleQueue()), use_simple_queue, check_queue),
    "objects": Scene(lambda: None, make_objects),
    "objects in messages": Scene(prepare_objects, send_objects, check_objects),
    "end": Scene(lambda: (Lock(), RLock()), hold_at_the_end),
}


# What only the engine's own tests come to (crash/tests.rs): a name, or how several begin.
LEFT_TO_RUST = (
    *("barrier.floor.", "blob.missed", "blob.missing", "cargo.skip", "claim.mend", "extent."),
    "heir.",
    *("idle.recount", "idle.unpunched", "intent.link.", "pages.", "run.unknown.", "seat.ready"),
    *("slot.adopt", "slot.enroll", "slot.free", "waiters.count", "waiters.discount"),
)


@pytest.fixture
def memory() -> Iterator[None]:
    """Require that memory comes back."""
    Lock()
    gc.collect()
    before = _native.family_statistics()
    yield
    gc.collect()
    wait_until(lambda: _native.family_statistics() == before, "all memory has come back")


@pytest.mark.watchdog(120)
@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", SCENES)
def test_the_others_go_on_wherever_one_is_killed(name: str) -> None:
    scene = SCENES[name]
    steps = steps_of(scene)
    assert steps
    for step, times in steps.items():
        for time in sorted({1, times}):
            kill_there(scene, f"{step}:kill:{time}")


def kill_there(scene: Scene, fault: str) -> None:
    objects = scene.prepare()

    def act() -> None:
        NATIVE.arm_fault(fault)
        scene.act(objects)

    # It may have had less to wait for than the one that counted, and have finished.
    assert in_child(act) in {-signal.SIGKILL, 0}
    try:
        scene.check(objects)
    except BaseException as error:
        error.add_note(fault)
        raise


def count_from_here(_: object = None) -> int:
    NATIVE.start_counting_steps()
    return os.getpid()


def reached_steps(_: object = None) -> list[str]:
    return [name for name, count in NATIVE.step_counts().items() if count]


def die_at(step: str) -> bytes:
    NATIVE.arm_fault(f"{step}:kill")
    return LARGE


def disarm(_: object) -> None:
    """Have something harmless happen instead of what was to come."""
    NATIVE.arm_fault("mutex.trying:delay")


def steps_of_a_worker(run: Callable[[Callable[[Any], Any], Any], Any]) -> list[str]:
    """Return the steps that a worker comes to from the end of a task to the next one."""
    run(count_from_here, None)
    run(bytes, 100_000)
    run(abs, -1)
    steps: list[str] = run(reached_steps, None)
    return steps


@pytest.mark.watchdog(300)
def test_a_pool_goes_on_wherever_its_worker_is_killed() -> None:
    with WorkerPool(1) as pool:

        def run(task: Callable[[Any], object], argument: object) -> object:
            return pool.apply_async(task, (argument,)).get(DEADLINE)

        for step in steps_of_a_worker(run):
            with contextlib.suppress(WorkerDiedError):
                assert run(die_at, step) == LARGE
            for task, argument in ((abs, -2), (disarm, None)):
                with contextlib.suppress(WorkerDiedError):
                    run(task, argument)
            assert run(abs, -3) == 3, step


@pytest.mark.watchdog(300)
def test_an_executor_goes_on_wherever_its_worker_is_killed() -> None:
    with WorkerPoolExecutor(1) as executor:

        def run(task: Callable[[Any], object], argument: object) -> object:
            return executor.submit(task, argument).result(DEADLINE)

        for step in steps_of_a_worker(run):
            futures = [executor.submit(die_at, step), *(executor.submit(abs, -2) for _ in range(3))]
            outcomes = []
            for future in futures:
                with contextlib.suppress(WorkerDiedError):
                    outcomes.append(future.result(DEADLINE))
            # One was in its hands, at most.
            assert len(outcomes) >= 3, step
            with contextlib.suppress(WorkerDiedError):
                run(disarm, None)
            assert run(abs, -3) == 3, step


def test_every_step_is_in_a_scene() -> None:
    reached = {step for scene in SCENES.values() for step in steps_of(scene)}
    with WorkerPool(1) as pool:
        reached.update(steps_of_a_worker(lambda task, it: pool.apply(task, (it,))))
    steps = list(NATIVE.step_counts())
    missed = [it for it in steps if it not in reached and not it.startswith(LEFT_TO_RUST)]
    assert not missed


def test_a_stopped_process_goes_on() -> None:
    """SIGSTOP is no death: who was stopped has done all that it was to do."""
    queue: Queue[bytes] = Queue()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            NATIVE.arm_fault("side.staged:stop")
            queue.put(b"late")
            os.write(write, b"done")
        finally:
            os._exit(0)
    os.close(write)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    assert queue.empty()
    os.kill(child, signal.SIGCONT)
    assert queue.get(timeout=DEADLINE) == b"late"
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(read, "rb") as told:
        assert told.read() == b"done"


@pytest.mark.parametrize(
    "wrong", ["", "lock.changed", "no.such.step:kill", "lock.changed:explode", "*:kill:0"]
)
def test_a_fault_that_can_not_be_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"step|fault|times"):
        NATIVE.arm_fault(wrong)
