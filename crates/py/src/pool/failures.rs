// SPDX-License-Identifier: MIT
//! The exceptions of pools; they are made by Python code (`_tasks.py`).

use pyo3::prelude::*;

use super::job::Outcome;
use crate::imported::Imported;

/// An exception like this one, to be raised in one more place: each gets a traceback of its own.
pub(super) fn again(py: Python<'_>, error: &Py<PyAny>) -> PyErr {
    static AGAIN: Imported = Imported::new("freethreading._tasks", "again");
    match AGAIN.get(py).and_then(|again| again.call1((error,))) {
        Ok(copy) => PyErr::from_value(copy),
        Err(error) => error,
    }
}

/// The exception of a failure that came from a worker process.
pub(super) fn opened<'py>(
    py: Python<'py>,
    failure: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static OPENED: Imported = Imported::new("freethreading._tasks", "opened");
    OPENED.get(py)?.call1((failure,))
}

/// What a pool is broken with by an initializer that raised `error`.
pub(super) fn broken_by<'py>(error: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static BROKEN_BY: Imported = Imported::new("freethreading._tasks", "broken_by");
    BROKEN_BY.get(error.py())?.call1((error,))
}

/// What becomes of a task that was taken back.
pub(super) fn cancelled(py: Python<'_>) -> Outcome {
    static CANCELLED_ERROR: Imported = Imported::new("concurrent.futures", "CancelledError");
    match CANCELLED_ERROR.get(py).and_then(PyAnyMethods::call0) {
        Ok(error) => Outcome::Error(error.unbind()),
        Err(error) => Outcome::error(py, error),
    }
}

/// What stands for a result that can't be unpickled.
pub(super) fn unreadable<'py>(py: Python<'py>, error: &PyErr) -> PyResult<Bound<'py, PyAny>> {
    static UNREADABLE: Imported = Imported::new("freethreading._tasks", "unreadable");
    UNREADABLE
        .get(py)?
        .call1((error.clone_ref(py).into_value(py),))
}

/// What a function is called, for messages.
pub(super) fn name<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match function.getattr_opt("__qualname__")? {
        Some(name) => Ok(name),
        None => Ok(function.repr()?.into_any()),
    }
}
