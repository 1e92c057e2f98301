"""Lock: mutual exclusion between workers, whoever releases it."""

from __future__ import annotations

import mmap
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import freethreading
from freethreading import Event, Lock, OwnerDiedError, Queue, RLock, Worker
from support import wait_until
from test_worker import (
    DEADLINE,
    ODD_TIMEOUTS,
    PROCESSES,
    SHORT,
    Launcher,
    finish,
    kill,
    lasts_at_least,
    launchers,
    misuse,
    only_processes,
    signature_of,
    start,
    survives_odd_timeout,
    wait_until_asleep,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Counter:
    """A number in a file that all workers map: nothing but the lock under test protects it."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, which all workers share; made by `new`."""
        self.path = path

    @classmethod
    def new(cls, folder: Path, name: str = "counter") -> Counter:
        path = folder / name
        path.write_bytes(bytes(8))
        return cls(path)

    def open(self) -> memoryview:
        """Return the number as an array of one element; later calls map it anew."""
        with self.path.open("r+b") as file:
            return memoryview(mmap.mmap(file.fileno(), 8)).cast("q")

    def read(self) -> int:
        return self.open()[0]


def increment(lock: Any, counter: Counter, times: int) -> None:  # noqa: ANN401 - any lock-like
    """Count up in steps that lose an update whenever two workers are inside."""
    cell = counter.open()
    for _ in range(times):
        with lock:
            value = cell[0]
            os.sched_yield()
            cell[0] = value + 1


def test_signatures_are_the_documented_ones() -> None:
    lock = Lock()
    assert signature_of(Lock) == "()"
    assert signature_of(lock.acquire) == "(blocking=True, timeout=None)"
    assert signature_of(lock.release) == "()"
    assert signature_of(lock.locked) == "()"


def test_a_lock_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        Lock(1)  # type: ignore[call-arg]


def test_acquire_takes_a_free_lock_and_release_frees_it() -> None:
    lock = Lock()
    assert lock.locked() is False
    assert lock.acquire() is True
    assert lock.locked() is True
    assert lock.release() is None  # type: ignore[func-returns-value]
    assert lock.locked() is False
    assert lock.acquire(blocking=False) is True
    lock.release()
    assert lock.acquire(timeout=DEADLINE) is True


@pytest.mark.parametrize(
    "acquire",
    [
        lambda lock: lock.acquire(False),
        lambda lock: lock.acquire(0),
        lambda lock: lock.acquire(blocking=False),
        lambda lock: lock.acquire(False, None),
        lambda lock: lock.acquire(timeout=0),
        lambda lock: lock.acquire(True, 0.0),
    ],
)
def test_a_held_lock_is_not_waited_for_where_the_caller_said_so(
    acquire: Callable[[Lock], bool],
) -> None:
    lock = Lock()
    assert acquire(lock) is True
    assert acquire(lock) is False
    lock.release()
    assert acquire(lock) is True


def test_acquire_gives_up_after_its_timeout() -> None:
    lock = Lock()
    lock.acquire()
    assert lasts_at_least(SHORT, lambda: lock.acquire(timeout=SHORT)) is False
    assert lasts_at_least(SHORT, lambda: lock.acquire(True, SHORT)) is False
    assert lock.locked()


def acquire_and_tell(lock: Lock, timeout: float | None, results: Queue[Any]) -> None:
    results.put("started")
    results.put(lock.acquire(timeout=timeout))


@pytest.mark.parametrize("timeout", [None, -1, -0.5, -1e9, DEADLINE])
def test_a_negative_timeout_waits_for_ever(timeout: float | None) -> None:
    lock = Lock()
    results: Queue[Any] = Queue()
    lock.acquire()
    worker = start(acquire_and_tell, lock, timeout, results)
    assert results.get(timeout=DEADLINE) == "started"
    wait_until_asleep(worker)
    assert results.empty()
    lock.release()
    assert results.get(timeout=DEADLINE) is True
    finish(worker)
    assert lock.locked()


def test_a_negative_timeout_takes_a_free_lock() -> None:
    assert Lock().acquire(timeout=-1) is True
    assert Lock().acquire(True, -7.5) is True


def test_a_timeout_without_blocking_is_an_error() -> None:
    lock = Lock()
    for timeout in (1, 0.5, 0):
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, timeout)
    assert not lock.locked()


@pytest.mark.parametrize("timeout", ["1", [], 1j, object()])
def test_a_timeout_of_a_wrong_type_is_named(timeout: object) -> None:
    lock = Lock()
    with pytest.raises(TypeError, match="timeout"):
        lock.acquire(timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        lock.acquire(True, timeout)  # type: ignore[arg-type]
    assert not lock.locked()


@pytest.mark.parametrize("timeout", ODD_TIMEOUTS)
def test_timeouts_no_clock_can_reach_are_no_panic(timeout: float) -> None:
    lock = Lock()
    assert survives_odd_timeout(lambda: lock.acquire(timeout=timeout)) in {True, "refused"}


def test_a_context_holds_the_lock_and_is_true() -> None:
    lock = Lock()
    with lock as entered:
        assert entered is True
        assert lock.locked()
    assert not lock.locked()


def test_an_exception_leaves_the_context_and_frees_the_lock() -> None:
    lock = Lock()
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught, lock:
        raise error
    assert caught.value is error
    assert not lock.locked()


def test_releasing_a_free_lock_is_one_portable_error() -> None:
    lock = Lock()
    with misuse(RuntimeError, ValueError, AssertionError):
        lock.release()
    with lock:
        pass
    with misuse(RuntimeError, ValueError, AssertionError):
        lock.release()
    assert lock.acquire(blocking=False)


def release(lock: Lock) -> None:
    assert lock.locked()
    lock.release()


def test_another_worker_may_release_it() -> None:
    lock = Lock()
    lock.acquire()
    worker = start(release, lock)
    assert lock.acquire(timeout=DEADLINE)
    finish(worker)


def take(lock: Lock) -> None:
    assert lock.acquire(timeout=DEADLINE)


def test_a_worker_that_ends_leaves_its_lock_taken_as_in_the_stdlib() -> None:
    lock = Lock()
    finish(start(take, lock))
    assert lock.locked()
    # Long enough for a death to be noticed, which this is not.
    assert lock.acquire(timeout=1.2 if PROCESSES else SHORT) is False
    lock.release()
    assert lock.acquire(blocking=False)


@launchers
@pytest.mark.parametrize("workers", [2, 6])
def test_no_two_workers_hold_it_at_once(launch: Launcher, workers: int, tmp_path: Path) -> None:
    lock, counter, times = Lock(), Counter.new(tmp_path), 600 // workers
    finish(*[launch(increment, lock, counter, times) for _ in range(workers)])
    assert counter.read() == 600
    assert not lock.locked()


def increment_with_timeouts(lock: Lock, counter: Counter, times: int) -> None:
    """As `increment`, but give up and try again all the time."""
    cell = counter.open()
    for turn in range(times):
        while not (lock.acquire(blocking=False) or lock.acquire(timeout=0.000_1 * (turn % 3))):
            pass
        value = cell[0]
        os.sched_yield()
        cell[0] = value + 1
        lock.release()


def test_giving_up_neither_loses_nor_doubles_the_lock(tmp_path: Path) -> None:
    lock, counter = Lock(), Counter.new(tmp_path)
    impatient = [start(increment_with_timeouts, lock, counter, 50) for _ in range(2)]
    patient = [start(increment, lock, counter, 50) for _ in range(2)]
    finish(*impatient, *patient)
    assert counter.read() == 200


def answer(mine: Lock, yours: Lock, times: int) -> None:
    for _ in range(times):
        assert mine.acquire(timeout=DEADLINE)
        yours.release()


def test_two_workers_hand_over_to_each_other() -> None:
    ping, pong = Lock(), Lock()
    ping.acquire()
    pong.acquire()
    worker = start(answer, ping, pong, 300)
    for _ in range(300):
        ping.release()
        assert pong.acquire(timeout=DEADLINE)
    finish(worker)


def hold(lock: Any, held: Event, go: Event) -> None:  # noqa: ANN401 - any lock-like
    with lock:
        held.set()
        go.wait()


def wait_for_lock(lock: Lock, results: Queue[int], index: int) -> None:
    with lock:
        results.put(index)


def test_every_waiter_gets_it_in_the_end() -> None:
    lock = Lock()
    results: Queue[int] = Queue()
    lock.acquire()
    workers = [start(wait_for_lock, lock, results, index) for index in range(5)]
    wait_until_asleep(*workers)
    assert results.empty()
    lock.release()
    assert sorted(results.get(timeout=DEADLINE) for _ in workers) == [0, 1, 2, 3, 4]
    finish(*workers)


def test_another_worker_sees_and_respects_it() -> None:
    lock, held, go = Lock(), Event(), Event()
    worker = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    assert lock.locked()
    assert not lock.acquire(blocking=False)
    go.set()
    assert lock.acquire(timeout=DEADLINE)
    finish(worker)


def test_many_locks_do_not_share_state() -> None:
    locks = [Lock() for _ in range(300)]
    for lock in locks[::3]:
        lock.acquire()
    assert [lock.locked() for lock in locks] == [index % 3 == 0 for index in range(300)]
    del locks[::3]
    assert not any(lock.locked() for lock in [*locks, *(Lock() for _ in range(300))])


def die_holding(lock: Any, held: Event, how: str) -> None:  # noqa: ANN401 - any lock-like
    lock.acquire()
    held.set()
    if how == "exit":
        os._exit(1)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


@only_processes
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_dead_owner_is_an_error_and_then_the_lock_works(how: str) -> None:
    """A3: a `multiprocessing.Lock` whose owner was SIGKILLed was never released."""
    lock, held = Lock(), Event()
    worker = start(die_holding, lock, held, how)
    worker.join(DEADLINE)
    assert held.is_set()
    with misuse(OwnerDiedError, RuntimeError):
        lock.acquire(timeout=DEADLINE)
    assert lock.acquire(timeout=DEADLINE)
    lock.release()
    finish(start(take, lock))


@only_processes
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_the_error_says_which_process_died_and_with_what(kind: type[Lock | RLock]) -> None:
    lock, held = kind(), Event()
    worker = start(die_holding, lock, held, "kill")
    worker.join(DEADLINE)
    with pytest.raises(OwnerDiedError, match=rf"\b{kind.__name__}\b") as caught:
        lock.acquire(timeout=DEADLINE)
    assert re.search(rf"\b{worker.ident}\b", str(caught.value))


def tell_owner_died(lock: Lock, results: Queue[str]) -> None:
    try:
        with lock:
            results.put("acquired")
    except OwnerDiedError:
        results.put("owner died")


@only_processes
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_the_error_tells_the_name_of_the_dead(kind: type[Lock | RLock]) -> None:
    lock, held = kind(), Event()
    worker = start(die_holding, lock, held, "kill")
    worker.join(DEADLINE)
    with pytest.raises(OwnerDiedError, match=re.escape(repr(worker.name))):
        lock.acquire(timeout=DEADLINE)


@only_processes
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_who_only_polls_learns_of_the_death(kind: type[Lock | RLock]) -> None:
    lock, held = kind(), Event()
    start(die_holding, lock, held, "kill").join(DEADLINE)
    with pytest.raises(OwnerDiedError):
        wait_until(lambda: lock.acquire(blocking=False), "the owner is found dead")
    assert lock.acquire(blocking=False)


@only_processes
def test_those_who_wait_already_learn_of_the_death() -> None:
    """A3: whoever waited for a dead owner's lock hung for ever."""
    lock, held, go = Lock(), Event(), Event()
    results: Queue[str] = Queue()
    owner = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    waiters = [start(tell_owner_died, lock, results) for _ in range(3)]
    wait_until_asleep(*waiters)
    kill(owner)
    heard = [results.get(timeout=DEADLINE) for _ in waiters]
    finish(*waiters)
    assert "owner died" in heard
    assert lock.acquire(timeout=DEADLINE)


@only_processes
def test_a_slow_owner_is_not_taken_for_dead() -> None:
    lock, held, go = Lock(), Event(), Event()
    results: Queue[str] = Queue()
    owner = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    waiter = start(tell_owner_died, lock, results)
    assert lock.acquire(timeout=1.5) is False
    go.set()
    assert results.get(timeout=DEADLINE) == "acquired"
    finish(owner, waiter)


@only_processes
def test_a_death_beside_the_lock_changes_nothing() -> None:
    lock, held, go = Lock(), Event(), Event()
    results: Queue[str] = Queue()
    lock.acquire()
    killed = start(tell_owner_died, lock, results)
    wait_until_asleep(killed)
    kill(killed)
    survivor: Worker = start(hold, lock, held, go)
    lock.release()
    assert held.wait(DEADLINE)
    go.set()
    finish(survivor)
    assert results.empty()
    assert lock.acquire(timeout=DEADLINE)


def test_repr_tells_whether_it_is_held_and_how_many_wait() -> None:
    """A deadlock can be seen."""
    lock, held, go = Lock(), Event(), Event()
    results: Queue[int] = Queue()
    assert "unlocked" in repr(lock)
    owner = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    waiters = [start(wait_for_lock, lock, results, index) for index in range(2)]
    wait_until(lambda: "2 waiting" in repr(lock), "both are seen to wait")
    shown = repr(lock)
    assert "unlocked" not in shown
    assert "locked" in shown
    go.set()
    finish(owner, *waiters)
    assert "unlocked" in repr(lock)


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_repr_tells_who_holds_it(kind: type[Lock | RLock]) -> None:
    """A deadlock can be understood."""
    lock, held, go = kind(), Event(), Event()
    results: Queue[int] = Queue()
    owner = start(hold, lock, held, go)
    assert held.wait(DEADLINE)
    waiter = start(wait_for_lock, lock, results, 0)
    number = f"pid {owner.ident}" if PROCESSES else f"thread {owner.ident}"
    holder = f"<freethreading.{kind.__name__} locked by {owner.name!r} ({number})"
    wait_until(lambda: repr(lock).startswith(holder + ", 1 waiting"), "the waiter is seen")
    go.set()
    finish(owner, waiter)
    assert repr(lock) == f"<freethreading.{kind.__name__} unlocked>"


@only_processes
@pytest.mark.parametrize("kind", [Lock, RLock])
def test_repr_forgets_waiters_that_were_killed(kind: type[Lock | RLock]) -> None:
    lock = kind()
    results: Queue[int] = Queue()
    lock.acquire()
    victim, survivor = (start(wait_for_lock, lock, results, index) for index in range(2))
    wait_until(lambda: "2 waiting" in repr(lock), "both are seen to wait")
    kill(victim)
    wait_until(lambda: "1 waiting" in repr(lock), "the killed one is forgotten")
    lock.release()
    finish(survivor)
    assert "unlocked" in repr(lock)


@pytest.mark.parametrize("kind", [Lock, RLock])
def test_repr_tells_a_name_that_is_no_utf8_as_far_as_it_can(kind: type[Lock | RLock]) -> None:
    lock, held, go = kind(), Event(), Event()
    owner = Worker(target=hold, args=(lock, held, go), name="a\udcff", daemon=True)
    owner.start()
    assert held.wait(DEADLINE)
    assert repr(lock).startswith(f"<freethreading.{kind.__name__} locked by 'a?' (")
    go.set()
    finish(owner)


def hold_again_and_again(lock: RLock, held: Event, go: Event) -> None:
    with lock, lock, lock:
        hold(lock, held, go)


def test_repr_tells_how_often_an_rlock_was_acquired() -> None:
    lock, held, go = RLock(), Event(), Event()
    owner = start(hold_again_and_again, lock, held, go)
    assert held.wait(DEADLINE)
    assert ", depth 4>" in repr(lock)
    go.set()
    finish(owner)


def test_repr_knows_the_main_worker() -> None:
    lock = Lock()
    with lock:
        assert repr(freethreading.current_worker().name) in repr(lock)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def contend(lock: Lock, inside: Counter, stop: Event) -> None:
    """Enter as often as possible, and fail if somebody alive is inside already."""
    cell = inside.open()
    while not stop.is_set():
        try:
            lock.acquire()
        except OwnerDiedError:
            continue
        before = cell[0]
        assert before == 0 or not is_alive(before), "two owners"
        cell[0] = os.getpid()
        os.sched_yield()
        assert cell[0] == os.getpid()
        cell[0] = 0
        lock.release()


@only_processes
def test_random_kills_neither_hang_the_others_nor_let_two_in(tmp_path: Path) -> None:
    """A3, under contention: whoever is killed may hold the lock, wait for it, or hand it over."""
    lock, inside, stop = Lock(), Counter.new(tmp_path), Event()
    workers = [start(contend, lock, inside, stop) for _ in range(3)]
    for _ in range(12):
        lock_was_taken(lock)
        kill(workers.pop(0))
        workers.append(start(contend, lock, inside, stop))
    stop.set()
    finish(*workers)
    lock_was_taken(lock)


def lock_was_taken(lock: Lock) -> None:
    """Take the lock once, whether or not somebody died with it."""
    try:
        assert lock.acquire(timeout=DEADLINE)
    except OwnerDiedError:
        assert lock.acquire(timeout=DEADLINE)
    lock.release()
