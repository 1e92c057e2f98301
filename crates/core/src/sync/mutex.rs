// SPDX-License-Identifier: MIT
//! A mutex for internal critical sections that survives the death of its holder.
//!
//! The word names its holder, so a waiter can find out that the holder is gone and take over;
//! it is told so ([`Locked::Recovered`]) and repairs what the mutex protects. Nobody else can
//! notice: critical sections never call out (no Python, no callbacks), and the uncontended
//! path is one compare-and-swap and one swap.

use core::time::Duration;

use crate::crash;
use crate::deadline::{Deadline, earlier};
use crate::park::{Park, Parked, Uninterruptible};
use crate::primitive::{AtomicU32, Ordering, fence_after_update};
use crate::storage::{Storage, Token};

/// | value            | meaning                      | who leaves it, and how                      |
/// |------------------|------------------------------|---------------------------------------------|
/// | 0                | free; also a zeroed mapping  | taker: to its token, contended if it slept  |
/// | token << 1       | held, nobody sleeps          | holder: to 0; waiter: sets CONTENDED        |
/// | token << 1 \| 1  | held, somebody may sleep     | holder: to 0, then wakes one                |
/// | either, token    | held by the dead             | waiter: to its own token \| CONTENDED       |
/// | of a dead holder |                              |                                             |
///
/// Taking is Acquire, releasing is Release; the two pair up, and a takeover is Acquire too,
/// which pairs with nothing: the dead released nothing, and whoever repairs looks at every
/// word that the dead may have written.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct RobustMutex(AtomicU32);

const CONTENDED: u32 = 1;

/// How long a waiter sleeps before it looks for the first time whether the holder has died.
/// Critical sections take microseconds, so this is long enough for the living, and short for
/// who waits for the dead.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How a [`RobustMutex`] was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Locked {
    /// As usual.
    Clean,
    /// From a holder that died in its critical section: repair first.
    Recovered,
    /// Not at all: the deadline has passed.
    TimedOut,
    /// Not at all: the wait was abandoned.
    Interrupted,
}

/// The outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Tried {
    /// Taken.
    Taken,
    /// Somebody holds it.
    Busy,
}

impl RobustMutex {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn try_lock(&self, storage: Storage) -> Tried {
        let held = storage.me().bits() << 1;
        crash::step!("mutex.trying");
        match self
            .0
            .compare_exchange(0, held, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => {
                crash::step!("mutex.taken");
                Tried::Taken
            }
            Err(_) => Tried::Busy,
        }
    }

    /// As `try_lock`, but looks for a moment whether the holder goes.
    #[inline]
    pub(crate) fn try_lock_briefly(&self, storage: Storage) -> Tried {
        match self.try_lock(storage) {
            Tried::Taken => Tried::Taken,
            Tried::Busy => self.try_lock_again(storage),
        }
    }

    #[cold]
    fn try_lock_again(&self, storage: Storage) -> Tried {
        if crate::spin::glance(|| self.0.load(Ordering::Relaxed) == 0) {
            self.try_lock(storage)
        } else {
            Tried::Busy
        }
    }

    /// Takes the mutex, however long it takes; true if what it protects needs repair.
    pub(crate) fn lock(&self, storage: Storage) -> bool {
        match self.lock_until(storage, &Uninterruptible, None) {
            Locked::Recovered => true,
            Locked::Clean => false,
            Locked::TimedOut | Locked::Interrupted => {
                unreachable!("an uninterruptible wait without deadline")
            }
        }
    }

    #[inline]
    pub(crate) fn lock_until(
        &self,
        storage: Storage,
        park: &impl Park,
        deadline: Option<Deadline>,
    ) -> Locked {
        match self.try_lock(storage) {
            Tried::Taken => Locked::Clean,
            Tried::Busy => self.lock_contended(storage, park, deadline),
        }
    }

    #[cold]
    fn lock_contended(
        &self,
        storage: Storage,
        park: &impl Park,
        deadline: Option<Deadline>,
    ) -> Locked {
        let mine = storage.me().bits() << 1;
        if park.spin(|| self.0.load(Ordering::Relaxed) == 0)
            && self.try_lock(storage) == Tried::Taken
        {
            return Locked::Clean;
        }
        let mut slept = false;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            if word == 0 {
                // Others may still sleep, so a taker that slept keeps the flag for them.
                let taken = mine | u32::from(slept);
                if self.swap_from(0, taken) {
                    return Locked::Clean;
                }
                continue;
            }
            if storage.is_known_gone_word(word) || (slept && storage.is_gone_word(word)) {
                if self.swap_from(word, mine | CONTENDED) {
                    return Locked::Recovered;
                }
                continue;
            }
            if word & CONTENDED == 0 && !self.swap_from(word, word | CONTENDED) {
                continue;
            }
            let until = if slept {
                deadline
            } else {
                earlier(deadline, Deadline::after(FIRST_LOOK))
            };
            match park.park(&self.0, word | CONTENDED, storage.scope(), until) {
                Parked::Retry => slept = true,
                // Once more round even if it was the caller's deadline: short timeouts one
                // after the other must find the dead, too.
                Parked::TimedOut if !slept => slept = true,
                parked => {
                    pass_wake_on(&self.0, storage);
                    return match parked {
                        Parked::Interrupted => Locked::Interrupted,
                        _ => Locked::TimedOut,
                    };
                }
            }
        }
    }

    fn swap_from(&self, current: u32, new: u32) -> bool {
        crash::step!("mutex.changing");
        let changed = self
            .0
            .compare_exchange(current, new, Ordering::Acquire, Ordering::Relaxed);
        crash::step!("mutex.changed");
        changed.is_ok()
    }

    #[inline]
    pub(crate) fn unlock(&self, storage: Storage) {
        crash::step!("mutex.unlocking");
        let word = self.0.swap(0, Ordering::Release);
        crash::step!("mutex.unlocked");
        if word & CONTENDED != 0 {
            self.wake(storage);
        }
    }

    /// As [`RobustMutex::unlock`], with a full fence: what the caller loads from here on, it loads
    /// after all that it stored before is there to be seen.
    #[inline]
    pub(crate) fn unlock_and_fence(&self, storage: Storage) {
        crash::step!("mutex.unlocking_with_fence");
        let word = self.0.swap(0, Ordering::Release);
        crash::step!("mutex.unlocked_with_fence");
        fence_after_update();
        if word & CONTENDED != 0 {
            self.wake(storage);
        }
    }

    #[cold]
    fn wake(&self, storage: Storage) {
        crate::futex::wake(&self.0, 1, storage.scope());
    }
}

/// Before a waiter leaves a word of this protocol without having taken it: a wake-up that came
/// at the last moment was meant for any of the waiters, so another one gets it.
#[cold]
pub(super) fn pass_wake_on(word: &AtomicU32, storage: Storage) {
    let mut seen = word.load(Ordering::Relaxed);
    while seen != 0 {
        // Held: its holder wakes the next one, if it knows that there may be one.
        crash::step!("mutex.wake.passing");
        match word.compare_exchange(seen, seen | CONTENDED, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                crash::step!("mutex.wake.passed");
                return;
            }
            Err(now) => seen = now,
        }
    }
    crate::futex::wake(word, 1, storage.scope());
}

impl Storage {
    fn is_known_gone_word(self, word: u32) -> bool {
        // No token at all in the upper bits: garbage, which nobody will ever release.
        Token::from_bits(word >> 1).is_none_or(|holder| self.is_known_gone(holder))
    }

    fn is_gone_word(self, word: u32) -> bool {
        Token::from_bits(word >> 1).is_none_or(|holder| self.is_gone(holder))
    }
}
