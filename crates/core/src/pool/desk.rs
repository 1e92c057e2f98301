// SPDX-License-Identifier: MIT
//! The desk where outcomes arrive: one of those who wait for something takes them in, for all.
//!
//! Whoever waits for a job tries to get the desk. Who has it takes outcomes in, and leaves it as soon as
//! its own job is done. The others sleep until their own job changes; who leaves the desk wakes one
//! of them, which tries again. In case that one isn't there any more, all of them try now and then.

use crate::deadline::Deadline;
use crate::futex::{self, Scope};
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering, fence};

/// Who may take outcomes in: one at a time.
#[derive(Debug, Default)]
pub struct Desk {
    is_taken: AtomicU32,
}

impl Desk {
    /// Takes the desk, if it is free.
    #[inline]
    pub fn try_take(&self) -> bool {
        // Acquire: what the last one did at the desk has happened.
        self.is_taken
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether nobody has it, at this moment.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.is_taken.load(Ordering::SeqCst) == 0
    }

    /// Leaves it. Only by who took it.
    #[inline]
    pub fn leave(&self) {
        // SeqCst: who leaves looks for sleepers next, who goes to sleep whether the desk is free.
        self.is_taken.store(0, Ordering::SeqCst);
    }
}

/// What a thread sleeps on until something changes. In private memory only.
///
/// Nobody sleeps through it: a sleeper counts itself, then looks at the number, and who raises it
/// changes the number, then looks whether there are sleepers, with a full fence in between.
#[derive(Debug, Default)]
pub struct Signal {
    number: AtomicU32,
    sleepers: AtomicU32,
}

impl Signal {
    /// The number of the last change; to be read before looking at what may have changed.
    #[inline]
    pub fn number(&self) -> u32 {
        self.number.load(Ordering::Acquire)
    }

    /// Something has changed.
    #[inline]
    pub fn raise(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.number, u32::MAX, Scope::Private);
        }
    }

    /// As [`Signal::sleep`], but looks for a while before, for what may change soon.
    pub fn watch(&self, number: u32, deadline: Option<Deadline>, park: &impl Park) -> Parked {
        // Acquire: pairs with `raise`.
        if park.spin(|| self.number.load(Ordering::Acquire) != number) {
            return Parked::Retry;
        }
        self.sleep(number, deadline, park)
    }

    /// Sleeps until something has changed since `number` was read, or the deadline.
    pub fn sleep(&self, number: u32, deadline: Option<Deadline>, park: &impl Park) -> Parked {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let parked = if self.number.load(Ordering::Relaxed) == number {
            park.park(&self.number, number, Scope::Private, deadline)
        } else {
            Parked::Retry
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        parked
    }
}
