"""What a fork server imports beforehand, so that its workers needn't."""

from __future__ import annotations

import multiprocessing.connection
import multiprocessing.pool
import pickle

import freethreading
import freethreading._worker_process

__all__ = ["freethreading", "multiprocessing", "pickle"]
