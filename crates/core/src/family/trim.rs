// SPDX-License-Identifier: MIT
//! Giving memory back to the system: the pages of freed cells, once there are many.

use rustix::fs::FallocateFlags;

use super::Family;
use super::kernel::fallocate;
use super::layout::{CELL, Extent};
use crate::primitive::Ordering::Relaxed;

/// Bytes that are kept for the next allocations, which take the first that there are: what was used
/// is faster to use again.
const KEPT: u64 = 64 << 20;
/// The rest is given back when there are so many. Not at once, lest a program that goes to and fro
/// around a limit give back, and be given, the same pages over and over.
const MOST: u64 = 2 * KEPT;
/// Shorter holes aren't worth the call.
const SHORTEST: u64 = 64 << 10;
const PAGE: u64 = 4096;

impl Family {
    /// After a run was freed, under the mutex: punches holes where nothing is, if there is much
    /// of that.
    pub(super) fn trim(&self) {
        if self.header().idle.load(Relaxed) > MOST {
            self.punch_holes();
        }
    }

    #[cold]
    fn punch_holes(&self) {
        let mut left = KEPT;
        for extent in self.extents() {
            let Some(taken) = self.taken(extent) else {
                continue;
            };
            for (first, end) in taken.clear_runs(extent.first_cell(), extent.cells()) {
                let kept = (u64::from(end - first) * CELL).min(left);
                left -= kept;
                // No more than there are in the run.
                let kept = u32::try_from(kept / CELL).unwrap_or(end - first);
                self.punch(extent, first + kept, end);
            }
        }
        self.header().idle.store(KEPT - left, Relaxed);
        self.header().trims.fetch_add(1, Relaxed);
    }

    fn punch(&self, extent: Extent, first: u32, end: u32) {
        let start = extent.offset_of(first).next_multiple_of(PAGE);
        let end = (extent.start() + u64::from(end) * CELL) / PAGE * PAGE;
        if end < start + SHORTEST {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Where that isn't possible, the pages are kept.
        let _ = fallocate(self.file(), flags, start, end - start);
    }
}
