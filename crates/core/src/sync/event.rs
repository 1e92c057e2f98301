// SPDX-License-Identifier: MIT
//! The event: a flag that many wait for.

use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering};
use crate::storage::{Kind, Shareable, Storage};

/// One word: `{ times set: 30 bits, somebody may sleep: 1 bit, is set: 1 bit }`.
///
/// The count is what a waiter compares: one that slept while the event was set and cleared
/// again has been woken all the same, as the standard library's event does it.
///
/// Setting is Release, seeing it set is Acquire; the two pair up.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Event {
    word: AtomicU32,
}

// SAFETY: repr(C), one atomic, zero is a cleared event, every value is meaningful.
unsafe impl Shareable for Event {
    const KIND: Kind = Kind::Event;
}

const SET: u32 = 1;
const SLEEPERS: u32 = 2;
const ONCE: u32 = 4;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum EventWait {
    /// The event was set.
    Set,
    /// Not within the time given.
    TimedOut,
    /// The wait was abandoned.
    Interrupted,
}

impl Event {
    /// Whether the event is set.
    #[must_use]
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets the event and wakes all who wait, with one system call, or none if nobody waits.
    pub fn set(&self, storage: Storage) {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let is_set = word & SET != 0;
            // Set already: stored all the same, for who sees it set must see what this caller
            // did before, too.
            let new = if is_set {
                word
            } else {
                (word & !SLEEPERS).wrapping_add(ONCE) | SET
            };
            crash::step!("event.setting");
            match self
                .word
                .compare_exchange_weak(word, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    crash::step!("event.set");
                    if !is_set && word & SLEEPERS != 0 {
                        crate::futex::wake(&self.word, u32::MAX, storage.scope());
                    }
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Clears the event.
    pub fn clear(&self) {
        crash::step!("event.clearing");
        self.word.fetch_and(!SET, Ordering::AcqRel);
        crash::step!("event.cleared");
    }

    /// Waits until the event is set.
    pub fn wait(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> EventWait {
        let first = self.word.load(Ordering::Acquire);
        let was_set = |word: u32| word & SET != 0 || (word ^ first) >= ONCE;
        if was_set(first) || park.spin(|| was_set(self.word.load(Ordering::Acquire))) {
            return EventWait::Set;
        }
        loop {
            let word = self.word.load(Ordering::Acquire);
            if was_set(word) {
                return EventWait::Set;
            }
            if word & SLEEPERS == 0 {
                crash::step!("event.sleeper.announcing");
                let announced = self.word.compare_exchange(
                    word,
                    word | SLEEPERS,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                crash::step!("event.sleeper.announced");
                if announced.is_err() {
                    continue;
                }
            }
            match park.park(&self.word, word | SLEEPERS, storage.scope(), deadline) {
                Parked::Retry => {}
                Parked::TimedOut if was_set(self.word.load(Ordering::Acquire)) => {
                    return EventWait::Set;
                }
                Parked::TimedOut => return EventWait::TimedOut,
                Parked::Interrupted => return EventWait::Interrupted,
            }
        }
    }
}
