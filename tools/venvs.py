"""Virtual environments in the cache folder, each made once per interpreter and requirements."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

import places
import watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from interpreters import Interpreter

REQUIREMENTS = places.REPOSITORY / "requirements"
SECONDS_TO_INSTALL = 600.0
LINES_OF_A_FAILURE = 30


class VenvError(Exception):
    """A virtual environment could not be made; the text is what the failing command said."""


class Venv:
    """A virtual environment that holds what a requirements file names."""

    def __init__(self, folder: Path) -> None:
        """Name a folder; `held` makes the environment."""
        self.folder = folder

    def program(self, name: str) -> Path:
        """Return a program of the environment."""
        return self.folder / "bin" / name

    def pip_install(self, arguments: list[str | Path], progress: watched.Progress) -> None:
        """Install what pip is told to."""
        python = self.program("python")
        self._run([python, "-m", "pip", "install", "--quiet", *arguments], progress)

    def _run(self, command: list[str | Path], progress: watched.Progress) -> None:
        log = self.folder.with_name(f"{self.folder.name}.log")
        ended = watched.run(
            command, log, progress, timeout=SECONDS_TO_INSTALL, env=clean_environment()
        )
        if not ended.is_good:
            told = " ".join(map(str, command))
            message = f"failed: {told}\n{ended.tail(LINES_OF_A_FAILURE)}"
            raise VenvError(message)

    def create(self, base: Path, requirements: Path | None, progress: watched.Progress) -> None:
        """Make the environment, unless that has been done; the caller holds its lock."""
        complete = self.folder / ".complete"
        if complete.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self._run([base, "-m", "venv", self.folder], progress)
        if requirements is not None:
            self.pip_install(["--requirement", requirements], progress)
        complete.touch()


def tools(interpreter: Interpreter, progress: watched.Progress) -> Venv:
    """Return the environment of the development tools; once made, it never changes."""
    with held("tools", interpreter, REQUIREMENTS / "tools.txt", progress) as venv:
        return venv


def tests(
    interpreter: Interpreter, progress: watched.Progress
) -> contextlib.AbstractContextManager[Venv]:
    """Hold the environment that the package is tested in."""
    return held("test", interpreter, REQUIREMENTS / "test.txt", progress)


@contextlib.contextmanager
def held(
    purpose: str,
    interpreter: Interpreter,
    requirements: Path | None,
    progress: watched.Progress,
) -> Iterator[Venv]:
    """Hold an environment for this process alone, made if need be; wait while another holds it."""
    progress.phase(f"{purpose} environment for {interpreter.kind}")
    folder = places.cache() / "venvs" / _name(purpose, interpreter, requirements)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".lock-{folder.name}").open("w") as lock:
        watched.take(lock, progress, folder.name)
        venv = Venv(folder)
        venv.create(interpreter.executable, requirements, progress)
        yield venv


def _name(purpose: str, interpreter: Interpreter, requirements: Path | None) -> str:
    """Name an environment after all that decides what is in it."""
    told = hashlib.sha256(f"{interpreter.executable} {interpreter.version}".encode())
    if requirements is not None:
        for file in sorted(REQUIREMENTS.glob("*.txt")):
            told.update(file.read_bytes())
    return f"{purpose}-{interpreter.kind}-{told.hexdigest()[:12]}"


def clean_environment() -> dict[str, str]:
    """Return the environment without what would change how Python or the package behaves."""
    unwanted = ("PYTHON", "FREETHREADING_BACKEND", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
