// SPDX-License-Identifier: MIT
//! What has to happen around `os.fork()`. No lock is held from one hook to another: the hooks of
//! others run in between and let other threads run, which may fork as well.

use core::sync::atomic::{AtomicU32, Ordering};

use freethreading_core::{family, storage};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that differs from that of the process that this one was forked from.
pub(crate) fn generation() -> u32 {
    // Relaxed: it changes in the hook only, when this process has one thread.
    GENERATION.load(Ordering::Relaxed)
}

#[pyfunction]
fn before() {
    family::before_fork();
}

#[pyfunction]
fn after_in_parent() {
    family::after_fork_in_parent();
}

#[pyfunction]
fn after_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    storage::after_fork_in_child();
    family::after_fork_in_child();
}

/// Registers the hooks; they cost nothing until there is a family.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    let hooks = PyDict::new(py);
    hooks.set_item("before", pyo3::wrap_pyfunction!(before, py)?)?;
    hooks.set_item(
        "after_in_parent",
        pyo3::wrap_pyfunction!(after_in_parent, py)?,
    )?;
    hooks.set_item(
        "after_in_child",
        pyo3::wrap_pyfunction!(after_in_child, py)?,
    )?;
    py.import("os")?
        .call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}
