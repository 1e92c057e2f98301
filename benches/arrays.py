"""Large NumPy arrays, and what it takes to copy one: less than that nobody can need who copies."""

from __future__ import annotations

import importlib
import statistics
import time
from typing import Any

import timing


def ones(count: int) -> Any:  # noqa: ANN401 - an array, whose module may not be there
    """Return an array of so many bytes, whose pages are all there."""
    return importlib.import_module("numpy").ones(count, "u1")


def copy_seconds(source: Any, seconds: float) -> float:  # noqa: ANN401 - as above
    """Return what it takes to copy an array to memory that is there."""
    numpy = importlib.import_module("numpy")
    target = source.copy()

    def run(turns: int) -> float:
        began = time.perf_counter()
        for _ in range(turns):
            numpy.copyto(target, source)
        return time.perf_counter() - began

    return statistics.median(timing.seconds_each(run, seconds))
