"""Plays with workers, pools and executors."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections import Counter, deque
from concurrent.futures import CancelledError, Future, as_completed, wait
from functools import partial
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import TYPE_CHECKING, Any

import pool_tasks as tasks
from freethreading import (
    Event,
    SimpleQueue,
    Worker,
    WorkerPool,
    WorkerPoolExecutor,
    active_children,
    active_count,
    current_worker,
    enumerate,
    get_backend,
    get_ident,
)
from primitives import refused
from stage import Member, Play, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from freethreading._results import AsyncResult

PROCESSES = get_backend() == "multiprocessing"
# So many calls before a pool is ended: a process takes longer to start than a thread.
CALLS = 600 if PROCESSES else 150


def tell(name: str, results: SimpleQueue[object], may_end: Event) -> None:
    """Say who one is, which has to be known to the worker itself; stay until told to end."""
    results.put((name, current_worker().name, get_ident()))
    may_end.wait()


def nothing_later(seconds: float) -> float:
    """Be a task that others are waiting for, or may cancel those behind."""
    time.sleep(seconds)
    return seconds


class Workers(Play):
    """Worker and the functions around it: each runs once, and is there as long as it runs."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.started: list[Worker] = []
        self.refs: list[weakref.ref[Worker]] = []

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {self.run: 6, self.use_those_of_others: 10, self.count: 10, self.start_twice: 2}

    def objects(self) -> object:
        return list(self.started)

    def run(self, member: Member) -> None:
        results: SimpleQueue[object] = SimpleQueue()
        name = f"{member.number}-{member.next()}"
        may_end = Event()
        worker = Worker(target=tell, args=(name, results, may_end), name=name)
        worker.daemon = member.random.random() < 0.5
        refused(worker.join, RuntimeError, AssertionError)
        assert not worker.is_alive()
        worker.start()
        self.started.append(worker)
        assert results.get() == (name, name, worker.ident)
        assert worker in enumerate()
        assert worker in active_children()
        assert worker.is_alive()
        refused(worker.start, RuntimeError, AssertionError)
        may_end.set()
        with contextlib.suppress(ValueError):
            self.started.remove(worker)
        worker.join(None if member.random.random() < 0.5 else 60)
        assert not worker.is_alive()
        assert worker not in active_children()
        assert results.empty()
        assert getattr(worker, "exitcode", 0) == 0
        if member.random.random() < 0.1:
            self.refs.append(weakref.ref(worker))

    def use_those_of_others(self, member: Member) -> None:
        with contextlib.suppress(IndexError):
            worker = member.random.choice(self.started)
            assert worker.name in repr(worker)
            assert isinstance(worker.is_alive(), bool)
            assert worker.ident
            refused(lambda: setattr(worker, "daemon", True), RuntimeError, AssertionError)
            worker.join(abs(member.moment()))

    def count(self, _: Member) -> None:
        assert current_worker() in enumerate()
        assert current_worker() not in active_children()
        assert active_count() >= 1
        assert get_ident()

    def start_twice(self, member: Member) -> None:
        """Start one from two threads: for one of them it is too late."""
        results: SimpleQueue[object] = SimpleQueue()
        may_end = Event()
        may_end.set()
        worker = Worker(target=tell, args=("twice", results, may_end), daemon=True)
        errors: list[BaseException | None] = []
        meeting = threading.Barrier(2)

        def start() -> None:
            meeting.wait()
            try:
                worker.start()
            except BaseException as error:  # noqa: BLE001 - looked at below
                errors.append(error)
            else:
                errors.append(None)

        other = threading.Thread(target=start)
        other.start()
        start()
        other.join()
        results.get()
        worker.join()
        member.pause()
        assert results.empty(), "it ran twice"
        assert getattr(worker, "exitcode", 0) == 0
        failed = [error for error in errors if error is not None]
        assert len(failed) == 1, errors
        assert isinstance(failed[0], RuntimeError), repr(failed[0])
        assert isinstance(failed[0], AssertionError), repr(failed[0])

    def check(self) -> None:
        gc.collect()
        assert not [one for one in self.refs if one() is not None], "a worker was not freed"


class Desk:
    """A pool or executor, and what has become of its calls."""

    def __init__(self, front: Any) -> None:  # noqa: ANN401 - either
        self.front = front
        self.is_ended = False
        self.is_terminated = False
        self.calls: deque[int] = deque()
        # Numbers of calls whose callbacks were made; those that were promised one.
        self.called: deque[int] = deque()
        self.promised: deque[int] = deque()
        self.results: list[tuple[Any, int]] = []


class Pools(Play):
    """WorkerPool and AsyncResult: each call ends once, with its own result or with the pool."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.desks = Slots([lambda: Desk(WorkerPool(3))])

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.apply: 10,
            self.apply_async: 20,
            self.map: 8,
            self.imap: 8,
            self.ask_for_others: 20,
            self.end: 1,
        }

    def objects(self) -> object:
        return [(desk.front, list(desk.results)) for desk in self.desks.slots]

    @contextlib.contextmanager
    def at(self, member: Member) -> Any:  # noqa: ANN401 - a context manager
        """Give a desk to call at; ValueError is in order where the pool is being ended."""
        desk: Desk = self.desks.pick(member)
        desk.calls.append(1)
        try:
            yield desk
        except ValueError:
            if not desk.is_ended:
                raise

    def apply(self, member: Member) -> None:
        with self.at(member) as desk:
            number = member.next()
            assert desk.front.apply(tasks.square, (number,)) == number * number
            assert desk.front.apply(tasks.repeat, (), {"a": 1}) == ((), {"a": 1})

    def apply_async(self, member: Member) -> None:
        number = member.number << 32 | member.next()
        fails = member.random.random() < 0.3
        with self.at(member) as desk:

            def good(value: object) -> None:
                assert value == number * number
                desk.called.append(number)

            def bad(error: BaseException) -> None:
                kinds = (tasks.PlainError, ValueError) if fails else ValueError
                assert isinstance(error, kinds), repr(error)
                desk.called.append(number)

            args = (tasks.PlainError, number) if fails else (number,)
            func = raise_one if fails else tasks.square
            result = desk.front.apply_async(func, args, {}, good, bad)
            desk.promised.append(number)
            desk.results.append((result, -1 if fails else number * number))
            if member.random.random() < 0.5:
                self.ask(member, desk, result, -1 if fails else number * number)

    def ask(self, member: Member, desk: Desk, result: AsyncResult[Any], value: int) -> None:
        """Ask a result for all it knows; others may, too."""
        if member.random.random() < 0.5:
            with contextlib.suppress(PoolTimeoutError):
                self.get(desk, result, value, abs(member.moment()))
        result.wait(member.random.choice((None, None, abs(member.moment()))))
        if result.ready():
            is_good = result.successful()
            assert is_good == (value >= 0) or desk.is_ended
        if member.random.random() < 0.5:
            self.get(desk, result, value, None)
            assert result.ready()

    def get(self, desk: Desk, result: AsyncResult[Any], value: int, timeout: float | None) -> None:
        try:
            assert result.get(timeout) == value
        except tasks.PlainError:
            assert value < 0
        except ValueError:
            assert desk.is_ended

    def ask_for_others(self, member: Member) -> None:
        desk: Desk = self.desks.pick(member)
        with contextlib.suppress(IndexError):
            self.ask(member, desk, *member.random.choice(desk.results))
            assert "AsyncResult" in repr(desk.results[0][0])
        assert "WorkerPool" in repr(desk.front)
        if len(desk.results) > 50:
            with contextlib.suppress(IndexError):
                desk.results.pop(0)

    def map(self, member: Member) -> None:
        with self.at(member) as desk:
            items = range(member.random.choice((0, 1, 5, 40)))
            size = member.random.choice((None, 1, 7))
            choice = member.random.randrange(4)
            squares = [item * item for item in items]
            if choice == 0:
                assert desk.front.map(tasks.square, items, size) == squares
            elif choice == 1:
                result = desk.front.map_async(tasks.square, items, size)
                assert result.get() == squares
            elif choice == 2:
                pairs = [(item, 1) for item in items]
                expected = [item + 1 for item in items]
                assert desk.front.starmap(tasks.add, pairs, size) == expected
            else:
                pairs = [(item, 1) for item in items]
                result = desk.front.starmap_async(tasks.add, pairs, size)
                assert result.get() == [item + 1 for item in items]

    def imap(self, member: Member) -> None:
        """Iterate, from two threads sometimes; or drop the iterator in the middle."""
        with self.at(member) as desk:
            items = range(member.random.choice((0, 1, 5, 40)))
            squares = [item * item for item in items]
            size = member.random.choice((1, 1, 3))
            choice = member.random.randrange(4)
            if choice == 0:
                assert list(desk.front.imap(tasks.square, items, size)) == squares
            elif choice == 1:
                found = desk.front.imap_unordered(tasks.square, iter(items), size)
                assert sorted(found) == squares
            elif choice == 2:
                iterator = desk.front.imap(tasks.square, iter(items), size)
                with contextlib.suppress(PoolTimeoutError, StopIteration):
                    assert iterator.next(abs(member.moment())) == 0
            else:
                self.iterate_together(desk, squares, size)

    def iterate_together(self, desk: Desk, squares: list[int], size: int) -> None:
        iterator = desk.front.imap(tasks.square, range(len(squares)), size)
        found: list[int] = []

        def take() -> None:
            with contextlib.suppress(ValueError):
                found.extend(iter(iterator.next, None))  # ends with StopIteration

        def take_all() -> None:
            with contextlib.suppress(StopIteration):
                take()

        other = threading.Thread(target=take_all)
        other.start()
        take_all()
        other.join()
        assert len(set(found)) == len(found)
        assert sorted(found) == squares or desk.is_ended

    def end(self, member: Member) -> None:
        """End a pool that was much used, while others use it; several may do this at once."""
        desk: Desk = self.desks.slots[0]
        if len(desk.calls) < CALLS:
            return
        desk.is_ended = True
        self.desks.renew(member)
        choice = member.random.randrange(4)
        if choice != 1:
            desk.is_terminated = True
        if choice == 0:
            desk.front.terminate()
        elif choice == 1:
            desk.front.close()
        elif choice == 2:
            with contextlib.suppress(ValueError), desk.front:
                pass
        else:
            desk.front.close()
            desk.front.terminate()
        if member.random.random() < 0.5:
            desk.front.join()

    def check(self) -> None:
        for desk in self.desks:
            desk.is_ended = True
            desk.front.close()
            desk.front.join()
            for result, _ in desk.results:
                result.wait()
            self.check_calls(desk)
            refused(partial(desk.front.apply, tasks.square, (1,)), ValueError)

    def check_calls(self, desk: Desk) -> None:
        """Require that callbacks were made once; by a pool that was terminated, once at most."""
        promised, called = Counter(desk.promised), Counter(desk.called)
        assert max(called.values(), default=1) == 1, "a callback was made twice"
        missing = promised - called
        assert not missing or desk.is_terminated, f"callbacks that were not made: {missing}"


def raise_one(kind: type[Exception], number: int) -> None:
    raise kind(number)


class Executors(Play):
    """WorkerPoolExecutor and its futures: each has one outcome, whoever asks for it or cancels."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.desks = Slots([lambda: Desk(WorkerPoolExecutor(3))])

    def deeds(self) -> dict[Callable[[Member], object], int]:
        return {
            self.submit: 20,
            self.submit_many: 5,
            self.map: 5,
            self.ask_for_others: 40,
            self.end: 1,
        }

    def objects(self) -> object:
        return [(desk.front, list(desk.results)) for desk in self.desks.slots]

    @contextlib.contextmanager
    def at(self, member: Member) -> Any:  # noqa: ANN401 - a context manager
        desk: Desk = self.desks.pick(member)
        desk.calls.append(1)
        try:
            yield desk
        except RuntimeError:
            if not desk.is_ended:
                raise

    def submit(self, member: Member) -> None:
        number = member.number << 32 | member.next()
        choice = member.random.randrange(4)
        with self.at(member) as desk:
            if choice == 0:
                future = desk.front.submit(raise_one, tasks.PlainError, number)
                value: float = -1
            elif choice == 1:
                value = 1e-3
                future = desk.front.submit(nothing_later, value)
            else:
                value = number * number
                future = desk.front.submit(tasks.square, number)
            if member.random.random() < 0.7:
                desk.promised.append(number)

                def done(one: Future[Any]) -> None:
                    assert one.done()
                    desk.called.append(number)

                future.add_done_callback(done)
            desk.results.append((future, value))
            if member.random.random() < 0.5:
                self.ask(member, future, value)

    def ask(self, member: Member, future: Future[Any], value: float) -> None:
        """Ask a future for all it knows, or cancel it; others may, too."""
        was_cancelled = member.random.random() < 0.1 and future.cancel()
        assert future.cancelled() or not was_cancelled
        was_done = future.done()
        is_running = future.running()
        assert not (was_done and is_running)
        assert "uture" in repr(future)
        timeout = member.random.choice((None, None, abs(member.moment())))
        try:
            if member.random.random() < 0.5:
                assert future.result(timeout) == value
            else:
                error = future.exception(timeout)
                assert (error is None) == (value >= 0), error
        except tasks.PlainError:
            assert value < 0
        except CancelledError:
            assert future.cancelled()
        except TimeoutError:
            assert not was_done
        else:
            assert future.done()
            assert not future.cancelled()
            assert not future.cancel()

    def ask_for_others(self, member: Member) -> None:
        desk: Desk = self.desks.pick(member)
        with contextlib.suppress(IndexError):
            future, value = member.random.choice(desk.results)
            if member.random.random() < 0.2:
                called: list[Future[Any]] = []
                future.add_done_callback(called.append)
            self.ask(member, future, value)
        if len(desk.results) > 50:
            with contextlib.suppress(IndexError):
                desk.results.pop(0)

    def submit_many(self, member: Member) -> None:
        with self.at(member) as desk:
            futures = [desk.front.submit(tasks.square, number) for number in range(10)]
            if member.random.random() < 0.3:
                futures[-1].cancel()
            if member.random.random() < 0.5:
                done, pending = wait(futures)
                assert not pending
            else:
                done = set(as_completed(futures))
            assert done == set(futures)
            for number, future in zip(range(10), futures, strict=True):
                assert future.cancelled() or future.result() == number * number

    def map(self, member: Member) -> None:
        with self.at(member) as desk:
            items = range(member.random.choice((0, 1, 5, 40)))
            size = member.random.choice((1, 1, 7))
            results = desk.front.map(tasks.square, items, chunksize=size)
            try:
                if member.random.random() < 0.3:
                    assert next(results, 0) == 0
                    return
                assert list(results) == [item * item for item in items]
            except CancelledError:
                assert desk.is_ended

    def end(self, member: Member) -> None:
        desk: Desk = self.desks.slots[0]
        if len(desk.calls) < CALLS:
            return
        desk.is_ended = True
        self.desks.renew(member)
        desk.front.shutdown(
            wait=member.random.random() < 0.5, cancel_futures=member.random.random() < 0.5
        )

    def check(self) -> None:
        for desk in self.desks:
            desk.is_ended = True
            desk.front.shutdown()
            for future, _ in desk.results:
                assert future.done()
            promised, called = Counter(desk.promised), Counter(desk.called)
            assert max(called.values(), default=1) == 1, "a callback was made twice"
            assert not promised - called, f"callbacks that were not made: {promised - called}"
            refused(partial(desk.front.submit, tasks.square, 1), RuntimeError)
