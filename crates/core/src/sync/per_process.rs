// SPDX-License-Identifier: MIT
//! A number for each process, kept beside an object: how many of something it has.
//!
//! The numbers lie in records of their own, a chain that grows at its head:
//!
//! ```text
//!   head --> [ process A: 2 ] --> [ process B: 0 ] --> [ process C, dead: 1 ] --> null
//! ```
//!
//! Invariants:
//! 1. A record is freed with the object and not before, so who has found one may keep it.
//! 2. One word says whose a number is and how large, so a process that is killed anywhere leaves
//!    no number that isn't its own.
//! 3. A record's owner changes only if its number is zero, or is of no use any more.

use core::ptr::NonNull;

use crate::crash;
use crate::primitive::AtomicU64;
use crate::primitive::Ordering::{Acquire, Relaxed};
use crate::storage::{Address, Storage, Token};

/// The records' chain. All-zero is empty.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct PerProcess {
    /// The newest record; each names the one before it.
    head: AtomicU64,
}

/// The number of one process.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Record {
    entry: AtomicU64,
    next: AtomicU64,
}

/// What a record's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: Option<Token>,
    pub(super) number: u32,
}

impl Entry {
    pub(super) fn new(owner: Token, number: u32) -> Self {
        let owner = Some(owner);
        Self { owner, number }
    }

    #[expect(clippy::cast_possible_truncation, reason = "splits a word in two")]
    fn from_bits(bits: u64) -> Self {
        Self {
            owner: Token::from_bits((bits >> 32) as u32),
            number: bits as u32,
        }
    }

    fn bits(self) -> u64 {
        (u64::from(self.owner.map_or(0, Token::bits)) << 32) | u64::from(self.number)
    }

    pub(super) fn is_of_dead(self, storage: Storage) -> bool {
        self.owner.is_none_or(|owner| storage.seems_gone(owner))
    }
}

// Relaxed: a number is a report, or ordered by the mutex under which it is read and written.
impl Record {
    pub(super) fn get(&self) -> Entry {
        Entry::from_bits(self.entry.load(Relaxed))
    }

    pub(super) fn set(&self, entry: Entry) {
        crash::step!("record.setting");
        self.entry.store(entry.bits(), Relaxed);
        crash::step!("record.set");
    }

    /// Changes the word from `old`, if it still is that.
    pub(super) fn change(&self, old: Entry, new: Entry) -> bool {
        crash::step!("record.changing");
        let changed = self
            .entry
            .compare_exchange(old.bits(), new.bits(), Relaxed, Relaxed);
        crash::step!("record.changed");
        changed.is_ok()
    }
}

/// More records than there can be processes: a chain that is longer has been overwritten.
const MAX_RECORDS: usize = 1024;

impl PerProcess {
    /// The record at an address that came from [`PerProcess::records`].
    pub(super) fn at(storage: Storage, address: Address) -> Option<&'static Record> {
        if address.is_null() {
            return None;
        }
        let record = storage.resolve_as::<Record>(address)?;
        // SAFETY: allocated for a Record (in shared memory, at least mapped and aligned: resolve_as
        // checks it), made of atomics, and by Invariant 1 not freed while the object exists.
        Some(unsafe { record.as_ref() })
    }

    /// All records.
    pub(super) fn records(
        &self,
        storage: Storage,
    ) -> impl Iterator<Item = (Address, &'static Record)> {
        // Acquire: pairs with the Release in `add`.
        let mut next = Address::from_bits(self.head.load(Acquire));
        core::iter::from_fn(move || {
            let address = next;
            let record = Self::at(storage, address)?;
            next = Address::from_bits(record.next.load(Relaxed));
            Some((address, record))
        })
        .take(MAX_RECORDS)
    }

    /// A record of this process: one that it has, else one that `is_free`, else a new one. `None`
    /// without memory.
    pub(super) fn claim(
        &self,
        storage: Storage,
        is_free: impl Fn(Entry) -> bool,
    ) -> Option<(Address, &'static Record)> {
        let me = storage.me();
        let is_mine = |record: &Record| record.get().owner == Some(me);
        if let Some(mine) = self.records(storage).find(|(_, it)| is_mine(it)) {
            return Some(mine);
        }
        let take_over = |&(_, record): &(_, &Record)| {
            let entry = record.get();
            is_free(entry) && record.change(entry, Entry::new(me, 0))
        };
        self.records(storage)
            .find(take_over)
            .or_else(|| self.add(storage))
    }

    #[cold]
    fn add(&self, storage: Storage) -> Option<(Address, &'static Record)> {
        let me = storage.me();
        let prepare = |start: NonNull<u8>| {
            // All who add do it in here, one after the other: the head stays what it is.
            let next = self.head.load(Relaxed);
            let record = Record {
                entry: AtomicU64::new(Entry::new(me, 0).bits()),
                next: AtomicU64::new(next),
            };
            crash::step!("record.writing");
            // SAFETY: fresh memory of that size, aligned to 64 bytes.
            unsafe { start.cast().write(record) };
            crash::step!("record.written");
        };
        let bytes = size_of::<Record>();
        let address = storage.allocate_linked(bytes, &self.head, prepare).ok()?;
        Some((address, Self::at(storage, address)?))
    }

    /// With the object.
    pub(super) fn destroy(&self, storage: Storage) {
        for _ in 0..MAX_RECORDS {
            let first = Address::from_bits(self.head.load(Relaxed));
            let Some(record) = Self::at(storage, first) else {
                return;
            };
            let (bytes, next) = (size_of::<Record>(), record.next.load(Relaxed));
            // SAFETY: allocated in `add` with this size; nobody uses the object any more.
            if !unsafe { storage.free_linked(first, bytes, &self.head, next) } {
                return;
            }
        }
    }
}
