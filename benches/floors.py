"""Runs `crates/core/examples/floors.rs`: what the machine itself takes, without Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import places
import watched
from results import summary

if TYPE_CHECKING:
    from results import Summary

COMMAND = (
    *("cargo", "run", "--quiet", "--release", "--locked"),
    *("--package", "freethreading-core", "--example", "floors"),
)
SECONDS = 600.0
TITLES = {
    "exchange": "exchange an atomic word",
    "lock_private": "our lock's acquire + release, from Rust, between threads",
    "lock_shared": "our lock's acquire + release, from Rust, between processes",
    "round_trip_spinning": "round trip of two spinning threads",
    "round_trip_sleeping_private": "futex round trip of two sleeping threads",
    "round_trip_sleeping_shared": "the same, the futex as between processes",
}


def measure(progress: watched.Progress) -> dict[str, Summary]:
    """Build and run the example; return microseconds by name, none if it fails."""
    progress.phase("floors")
    log = places.REPOSITORY / "target" / "bench" / "logs" / "floors.log"
    ended = watched.run(COMMAND, log, progress, timeout=SECONDS, cwd=places.REPOSITORY)
    if not ended.is_good:
        progress.end("the floors could not be measured", ended.tail(15))
        return {}
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    return {
        line[1]: summary([float(number) for number in line[2:]])
        for line in lines
        if line[:1] == ["floor"]
    }
