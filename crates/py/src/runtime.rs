// SPDX-License-Identifier: MIT
//! What holds for the whole process: the backend, hence the storage of new objects, and the
//! functions with which the Python layer brings new processes into the family.

use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use freethreading_core::family::{self, Family};
use freethreading_core::storage::{Storage, Token};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::from_family;
use crate::imported::Imported;

/// Whether new objects are for processes. Set once, at import.
static IS_SHARED: AtomicBool = AtomicBool::new(false);

/// Says where new objects live.
#[pyfunction]
pub(crate) fn set_backend(is_shared: bool) {
    // Relaxed: set by the import, before anybody can make an object.
    IS_SHARED.store(is_shared, Ordering::Relaxed);
}

/// Where a new object lives. The first one in shared memory founds the family.
pub(crate) fn storage() -> PyResult<Storage> {
    if !IS_SHARED.load(Ordering::Relaxed) {
        return Ok(Storage::Private);
    }
    home().map(Storage::Shared)
}

fn home() -> PyResult<&'static Family> {
    static PROCESS_NAME: Imported = Imported::new("freethreading._functions", "process_name");
    if let Some(home) = Family::existing_home() {
        return Ok(home);
    }
    let home = Family::home().map_err(from_family)?;
    Python::attach(|py| {
        let name = || PROCESS_NAME.get(py)?.call0()?.extract::<String>();
        // Only for reports: without a name, they tell the process's number.
        if let Ok(name) = name() {
            family::name_process(&name);
        }
    });
    Ok(home)
}

/// Says what this process is called, for the `repr` of what it holds.
#[pyfunction]
pub(crate) fn family_name(name: &str) {
    family::name_process(name);
}

/// Whether this thread is the one that runs Python's signal handlers: the process's first
/// (in the child of a fork, the one that forked).
pub(crate) fn is_main_thread() -> bool {
    i64::from(std::process::id()) == i64::from(rustix::thread::gettid().as_raw_nonzero().get())
}

/// The number of CPUs that this process may use, by affinity and cgroup limits.
#[pyfunction]
pub(crate) fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The name of the family as 16 bytes and the descriptor of its memory; founds it if needed.
#[pyfunction]
pub(crate) fn family_id() -> PyResult<((u64, u64), RawFd)> {
    let family = home()?;
    Ok((family.id().into(), family.raw_fd()))
}

/// Reserves a place in the family for a process that is about to start.
#[pyfunction]
pub(crate) fn family_reserve() -> PyResult<u32> {
    home()?
        .reserve()
        .map(Token::bits)
        .map_err(|full| from_family(full.into()))
}

/// Joins the family of the process that has started this one, in the place that was reserved. Takes
/// over the descriptor.
#[pyfunction]
pub(crate) fn family_join(fd: RawFd, family: (u64, u64), reserved: u32) -> PyResult<()> {
    if fd < 0 {
        return Err(PyValueError::new_err(format!(
            "fd must be a descriptor, not {fd}"
        )));
    }
    #[expect(unsafe_code, reason = "descriptors come from Python as numbers")]
    // SAFETY: the only caller got the descriptor from multiprocessing's DupFd.detach(), which
    // hands over its ownership.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    Family::join(file, family.into(), Token::from_bits(reserved))
        .map(Family::make_home)
        .map_err(from_family)
}

/// Gives up a reserved place that nobody took, because its process was never started.
#[pyfunction]
pub(crate) fn family_cancel(reserved: u32) -> bool {
    match (Family::existing_home(), Token::from_bits(reserved)) {
        (Some(family), Some(token)) => family.processes().is_reserved(token) && family.reap(token),
        _ => false,
    }
}

/// Gives up the place of a process that has ended, and what only it held. The caller knows
/// that it has ended.
#[pyfunction]
pub(crate) fn family_reap(reserved: u32) -> bool {
    match (Family::existing_home(), Token::from_bits(reserved)) {
        (Some(family), Some(token)) => family.reap(token),
        _ => false,
    }
}

/// Before this process ends in the regular way: locks that it holds stay taken, and nobody is
/// told that their owner died.
#[pyfunction]
pub(crate) fn family_disown(py: Python<'_>) {
    py.detach(family::disown);
}

/// Processes, objects and bytes of the family, for tests and reports; None without a family.
#[pyfunction]
pub(crate) fn family_statistics(py: Python<'_>) -> Option<(usize, usize, u64)> {
    py.detach(|| {
        let family = Family::existing_home()?;
        family.reap_dead();
        let processes = family.processes().iter().count();
        Some((processes, family.object_count(), family.bytes_taken()))
    })
}
