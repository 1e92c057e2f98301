// SPDX-License-Identifier: MIT
//! Waiters in order of arrival, each with a futex word of its own.
//!
//! Condition and Barrier are made of this. Each waiter is told by name, so exactly those who
//! waited at a moment can be woken, and none of them can take another's wake-up.
//!
//! ```text
//!             about to sleep             tell (and a wake-up)
//!   WAITING ------------------> SLEEPING ---------------------+
//!      |          tell             |                          v
//!      +---------------------------|--------------> ending (its value) --+
//!      |                           |                                     +--> unlinked by the
//!      +--- deadline, interrupt ---+-------- gives up -------------------+    waiter itself, or by
//!                                                                             who finds it dead
//! ```
//!
//! Invariants:
//! 1. List and spares change only under `mutex`; each change is complete with one store. States
//!    change under it, too, except from WAITING to SLEEPING, by the waiter.
//! 2. A node is unlinked by its waiter. Another process unlinks it only when the waiter's
//!    process is gone. Unlinked nodes are kept for later waiters, some of them.
//! 3. `tail` is only a hint where to look for the last node: a holder that died may have left
//!    it behind, and it is recomputed then.
//! 4. `in_hand` names the node that is on its way between the storage, the list and the spares,
//!    `heir` the waiter that it leaves to what it was told, so that a holder's death loses neither.

use core::ptr::NonNull;

use crate::crash;
use crate::deadline::Deadline;
use crate::futex;
use crate::park::{Park, Parked};
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::{AtomicU32, AtomicU64};
use crate::storage::trail::Trail;
use crate::storage::{Address, OutOfMemory, Storage};
use crate::sync::mutex::RobustMutex;

mod dead;

/// The list. All-zero is empty.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct WaitList {
    mutex: RobustMutex,
    /// How many spares there are, about.
    spare_count: AtomicU32,
    head: AtomicU64,
    tail: AtomicU64,
    spares: AtomicU64,
    in_hand: AtomicU64,
    heir: AtomicU64,
}

/// A waiter, in the storage of its list.
#[derive(Debug, Default)]
#[repr(C)]
struct Node {
    /// [`WAITING`], [`SLEEPING`], or the ending that the waiter was told.
    state: AtomicU32,
    /// The waiter's process or thread.
    owner: AtomicU32,
    /// Whatever the user of the list wants to know of a waiter.
    tag: AtomicU32,
    /// What goes with the ending, for whoever inherits it; kept apart from `tag`, which says what
    /// this waiter itself may inherit.
    told_tag: AtomicU32,
    next: AtomicU64,
}

const WAITING: u32 = 0;
const SLEEPING: u32 = 1;

/// Nodes that are kept for later waiters; more go back to the storage.
const MAX_SPARES: u32 = 64;

/// What a waiter is told: any number from [`Ending::FIRST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending(pub(super) u32);

impl Ending {
    pub(super) const FIRST: u32 = 2;

    fn of(node: &Node) -> Option<Self> {
        // Acquire: pairs with the Release in `tell`.
        let state = node.state.load(Acquire);
        (state >= Self::FIRST).then_some(Self(state))
    }
}

/// A waiter's own place in the list. It must be left with [`Section::leave`].
#[derive(Debug)]
#[must_use]
pub(super) struct Place(Address);

/// The list while its mutex is held.
pub(super) struct Section<'a> {
    list: &'a WaitList,
    storage: Storage,
    /// Whether the one before died in it.
    is_inherited: bool,
}

/// A waiter as others see it.
#[derive(Clone, Copy)]
pub(super) struct Waiter<'a> {
    node: &'a Node,
    address: Address,
}

/// What telling a waiter met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Told {
    /// A sleeper, which was woken, or a waiter that isn't asleep yet.
    Waiter,
    /// Nobody slept where somebody said that it would: on its way to sleep, or dead.
    Nobody,
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
        let section = Section {
            list: self,
            storage,
            is_inherited: self.mutex.lock(storage),
        };
        if section.is_inherited {
            section.mend();
        }
        section
    }

    /// Whether nobody waits, as far as the caller can know: it sees all who entered before
    /// something that it has synchronized with.
    pub(super) fn is_empty(&self) -> bool {
        self.head.load(Relaxed) == 0
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
        let is_told = || Ending::of(node).is_some();
        if node.state.load(Relaxed) != SLEEPING {
            let is_awaited = || {
                crash::step!("waiter.sleep.announcing");
                let sleeping = node
                    .state
                    .compare_exchange(WAITING, SLEEPING, Relaxed, Relaxed);
                crash::step!("waiter.sleep.announced");
                sleeping.is_ok()
            };
            if park.spin(is_told) || !is_awaited() {
                return Slept::Told;
            }
        }
        match park.park(&node.state, SLEEPING, storage.scope(), deadline) {
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
    let node = storage.resolve_as::<Node>(address)?;
    // SAFETY: the address was allocated for a Node in `storage` (or, in shared memory, is at
    // least mapped and aligned: resolve_as checks it); Node is made of atomics. It is used only as
    // Invariant 2 says, and users of this function follow it under the mutex or as the waiter.
    Some(unsafe { node.as_ref() })
}

/// The nodes of a chain with their addresses. Under the mutex. A node may be unlinked once it
/// has been returned. It ends where it would go in a circle, because somebody has overwritten it.
fn chain(storage: Storage, first: &AtomicU64) -> impl Iterator<Item = (Address, &'static Node)> {
    let mut next = Address::from_bits(first.load(Relaxed));
    let mut trail = Trail::default();
    core::iter::from_fn(move || {
        let address = next;
        let node = node(storage, address).filter(|_| trail.goes_on(address))?;
        next = Address::from_bits(node.next.load(Relaxed));
        Some((address, node))
    })
}

impl<'a> Section<'a> {
    /// Whether the mutex was taken from a holder that died. The list is whole again; of what
    /// that holder did with it, anything may be missing.
    pub(super) fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Enters this thread as the last waiter.
    pub(super) fn enter(&self, tag: u32) -> Result<Place, OutOfMemory> {
        let (address, new) = self.take_spare().map_or_else(|| self.allocate(), Ok)?;
        crash::step!("waiter.entering");
        new.state.store(WAITING, Relaxed);
        crash::step!("waiter.enter.state");
        new.owner.store(self.storage.me().bits(), Relaxed);
        crash::step!("waiter.enter.owner");
        new.tag.store(tag, Relaxed);
        crash::step!("waiter.enter.tag");
        new.next.store(0, Relaxed);
        let last = node(
            self.storage,
            Address::from_bits(self.list.tail.load(Relaxed)),
        );
        let link = last.map_or(&self.list.head, |last| &last.next);
        crash::step!("waiter.enter.prepared");
        link.store(address.bits(), Release);
        crash::step!("waiter.enter.linked");
        self.list.tail.store(address.bits(), Relaxed);
        crash::step!("waiter.enter.tail");
        self.list.in_hand.store(0, Relaxed);
        crash::step!("waiter.entered");
        Ok(Place(address))
    }

    fn take_spare(&self) -> Option<(Address, &'static Node)> {
        let (address, node) = chain(self.storage, &self.list.spares).next()?;
        crash::step!("spare.taking");
        self.list.in_hand.store(address.bits(), Relaxed);
        crash::step!("spare.in_hand");
        self.list.spares.store(node.next.load(Relaxed), Relaxed);
        crash::step!("spare.unlinked");
        let count = self.list.spare_count.load(Relaxed);
        self.list
            .spare_count
            .store(count.saturating_sub(1), Relaxed);
        crash::step!("spare.taken");
        Some((address, node))
    }

    #[cold]
    fn allocate(&self) -> Result<(Address, &'static Node), OutOfMemory> {
        let prepare = |start: NonNull<u8>| {
            crash::step!("waiter.node.writing");
            // SAFETY: fresh memory of that size, aligned to 64 bytes.
            unsafe { start.cast().write(Node::default()) };
            crash::step!("waiter.node.written");
        };
        let (bytes, link) = (size_of::<Node>(), &self.list.in_hand);
        let address = self.storage.allocate_linked(bytes, link, prepare)?;
        let node = node(self.storage, address).ok_or(OutOfMemory)?;
        Ok((address, node))
    }

    /// Takes this thread out; what it was told, if anything.
    #[expect(clippy::needless_pass_by_value, reason = "a place is left once")]
    pub(super) fn leave(&self, place: Place) -> Option<Ending> {
        let ending = node(self.storage, place.0).and_then(Ending::of);
        self.remove(place.0);
        ending
    }

    /// Unlinks a node.
    fn remove(&self, address: Address) {
        let mut link = &self.list.head;
        let mut previous = 0;
        for (here, found) in chain(self.storage, &self.list.head) {
            if here == address {
                crash::step!("waiter.leaving");
                self.list.in_hand.store(here.bits(), Relaxed);
                crash::step!("waiter.leave.in_hand");
                link.store(found.next.load(Relaxed), Release);
                crash::step!("waiter.leave.unlinked");
                if self.list.tail.load(Relaxed) == here.bits() {
                    self.list.tail.store(previous, Relaxed);
                }
                crash::step!("waiter.left");
                self.keep_or_free(here, found);
                return;
            }
            previous = here.bits();
            link = &found.next;
        }
    }

    fn keep_or_free(&self, unlinked: Address, node: &Node) {
        let count = self.list.spare_count.load(Relaxed);
        if count < MAX_SPARES {
            crash::step!("spare.keeping");
            node.next.store(self.list.spares.load(Relaxed), Relaxed);
            crash::step!("spare.prepared");
            self.list.spares.store(unlinked.bits(), Relaxed);
            crash::step!("spare.linked");
            self.list.spare_count.store(count + 1, Relaxed);
            crash::step!("spare.counted");
            self.list.in_hand.store(0, Relaxed);
            crash::step!("spare.kept");
        } else {
            let (bytes, link) = (size_of::<Node>(), &self.list.in_hand);
            // SAFETY: allocated in `allocate` with this size; unlinked, so nobody finds it, and
            // by Invariant 2 nobody else refers to it.
            let freed = unsafe { self.storage.free_linked(unlinked, bytes, link, 0) };
            let _ = freed; // or somebody has overwritten where it is
        }
    }

    /// All waiters that weren't told anything yet, in order of arrival. Each may be removed once
    /// it has been returned.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiter<'a>> + use<'a> {
        chain(self.storage, &self.list.head)
            .map(|(address, node)| Waiter { node, address })
            .filter(|waiter| Ending::of(waiter.node).is_none())
    }

    /// Tells a waiter how its wait ends.
    pub(super) fn tell(&self, waiter: Waiter<'_>, ending: Ending) -> Told {
        crash::step!("waiter.telling");
        // Release: pairs with the Acquire in `Ending::of`.
        let before = waiter.node.state.swap(ending.0, Release);
        crash::step!("waiter.told");
        if before == SLEEPING && futex::wake(&waiter.node.state, 1, self.storage.scope()) == 0 {
            Told::Nobody
        } else {
            Told::Waiter
        }
    }

    /// Frees all nodes, when nobody can wait any more. If this process is killed on the way, the next
    /// one that frees the list goes on.
    pub(super) fn clear(&self) {
        for first in [&self.list.head, &self.list.spares] {
            while let Some((address, node)) = chain(self.storage, first).next() {
                let (bytes, next) = (size_of::<Node>(), node.next.load(Relaxed));
                // SAFETY: allocated in `allocate` with this size; nobody waits any more.
                if !unsafe { self.storage.free_linked(address, bytes, first, next) } {
                    break; // it was overwritten
                }
            }
        }
        crash::step!("wait_list.clearing");
        self.list.tail.store(0, Relaxed);
        crash::step!("wait_list.cleared");
    }
}

impl Waiter<'_> {
    pub(super) fn tag(self) -> u32 {
        self.node.tag.load(Relaxed)
    }

    pub(super) fn told_tag(self) -> u32 {
        self.node.told_tag.load(Relaxed)
    }

    /// To be set before the waiter is told: until then it means nothing.
    pub(super) fn set_told_tag(self, tag: u32) {
        crash::step!("waiter.tagging");
        self.node.told_tag.store(tag, Relaxed);
        crash::step!("waiter.tagged");
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.list.mutex.unlock(self.storage);
    }
}
