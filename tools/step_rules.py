"""Rules for the named steps of the engine, at which tests kill a process.

Before and after each store that other processes can see stands a step (`crash::step!`), with a name
of its own that is in the list of `crash/steps.rs`. A store that needs none says so in the comment
before it: "No step: why", or "No step, twice: why" for two of them.

"Before" and "after" are meant as the text is read: no other store is in between, in the same
function; what the other branch of an `if` does isn't.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SOURCES = places.REPOSITORY / "crates" / "core" / "src"
LIST = SOURCES / "crash" / "steps.rs"

# Files whose stores no other process sees, and why.
LEFT_OUT = {
    "crash": "it is what the steps are made of",
    "family/mapping.rs": "where a process has mapped the family's file is its own",
    "family/tests.rs": "tests",
    "futex": "they stand for the kernel, in models",
    "model.rs": "models run in one process",
    "pool/desk.rs": "callers sit at a desk of their own process",
    "primitive": "the switch to the models' atomics, and these",
    "spin.rs": "how long a process looks is its own",
    "storage/fork_safe.rs": "a process's own registries",
    "storage/local.rs": "private memory",
    "storage/thread.rs": "the threads of a process are its own",
}

ATOMIC = r"\.(?:store|swap|fetch_\w+|compare_exchange(?:_weak)?)\s*\("
RAW = (
    r"unsafe \{[^{}]*?\.(?:write|write_bytes|write_unaligned|write_volatile|copy_from"
    r"|copy_from_nonoverlapping)(?:::<[^>]*>)?\("
)
FILE = r"(?<!fn )\b(?:pwrite|ftruncate|fallocate)\("
EVENT = re.compile(
    rf"(?P<function>\bfn \w+)|(?P<step>\bstep!\(\s*\"(?P<name>[^\"]*)\"\s*,?\s*\))"
    rf"|(?P<store>{ATOMIC}|{RAW}|{FILE})"
)
EXEMPTION = re.compile(r"//.*\bNo step(?:, (?P<times>twice|\w+ times))?: \S")
TIMES = {None: 1, "twice": 2, "three times": 3, "four times": 4}


@dataclass(frozen=True)
class Event:
    """Something that the rules are about, and where in the text it stands."""

    kind: str
    start: int
    end: int
    name: str | None


def broken() -> list[str]:
    """Return the places where a rule is broken."""
    found: list[str] = []
    used: dict[str, str] = {}
    for file in sorted(SOURCES.glob("**/*.rs")):
        inside = file.relative_to(SOURCES).as_posix()
        if not any(inside.startswith(left_out) for left_out in LEFT_OUT):
            found += _in_file(file, used)
    listed = re.findall(r'^    "([^"]+)",$', LIST.read_text(encoding="utf-8"), re.MULTILINE)
    found += [f"{_place(LIST)}: {name} is no step's name" for name in listed if name not in used]
    found += [f"{used[name]}: {name} isn't listed" for name in used if name not in listed]
    found += [f"{_place(LIST)}: {name} is listed twice" for name in _twice(listed)]
    return [*found, *_released()]


def _in_file(file: Path, used: dict[str, str]) -> Iterator[str]:
    """Check the stores and the names of one file."""
    text = file.read_text(encoding="utf-8").partition("#[cfg(test)]\nmod tests {")[0]
    code = _without_comments(text)
    events = [_event(match) for match in EVENT.finditer(code)]
    exempt = _exempt(text, events)
    for number, event in enumerate(events):
        place = f"{_place(file)}:{text.count(chr(10), 0, event.end) + 1}"
        if event.kind == "step" and event.name is not None:
            if event.name in used:
                yield f"{place}: {event.name} is the name of a step at {used[event.name]}, too"
            used.setdefault(event.name, place)
        if event.kind == "store" and event not in exempt:
            if not _is_step_before(code, events[:number], event.start):
                yield f"{place}: no step before a store"
            if not _is_step_after(code, events[number + 1 :], event.end):
                yield f"{place}: no step after a store"


def _event(match: re.Match[str]) -> Event:
    kind = match.lastgroup if match.lastgroup != "name" else "step"
    return Event(kind or "", match.start(), match.end(), match["name"])


def _without_comments(text: str) -> str:
    """Blank comments out; everything keeps its place."""
    return re.sub(r"//[^\n]*", lambda comment: " " * len(comment[0]), text)


def _exempt(text: str, events: Sequence[Event]) -> set[Event]:
    """Return the stores that need no step, as the comments before them say."""
    exempt: set[Event] = set()
    for comment in EXEMPTION.finditer(text):
        stores = [it for it in events if it.kind == "store" and it.start > comment.start()]
        exempt.update(stores[: TIMES[comment["times"]]])
    return exempt


def _is_step_before(code: str, events: Sequence[Event], place: int) -> bool:
    """Whether the last event before a place is a step, on the way that leads there."""
    for event in reversed(events):
        other_branch = _last_else(code, event.end, place)
        if other_branch is not None and _opening(code, other_branch) < event.start:
            continue
        return event.kind == "step"
    return False


def _is_step_after(code: str, events: Sequence[Event], place: int) -> bool:
    """Whether the first event after a place is a step, on the way that leads on from there."""
    for event in events:
        if any(
            match.end() - 1 < event.start < _closing(code, match.end() - 1)
            for match in re.finditer(r"\} else \{", code[: event.start])
            if match.start() >= place and _opening(code, match.start()) < place
        ):
            continue
        return event.kind == "step"
    return False


def _last_else(code: str, start: int, end: int) -> int | None:
    """Return where the branch before an `else` between two places ends, if `end` is in it."""
    for match in reversed(list(re.finditer(r"\} else \{", code[:end]))):
        if match.start() >= start and _closing(code, match.end() - 1) > end:
            return match.start()
    return None


def _opening(code: str, closing: int) -> int:
    """Return the place of the brace that a closing one belongs to."""
    depth = 0
    for place in range(closing, -1, -1):
        depth += {"}": 1, "{": -1}.get(code[place], 0)
        if depth == 0:
            return place
    return 0


def _closing(code: str, opening: int) -> int:
    """Return the place of the brace that closes an opening one."""
    depth = 0
    for place in range(opening, len(code)):
        depth += {"{": 1, "}": -1}.get(code[place], 0)
        if depth == 0:
            return place
    return len(code)


def _twice(names: Sequence[str]) -> list[str]:
    return [one for one, other in pairwise(sorted(names)) if one == other]


def _place(file: Path) -> str:
    return file.relative_to(places.REPOSITORY).as_posix()


def _released() -> Iterator[str]:
    """Check that nothing that is released is built with the feature."""
    for name in ("Cargo.toml", "crates/core/Cargo.toml", "crates/py/Cargo.toml", "pyproject.toml"):
        told = tomllib.loads((places.REPOSITORY / name).read_text(encoding="utf-8"))
        chosen = [told.get("features", {}).get("default", [])]
        chosen += [_features(told.get(kind, {})) for kind in ("dependencies", "dev-dependencies")]
        chosen.append(_features(told.get("workspace", {}).get("dependencies", {})))
        chosen.append(told.get("tool", {}).get("maturin", {}).get("features", []))
        if any(feature.endswith("faults") for features in chosen for feature in features):
            yield f"{name}: `faults` is for tests, and chosen by name only"


def _features(dependencies: dict[str, Any]) -> list[str]:
    """Return the features of all dependencies."""
    told = (it.get("features", []) for it in dependencies.values() if isinstance(it, dict))
    return [feature for features in told for feature in features]
