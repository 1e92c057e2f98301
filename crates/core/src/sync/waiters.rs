// SPDX-License-Identifier: MIT
//! How many wait for an object. Only a report; but the dead aren't in it.
//!
//! Where waiters can die, each process has a number of its own; the dead's are left out, and
//! their records taken over. Elsewhere one number is enough.

use super::per_process::{Entry, PerProcess, Record};
use crate::crash;
use crate::primitive::AtomicU32;
use crate::primitive::Ordering::Relaxed;
use crate::storage::Storage;

/// All-zero is nobody.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Waiters {
    numbers: PerProcess,
    /// Those who can't die, or got no record.
    others: AtomicU32,
    reserved: AtomicU32,
}

impl Waiters {
    /// Counts the caller while it does `wait`.
    pub(super) fn during<R>(&self, storage: Storage, wait: impl FnOnce() -> R) -> R {
        let record = self.enter(storage);
        crash::step!("waiters.entered");
        let outcome = wait();
        crash::step!("waiters.leaving");
        self.leave(storage, record);
        outcome
    }

    fn enter(&self, storage: Storage) -> Option<&'static Record> {
        if storage.can_lose_holders() {
            // A dead process's number is of no use. (Asking the kernel would take too long.)
            let is_free = |entry: Entry| {
                let is_gone = |owner| storage.is_known_gone(owner);
                entry.number == 0 || entry.owner.is_none_or(is_gone)
            };
            while let Some((_, record)) = self.numbers.claim(storage, is_free) {
                if add(record, storage, 1) {
                    return Some(record);
                }
                // Another process was faster to take the record over.
            }
        }
        crash::step!("waiters.counting");
        self.others.fetch_add(1, Relaxed);
        crash::step!("waiters.counted");
        None
    }

    fn leave(&self, storage: Storage, record: Option<&Record>) {
        if let Some(record) = record {
            // It is this process's still: only zeros and the dead's are taken over.
            add(record, storage, -1);
        } else {
            crash::step!("waiters.discounting");
            self.others.fetch_sub(1, Relaxed);
            crash::step!("waiters.discounted");
        }
    }

    /// How many wait.
    pub(super) fn count(&self, storage: Storage) -> u32 {
        let living = self.numbers.records(storage).filter_map(|(_, record)| {
            let entry = record.get();
            (entry.number > 0 && !entry.is_of_dead(storage)).then_some(entry.number)
        });
        living.fold(self.others.load(Relaxed), u32::wrapping_add)
    }

    pub(super) fn destroy(&self, storage: Storage) {
        self.numbers.destroy(storage);
    }
}

/// Adds to the number of this process; false if the record isn't its own any more.
fn add(record: &Record, storage: Storage, change: i32) -> bool {
    let me = storage.me();
    loop {
        let entry = record.get();
        if entry.owner != Some(me) {
            return false;
        }
        let number = entry.number.wrapping_add_signed(change);
        if record.change(entry, Entry::new(me, number)) {
            return true;
        }
    }
}
