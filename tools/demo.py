"""Builds the package as a user would and runs its example: what `make demo` calls.

First on the Python that runs this, then on a free-threaded one, if there is one already.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import interpreters
import places
import venvs
import watched

if TYPE_CHECKING:
    from pathlib import Path

    from interpreters import Interpreter

EXAMPLE = places.REPOSITORY / "examples" / "stdlib_census.py"
BACKEND = "import freethreading; print(freethreading.get_backend())"


def main() -> int:
    """Run the example, with this command's arguments, on each kind of interpreter at hand."""
    watched.end_by_exception()
    default = interpreters.this_one(watched.Progress("demo"))
    if default is None:
        print(f"{sys.executable} is no Python with venv, ensurepip and ssl", file=sys.stderr)
        return 1
    free_threaded = interpreters.find("3.14t")
    wanted = {one.kind: one for one in (default, free_threaded) if one is not None}
    used: list[str] = []
    for interpreter in wanted.values():
        if (backend := _run_on(interpreter)) is None:
            return 1
        used.append(f"Python {interpreter.version} ({interpreter.kind}): {backend}")
    if free_threaded is None:
        used.append("no free-threaded Python is at hand (`make test` builds one)")
    print("\nBackends used:", *used, sep="\n  ")
    return 0


def _run_on(interpreter: Interpreter) -> str | None:
    """Install the package for an interpreter, run the example, and return the backend it used."""
    name = f"pip install . for Python {interpreter.version} ({interpreter.kind})"
    progress = watched.Progress(name)
    try:
        with venvs.held("demo", interpreter, None, progress) as venv:
            progress.phase(name)
            venv.pip_install(["--force-reinstall", places.REPOSITORY], progress)
            progress.end("done")
            return _census(venv.program("python"))
    except (venvs.VenvError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return None


def _census(python: Path) -> str:
    """Run the example in the foreground, so that it can draw its progress bar."""
    environment = venvs.clean_environment()
    told = subprocess.run(
        [python, "-c", BACKEND], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    backend = told.stdout.strip()
    print(f"\n{EXAMPLE.name} on {backend}:", flush=True)
    subprocess.run([python, EXAMPLE, *sys.argv[1:]], env=environment, check=True)
    return backend


if __name__ == "__main__":
    sys.exit(main())
