// SPDX-License-Identifier: MIT
//! The semaphore, with or without a bound.

use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering};
use crate::storage::{Kind, Shareable, Storage};

/// One word: `{ permits: 31 bits, somebody may sleep: 1 bit }`.
///
/// | value           | meaning                          | who leaves it, and how                  |
/// |-----------------|----------------------------------|-----------------------------------------|
/// | 0               | no permit; also a zeroed mapping | releaser: to 1 permit;                  |
/// |                 |                                  | waiter: sets [`SLEEPERS`], then sleeps  |
/// | `SLEEPERS`      | no permit, somebody may sleep    | releaser: to 1 permit, clears the mark, |
/// |                 |                                  | wakes one                               |
/// | n permits, or   | free to take                     | taker: to n - 1, keeping the mark; one  |
/// | those and       |                                  | that slept sets it, for others may      |
/// | `SLEEPERS`      |                                  | sleep, and wakes one if n > 1           |
///
/// The mark is part of the word that a waiter sleeps on: once a releaser has cleared it, the
/// waiter that set it can't fall asleep, even if the permit is gone again by then.
///
/// Taking is Acquire, releasing is Release; the two pair up. The mark alone publishes nothing.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Semaphore {
    word: AtomicU32,
    /// [`BOUNDED`] and the most permits there may be, or 0; set once, before the object is shared.
    bound: AtomicU32,
    /// How many wait; only a report.
    waiters: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: repr(C), atomics only, zero is a semaphore without permits, every value is valid.
unsafe impl Shareable for Semaphore {
    const KIND: Kind = Kind::Semaphore;
}

const SLEEPERS: u32 = 1;
const PERMIT: u32 = 2;

const fn permits(word: u32) -> u32 {
    word / PERMIT
}

const BOUNDED: u32 = 1 << 31;

/// The most permits that a semaphore can have.
pub const MAX_PERMITS: u32 = i32::MAX as u32;

/// How an acquire ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SemaphoreAcquire {
    /// A permit was taken.
    Acquired,
    /// Not within the time given.
    TimedOut,
    /// The wait was abandoned.
    Interrupted,
}

/// A release would give more permits than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AboveBound;

impl Semaphore {
    /// Gives a fresh semaphore its permits; `bounded` makes them its bound.
    pub fn initialize(&self, permits: u32, bounded: bool) {
        // MAX_PERMITS times PERMIT fits in the word.
        self.word.store(permits * PERMIT, Ordering::Relaxed);
        // A bound of zero needs a mark of its own: no release is ever allowed.
        let bound = if bounded { permits | BOUNDED } else { 0 };
        self.bound.store(bound, Ordering::Relaxed);
    }

    fn bound(&self) -> u32 {
        match self.bound.load(Ordering::Relaxed) {
            bound if bound & BOUNDED != 0 => bound & !BOUNDED,
            _ => MAX_PERMITS,
        }
    }

    /// How many permits there are.
    #[must_use]
    pub fn value(&self) -> u32 {
        permits(self.word.load(Ordering::Relaxed))
    }

    /// How many wait.
    #[must_use]
    pub fn waiters(&self) -> u32 {
        self.waiters.load(Ordering::Relaxed)
    }

    /// Takes a permit if there is one.
    #[inline]
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while permits(word) > 0 {
            match self.swap_from(word, word - PERMIT) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    #[inline]
    fn swap_from(&self, current: u32, new: u32) -> Result<(), u32> {
        self.word
            .compare_exchange_weak(current, new, Ordering::Acquire, Ordering::Relaxed)
            .map(drop)
    }

    /// Takes a permit, waiting until `deadline`.
    #[inline]
    pub fn acquire(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> SemaphoreAcquire {
        if self.try_acquire() {
            return SemaphoreAcquire::Acquired;
        }
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let outcome = self.acquire_contended(storage, deadline, park);
        self.waiters.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    #[cold]
    fn acquire_contended(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> SemaphoreAcquire {
        if park.spin(|| permits(self.word.load(Ordering::Relaxed)) > 0) && self.try_acquire() {
            return SemaphoreAcquire::Acquired;
        }
        let mut slept = false;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if permits(word) > 0 {
                let taken = (word - PERMIT) | if slept { SLEEPERS } else { 0 };
                if self.swap_from(word, taken).is_ok() {
                    if slept && permits(taken) > 0 {
                        self.wake(storage);
                    }
                    return SemaphoreAcquire::Acquired;
                }
                continue;
            }
            if word & SLEEPERS == 0 && self.swap_from(word, word | SLEEPERS).is_err() {
                continue;
            }
            match park.park(&self.word, SLEEPERS, storage.scope(), deadline) {
                Parked::Retry => slept = true,
                gave_up => {
                    // The mark may have been cleared for us, and the wake-up be ours.
                    if permits(self.word.fetch_or(SLEEPERS, Ordering::Relaxed)) > 0 {
                        self.wake(storage);
                    }
                    return match gave_up {
                        Parked::Interrupted => SemaphoreAcquire::Interrupted,
                        _ => SemaphoreAcquire::TimedOut,
                    };
                }
            }
        }
    }

    /// Gives a permit back.
    ///
    /// # Errors
    ///
    /// [`AboveBound`] if there would be too many.
    #[inline]
    pub fn release(&self, storage: Storage) -> Result<(), AboveBound> {
        let bound = self.bound();
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if permits(word) >= bound {
                return Err(AboveBound);
            }
            let released = (word + PERMIT) & !SLEEPERS;
            match self.word.compare_exchange_weak(
                word,
                released,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & SLEEPERS != 0 {
            self.wake(storage);
        }
        Ok(())
    }

    #[cold]
    fn wake(&self, storage: Storage) {
        crate::futex::wake(&self.word, 1, storage.scope());
    }
}
