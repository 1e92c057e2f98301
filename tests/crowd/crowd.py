"""Have the crowd play one play: `python tests/crowd/crowd.py PLAY SEED SECONDS`; see `stage.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import crews
import passages
import primitives
import stage

PLAYS: dict[str, type[stage.Play]] = {
    "locks": primitives.Locks,
    "semaphores": primitives.Semaphores,
    "conditions": primitives.Conditions,
    "barriers": primitives.Barriers,
    "queues": passages.Queues,
    "meetings": passages.Meetings,
    "workers": crews.Workers,
    "pools": crews.Pools,
    "executors": crews.Executors,
}


def main() -> int:
    """Play; say what failed."""
    name, seed, seconds = sys.argv[1:]
    failures = stage.perform(PLAYS[name](int(seed)), seed, float(seconds))
    sys.stderr.write("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
