// SPDX-License-Identifier: MIT
//! What lies where in a family's memory file.
//!
//! ```text
//! file:    | extent 0: 1 MiB | extent 1: 2 MiB | extent 2: 4 MiB | ...   grows as needed
//! extent:  | [0 only: Header, process table] | taken, starts, backed bitmap | cells of 64 B |
//! object:  | ObjectHeader: 2 cells | payload |
//! raw run: | RunHeader: 1 cell | data |
//! ```
//!
//! Extents double, so an offset's extent is a logarithm away, a process maps each with one
//! `mmap` when it first meets it, and nothing is ever moved. Pages that nobody wrote to cost
//! nothing.

use crate::primitive::{AtomicU32, AtomicU64};
use crate::sync::mutex::RobustMutex;

pub(super) const CELL: u64 = 64;
const BASE: u64 = 1 << 20;
/// 2^21 MiB in all.
pub(super) const MAX_EXTENTS: usize = 21;

/// Says that a file is one of ours, in this layout.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"ftarena\x04");

/// Cells of which it is known whether the file may have pages for them: 64 KiB.
pub(super) const GRANULE: u32 = 1024;

/// Lengths of runs whose first free place is remembered.
pub(super) const LENGTHS: usize = 8;

/// The start of the file.
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    /// Random; who knows it was given it.
    pub(super) id: [AtomicU64; 2],
    /// The last serial number given to a run; never reused.
    pub(super) serial: AtomicU64,
    /// How many extents the file has.
    pub(super) extents: AtomicU32,
    /// Guards the bitmaps, all holder bits, and the freeing of process slots.
    pub(super) mutex: RobustMutex,
    /// Entry N: no N + 1 free cells in a row begin below this offset, so that is where to start
    /// looking for them; the last entry is for longer runs, too. Lowered before a run is freed
    /// and raised after one is taken, so a death in between is harmless.
    pub(super) free_from: [AtomicU64; LENGTHS],
    /// What the mutex's holder is about to do to a run, so that its death can be mended.
    pub(super) intent: Intent,
    /// Bytes in free cells whose pages the file has, about.
    pub(super) idle: AtomicU64,
    /// How many of them were left when pages were last given back.
    pub(super) unpunched: AtomicU64,
    /// Bytes that may get new pages before somebody looks again at how many there may be.
    pub(super) allowance: AtomicU64,
    /// How often pages were given back.
    pub(super) trims: AtomicU32,
    pub(super) reserved: AtomicU32,
}

/// A change of a run that takes more than one store.
#[repr(C)]
pub(super) struct Intent {
    pub(super) offset: AtomicU64,
    /// How many there are; or, when a run is handed over, the slot of who gives or takes it; or how
    /// many objects it carries then.
    pub(super) cells: AtomicU32,
    /// 0 nothing, or one of the following; written last, cleared when all is done.
    pub(super) action: AtomicU32,
    /// Where a word lies that changes along with the run, and what it becomes; 0: none does.
    pub(super) word: AtomicU64,
    pub(super) value: AtomicU64,
}

pub(super) const ALLOCATE: u32 = 1;
pub(super) const FREE: u32 = 2;
pub(super) const GIVE: u32 = 3;
pub(super) const TAKE: u32 = 4;
pub(super) const CARRY: u32 = 5;

/// Begins every run.
#[repr(C)]
pub(super) struct RunHeader {
    /// Unique in the family, for all time.
    pub(super) serial: AtomicU64,
    /// Length of the run, this header included.
    pub(super) cells: AtomicU32,
    /// A `Kind`, or 0 for raw memory.
    pub(super) kind: AtomicU32,
}

pub(super) const HOLDER_WORDS: usize = 13;

/// Begins the run of an object. The object lives while a holder bit is set (bit 0 for the
/// family itself: a pickled handle of unknown whereabouts; bit N for process slot N), or a blob
/// carries it.
#[repr(C)]
pub(super) struct ObjectHeader {
    pub(super) run: RunHeader,
    pub(super) holders: [AtomicU64; HOLDER_WORDS],
    /// How many times it is carried by a blob.
    pub(super) carriers: AtomicU32,
    /// A blob's: how many objects it carries.
    pub(super) cargo: AtomicU32,
}

pub(super) const PAYLOAD: u64 = size_of::<ObjectHeader>() as u64;
/// Process slots, the unused slot 0 included.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(super) const MAX_PROCESSES: u32 = HOLDER_WORDS as u32 * u64::BITS;

/// A process of the family; see `processes`.
#[repr(C)]
pub(super) struct ProcessSlot {
    /// `{ state: 8 bits, lives: 24 bits, pid: 32 bits }`, so that they change at once.
    pub(super) life: AtomicU64,
    pub(super) start_time: AtomicU64,
    pub(super) creator: AtomicU32,
    pub(super) name: Name,
}

pub(super) const NAME_BYTES: usize = 104;

/// What a process is called, for reports: UTF-8, cut off where it is too long. Read while it is
/// written it may be a mixture.
#[repr(C)]
pub(super) struct Name {
    pub(super) length: AtomicU32,
    pub(super) bytes: [AtomicU32; NAME_BYTES / 4],
}

const PROCESS_TABLE: u64 = 4096;
const PROCESS_TABLE_END: u64 =
    PROCESS_TABLE + MAX_PROCESSES as u64 * size_of::<ProcessSlot>() as u64;

const _: () = {
    assert!(size_of::<Header>() as u64 <= PROCESS_TABLE);
    assert!(size_of::<ObjectHeader>() == 128);
    assert!(size_of::<RunHeader>() as u64 <= CELL);
    assert!(size_of::<ProcessSlot>() == 128);
    assert!(PROCESS_TABLE_END % CELL == 0);
    assert!(PROCESS_TABLE_END < BASE / 2);
};

/// Where slot `index` of the process table lies.
pub(super) fn process_slot(index: u32) -> u64 {
    debug_assert!(index < MAX_PROCESSES);
    PROCESS_TABLE + u64::from(index) * size_of::<ProcessSlot>() as u64
}

/// One extent of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent(pub(super) usize);

impl Extent {
    /// The extent that holds `offset`, if there can be one.
    pub(super) fn of(offset: u64) -> Option<Self> {
        let index = (offset / BASE + 1).ilog2() as usize;
        (index < MAX_EXTENTS).then_some(Self(index))
    }

    pub(super) fn start(self) -> u64 {
        ((1 << self.0) - 1) * BASE
    }

    pub(super) fn size(self) -> u64 {
        BASE << self.0
    }

    pub(super) fn end(self) -> u64 {
        self.start() + self.size()
    }

    /// Cells, the ones under the bitmaps included.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "2^20 MiB are 2^34 cells: see below"
    )]
    pub(super) fn cells(self) -> u32 {
        // The last two extents have more cells than 32 bits can count; theirs end sooner.
        (self.size() / CELL).min(u64::from(u32::MAX) / 64 * 64) as u32
    }

    /// Words of one bitmap.
    pub(super) fn bitmap_words(self) -> usize {
        (self.cells() / u64::BITS) as usize
    }

    /// Where the bitmap of taken cells starts, from the extent's start.
    pub(super) fn taken_bitmap(self) -> u64 {
        if self.0 == 0 { PROCESS_TABLE_END } else { 0 }
    }

    /// Where the bitmap of the cells that begin a run starts, from the extent's start.
    pub(super) fn starts_bitmap(self) -> u64 {
        self.taken_bitmap() + self.bitmap_words() as u64 * 8
    }

    /// Where the bitmap of the granules that may have pages starts, from the extent's start.
    pub(super) fn backed_bitmap(self) -> u64 {
        self.starts_bitmap() + self.bitmap_words() as u64 * 8
    }

    /// Its words.
    pub(super) fn backed_words(self) -> usize {
        self.cells().div_ceil(GRANULE).div_ceil(u64::BITS) as usize
    }

    /// The first cell that can be given out.
    #[expect(clippy::cast_possible_truncation, reason = "a 256th of the cells")]
    pub(super) fn first_cell(self) -> u32 {
        (self.backed_bitmap() + self.backed_words() as u64 * 8).div_ceil(CELL) as u32
    }

    /// The number of the cell at `offset`, which lies in this extent.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "callers check against `cells`"
    )]
    pub(super) fn cell_at(self, offset: u64) -> u32 {
        ((offset - self.start()) / CELL) as u32
    }

    /// The offset of a cell.
    pub(super) fn offset_of(self, cell: u32) -> u64 {
        self.start() + u64::from(cell) * CELL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_tile_the_file() {
        let mut end = 0;
        for index in 0..MAX_EXTENTS {
            let extent = Extent(index);
            assert_eq!(extent.start(), end);
            end = extent.end();
            assert_eq!(Extent::of(extent.start()), Some(extent));
            assert_eq!(Extent::of(end - 1), Some(extent));
            assert!(extent.first_cell() < extent.cells());
        }
        assert_eq!(Extent::of(end), None);
        assert_eq!(Extent::of(u64::MAX), None);
    }

    #[test]
    fn cells_and_offsets_are_inverse() {
        for index in [0, 1, 5] {
            let extent = Extent(index);
            for cell in [extent.first_cell(), extent.cells() - 1] {
                let offset = extent.offset_of(cell);
                assert_eq!(Extent::of(offset), Some(extent));
                assert_eq!(extent.cell_at(offset), cell);
            }
        }
    }
}
