"""Many messages of many sizes through one queue: all come, once, whole, in order; memory stays.

`FREETHREADING_SOAK=10000000` makes it ten million of them instead of the few of the usual run.
"""

from __future__ import annotations

import gc
import os
import random
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from freethreading import Barrier, Queue, SimpleQueue, _native
from test_worker import PROCESSES, finish, start

if TYPE_CHECKING:
    from collections.abc import Callable

    from test_queue import AnyQueue

MESSAGES = int(os.environ.get("FREETHREADING_SOAK", "50000"))
# Not a bound on speed: what takes longer hangs.
PATIENCE = 60 + MESSAGES / 5000
PRODUCERS, CONSUMERS = 3, 2
# What each producer puts in a round, after which the queue is empty for a moment.
COUNT = 2048
ROUNDS = max(2, MESSAGES // (PRODUCERS * COUNT))

KIBIBYTE = 1 << 10
# More than a queue keeps when it is empty, or an allocator; less than goes through in a few rounds.
SPARE = (1 if PROCESSES else 48) << 20
BLOCK = random.Random(4).randbytes(1 << 20)  # noqa: S311 - the same in each process


def body(number: int) -> Any:  # noqa: ANN401 - of many types
    """Return what a message carries: mostly a little, now and then a lot."""
    if number % 1024 == 1023:
        return BLOCK[number % KIBIBYTE :]
    if number % 64 == 63:
        return BLOCK[number % 4096 : number % 4096 + (32 + number % 64) * KIBIBYTE]
    if number % 8 == 7:
        return {"number": number, "text": "x" * (number % 300), "nested": [(number, None)]}
    if number % 8 == 3:
        return "\u20ac" * (number % 100)
    return BLOCK[number % 4096 : number % 4096 + number % 100]


def checksum(carried: Any) -> int:  # noqa: ANN401 - of many types
    return zlib.crc32(carried if isinstance(carried, bytes) else repr(carried).encode())


def produce(source: AnyQueue, name: int, begin: Barrier, end: Barrier) -> None:
    for _ in range(ROUNDS):
        begin.wait()
        for number in range(COUNT):
            carried = body(number)
            source.put((name, number, carried, checksum(carried)))
        end.wait()


def consume(source: AnyQueue, told: Queue[Any], begin: Barrier) -> None:
    for _ in range(ROUNDS):
        begin.wait()
        seen = [bytearray(COUNT) for _ in range(PRODUCERS)]
        last = [-1] * PRODUCERS
        while (message := source.get()) is not None:
            name, number, carried, expected = message
            assert checksum(carried) == expected, "torn"
            assert number > last[name], "overtaken"
            last[name] = number
            seen[name][number] = 1
        told.put([bytes(each) for each in seen])


def memory() -> int:
    """Return the bytes that queues hold: of the family, or of the process that has all threads."""
    gc.collect()
    if PROCESSES:
        statistics = _native.family_statistics()
        assert statistics is not None
        return statistics[2]
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return int(fields["RssAnon"].split()[0]) * KIBIBYTE


def check_complete(told: Queue[Any]) -> None:
    """Require each message of a round exactly once, from one consumer or the other."""
    found = [told.get() for _ in range(CONSUMERS)]
    for seen in zip(*found, strict=True):
        total = sum(int.from_bytes(each) for each in seen)
        assert total.to_bytes(COUNT) == b"\1" * COUNT


@pytest.mark.watchdog(PATIENCE)
@pytest.mark.parametrize(
    "make", [lambda: Queue(100), Queue, SimpleQueue], ids=["bounded", "unlimited", "simple"]
)
def test_many_messages_come_once_each_and_leave_no_memory(make: Callable[[], AnyQueue]) -> None:
    source, told = make(), Queue[Any]()
    begin, end = Barrier(PRODUCERS + CONSUMERS + 1), Barrier(PRODUCERS + 1)
    workers = [start(produce, source, name, begin, end) for name in range(PRODUCERS)]
    workers += [start(consume, source, told, begin) for _ in range(CONSUMERS)]
    taken = []
    for _ in range(ROUNDS):
        begin.wait()
        end.wait()
        for _ in range(CONSUMERS):
            source.put(None)
        check_complete(told)
        assert source.empty()
        taken.append(memory())
    finish(*workers)
    assert max(taken) < taken[0] + SPARE, taken
