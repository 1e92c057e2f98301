"""What a scenario's main process knows and tells: its subject, its step, and what came of it."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cues
import deeds
import subjects

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# What a process may need to let go of what it has been done with.
SECONDS_TO_SETTLE = 5.0


@dataclass
class Facts:
    """What came of a scenario, as its main process saw it."""

    items: int = 0
    lost: int = 0
    # Of the lost: those of which nothing is ever heard.
    unanswered: int = 0
    doubled: int = 0
    torn: int = 0
    kills: int = 0
    # Whether the thing can be used afterwards, by all.
    usable: bool = True
    # How the task or the wait that was struck ended.
    told: str = ""
    # What ending it raised.
    raised: str = ""
    descriptors: int = 0
    threads: int = 0
    # What its family's memory has in use.
    bytes: int = 0
    skipped: str = ""


@dataclass
class Part:
    """What an act is given."""

    subject: str
    rng: random.Random
    facts: Facts = field(default_factory=Facts)
    _before: tuple[int, int, int] = (0, 0, 0)
    # Open from the beginning: later there may be no descriptors left.
    _step: int = field(
        default_factory=lambda: os.open(cues.folder() / "step", os.O_CREAT | os.O_WRONLY, 0o666)
    )

    def step(self, name: str) -> None:
        """Say what is done now, in case it never ends."""
        os.truncate(self._step, 0)
        os.pwrite(self._step, name.encode(), 0)

    def report(self) -> None:
        """Write down what is known so far."""
        file = cues.folder() / "facts.new"
        file.write_text(json.dumps(asdict(self.facts)), encoding="utf-8")
        file.rename(cues.folder() / "facts")

    def pool(
        self, workers: int = 2, initializer: Callable[..., Any] | None = None
    ) -> subjects.Pool:
        """Make a pool of the subject."""
        return subjects.pool(self.subject, workers, initializer)

    def primitives(self) -> subjects.Primitives:
        """Return the subject's classes."""
        return subjects.Primitives(self.subject)

    def settle_in(self) -> None:
        """Use the subject once, for what it keeps for good, and count what there is then."""
        self.step("warm-up")
        if self.subject in subjects.POOLS:
            pool = self.pool()
            pool.result(pool.submit(deeds.square, 1), cues.PATIENCE)
            pool.close()
            del pool
        else:
            primitives = self.primitives()
            things = primitives.make("Queue"), primitives.make("Barrier", 2)
            primitives.start(deeds.take, things).join()
            del things
        gc.collect()
        self._before = _held()

    def settle_up(self) -> None:
        """Count what this process has more than at first, once it has had time to let go."""
        self.step("letting go")
        deadline = time.monotonic() + SECONDS_TO_SETTLE
        while True:
            gc.collect()
            more = [max(now - then, 0) for now, then in zip(_held(), self._before, strict=True)]
            if not any(more) or time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        self.facts.descriptors, self.facts.threads, self.facts.bytes = more


def _held() -> tuple[int, int, int]:
    """Return how many descriptors and threads this process has, and bytes of shared memory."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    # What others share has names, and is found when all is over.
    native = sys.modules.get("freethreading._native")
    statistics = native.family_statistics() if native is not None else None
    return files, max(threads, threading.active_count()), statistics[2] if statistics else 0
