"""What a fork server imports beforehand, so that its workers needn't."""

from __future__ import annotations

import concurrent.futures.process
import multiprocessing.connection
import pickle

import freethreading
import freethreading._executor
import freethreading._pool
import freethreading._worker_process

__all__ = ["concurrent", "freethreading", "multiprocessing", "pickle"]
