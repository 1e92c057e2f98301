"""The checks of a new worker's arguments, the same for threads and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from freethreading import _native
from freethreading._errors import WorkerStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def check_arguments(
    group: object,
    target: object,
    args: Iterable[Any],
    kwargs: Mapping[str, Any] | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return args and kwargs as they are kept; raise for what no worker could be given."""
    if group is not None:
        message = f"Worker: group must be None, not {group!r}"
        raise WorkerStateError(message)
    if target is not None and not callable(target):
        message = f"Worker: target must be callable or None, not {type(target).__name__}"
        raise TypeError(message)
    try:
        kept_args = tuple(args)
    except TypeError as error:
        message = f"Worker: args must be an iterable, not {type(args).__name__}"
        raise TypeError(message) from error
    try:
        kept_kwargs = {} if kwargs is None else dict(kwargs)
    except (TypeError, ValueError) as error:
        message = f"Worker: kwargs must be a mapping or None, not {type(kwargs).__name__}"
        raise TypeError(message) from error
    _native.check_picklable("Worker", "target", target)
    _native.check_arguments("Worker", kept_args, kept_kwargs, lasts=True)
    return kept_args, kept_kwargs


def claim_start(worker: Any) -> None:  # noqa: ANN401  # a thread or a process
    """Let one thread start a worker; raise for those that would at the same time."""
    mine = object()
    # Atomic, and nothing that a fork could leave locked.
    if worker.__dict__.setdefault("_start_claim", mine) is not mine:
        message = f"{worker.name} is being started; a worker can be started once"
        raise WorkerStateError(message)


def waive_start(worker: Any) -> None:  # noqa: ANN401  # as above
    """Take a claim back: the worker could not be started, and may be later."""
    worker.__dict__.pop("_start_claim", None)
