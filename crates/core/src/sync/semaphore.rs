// SPDX-License-Identifier: MIT
//! The semaphore, with or without a bound.
//!
//! A permit has no owner: anybody may give back what somebody else took. Only permits that are
//! borrowed, for the length of a block, are noted in the borrower's name; see `loans`.

use core::time::Duration;

use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::{Kind, Shareable, Storage};

mod loans;

use super::waiters::Waiters;
use loans::Loans;

/// `word` is `{ reserved: 31 bits, a loan is being entered: 1, permits: 31, somebody may sleep: 1 }`;
/// threads sleep on its low half.
///
/// | low half        | meaning                          | who leaves it, and how                  |
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
/// [`ENTERING`] belongs to `loans`: set by the change that takes or gives a borrowed permit, and
/// kept by all others.
///
/// Taking is Acquire, releasing is Release; the two pair up. The marks alone publish nothing.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Semaphore {
    word: AtomicU64,
    /// [`BOUNDED`] and the most permits there may be, or 0; set once, before the object is shared.
    bound: AtomicU32,
    reserved: AtomicU32,
    waiters: Waiters,
    loans: Loans,
}

// SAFETY: repr(C), atomics only, zero is a semaphore without permits, every value is valid;
// addresses in it are checked before use.
unsafe impl Shareable for Semaphore {
    const KIND: Kind = Kind::Semaphore;

    fn destroy(&self, storage: Storage) {
        self.waiters.destroy(storage);
        self.loans.destroy(storage);
    }
}

const SLEEPERS: u64 = 1;
const PERMIT: u64 = 2;
const ENTERING: u64 = 1 << 32;
/// The low half of a word without permits that somebody sleeps on.
const NONE_AND_SLEEPERS: u32 = 1;

#[expect(clippy::cast_possible_truncation, reason = "the low half of the word")]
const fn permits(word: u64) -> u32 {
    word as u32 >> 1
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
        // MAX_PERMITS times PERMIT fits in the low half.
        // No step: it isn't shared yet.
        self.word
            .store(u64::from(permits) * PERMIT, Ordering::Relaxed);
        // A bound of zero needs a mark of its own: no release is ever allowed.
        let bound = if bounded { permits | BOUNDED } else { 0 };
        // No step: as above.
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

    /// How many wait, the dead left out.
    #[must_use]
    pub fn waiters(&self, storage: Storage) -> u32 {
        self.waiters.count(storage)
    }

    /// Takes a permit if there is one.
    #[inline]
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.take(0).is_some()
    }

    /// Takes a permit if there is one or dead borrowers have one: for those who poll.
    #[must_use]
    pub fn poll(&self, storage: Storage) -> bool {
        self.try_acquire() || (self.bury_dead(storage, Duration::ZERO) > 0 && self.try_acquire())
    }

    /// Takes a permit and sets `marks`; what the word became, or `None` if there is no permit.
    #[inline]
    fn take(&self, marks: u64) -> Option<u64> {
        let mut word = self.word.load(Ordering::Relaxed);
        while permits(word) > 0 {
            let taken = (word - PERMIT) | marks;
            crash::step!("semaphore.taking");
            match self
                .word
                .compare_exchange_weak(word, taken, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    crash::step!("semaphore.taken");
                    return Some(taken);
                }
                Err(now) => word = now,
            }
        }
        None
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
        self.acquire_contended(storage, deadline, park, |marks| self.take(marks))
    }

    /// Waits for a permit that `take` takes in its way.
    #[cold]
    fn acquire_contended(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
        take: impl Fn(u64) -> Option<u64>,
    ) -> SemaphoreAcquire {
        self.waiters.during(storage, || {
            self.wait_for_permit(storage, deadline, park, take)
        })
    }

    fn wait_for_permit(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
        take: impl Fn(u64) -> Option<u64>,
    ) -> SemaphoreAcquire {
        if park.spin(|| self.value() > 0) && take(0).is_some() {
            return SemaphoreAcquire::Acquired;
        }
        // What a taker leaves behind: once it has slept, others may sleep as well.
        let mut mark = 0;
        loop {
            if let Some(taken) = take(mark) {
                if mark != 0 && permits(taken) > 0 {
                    self.wake(storage);
                }
                return SemaphoreAcquire::Acquired;
            }
            if mark != 0 && self.bury_dead(storage, Duration::ZERO) > 0 {
                continue;
            }
            if !self.announce_sleeper() {
                continue;
            }
            match park.park(&self.word, NONE_AND_SLEEPERS, storage.scope(), deadline) {
                Parked::Retry => mark = SLEEPERS,
                // Once more round: short timeouts one after the other must find the dead, too.
                Parked::TimedOut if mark == 0 => mark = SLEEPERS,
                gave_up => {
                    // The mark may have been cleared for us, and the wake-up be ours.
                    crash::step!("semaphore.giving_up");
                    let word = self.word.fetch_or(SLEEPERS, Ordering::Relaxed);
                    crash::step!("semaphore.gave_up");
                    if permits(word) > 0 {
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

    /// Sets the mark; false if there are permits.
    fn announce_sleeper(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while permits(word) == 0 {
            if word & SLEEPERS != 0 {
                return true;
            }
            crash::step!("semaphore.sleeper.announcing");
            match self.word.compare_exchange_weak(
                word,
                word | SLEEPERS,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    crash::step!("semaphore.sleeper.announced");
                    return true;
                }
                Err(now) => word = now,
            }
        }
        false
    }

    /// Gives a permit back.
    ///
    /// # Errors
    ///
    /// [`AboveBound`] if there would be too many.
    #[inline]
    pub fn release(&self, storage: Storage) -> Result<(), AboveBound> {
        if self.give(1, 0)? {
            self.wake(storage);
        }
        Ok(())
    }

    /// Adds permits and sets `marks`; whether somebody may sleep.
    #[inline]
    fn give(&self, count: u32, marks: u64) -> Result<bool, AboveBound> {
        let bound = self.bound();
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if count > bound.saturating_sub(permits(word)) {
                return Err(AboveBound);
            }
            let given = ((word + u64::from(count) * PERMIT) & !SLEEPERS) | marks;
            crash::step!("semaphore.giving");
            match self
                .word
                .compare_exchange_weak(word, given, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    crash::step!("semaphore.given");
                    return Ok(word & SLEEPERS != 0);
                }
                Err(now) => word = now,
            }
        }
    }

    #[cold]
    fn wake(&self, storage: Storage) {
        crate::futex::wake(&self.word, 1, storage.scope());
    }
}
