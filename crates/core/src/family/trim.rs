// SPDX-License-Identifier: MIT
//! Giving memory back to the system: the pages of freed cells, once there are many.
//!
//! Which parts of the file may have pages is known by granules, with a bit for each: set when a run
//! is taken there, cleared when a hole is punched. So a granule without one is free. `idle` counts
//! the free bytes in all others. It is changed such that a process that is killed leaves it too large,
//! and counted anew whenever it is found too large.

use rustix::fs::FallocateFlags;

use super::Family;
use super::bitmap::Bitmap;
use super::container;
use super::kernel::fallocate;
use super::layout::{CELL, Extent, GRANULE};
use crate::crash;
use crate::primitive::Ordering::Relaxed;
use crate::storage::OutOfMemory;

/// Bytes that are kept for the next allocations, which take the first that there are: what was used
/// is faster to use again.
const KEPT: u64 = 64 << 20;
/// The rest is given back when there are so many more. Not at once, lest a program that goes to and
/// fro around a limit give back, and be given, the same pages over and over.
const MORE: u64 = 64 << 20;

/// The most bytes that get new pages without a look at how many there may be: that takes 0.1 ms, and
/// the pages take 6.
const MOST_ALLOWED: u64 = 16 << 20;

/// What of a run is in which granule: its number, and how many cells of it are in the run.
fn granules(first: u32, cells: u32) -> impl Iterator<Item = (u32, u32)> {
    let end = first.saturating_add(cells);
    let touched = first / GRANULE..end.div_ceil(GRANULE);
    touched.map(move |granule| {
        let start = granule * GRANULE;
        let inside = end.min(start + GRANULE) - first.max(start);
        (granule, inside)
    })
}

/// How many cells of a granule can be given out.
fn cells_in(extent: Extent, granule: u32) -> u32 {
    let start = granule * GRANULE;
    let end = (start + GRANULE).min(extent.cells());
    end.saturating_sub(start.max(extent.first_cell()))
}

impl Family {
    fn backed(&self, extent: Extent) -> Option<Bitmap<'_>> {
        self.bitmap(extent, extent.backed_bitmap(), extent.backed_words())
    }

    /// How many bytes of the file that have no pages yet a run would give some to, at most. Under the
    /// mutex.
    fn fresh_bytes(&self, extent: Extent, first: u32, cells: u32) -> u64 {
        let Some(backed) = self.backed(extent) else {
            return 0;
        };
        let fresh = granules(first, cells).filter(|&(granule, _)| !backed.is_set(granule));
        fresh
            .map(|(granule, _)| u64::from(cells_in(extent, granule)) * CELL)
            .sum()
    }

    /// Before a run is taken, under the mutex: whether there may be as many new pages as it needs.
    #[inline]
    pub(super) fn allow_pages(
        &self,
        extent: Extent,
        first: u32,
        cells: u32,
    ) -> Result<(), OutOfMemory> {
        let fresh = self.fresh_bytes(extent, first, cells);
        let allowance = &self.header().allowance;
        match allowance.load(Relaxed).checked_sub(fresh) {
            Some(rest) => {
                crash::step!("pages.allowing");
                allowance.store(rest, Relaxed);
                crash::step!("pages.allowed");
                Ok(())
            }
            None => self.ask_for_pages(extent, first, cells),
        }
    }

    #[cold]
    fn ask_for_pages(&self, extent: Extent, first: u32, cells: u32) -> Result<(), OutOfMemory> {
        let fresh = || self.fresh_bytes(extent, first, cells);
        let mut room = container::room();
        if room.is_some_and(|room| room < fresh()) {
            // What was kept for later isn't needed there, perhaps.
            self.punch_holes(0);
            room = container::room();
        }
        let rest = match room {
            None => MOST_ALLOWED,
            Some(room) => room.checked_sub(fresh()).ok_or(OutOfMemory)? / 4,
        };
        let allowed = rest.min(MOST_ALLOWED);
        crash::step!("pages.asking");
        self.header().allowance.store(allowed, Relaxed);
        crash::step!("pages.asked");
        Ok(())
    }

    /// When a run is taken, under the mutex.
    pub(super) fn count_taken(&self, extent: Extent, first: u32, cells: u32) {
        let Some(backed) = self.backed(extent) else {
            return;
        };
        let idle = &self.header().idle;
        let taken = u64::from(cells) * CELL;
        let is_in_one = first / GRANULE == (first + (cells - 1)) / GRANULE;
        if is_in_one && backed.is_set(first / GRANULE) {
            crash::step!("idle.using");
            // As mostly.
            idle.store(idle.load(Relaxed).saturating_sub(taken), Relaxed);
            crash::step!("idle.used");
            return;
        }
        let is_new = |granule: &u32| !backed.is_set(*granule);
        let touched = || granules(first, cells).map(|(granule, _)| granule);
        let new = touched().filter(is_new);
        let new: u64 = new
            .map(|granule| u64::from(cells_in(extent, granule)))
            .sum();
        let now = idle.load(Relaxed).saturating_add(new * CELL);
        crash::step!("idle.backing");
        idle.store(now.saturating_sub(taken), Relaxed);
        crash::step!("idle.backed");
        touched().for_each(|granule| backed.set(granule));
    }

    /// When a run is freed, under the mutex.
    pub(super) fn count_freed(&self, cells: u32) {
        let idle = &self.header().idle;
        let freed = u64::from(cells) * CELL;
        crash::step!("idle.freeing");
        idle.store(idle.load(Relaxed).saturating_add(freed), Relaxed);
        crash::step!("idle.freed");
    }

    /// What `idle` should be. Under the mutex.
    #[cfg(test)]
    pub(super) fn exactly_idle(&self) -> u64 {
        let mut cells = 0;
        for extent in self.extents() {
            let (Some(taken), Some(backed)) = (self.taken(extent), self.backed(extent)) else {
                continue;
            };
            for (first, end) in taken.clear_runs(extent.first_cell(), extent.cells()) {
                let all = granules(first, end - first);
                let idle = all.filter(|&(granule, _)| backed.is_set(granule));
                cells += idle.map(|(_, inside)| u64::from(inside)).sum::<u64>();
            }
        }
        cells * CELL
    }

    /// Punches all the holes that there can be, and allows no new pages; what `idle` says then, and what it should.
    #[cfg(test)]
    pub(crate) fn trim_in_full(&self) -> (u64, u64) {
        self.locked(|| {
            self.punch_holes(0);
            // No step: for tests.
            self.header().allowance.store(0, Relaxed);
            (self.header().idle.load(Relaxed), self.exactly_idle())
        })
    }

    /// After a run was freed, under the mutex: punches holes where nothing is, if there is much
    /// of that.
    pub(super) fn trim(&self) {
        let header = self.header();
        let unpunched = header.unpunched.load(Relaxed);
        let most = KEPT.max(unpunched).saturating_add(MORE);
        if header.idle.load(Relaxed) > most {
            self.punch_holes(KEPT);
        }
    }

    /// Gives back the pages of free granules but for the first ones, `kept` bytes of them. Under the
    /// mutex.
    #[cold]
    pub(super) fn punch_holes(&self, kept: u64) {
        let mut idle = 0;
        for extent in self.extents() {
            let (Some(taken), Some(backed)) = (self.taken(extent), self.backed(extent)) else {
                continue;
            };
            for (first, end) in taken.clear_runs(extent.first_cell(), extent.cells()) {
                let mut hole = Hole::default();
                for (granule, inside) in granules(first, end - first) {
                    if !backed.is_set(granule) {
                        continue;
                    }
                    if inside == GRANULE && idle >= kept {
                        if let Some(before) = hole.add(granule) {
                            idle += self.punch(extent, backed, before);
                        }
                    } else {
                        idle += u64::from(inside) * CELL;
                    }
                }
                idle += self.punch(extent, backed, hole);
            }
        }
        // Some lie between runs that are taken, and can't be given back: not each freeing is to try.
        crash::step!("idle.recounting");
        self.header().unpunched.store(idle, Relaxed);
        crash::step!("idle.unpunched");
        self.header().idle.store(idle, Relaxed);
        crash::step!("idle.recounted");
        self.header().trims.fetch_add(1, Relaxed);
        crash::step!("pages.trimmed");
    }

    /// Answers how many bytes keep their pages, where holes aren't possible.
    fn punch(&self, extent: Extent, backed: Bitmap<'_>, hole: Hole) -> u64 {
        if hole.count == 0 {
            return 0;
        }
        let start = extent.offset_of(hole.first * GRANULE);
        let length = u64::from(hole.count) * u64::from(GRANULE) * CELL;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        crash::step!("pages.punching");
        let punched = fallocate(self.file(), flags, start, length);
        crash::step!("pages.punched");
        if punched.is_err() {
            return length;
        }
        backed.clear_run(hole.first, hole.count);
        0
    }
}

/// Granules in a row.
#[derive(Clone, Copy, Default)]
struct Hole {
    first: u32,
    count: u32,
}

impl Hole {
    /// Makes it longer, or, if that isn't possible, begins anew and gives back what it was.
    fn add(&mut self, granule: u32) -> Option<Self> {
        if self.count != 0 && self.first + self.count == granule {
            self.count += 1;
            return None;
        }
        let before = *self;
        *self = Self {
            first: granule,
            count: 1,
        };
        (before.count != 0).then_some(before)
    }
}
