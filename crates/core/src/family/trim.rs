// SPDX-License-Identifier: MIT
//! Giving memory back to the system: the pages of freed cells, once there are many.

use rustix::fs::FallocateFlags;

use super::Family;
use super::kernel::fallocate;
use super::layout::{CELL, Extent};
use crate::primitive::Ordering::Relaxed;

/// Bytes that are kept for the next allocations: what was used is faster to use again.
const KEPT: u64 = 64 << 20;
/// Shorter holes aren't worth the call.
const SHORTEST: u64 = 64 << 10;
const PAGE: u64 = 4096;

impl Family {
    /// After a run was freed, under the mutex: punches holes where nothing is, if there is much
    /// of that.
    pub(super) fn trim(&self) {
        if self.header().idle.load(Relaxed) > KEPT {
            self.punch_holes();
        }
    }

    #[cold]
    fn punch_holes(&self) {
        for extent in self.extents() {
            let Some(taken) = self.taken(extent) else {
                continue;
            };
            for (first, end) in taken.clear_runs(extent.first_cell(), extent.cells()) {
                self.punch(extent, first, end);
            }
        }
        self.header().idle.store(0, Relaxed);
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
