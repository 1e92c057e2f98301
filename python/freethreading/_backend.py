"""Which backend this interpreter uses: decided once, when the package is imported."""

from __future__ import annotations

import os
import sys

from freethreading import _native

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Backend: TypeAlias = Literal["threading", "multiprocessing"]

VARIABLE = "FREETHREADING_BACKEND"


def is_gil_enabled() -> bool:
    """Return whether this interpreter runs one thread at a time, right now."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _choose() -> Backend:
    choice = os.environ.get(VARIABLE)
    if choice is None:
        return "multiprocessing" if is_gil_enabled() else "threading"
    if choice == "threading":
        return "threading"
    if choice == "multiprocessing":
        return "multiprocessing"
    message = f"{VARIABLE} must be 'threading' or 'multiprocessing', not {choice!r}"
    raise ValueError(message)


_BACKEND: Backend = _choose()
_HAD_GIL = is_gil_enabled()
_native.set_backend(_BACKEND == "multiprocessing")


def get_backend() -> Backend:
    """Return "threading" if workers are threads, "multiprocessing" if they are processes.

    Threads are chosen where the GIL was disabled when `freethreading` was imported. The
    environment variable FREETHREADING_BACKEND=threading|multiprocessing overrides it. Workers
    inherit the choice.

    >>> from freethreading import get_backend
    >>> get_backend() in ("threading", "multiprocessing")
    True
    """
    return _BACKEND


def pass_on_to_processes() -> None:
    """See to it that worker processes choose as this one did.

    They do by themselves, except where this interpreter could run without the GIL: there the
    GIL may be on here because of something that the worker imports only later.
    """
    if hasattr(sys, "_is_gil_enabled"):
        os.environ[VARIABLE] = _BACKEND


_has_warned = False


def warn_if_gil_returned() -> None:
    """Warn, once, if workers are threads and the GIL came back after the import."""
    global _has_warned  # noqa: PLW0603  # a warning per process
    if _BACKEND != "threading" or _HAD_GIL or _has_warned or not is_gil_enabled():
        return
    _has_warned = True
    import warnings  # noqa: PLC0415  # rarely needed

    warnings.warn(
        "the GIL came back after freethreading was imported, so its workers, which are "
        f"threads, run one at a time. Likely cause: {_suspects()}. Upgrade that package, or set "
        "PYTHON_GIL=0 to keep the GIL off, or FREETHREADING_BACKEND=multiprocessing to use "
        "processes",
        RuntimeWarning,
        stacklevel=3,
    )


def _suspects() -> str:
    """Name the extension modules that were imported after this package."""
    from importlib.machinery import EXTENSION_SUFFIXES  # noqa: PLC0415  # rarely needed

    names = list(sys.modules)
    later = names[names.index(__name__) + 1 :] if __name__ in names else names
    suffixes = tuple(EXTENSION_SUFFIXES)
    found = [name for name in later if _origin(name).endswith(suffixes)]
    outside = [name for name in found if name.partition(".")[0] not in sys.stdlib_module_names]
    suspects = outside or found
    if not suspects:
        return "an extension module without support for free threading"
    return "the extension module " + " or ".join(repr(name) for name in suspects[:5])


def _origin(name: str) -> str:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "origin", None) or ""
