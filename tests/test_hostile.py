"""Wrong and hostile input: overwritten shared memory, mutated messages, made up handles, strangers.

The programs are in `hostile_programs.py`; all are about processes, on every interpreter. What they
do comes from a seed, always the same one in a short run. `FUZZ_MINUTES` makes for long ones with
seeds of their own (`make fuzz`), `FUZZ_SEED` repeats one.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from support import run_python
from test_worker import once_per_kind

pytestmark = once_per_kind

PROGRAMS = Path(__file__).with_name("hostile_programs.py")
NONSENSE = ("messages", "pools", "beside", "handles")
MINUTES = float(os.environ.get("FUZZ_MINUTES") or 0) / len(NONSENSE)
SECONDS = 2.0
# Of a longer run, which begins again with new memory.
LONGER = 5.0
# For the start and the end of a program, however busy the machine is.
PATIENCE = 90.0


def run_hostile(program: str, seed: int, seconds: float) -> None:
    finished = run_python(
        PROGRAMS,
        *(program, str(seed), str(seconds)),
        env={"FREETHREADING_BACKEND": "multiprocessing"},
        options=("-W", "ignore::DeprecationWarning"),
        timeout=seconds + PATIENCE,
    )
    assert finished.returncode == 0, f"FUZZ_SEED={seed}: {finished}"
    assert not finished.timed_out, f"FUZZ_SEED={seed}: {finished}"


@pytest.mark.watchdog(PATIENCE + 60 * MINUTES + 20)
@pytest.mark.parametrize("program", NONSENSE)
def test_nonsense_is_an_exception(program: str) -> None:
    seed = os.environ.get("FUZZ_SEED")
    if seed is not None:
        run_hostile(program, int(seed), LONGER)
        return
    run_hostile(program, 1, SECONDS)
    source = random.SystemRandom()
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        run_hostile(program, source.randrange(2**32), LONGER)


def test_bytes_that_claim_to_lie_elsewhere_are_not_read() -> None:
    """They were read in the message's own blob, however long they claimed to be."""
    run_hostile("claims", 1, 0)


def test_a_stranger_with_a_guessed_handle_stays_out() -> None:
    run_hostile("strangers", 1, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_stays_out() -> None:
    run_hostile("users", 1, 0)
