// SPDX-License-Identifier: MIT
//! Blobs: large parts of messages, which lie in shared memory from the first byte written until
//! the last reader is done, and change hands with the message.

use core::ptr::NonNull;

use crate::family::{CARGO_BYTES, CopyOnWrite, Entry, Family, Run};
use crate::primitive::AtomicU32;
use crate::storage::{Kind, OutOfMemory, Unavailable};

/// Bytes in the memory of a family, held by this process.
#[derive(Debug)]
pub struct Blob {
    family: &'static Family,
    run: Run,
    serial: u64,
    data: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is mapped for as long as the process lives, and held by this value; it is
// written to by those who promise (in `write`, or behind `as_ptr`) to be alone.
unsafe impl Send for Blob {}
// SAFETY: as above.
unsafe impl Sync for Blob {}

/// An object that is going to be named in a message, and kept until the message is read: by this
/// value, then by the message's blob.
#[derive(Debug)]
pub struct Passenger {
    family: &'static Family,
    run: Run,
}

impl Passenger {
    /// Takes over one local reference.
    pub(super) fn new(family: &'static Family, run: Run) -> Self {
        Self { family, run }
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        self.family.release(self.run);
    }
}

/// What a blob is called in a message: its place and its serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobName {
    run: Run,
    serial: u64,
}

impl BlobName {
    /// Bytes of an encoded name.
    pub const LENGTH: usize = 16;

    /// The name as it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let (place, serial) = bytes.split_at_mut(8);
        place.copy_from_slice(&Family::offset(self.run).to_le_bytes());
        serial.copy_from_slice(&self.serial.to_le_bytes());
        bytes
    }

    /// Reads a name back from the first bytes; `None` if they are too few.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(word))
        };
        Some(Self {
            run: Run::at(word(0)?),
            serial: word(8)?,
        })
    }

    /// False if this process has no room to map it.
    pub(crate) fn can_be_taken(self, family: &Family) -> bool {
        family.can_hold(self.run)
    }

    /// Takes the blob of a message that is being taken by storing `value` in `count`. Under the
    /// family's mutex.
    pub(crate) fn take(
        self,
        family: &'static Family,
        count: &AtomicU32,
        value: u32,
    ) -> Option<Blob> {
        let is_taken = family.take(self.run, self.serial, count, value);
        is_taken.then(|| Blob::held(family, self.run))
    }

    /// Frees the blob of a message that nobody will take. One that carries objects is condemned
    /// instead: the caller must destroy it.
    #[must_use]
    pub(crate) fn discard(self, family: &Family) -> Option<Run> {
        family.discard(self.run, self.serial)
    }
}

impl Blob {
    /// Memory for `length` bytes, 64-byte aligned, its content undefined.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the shared memory can't grow.
    pub fn new(family: &'static Family, length: usize) -> Result<Self, OutOfMemory> {
        Self::new_if(Entry::Whenever, family, length, &[]).map_err(Unavailable::for_good)
    }

    /// As [`Blob::new`], without waiting for anybody who doesn't go on; the blob keeps the
    /// `passengers` for as long as it lives.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is no memory now.
    pub fn try_new(
        family: &'static Family,
        length: usize,
        passengers: &[Passenger],
    ) -> Result<Self, Unavailable> {
        Self::new_if(Entry::Soon, family, length, passengers)
    }

    fn new_if(
        entry: Entry,
        family: &'static Family,
        length: usize,
        passengers: &[Passenger],
    ) -> Result<Self, Unavailable> {
        let cargo = passengers.len().checked_mul(CARGO_BYTES);
        let bytes = cargo.and_then(|cargo| {
            length
                .checked_next_multiple_of(CARGO_BYTES)?
                .checked_add(cargo)
        });
        let run = family.allocate_blob(entry, bytes.ok_or(OutOfMemory)?)?;
        let mut blob = Self::held(family, run);
        for passenger in passengers {
            debug_assert!(core::ptr::eq(passenger.family, family), "of another family");
            // If it fails, those that are aboard leave with the blob.
            match family.stow(entry, run, passenger.run) {
                Some(true) => {}
                Some(false) => return Err(Unavailable::OutOfMemory),
                None => return Err(Unavailable::Busy),
            }
        }
        blob.length = family.blob_length(run);
        Ok(blob)
    }

    fn held(family: &'static Family, run: Run) -> Self {
        Self {
            family,
            run,
            serial: family.serial(run),
            data: family.object(run),
            length: family.blob_length(run),
        }
    }

    /// How many bytes there is room for: at least as many as were asked for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.length
    }

    /// Where it is mapped, for `capacity` bytes, as long as this value lives.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.data
    }

    /// Copies `bytes` to position `at`, as far as there is room. Nobody else may use the blob
    /// meanwhile (it was just made, and isn't shared yet).
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        let Some(room) = self.length.checked_sub(at) else {
            return;
        };
        let bytes = &bytes[..bytes.len().min(room)];
        // No step: those of the family's `write`.
        // SAFETY: as many bytes have room there, and the blob isn't part of them, for it is
        // borrowed mutably.
        unsafe { self.family.write(self.run, at, bytes) };
    }

    /// The family in whose memory it is.
    #[must_use]
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Its pages once more, for this process alone to write to; `None` without room for that.
    pub(super) fn copy_on_write(&self) -> Option<CopyOnWrite> {
        self.family.copy_on_write(self.run, self.length)
    }

    /// Another process's blob, which lives at least as long as this value, too; `None` if it is
    /// gone.
    #[must_use]
    pub fn find(family: &'static Family, name: BlobName) -> Option<Self> {
        let (run, kind) = family.retain(Family::offset(name.run), name.serial, 0)?;
        if kind == Kind::Blob as u32 {
            return Some(Self::held(family, run));
        }
        family.release(run);
        None
    }

    /// What it is called: [`Blob::find`] finds it by that, as long as somebody holds it.
    #[must_use]
    pub fn name(&self) -> BlobName {
        BlobName {
            run: self.run,
            serial: self.serial,
        }
    }

    /// Gives it away with a message that is put by storing `value` in `count`. To be forgotten
    /// after that. Under the family's mutex.
    pub(crate) fn give(&self, count: &AtomicU32, value: u32) {
        self.family.give(self.run, count, value);
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.family.is_registered() {
            self.family.release(self.run);
        } else if let Some(condemned) = self.family.discard(self.run, self.serial) {
            self.family.destroy(condemned);
        }
    }
}
