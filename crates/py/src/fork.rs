// SPDX-License-Identifier: MIT
//! What has to happen around `os.fork()`.

use freethreading_core::{family, storage};
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[pyfunction]
fn before() {
    family::before_fork();
    storage::lock_for_fork();
}

#[pyfunction]
fn after_in_parent() {
    storage::unlock_after_fork();
    family::after_fork_in_parent();
}

#[pyfunction]
fn after_in_child() {
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
