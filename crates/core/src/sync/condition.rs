// SPDX-License-Identifier: MIT
//! The condition variable, over whatever lock its user holds.
//!
//! `notify(n)` tells the n longest waiters, each by name: it wakes exactly those that waited
//! when it was called, no later waiter can take their wake-up, and a waiter that was killed
//! doesn't swallow one.

use super::wait_list::{Ending, Place, Slept, WaitList};
use crate::deadline::Deadline;
use crate::park::Park;
use crate::storage::{Kind, OutOfMemory, Shareable, Storage};

/// All state is in the list: see `wait_list`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Condition {
    waiters: WaitList,
}

// SAFETY: repr(C), atomics only, zero has no waiters; addresses in it are checked before use.
unsafe impl Shareable for Condition {
    const KIND: Kind = Kind::Condition;

    fn destroy(&self, storage: Storage) {
        self.waiters.lock(storage).clear();
    }
}

const NOTIFIED: Ending = Ending(1);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Notified {
    /// By a notification.
    Yes,
    /// Not within the time given.
    TimedOut,
    /// The wait was abandoned, and no notification is lost by that.
    Interrupted,
}

/// A thread that is about to wait.
#[derive(Debug)]
#[must_use]
pub struct Waiting(Place);

impl Condition {
    /// Enters this thread as a waiter. The user's lock must be held; release it next, then
    /// call [`Condition::wait`].
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the thread is no waiter then.
    pub fn enter(&self, storage: Storage) -> Result<Waiting, OutOfMemory> {
        self.waiters.lock(storage).enter(0).map(Waiting)
    }

    /// Waits to be notified. Afterwards take the user's lock again.
    pub fn wait(
        &self,
        storage: Storage,
        waiting: Waiting,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Notified {
        let slept = loop {
            match waiting.0.sleep(storage, deadline, park) {
                Slept::LookAround => {}
                slept => break slept,
            }
        };
        let told = self.waiters.lock(storage).leave(waiting.0);
        match (told, slept) {
            (Some(_), Slept::Interrupted) => {
                // The notifier has spent it on us, and we don't use it.
                self.notify(storage, 1);
                Notified::Interrupted
            }
            // Told in the very last moment counts.
            (Some(_), _) => Notified::Yes,
            (None, Slept::Interrupted) => Notified::Interrupted,
            (None, _) => Notified::TimedOut,
        }
    }

    /// Wakes the `count` longest waiters, or all if there are fewer. The user's lock must be
    /// held. Returns how many.
    pub fn notify(&self, storage: Storage, count: usize) -> usize {
        let section = self.waiters.lock(storage);
        let mut told = 0;
        let mut has_dead = false;
        for waiter in section.waiting() {
            if told >= count {
                break;
            }
            if section.tell(waiter, NOTIFIED) || !section.is_dead(waiter) {
                told += 1;
            } else {
                has_dead = true;
            }
        }
        if has_dead {
            section.bury_dead();
        }
        told
    }

    /// How many wait.
    #[must_use]
    pub fn waiters(&self, storage: Storage) -> usize {
        self.waiters.lock(storage).waiting().count()
    }
}
