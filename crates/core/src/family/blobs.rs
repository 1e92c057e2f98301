// SPDX-License-Identifier: MIT
//! Blobs: memory that goes from process to process along with a message.
//!
//! A blob is an object without a type. Who fills it holds it; with the store that commits the
//! message, the family holds it instead; with the store that takes the message, its taker does:
//!
//! ```text
//!              give (the message is put)       take (the message is taken)
//!   giver's bit ----------------------> family's bit ----------------------> taker's bit
//! ```
//!
//! Store and bits change as one step: what is intended is written down first, under the
//! family's mutex, and whoever gets that mutex next can tell by the stored count whether the
//! message was committed. So a process that is killed anywhere leaves the blob with exactly one
//! of the two, and its own bits are cleared like those of any other object.

use core::ptr::NonNull;

use super::layout::{CELL, Extent, GIVE, PAYLOAD, TAKE};
use super::objects::{CONDEMNED, FAMILY, clear_bit, condemn, has_bit, is_last, set_bit};
use super::processes::slot_of;
use super::{Family, Run};
use crate::crash;
use crate::primitive::AtomicU32;
use crate::primitive::Ordering::{Relaxed, SeqCst};
use crate::storage::Kind;

impl Family {
    /// Stores `value` in `count`, a word of this family's memory, and gives the caller's blob
    /// to the family. The caller's reference is gone. Under the mutex.
    pub(crate) fn give(&self, blob: Run, count: &AtomicU32, value: u32) {
        let me = slot_of(self.me());
        let word = (self.offset_of(count), u64::from(value));
        self.intend(GIVE, blob, me, Some(word));
        crash::step!("blob.giving");
        count.store(value, SeqCst);
        crash::step!("blob.given");
        self.change_hands(blob, me, FAMILY);
        self.settle_intent();
        if let Some((extent, cell)) = self.existing(blob) {
            if let Some(references) = self.references(extent, cell) {
                // No step: this process's own.
                references.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Stores `value` in `count`, and takes a blob from the family, with one reference. False
    /// (and nothing but the store has happened) if it isn't the family's. Under the mutex.
    pub(crate) fn take(&self, blob: Run, serial: u64, count: &AtomicU32, value: u32) -> bool {
        let references = self
            .blob_of_family(blob, serial)
            .and_then(|(extent, cell)| self.references(extent, cell));
        let Some(references) = references else {
            crash::step!("blob.missing");
            count.store(value, SeqCst);
            crash::step!("blob.missed");
            return false;
        };
        let me = slot_of(self.me());
        let word = (self.offset_of(count), u64::from(value));
        self.intend(TAKE, blob, me, Some(word));
        crash::step!("blob.taking");
        count.store(value, SeqCst);
        crash::step!("blob.taken");
        self.change_hands(blob, FAMILY, me);
        self.settle_intent();
        // No step: this process's own.
        references.fetch_add(1, Relaxed);
        true
    }

    /// Frees a blob that the family holds, unless it is gone already. One that carries objects is
    /// condemned instead: the caller must destroy it.
    pub(crate) fn discard(&self, blob: Run, serial: u64) -> Option<Run> {
        self.locked(|| {
            self.blob_of_family(blob, serial)?;
            let header = self.object_header(blob)?;
            if !is_last(&header.holders, FAMILY) {
                clear_bit(&header.holders, FAMILY);
            } else if header.cargo.load(Relaxed) == 0 {
                self.free_locked(blob, None);
                self.trim();
            } else {
                // If we are killed now, it is ours, and whoever inherits it destroys it.
                self.change_hands(blob, FAMILY, slot_of(self.me()));
                condemn(header);
                return Some(blob);
            }
            None
        })
    }

    /// How many bytes a blob has room for: no more than its extent, whatever its header says.
    pub(crate) fn blob_length(&self, blob: Run) -> usize {
        let rest = self.run_length(blob).saturating_sub(PAYLOAD);
        usize::try_from(rest.saturating_sub(self.cargo_length(blob))).unwrap_or(0)
    }

    /// How many bytes a blob's run has: no more than its extent, whatever its header says.
    pub(super) fn run_length(&self, blob: Run) -> u64 {
        let cells = self
            .run_header(blob)
            .map_or(0, |header| header.cells.load(Relaxed));
        let most = Extent::of(blob.0).map_or(0, |extent| extent.end() - blob.0);
        (u64::from(cells) * CELL).min(most)
    }

    fn blob_of_family(&self, blob: Run, serial: u64) -> Option<(Extent, u32)> {
        let place = self.existing(blob)?;
        let header = self.object_header(blob)?;
        let is_it = header.run.serial.load(Relaxed) == serial
            && serial != CONDEMNED
            && header.run.kind.load(Relaxed) == Kind::Blob as u32
            && has_bit(&header.holders, FAMILY);
        is_it.then_some(place)
    }

    fn change_hands(&self, blob: Run, from: u32, to: u32) {
        // A process without a slot has the family's bit.
        if from == to {
            return;
        }
        if let Some(header) = self.object_header(blob) {
            set_bit(&header.holders, to);
            clear_bit(&header.holders, from);
        }
    }

    /// Under the mutex, after its last holder was killed in giving or taking.
    #[cold]
    pub(super) fn mend_hand_over(&self) {
        let intent = &self.header().intent;
        let blob = Run(intent.offset.load(Relaxed));
        let slot = intent.cells.load(Relaxed);
        if self.is_intended_stored() {
            match intent.action.load(Relaxed) {
                GIVE => self.change_hands(blob, slot, FAMILY),
                _ => self.change_hands(blob, FAMILY, slot),
            }
        }
        self.settle_intent();
    }

    /// Whether the word that goes with what is intended, a count, has its new value.
    pub(super) fn is_intended_stored(&self) -> bool {
        let intent = &self.header().intent;
        let count = self.resolve(intent.word.load(Relaxed), size_of::<AtomicU32>());
        let count = count
            .map(NonNull::cast::<AtomicU32>)
            .filter(|it| it.is_aligned());
        // SAFETY: resolved and aligned; an atomic is valid whatever its bytes.
        let count = count.map(|count| unsafe { count.as_ref() });
        count.is_some_and(|count| u64::from(count.load(Relaxed)) == intent.value.load(Relaxed))
    }

    /// Mends at once what a dead process has left in the middle: before a count that it was
    /// going to change is changed by another.
    pub(crate) fn mend_now(&self) {
        self.locked(|| ());
    }
}
