// SPDX-License-Identifier: MIT
//! One side of a queue, producers or consumers: where it stands, and who waits for it.

use super::bell::Bell;
use super::segment::Cursor;
use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::{Address, Storage};
use crate::sync::mutex::RobustMutex;

/// What one side, producers or consumers, shares among itself and shows the other side.
/// 64-byte aligned, so that the sides don't slow each other down.
///
/// Whether there is something to take, or room, a side looks up in `other_count` as long as that
/// is enough. So the sides touch each other's memory once for many messages, not for each.
///
/// Orderings: `count` is stored with Release and loaded with Acquire, and publishes the records. All
/// else is Relaxed, for the mutex orders it; what wakes the other side is argued in `bell`.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Side {
    /// How many messages were put (taken).
    pub(super) count: AtomicU32,
    /// Rings for the other side when `count` changes.
    bell: Bell,
    /// Guards what follows.
    pub(super) mutex: RobustMutex,
    /// The value of `count` that `segment` and `position` belong to.
    synced: AtomicU32,
    segment: AtomicU64,
    staged_segment: AtomicU64,
    position: AtomicU32,
    staged_position: AtomicU32,
    /// The other side's `count` when this side last looked at it.
    other_count: AtomicU32,
}

/// How a wait for the other side of a queue went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// It has done something, and we have seen it without sleeping.
    Awake,
    /// We slept, or were about to, and it ended so. If we were woken, it was for all who sleep.
    Asleep(Parked),
}

impl Side {
    /// Finishes the commit of a holder that died after its store of `count`.
    #[cold]
    pub(super) fn mend(&self, storage: Storage, other: &Self) {
        // A blob that was changing hands with the commit.
        storage.mend();
        if self.is_committed() {
            self.advance(Cursor {
                segment: Address::from_bits(self.staged_segment.load(Ordering::Relaxed)),
                position: self.staged_position.load(Ordering::Relaxed),
            });
        }
        // What the dead saw of the other side, we haven't seen.
        self.look_at(other);
    }

    /// Whether the holder of the mutex that died had stored its `count`, and the rest isn't done.
    pub(super) fn is_committed(&self) -> bool {
        self.synced.load(Ordering::Relaxed) != self.count.load(Ordering::Relaxed)
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            segment: Address::from_bits(self.segment.load(Ordering::Relaxed)),
            position: self.position.load(Ordering::Relaxed),
        }
    }

    /// What the other side had done when somebody of this side last looked at it: perhaps less
    /// than it has by now, never more. Under the mutex.
    #[inline]
    pub(super) fn other_count(&self) -> u32 {
        // Relaxed: who stored it has released the mutex since.
        self.other_count.load(Ordering::Relaxed)
    }

    /// What the other side has done by now. Under the mutex.
    #[inline]
    pub(super) fn look_at(&self, other: &Self) -> u32 {
        // Acquire: pairs with the Release in `commit`, for the records.
        let count = other.count.load(Ordering::Acquire);
        crash::step!("side.looking");
        self.other_count.store(count, Ordering::Relaxed);
        crash::step!("side.looked");
        count
    }

    /// Moves on to `cursor` and counts one more: Invariant 2.
    #[inline]
    pub(super) fn commit(&self, cursor: Cursor) {
        // No step: those of `commit_by`. Release: the record and the staging are seen by who sees the count.
        self.commit_by(cursor, |count, value| count.store(value, Ordering::Release));
    }

    /// Moves on to `cursor` and counts one more by `store`, which does what goes along with it.
    #[inline]
    pub(super) fn commit_by<R>(
        &self,
        cursor: Cursor,
        store: impl FnOnce(&AtomicU32, u32) -> R,
    ) -> R {
        crash::step!("side.staging");
        self.staged_segment
            .store(cursor.segment.bits(), Ordering::Relaxed);
        crash::step!("side.stage.segment");
        self.staged_position
            .store(cursor.position, Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed).wrapping_add(1);
        crash::step!("side.staged");
        let result = store(&self.count, count);
        self.advance(cursor);
        result
    }

    #[inline]
    fn advance(&self, cursor: Cursor) {
        crash::step!("side.committed");
        self.segment.store(cursor.segment.bits(), Ordering::Relaxed);
        crash::step!("side.advance.segment");
        self.position.store(cursor.position, Ordering::Relaxed);
        crash::step!("side.advance.position");
        self.synced
            .store(self.count.load(Ordering::Relaxed), Ordering::Release);
        crash::step!("side.synced");
    }

    /// After a commit, without the mutex, and after the full fence of its release.
    #[inline]
    pub(super) fn wake_other_side(&self, storage: Storage) {
        if self.bell.is_heard() {
            self.bell.ring(1, storage);
        }
    }

    /// Waits, without a mutex, until `count` isn't `seen` any more.
    pub(super) fn wait_change(
        &self,
        storage: Storage,
        seen: u32,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Waited {
        if park.spin(|| self.count.load(Ordering::Relaxed) != seen) {
            return Waited::Awake;
        }
        let listener = self.bell.listen();
        if self.count.load(Ordering::Relaxed) != seen {
            return Waited::Awake;
        }
        Waited::Asleep(self.bell.sleep(listener, storage, deadline, park))
    }

    /// For each who was [`Waited::Asleep`], when it waits no longer, however that ended: who woke
    /// it has stopped the listening of all who sleep. Listens for them, and wakes another one if
    /// `is_ready` says that there is work for it. A commit that it doesn't see yet rings.
    pub(super) fn pass_on(&self, storage: Storage, is_ready: impl FnOnce() -> bool) {
        let _ = self.bell.listen();
        if is_ready() {
            self.bell.ring(1, storage);
        }
    }
}
