// SPDX-License-Identifier: MIT
//! Allocating and freeing runs of cells.
//!
//! Each step of a change leaves the file such that [`Family::mend`] or the reaper of the
//! process that died there can finish it. One gap is left: a raw run that somebody is killed
//! with in hands, not linked anywhere yet or any more, stays allocated until the family ends.

use core::ptr::NonNull;

use super::bitmap::Bitmap;
use super::kernel::ftruncate;
use super::layout::{ALLOCATE, CELL, Extent, FREE, MAX_EXTENTS, RunHeader};
use super::{Family, Run};
use crate::crash;
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::storage::OutOfMemory;

/// The kind of a run that is no object.
pub(super) const RAW: u32 = 0;

impl Family {
    fn bitmap(&self, extent: Extent, start: u64) -> Option<Bitmap<'_>> {
        let base = self.base(extent)?;
        // SAFETY: both bitmaps lie within their extent.
        let first = unsafe { base.add(usize::try_from(start).ok()?) }.cast();
        let words = NonNull::slice_from_raw_parts(first, extent.bitmap_words());
        // SAFETY: as above; the extent stays mapped; an AtomicU64 is valid whatever its bytes.
        Some(Bitmap(unsafe { words.as_ref() }))
    }

    fn taken(&self, extent: Extent) -> Option<Bitmap<'_>> {
        self.bitmap(extent, extent.taken_bitmap())
    }

    pub(super) fn starts(&self, extent: Extent) -> Option<Bitmap<'_>> {
        self.bitmap(extent, extent.starts_bitmap())
    }

    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> {
        let count = self.header().extents.load(Acquire) as usize;
        (0..count.min(MAX_EXTENTS)).map(Extent)
    }

    /// Raw memory, its content undefined.
    pub(crate) fn allocate_raw(&self, bytes: usize) -> Result<Run, OutOfMemory> {
        let cells = cells_for(CELL, bytes)?;
        self.allocate(cells, |extent, cell| {
            Some((self.run_header(Run(extent.offset_of(cell)))?, RAW))
        })
    }

    /// Takes cells, and makes a run of the kind that `prepare` says; it also fills what must be
    /// right from the start, and finds the run's header.
    pub(super) fn allocate<'a>(
        &'a self,
        cells: u32,
        prepare: impl FnOnce(Extent, u32) -> Option<(&'a RunHeader, u32)>,
    ) -> Result<Run, OutOfMemory> {
        self.locked(|| {
            let (extent, cell) = self.take_cells(cells)?;
            let Some((header, kind)) = prepare(extent, cell) else {
                // Not mappable here: nobody will see the run.
                self.mend();
                return Err(OutOfMemory);
            };
            header.cells.store(cells, Relaxed);
            header.kind.store(kind, Relaxed);
            let serial = self.header().serial.fetch_add(1, Relaxed) + 1;
            header.serial.store(serial, Relaxed);
            crash::step();
            if let Some(starts) = self.starts(extent) {
                starts.set(cell);
            }
            crash::step();
            self.header().intent.action.store(0, Release);
            Ok(Run(extent.offset_of(cell)))
        })
    }

    /// Finds free cells and marks them taken, for [`Family::allocate`].
    fn take_cells(&self, cells: u32) -> Result<(Extent, u32), OutOfMemory> {
        let (extent, cell) = match self.find_cells(cells) {
            Some(found) => found,
            None => self.grow(cells)?,
        };
        let intent = &self.header().intent;
        intent.offset.store(extent.offset_of(cell), Relaxed);
        intent.cells.store(cells, Relaxed);
        crash::step();
        intent.action.store(ALLOCATE, Release);
        crash::step();
        self.taken(extent).ok_or(OutOfMemory)?.set_run(cell, cells);
        crash::step();
        self.raise_free_from(extent, cell, cells);
        crash::step();
        Ok((extent, cell))
    }

    fn find_cells(&self, cells: u32) -> Option<(Extent, u32)> {
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
            free_from.store(end, Relaxed);
        }
    }

    /// Before these cells are freed.
    fn lower_free_from(&self, extent: Extent, cell: u32) {
        let mut first = extent.offset_of(cell);
        for free_from in &self.header().free_from {
            if first < free_from.load(Relaxed) {
                free_from.store(first, Relaxed);
            }
            // Cells before the freed ones may be free already, and one longer run begin there.
            first = first.saturating_sub(CELL);
        }
        crash::step();
    }

    /// Adds extents until one has room.
    #[cold]
    fn grow(&self, cells: u32) -> Result<(Extent, u32), OutOfMemory> {
        let header = self.header();
        loop {
            let next = Extent(header.extents.load(Relaxed) as usize);
            if next.0 >= MAX_EXTENTS {
                return Err(OutOfMemory);
            }
            ftruncate(self.file(), next.end()).map_err(|_| OutOfMemory)?;
            crash::step();
            // Release: who sees the number may map the extent; pairs with `base`.
            header.extents.fetch_add(1, Release);
            self.base(next).ok_or(OutOfMemory)?;
            let first = next.first_cell();
            if next.cells() - first >= cells {
                return Ok((next, first));
            }
        }
    }

    /// Frees a run. One that doesn't exist is left alone.
    pub(crate) fn free(&self, run: Run) {
        self.locked(|| self.free_locked(run));
    }

    fn free_locked(&self, run: Run) {
        let Some((extent, cell)) = self.existing(run) else {
            return;
        };
        let Some(header) = self.run_header(run) else {
            return;
        };
        let intent = &self.header().intent;
        intent.offset.store(run.0, Relaxed);
        intent.cells.store(header.cells.load(Relaxed), Relaxed);
        crash::step();
        intent.action.store(FREE, Release);
        crash::step();
        self.finish_free(extent, cell);
    }

    fn finish_free(&self, extent: Extent, cell: u32) {
        let intent = &self.header().intent;
        if let (Some(starts), Some(taken)) = (self.starts(extent), self.taken(extent)) {
            starts.clear(cell);
            crash::step();
            self.lower_free_from(extent, cell);
            taken.clear_run(cell, intent.cells.load(Relaxed));
        }
        crash::step();
        intent.action.store(0, Release);
    }

    pub(super) fn run_header(&self, run: Run) -> Option<&RunHeader> {
        let header = self.resolve(run.0, size_of::<RunHeader>())?;
        // SAFETY: resolved; made of atomics.
        Some(unsafe { header.cast().as_ref() })
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
                if let (false, Some(taken)) = (is_committed, self.taken(extent)) {
                    self.lower_free_from(extent, cell);
                    taken.clear_run(cell, intent.cells.load(Relaxed));
                }
                intent.action.store(0, Release);
            }
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
