"""The package as a user would have it, in an environment of its own for each interpreter."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import interpreters
import places
import venvs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import watched
    from interpreters import Interpreter

# What rows of large arrays need, and whom we are compared with, beside the standard library.
ARRAYS = venvs.REQUIREMENTS / "arrays.txt"
RIVALS = venvs.REQUIREMENTS / "contenders.txt"
# What the installed package is made of.
SOURCES = ("crates/**/*.rs", "crates/*/Cargo.toml", "Cargo.*", "python/**/*.py*", "pyproject.toml")


@dataclass(frozen=True)
class Installed:
    """A Python that has the package, and the folders of the rivals that there are, by name."""

    python: Path
    rivals: Mapping[str, Path]


def obtain(kinds: Sequence[str], progress: watched.Progress) -> list[Interpreter]:
    """Return the interpreters of these kinds that can be had."""
    found = {kind: one for kind in kinds if (one := interpreters.find(kind)) is not None}
    if set(kinds) - set(found):
        found, problems = interpreters.ensure(progress)
        for problem in problems:
            progress.end(problem)
    return [found[kind] for kind in kinds if kind in found]


@contextlib.contextmanager
def held(interpreter: Interpreter, progress: watched.Progress) -> Iterator[Path]:
    """Hold an environment with the package and NumPy in it, for us alone; yield its Python.

    The package is built as `pip install .` does, unless the same sources are there already.
    """
    with venvs.held("bench", interpreter, ARRAYS, progress) as venv:
        stamp, fingerprint = venv.folder / ".installed", _fingerprint()
        if not stamp.exists() or stamp.read_text(encoding="ascii") != fingerprint:
            stamp.unlink(missing_ok=True)
            progress.phase(f"pip install . for Python {interpreter.version} ({interpreter.kind})")
            venv.pip_install(["--no-deps", "--force-reinstall", places.REPOSITORY], progress)
            stamp.write_text(fingerprint, encoding="ascii")
        yield venv.program("python")


def rivals(
    names: Sequence[str], interpreter: Interpreter, progress: watched.Progress
) -> dict[str, Path]:
    """Return folders of modules, apart from ours and each other's, with a rival in each.

    One that can't be installed is left out, and it is said why: some are built where there is no
    wheel of them, which takes a compiler.
    """
    found: dict[str, Path] = {}
    for line in RIVALS.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name in names:
            try:
                found[name] = _rival(line, f"{name}-{version}", interpreter, progress)
            except venvs.VenvError as error:
                progress.phase(f"without {name}")
                progress.end(f"can't be installed for Python {interpreter.version}", str(error))
    return found


def _rival(
    requirement: str, what: str, interpreter: Interpreter, progress: watched.Progress
) -> Path:
    """Return the folder of modules of an environment with one rival; once made, it stays."""
    with venvs.held(what, interpreter, None, progress) as venv:
        stamp = venv.folder / ".installed"
        if not stamp.exists():
            progress.phase(f"pip install {requirement} for Python {interpreter.version}")
            venv.pip_install([requirement], progress)
            stamp.touch()
        return next(venv.folder.glob("lib/python*/site-packages"))


def _fingerprint() -> str:
    """Name the state of the sources."""
    told = hashlib.sha256()
    for file in sorted(file for form in SOURCES for file in places.REPOSITORY.glob(form)):
        if file.is_file() and file.suffix not in (".pyc", ".so"):
            told.update(f"{file.relative_to(places.REPOSITORY)}\n".encode())
            told.update(file.read_bytes())
    return told.hexdigest()
