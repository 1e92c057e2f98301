"""Rows of queues between workers: what an item takes from its producers to its consumers.

Half of the workers put, half get. The time is that from the first one's begin to the last one's
end; the CPU time is that of all their processes until everything has arrived, threads that the
package has of its own included. Where items are large, both ours and theirs are bounded, else what
is measured is how fast memory can be had.
"""

from __future__ import annotations

import statistics
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import arrays
import timing
from contenders import FASTER_FIFO
from peers import Peers
from rows import Row, Sample, Unit, goals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from contenders import Contender
    from peers import Numbers

ARRAY_BYTES = 16 << 20
# The part of an array's time that its floor is measured for.
SHARE_OF_FLOOR = 0.2


def small_int() -> object:
    """Return what most examples send."""
    return 7


def small_dict() -> object:
    """Return a message as programs have them."""
    return {"id": 7, "name": "worker", "score": 1.5, "ok": True}


def bytes_64k() -> object:
    """Return what is large, but not very."""
    return bytes(64 << 10)


@cache
def array_16m() -> Any:  # noqa: ANN401 - an array, whose module may not be there
    """Return an array whose pages are all there, made once in a process."""
    return arrays.ones(ARRAY_BYTES)


def transfer(index: int, things: Sequence[Any], order: Numbers) -> Numbers:
    """Put or get so many items, and tell when that began and ended; for none, the CPU time."""
    queue, make = things
    count = int(order[0])
    item = make()
    if count == 0:
        return (time.process_time(),)
    began = time.perf_counter()
    if index % 2 == 0:
        for _ in range(count):
            queue.put(item)
    else:
        for _ in range(count):
            queue.get()
    return (began, time.perf_counter())


def _cpu_seconds(peers: Peers, contender: Contender) -> float:
    """Return the CPU time of the workers' processes; threads are all in one."""
    each = [seconds for (seconds,) in peers.ask(0)]
    return max(each) if contender.has_threads else sum(each)


def _measure(
    pairs: int,
    make_queue: Callable[[Contender], object],
    make_item: Callable[[], object],
    contender: Contender,
    seconds: float,
) -> Sample:
    items = 0

    def run(turns: int) -> float:
        nonlocal items
        items += turns * pairs
        found = peers.ask(turns)
        took = max(ended for _, ended in found) - min(began for began, _ in found)
        return took / pairs

    with Peers(contender, transfer, 2 * pairs, [make_queue(contender), make_item]) as peers:
        before = _cpu_seconds(peers, contender)
        each = timing.seconds_each(run, seconds)
        cpu = _cpu_seconds(peers, contender) - before
    return Sample([1e6 * one for one in each], {"cpu_us": 1e6 * cpu / items})


def _measure_array(contender: Contender, seconds: float) -> Sample:
    """Measure what an array takes, and how many times that is what copying it takes."""
    floor = arrays.copy_seconds(array_16m(), seconds * SHARE_OF_FLOOR)
    sample = _measure(1, partial(_queue, 2), array_16m, contender, seconds)
    copies = statistics.median(sample.values) / (1e6 * floor)
    return Sample(sample.values, {**sample.details, "copy_us": 1e6 * floor, "copies": copies})


def _queue(maxsize: int, contender: Contender) -> object:
    return contender.queue(maxsize)


def _simple_queue(contender: Contender) -> object:
    return contender.simple_queue()


_unlimited = partial(_queue, 0)


def _row(
    name: str,
    title: str,
    make_item: Callable[[], object],
    reach: Mapping[str, float],
    *,
    pairs: int = 1,
    make_queue: Callable[[Contender], object] = _unlimited,
    rivals: Mapping[str, float] | None = None,
) -> Row:
    measure = partial(_measure, pairs, make_queue, make_item)
    return Row(name, title, Unit.MICROSECONDS, measure, reach, rivals=rivals or {})


ROWS = [
    _row(
        "queue_int",
        "Queue, 1 producer, 1 consumer, small int",
        small_int,
        goals(15, 7),
        rivals={FASTER_FIFO: 18},
    ),
    _row(
        "simple_queue_int",
        "the same, SimpleQueue",
        small_int,
        {"threading": 1},
        make_queue=_simple_queue,
    ),
    _row("queue_dict", "Queue, a small dict", small_dict, goals(4, 7), rivals={FASTER_FIFO: 0}),
    _row(
        "queue_bytes",
        "Queue(64), 64 KiB of bytes",
        bytes_64k,
        {"multiprocessing": 3},
        make_queue=partial(_queue, 64),
        rivals={FASTER_FIFO: 0},
    ),
    _row(
        "queue_2p2c",
        "Queue, 2 producers, 2 consumers, small int",
        small_int,
        goals(8, 5),
        pairs=2,
        rivals={FASTER_FIFO: 0},
    ),
    Row(
        "queue_array",
        "Queue(2), 16 MiB NumPy array",
        Unit.MICROSECONDS,
        _measure_array,
        {"multiprocessing": 12},
    ),
]
