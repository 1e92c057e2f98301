// SPDX-License-Identifier: MIT
//! One side of a queue, producers or consumers: where it stands, and who waits for it.

use super::segment::Cursor;
use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::{Address, Storage};
use crate::sync::mutex::RobustMutex;

/// What one side, producers or consumers, shares among itself and shows the other side.
/// 64-byte aligned, so that the sides don't slow each other down.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Side {
    /// How many messages were put (taken). The other side sleeps on it.
    pub(super) count: AtomicU32,
    /// Whether somebody of the other side may sleep on `count`; as `sleepers` of a semaphore.
    sleepers: AtomicU32,
    /// Guards what follows.
    pub(super) mutex: RobustMutex,
    /// The value of `count` that `segment` and `position` belong to.
    synced: AtomicU32,
    segment: AtomicU64,
    staged_segment: AtomicU64,
    position: AtomicU32,
    staged_position: AtomicU32,
}

impl Side {
    /// Finishes the commit of a holder that died after its store of `count`.
    #[cold]
    pub(super) fn mend(&self, storage: Storage) {
        // A blob that was changing hands with the commit.
        storage.mend();
        if self.synced.load(Ordering::Relaxed) != self.count.load(Ordering::Relaxed) {
            self.advance();
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            segment: Address::from_bits(self.segment.load(Ordering::Relaxed)),
            position: self.position.load(Ordering::Relaxed),
        }
    }

    /// Moves on to `cursor` and counts one more: Invariant 2.
    pub(super) fn commit(&self, cursor: Cursor) {
        // Release: the record and the staging are seen by who sees the count. SeqCst: either
        // we see a sleeper's mark in `wake_other_side`, or it sees the count.
        self.commit_by(cursor, |count, value| count.store(value, Ordering::SeqCst));
    }

    /// Moves on to `cursor` and counts one more by `store`, which does what goes along with it.
    pub(super) fn commit_by<R>(
        &self,
        cursor: Cursor,
        store: impl FnOnce(&AtomicU32, u32) -> R,
    ) -> R {
        self.staged_segment
            .store(cursor.segment.bits(), Ordering::Relaxed);
        self.staged_position
            .store(cursor.position, Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed).wrapping_add(1);
        crash::step();
        let result = store(&self.count, count);
        crash::step();
        self.advance();
        result
    }

    fn advance(&self) {
        self.segment.store(
            self.staged_segment.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        crash::step();
        self.position.store(
            self.staged_position.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        crash::step();
        self.synced
            .store(self.count.load(Ordering::Relaxed), Ordering::Release);
    }

    /// After a commit, without the mutex.
    #[inline]
    pub(super) fn wake_other_side(&self, storage: Storage) {
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            self.wake_one(storage);
        }
    }

    #[cold]
    fn wake_one(&self, storage: Storage) {
        // Cleared first: a waiter that sets it again later is one that we may not reach.
        if self.sleepers.swap(0, Ordering::SeqCst) != 0 {
            crate::futex::wake(&self.count, 1, storage.scope());
        }
    }

    /// Waits, without a mutex, until `count` isn't `seen` any more.
    pub(super) fn wait_change(
        &self,
        storage: Storage,
        seen: u32,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Parked {
        if park.spin(|| self.count.load(Ordering::Relaxed) != seen) {
            return Parked::Retry;
        }
        self.sleepers.store(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) != seen {
            return Parked::Retry;
        }
        park.park(&self.count, seen, storage.scope(), deadline)
    }

    /// After a wait, however it ended: who woke us has cleared the mark of all who sleep. Sets
    /// it again, and wakes another one if `is_ready` says that there is work for it. The mark
    /// is set first, so a commit that `is_ready` doesn't see yet sees the mark.
    pub(super) fn pass_on(&self, storage: Storage, is_ready: impl FnOnce() -> bool) {
        self.sleepers.store(1, Ordering::SeqCst);
        if is_ready() {
            self.wake_one(storage);
        }
    }
}
