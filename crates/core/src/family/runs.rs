// SPDX-License-Identifier: MIT
//! Allocating and freeing runs of cells.
//!
//! Each step of a change leaves the file such that [`Family::mend`] or the reaper of the
//! process that died there can finish it. Memory that a word leads to is allocated and freed
//! together with a change of that word, so nobody is ever killed with it in hands.

use core::ptr::NonNull;

use super::bitmap::Bitmap;
use super::kernel::ftruncate;
use super::layout::{ALLOCATE, CARRY, CELL, Extent, FREE, GIVE, MAX_EXTENTS, RunHeader, TAKE};
use super::{Entry, Family, Run};
use crate::crash;
use crate::primitive::AtomicU64;
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::storage::{OutOfMemory, Unavailable};

/// The kind of a run that is no object.
pub(super) const RAW: u32 = 0;

impl Family {
    pub(super) fn bitmap(&self, extent: Extent, start: u64, words: usize) -> Option<Bitmap<'_>> {
        let base = self.base(extent)?;
        // SAFETY: all bitmaps lie within their extent.
        let first = unsafe { base.add(usize::try_from(start).ok()?) }.cast();
        let words = NonNull::slice_from_raw_parts(first, words);
        // SAFETY: as above; the extent stays mapped; an AtomicU64 is valid whatever its bytes.
        Some(Bitmap(unsafe { words.as_ref() }))
    }

    pub(super) fn taken(&self, extent: Extent) -> Option<Bitmap<'_>> {
        self.bitmap(extent, extent.taken_bitmap(), extent.bitmap_words())
    }

    pub(super) fn starts(&self, extent: Extent) -> Option<Bitmap<'_>> {
        self.bitmap(extent, extent.starts_bitmap(), extent.bitmap_words())
    }

    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> {
        let count = self.header().extents.load(Acquire) as usize;
        (0..count.min(MAX_EXTENTS)).map(Extent)
    }

    /// Raw memory, its content undefined.
    pub(crate) fn allocate_raw(&self, entry: Entry, bytes: usize) -> Result<Run, Unavailable> {
        let cells = cells_for(CELL, bytes)?;
        self.allocate(entry, cells, None, |extent, cell| {
            Some((self.run_header(Run(extent.offset_of(cell)))?, RAW))
        })
    }

    /// Raw memory that `prepare` fills; `link`, a word of this family's memory, leads to its
    /// data from then on. A process that is killed in this has done all or nothing.
    pub(crate) fn allocate_linked(
        &self,
        entry: Entry,
        bytes: usize,
        link: &AtomicU64,
        prepare: impl FnOnce(NonNull<u8>),
    ) -> Result<Run, Unavailable> {
        let cells = cells_for(CELL, bytes)?;
        self.allocate(entry, cells, Some(link), |extent, cell| {
            let run = Run(extent.offset_of(cell));
            let header = self.run_header(run)?;
            prepare(self.resolve(run.data(), bytes)?);
            Some((header, RAW))
        })
    }

    /// Takes cells, and makes a run of the kind that `prepare` says; it also fills what must be
    /// right from the start, and finds the run's header.
    pub(super) fn allocate<'a>(
        &'a self,
        entry: Entry,
        cells: u32,
        link: Option<&AtomicU64>,
        prepare: impl FnOnce(Extent, u32) -> Option<(&'a RunHeader, u32)>,
    ) -> Result<Run, Unavailable> {
        let allocated = self.locked_if(entry, || {
            let (extent, cell) = self.find_room(cells)?;
            self.allow_pages(extent, cell, cells)?;
            let run = Run(extent.offset_of(cell));
            let word = link.map(|link| (self.offset_of(link), run.data()));
            self.intend(ALLOCATE, run, cells, word);
            let (Some(taken), Some(starts)) = (self.taken(extent), self.starts(extent)) else {
                self.settle_intent();
                return Err(OutOfMemory);
            };
            taken.set_run(cell, cells);
            self.count_taken(extent, cell, cells);
            self.raise_free_from(extent, cell, cells);
            let Some((header, kind)) = prepare(extent, cell) else {
                // Not mappable here: nobody will see the run.
                self.mend();
                return Err(OutOfMemory);
            };
            crash::step!("run.preparing");
            header.cells.store(cells, Relaxed);
            crash::step!("run.cells");
            header.kind.store(kind, Relaxed);
            crash::step!("run.kind");
            let serial = self.header().serial.fetch_add(1, Relaxed);
            crash::step!("run.serial_taken");
            header.serial.store(serial.wrapping_add(1).max(1), Relaxed);
            crash::step!("run.prepared");
            starts.set(cell);
            if let Some(link) = link {
                crash::step!("run.linking");
                // Release: what was prepared is seen by who follows the link.
                link.store(run.data(), Release);
                crash::step!("run.linked");
            }
            self.settle_intent();
            Ok(run)
        });
        Ok(allocated.ok_or(Unavailable::Busy)??)
    }

    /// Says what is going to happen, so that [`Family::mend`] can finish it.
    pub(super) fn intend(&self, action: u32, run: Run, cells: u32, word: Option<(u64, u64)>) {
        let intent = &self.header().intent;
        let (word, value) = word.unwrap_or((0, 0));
        crash::step!("intent.writing");
        intent.offset.store(run.0, Relaxed);
        crash::step!("intent.offset");
        intent.cells.store(cells, Relaxed);
        crash::step!("intent.cells");
        intent.word.store(word, Relaxed);
        crash::step!("intent.word");
        intent.value.store(value, Relaxed);
        crash::step!("intent.written");
        intent.action.store(action, Release);
        crash::step!("intent.declared");
    }

    /// All that was intended has happened.
    pub(super) fn settle_intent(&self) {
        crash::step!("intent.settling");
        self.header().intent.action.store(0, Release);
        crash::step!("intent.settled");
    }

    /// Changes the link that goes with what is intended, if one does; again, perhaps.
    fn change_intended_link(&self) {
        let intent = &self.header().intent;
        let word = intent.word.load(Relaxed);
        if let Some(link) = self.word_at(word) {
            crash::step!("intent.link.changing");
            link.store(intent.value.load(Relaxed), Release);
            crash::step!("intent.link.changed");
        }
    }

    /// The word at an offset; `None` for zero.
    fn word_at(&self, offset: u64) -> Option<&AtomicU64> {
        if offset == 0 || offset % 8 != 0 {
            return None;
        }
        let word = self.resolve(offset, size_of::<AtomicU64>())?;
        // SAFETY: resolved and aligned; an atomic is valid whatever its bytes.
        Some(unsafe { word.cast().as_ref() })
    }

    fn find_room(&self, cells: u32) -> Result<(Extent, u32), OutOfMemory> {
        match self.find_cells(cells) {
            Some(found) => Ok(found),
            None => self.grow(cells),
        }
    }

    pub(super) fn find_cells(&self, cells: u32) -> Option<(Extent, u32)> {
        let known = self.header().free_from.iter().take(cells as usize).last()?;
        let free_from = known.load(Relaxed);
        let mut extents = self.extents().filter(|extent| extent.end() > free_from);
        extents.find_map(|extent| {
            let from = extent.cell_at(free_from.max(extent.start()));
            let from = from.max(extent.first_cell());
            let cell = self
                .taken(extent)?
                .find_clear_run(from, extent.cells(), cells)?;
            Some((extent, cell))
        })
    }

    /// After the first place for so many cells was taken.
    fn raise_free_from(&self, extent: Extent, cell: u32, cells: u32) {
        if let Some(free_from) = self.header().free_from.get(cells as usize - 1) {
            let end = extent.offset_of(cell) + u64::from(cells) * CELL;
            crash::step!("free_from.raising");
            free_from.store(end, Relaxed);
            crash::step!("free_from.raised");
        }
    }

    /// Before these cells are freed.
    fn lower_free_from(&self, extent: Extent, cell: u32) {
        let mut first = extent.offset_of(cell);
        crash::step!("free_from.lowering");
        for free_from in &self.header().free_from {
            if first < free_from.load(Relaxed) {
                free_from.store(first, Relaxed);
            }
            // Cells before the freed ones may be free already, and one longer run begin there.
            first = first.saturating_sub(CELL);
        }
        crash::step!("free_from.lowered");
    }

    /// Adds extents until one has room.
    #[cold]
    fn grow(&self, cells: u32) -> Result<(Extent, u32), OutOfMemory> {
        let header = self.header();
        loop {
            let next = Extent(header.extents.load(Relaxed) as usize);
            if next.0 >= MAX_EXTENTS || !self.is_next(next) {
                return Err(OutOfMemory);
            }
            crash::step!("extent.growing");
            ftruncate(self.file(), next.end()).map_err(|_| OutOfMemory)?;
            crash::step!("extent.grown");
            // Before others see it: a process without room for it mustn't make the family larger
            // each time it tries.
            self.map_extent(next).map_err(|_| OutOfMemory)?;
            crash::step!("extent.mapped");
            // Release: who sees the number may map the extent; pairs with `base`.
            header.extents.fetch_add(1, Release);
            crash::step!("extent.added");
            let first = next.first_cell();
            if next.cells() - first >= cells {
                return Ok((next, first));
            }
        }
    }

    /// How many extents there are.
    #[cfg(test)]
    pub(crate) fn extent_count(&self) -> usize {
        self.extents().count()
    }

    /// Whether the file has all extents before this one, as it must have if it is the next. (Else
    /// the number of extents was overwritten.)
    fn is_next(&self, extent: Extent) -> bool {
        let before = extent.0.checked_sub(1).map(Extent);
        before.is_some_and(|before| self.is_in_file(before).unwrap_or(false))
    }

    /// Frees raw memory, and nothing else: what doesn't exist, or is an object, was named by a word
    /// that somebody has overwritten.
    pub(crate) fn free_raw(&self, run: Run) {
        self.locked(|| {
            if self.is_raw(run) {
                self.free_locked(run, None);
                self.trim();
            }
        });
    }

    /// Whether there is raw memory.
    pub(crate) fn is_raw(&self, run: Run) -> bool {
        let is_raw = |header: &RunHeader| header.kind.load(Relaxed) == RAW;
        self.existing(run).is_some() && self.run_header(run).is_some_and(is_raw)
    }

    /// Frees a run. One that doesn't exist is left alone.
    pub(crate) fn free(&self, run: Run) {
        self.locked(|| {
            self.free_locked(run, None);
            self.trim();
        });
    }

    /// Moves `link`, a word of this family's memory, on from a run to `next`, and frees the run.
    /// A process that is killed in this has done all or nothing. False, and nothing has happened, if
    /// the mutex isn't to be had in time, or there is no such memory (any more): then a link was
    /// overwritten, and following it might never end.
    pub(crate) fn free_linked(&self, entry: Entry, run: Run, link: &AtomicU64, next: u64) -> bool {
        let freed = self.locked_if(entry, || {
            let is_freed =
                self.is_raw(run) && self.free_locked(run, Some((self.offset_of(link), next)));
            self.trim();
            is_freed
        });
        freed.unwrap_or(false)
    }

    /// Whether there was such a run.
    pub(super) fn free_locked(&self, run: Run, word: Option<(u64, u64)>) -> bool {
        let Some((extent, cell)) = self.existing(run) else {
            return false;
        };
        let Some(header) = self.run_header(run) else {
            return false;
        };
        let cells = header.cells.load(Relaxed).min(extent.cells() - cell);
        self.intend(FREE, run, cells, word);
        self.finish_free(extent, cell);
        true
    }

    fn finish_free(&self, extent: Extent, cell: u32) {
        let cells = self.header().intent.cells.load(Relaxed);
        self.change_intended_link();
        if let (Some(starts), Some(taken)) = (self.starts(extent), self.taken(extent)) {
            starts.clear(cell);
            self.lower_free_from(extent, cell);
            taken.clear_run(cell, cells);
        }
        // Before: too much, if we are killed in between, is put right with the next trim.
        self.count_freed(cells);
        self.settle_intent();
    }

    pub(super) fn run_header(&self, run: Run) -> Option<&RunHeader> {
        let header = self.resolve(run.0, size_of::<RunHeader>())?.cast();
        if !header.is_aligned() {
            return None;
        }
        // SAFETY: resolved and aligned; made of atomics.
        Some(unsafe { header.as_ref() })
    }

    /// Finishes or undoes what the mutex's last holder was killed in.
    #[cold]
    pub(super) fn mend(&self) {
        let intent = &self.header().intent;
        let offset = intent.offset.load(Relaxed);
        let Some(extent) = Extent::of(offset) else {
            return;
        };
        let cell = extent.cell_at(offset);
        match intent.action.load(Acquire) {
            FREE => self.finish_free(extent, cell),
            ALLOCATE => {
                let is_committed = self
                    .starts(extent)
                    .is_some_and(|starts| starts.is_set(cell));
                if is_committed {
                    self.change_intended_link();
                } else if let Some(taken) = self.taken(extent) {
                    let cells = intent.cells.load(Relaxed);
                    self.lower_free_from(extent, cell);
                    taken.clear_run(cell, cells);
                    // Perhaps too much: see `trim`.
                    self.count_freed(cells);
                }
                self.settle_intent();
            }
            GIVE | TAKE => self.mend_hand_over(),
            CARRY => self.mend_cargo(),
            _ => {}
        }
    }

    /// Where a run lies, if it exists.
    pub(super) fn existing(&self, run: Run) -> Option<(Extent, u32)> {
        let extent = Extent::of(run.0)?;
        let cell = extent.cell_at(run.0);
        let is_start = run.0 % CELL == 0
            && (extent.first_cell()..extent.cells()).contains(&cell)
            && self.starts(extent)?.is_set(cell);
        is_start.then_some((extent, cell))
    }

    /// The serial number of an existing run.
    pub(crate) fn serial(&self, run: Run) -> u64 {
        self.run_header(run)
            .map_or(0, |header| header.serial.load(Relaxed))
    }

    /// The offset of a run, for handles.
    pub(crate) fn offset(run: Run) -> u64 {
        run.0
    }

    /// How many bytes of the file are taken; for tests and reports.
    #[must_use]
    pub fn bytes_taken(&self) -> u64 {
        self.locked(|| {
            let cells = |extent| self.taken(extent).map_or(0, Bitmap::count_set);
            self.extents().map(cells).sum::<u64>() * CELL
        })
    }
}

pub(super) fn cells_for(header: u64, bytes: usize) -> Result<u32, OutOfMemory> {
    let bytes = (bytes as u64).checked_add(header).ok_or(OutOfMemory)?;
    u32::try_from(bytes.div_ceil(CELL)).map_err(|_| OutOfMemory)
}
