"""Where things lie: the repository, and what the tools keep under the user's cache directory."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Logs and wheels of a run; `make clean` and .gitignore know the folder as Cargo's.
OUTPUT = REPOSITORY / "target" / "tools"


def cache() -> Path:
    """Return the project's cache folder: interpreters that it built, and virtual environments."""
    if chosen := os.environ.get("FREETHREADING_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "freethreading"
