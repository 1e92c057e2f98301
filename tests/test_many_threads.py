"""Every class used by sixteen threads at once, with garbage collected and the end in the middle.

`tests/crowd` has the programs: plays, in which threads do deeds at random with objects that others
use, drop and make anew, and whose books are checked; and one that ends while all are at it. Each
runs on both backends, whichever is tested. A short run always does the same deeds;
`CROWD_MINUTES=10` goes on with other seeds for so long, and `CROWD_SEED=7` repeats one, for longer.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from support import Finished, run_python
from test_worker import once_per_kind

pytestmark = once_per_kind

FOLDER = Path(__file__).with_name("crowd")
PLAYS = (
    *("locks", "semaphores", "conditions", "barriers", "queues", "meetings"),
    *("workers", "pools", "executors"),
)
ENDS = {"return": 0, "exit": 3, "raise": 1, "_exit": 5}
BACKENDS = ("threading", "multiprocessing")
# Of all cases together.
MINUTES = float(os.environ.get("CROWD_MINUTES") or 0)
SECONDS_MORE = 60 * MINUTES / (len(BACKENDS) * (len(PLAYS) + len(ENDS)))
SEED = os.environ.get("CROWD_SEED")
SECONDS, LONGER = 0.3, 5.0
# For the start and the end of a program, however busy the machine is.
PATIENCE = 90.0

backends = pytest.mark.parametrize("backend", BACKENDS)


def run_program(program: str, what: str, seed: int, backend: str, *seconds: float) -> Finished:
    arguments = (what, str(seed), *map(str, seconds))
    finished = run_python(
        FOLDER / program,
        *arguments,
        env={"FREETHREADING_BACKEND": backend},
        timeout=sum(seconds) + PATIENCE,
    )
    assert not finished.timed_out, f"CROWD_SEED={seed}: {finished}"
    return finished


def play(name: str, backend: str, seed: int, seconds: float) -> None:
    finished = run_program("crowd.py", name, seed, backend, seconds)
    assert (finished.returncode, finished.stderr) == (0, ""), f"CROWD_SEED={seed}: {finished}"


def end(how: str, backend: str, seed: int) -> None:
    finished = run_program("ends.py", how, seed, backend)
    assert finished.returncode == ENDS[how], f"CROWD_SEED={seed}: {finished}"
    told = finished.stderr
    if how == "raise":
        own, _, told = told.partition("LookupError: the main thread ends\n")
        assert own.startswith("Traceback"), f"CROWD_SEED={seed}: {finished}"
        assert own.count("Traceback") == 1, f"CROWD_SEED={seed}: {finished}"
    assert told == "", f"CROWD_SEED={seed}: {finished}"


@pytest.mark.watchdog(PATIENCE + SECONDS_MORE + 20)
@backends
@pytest.mark.parametrize("name", PLAYS)
def test_sixteen_threads_at_once(name: str, backend: str) -> None:
    if SEED is not None:
        play(name, backend, int(SEED), LONGER)
        return
    play(name, backend, 1, SECONDS)
    source = random.SystemRandom()
    over = time.monotonic() + SECONDS_MORE
    while time.monotonic() < over:
        play(name, backend, source.randrange(2**32), LONGER)


@pytest.mark.watchdog(PATIENCE + SECONDS_MORE + 20)
@backends
@pytest.mark.parametrize("how", ENDS)
def test_the_program_ends_in_the_middle(how: str, backend: str) -> None:
    if SEED is not None:
        end(how, backend, int(SEED))
        return
    end(how, backend, 1)
    source = random.SystemRandom()
    over = time.monotonic() + SECONDS_MORE
    while time.monotonic() < over:
        end(how, backend, source.randrange(2**32))
