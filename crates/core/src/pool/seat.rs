// SPDX-License-Identifier: MIT
//! A worker's seat: what it has in hand, and whether it has come.

use crate::crash;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::{Kind, Shareable};

/// What a worker shows to those who look after it. All-zero: nobody has come yet.
///
/// `task` is written by the claim, under the queue's mutex, and read by others when its worker is
/// dead, or for information.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Seat {
    /// The task in hand; 0: none.
    task: AtomicU64,
    is_ready: AtomicU32,
}

// SAFETY: repr(C), atomics only, valid all-zero; numbers that are compared, nothing else.
unsafe impl Shareable for Seat {
    const KIND: Kind = Kind::Seat;
}

impl Seat {
    /// Where tasks are claimed: for `Queue::get_claimed`.
    #[inline]
    pub fn claim(&self) -> &AtomicU64 {
        &self.task
    }

    /// The task in hand.
    #[inline]
    pub fn task(&self) -> Option<u64> {
        let task = self.task.load(Ordering::Acquire);
        (task != 0).then_some(task)
    }

    /// The task's outcome was put.
    #[inline]
    pub fn clear(&self) {
        crash::step!("seat.clearing");
        // Release: whoever sees the seat free sees the outcome.
        self.task.store(0, Ordering::Release);
        crash::step!("seat.cleared");
    }

    /// The worker is prepared, and takes tasks from now on.
    pub fn set_ready(&self) {
        crash::step!("seat.readying");
        self.is_ready.store(1, Ordering::Release);
        crash::step!("seat.ready");
    }

    /// Whether the worker has come as far as to take tasks.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire) != 0
    }
}
