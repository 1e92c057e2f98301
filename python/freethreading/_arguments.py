"""The argument checks that the front ends of pools and executors share.

Each takes the call it speaks for (`owner`, such as "WorkerPool.map") and the parameter's name, so
that every message says whose argument was wrong, what came and what was expected.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from freethreading._native import check_picklable

if TYPE_CHECKING:
    from collections.abc import Sequence


_MANY = 2**31 - 1


def check_callable(owner: str, name: str, value: object) -> None:
    """Raise TypeError unless `value` can be called."""
    if not callable(value):
        message = f"{owner}: {name} must be callable, not {kind(value)}"
        raise TypeError(message)


def check_callbacks(owner: str, callback: object, error_callback: object) -> None:
    """Raise TypeError unless each is None or can be called."""
    if callback is not None:
        check_callable(owner, "callback", callback)
    if error_callback is not None:
        check_callable(owner, "error_callback", error_callback)


def checked_count(owner: str, name: str, value: object) -> int:
    """Return `value` as an int of at least 1; a bool or a float is no number of things."""
    if isinstance(value, bool):
        message = f"{owner}: {name} must be a whole number, not {kind(value)}"
        raise TypeError(message)
    try:
        count = operator.index(value)  # type: ignore[arg-type]  # that is what it finds out
    except TypeError:
        message = f"{owner}: {name} must be a whole number, not {kind(value)}"
        raise TypeError(message) from None
    if count < 1:
        message = f"{owner}: {name} must be at least 1, not {count}"
        raise ValueError(message)
    # As good as any larger number, and one that the engine can count with.
    return min(count, _MANY)


def checked_positional(owner: str, name: str, value: object) -> tuple[object, ...]:
    """Return the iterable `value` as a tuple of positional arguments."""
    if not isinstance(value, Iterable):
        message = f"{owner}: {name} must be an iterable of arguments, not {kind(value)}"
        raise TypeError(message)
    return tuple(value)


def checked_keywords(owner: str, name: str, value: object) -> dict[str, object]:
    """Return the mapping `value` (or None) as a dictionary of keyword arguments."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        message = f"{owner}: {name} must be a mapping of names to arguments, not {kind(value)}"
        raise TypeError(message)
    keywords = dict(value)
    for key in keywords:
        if not isinstance(key, str):
            message = f"{owner}: the keys of {name} must be strings, not {kind(key)}"
            raise TypeError(message)
    return keywords


def checked_initializer(owner: str, initializer: object, initargs: object) -> tuple[object, ...]:
    """Check both halves of an initializer and return its arguments as a tuple."""
    if initializer is not None:
        check_callable(owner, "initializer", initializer)
    arguments = checked_positional(owner, "initargs", initargs)
    check_picklable(owner, "initializer", initializer)
    for index, argument in enumerate(arguments):
        check_picklable(owner, f"initargs[{index}]", argument, lasts=True)
    return arguments


def check_items(owner: str, items: Sequence[object], first: int = 0) -> None:
    """Raise ValueError, naming the item, if one of `items` can't be pickled.

    They are looked at together, which is quick, and one by one only to find the culprit. `first` is
    the position of `items[0]` in the iterable that they come from.
    """
    try:
        check_picklable(owner, "an item", items)
    except ValueError:
        for index, item in enumerate(items, first):
            check_picklable(owner, f"item {index}", item)
        raise


def kind(value: object) -> str:
    """Return how a message shows a value of the wrong type: `2.5 (float)`, shortened if need be."""
    text = repr(value)
    longest = 60
    if len(text) > longest:
        text = text[:longest] + "..."
    return f"{text} ({type(value).__name__})"
