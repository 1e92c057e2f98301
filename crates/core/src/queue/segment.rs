// SPDX-License-Identifier: MIT
//! Segments: the pieces of memory that a queue's records lie in.
//!
//! A record is 8 bytes of header (length, tag) and the message, padded to 8 bytes. A header
//! with the length [`JUMP`] says that the next record is in the next segment; so does the end
//! of the segment. Only a queue's producers write, only its consumers read, each under their
//! mutex, and never the same record: the queue's counters are between them.

use core::ptr::NonNull;

use crate::crash;
use crate::family::Entry;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::storage::trail::Trail;
use crate::storage::{Address, OutOfMemory, Storage, Unavailable};

/// The longest message.
pub const MAX_MESSAGE: usize = 0x7FFF_0000;

const RECORD_HEADER: u32 = 8;
const JUMP: u32 = u32::MAX;
/// A mark on the length: the message begins with the name of a blob.
const WITH_BLOB: u32 = 1 << 31;

/// Begins a segment; the records follow.
#[repr(C, align(64))]
struct Header {
    next: AtomicU64,
    /// Bytes for records, a multiple of 8.
    capacity: AtomicU32,
}

const HEADER: usize = size_of::<Header>();
/// Capacities of ordinary segments: the first one, and the one that they grow to.
const SMALLEST: u32 = 4096 - HEADER_32;
const LARGEST: u32 = 65536 - HEADER_32;
#[expect(clippy::cast_possible_truncation, reason = "64")]
const HEADER_32: u32 = HEADER as u32;

/// A place in the chain of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) segment: Address,
    pub(super) position: u32,
}

/// A message as it is going to lie in a segment.
pub(super) struct Record<'a> {
    tag: u32,
    message: &'a [&'a [u8]],
    message_length: u32,
    has_blob: bool,
}

impl<'a> Record<'a> {
    pub(super) fn new(
        tag: u32,
        message: &'a [&'a [u8]],
        has_blob: bool,
    ) -> Result<Self, Unavailable> {
        let length: usize = message.iter().map(|part| part.len()).sum();
        if length > MAX_MESSAGE {
            return Err(Unavailable::OutOfMemory);
        }
        let message_length = u32::try_from(length).map_err(|_| Unavailable::OutOfMemory)?;
        Ok(Self {
            tag,
            message,
            message_length,
            has_blob,
        })
    }

    /// Bytes in a segment.
    pub(super) fn length(&self) -> u32 {
        RECORD_HEADER + self.message_length.next_multiple_of(8)
    }
}

/// Why there is nothing to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// This process has no memory to copy it, or no room to map it.
    NoMemory,
    /// Somebody has overwritten the shared memory.
    Corrupted,
}

/// Why nothing can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// There is no memory for it, or not now.
    Unavailable(Unavailable),
    /// Somebody has overwritten the shared memory.
    Corrupted,
}

impl<E: Into<Unavailable>> From<E> for Unwritable {
    fn from(why: E) -> Self {
        Self::Unavailable(why.into())
    }
}

/// A segment that is mapped here.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    address: Address,
    /// Not a reference: one that is handed to a function, as `free` is, promises that what it
    /// refers to (here the padding, which is no atomic) outlives the call.
    header: NonNull<Header>,
    records: NonNull<u8>,
    capacity: u32,
}

/// A record that was found, and checked to lie within its segment.
struct Found {
    segment: Segment,
    position: u32,
    length: u32,
    tag: u32,
    has_blob: bool,
    end: u32,
}

impl Found {
    #[inline]
    fn end(&self) -> Cursor {
        Cursor {
            segment: self.segment.address,
            position: self.end,
        }
    }
}

impl Segment {
    /// The segment at `address`; `None` if there can't be one.
    #[inline]
    pub(super) fn at(storage: Storage, address: Address) -> Option<Self> {
        if address.is_null() {
            return None;
        }
        let (header, room) = storage.reach_as::<Header>(address)?;
        // SAFETY: resolved and aligned; a Header is made of atomics and valid whatever the bytes
        // are. It is freed only by a queue that has no other use for it (queue Invariant 3).
        let capacity = unsafe { header.as_ref() }.capacity.load(Ordering::Relaxed);
        if HEADER as u64 + u64::from(capacity) > room {
            return None;
        }
        // SAFETY: so many bytes, and more, have room there.
        let records = unsafe { header.cast::<u8>().add(HEADER) };
        Some(Self {
            address,
            header,
            records,
            capacity,
        })
    }

    /// The segment at `address`, if that isn't null. (One that can't be mapped here isn't the same
    /// as none.)
    #[inline]
    pub(super) fn unless_null(
        storage: Storage,
        address: Address,
    ) -> Result<Option<Self>, Unwritable> {
        if address.is_null() {
            return Ok(None);
        }
        let why = || {
            if storage.can_map(address) {
                Unwritable::Corrupted
            } else {
                OutOfMemory.into()
            }
        };
        Self::at(storage, address).map(Some).ok_or_else(why)
    }

    /// Where the chain goes on after this segment.
    fn next(self, storage: Storage, trail: &mut Trail) -> Result<Address, Unreadable> {
        // Acquire: pairs with the Release of the link.
        let next = Address::from_bits(self.next_link().load(Ordering::Acquire));
        if storage.is_allocated(next) && next != self.address && trail.goes_on(next) {
            Ok(next)
        } else {
            Err(Unreadable::Corrupted)
        }
    }

    /// A new segment, linked by `link` and larger than the `last` one, for a record of `length`
    /// bytes at least.
    pub(super) fn allocate(
        storage: Storage,
        entry: Entry,
        link: &AtomicU64,
        last: Option<Self>,
        length: u32,
    ) -> Result<Address, Unavailable> {
        let grown = last.map_or(SMALLEST, |last| last.capacity.saturating_mul(4));
        let capacity = length
            .max(grown.clamp(SMALLEST, LARGEST))
            .next_multiple_of(8);
        storage.allocate_linked_if(entry, HEADER + capacity as usize, link, |start| {
            // SAFETY: fresh memory of at least that size.
            let header: &Header = unsafe { start.cast().as_ref() };
            crash::step!("segment.preparing");
            header.next.store(0, Ordering::Relaxed);
            crash::step!("segment.ends");
            header.capacity.store(capacity, Ordering::Relaxed);
            crash::step!("segment.prepared");
        })
    }

    /// Moves `link` on from this segment to the next one, and frees this one; false if that isn't
    /// possible in time.
    pub(super) fn free(self, storage: Storage, entry: Entry, link: &AtomicU64) -> bool {
        // Acquire: pairs with the Release of the link.
        let next = self.next_link().load(Ordering::Acquire);
        // SAFETY: allocated by `allocate` with this size (a wrong capacity in shared memory is
        // ignored there); the queue has no other use for it.
        unsafe {
            let bytes = HEADER + self.capacity as usize;
            storage.free_linked_if(entry, self.address, bytes, link, next)
        }
    }

    pub(super) fn next_link(self) -> &'static AtomicU64 {
        // SAFETY: as in `at`.
        &unsafe { self.header.as_ref() }.next
    }

    fn has_room(self, position: u32, length: u32) -> bool {
        position
            .checked_add(length)
            .is_some_and(|end| end <= self.capacity)
    }

    /// Writes a record; the position after it, or `None` if there is no room.
    #[inline]
    pub(super) fn write(self, position: u32, record: &Record<'_>) -> Option<u32> {
        if position % 8 != 0 || !self.has_room(position, record.length()) {
            return None;
        }
        let mark = if record.has_blob { WITH_BLOB } else { 0 };
        self.write_header(position, record.message_length | mark, record.tag);
        let mut at = (position + RECORD_HEADER) as usize;
        for part in record.message {
            // SAFETY: the record fits, so all of its parts lie within the segment; they were
            // checked to add up to its length.
            let target = unsafe { self.records.add(at) };
            crash::step!("segment.part.copying");
            // What is put most is one word long, and copied without a call.
            if let Ok(word) = <&[u8; 8]>::try_from(*part) {
                // SAFETY: as above; consumers don't read what isn't committed.
                unsafe { target.cast::<[u8; 8]>().write(*word) };
            } else {
                // SAFETY: as above; the message isn't in shared memory that we write to.
                unsafe { target.copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len()) };
            }
            crash::step!("segment.part.copied");
            at += part.len();
        }
        Some(position + record.length())
    }

    /// Says that the records go on in the next segment.
    pub(super) fn write_jump(self, position: u32) {
        if position % 8 == 0 && self.has_room(position, RECORD_HEADER) {
            self.write_header(position, JUMP, 0);
        }
    }

    fn header_at(self, position: u32) -> &'static AtomicU64 {
        // SAFETY: callers checked that 8 bytes have room there.
        let header = unsafe { self.records.add(position as usize) };
        // SAFETY: within the segment, a multiple of 8 from its 64-byte aligned start.
        unsafe { header.cast().as_ref() }
    }

    // Relaxed: the queue's counters order what lies in the records.

    fn write_header(self, position: u32, length: u32, tag: u32) {
        let word = (u64::from(tag) << 32) | u64::from(length);
        crash::step!("segment.header.writing");
        self.header_at(position).store(word, Ordering::Relaxed);
        crash::step!("segment.header.written");
    }

    #[expect(clippy::cast_possible_truncation, reason = "splits a word in two")]
    fn read_header(self, position: u32) -> (u32, u32) {
        let word = self.header_at(position).load(Ordering::Relaxed);
        (word as u32, (word >> 32) as u32)
    }

    /// Reads the record at `cursor` (`read` gets its tag, its message, and whether that begins with
    /// the name of a blob), or at the start of the next segment, and says where the
    /// one after it is. The trail is that of a walk from record to record, if this is part of one.
    #[inline]
    pub(super) fn read<R>(
        storage: Storage,
        cursor: Cursor,
        trail: Option<&mut Trail>,
        read: impl FnOnce(u32, &[u8], bool) -> R,
    ) -> Result<(R, Cursor), Unreadable> {
        let found = Self::find(storage, cursor, trail)?;
        let result = found
            .segment
            .with_message(found.position, found.length, |message| {
                read(found.tag, message, found.has_blob)
            });
        Ok((result, found.end()))
    }

    /// Changes the tag of the record at `cursor` to what `retag` makes of it, with one store. Under
    /// the consumers' mutex.
    pub(super) fn rewrite_tag(
        storage: Storage,
        cursor: Cursor,
        trail: Option<&mut Trail>,
        retag: impl FnOnce(u32, &[u8], bool) -> u32,
    ) -> Result<Cursor, Unreadable> {
        let found = Self::find(storage, cursor, trail)?;
        let Found { segment, tag, .. } = found;
        let changed = segment.with_message(found.position, found.length, |message| {
            retag(tag, message, found.has_blob)
        });
        if changed != tag {
            let (marked, _) = segment.read_header(found.position);
            segment.write_header(found.position, marked, changed);
        }
        Ok(found.end())
    }

    /// Finds the record at `cursor`, or at the start of the next segment.
    #[inline]
    fn find(
        storage: Storage,
        cursor: Cursor,
        trail: Option<&mut Trail>,
    ) -> Result<Found, Unreadable> {
        let segment = Self::of_cursor(storage, cursor)?;
        match segment.header_of_record(cursor.position) {
            Some(header) => segment.found(cursor.position, header),
            None => segment.find_further(storage, trail),
        }
    }

    /// Goes on to the next segment, and the next, until there is a record.
    #[cold]
    #[inline(never)]
    fn find_further(
        self,
        storage: Storage,
        trail: Option<&mut Trail>,
    ) -> Result<Found, Unreadable> {
        let mut new = Trail::default();
        let trail = trail.unwrap_or(&mut new);
        let mut segment = self;
        loop {
            let cursor = Cursor {
                segment: segment.next(storage, trail)?,
                position: 0,
            };
            segment = Self::of_cursor(storage, cursor)?;
            if let Some(header) = segment.header_of_record(0) {
                return segment.found(0, header);
            }
        }
    }

    #[inline]
    fn of_cursor(storage: Storage, cursor: Cursor) -> Result<Self, Unreadable> {
        let segment = Self::at(storage, cursor.segment);
        let segment = segment.filter(|_| cursor.position % 8 == 0);
        segment.ok_or_else(|| {
            if storage.can_map(cursor.segment) {
                Unreadable::Corrupted
            } else {
                Unreadable::NoMemory
            }
        })
    }

    /// The header of the record at a position, a multiple of 8; `None` if the records go on in the
    /// next segment.
    #[inline]
    fn header_of_record(self, position: u32) -> Option<(u32, u32)> {
        if !self.has_room(position, RECORD_HEADER) {
            return None;
        }
        let header = self.read_header(position);
        (header.0 != JUMP).then_some(header)
    }

    #[inline]
    fn found(self, position: u32, (marked, tag): (u32, u32)) -> Result<Found, Unreadable> {
        let (length, has_blob) = (marked & !WITH_BLOB, marked & WITH_BLOB != 0);
        let end = length
            .checked_next_multiple_of(8)
            .and_then(|padded| padded.checked_add(RECORD_HEADER))
            .and_then(|record| record.checked_add(position))
            .filter(|&end| end <= self.capacity)
            .ok_or(Unreadable::Corrupted)?;
        Ok(Found {
            segment: self,
            position,
            length,
            tag,
            has_blob,
            end,
        })
    }

    #[inline]
    fn with_message<R>(self, position: u32, length: u32, read: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the caller checked that the message lies within the segment.
        let start = unsafe { self.records.add((position + RECORD_HEADER) as usize) };
        // SAFETY: within the segment, initialized by its producer, and not written to while
        // the consumers' mutex is held: producers write past the committed records only.
        let message = unsafe { core::slice::from_raw_parts(start.as_ptr(), length as usize) };
        read(message)
    }
}
