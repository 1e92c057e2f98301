"""What the tests of pools and executors run in workers: functions and exceptions, nothing else.

They are in a module of their own, which imports little, because every worker process imports it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from freethreading import current_worker, get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from freethreading import Barrier, Event, Lock, Queue, Semaphore, SimpleQueue

# Set by initializers: what a worker keeps for its tasks, per thread, as processes keep it.
kept = threading.local()


def square(number: int) -> int:
    return number * number


def add(left: int, right: int) -> int:
    return left + right


def repeat(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return what came."""
    return args, kwargs


def worker_name(_: object = None) -> str:
    return current_worker().name


def identity(_: object = None) -> int:
    return get_ident()


def keep(*values: object) -> None:
    kept.values = values


def what_was_kept(_: object = None) -> Any:  # noqa: ANN401 - whatever an initializer was given
    return kept.values


def count_up(counter: Queue[int]) -> None:
    counter.put(1)


def meet(_: object = None) -> int:
    """Wait at the barrier that was kept: as many workers have to be there at once."""
    barrier: Barrier = kept.values[0]
    return barrier.wait(20)


def wait_for(event: Event) -> bool:
    return event.wait(60)


def report_and_wait(started: Queue[int], event: Event) -> bool:
    """Say that the task has begun, and who runs it."""
    started.put(get_ident())
    return event.wait(60)


def use_all(lock: Lock, event: Event, queue: Queue[str], word: str) -> str:
    with lock:
        queue.put(word)
        event.set()
    return word.upper()


def use_kept(word: str) -> str:
    lock, event, queue = kept.values
    return use_all(lock, event, queue, word)


def pass_through(nested: dict[str, list[Event]]) -> bool:
    nested["here"][0].set()
    return True


# --- tasks that go wrong --------------------------------------------------------------------


class PlainError(Exception):
    """An exception that travels as any does."""


class RewordingError(Exception):
    """Its `__init__` changes its arguments, and would do so again when it is unpickled."""

    def __init__(self, code: int) -> None:
        """Make other arguments of `code`."""
        super().__init__(f"code {code}")
        self.code = code


class TwoArgumentsError(Exception):
    """It can be pickled, but not unpickled (A5: the stdlib's pool hangs, its executor breaks)."""

    def __init__(self, what: str, where: str) -> None:
        """Make one argument of two."""
        super().__init__(f"{what} at {where}")


class OwnBaseError(BaseException):
    """Not an Exception."""


class Unloadable:
    """It can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        """Have `refuse_to_load` called."""
        return refuse_to_load, ("not here",)


class Raising:
    """Pickling it raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        """Take what to raise."""
        self.error = error

    def __reduce__(self) -> NoReturn:
        """Raise it."""
        raise self.error


def refuse_to_load(reason: str) -> NoReturn:
    raise LookupError(reason)


def raise_it(error: BaseException) -> NoReturn:
    raise error


def raise_plain(*args: object) -> NoReturn:
    error = PlainError(*args)
    error.add_note("a note")
    error.add_note("another")
    raise error


def raise_for_odd(number: int) -> int:
    if number % 2:
        raise_plain(number)
    return number


def raise_rewording(code: int) -> NoReturn:
    raise RewordingError(code)


def raise_two_arguments() -> NoReturn:
    what, where = "it broke", "the seam"
    raise TwoArgumentsError(what, where)


def raise_unpicklable() -> NoReturn:
    what = "has a lock"
    error = PlainError(what)
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def raise_stop() -> NoReturn:
    raise StopIteration


def return_lambda() -> Callable[[], None]:
    return lambda: None


def return_unloadable() -> Unloadable:
    return Unloadable()


def return_two_arguments() -> TwoArgumentsError:
    return TwoArgumentsError("it broke", "the seam")


def kill_oneself(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_at_once(_: object = None) -> None:
    os._exit(7)


def crash(_: object = None) -> None:
    """Have the kernel end this process for reading where nothing is."""
    ctypes.string_at(0)


def outcome(call: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - whatever it is
    """Return what a call returns, or the exception that it raises."""
    try:
        return call(*args)
    except Exception as error:  # noqa: BLE001 - that is the outcome
        return error


def compute_for_ever(started: Any) -> None:  # noqa: ANN401 - a queue
    """Tell that it has begun, and never end."""
    started.put(os.getpid())
    while True:
        pass


def ignore_sigterm(started: Any) -> None:  # noqa: ANN401 - a queue
    """Do the same, and don't listen to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    compute_for_ever(started)


# The pool or executor whose tasks use it themselves: threads see it.
own: Any = None


def apply_deeper(depth: int) -> int:
    """Return how deep tasks went that each had their pool run another one, and waited for it."""
    return 1 + own.apply(apply_deeper, (depth - 1,)) if depth else 0


def map_deeper(depth: int) -> int:
    """Do the same with maps."""
    return 1 + max(own.map(map_deeper, [depth - 1] * 3)) if depth else 0


def iterate_deeper(depth: int) -> int:
    """Do the same with iterators."""
    return 1 + max(own.imap_unordered(iterate_deeper, [depth - 1] * 3)) if depth else 0


def iterate_over_what_comes(count: int) -> int:
    """Have the own pool do what comes bit by bit: each number when the one before was taken."""
    taken = threading.Semaphore(1)

    def numbers() -> Iterator[int]:
        for number in range(count):
            taken.acquire()
            yield number

    total = 0
    for number in own.imap(abs, numbers()):
        total += number
        taken.release()
    return total


def submit_deeper(depth: int) -> int:
    """Do the same with an executor's futures."""
    return 1 + int(own.submit(submit_deeper, depth - 1).result()) if depth else 0


def executor_map_deeper(depth: int) -> int:
    """Do the same with an executor's map."""
    return 1 + max(own.map(executor_map_deeper, [depth - 1] * 3)) if depth else 0


def shut_down_own() -> None:
    """Wait for the end of the executor that runs this."""
    own.shutdown()


def map_in_own_pool(numbers: list[int]) -> list[int]:
    """Return the squares, computed by a pool of the task's own."""
    from freethreading import WorkerPool  # noqa: PLC0415 - as late as a task would

    with WorkerPool(2) as pool:
        return pool.map(square, numbers, 1)


def submit_in_own_executor(numbers: list[int]) -> list[int]:
    """Return the squares, computed by an executor of the task's own."""
    from freethreading import WorkerPoolExecutor  # noqa: PLC0415 - as late as a task would

    with WorkerPoolExecutor(2) as executor:
        return list(executor.map(square, numbers))


# --- arrays ---------------------------------------------------------------------------------


def report_size_and_wait(item: Any, started: Any, event: Any) -> int:  # noqa: ANN401 - of any shape
    """Return the size of an array, or of one in a dict, when `event` is set."""
    started.put(1)
    event.wait()
    size: int = (item["array"] if isinstance(item, dict) else item).nbytes
    return size


def add_in_place(array: Any, number: float) -> float:  # noqa: ANN401 - an array
    """Change the array itself, and return its sum."""
    array += number
    return float(array.sum())


def is_writable(array: Any) -> bool:  # noqa: ANN401 - an array
    """Return whether the array can be written to."""
    return bool(array.flags.writeable)


def mean(array: Any) -> float:  # noqa: ANN401 - an array
    """Return the mean of the array."""
    return float(array.mean())


class Filled:
    """Becomes, when pickled, an array that is full of one number, and is made for that only."""

    def __init__(self, number: float, size: int) -> None:
        """Keep what it is made of."""
        self.number = number
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the array."""
        import numpy as np  # noqa: PLC0415 - for few tests

        return Arrived, (np.full(self.size, self.number),)

    @property
    def array(self) -> Any:  # noqa: ANN401 - an array
        """Make the array where nothing was pickled."""
        return self.__reduce__()[1][0]


class Arrived:
    """What becomes of a `Filled`."""

    def __init__(self, array: Any) -> None:  # noqa: ANN401 - an array
        """Keep the array."""
        self.array = array


def mean_of_filled(item: Filled | Arrived) -> float:
    """Return the mean of its array."""
    return mean(item.array)


def at(array: Any, position: int) -> float:  # noqa: ANN401 - an array
    """Return a number of the array."""
    return float(array[position])


def full_of(number: float) -> Any:  # noqa: ANN401 - an array
    """Return an array of 1 MiB that is full of a number."""
    import numpy as np  # noqa: PLC0415 - for few tests

    return np.full(1 << 17, float(number))


# --- the tasks of the model (`test_pool_model`) and of the soak (`test_pool_soak`) -----------

# An argument and a result that are too large to travel within a message.
LARGE = 100_000


def act(number: int, action: str, load: object = None) -> Any:  # noqa: ANN401 - by the action
    """Leave a trace, then do what the action says; `keep` was given the traces and the gate."""
    traces: SimpleQueue[int] = kept.values[0]
    traces.put(number)
    return ACTIONS[action](number, load)


def act_on(item: tuple[int, str, object]) -> Any:  # noqa: ANN401 - as above
    return act(*item)


def _return(number: int, _: object) -> tuple[str, int]:
    return "done", number


def _dawdle(number: int, _: object) -> tuple[str, int]:
    time.sleep(number % 4 / 1000)
    return "done", number


def _wait(number: int, _: object) -> tuple[str, int]:
    gate: Event = kept.values[1]
    assert gate.wait(60)
    return "done", number


def _return_large(number: int, _: object) -> bytes:
    return number.to_bytes(4) * (LARGE // 4)


def _take_large(number: int, load: object) -> tuple[int, bool]:
    return number, load == _return_large(number, None)


def _raise(number: int, _: object) -> NoReturn:
    raise PlainError(number)


def _exit(number: int, _: object) -> NoReturn:
    raise SystemExit(number)


def _raise_base(number: int, _: object) -> NoReturn:
    raise OwnBaseError(number)


def _raise_unpicklable(number: int, _: object) -> NoReturn:
    error = PlainError(number)
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def _raise_unloadable(number: int, _: object) -> NoReturn:
    raise TwoArgumentsError(str(number), "the seam")


def _return_unpicklable(_number: int, _: object) -> Callable[[], None]:
    return return_lambda()


def _return_unloadable(_number: int, _: object) -> Unloadable:
    return Unloadable()


def _die(die: Callable[[], None]) -> Callable[[int, object], object]:
    return lambda _number, _load: die()


ACTIONS: dict[str, Callable[[int, Any], object]] = {
    "return": _return,
    "dawdle": _dawdle,
    "wait": _wait,
    "return large": _return_large,
    "take large": _take_large,
    "raise": _raise,
    "exit": _exit,
    "raise base": _raise_base,
    "raise unpicklable": _raise_unpicklable,
    "raise unloadable": _raise_unloadable,
    "return unpicklable": _return_unpicklable,
    "return unloadable": _return_unloadable,
    # What goes wrong before the task is run.
    "take unpicklable": _return,
    "take unloadable": _return,
    # What ends a worker process.
    "kill oneself": _die(kill_oneself),
    "exit at once": _die(exit_at_once),
    "crash": _die(crash),
}


def carry(number: int) -> Any:  # noqa: ANN401 - of several types
    """Return what an item of the soak gives: mostly a little, now and then a lot."""
    if number % 512 == 511:
        return number, _return_large(number, None)
    if number % 8 == 7:
        return {"number": number, "text": "x" * (number % 300), "nested": [(number, None)]}
    return number


def carry_or_raise(number: int) -> Any:  # noqa: ANN401 - as above
    if number % 64 == 63:
        raise PlainError(number)
    return carry(number)


# --- the tasks of real clients (`test_pool_clients`) -----------------------------------------


def doubled(array: Any) -> Any:  # noqa: ANN401 - an array
    """Return an array that is twice another one, which stays as it is."""
    return array * 2


def fail_for(number: int, culprit: int) -> int:
    if number == culprit:
        raise PlainError(number)
    return number


def die_for(number: int, culprit: int) -> int:
    if number == culprit:
        kill_oneself()
    return number


def nested(count: int) -> list[int]:
    """Use joblib within a task of it, with what its backend says is for that."""
    # (Not by all who import this module: it takes a worker long.)
    import joblib  # type: ignore[import-untyped]  # noqa: PLC0415

    jobs = (joblib.delayed(square)(number) for number in range(count))
    return list(joblib.Parallel(n_jobs=2)(jobs))


# --- what goes on at the same time (`test_pool_races`) ---------------------------------------


def die_if_doomed(doom: Semaphore) -> None:
    """As an initializer: end the worker, once for each permit."""
    if doom.acquire(blocking=False):
        kill_oneself()
