// SPDX-License-Identifier: MIT
//! Permits that are borrowed for the length of a block: they come back when the borrower dies.
//!
//! Each process that borrows has a [`Record`], how many it has. A permit moves between the
//! semaphore's word and a record as one step, although these are two words:
//!
//! ```text
//!           intend                 change the word               settle
//!   quiet ----------> intended ------------------------> entering ------> quiet
//!                (record, new count)  (permits ± n, ENTERING)   (record := new count, mark off)
//! ```
//!
//! Invariants:
//! 1. Records, the intent and the mark [`ENTERING`] change only under `mutex`.
//! 2. The mark is set by the same store that changes the permits. So whoever takes the mutex
//!    over from a dead holder knows: with the mark, the permits have moved, and the record gets
//!    the intended count (again, perhaps); without it, they haven't, or all was done.
//! 3. A record is never freed before the semaphore is; one with a count of zero is anybody's.
//!
//! Where holders can't die, on threads, nothing is noted, and a loan is a plain permit.

use super::{AboveBound, ENTERING, Semaphore, SemaphoreAcquire};
use crate::crash;
use crate::park::Park;
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::{AtomicU32, AtomicU64};
use crate::storage::{Address, Storage, Token};
use crate::sync::mutex::{RobustMutex, Tried};

/// All-zero is without loans. Relaxed throughout where the mutex orders.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Loans {
    mutex: RobustMutex,
    intended_count: AtomicU32,
    intended_record: AtomicU64,
    /// The newest record; each names the one before it.
    records: AtomicU64,
}

/// What a process has borrowed.
#[derive(Debug, Default)]
#[repr(C)]
struct Record {
    borrower: AtomicU32,
    count: AtomicU32,
    next: AtomicU64,
}

/// More records than there can be processes: a chain that is longer has been overwritten.
const MAX_RECORDS: usize = 1024;

fn record(storage: Storage, address: Address) -> Option<&'static Record> {
    if address.is_null() {
        return None;
    }
    let record = storage.resolve(address, size_of::<Record>())?;
    // SAFETY: allocated for a Record (in shared memory, at least mapped: resolve checks it),
    // made of atomics, and by Invariant 3 not freed while the semaphore exists.
    Some(unsafe { record.cast().as_ref() })
}

impl Loans {
    /// All records. Without the mutex, new ones may be missed.
    fn records(&self, storage: Storage) -> impl Iterator<Item = (Address, &'static Record)> {
        // Acquire: pairs with the Release in `add`, for those without the mutex.
        let mut next = Address::from_bits(self.records.load(Acquire));
        core::iter::from_fn(move || {
            let address = next;
            let record = record(storage, address)?;
            next = Address::from_bits(record.next.load(Relaxed));
            Some((address, record))
        })
        .take(MAX_RECORDS)
    }

    /// This process's record, or one that it can have. Under the mutex.
    fn mine(&self, storage: Storage) -> Option<(Address, &'static Record)> {
        let me = storage.me().bits();
        let is_mine = |record: &Record| record.borrower.load(Relaxed) == me;
        let mut found = self.records(storage).find(|(_, record)| is_mine(record));
        if found.is_none() {
            found = self
                .records(storage)
                .find(|(_, record)| record.count.load(Relaxed) == 0);
        }
        match found {
            Some((_, record)) => record.borrower.store(me, Relaxed),
            None => found = self.add(storage),
        }
        found
    }

    #[cold]
    fn add(&self, storage: Storage) -> Option<(Address, &'static Record)> {
        let address = storage.allocate(size_of::<Record>()).ok()?;
        let new = storage.resolve(address, size_of::<Record>())?.cast();
        // SAFETY: fresh memory of that size, aligned to 64 bytes.
        unsafe { new.write(Record::default()) };
        let new = record(storage, address)?;
        new.borrower.store(storage.me().bits(), Relaxed);
        new.next.store(self.records.load(Relaxed), Relaxed);
        crash::step();
        self.records.store(address.bits(), Release);
        crash::step();
        Some((address, new))
    }

    fn intend(&self, record: Address, count: u32) {
        self.intended_record.store(record.bits(), Relaxed);
        self.intended_count.store(count, Relaxed);
        crash::step();
    }

    pub(super) fn destroy(&self, storage: Storage) {
        let records: Vec<Address> = self.records(storage).map(|(address, _)| address).collect();
        self.records.store(0, Relaxed);
        for address in records {
            // SAFETY: allocated in `add` with this size; nobody uses the semaphore any more.
            unsafe { storage.free(address, size_of::<Record>()) };
        }
    }
}

fn is_dead(storage: Storage, record: &Record) -> bool {
    Token::from_bits(record.borrower.load(Relaxed))
        .is_none_or(|borrower| storage.seems_gone(borrower))
}

impl Semaphore {
    /// Borrows a permit if there is one; false also if that can't be found out at once.
    #[inline]
    #[must_use]
    pub fn try_borrow(&self, storage: Storage) -> bool {
        if !storage.can_lose_holders() {
            return self.try_acquire();
        }
        if self.loans.mutex.try_lock(storage) == Tried::Busy {
            return false;
        }
        let lent = self.lend(storage, 0);
        self.loans.mutex.unlock(storage);
        lent.is_some()
    }

    /// Gives a borrowed permit back if that can be done at once; else nothing has changed.
    #[inline]
    #[must_use]
    pub fn try_give_back(&self, storage: Storage) -> bool {
        if !storage.can_lose_holders() {
            return self.release(storage).is_ok();
        }
        if self.loans.mutex.try_lock(storage) == Tried::Busy {
            return false;
        }
        let repaid = self.repay(storage);
        self.loans.mutex.unlock(storage);
        if repaid == Ok(true) {
            self.wake(storage);
        }
        repaid.is_ok()
    }

    /// Takes a permit that comes back when this process dies before [`Semaphore::give_back`].
    ///
    /// (Without memory to note it in, which takes 128 bytes per borrowing process, the permit is
    /// a plain one.)
    #[cold]
    pub fn borrow(&self, storage: Storage, park: &impl Park) -> SemaphoreAcquire {
        self.acquire_contended(storage, None, park, |marks| {
            if storage.can_lose_holders() {
                self.with_loans(storage, || self.lend(storage, marks))
            } else {
                self.take(marks)
            }
        })
    }

    /// Gives a borrowed permit back; a plain one if this process has borrowed none.
    ///
    /// # Errors
    ///
    /// [`AboveBound`] if there would be too many: somebody released what he hadn't taken.
    #[inline]
    pub fn give_back(&self, storage: Storage) -> Result<(), AboveBound> {
        if !storage.can_lose_holders() {
            return self.release(storage);
        }
        let repaid = self.with_loans(storage, || {
            let repaid = self.repay(storage);
            if repaid.is_err() {
                self.forget_one(storage); // the block has ended all the same
            }
            repaid
        });
        if repaid? {
            self.wake(storage);
        }
        Ok(())
    }

    fn with_loans<R>(&self, storage: Storage, section: impl FnOnce() -> R) -> R {
        if self.loans.mutex.lock(storage) {
            self.settle(storage);
        }
        let result = section();
        self.loans.mutex.unlock(storage);
        result
    }

    /// Completes what was intended, if the permits have moved. Under the mutex.
    fn settle(&self, storage: Storage) {
        if self.word.load(Relaxed) & ENTERING == 0 {
            return;
        }
        let intended = Address::from_bits(self.loans.intended_record.load(Relaxed));
        if let Some(record) = record(storage, intended) {
            let count = self.loans.intended_count.load(Relaxed);
            record.count.store(count, Relaxed);
        }
        crash::step();
        self.word.fetch_and(!ENTERING, Relaxed);
        crash::step();
    }

    /// What the word became, or `None` if there is no permit. Under the mutex.
    fn lend(&self, storage: Storage, marks: u64) -> Option<u64> {
        if self.value() == 0 {
            return None;
        }
        let Some((address, record)) = self.loans.mine(storage) else {
            return self.take(marks);
        };
        self.loans.intend(address, record.count.load(Relaxed) + 1);
        let taken = self.take(marks | ENTERING)?;
        crash::step();
        self.settle(storage);
        Some(taken)
    }

    /// This process's record and what it has borrowed, if anything. Under the mutex.
    fn debt(&self, storage: Storage) -> Option<(Address, &'static Record, u32)> {
        let me = storage.me().bits();
        let mut records = self.loans.records(storage);
        let (address, record) = records.find(|(_, it)| it.borrower.load(Relaxed) == me)?;
        let count = record.count.load(Relaxed);
        (count > 0).then_some((address, record, count))
    }

    /// Whether somebody may sleep; nothing has changed if that fails. Under the mutex.
    fn repay(&self, storage: Storage) -> Result<bool, AboveBound> {
        let Some((address, _, count)) = self.debt(storage) else {
            return self.give(1, 0);
        };
        self.loans.intend(address, count - 1);
        let given = self.give(1, ENTERING)?;
        crash::step();
        self.settle(storage);
        Ok(given)
    }

    /// Notes one loan less. Under the mutex.
    #[cold]
    fn forget_one(&self, storage: Storage) {
        if let Some((_, record, count)) = self.debt(storage) {
            record.count.store(count - 1, Relaxed);
        }
    }

    /// Whether the process has borrowed a permit, as far as others can see.
    pub(crate) fn has_lent_to(&self, storage: Storage, process: Token) -> bool {
        self.is_entering()
            || self.loans.records(storage).any(|(_, record)| {
                record.borrower.load(Relaxed) == process.bits() && record.count.load(Relaxed) > 0
            })
    }

    /// Whether a loan is being entered, perhaps by the dead.
    fn is_entering(&self) -> bool {
        self.word.load(Relaxed) & ENTERING != 0
    }

    fn has_dead_borrowers(&self, storage: Storage) -> bool {
        self.loans
            .records(storage)
            .any(|(_, record)| record.count.load(Relaxed) > 0 && is_dead(storage, record))
    }

    /// Brings back what the dead had borrowed; how many permits.
    #[cold]
    pub(crate) fn bury_dead(&self, storage: Storage) -> u32 {
        // A record may be behind the permits: one who died entering a loan looks like one who
        // has none, until somebody takes the mutex and settles that.
        if !self.is_entering() && !self.has_dead_borrowers(storage) {
            return 0;
        }
        let returned = self.with_loans(storage, || {
            let dead = |&(_, record): &(_, &Record)| is_dead(storage, record);
            self.loans
                .records(storage)
                .filter(dead)
                .map(|(address, record)| self.inherit(storage, address, record))
                .sum()
        });
        if returned > 0 {
            self.wake(storage);
        }
        returned
    }

    /// Moves a dead borrower's permits back, as many as the bound allows. Under the mutex.
    fn inherit(&self, storage: Storage, address: Address, record: &Record) -> u32 {
        self.loans.intend(address, 0);
        loop {
            let room = self.bound().saturating_sub(self.value());
            let count = room.min(record.count.load(Relaxed));
            if count == 0 {
                record.count.store(0, Relaxed);
                return 0;
            }
            if self.give(count, ENTERING).is_ok() {
                crash::step();
                self.settle(storage);
                return count;
            }
        }
    }
}
