// SPDX-License-Identifier: MIT
//! Mapping the extents of a family's file, each once, when it is first met; and parts of it once
//! more, for one process to write to.

use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::kernel::{fstat, mmap, mmap_anonymous, munmap};
use super::layout::{Extent, MAX_EXTENTS, PAYLOAD};
use super::{Family, Run};
use crate::primitive::Ordering::{AcqRel, Acquire};
use crate::primitive::{AtomicPtr, AtomicU32};

impl Family {
    /// Where `offset` is mapped in this process; `None` if `bytes` bytes from there aren't
    /// part of one extent of the file.
    #[inline]
    pub(crate) fn resolve(&self, offset: u64, bytes: usize) -> Option<NonNull<u8>> {
        let (start, room) = self.reach(offset)?;
        (bytes as u64 <= room).then_some(start)
    }

    /// Where `offset` is mapped in this process, and how many bytes of its extent lie there.
    #[inline]
    pub(crate) fn reach(&self, offset: u64) -> Option<(NonNull<u8>, u64)> {
        let extent = Extent::of(offset)?;
        let base = self.base(extent)?;
        let distance = usize::try_from(offset - extent.start()).ok()?;
        // SAFETY: the extent is mapped in full and `distance` lies within it.
        let start = unsafe { base.add(distance) };
        Some((start, extent.end() - offset))
    }

    /// The offset of a word that lies in this family's memory, as it is mapped here.
    pub(crate) fn offset_of<T>(&self, word: &T) -> u64 {
        let address = core::ptr::from_ref(word).addr();
        let found = (0..MAX_EXTENTS).map(Extent).find_map(|extent| {
            let base = self.extents[extent.0].load(Acquire).addr();
            let distance = address.checked_sub(base)? as u64;
            (base != 0 && distance < extent.size()).then(|| extent.start() + distance)
        });
        found.expect("a word of this family's memory")
    }

    /// Where an extent is mapped; maps it if the file has it.
    pub(super) fn base(&self, extent: Extent) -> Option<NonNull<u8>> {
        if let Some(base) = NonNull::new(self.extents[extent.0].load(Acquire)) {
            return Some(base);
        }
        // Acquire: pairs with the Release in `grow`, which follows the ftruncate.
        if extent.0 >= self.header().extents.load(Acquire) as usize {
            return None;
        }
        self.map_extent(extent).ok()
    }

    /// The extent of `offset`, if the file has it.
    fn extent_in_file(&self, offset: u64) -> Option<Extent> {
        let count = self.header().extents.load(Acquire) as usize;
        Extent::of(offset).filter(|extent| extent.0 < count)
    }

    /// False if `offset` lies in a part of the file that this process has no room to map.
    pub(crate) fn can_map(&self, offset: u64) -> bool {
        self.extent_in_file(offset)
            .is_none_or(|extent| self.base(extent).is_some())
    }

    /// False if this process has no room to map the run, or to count its references to it.
    pub(crate) fn can_hold(&self, run: Run) -> bool {
        self.extent_in_file(run.0).is_none_or(|extent| {
            self.base(extent).is_some() && self.references(extent, 0).is_some()
        })
    }

    /// Whether the file has the whole extent. (A mapping past the end of a file faults when it is
    /// touched, and the number of extents is a word that somebody may have overwritten.)
    pub(super) fn is_in_file(&self, extent: Extent) -> Result<bool, Errno> {
        let size = u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0);
        Ok(size >= extent.end())
    }

    #[cold]
    pub(super) fn map_extent(&self, extent: Extent) -> Result<NonNull<u8>, Errno> {
        if !self.is_in_file(extent)? {
            return Err(Errno::NXIO);
        }
        let length = usize::try_from(extent.size()).map_err(|_| Errno::NOMEM)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let mapped = unsafe {
            mmap(
                null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                &self.file,
                extent.start(),
            )
        }?;
        publish(&self.extents[extent.0], mapped.cast(), length)
    }

    /// The counter of this process's references to the object that begins at `cell`.
    pub(super) fn references(&self, extent: Extent, cell: u32) -> Option<&AtomicU32> {
        let counters = match NonNull::new(self.references[extent.0].load(Acquire)) {
            Some(counters) => counters,
            None => self.map_references(extent).ok()?,
        };
        if cell >= extent.cells() {
            return None;
        }
        // SAFETY: the table has a counter for each cell.
        let counter = unsafe { counters.add(cell as usize) };
        // SAFETY: the table was zeroed when it was mapped, and stays mapped.
        Some(unsafe { counter.as_ref() })
    }

    #[cold]
    fn map_references(&self, extent: Extent) -> Result<NonNull<AtomicU32>, Errno> {
        let length = references_length(extent);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let mapped = unsafe { mmap_anonymous(null_mut(), length, protection, flags) }?;
        publish(&self.references[extent.0], mapped.cast(), length)
    }
}

/// Part of a family's file, mapped so that this process writes to pages of its own.
#[derive(Debug)]
pub(crate) struct CopyOnWrite {
    /// Page by page.
    start: NonNull<c_void>,
    length: usize,
    data: NonNull<u8>,
}

// SAFETY: a mapping is nobody's in particular; who writes to it sees to being alone.
unsafe impl Send for CopyOnWrite {}
// SAFETY: as above.
unsafe impl Sync for CopyOnWrite {}

impl CopyOnWrite {
    /// Where the bytes are that were asked for.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.data
    }
}

impl Drop for CopyOnWrite {
    fn drop(&mut self) {
        // SAFETY: mapped by `copy_on_write` with this length; nobody uses it after this value. An
        // error (which can't be) would leave it mapped.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

impl Family {
    /// So many bytes of an object's payload, mapped once more; `None` if there is no room.
    pub(crate) fn copy_on_write(&self, run: Run, bytes: usize) -> Option<CopyOnWrite> {
        let offset = run.0 + PAYLOAD;
        let page = rustix::param::page_size();
        let ahead = usize::try_from(offset % page as u64).ok()?;
        let length = ahead.checked_add(bytes)?.max(1);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            mmap(
                null_mut(),
                length,
                protection,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
                &self.file,
                offset - ahead as u64,
            )
        };
        let start = NonNull::new(start.ok()?)?;
        // SAFETY: less than a page ahead, of a mapping that goes beyond that.
        let data = unsafe { start.cast::<u8>().add(ahead) };
        Some(CopyOnWrite {
            start,
            length,
            data,
        })
    }
}

fn references_length(extent: Extent) -> usize {
    extent.cells() as usize * size_of::<AtomicU32>()
}

impl Drop for Family {
    /// Unmaps what was mapped for a family that could not be joined. (One that was is never
    /// dropped: references to its objects live as long as the process.)
    fn drop(&mut self) {
        for index in 0..MAX_EXTENTS {
            let extent = Extent(index);
            unmap(&self.references[index], references_length(extent));
            // An extent is mapped only if its size is a usize.
            unmap(
                &self.extents[index],
                usize::try_from(extent.size()).unwrap_or(0),
            );
        }
    }
}

fn unmap<T>(entry: &AtomicPtr<T>, length: usize) {
    if let Some(mapped) = NonNull::new(entry.load(Acquire)) {
        // SAFETY: mapped with this length; the family that could refer to it is being dropped.
        // An error (which can't be) would leave it mapped.
        let _ = unsafe { munmap(mapped.as_ptr().cast(), length) };
    }
}

/// Stores a new mapping, or drops it if another thread was faster.
fn publish<T>(entry: &AtomicPtr<T>, mapped: *mut T, length: usize) -> Result<NonNull<T>, Errno> {
    match entry.compare_exchange(null_mut(), mapped, AcqRel, Acquire) {
        Ok(_) => NonNull::new(mapped).ok_or(Errno::NOMEM),
        Err(other) => {
            // SAFETY: mapped above with this length, and nobody else has seen it.
            unsafe { munmap(mapped.cast(), length) }?;
            NonNull::new(other).ok_or(Errno::NOMEM)
        }
    }
}
