// SPDX-License-Identifier: MIT
//! The lock that users see: not reentrant, released by anybody.
//!
//! "Owner" means the process that acquired it, wherever it is released. A waiter that finds
//! the owner dead frees the lock and says so, and so does every other waiter of that moment;
//! after that the lock works as before.

use super::mutex::pass_wake_on;
use super::waiters::Waiters;
use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering};
use crate::storage::{Kind, Shareable, Storage, Token};

/// | value            | meaning                     | who leaves it, and how                       |
/// |------------------|-----------------------------|----------------------------------------------|
/// | 0                | free; also a zeroed mapping | taker: to its token, contended if it slept   |
/// | token << 1       | held, nobody sleeps         | any releaser: to 0; waiter: sets CONTENDED   |
/// | token << 1 \| 1  | held, somebody may sleep    | any releaser: to 0, then wakes one           |
/// | of a dead owner  | held by nobody              | waiter: counts the death, to 0, wakes all    |
///
/// Taking is Acquire, releasing is Release; the two pair up. `deaths` and `last_dead` are
/// written before the Release that frees a dead owner's lock, and read after an Acquire load
/// of `word`: a waiter of that moment sees the death counted before it sees the lock free.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Lock {
    word: AtomicU32,
    deaths: AtomicU32,
    last_dead: AtomicU32,
    reserved: AtomicU32,
    waiters: Waiters,
}

// SAFETY: repr(C), atomics only, zero is a free lock, no pointers; any value of `word` is
// either zero or treated as held, by the dead if it isn't a token; addresses in `waiters` are
// checked before use.
unsafe impl Shareable for Lock {
    const KIND: Kind = Kind::Lock;

    fn destroy(&self, storage: Storage) {
        self.waiters.destroy(storage);
    }
}

const CONTENDED: u32 = 1;

/// How an acquire ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquire {
    /// The caller holds it.
    Acquired,
    /// Not within the time given.
    TimedOut,
    /// The wait was abandoned.
    Interrupted,
    /// Its owner died holding it; the lock is free again, the caller doesn't hold it.
    OwnerDied(Option<Token>),
}

/// Nobody (or somebody else) holds what was to be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld;

impl Lock {
    /// Takes the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_acquire(&self, storage: Storage) -> bool {
        self.swap_from(0, storage.me().bits() << 1)
    }

    /// Takes the lock if it is free; says so if its owner is found dead. For those who poll.
    pub fn poll(&self, storage: Storage) -> Acquire {
        if self.try_acquire(storage) {
            return Acquire::Acquired;
        }
        let word = self.word.load(Ordering::Acquire);
        if word != 0 && Self::is_orphaned(word, storage, true) && self.bury(word, storage) {
            Acquire::OwnerDied(Token::from_bits(word >> 1))
        } else {
            Acquire::TimedOut
        }
    }

    /// Takes the lock, waiting until `deadline`.
    #[inline]
    pub fn acquire(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Acquire {
        if self.try_acquire(storage) {
            return Acquire::Acquired;
        }
        self.acquire_contended(storage, deadline, park)
    }

    #[cold]
    fn acquire_contended(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Acquire {
        self.waiters
            .during(storage, || self.wait_for_it(storage, deadline, park))
    }

    fn wait_for_it(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Acquire {
        let deaths = self.deaths.load(Ordering::Relaxed);
        // Whatever it finds: a death that happened meanwhile is looked for first.
        park.spin(|| self.word.load(Ordering::Relaxed) == 0);
        let mine = storage.me().bits() << 1;
        let mut slept = false;
        loop {
            let word = self.word.load(Ordering::Acquire);
            if self.deaths.load(Ordering::Relaxed) != deaths {
                return Acquire::OwnerDied(self.last_dead());
            }
            if word == 0 {
                // Others may still sleep, so a taker that slept keeps the flag for them.
                if self.swap_from(0, mine | u32::from(slept)) {
                    return Acquire::Acquired;
                }
                continue;
            }
            if Self::is_orphaned(word, storage, slept) {
                if self.bury(word, storage) {
                    return Acquire::OwnerDied(Token::from_bits(word >> 1));
                }
                continue;
            }
            if word & CONTENDED == 0 && !self.swap_from(word, word | CONTENDED) {
                continue;
            }
            match park.park(&self.word, word | CONTENDED, storage.scope(), deadline) {
                Parked::Retry => slept = true,
                // Once more round: short timeouts one after the other must find the dead, too.
                Parked::TimedOut if !slept => slept = true,
                parked => {
                    pass_wake_on(&self.word, storage);
                    return match parked {
                        Parked::Interrupted => Acquire::Interrupted,
                        _ => Acquire::TimedOut,
                    };
                }
            }
        }
    }

    /// Whether the owner in `word` has died; asks the kernel only if `thoroughly`.
    fn is_orphaned(word: u32, storage: Storage, thoroughly: bool) -> bool {
        Token::from_bits(word >> 1).is_none_or(|owner| {
            storage.is_known_gone(owner) || (thoroughly && storage.seems_gone(owner))
        })
    }

    /// Frees a dead owner's lock; false if somebody else was faster.
    fn bury(&self, word: u32, storage: Storage) -> bool {
        // To a lock that we hold, so that only one of many finders counts the death.
        if !self.swap_from(word, (storage.me().bits() << 1) | CONTENDED) {
            return false;
        }
        crash::step!("lock.bury.held");
        self.last_dead.store(word >> 1, Ordering::Relaxed);
        crash::step!("lock.bury.named");
        self.deaths.fetch_add(1, Ordering::Relaxed);
        crash::step!("lock.bury.counted");
        self.word.store(0, Ordering::Release);
        crash::step!("lock.bury.freed");
        crate::futex::wake(&self.word, u32::MAX, storage.scope());
        true
    }

    fn last_dead(&self) -> Option<Token> {
        Token::from_bits(self.last_dead.load(Ordering::Relaxed))
    }

    #[inline]
    fn swap_from(&self, current: u32, new: u32) -> bool {
        crash::step!("lock.changing");
        let changed =
            self.word
                .compare_exchange(current, new, Ordering::Acquire, Ordering::Relaxed);
        crash::step!("lock.changed");
        changed.is_ok()
    }

    /// Frees the lock, whoever took it.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if it is free.
    #[inline]
    pub fn release(&self, storage: Storage) -> Result<(), NotHeld> {
        crash::step!("lock.releasing");
        let before = self.word.swap(0, Ordering::Release);
        crash::step!("lock.released");
        match before {
            0 => Err(NotHeld),
            word => {
                if word & CONTENDED != 0 {
                    self.wake_one(storage);
                }
                Ok(())
            }
        }
    }

    #[cold]
    fn wake_one(&self, storage: Storage) {
        crate::futex::wake(&self.word, 1, storage.scope());
    }

    /// Gives a lock that `from` holds to `to`.
    pub(crate) fn change_owner(&self, from: Token, to: Token) {
        let mut word = self.word.load(Ordering::Relaxed);
        while word >> 1 == from.bits() {
            let new = (to.bits() << 1) | (word & CONTENDED);
            crash::step!("lock.owner.changing");
            // Relaxed: it stays taken, so nothing is published or seen.
            match self
                .word
                .compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    crash::step!("lock.owner.changed");
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Whether somebody holds it. (Relaxed: the answer is old as soon as it is given.)
    #[must_use]
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// The process that holds it.
    #[must_use]
    pub fn owner(&self) -> Option<Token> {
        Token::from_bits(self.word.load(Ordering::Relaxed) >> 1)
    }

    /// How many wait for it, the dead left out.
    #[must_use]
    pub fn waiters(&self, storage: Storage) -> u32 {
        self.waiters.count(storage)
    }
}
