// SPDX-License-Identifier: MIT
//! What the workers of a pool and the one who has work for them share, beside two queues: tasks go
//! out through one, outcomes come back through the other.
//!
//! ```text
//!                     tasks (a queue)                        outcomes (a queue)
//!   who has work  ----------------------> any free worker ----------------------> who waits
//!                                           |  its seat: the task that it has
//! ```
//!
//! Invariant: a task that was put is in the queue of tasks, in exactly one seat, or its outcome was
//! put. A worker takes a task and writes it in its seat in one step, and clears its seat after
//! its outcome was put. So once a worker is dead and all outcomes are read, its seat says
//! whether a task was lost with it, and which.

mod desk;
mod seat;

pub use desk::{Desk, Signal};
pub use seat::Seat;
