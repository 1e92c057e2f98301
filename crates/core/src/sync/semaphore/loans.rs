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

    /// Takes a permit that comes back when this process dies before [`Semaphore::give_back`].
    ///
    /// (Without memory to note it in, which takes 24 bytes per borrowing process, the permit is
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
        if self.with_loans(storage, || self.repay(storage))? {
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

    /// Whether somebody may sleep. Under the mutex.
    fn repay(&self, storage: Storage) -> Result<bool, AboveBound> {
        let me = storage.me().bits();
        let mut records = self.loans.records(storage);
        let mine = records.find(|(_, record)| record.borrower.load(Relaxed) == me);
        let Some((address, record, count)) = mine
            .map(|(address, record)| (address, record, record.count.load(Relaxed)))
            .filter(|&(.., count)| count > 0)
        else {
            return self.give(1, 0);
        };
        self.loans.intend(address, count - 1);
        let given = self.give(1, ENTERING);
        crash::step();
        match given {
            Ok(_) => self.settle(storage),
            // The block has ended all the same.
            Err(AboveBound) => record.count.store(count - 1, Relaxed),
        }
        given
    }

    /// Whether the process has borrowed a permit, as far as others can see.
    pub(crate) fn has_lent_to(&self, storage: Storage, process: Token) -> bool {
        self.loans.records(storage).any(|(_, record)| {
            record.borrower.load(Relaxed) == process.bits() && record.count.load(Relaxed) > 0
        })
    }

    fn has_dead_borrowers(&self, storage: Storage) -> bool {
        self.loans
            .records(storage)
            .any(|(_, record)| record.count.load(Relaxed) > 0 && is_dead(storage, record))
    }

    /// Brings back what the dead had borrowed; how many permits.
    #[cold]
    pub(crate) fn bury_dead(&self, storage: Storage) -> u32 {
        if !self.has_dead_borrowers(storage) {
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
