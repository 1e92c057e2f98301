// SPDX-License-Identifier: MIT
//! Objects: runs that are held, and freed when nobody holds them any more.

use core::ptr::NonNull;
use core::time::Duration;

use super::bitmap::Bitmap;
use super::layout::{Extent, HOLDER_WORDS, ObjectHeader, PAYLOAD};
use super::processes::{slot_of, unregistered};
use super::runs::{RAW, cells_for};
use super::{Entry, Family, Run};
use crate::crash;
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::{AtomicU32, AtomicU64};
use crate::queue::Queue;
use crate::storage::{Kind, Shareable, Token, Unavailable};
use crate::sync::{Barrier, Condition, Lock, RLock, Semaphore};

/// How long permits of the dead are worth waiting for: somebody may have been stopped in the
/// middle of a loan.
const PATIENCE: Duration = Duration::from_millis(200);

/// The holder bit of the family itself.
pub(super) const FAMILY: u32 = 0;
/// The serial number of an object that is being freed.
pub(super) const CONDEMNED: u64 = 0;

impl Family {
    /// A new object, all zero, with one local reference.
    pub(crate) fn allocate_object(
        &self,
        entry: Entry,
        kind: Kind,
        bytes: usize,
    ) -> Result<Run, Unavailable> {
        self.allocate_held(entry, kind, bytes, |payload| {
            crash::step!("object.zeroing");
            // SAFETY: the cells were free, so nobody refers to these bytes.
            unsafe { payload.write_bytes(0, bytes) };
            crash::step!("object.zeroed");
        })
    }

    /// A new blob, its content undefined, with one local reference.
    pub(crate) fn allocate_blob(&self, entry: Entry, bytes: usize) -> Result<Run, Unavailable> {
        let cells = cells_for(PAYLOAD, bytes)?;
        let has_room = self.locked_if(entry, || self.find_cells(cells).is_some());
        if !has_room.ok_or(Unavailable::Busy)? {
            // The dead may have the room, and who would find that out may not be there.
            self.reap_dead_if(entry);
        }
        self.allocate_held(entry, Kind::Blob, bytes, |_| {})
    }

    fn allocate_held(
        &self,
        entry: Entry,
        kind: Kind,
        bytes: usize,
        initialize: impl FnOnce(NonNull<u8>),
    ) -> Result<Run, Unavailable> {
        self.release_deferred();
        let cells = cells_for(PAYLOAD, bytes)?;
        self.allocate(entry, cells, None, |extent, cell| {
            let run = Run(extent.offset_of(cell));
            let header = self.object_header(run)?;
            let payload = self.resolve(run.0 + PAYLOAD, bytes)?;
            let references = self.references(extent, cell)?;
            initialize(payload);
            crash::step!("object.holders.clearing");
            for word in &header.holders {
                word.store(0, Relaxed);
            }
            crash::step!("object.carriers");
            header.carriers.store(0, Relaxed);
            crash::step!("object.cargo");
            header.cargo.store(0, Relaxed);
            crash::step!("object.holders.cleared");
            set_bit(&header.holders, slot_of(self.me()));
            // No step: this process's own.
            references.store(1, Relaxed);
            Some((&header.run, kind as u32))
        })
    }

    /// Where an object's payload is mapped. The run came from `allocate_object` or `retain`.
    pub(crate) fn object(&self, run: Run) -> NonNull<u8> {
        let header = self.resolve(run.0, size_of::<ObjectHeader>());
        let header: NonNull<ObjectHeader> = header.expect("found before, as the run was").cast();
        // SAFETY: the payload begins where the header ends; at most that is the extent's end. (Not by
        // a reference to the header, with which nothing beyond it may be touched.)
        unsafe { header.add(1).cast() }
    }

    /// One more local reference to the object at `offset`, if it still is the one with this
    /// serial number; says its kind.
    pub(crate) fn retain(&self, offset: u64, serial: u64, bytes: usize) -> Option<(Run, u32)> {
        let run = Run(offset);
        self.locked(|| {
            let (extent, cell) = self.existing(run)?;
            let header = self.object_header(run)?;
            let kind = header.run.kind.load(Relaxed);
            self.resolve(offset, size_of::<ObjectHeader>().checked_add(bytes)?)?;
            if header.run.serial.load(Relaxed) != serial || serial == CONDEMNED || kind == RAW {
                return None;
            }
            // No step: this process's own.
            self.references(extent, cell)?.fetch_add(1, Relaxed);
            set_bit(&header.holders, slot_of(self.me()));
            Some((run, kind))
        })
    }

    /// One more local reference to an object of which this process holds one.
    ///
    /// Without the mutex, which somebody may have been stopped with: only who takes the number from
    /// or to zero changes anything else, and the reference that there is keeps it from that.
    pub(crate) fn retain_once_more(&self, run: Run) {
        let place = self.existing(run);
        if let Some(references) = place.and_then(|(extent, cell)| self.references(extent, cell)) {
            // No step: this process's own.
            references.fetch_add(1, Relaxed);
        }
    }

    /// One local reference less.
    pub(crate) fn release(&self, run: Run) {
        // A fork that bypassed the hooks leaves us with the parent's token: its bits aren't
        // ours to clear.
        if self.pid.load(Relaxed) != std::process::id() {
            return;
        }
        // Once it is known that somebody was stopped, not each of many is waited with.
        let entry = if self.has_deferred.load(Relaxed) != 0 {
            Entry::AtOnce
        } else {
            Entry::Soon
        };
        if self.release_if(entry, run, 1) {
            self.release_deferred();
        } else {
            self.defer_release(run);
        }
    }

    /// False, and nothing has happened, if the mutex isn't to be had in time.
    fn release_if(&self, entry: Entry, run: Run, references: u32) -> bool {
        let orphan = self.locked_if(entry, || {
            let (extent, cell) = self.existing(run)?;
            let count = self.references(extent, cell)?;
            // No step: this process's own.
            if count.fetch_sub(references, Relaxed) != references {
                return None;
            }
            self.let_go(run, slot_of(self.me()))
        });
        if let Some(Some(orphan)) = orphan {
            self.destroy(orphan);
        }
        orphan.is_some()
    }

    /// What was released while another process was stopped in a critical section. Counted beside
    /// the references, where the counter of the object's second cell has no other use: that needs no
    /// memory, and a forked child has its own copy of both.
    fn deferred(&self, run: Run) -> Option<&AtomicU32> {
        let extent = Extent::of(run.0)?;
        self.references(extent, extent.cell_at(run.0) + 1)
    }

    #[cold]
    fn defer_release(&self, run: Run) {
        if let Some(deferred) = self.deferred(run) {
            // No step, twice: this process's own.
            deferred.fetch_add(1, Relaxed);
            // Release: pairs with the swap in `release_deferred`.
            self.has_deferred.store(1, Release);
        }
    }

    /// Releases what couldn't be before, as far as that is possible now.
    pub(super) fn release_deferred(&self) {
        // No step: this process's own.
        if self.has_deferred.load(Relaxed) != 0 && self.has_deferred.swap(0, Acquire) != 0 {
            self.release_all_deferred();
        }
    }

    #[cold]
    fn release_all_deferred(&self) {
        let is_deferred = |&run: &Run| {
            self.deferred(run)
                .is_some_and(|count| count.load(Relaxed) != 0)
        };
        let runs = self.locked_if(Entry::Soon, || {
            self.objects().filter(is_deferred).collect::<Vec<Run>>()
        });
        let Some(runs) = runs else {
            // No step: this process's own.
            self.has_deferred.store(1, Release);
            return;
        };
        for run in runs {
            let Some(deferred) = self.deferred(run) else {
                continue;
            };
            // Another thread may be at it, too. No step, three times: this process's own.
            let count = deferred.swap(0, Relaxed);
            if count != 0 && !self.release_if(Entry::Soon, run, count) {
                deferred.fetch_add(count, Relaxed);
                self.has_deferred.store(1, Release);
            }
        }
    }

    /// Clears the bit of `holder`, unless nothing else keeps the object: then it is condemned,
    /// and the caller must destroy it after the mutex is released. Under the mutex.
    pub(super) fn let_go(&self, run: Run, holder: u32) -> Option<Run> {
        let header = self.object_header(run)?;
        // The family's bit is also that of processes that found no slot: it is never cleared.
        if holder == FAMILY || !has_bit(&header.holders, holder) {
            return None;
        }
        if is_last(&header.holders, holder) && header.carriers.load(Relaxed) == 0 {
            condemn(header);
            return Some(run);
        }
        clear_bit(&header.holders, holder);
        None
    }

    /// Keeps an object in the name of a process that is about to start.
    pub(crate) fn retain_for(&self, run: Run, holder: Token) {
        self.locked(|| {
            // One that was given up: nobody would ever clear the bit.
            if !self.processes().is_known_gone(holder) {
                self.hold(run, slot_of(holder));
            }
        });
    }

    /// Keeps an object until the family ends.
    pub(crate) fn pin(&self, run: Run) {
        self.locked(|| self.hold(run, FAMILY));
    }

    pub(super) fn hold(&self, run: Run, slot: u32) {
        if let Some(header) = self.object_header(run) {
            set_bit(&header.holders, slot);
        }
    }

    /// All objects. Under the mutex.
    fn objects(&self) -> impl Iterator<Item = Run> {
        self.extents().flat_map(move |extent| {
            let starts = self.starts(extent).into_iter().flat_map(Bitmap::iter_set);
            starts
                .map(move |cell| Run(extent.offset_of(cell)))
                .filter(|&run| {
                    self.run_header(run)
                        .is_some_and(|run| run.kind.load(Relaxed) != RAW)
                })
        })
    }

    /// Clears a dead holder's bits. What only it held is held by this process from now on, and
    /// condemned: the caller must destroy it after the mutex is released. Under the mutex.
    pub(super) fn inherit(&self, dead: u32) -> Vec<Run> {
        let me = slot_of(self.me());
        let mut orphans = Vec::new();
        for run in self.objects() {
            if let Some(orphan) = self.let_go(run, dead) {
                self.hold(orphan, me);
                if let Some(header) = self.object_header(orphan) {
                    clear_bit(&header.holders, dead);
                }
                orphans.push(orphan);
            }
        }
        orphans
    }

    /// The semaphores that `borrower` has borrowed permits of, and their serial numbers. Under
    /// the mutex, so that none of them is freed meanwhile.
    pub(super) fn lenders(&self, borrower: Token) -> Vec<(Run, u64)> {
        let storage = self.as_storage();
        let has_lent = |&run: &Run| {
            let is_semaphore = self
                .run_header(run)
                .is_some_and(|header| header.kind.load(Relaxed) == Kind::Semaphore as u32);
            is_semaphore
                && self.serial(run) != CONDEMNED
                && self
                    .payload(run, |it: &Semaphore| it.has_lent_to(storage, borrower))
                    .unwrap_or(false)
        };
        self.objects()
            .filter(has_lent)
            .map(|run| (run, self.serial(run)))
            .collect()
    }

    /// Brings back the permits that the dead have borrowed, now instead of when somebody waits
    /// for them.
    pub(super) fn call_loans_in(&self, lender: Run, serial: u64) {
        // A process without a slot couldn't let go of it again.
        if self.me() == unregistered() {
            return;
        }
        if let Some((run, _)) = self.retain(lender.0, serial, size_of::<Semaphore>()) {
            let storage = self.as_storage();
            let _ = self.payload(run, |it: &Semaphore| it.bury_dead(storage, PATIENCE));
            self.release(run);
        }
    }

    /// Sets the bits of `to` wherever those of `from` are set. Under the mutex.
    pub(super) fn copy_holder(&self, from: u32, to: u32) {
        for run in self.objects() {
            if let Some(header) = self.object_header(run) {
                if has_bit(&header.holders, from) {
                    set_bit(&header.holders, to);
                }
            }
        }
    }

    /// In a forked child: makes its bits agree with the local reference counts that it has
    /// copies of.
    pub(super) fn hold_what_is_counted(&self) {
        let me = slot_of(self.me());
        let orphans: Vec<Run> = self.locked(|| {
            let agree = |run| {
                let (extent, cell) = self.existing(run)?;
                let is_counted = self.references(extent, cell)?.load(Relaxed) != 0;
                if !is_counted {
                    return self.let_go(run, me);
                }
                if self.serial(run) != CONDEMNED {
                    self.hold(run, me);
                }
                None
            };
            self.objects().filter_map(agree).collect()
        });
        for orphan in orphans {
            self.destroy(orphan);
        }
    }

    /// Frees an object that nobody holds, with all that it owns.
    pub(crate) fn destroy(&self, run: Run) {
        // Queues may lie in queues, any number of times: no recursion.
        let mut condemned = vec![run];
        while let Some(run) = condemned.pop() {
            self.destroy_one(run, &mut condemned);
        }
    }

    /// What is to be destroyed because of it is added to `condemned`.
    fn destroy_one(&self, run: Run, condemned: &mut Vec<Run>) {
        let storage = self.as_storage();
        let kind = self
            .run_header(run)
            .map_or(0, |header| header.kind.load(Relaxed));
        let _ = match Kind::from_bits(kind) {
            Some(Kind::Queue) => self.payload(run, |it: &Queue| {
                it.discard_blobs(storage, self, condemned);
                it.destroy(storage);
            }),
            Some(Kind::Blob) => {
                self.unload(run, condemned);
                None
            }
            Some(Kind::Semaphore) => self.payload(run, |it: &Semaphore| it.destroy(storage)),
            Some(Kind::Condition) => self.payload(run, |it: &Condition| it.destroy(storage)),
            Some(Kind::Barrier) => self.payload(run, |it: &Barrier| it.destroy(storage)),
            Some(Kind::Lock) => self.payload(run, |it: &Lock| it.destroy(storage)),
            Some(Kind::RLock) => self.payload(run, |it: &RLock| it.destroy(storage)),
            // They own nothing beside themselves.
            Some(Kind::Event | Kind::Seat) | None => None,
        };
        self.free(run);
    }

    /// Leaves the locks that this process holds to nobody: they stay taken, and their owner
    /// counts as alive for ever.
    pub(super) fn disown_locks(&self) {
        let (me, nobody) = (self.me(), unregistered());
        let mine: Vec<(Run, u32)> = self.locked(|| {
            let held = |run: &Run| {
                self.object_header(*run)
                    .is_some_and(|header| has_bit(&header.holders, slot_of(me)))
            };
            let kind = |run| {
                self.run_header(run)
                    .map_or(0, |header| header.kind.load(Relaxed))
            };
            self.objects()
                .filter(held)
                .map(|run| (run, kind(run)))
                .collect()
        });
        for (run, kind) in mine {
            let _ = match Kind::from_bits(kind) {
                Some(Kind::Lock) => self.payload(run, |it: &Lock| it.change_owner(me, nobody)),
                Some(Kind::RLock) => self.payload(run, |it: &RLock| it.change_owner(me, nobody)),
                _ => None,
            };
        }
    }

    fn payload<T: Shareable, R>(&self, run: Run, use_it: impl FnOnce(&T) -> R) -> Option<R> {
        let payload = self.resolve(run.0 + PAYLOAD, size_of::<T>())?;
        // SAFETY: resolved; T is Shareable, so any bytes are a valid T.
        Some(use_it(unsafe { payload.cast::<T>().as_ref() }))
    }

    /// How many objects there are; for tests and reports.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.locked(|| self.objects().count())
    }
}

/// Nobody finds the object by a handle any more. Under the mutex.
pub(super) fn condemn(header: &ObjectHeader) {
    crash::step!("object.condemning");
    header.run.serial.store(CONDEMNED, Relaxed);
    crash::step!("object.condemned");
}

type Holders = [AtomicU64; HOLDER_WORDS];

// Relaxed: holder bits are read and written under the mutex.

pub(super) fn set_bit(holders: &Holders, slot: u32) {
    if let Some(word) = holders.get((slot / u64::BITS) as usize) {
        crash::step!("holder.setting");
        word.fetch_or(1 << (slot % u64::BITS), Relaxed);
        crash::step!("holder.set");
    }
}

pub(super) fn clear_bit(holders: &Holders, slot: u32) {
    if let Some(word) = holders.get((slot / u64::BITS) as usize) {
        crash::step!("holder.clearing");
        word.fetch_and(!(1 << (slot % u64::BITS)), Relaxed);
        crash::step!("holder.cleared");
    }
}

pub(super) fn has_bit(holders: &Holders, slot: u32) -> bool {
    holders
        .get((slot / u64::BITS) as usize)
        .is_some_and(|word| word.load(Relaxed) & (1 << (slot % u64::BITS)) != 0)
}

/// Whether no bit is set.
pub(super) fn is_empty(holders: &Holders) -> bool {
    holders.iter().all(|word| word.load(Relaxed) == 0)
}

/// Whether no bit but this one is set.
pub(super) fn is_last(holders: &Holders, slot: u32) -> bool {
    holders.iter().zip(0..).all(|(word, index)| {
        let own = if slot / u64::BITS == index {
            1 << (slot % u64::BITS)
        } else {
            0
        };
        word.load(Relaxed) & !own == 0
    })
}
