// SPDX-License-Identifier: MIT
//! The engine of the pools: one for `WorkerPool` and `WorkerPoolExecutor`, for threads and
//! processes.
//!
//! A *job* is a call of the pool; it consists of *tasks*, each of which one worker runs. A task's
//! number is its job's, and its own within the job. Here is all that happens between a call and its
//! result; starting workers and looking after them is Python's (`_crew.py`).
//!
//! No lock is held while Python code runs: pickling, unpickling, callbacks, finalizers.

mod common;
mod engine;
mod feed;
mod functions;
mod handle;
mod job;
mod wire;
mod worker;

pub(crate) use feed::Feeder;
pub(crate) use handle::{EngineHandle, JobHandle};
pub(crate) use worker::{Link, restore_link};
