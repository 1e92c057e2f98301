// SPDX-License-Identifier: MIT
//! From outcomes of the core to Python's exceptions; the classes live in `_errors.py`.

use core::ffi::{c_char, c_int};

use freethreading_core::family::FamilyError;
use freethreading_core::storage::handle::HandleError;
use freethreading_core::storage::{OutOfMemory, Storage, Token};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::holder;
use crate::imported::Imported;

/// An exception class that is imported when it is first raised.
pub(crate) struct Exception(Imported);

impl Exception {
    const fn new(module: &'static str, name: &'static str) -> Self {
        Self(Imported::new(module, name))
    }

    pub(crate) fn new_err(&self, py: Python<'_>, message: &str) -> PyErr {
        match self.0.get(py).and_then(|class| class.call1((message,))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }

    pub(crate) fn bare(&self, py: Python<'_>) -> PyErr {
        match self.0.get(py).and_then(PyAnyMethods::call0) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }
}

const ERRORS: &str = "freethreading._errors";

pub(crate) static NOT_HELD: Exception = Exception::new(ERRORS, "NotHeldError");
pub(crate) static OWNER_DIED: Exception = Exception::new(ERRORS, "OwnerDiedError");
pub(crate) static NEGATIVE_TIMEOUT: Exception = Exception::new(ERRORS, "NegativeTimeoutError");
pub(crate) static BROKEN_BARRIER: Exception = Exception::new("threading", "BrokenBarrierError");
pub(crate) static EMPTY: Exception = Exception::new("queue", "Empty");
pub(crate) static FULL: Exception = Exception::new("queue", "Full");

/// The exception for a lock whose owner died.
pub(crate) fn owner_died(
    py: Python<'_>,
    what: &str,
    storage: Storage,
    owner: Option<Token>,
) -> PyErr {
    let who = owner
        .and_then(|token| holder::describe(py, storage, token))
        .unwrap_or_else(|| "its owner".to_owned());
    let message = format!(
        "{who} died holding this {what}; what the {what} protects may be half done. The {what} \
         is free again and works as before"
    );
    OWNER_DIED.new_err(py, &message)
}

/// Made by the interpreter, which keeps memory for that: a message that Rust makes could end the
/// process.
#[expect(
    unsafe_code,
    reason = "a function of the C API that PyO3 only wraps with a format"
)]
pub(crate) fn out_of_memory(what: &str) -> PyErr {
    Python::attach(|py| {
        let length = c_int::try_from(what.len()).unwrap_or(0);
        let start = what.as_ptr().cast::<c_char>();
        // SAFETY: a static of the interpreter that is never changed.
        let class = unsafe { pyo3::ffi::PyExc_MemoryError };
        // SAFETY: attached; the format takes a length and so many bytes.
        unsafe { pyo3::ffi::PyErr_Format(class, c"no memory for %.*s".as_ptr(), length, start) };
        PyErr::fetch(py)
    })
}

pub(crate) fn from_out_of_memory(what: &'static str) -> impl Fn(OutOfMemory) -> PyErr {
    move |OutOfMemory| out_of_memory(what)
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(crate) fn from_family(error: FamilyError) -> PyErr {
    match error {
        FamilyError::Os { call, errno } => PyOSError::new_err((
            errno.raw_os_error(),
            format!("no shared memory for processes: {call} failed"),
        )),
        FamilyError::OutOfSlots | FamilyError::TooMany | FamilyError::Foreign => {
            PyRuntimeError::new_err(error.to_string())
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(crate) fn from_handle(class: &str, error: HandleError) -> PyErr {
    let message = format!("can't restore a {class} from its handle: {error}");
    match error {
        HandleError::Malformed | HandleError::WrongKind { .. } => PyValueError::new_err(message),
        HandleError::Stale | HandleError::Elsewhere | HandleError::NoFamily(_) => {
            PyRuntimeError::new_err(message)
        }
    }
}
