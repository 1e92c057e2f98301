"""Many kills at random moments, with an account of every item and every task.

What a process has put, or taken out, it notes at once in a file, which outlives it: an item that
was put and that nobody has noted is lost, and may only have been in a killed consumer's hands.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import acts_of_pools
import cues

if TYPE_CHECKING:
    import subjects
    from part import Part

NOTE = struct.Struct("<II")
PRODUCERS, CONSUMERS = 3, 3
# The longest pause between two kills, in seconds.
PAUSE = 0.02
REPORT_EVERY = 10
WINDOW = 64


def _data(producer: int, number: int) -> bytes:
    """Return what an item holds: mostly little, sometimes what doesn't go through a ring."""
    seed = producer * 7919 + number * 104_729
    size = 100_000 if seed % 50 == 0 else seed % 2000
    return seed.to_bytes(8, "little") * (size // 8)


# --- queues -------------------------------------------------------------------------------------


def produce(things: list[Any], producer: int) -> None:
    """Put items in turn into each queue, and note each that is in."""
    with _log("put", producer) as log:
        for number in range(10**9):
            if cues.given("enough"):
                return
            data = _data(producer, number)
            things[number % len(things)].put((producer, number, data, zlib.crc32(data)))
            log.write(NOTE.pack(producer, number))


def consume(thing: Any, consumer: int) -> None:  # noqa: ANN401
    """Get items and note each; one that isn't whole is noted as nobody's."""
    with _log("got", consumer) as log:
        while (got := thing.get()) is not None:
            log.write(_note(got))


def _note(got: tuple[int, int, bytes, int]) -> bytes:
    producer, number, data, checksum = got
    is_whole = zlib.crc32(data) == checksum and data == _data(producer, number)
    return NOTE.pack(producer, number) if is_whole else NOTE.pack(0, number)


def _log(kind: str, number: int) -> Any:  # noqa: ANN401
    return (cues.folder() / f"{kind}-{number}").open("ab", buffering=0)


def _notes(kind: str) -> dict[int, list[tuple[int, int]]]:
    """Return what each process has noted; a note is written whole or not at all."""
    found = {}
    for file in cues.folder().glob(f"{kind}-*"):
        number = int(file.name.rpartition("-")[2])
        found[number] = list(NOTE.iter_unpack(file.read_bytes()))
    return found


def soak_queues(part: Part, kills: int) -> None:
    """Kill producers and consumers, and replace them; account for all items at the end."""
    primitives = part.primitives()
    things = [primitives.make("Queue", 50), primitives.make("SimpleQueue")]
    numbers = iter(range(1, 10**9))

    def start(is_producer: bool) -> Any:  # noqa: ANN401
        number = next(numbers)
        if is_producer:
            return primitives.start(produce, things, number)
        return primitives.start(consume, things[number % 2], number)

    roles = [True] * PRODUCERS + [False] * (CONSUMERS + 1)
    workers = [start(role) for role in roles]
    part.step("killing")
    while part.facts.kills < kills:
        time.sleep(part.rng.random() * PAUSE)
        place = part.rng.randrange(len(roles))
        workers[place].kill()
        workers[place].join()
        workers[place] = start(roles[place])
        part.facts.kills += 1
        if part.facts.kills % REPORT_EVERY == 0:
            part.report()
    part.report()
    part.step("ending the producers")
    cues.give("enough")
    # A consumer of each queue, whatever became of the others, lest a producer wait for room.
    workers += [primitives.start(consume, thing, next(numbers)) for thing in things]
    for worker in workers[:PRODUCERS]:
        worker.join()
    part.step("ending the consumers")
    for thing in things:
        for _ in workers:
            thing.put(None)
    for worker in workers[PRODUCERS:]:
        worker.join()
    _account(part, kills)


def _account(part: Part, kills: int) -> None:
    facts = part.facts
    put = {note for notes in _notes("put").values() for note in notes}
    got = collections.Counter[tuple[int, int]]()
    for notes in _notes("got").values():
        got.update(notes)
        facts.torn += _disorder(notes)
    facts.items = len(put)
    facts.torn += sum(count for (producer, _), count in got.items() if not producer)
    facts.doubled = sum(count - 1 for count in got.values())
    facts.lost = len(put - got.keys())
    facts.usable = facts.lost <= kills


def _disorder(notes: list[tuple[int, int]]) -> int:
    """Return how often a consumer got an item of a producer after a later one."""
    last: dict[int, int] = {}
    found = 0
    for producer, number in notes:
        found += number <= last.get(producer, -1)
        last[producer] = number
    return found


# --- locks --------------------------------------------------------------------------------------


def guard(lock: Any, semaphore: Any, file: str) -> None:  # noqa: ANN401
    """Count up, twice in a file, under a lock that its owner may die with."""
    while not cues.given("enough"):
        with semaphore:
            try:
                with lock:
                    _count_up(file)
            except RuntimeError:
                continue  # an owner died, half done


def _count_up(file: str) -> None:
    with Path(file).open("r+b", buffering=0) as both:
        first, _ = struct.unpack("<QQ", both.read(16))
        both.seek(0)
        both.write(struct.pack("<Q", first + 1))
        both.write(struct.pack("<Q", first + 1))


def soak_locks(part: Part, kills: int) -> None:
    """Kill owners and waiters of a lock and of a semaphore's permits; both stay good."""
    primitives = part.primitives()
    lock, semaphore = primitives.make("Lock"), primitives.make("Semaphore", 2)
    file = cues.folder() / "counts"
    file.write_bytes(bytes(16))
    workers = [primitives.start(guard, lock, semaphore, str(file)) for _ in range(4)]
    part.step("killing")
    while part.facts.kills < kills:
        time.sleep(part.rng.random() * PAUSE)
        place = part.rng.randrange(len(workers))
        workers[place].kill()
        workers[place].join()
        workers[place] = primitives.start(guard, lock, semaphore, str(file))
        part.facts.kills += 1
        if part.facts.kills % REPORT_EVERY == 0:
            part.report()
    part.report()
    cues.give("enough")
    part.step("ending the workers")
    for worker in workers:
        worker.join()
    part.step("using it afterwards")
    for _ in range(2):
        part.facts.usable = part.facts.usable and bool(semaphore.acquire(True, cues.PATIENCE))
    part.facts.usable = part.facts.usable and _takes(lock)
    part.facts.items = struct.unpack("<QQ", file.read_bytes())[0]


def _takes(lock: Any) -> bool:  # noqa: ANN401
    try:
        return bool(lock.acquire(True, cues.PATIENCE))
    except RuntimeError:
        return bool(lock.acquire(True, cues.PATIENCE))


# --- pools --------------------------------------------------------------------------------------


def task(number: int, size: int) -> tuple[int, bytes, int]:
    """Note that this task runs and where, and return much or little."""
    (cues.folder() / f"pid-{os.getpid()}").touch()
    with (cues.folder() / "ran").open("ab", buffering=0) as log:
        log.write(NOTE.pack(0, number))
    data = os.urandom(8) * (size // 8)
    return number, data, zlib.crc32(data)


class Killer(threading.Thread):
    """Kills the workers that have had a task, at random moments."""

    def __init__(self, part: Part, kills: int) -> None:
        super().__init__(daemon=True)
        self._part, self._kills = part, kills
        self._rng = random.Random(part.rng.random())

    def run(self) -> None:
        """Kill until it is enough."""
        facts = self._part.facts
        while facts.kills < self._kills:
            time.sleep(self._rng.random() * PAUSE)
            seen = sorted(cues.folder().glob("pid-*"))
            if seen:
                chosen = self._rng.choice(seen)
                chosen.unlink()
                facts.kills += _kill(int(chosen.name.removeprefix("pid-")))


def _kill(pid: int) -> bool:
    """Kill a process if it is one of this scenario's, which has the same folder."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if os.fsencode(f"{cues.FOLDER}={cues.folder()}") not in environment:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def soak_pool(part: Part, kills: int) -> None:
    """Keep a pool busy while its workers are killed; each task has its result or an error."""
    pool = part.pool(workers=4)
    facts, rng = part.facts, part.rng
    killer = Killer(part, kills)
    killer.start()
    waiting: collections.deque[tuple[int, Any]] = collections.deque()
    part.step("killing")
    next_report = 0.0
    while facts.usable and (killer.is_alive() or waiting):
        try:
            while killer.is_alive() and len(waiting) < WINDOW:
                size = 200_000 if rng.random() < 0.05 else rng.randrange(2000)
                waiting.append((facts.items, pool.submit(task, facts.items, size)))
                facts.items += 1
        except Exception:  # noqa: BLE001 - whatever a broken pool raises
            facts.usable = False
        while waiting and (len(waiting) > WINDOW // 2 or not killer.is_alive() or not facts.usable):
            _take_in(part, pool, *waiting.popleft())
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + 0.5
            part.report()
    part.report()
    part.step("accounting")
    ran = collections.Counter(number for _, number in _ran())
    facts.doubled = sum(count - 1 for count in ran.values())
    acts_of_pools.finish(part, pool, acts_of_pools.Tally(part, pool))


def _ran() -> list[tuple[int, int]]:
    file = cues.folder() / "ran"
    return list(NOTE.iter_unpack(file.read_bytes())) if file.exists() else []


def _take_in(part: Part, pool: subjects.Pool, number: int, ticket: Any) -> None:  # noqa: ANN401
    told, value = acts_of_pools.ended(pool, ticket)
    facts = part.facts
    if told != "value":
        facts.lost += 1
        facts.unanswered += told == "nothing"
        facts.usable = facts.usable and told != "nothing"
        return
    found, data, checksum = value
    facts.torn += found != number or zlib.crc32(data) != checksum
