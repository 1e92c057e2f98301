// SPDX-License-Identifier: MIT
//! Waiters in order of arrival, each with a futex word of its own.
//!
//! Condition and Barrier are made of this. Each waiter is told by name, so exactly those who
//! waited at a moment can be woken, and none of them can take another's wake-up.
//!
//! ```text
//!              tell                         (told one of the endings)
//!   WAITING ---------> ending (its value) ---+
//!      |                                     +--> unlinked and freed by the waiter itself,
//!      +-- deadline, interrupt: gives up ----+    or by anybody who finds the waiter dead
//! ```
//!
//! Invariants:
//! 1. List and states change only under `mutex`; each change is complete with one store.
//! 2. A node is freed by its waiter, after unlinking it. Another process frees it only when
//!    the waiter's process is gone.
//! 3. `tail` is only a hint where to look for the last node: a holder that died may have left
//!    it behind, and it is recomputed then.

use crate::crash;
use crate::deadline::Deadline;
use crate::futex;
use crate::park::{Park, Parked};
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::{AtomicU32, AtomicU64};
use crate::storage::{Address, OutOfMemory, Storage, Token};
use crate::sync::mutex::RobustMutex;

/// The list. All-zero is empty.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct WaitList {
    mutex: RobustMutex,
    reserved: AtomicU32,
    head: AtomicU64,
    tail: AtomicU64,
}

/// A waiter, in the storage of its list.
#[repr(C)]
struct Node {
    /// [`WAITING`], or the ending that the waiter was told.
    state: AtomicU32,
    /// The waiter's process or thread.
    owner: AtomicU32,
    /// Whatever the user of the list wants to know of a waiter.
    tag: AtomicU32,
    reserved: AtomicU32,
    next: AtomicU64,
}

const WAITING: u32 = 0;

/// What a waiter is told: any number but zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending(pub(super) u32);

/// A waiter's own place in the list. It must be left with [`Section::leave`].
#[derive(Debug)]
#[must_use]
pub(super) struct Place(Address);

/// The list while its mutex is held.
pub(super) struct Section<'a> {
    list: &'a WaitList,
    storage: Storage,
}

/// A waiter as others see it.
#[derive(Clone, Copy)]
pub(super) struct Waiter<'a> {
    node: &'a Node,
}

/// How a [`Place::sleep`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Slept {
    /// Told something.
    Told,
    /// The heartbeat: a moment to look whether anybody has died.
    LookAround,
    TimedOut,
    Interrupted,
}

impl WaitList {
    pub(super) fn lock(&self, storage: Storage) -> Section<'_> {
        let needs_mending = self.mutex.lock(storage);
        let section = Section {
            list: self,
            storage,
        };
        if needs_mending {
            section.mend();
        }
        section
    }
}

impl Place {
    /// Sleeps until this waiter is told something; once, so that the caller can look around.
    pub(super) fn sleep(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Slept {
        let Some(node) = node(storage, self.0) else {
            return Slept::Told;
        };
        let is_told = || node.state.load(Acquire) != WAITING;
        if park.spin(is_told) {
            return Slept::Told;
        }
        match park.park(&node.state, WAITING, storage.scope(), deadline) {
            // Also if told at the same moment: the caller has its reason to abandon the wait.
            Parked::Interrupted => Slept::Interrupted,
            _ if is_told() => Slept::Told,
            Parked::Retry => Slept::LookAround,
            Parked::TimedOut => Slept::TimedOut,
        }
    }
}

fn node(storage: Storage, address: Address) -> Option<&'static Node> {
    if address.is_null() {
        return None;
    }
    let node = storage.resolve(address, size_of::<Node>())?;
    // SAFETY: the address was allocated for a Node in `storage` (or, in shared memory, is at
    // least mapped: resolve checks it); Node is made of atomics. It is freed only as
    // Invariant 2 says, and users of this function follow it under the mutex or as the waiter.
    Some(unsafe { node.cast().as_ref() })
}

impl<'a> Section<'a> {
    /// Enters this thread as the last waiter.
    pub(super) fn enter(&self, tag: u32) -> Result<Place, OutOfMemory> {
        let address = self.storage.allocate(size_of::<Node>())?;
        let new = node(self.storage, address).ok_or(OutOfMemory)?;
        new.state.store(WAITING, Relaxed);
        new.owner.store(self.storage.me().bits(), Relaxed);
        new.tag.store(tag, Relaxed);
        new.next.store(0, Relaxed);
        let last = node(
            self.storage,
            Address::from_bits(self.list.tail.load(Relaxed)),
        );
        let link = last.map_or(&self.list.head, |last| &last.next);
        crash::step();
        link.store(address.bits(), Release);
        crash::step();
        self.list.tail.store(address.bits(), Relaxed);
        Ok(Place(address))
    }

    /// Takes this thread out; what it was told, if anything.
    #[expect(clippy::needless_pass_by_value, reason = "a place is left once")]
    pub(super) fn leave(&self, place: Place) -> Option<Ending> {
        let state = node(self.storage, place.0).map_or(WAITING, |node| node.state.load(Acquire));
        self.remove(place.0);
        (state != WAITING).then_some(Ending(state))
    }

    /// Unlinks and frees a node.
    fn remove(&self, address: Address) {
        let mut link = &self.list.head;
        let mut previous = 0;
        loop {
            let here = link.load(Relaxed);
            let Some(found) = node(self.storage, Address::from_bits(here)) else {
                return;
            };
            if here == address.bits() {
                link.store(found.next.load(Relaxed), Release);
                crash::step();
                if self.list.tail.load(Relaxed) == here {
                    self.list.tail.store(previous, Relaxed);
                }
                crash::step();
                // SAFETY: allocated in `enter` with this size; unlinked, so nobody finds it,
                // and by Invariant 2 nobody else refers to it.
                unsafe { self.storage.free(address, size_of::<Node>()) };
                return;
            }
            previous = here;
            link = &found.next;
        }
    }

    /// All waiters that weren't told anything yet, in order of arrival.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiter<'a>> + use<'a> {
        let storage = self.storage;
        let mut next = Address::from_bits(self.list.head.load(Relaxed));
        core::iter::from_fn(move || {
            let node = node(storage, next)?;
            next = Address::from_bits(node.next.load(Relaxed));
            Some(Waiter { node })
        })
        .filter(|waiter| waiter.node.state.load(Relaxed) == WAITING)
    }

    /// Tells a waiter how its wait ends. False if nobody slept there: it is still spinning, or
    /// on its way to sleep, or dead.
    pub(super) fn tell(&self, waiter: Waiter<'_>, ending: Ending) -> bool {
        // Release: pairs with the waiter's Acquire.
        waiter.node.state.store(ending.0, Release);
        crash::step();
        futex::wake(&waiter.node.state, 1, self.storage.scope()) > 0
    }

    /// Whether a waiter's process has died; asks the kernel.
    pub(super) fn is_dead(&self, waiter: Waiter<'_>) -> bool {
        Token::from_bits(waiter.node.owner.load(Relaxed))
            .is_none_or(|owner| self.storage.is_gone(owner))
    }

    /// Removes the waiters whose processes have died; says how many of them were still waiting.
    pub(super) fn bury_dead(&self) -> usize {
        let mut next = Address::from_bits(self.list.head.load(Relaxed));
        let mut waiting = 0;
        while let Some(found) = node(self.storage, next) {
            let address = next;
            next = Address::from_bits(found.next.load(Relaxed));
            if self.is_dead(Waiter { node: found }) {
                waiting += usize::from(found.state.load(Relaxed) == WAITING);
                self.remove(address);
            }
        }
        waiting
    }

    /// Finds the tail again after a holder died.
    #[cold]
    fn mend(&self) {
        let mut last = 0;
        let mut next = self.list.head.load(Relaxed);
        while let Some(found) = node(self.storage, Address::from_bits(next)) {
            last = next;
            next = found.next.load(Relaxed);
        }
        self.list.tail.store(last, Relaxed);
    }

    /// Frees all nodes, when nobody can wait any more.
    pub(super) fn clear(&self) {
        while node(self.storage, self.first()).is_some() {
            self.remove(self.first());
        }
    }

    fn first(&self) -> Address {
        Address::from_bits(self.list.head.load(Relaxed))
    }
}

impl Waiter<'_> {
    pub(super) fn tag(self) -> u32 {
        self.node.tag.load(Relaxed)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.list.mutex.unlock(self.storage);
    }
}
