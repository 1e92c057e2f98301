"""What happens to primitives and queues: whoever holds one, or waits in one, is struck.

For each kind there is how a worker holds it or waits in it (`HOLD`, `WAIT`), and how others find
out whether it works as before (`USE`): that raises `StuckError` if it doesn't.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any

import cues

if TYPE_CHECKING:
    from collections.abc import Callable

    from part import Part

# While a worker is stopped, what it holds isn't to be had; this is enough to see that.
MOMENT = 0.7
LOCKS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore")
ITEMS = 40


class StuckError(Exception):
    """Something doesn't work any more."""


# --- in the worker ------------------------------------------------------------------------------


def hold(thing: Any) -> None:  # noqa: ANN401 - of any class
    """Hold a lock, a semaphore, or a condition's lock."""
    with thing:
        cues.give("ready")
        cues.pass_gate("over")
    cues.give("left")


def wait(kind: str, thing: Any) -> None:  # noqa: ANN401 - of any class
    """Wait for what isn't there yet."""
    WAIT[kind](thing)
    cues.give("left")


def _wait_for_lock(thing: Any) -> None:  # noqa: ANN401
    cues.give("ready")
    with thing:
        pass


def _wait_in_condition(thing: Any) -> None:  # noqa: ANN401
    with thing:
        cues.give("ready")
        thing.wait()


def _wait(thing: Any) -> None:  # noqa: ANN401
    cues.give("ready")
    thing.wait()


def _wait_in_get(thing: Any) -> None:  # noqa: ANN401
    cues.give("ready")
    thing.get()


def _wait_in_put(thing: Any) -> None:  # noqa: ANN401
    cues.give("ready")
    thing.put("second")


WAIT: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(LOCKS, _wait_for_lock),
    "Condition": _wait_in_condition,
    "Event": _wait,
    "Barrier": _wait,
}


def put_all(thing: Any) -> None:  # noqa: ANN401
    """Put large items one after the other, each with its number and its checksum."""
    cues.give("ready")
    for number in range(100_000):
        thing.put(item(number))
        if cues.given("enough"):
            break
    cues.give("left")


def get_all(thing: Any) -> None:  # noqa: ANN401
    """Get items and note each one's number."""
    cues.give("ready")
    with (cues.folder() / "got").open("ab", buffering=0) as log:
        while (got := thing.get()) is not None:
            log.write(f"{check(got)}\n".encode())
    cues.give("left")


def item(number: int) -> tuple[int, bytes, int]:
    """Make an item, some large and some small."""
    data = bytes([number % 251]) * (300_000 if number % 3 == 0 else 200 * (number % 7))
    return number, data, zlib.crc32(data, number)


def check(got: tuple[int, bytes, int]) -> int:
    """Return an item's number, or -1 if it isn't whole."""
    number, data, checksum = got
    return number if zlib.crc32(data, number) == checksum else -1


# --- in the main process ------------------------------------------------------------------------


def sharing_strike(part: Part, kind: str, role: str, *, dies: bool) -> None:
    """Have a worker struck that holds a thing or waits in it, then use the thing."""
    primitives = part.primitives()
    thing = primitives.make(kind, *_ARGUMENTS.get(kind, ()))
    is_busy = role == "waiting" and kind in LOCKS
    if is_busy:
        thing.acquire()
    if role == "holding":
        worker = primitives.start(hold, thing)
    else:
        worker = primitives.start(wait, kind, thing)
    part.step("waiting for the strike")
    cues.pass_gate("struck")
    if not dies and role == "holding" and _take(kind, thing, MOMENT):
        part.facts.torn += 1  # it was declared dead
        thing.release()
    if not dies:
        cues.pass_gate("over", cues.PATIENCE)
    if is_busy:
        thing.release()
    part.step("using it afterwards")
    try:
        part.facts.told = _USE[kind](part, primitives, thing)
    except StuckError as error:
        part.facts.usable, part.facts.told = False, str(error)
    part.report()
    part.step("ending its workers")
    _end(worker, dies=dies)


_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "Semaphore": (1,),
    "BoundedSemaphore": (1,),
    "Barrier": (2,),
}


def _end(worker: Any, *, dies: bool) -> None:  # noqa: ANN401
    """See a worker that survives end by itself, and end one that is stuck."""
    worker.join(cues.PATIENCE)
    if worker.is_alive():
        worker.kill()
        worker.join()
        if not dies:
            message = "the worker"
            raise StuckError(message)


def _take(kind: str, thing: Any, seconds: float) -> bool:  # noqa: ANN401
    """Try to acquire something; what can't be waited for so long is tried by turns."""
    if kind != "Condition":
        return bool(thing.acquire(True, seconds))
    deadline = time.monotonic() + seconds
    while not thing.acquire(False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def use(kind: str, thing: Any) -> str:  # noqa: ANN401
    told = ""
    try:
        is_taken = _take(kind, thing, cues.PATIENCE)
    except RuntimeError as error:
        told = type(error).__name__
        is_taken = _take(kind, thing, cues.PATIENCE)
    if not is_taken:
        message = "never free again"
        raise StuckError(message)
    thing.release()
    return told


def _use_condition(_part: Part, primitives: Any, thing: Any) -> str:  # noqa: ANN401
    told = use("Condition", thing)
    worker = primitives.start(_be_notified, thing)
    cues.expect("waits")
    with thing:
        thing.notify(2)  # the one who was struck may have got a notification as well
    worker.join(cues.PATIENCE)
    if not cues.given("notified"):
        message = "a notification is lost"
        raise StuckError(message)
    return told


def _be_notified(thing: Any) -> None:  # noqa: ANN401
    with thing:
        cues.give("waits")
        if thing.wait(cues.PATIENCE):
            cues.give("notified")


def _use_event(_part: Part, _primitives: Any, thing: Any) -> str:  # noqa: ANN401
    thing.set()
    if not thing.wait(cues.PATIENCE):
        message = "not set"
        raise StuckError(message)
    return ""


def _use_barrier(_part: Part, primitives: Any, thing: Any) -> str:  # noqa: ANN401
    told = ""
    try:
        thing.wait(cues.PATIENCE)
        told = "passes"
    except threading.BrokenBarrierError as error:
        told = type(error).__name__
    thing.reset()
    worker = primitives.start(_come, thing)
    try:
        thing.wait(cues.PATIENCE)
    except threading.BrokenBarrierError as error:
        message = "broken for good"
        raise StuckError(message) from error
    worker.join(cues.PATIENCE)
    return told


def _come(thing: Any) -> None:  # noqa: ANN401
    thing.wait(cues.PATIENCE)


_USE: dict[str, Callable[[Any, Any, Any], str]] = {
    **{kind: lambda _part, _all, thing, kind=kind: use(kind, thing) for kind in LOCKS},  # type: ignore[misc]
    "Condition": _use_condition,
    "Event": _use_event,
    "Barrier": _use_barrier,
}


# --- queues -------------------------------------------------------------------------------------


def queue_wait(part: Part, kind: str, role: str, *, dies: bool) -> None:
    """Have a worker struck that waits in get or in put, then use the queue."""
    primitives = part.primitives()
    waits_in_put = role == "waiting in put"
    thing = primitives.make(kind, *((1,) if waits_in_put else ()))
    if waits_in_put:
        thing.put("first")
    worker = primitives.start(_wait_in_put if waits_in_put else _wait_in_get, thing)
    part.step("waiting for the strike")
    cues.pass_gate("struck")
    if not dies:
        cues.pass_gate("over", cues.PATIENCE)
    part.step("using it afterwards")
    if waits_in_put:
        wanted = ["first", "second", "third"][: 3 if not dies else 1] + (["third"] if dies else [])
        putting = threading.Thread(target=thing.put, args=("third",), daemon=True)
        got = [_get(thing)]
        if not dies:
            got.append(_get(thing))
        putting.start()
        got.append(_get(thing))
    else:
        wanted = ["item"] * 3
        for text in (*wanted, *(["item"] if not dies else [])):
            thing.put(text)
        got = [_get(thing) for _ in range(3)]
    part.facts.items, part.facts.lost = 3, got.count(None)
    part.facts.usable = None not in got
    part.facts.torn += part.facts.usable and got != wanted
    part.report()
    part.step("ending its workers")
    _end(worker, dies=dies)


def _get(thing: Any) -> Any:  # noqa: ANN401
    """Get an item from whatever kind of queue, or None if none comes."""
    found: list[Any] = []
    # A wait in some queues can't be ended, so a thread does it.
    getting = threading.Thread(target=lambda: found.append(thing.get()), daemon=True)
    getting.start()
    getting.join(cues.PATIENCE)
    return found[0] if found else None


def queue_put(part: Part, kind: str, *, dies: bool) -> None:
    """Have a worker struck in the middle of putting; all that it has put is whole and in order."""
    primitives = part.primitives()
    thing = primitives.make(kind, *((8,) if kind == "Queue" else ()))
    worker = primitives.start(put_all, thing)
    part.step("getting")
    numbers: list[int] = []
    is_over = False
    while True:
        is_over = is_over or bool((cues.folder() / "gate-over").exists())
        if is_over and (dies or len(numbers) > ITEMS):
            break
        if (got := _get_soon(thing)) is not None:
            numbers.append(check(got))
    cues.give("enough")
    part.step("using it afterwards")
    worker.join(0 if not dies else cues.PATIENCE)
    thing_last = threading.Thread(target=thing.put, args=("last",), daemon=True)
    thing_last.start()
    while (got := _get(thing)) not in {None, "last"}:
        numbers.append(check(got))
    part.facts.usable = got is not None
    part.facts.items = len(numbers)
    part.facts.torn = sum(number != place for place, number in enumerate(numbers))
    part.report()
    part.step("ending its workers")
    _end(worker, dies=dies)


def _get_soon(thing: Any) -> Any:  # noqa: ANN401
    """Get an item if there is one soon."""
    if hasattr(thing, "get_nowait"):
        try:
            return thing.get(timeout=0.05)
        except queue.Empty:
            return None
    if thing.empty():
        time.sleep(0.001)
        return None
    return _get(thing)


def queue_get(part: Part, kind: str, *, dies: bool) -> None:
    """Have a worker struck in the middle of getting; what it had in hands is lost at most."""
    primitives = part.primitives()
    thing = primitives.make(kind)
    putting = threading.Thread(target=_put_until_over, args=(part, thing), daemon=True)
    worker = primitives.start(get_all, thing)
    cues.expect("ready")
    part.step("putting")
    putting.start()
    putting.join(cues.PATIENCE * 2)
    part.facts.usable = not putting.is_alive()
    numbers: list[int] = []
    part.step("using it afterwards")
    if dies:
        while (got := _get(thing)) is not None:
            numbers.append(check(got))
        part.facts.usable = part.facts.usable and bool(numbers)
    else:
        cues.expect("left")
    log = (cues.folder() / "got").read_text(encoding="ascii")
    noted = [int(line) for line in log.split("\n") if line]
    everything = noted + numbers
    part.facts.torn = everything.count(-1) + (sorted(everything) != everything)
    part.facts.doubled = len(everything) - len(set(everything))
    if part.facts.usable:
        part.facts.lost = part.facts.items - len(set(everything))
    part.report()
    part.step("ending its workers")
    _end(worker, dies=dies)


def _put_until_over(part: Part, thing: Any) -> None:  # noqa: ANN401
    """Put items until the strike is over, and some more, then the sign to end."""
    rest = ITEMS
    while rest:
        if (cues.folder() / "gate-over").exists():
            rest -= 1
        elif part.facts.items - _noted() > 2 * ITEMS:
            time.sleep(0.001)  # the getter is stopped, or slow: not without bound
            continue
        thing.put(item(part.facts.items))
        part.facts.items += 1
    thing.put(None)


def _noted() -> int:
    file = cues.folder() / "got"
    return file.read_bytes().count(b"\n") if file.exists() else 0
