"""`Worker`: the thread or the process, whatever the backend is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from freethreading._backend import get_backend

if TYPE_CHECKING:
    from freethreading._worker_process import Worker
elif get_backend() == "threading":
    from freethreading._worker_thread import Worker
else:
    from freethreading._worker_process import Worker

__all__ = ["Worker"]
