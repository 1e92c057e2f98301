// SPDX-License-Identifier: MIT
//! The semaphore, with or without a bound.

use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering};
use crate::storage::{Kind, Shareable, Storage};

/// `permits` is a plain count. `sleepers` says that somebody may sleep on it:
///
/// | `sleepers` | who leaves it, and how                                                     |
/// |------------|----------------------------------------------------------------------------|
/// | 0          | waiter: to 1, before it looks at `permits` for the last time and sleeps    |
/// | 1          | releaser: to 0, and wakes one; that one sets it again, for others may sleep |
///
/// A releaser adds a permit and then reads `sleepers`; a waiter sets `sleepers` and then reads
/// `permits` (in the kernel). Both are `SeqCst`, so at least one sees the other. A woken waiter
/// that takes one of several permits passes the wake-up on.
///
/// Taking is Acquire, releasing is Release; they pair up.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Semaphore {
    permits: AtomicU32,
    sleepers: AtomicU32,
    /// [`BOUNDED`] and the most permits there may be, or 0; set once, before the object is shared.
    bound: AtomicU32,
    /// How many wait; only a report.
    waiters: AtomicU32,
}

// SAFETY: repr(C), atomics only, zero is a semaphore without permits, every value is valid.
unsafe impl Shareable for Semaphore {
    const KIND: Kind = Kind::Semaphore;
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
        self.permits.store(permits, Ordering::Relaxed);
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
        self.permits.load(Ordering::Relaxed)
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
        let mut permits = self.permits.load(Ordering::Relaxed);
        while permits > 0 {
            match self.permits.compare_exchange_weak(
                permits,
                permits - 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => permits = now,
            }
        }
        false
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
        if park.spin(|| self.permits.load(Ordering::Relaxed) > 0) && self.try_acquire() {
            return SemaphoreAcquire::Acquired;
        }
        loop {
            self.sleepers.store(1, Ordering::SeqCst);
            if self.try_acquire() {
                self.pass_on(storage);
                return SemaphoreAcquire::Acquired;
            }
            match park.park(&self.permits, 0, storage.scope(), deadline) {
                Parked::Retry => {}
                outcome => {
                    // A wake-up may have come at the same moment: somebody else gets it. Who
                    // sent it has cleared the mark of all others.
                    self.sleepers.store(1, Ordering::SeqCst);
                    self.pass_on(storage);
                    return match outcome {
                        Parked::Interrupted => SemaphoreAcquire::Interrupted,
                        _ => SemaphoreAcquire::TimedOut,
                    };
                }
            }
        }
    }

    /// Wakes another sleeper if there are permits for it. `sleepers` was set before.
    fn pass_on(&self, storage: Storage) {
        if self.permits.load(Ordering::SeqCst) > 0 {
            self.wake(storage);
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
        let mut permits = self.permits.load(Ordering::Relaxed);
        loop {
            if permits >= bound {
                return Err(AboveBound);
            }
            match self.permits.compare_exchange_weak(
                permits,
                permits + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => permits = now,
            }
        }
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            self.wake(storage);
        }
        Ok(())
    }

    #[cold]
    fn wake(&self, storage: Storage) {
        // Cleared first: a waiter that sets it again later is one that we may not reach.
        if self.sleepers.swap(0, Ordering::SeqCst) != 0 {
            crate::futex::wake(&self.permits, 1, storage.scope());
        }
    }
}
