// SPDX-License-Identifier: MIT
//! Permits that are borrowed for the length of a block: they come back when the borrower dies.
//!
//! Each process that borrows has a record, how many it has. A permit moves between the
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
//! 3. A record with a count of zero is anybody's.
//!
//! Where holders can't die, on threads, nothing is noted, and a loan is a plain permit.

use core::time::Duration;

use super::{AboveBound, ENTERING, Semaphore, SemaphoreAcquire};
use crate::crash;
use crate::deadline::Deadline;
use crate::park::{Park, Uninterruptible};
use crate::primitive::Ordering::Relaxed;
use crate::primitive::{AtomicU32, AtomicU64};
use crate::storage::{Address, Storage, Token};
use crate::sync::mutex::{Locked, RobustMutex, Tried};
use crate::sync::per_process::{Entry, PerProcess, Record};

/// All-zero is without loans. Relaxed throughout where the mutex orders.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Loans {
    mutex: RobustMutex,
    intended_count: AtomicU32,
    intended_record: AtomicU64,
    /// How many permits each process has borrowed.
    debts: PerProcess,
}

impl Loans {
    /// All records. Without the mutex, new ones may be missed.
    fn records(&self, storage: Storage) -> impl Iterator<Item = (Address, &'static Record)> {
        self.debts.records(storage)
    }

    /// This process's record, or one that it can have. Under the mutex.
    fn mine(&self, storage: Storage) -> Option<(Address, &'static Record)> {
        self.debts.claim(storage, |entry| entry.number == 0)
    }

    fn intend(&self, record: Address, count: u32) {
        crash::step!("loan.intending");
        self.intended_record.store(record.bits(), Relaxed);
        crash::step!("loan.record_intended");
        self.intended_count.store(count, Relaxed);
        crash::step!("loan.intended");
    }

    pub(super) fn destroy(&self, storage: Storage) {
        self.debts.destroy(storage);
    }
}

fn is_dead(storage: Storage, record: &Record) -> bool {
    record.get().is_of_dead(storage)
}

fn note(record: &Record, number: u32) {
    record.set(Entry {
        number,
        ..record.get()
    });
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
        if let Some(record) = PerProcess::at(storage, intended) {
            note(record, self.loans.intended_count.load(Relaxed));
        }
        crash::step!("loan.noted");
        self.word.fetch_and(!ENTERING, Relaxed);
        crash::step!("loan.settled");
    }

    /// What the word became, or `None` if there is no permit. Under the mutex.
    fn lend(&self, storage: Storage, marks: u64) -> Option<u64> {
        if self.value() == 0 {
            return None;
        }
        let Some((address, record)) = self.loans.mine(storage) else {
            return self.take(marks);
        };
        self.loans
            .intend(address, record.get().number.saturating_add(1));
        let taken = self.take(marks | ENTERING)?;
        self.settle(storage);
        Some(taken)
    }

    /// This process's record and what it has borrowed, if anything. Under the mutex.
    fn debt(&self, storage: Storage) -> Option<(Address, &'static Record, u32)> {
        let me = Some(storage.me());
        let mut records = self.loans.records(storage);
        let (address, record) = records.find(|(_, it)| it.get().owner == me)?;
        let count = record.get().number;
        (count > 0).then_some((address, record, count))
    }

    /// Whether somebody may sleep; nothing has changed if that fails. Under the mutex.
    fn repay(&self, storage: Storage) -> Result<bool, AboveBound> {
        let Some((address, _, count)) = self.debt(storage) else {
            return self.give(1, 0);
        };
        self.loans.intend(address, count - 1);
        let given = self.give(1, ENTERING)?;
        self.settle(storage);
        Ok(given)
    }

    /// Notes one loan less. Under the mutex.
    #[cold]
    fn forget_one(&self, storage: Storage) {
        if let Some((_, record, count)) = self.debt(storage) {
            note(record, count - 1);
        }
    }

    /// Whether the process has borrowed a permit, as far as others can see.
    pub(crate) fn has_lent_to(&self, storage: Storage, process: Token) -> bool {
        self.is_entering()
            || self.loans.records(storage).any(|(_, record)| {
                let entry = record.get();
                entry.owner == Some(process) && entry.number > 0
            })
    }

    /// Whether a loan is being entered, perhaps by the dead.
    fn is_entering(&self) -> bool {
        self.word.load(Relaxed) & ENTERING != 0
    }

    fn has_dead_borrowers(&self, storage: Storage) -> bool {
        self.loans
            .records(storage)
            .any(|(_, record)| record.get().number > 0 && is_dead(storage, record))
    }

    /// Brings back what the dead had borrowed; how many permits. Gives up after `patience`, for
    /// a living process may have been stopped in the middle of a loan; whoever waits for a permit
    /// looks again.
    #[cold]
    pub(crate) fn bury_dead(&self, storage: Storage, patience: Duration) -> u32 {
        // A record may be behind the permits: one who died entering a loan looks like one who
        // has none, until somebody takes the mutex and settles that.
        if !self.is_entering() && !self.has_dead_borrowers(storage) {
            return 0;
        }
        // From the dead it is taken over at once.
        let deadline = Deadline::after(patience);
        let mutex = &self.loans.mutex;
        match mutex.lock_until(storage, &Uninterruptible, deadline) {
            Locked::Clean => {}
            Locked::Recovered => self.settle(storage),
            Locked::TimedOut | Locked::Interrupted => return 0,
        }
        let dead = |&(_, record): &(_, &Record)| is_dead(storage, record);
        let returned = self
            .loans
            .records(storage)
            .filter(dead)
            .map(|(address, record)| self.inherit(storage, address, record))
            .fold(0, u32::saturating_add);
        mutex.unlock(storage);
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
            let count = room.min(record.get().number);
            if count == 0 {
                note(record, 0);
                return 0;
            }
            if self.give(count, ENTERING).is_ok() {
                self.settle(storage);
                return count;
            }
        }
    }
}
