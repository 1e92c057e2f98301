"""Runs one of the pinned development tools (maturin, mypy, ruff) from its private environment."""

from __future__ import annotations

import subprocess
import sys

import interpreters
import venvs
import watched

USAGE = 2


def main() -> int:
    """Run the tool that the first argument names."""
    if len(sys.argv) < USAGE:
        print("usage: tool.py maturin|mypy|ruff [ARGUMENT ...]", file=sys.stderr)
        return USAGE
    watched.end_by_exception()
    progress = watched.Progress("development tools", sys.stderr)
    interpreter = interpreters.this_one(progress)
    if interpreter is None:
        print(f"{sys.executable} is no Python with venv, ensurepip and ssl", file=sys.stderr)
        return 1
    tools = venvs.tools(interpreter, progress)
    return subprocess.run([tools.program(sys.argv[1]), *sys.argv[2:]]).returncode


if __name__ == "__main__":
    sys.exit(main())
