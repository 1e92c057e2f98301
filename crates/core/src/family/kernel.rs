// SPDX-License-Identifier: MIT
//! The system calls for memory files, and what stands for them under Miri, which knows neither
//! such files nor other processes: there a file is a descriptor of nothing, each extent of it is
//! mapped once, as it is in a real process, and that mapping is all there is of it.

#[cfg(miri)]
pub(super) use interpreted::{
    fallocate, fcntl_add_seals, fcntl_get_seals, fcntl_setfd, fstat, ftruncate, memfd_create, mmap,
    mmap_anonymous, munmap, pwrite,
};
#[cfg(not(miri))]
pub(super) use rustix::{
    fs::{fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::{fcntl_setfd, pwrite},
    mm::{mmap, mmap_anonymous, munmap},
};

#[cfg(miri)]
mod interpreted {
    use core::ffi::{CStr, c_void};
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
    use rustix::io::{Errno, FdFlags, Result};
    use rustix::mm::{MapFlags, ProtFlags};

    pub(crate) struct Stat {
        pub(crate) st_size: i64,
    }

    pub(crate) fn memfd_create(_name: &CStr, _flags: MemfdFlags) -> Result<OwnedFd> {
        eventfd(0, EventfdFlags::CLOEXEC)
    }

    pub(crate) fn ftruncate(_file: impl AsFd, _size: u64) -> Result<()> {
        Ok(())
    }

    pub(crate) fn fstat(_file: impl AsFd) -> Result<Stat> {
        Ok(Stat { st_size: i64::MAX })
    }

    pub(crate) fn fcntl_add_seals(_file: impl AsFd, _seals: SealFlags) -> Result<()> {
        Ok(())
    }

    pub(crate) fn fcntl_get_seals(_file: impl AsFd) -> Result<SealFlags> {
        Ok(SealFlags::all())
    }

    pub(crate) fn fcntl_setfd(_file: impl AsFd, _flags: FdFlags) -> Result<()> {
        Ok(())
    }

    /// There is nothing to write to.
    pub(crate) fn pwrite(_file: impl AsFd, _bytes: &[u8], _offset: u64) -> Result<usize> {
        Err(Errno::NOSYS)
    }

    pub(crate) fn fallocate(
        _file: impl AsFd,
        _mode: FallocateFlags,
        _offset: u64,
        _length: u64,
    ) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn layout(length: usize) -> Result<Layout> {
        Layout::from_size_align(length.max(1), 4096).map_err(|_| Errno::NOMEM)
    }

    pub(crate) unsafe fn mmap(
        _address: *mut c_void,
        length: usize,
        _protection: ProtFlags,
        _flags: MapFlags,
        _file: impl AsFd,
        _offset: u64,
    ) -> Result<*mut c_void> {
        // SAFETY: the layout's size isn't zero.
        let memory = unsafe { alloc_zeroed(layout(length)?) };
        Ok(memory.cast())
    }

    pub(crate) unsafe fn mmap_anonymous(
        address: *mut c_void,
        length: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> Result<*mut c_void> {
        // SAFETY: passed on to the caller.
        unsafe { mmap(address, length, protection, flags, std::io::stdin(), 0) }
    }

    pub(crate) unsafe fn munmap(address: *mut c_void, length: usize) -> Result<()> {
        // SAFETY: the caller has it from `mmap`, with this length.
        unsafe { dealloc(address.cast(), layout(length)?) };
        Ok(())
    }
}
