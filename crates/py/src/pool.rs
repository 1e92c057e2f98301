// SPDX-License-Identifier: MIT
//! The engine of the pools: one for `WorkerPool` and `WorkerPoolExecutor`, for threads and
//! processes.
//!
//! A *job* is a call of the pool; it consists of *tasks*, each of which one worker runs. A task's
//! number is its job's, and its own within the job. Here is all that happens between a call and its
//! result; starting workers and looking after them is Python's (`_crew.py`).
//!
//! ```text
//!   handle, job_handle    what Python sees
//!   feed -> sending       from items to tasks in the queue       functions, common: what is sent once
//!   worker                runs tasks, in its own thread or process
//!   receiving -> settling -> assembly    from outcomes in the queue to results
//!   collector             when nobody waits                      ending: cancelled, broken, terminated
//!   engine: what they share    job, state, taking: how far a call is     wire: messages
//! ```
//!
//! No lock is held while Python code runs: pickling, unpickling, callbacks, finalizers.

mod assembly;
mod collector;
mod common;
mod ending;
mod engine;
mod failures;
mod feed;
mod functions;
mod handle;
mod job;
mod job_handle;
mod lane;
mod pace;
mod receiving;
mod registry;
mod sending;
mod settling;
mod sharing;
mod state;
mod taking;
mod wire;
mod worker;

pub(crate) use feed::Feeder;
pub(crate) use handle::EngineHandle;
pub(crate) use job_handle::{JobHandle, Results};
pub(crate) use worker::{Link, restore_link};
