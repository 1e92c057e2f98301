// SPDX-License-Identifier: MIT
//! How those who wait for a queue are woken, at next to no cost while nobody sleeps.

use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU32, Ordering, fence};
use crate::storage::Storage;

/// Rung by who has done something, if somebody may sleep until it is done.
///
/// Nobody sleeps through it: who is going to sleep listens and then looks whether it is done, who
/// does it does it and then asks whether somebody listens, and each has a full fence in between.
/// So at least one of them sees what the other did.
///
/// A ringer stops the listening of all before it rings. It may be late: somebody may have begun to
/// listen who already knows of what the ringer has done, and waits for what comes next. For this
/// one it is enough to be woken, and it is: it heard `rings` before it was listening, so the ring
/// that stops its listening is a later one, and changes the word that it sleeps on.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Bell {
    /// Whether somebody may listen.
    listening: AtomicU32,
    /// How often it rang. The word that listeners sleep on.
    rings: AtomicU32,
}

/// What a listener has heard before it began to listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    rings: u32,
}

impl Bell {
    /// From here on, what the caller doesn't see done rings.
    pub(super) fn listen(&self) -> Listener {
        // Relaxed: an old number only makes us look once more; a number too new is what the Release
        // below rules out.
        let rings = self.rings.load(Ordering::Relaxed);
        crash::step!("bell.listening");
        // Release: pairs with the Acquire in `ring`: who stops our listening counts its ring after
        // we read the number. Acquire: what others stopped before isn't ours, whatever they see of
        // it later.
        self.listening.swap(1, Ordering::AcqRel);
        crash::step!("bell.listens");
        // Pairs with the full fence before `is_heard`.
        fence(Ordering::SeqCst);
        Listener { rings }
    }

    /// Sleeps until it rings, having listened and seen that it isn't done.
    pub(super) fn sleep(
        &self,
        listener: Listener,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Parked {
        park.park(&self.rings, listener.rings, storage.scope(), deadline)
    }

    /// Whether somebody may sleep. After a full fence after what was done.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.listening.load(Ordering::Relaxed) != 0
    }

    /// Wakes up to `count` of those who sleep.
    #[cold]
    pub(super) fn ring(&self, count: u32, storage: Storage) {
        crash::step!("bell.ringing");
        // Listening ends before the ring: who begins to listen later may not hear this one.
        let listening = self.listening.swap(0, Ordering::AcqRel);
        crash::step!("bell.silenced");
        if listening != 0 {
            // Relaxed: the kernel compares it, and it publishes nothing.
            self.rings.fetch_add(1, Ordering::Relaxed);
            crash::step!("bell.rung");
            crate::futex::wake(&self.rings, count, storage.scope());
        }
    }
}
