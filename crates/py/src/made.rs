// SPDX-License-Identifier: MIT
//! Objects that messages are made of. Where there is no memory these raise MemoryError; PyO3's
//! constructors panic.

#![expect(unsafe_code, reason = "constructors of the C API")]

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// # Safety
///
/// `made` is what a function of the C API returned that makes an object: a new reference, or null
/// and an exception.
unsafe fn owned(py: Python<'_>, made: *mut ffi::PyObject) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

fn size(length: usize) -> PyResult<ffi::Py_ssize_t> {
    ffi::Py_ssize_t::try_from(length).map_err(|_| PyMemoryError::new_err(()))
}

pub(crate) fn int(py: Python<'_>, value: i64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached.
    let made = unsafe { ffi::PyLong_FromLongLong(value) };
    // SAFETY: that makes an object.
    unsafe { owned(py, made) }
}

pub(crate) fn float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached.
    let made = unsafe { ffi::PyFloat_FromDouble(value) };
    // SAFETY: that makes an object.
    unsafe { owned(py, made) }
}

/// A text; raises UnicodeDecodeError if the bytes aren't one.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let length = size(bytes.len())?;
    let start = bytes.as_ptr().cast();
    // SAFETY: so many bytes, which are copied; no error handler is named.
    let made = unsafe { ffi::PyUnicode_DecodeUTF8(start, length, core::ptr::null()) };
    // SAFETY: that makes an object.
    unsafe { owned(py, made) }
}

pub(crate) fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let length = size(bytes.len())?;
    let start = bytes.as_ptr().cast();
    // SAFETY: so many bytes, which are copied.
    let made = unsafe { ffi::PyBytes_FromStringAndSize(start, length) };
    // SAFETY: that makes an object.
    let made = unsafe { owned(py, made) };
    Ok(made?.cast_into::<PyBytes>()?)
}

pub(crate) fn bytearray<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let length = size(bytes.len())?;
    let start = bytes.as_ptr().cast();
    // SAFETY: so many bytes, which are copied.
    let made = unsafe { ffi::PyByteArray_FromStringAndSize(start, length) };
    // SAFETY: that makes an object.
    unsafe { owned(py, made) }
}

pub(crate) fn tuple<'py>(
    py: Python<'py>,
    elements: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let length = size(elements.len())?;
    // SAFETY: attached.
    let made = unsafe { ffi::PyTuple_New(length) };
    // SAFETY: that makes an object.
    let tuple = unsafe { owned(py, made) }?;
    for (index, element) in (0..length).zip(elements) {
        // SAFETY: a new tuple, which nobody else has seen, and a place in it, which is empty. The
        // element's reference is the tuple's from then on.
        unsafe { ffi::PyTuple_SetItem(tuple.as_ptr(), index, element.into_ptr()) };
    }
    Ok(tuple)
}

pub(crate) fn list<'py>(
    py: Python<'py>,
    elements: Vec<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let length = size(elements.len())?;
    // SAFETY: attached.
    let made = unsafe { ffi::PyList_New(length) };
    // SAFETY: that makes an object.
    let list = unsafe { owned(py, made) }?;
    for (index, element) in (0..length).zip(elements) {
        // SAFETY: as for a tuple.
        unsafe { ffi::PyList_SetItem(list.as_ptr(), index, element.into_ptr()) };
    }
    Ok(list)
}

pub(crate) fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: attached.
    let made = unsafe { ffi::PyDict_New() };
    // SAFETY: that makes an object.
    let made = unsafe { owned(py, made) };
    Ok(made?.cast_into::<PyDict>()?)
}

/// Room for so many; MemoryError if there is none.
pub(crate) fn vector<T>(capacity: usize) -> PyResult<Vec<T>> {
    let mut vector = Vec::new();
    let room = vector.try_reserve_exact(capacity);
    room.map_err(|_| PyMemoryError::new_err(()))?;
    Ok(vector)
}

/// A copy, if there is memory for it.
pub(crate) fn copy(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).ok()?;
    copy.extend_from_slice(bytes);
    Some(copy)
}
