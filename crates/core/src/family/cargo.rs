// SPDX-License-Identifier: MIT
//! Cargo: objects that a message names, kept by the message's blob until it is read.
//!
//! ```text
//!   blob:    | header: cargo = 2    | data ...          | entry 1 | entry 0 |
//!   object:  | header: carriers = 1 | ...          entry: | offset | serial number |
//! ```
//!
//! Invariant: an object's `carriers` is the number of entries that name it, in all blobs. The two
//! numbers that change for it are one step: what is intended is written down first, and whoever gets
//! the family's mutex next can tell by `carriers` whether it has happened. Who takes the last entry
//! away holds the object by a bit of its own before that, so nobody is ever killed with an object
//! that nothing keeps.

use core::ptr::NonNull;

use super::layout::{CARRY, ObjectHeader, PAYLOAD};
use super::objects::{CONDEMNED, FAMILY, condemn, is_empty};
use super::processes::slot_of;
use super::runs::RAW;
use super::{Entry, Family, Run};
use crate::crash;
use crate::primitive::Ordering::Relaxed;
use crate::primitive::{AtomicU32, AtomicU64};

/// What one entry of a blob's cargo takes.
pub(crate) const CARGO_BYTES: usize = size_of::<CargoEntry>();

/// Names an object.
#[repr(C)]
struct CargoEntry {
    offset: AtomicU64,
    serial: AtomicU64,
}

// Relaxed, all of them: read and written under the mutex.

impl Family {
    /// Has a blob that isn't given away yet carry an object of which this process holds a reference.
    /// `None` if the mutex isn't to be had in time; false if there is no place for it.
    pub(crate) fn stow(&self, entry: Entry, blob: Run, object: Run) -> Option<bool> {
        self.locked_if(entry, || {
            let stowed = || {
                let (header, carried) = (self.object_header(blob)?, self.object_header(object)?);
                let index = header.cargo.load(Relaxed);
                let place = self.cargo_entry(blob, index)?;
                crash::step!("cargo.entry.writing");
                place.offset.store(object.0, Relaxed);
                crash::step!("cargo.entry.offset");
                place.serial.store(self.serial(object), Relaxed);
                crash::step!("cargo.entry.written");
                let carriers = carried.carriers.load(Relaxed).checked_add(1)?;
                self.shift(blob, index.checked_add(1)?, &carried.carriers, carriers);
                Some(())
            };
            stowed().is_some()
        })
    }

    /// Has a blob carry nothing any more. What nothing else keeps is condemned, and added to
    /// `condemned` for the caller to destroy.
    pub(super) fn unload(&self, blob: Run, condemned: &mut Vec<Run>) {
        // The mutex is released in between: there may be many.
        while let Some(object) = self.locked(|| self.unload_one(blob)) {
            condemned.extend(object);
        }
    }

    /// `None` if there was nothing. Under the mutex.
    #[expect(
        clippy::option_option,
        reason = "whether there is more, and whether this was the last"
    )]
    fn unload_one(&self, blob: Run) -> Option<Option<Run>> {
        let cargo = &self.object_header(blob)?.cargo;
        // No more than there can be: a number that was overwritten would take minutes to count down.
        let index = cargo
            .load(Relaxed)
            .min(self.cargo_room(blob))
            .checked_sub(1)?;
        let Some((object, carried)) = self.carried(blob, index) else {
            // Somebody has overwritten it.
            crash::step!("cargo.skipping");
            cargo.store(index, Relaxed);
            crash::step!("cargo.skipped");
            return Some(None);
        };
        let carriers = carried.carriers.load(Relaxed).saturating_sub(1);
        let is_orphan = carriers == 0 && is_empty(&carried.holders);
        let me = slot_of(self.me());
        if is_orphan && me != FAMILY {
            self.hold(object, me);
        }
        self.shift(blob, index, &carried.carriers, carriers);
        if is_orphan {
            condemn(carried);
        }
        Some(is_orphan.then_some(object))
    }

    /// The object that an entry names, if there is one that is carried.
    fn carried(&self, blob: Run, index: u32) -> Option<(Run, &ObjectHeader)> {
        let entry = self.cargo_entry(blob, index)?;
        let object = Run(entry.offset.load(Relaxed));
        self.existing(object)?;
        let header = self.object_header(object)?;
        let serial = header.run.serial.load(Relaxed);
        let is_it = serial == entry.serial.load(Relaxed)
            && serial != CONDEMNED
            && header.run.kind.load(Relaxed) != RAW
            && header.carriers.load(Relaxed) != 0;
        is_it.then_some((object, header))
    }

    /// How many entries a blob has room for.
    fn cargo_room(&self, blob: Run) -> u32 {
        let room = self.run_length(blob).saturating_sub(PAYLOAD) / CARGO_BYTES as u64;
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// From the end of the run backwards, so that no entry moves when there are more.
    fn cargo_entry(&self, blob: Run, index: u32) -> Option<&CargoEntry> {
        let end = blob.0.checked_add(self.run_length(blob))?;
        let back = (CARGO_BYTES as u64).checked_mul(u64::from(index) + 1)?;
        let at = end.checked_sub(back)?;
        if at < blob.0.checked_add(PAYLOAD)? || at % 8 != 0 {
            return None;
        }
        let entry: NonNull<CargoEntry> = self.resolve(at, CARGO_BYTES)?.cast();
        // SAFETY: resolved and aligned (mappings are, to pages); made of atomics, so valid whatever
        // the bytes are.
        Some(unsafe { entry.as_ref() })
    }

    /// Changes both numbers. Under the mutex.
    fn shift(&self, blob: Run, cargo: u32, carriers: &AtomicU32, value: u32) {
        let word = (self.offset_of(carriers), u64::from(value));
        self.intend(CARRY, blob, cargo, Some(word));
        crash::step!("cargo.shifting");
        carriers.store(value, Relaxed);
        crash::step!("cargo.carriers");
        self.set_cargo(blob, cargo);
        self.settle_intent();
    }

    fn set_cargo(&self, blob: Run, cargo: u32) {
        if let Some(header) = self.object_header(blob) {
            crash::step!("cargo.counting");
            header.cargo.store(cargo, Relaxed);
            crash::step!("cargo.counted");
        }
    }

    /// Under the mutex, after its last holder was killed in shifting.
    #[cold]
    pub(super) fn mend_cargo(&self) {
        let intent = &self.header().intent;
        if self.is_intended_stored() {
            let blob = Run(intent.offset.load(Relaxed));
            self.set_cargo(blob, intent.cells.load(Relaxed));
        }
        self.settle_intent();
    }

    /// How many bytes at the end of a blob its cargo takes.
    pub(super) fn cargo_length(&self, blob: Run) -> u64 {
        let cargo = self.object_header(blob);
        let cargo = cargo.map_or(0, |header| header.cargo.load(Relaxed));
        u64::from(cargo) * CARGO_BYTES as u64
    }
}
