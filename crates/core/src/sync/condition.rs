// SPDX-License-Identifier: MIT
//! The condition variable, over whatever lock its user holds.
//!
//! `notify(n)` tells the n longest waiters, each by name: it wakes exactly those that waited
//! when it was called, no later waiter can take their wake-up, and a waiter that was killed
//! doesn't swallow one.

use super::wait_list::{Ending, Place, Slept, Told, WaitList, Waiter};
use crate::crash;
use crate::deadline::Deadline;
use crate::park::Park;
use crate::primitive::AtomicU32;
use crate::primitive::Ordering::Relaxed;
use crate::storage::{Kind, OutOfMemory, Shareable, Storage};

/// All state is in the list: see `wait_list`. A waiter's tag is how many notifications there had
/// been when it entered; what it is told with, how many there were then.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Condition {
    waiters: WaitList,
    /// Relaxed: changed under the list's mutex.
    notifications: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: repr(C), atomics only, zero has no waiters; addresses in it are checked before use.
unsafe impl Shareable for Condition {
    const KIND: Kind = Kind::Condition;

    fn destroy(&self, storage: Storage) {
        self.waiters.lock(storage).clear();
    }
}

const NOTIFIED: Ending = Ending(Ending::FIRST);

/// Whether a notification that a waiter didn't live to use is `other`'s, who waited already when
/// it came.
fn is_heir(dead: Waiter<'_>, other: Waiter<'_>) -> bool {
    // Counted in a circle.
    dead.told_tag().wrapping_sub(other.tag()).wrapping_sub(1) < u32::MAX / 2
}

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
        let section = self.waiters.lock(storage);
        section.enter(self.notifications.load(Relaxed)).map(Waiting)
    }

    /// Waits to be notified. Afterwards take the user's lock again.
    pub fn wait(
        &self,
        storage: Storage,
        waiting: Waiting,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Notified {
        self.wait_and(storage, waiting, deadline, park, || ())
    }

    /// Waits to be notified, and takes the user's lock again with `take_back`. Until it has the
    /// lock it is a waiter: what it was told goes to others if it dies before.
    pub fn wait_and(
        &self,
        storage: Storage,
        waiting: Waiting,
        deadline: Option<Deadline>,
        park: &impl Park,
        take_back: impl FnOnce(),
    ) -> Notified {
        let slept = loop {
            match waiting.0.sleep(storage, deadline, park) {
                // One of the dead may have been told what this waiter is waiting for.
                Slept::LookAround => self.bury_dead(storage),
                slept => break slept,
            }
        };
        take_back();
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

    /// Whether somebody waits. Exact while the user's lock is held, for who waits has entered
    /// before it released that.
    #[inline]
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Wakes the `count` longest waiters, or all if there are fewer. The user's lock must be
    /// held. Returns how many.
    #[inline]
    pub fn notify(&self, storage: Storage, count: usize) -> usize {
        if !self.has_waiters() {
            return 0;
        }
        self.notify_waiters(storage, count)
    }

    #[cold]
    fn notify_waiters(&self, storage: Storage, count: usize) -> usize {
        let section = self.waiters.lock(storage);
        let now = self.notifications.load(Relaxed).wrapping_add(1);
        crash::step!("condition.counting");
        self.notifications.store(now, Relaxed);
        crash::step!("condition.counted");
        let mut told = 0;
        for waiter in section.waiting() {
            if told >= count {
                break;
            }
            waiter.set_told_tag(now);
            // One that has died before it slept counts: others find that out, and pass it on.
            if section.tell(waiter, NOTIFIED) == Told::Nobody && section.is_dead(waiter) {
                section.bury(waiter);
            } else {
                told += 1;
            }
        }
        told
    }

    /// Passes on what the dead were told.
    pub(crate) fn bury_dead(&self, storage: Storage) {
        self.waiters.lock(storage).bury_dead(is_heir);
    }

    /// How many wait.
    #[must_use]
    pub fn waiters(&self, storage: Storage) -> usize {
        self.waiters.lock(storage).waiting().count()
    }
}
