"""What the tasks of the pools do. Workers import this module, so it imports little itself."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

ARRAY_BYTES = 8 << 20


def nothing(_item: object) -> None:
    """Do nothing: what is measured is all the rest."""


def spin(turns: int) -> None:
    """Use a core for a while that grows with a number."""
    for _ in range(turns):
        pass


def meet(end: str) -> None:
    """Open one end of a named pipe, which is given as flags and path.

    The kernel opens an end when the other one is opened, so two such tasks end only if each has a
    worker of its own. It costs a few microseconds, and is the same for everybody.
    """
    flags, _, path = end.partition(" ")
    os.close(os.open(path, int(flags)))


def look_at_ends(found: Any) -> int:  # noqa: ANN401 - an array, whose module may not be there
    """Look at an array's first and last item; the others need only have come, too."""
    return int(found[0]) + int(found[-1])


def send_array(_item: object) -> Any:  # noqa: ANN401 - as above
    """Return an array that was there before."""
    return _array()


@cache
def _array() -> Any:  # noqa: ANN401 - as above
    """Return an array whose pages are all there, made once in a process."""
    return importlib.import_module("numpy").ones(ARRAY_BYTES, "u1")
