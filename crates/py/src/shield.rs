// SPDX-License-Identifier: MIT
//! Calling the user's Python code in threads that may still be at it when the interpreter ends.
//!
//! Before CPython 3.14 such a thread is ended as soon as it wants to go on (`pthread_exit`), which
//! unwinds its stack. Rust's frames can't be unwound so: the process would be aborted. Here the
//! unwinding stops at the first frame of ours, and the thread is held for the moment that the
//! process still has; later CPythons do that themselves.

#![expect(
    unsafe_code,
    reason = "functions of the C API that may unwind, which PyO3 takes to be impossible"
)]

use core::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple};

type Object = *mut ffi::PyObject;

// As PyO3 declares them, but for the unwinding.
unsafe extern "C-unwind" {
    fn PyObject_Call(function: Object, arguments: Object, keywords: Object) -> Object;
    fn PyObject_CallOneArg(function: Object, argument: Object) -> Object;
    fn PyIter_Next(iterator: Object) -> Object;
}

// PyO3 declares the same functions as such that never unwind. Where both declarations meet (in link-time
// optimization), either may win; then what is to be done when one of them unwinds would be left out. So
// they are called by addresses that nobody knows before.
static CALL: unsafe extern "C-unwind" fn(Object, Object, Object) -> Object = PyObject_Call;
static CALL_ONE: unsafe extern "C-unwind" fn(Object, Object) -> Object = PyObject_CallOneArg;
static NEXT: unsafe extern "C-unwind" fn(Object) -> Object = PyIter_Next;

/// The value of a static, which the compiler has to take for anything.
#[inline]
fn unforeseen<T: Copy + Sync>(value: &'static T) -> T {
    // SAFETY: a reference is good for a read, and what is read is `Copy`.
    unsafe { ptr::read_volatile(value) }
}

/// Holds a thread that is being unwound by C code.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Makes a call into the interpreter. (C code doesn't panic, so nothing else unwinds.)
#[inline]
fn shielded(call: impl FnOnce() -> Object) -> Object {
    let held = Held;
    let result = call();
    core::mem::forget(held);
    result
}

/// `function(*arguments, **keywords)`
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let (function, arguments) = (function.as_ptr(), arguments.as_ptr());
    let keywords = keywords.map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached; objects that the caller holds, a tuple and a dictionary or null.
    let result = shielded(|| unsafe { unforeseen(&CALL)(function, arguments, keywords) });
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// `function()`
pub(crate) fn call_none<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    call(function, &PyTuple::empty(function.py()), None)
}

/// `function(argument)`
pub(crate) fn call_one<'py>(
    function: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let (function, argument) = (function.as_ptr(), argument.as_ptr());
    // SAFETY: attached; objects that the caller holds.
    let result = shielded(|| unsafe { unforeseen(&CALL_ONE)(function, argument) });
    // SAFETY: as above.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// The next item of an iterator, if there is one.
pub(crate) fn next<'py>(iterator: &Bound<'py, PyIterator>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = iterator.py();
    let iterator = iterator.as_ptr();
    // SAFETY: attached; an iterator that the caller holds.
    let item = shielded(|| unsafe { unforeseen(&NEXT)(iterator) });
    // SAFETY: a new reference, or null, with an exception set or not.
    match unsafe { Bound::from_owned_ptr_or_opt(py, item) } {
        Some(item) => Ok(Some(item)),
        None => PyErr::take(py).map_or(Ok(None), Err),
    }
}
