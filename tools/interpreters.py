"""Finds the Python interpreters that the tests need, and obtains the required ones.

`--list` shows what is there; `--ensure` also obtains what is required and missing: by uv if it can,
else by building it from CPython's source (once per machine, about 2.5 minutes each).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cpython
import debian
import places
import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDER = ("3.11", "3.12", "3.13")
REQUIRED = ("3.14", "3.14t")
KINDS = (*OLDER, *REQUIRED)
SECONDS_TO_PROBE = 30.0
SECONDS_FOR_UV = 300.0

# Imports what a virtual environment and pip need: an interpreter without it is of no use.
PROBE = """
import ensurepip, json, ssl, sys, sysconfig, venv, zlib
print(json.dumps({
    "name": sys.implementation.name,
    "version": list(sys.version_info[:4]),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "pip": ensurepip.version(),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """One that runs: `kind` is "3.14t", `version` "3.14.7", `origin` where it was found."""

    kind: str
    version: str
    executable: Path
    origin: str


def find(kind: str) -> Interpreter | None:
    """Return the first usable interpreter of a kind, obtaining nothing."""
    for path, origin in _candidates(kind):
        found = probe(path, origin)
        if found is not None and found.kind == kind:
            return found
    return None


@functools.cache
def probe(path: Path, origin: str) -> Interpreter | None:
    """Run a candidate and return what it is; None if it doesn't work (as an unselected shim)."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    try:
        told = subprocess.run(
            [path, "-I", "-c", PROBE],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_TO_PROBE,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode != 0:
        return None
    facts = json.loads(told.stdout)
    *numbers, level = facts["version"]
    if facts["name"] != "cpython" or level != "final":
        return None
    kind = f"{numbers[0]}.{numbers[1]}" + "t" * facts["free_threaded"]
    return Interpreter(kind, ".".join(map(str, numbers)), Path(facts["executable"]), origin)


def _candidates(kind: str) -> Iterator[tuple[Path, str]]:
    """Yield what may be an interpreter of a kind: PATH, pyenv's versions, uv's, the cache."""
    yield Path(sys.executable), "this one"
    for name in dict.fromkeys([f"python{kind}", f"python{kind.rstrip('t')}", "python3"]):
        for folder in os.get_exec_path():
            if os.access(path := Path(folder) / name, os.X_OK):
                yield path, "PATH"
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in _newest_first(root / "versions", kind):
        yield path, "pyenv"
    for path in _newest_first(_uv_folder(), kind):
        yield path, "uv"
    for path in _newest_first(places.cache() / "cpython", kind):
        if cpython.is_finished(path.parent.parent):
            yield path, "cache"


def _newest_first(folder: Path | None, kind: str) -> list[Path]:
    """Return the interpreters of a kind installed below a folder, one prefix per version."""
    if folder is None:
        return []
    found = folder.glob(f"*/bin/python{kind}")

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.parent.parent.name)]

    return sorted(found, key=version, reverse=True)


@functools.cache
def _uv_folder() -> Path | None:
    """Return where uv keeps its interpreters, if uv is there."""
    if shutil.which("uv") is None:
        return None
    told = subprocess.run(["uv", "python", "dir"], stdout=subprocess.PIPE, text=True)
    return Path(told.stdout.strip()) if told.returncode == 0 else None


def this_one(progress: watched.Progress) -> Interpreter | None:
    """Return the interpreter that runs this; Debian's own is completed with venv if need be."""
    executable = Path(sys.executable)
    found = probe(executable, "this one")
    if found is None and executable.is_relative_to("/usr/bin") and debian.can_install():
        progress.end("installs python3-venv, which Debian's Python needs for environments")
        debian.install(["python3-venv"], progress)
        probe.cache_clear()
        found = probe(executable, "this one")
    return found


def find_all() -> dict[str, Interpreter]:
    """Return the usable interpreters by kind, obtaining nothing."""
    found = {kind: find(kind) for kind in KINDS}
    return {kind: interpreter for kind, interpreter in found.items() if interpreter is not None}


def ensure(progress: watched.Progress) -> tuple[dict[str, Interpreter], list[str]]:
    """Return the interpreters by kind, required ones obtained, and what could not be had."""
    progress.phase("looking for interpreters")
    this_one(progress)
    found = find_all()
    problems: list[str] = []
    for kind in REQUIRED:
        if kind in found:
            continue
        try:
            found[kind] = _obtain(kind, progress)
        except cpython.BuildError as error:
            problems.append(f"{kind} is required and can't be had: {error}")
    if not any(kind in found for kind in OLDER):
        problems.append(f"none of {', '.join(OLDER)} is there; one of them is required")
    return {kind: found[kind] for kind in KINDS if kind in found}, problems


def _obtain(kind: str, progress: watched.Progress) -> Interpreter:
    """Get a required interpreter that is missing."""
    if shutil.which("uv") is not None:
        progress.phase(f"uv python install {kind}")
        log = places.OUTPUT / "uv.log"
        command = ["uv", "python", "install", kind]
        ended = watched.run(command, log, progress, timeout=SECONDS_FOR_UV)
        if ended.is_good and (interpreter := find(kind)):
            return interpreter
        progress.end(f"uv can't, so it is built from source: {ended.tail(1)}")
    free_threaded = kind.endswith("t")
    cpython.build(progress, free_threaded=free_threaded)
    # Found by its path, and not as a candidate among others: none of them was usable.
    installed = cpython.prefix(free_threaded=free_threaded)
    interpreter = probe(installed / "bin" / f"python{kind}", "cache")
    if interpreter is None or interpreter.kind != kind:
        message = f"{installed} was built but doesn't work; remove that folder and try again"
        raise cpython.BuildError(message)
    return interpreter


def table(found: dict[str, Interpreter]) -> str:
    """Return one line per kind, for a person."""
    lines = [
        f"{kind:5}  {(one := found[kind]).version:7}  {one.origin:8}  {one.executable}"
        if kind in found
        else f"{kind:5}  missing  {'required' if kind in REQUIRED else 'used where present'}"
        for kind in KINDS
    ]
    return "\n".join(lines)


def main() -> int:
    """Show or obtain interpreters; the exit status says whether all that is required is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is there (the default)")
    what.add_argument("--ensure", action="store_true", help="obtain what is required and missing")
    if not parser.parse_args().ensure:
        print(table(found := find_all()))
        return 0 if set(REQUIRED) <= set(found) else 1
    watched.end_by_exception()
    progress = watched.Progress("interpreters")
    found, problems = ensure(progress)
    progress.phase("interpreters")
    progress.end("; ".join(problems) or "all there")
    print(table(found))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
