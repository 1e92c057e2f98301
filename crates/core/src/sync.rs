// SPDX-License-Identifier: MIT
//! The synchronization primitives. Each is one struct of atomics and one file.

mod barrier;
mod condition;
mod event;
mod lock;
pub(crate) mod mutex;
mod per_process;
mod rlock;
mod semaphore;
mod wait_list;
mod waiters;

pub use barrier::{Barrier, BarrierWait, Turn};
pub use condition::{Condition, Notified, Waiting};
pub use event::{Event, EventWait};
pub use lock::{Acquire, Lock, NotHeld};
pub use rlock::{RLock, SavedDepth};
pub use semaphore::{AboveBound, MAX_PERMITS, Semaphore, SemaphoreAcquire};
