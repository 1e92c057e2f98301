// SPDX-License-Identifier: MIT
//! The reentrant lock: a [`Lock`], the thread that holds it, and how often.

use super::lock::{Acquire, Lock, NotHeld};
use crate::crash;
use crate::deadline::Deadline;
use crate::park::Park;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::{Kind, Shareable, Storage, Token};

/// `holder` is the thread that holds `lock`, or 0; `depth` how often it took it. Both are
/// written by the holder alone, while it holds `lock`: Relaxed, ordered by the lock. Another
/// thread may read any old `holder`, but never its own name, which only itself writes and
/// takes back before it frees the lock.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RLock {
    lock: Lock,
    holder: AtomicU64,
    depth: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: repr(C), atomics only, zero is a free lock, no pointers; wrong values lead to a lock
// that seems held or free when it isn't.
unsafe impl Shareable for RLock {
    const KIND: Kind = Kind::RLock;

    fn destroy(&self, storage: Storage) {
        self.lock.destroy(storage);
    }
}

/// How often a thread held an [`RLock`] that it released in full for a while.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SavedDepth(u32);

impl SavedDepth {
    /// The number, for keeping it elsewhere; not zero.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Reads a number back; `None` for zero.
    #[must_use]
    pub fn new(depth: u32) -> Option<Self> {
        (depth != 0).then_some(Self(depth))
    }
}

/// The name of this thread, unique among all threads of a storage's processes.
#[inline]
fn this_thread(storage: Storage) -> u64 {
    let thread = u64::from(crate::storage::thread::current().bits());
    match storage.family() {
        None => thread,
        Some(family) => (u64::from(family.mark()) << 32) | thread,
    }
}

impl RLock {
    /// Takes the lock if it is free or this thread's. (Of its owner's acquires it refuses only the
    /// one after the 2^32 - 1st, which nothing else must be tried with: it would wait for itself.)
    #[inline]
    #[must_use]
    pub fn try_acquire(&self, storage: Storage) -> bool {
        let me = this_thread(storage);
        if self.holder.load(Ordering::Relaxed) == me {
            return self.deepen();
        }
        self.lock.try_acquire(storage) && self.begin(me)
    }

    /// Takes the lock if it is free or this thread's; says so if its owner is found dead. For
    /// those who poll.
    pub fn poll(&self, storage: Storage) -> Acquire {
        if self.try_acquire(storage) {
            return Acquire::Acquired;
        }
        let outcome = self.lock.poll(storage);
        if outcome == Acquire::Acquired {
            self.begin(this_thread(storage));
        }
        outcome
    }

    /// Takes the lock once more or for the first time, waiting until `deadline`.
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
        let outcome = self.lock.acquire(storage, deadline, park);
        if outcome == Acquire::Acquired {
            self.begin(this_thread(storage));
        }
        outcome
    }

    fn deepen(&self) -> bool {
        // 2^32 nested acquires take a minute; they would be a bug, not a deep recursion.
        let deeper = self.depth.load(Ordering::Relaxed).checked_add(1);
        let Some(depth) = deeper else {
            return false;
        };
        crash::step!("rlock.deepening");
        self.depth.store(depth, Ordering::Relaxed);
        crash::step!("rlock.deepened");
        true
    }

    fn begin(&self, me: u64) -> bool {
        crash::step!("rlock.beginning");
        self.holder.store(me, Ordering::Relaxed);
        crash::step!("rlock.named");
        self.depth.store(1, Ordering::Relaxed);
        crash::step!("rlock.begun");
        true
    }

    /// Undoes one acquire of this thread.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if this thread doesn't hold it.
    #[inline]
    pub fn release(&self, storage: Storage) -> Result<(), NotHeld> {
        if !self.is_held(storage) {
            return Err(NotHeld);
        }
        let depth = self.depth.load(Ordering::Relaxed);
        if depth > 1 {
            crash::step!("rlock.rising");
            self.depth.store(depth - 1, Ordering::Relaxed);
            crash::step!("rlock.risen");
            return Ok(());
        }
        crash::step!("rlock.leaving");
        self.holder.store(0, Ordering::Relaxed);
        crash::step!("rlock.left");
        self.lock.release(storage)
    }

    /// Undoes all acquires of this thread.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if this thread doesn't hold it.
    pub fn release_all(&self, storage: Storage) -> Result<SavedDepth, NotHeld> {
        if !self.is_held(storage) {
            return Err(NotHeld);
        }
        let depth = self.depth.load(Ordering::Relaxed);
        crash::step!("rlock.leaving_in_full");
        self.holder.store(0, Ordering::Relaxed);
        crash::step!("rlock.left_in_full");
        self.lock.release(storage)?;
        Ok(SavedDepth(depth))
    }

    /// After an acquire: makes it as deep as it was before [`RLock::release_all`].
    pub fn restore_depth(&self, saved: SavedDepth) {
        crash::step!("rlock.restoring");
        self.depth.store(saved.0, Ordering::Relaxed);
        crash::step!("rlock.restored");
    }

    /// Gives a lock that `from` holds to `to`.
    pub(crate) fn change_owner(&self, from: Token, to: Token) {
        self.lock.change_owner(from, to);
    }

    /// Whether this thread holds it.
    #[must_use]
    #[inline]
    pub fn is_held(&self, storage: Storage) -> bool {
        self.holder.load(Ordering::Relaxed) == this_thread(storage)
    }

    /// How often its holder took it; 0 if nobody holds it.
    #[must_use]
    pub fn depth(&self) -> u32 {
        if self.lock.is_locked() {
            self.depth.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Whether somebody holds it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// The process that holds it.
    #[must_use]
    pub fn owner(&self) -> Option<Token> {
        self.lock.owner()
    }

    /// How many wait for it, the dead left out.
    #[must_use]
    pub fn waiters(&self, storage: Storage) -> u32 {
        self.lock.waiters(storage)
    }
}
