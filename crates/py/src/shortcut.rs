// SPDX-License-Identifier: MIT
//! Shortcuts to the methods that are called most and do least.
//!
//! What PyO3 wraps around a method (counting who is attached, catching panics, carrying an
//! exception) takes longer than `event.is_set()` or a free lock's `acquire()` itself. A method
//! with a shortcut is entered through a C function of this module, which does the common case of
//! a call with the common arguments, and leaves everything else to PyO3's wrapper. A class works
//! the same without its shortcuts.
//!
//! A shortcut runs no Python code, raises nothing but `MemoryError`, doesn't panic and waits for
//! nobody. (A process's first `with` of a semaphore allocates, under a mutex that others hold for
//! microseconds; the first one that gets from an empty queue looks for half a microsecond.)
//!
//! It may run while PyO3 doesn't know that the thread is attached, so it drops no `Py`, which PyO3
//! would put off; a `Bound` it may drop, if that isn't the last reference.

#![expect(
    unsafe_code,
    reason = "C functions, called by the interpreter with raw objects"
)]

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyBool, PyNone, PyType};
use pyo3::{Borrowed, PyClass};

/// What a shortcut may return.
#[derive(Debug)]
pub(crate) enum Answer<'py> {
    True,
    False,
    None,
    Number(u32),
    /// `None`: the exception that says why there is no object is set.
    Object(Option<Bound<'py, PyAny>>),
}

impl From<bool> for Answer<'_> {
    #[inline]
    fn from(answer: bool) -> Self {
        if answer { Self::True } else { Self::False }
    }
}

impl<'py> Answer<'py> {
    /// A new reference, or null and an exception.
    #[inline]
    fn into_ptr(self, py: Python<'py>) -> *mut ffi::PyObject {
        let [yes, no] = [true, false].map(|answer| PyBool::new(py, answer));
        let none = PyNone::get(py);
        let answer: &Bound<'_, PyAny> = match self {
            Self::True => yes.as_any(),
            Self::False => no.as_any(),
            Self::None => none.as_any(),
            // SAFETY: the interpreter is attached.
            Self::Number(number) => return unsafe { ffi::PyLong_FromLong(number.into()) },
            Self::Object(object) => return object.map_or(core::ptr::null_mut(), Bound::into_ptr),
        };
        // Since 3.12 they are immortal, and aren't counted.
        if cfg!(Py_3_12) {
            answer.as_ptr()
        } else {
            answer.clone().into_ptr()
        }
    }
}

/// The shortcut to one method of a class.
pub(crate) trait Shortcut {
    type Class: PyClass<Frozen = True> + Sync;
    const METHOD: &'static str;
    /// With how many arguments, by position, the method is usually called.
    const ARGUMENTS: isize;

    /// The usual case, with the first argument if there is one; `None` leaves it to the wrapped
    /// method.
    fn take<'py>(
        py: Python<'py>,
        this: &Self::Class,
        argument: Option<Borrowed<'_, 'py, PyAny>>,
    ) -> Option<Answer<'py>>;

    /// Where the C function of PyO3's wrapper is kept.
    fn wrapped() -> &'static AtomicPtr<c_void>;
}

/// Makes `Class::add_shortcuts(py)` for the methods of a class: the method's name, how many arguments it
/// is usually called with, and the usual case: of the object alone, or (`py, it, argument`) also of the
/// first argument.
macro_rules! shortcuts {
    ($class:ty: $($method:literal ($arguments:literal) |$($parameter:ident),+| $take:expr;)+) => {
        impl $class { pub(crate) fn add_shortcuts(py: pyo3::Python<'_>) -> pyo3::PyResult<()> {
            $({
                struct Method;
                impl $crate::shortcut::Shortcut for Method {
                    type Class = $class;
                    const METHOD: &'static str = $method;
                    const ARGUMENTS: isize = $arguments;

                    $crate::shortcut::shortcuts!(@take $class, $take, $($parameter),+);

                    fn wrapped() -> &'static core::sync::atomic::AtomicPtr<core::ffi::c_void> {
                        static WRAPPED: core::sync::atomic::AtomicPtr<core::ffi::c_void> =
                            core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());
                        &WRAPPED
                    }
                }
                $crate::shortcut::install::<Method>(py)?;
            })+
            Ok(())
        } }
    };
    (@take $class:ty, $take:expr, $it:ident) => {
        $crate::shortcut::shortcuts!(@take $class, $take, _py, $it, _argument);
    };
    (@take $class:ty, $take:expr, $py:ident, $it:ident, $argument:ident) => {
        #[inline]
        fn take<'py>(
            $py: pyo3::Python<'py>,
            $it: &$class,
            $argument: Option<pyo3::Borrowed<'_, 'py, pyo3::PyAny>>,
        ) -> Option<$crate::shortcut::Answer<'py>> {
            $take
        }
    };
}
pub(crate) use shortcuts;

/// Takes the shortcut, if this is the usual case.
///
/// # Safety
///
/// The interpreter is attached, and `this` is a live instance of `S::Class`; `argument` is alive, or
/// null.
#[inline]
unsafe fn take<S: Shortcut>(
    this: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller's promise; the reference isn't used beyond this call.
    let this = unsafe { Bound::ref_from_ptr(py, &this) };
    // SAFETY: the caller's promise, again.
    let this = unsafe { this.cast_unchecked::<S::Class>() };
    // SAFETY: the caller's promise; it isn't used beyond this call, either.
    let argument = unsafe { Borrowed::from_ptr_or_opt(py, argument) };
    S::take(py, this.get(), argument).map(|answer| answer.into_ptr(py))
}

/// A method without parameters.
///
/// # Safety
///
/// As for any method in a `PyMethodDef`, of type `S::Class`, with `METH_NOARGS`, once
/// [`install`] has kept the wrapped one.
unsafe extern "C" fn without_arguments<S: Shortcut>(
    this: *mut ffi::PyObject,
    nothing: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the method's descriptor has checked the type, and its caller holds the object.
    if let Some(answer) = unsafe { take::<S>(this, core::ptr::null_mut()) } {
        return answer;
    }
    let wrapped = S::wrapped().load(Ordering::Relaxed);
    // SAFETY: `install` stored a function of this type before this one could be called.
    let wrapped = unsafe { core::mem::transmute::<*mut c_void, ffi::PyCFunction>(wrapped) };
    // SAFETY: it gets what this one got.
    unsafe { wrapped(this, nothing) }
}

/// A method with parameters.
///
/// # Safety
///
/// As above, with `METH_FASTCALL | METH_KEYWORDS`.
unsafe extern "C" fn with_arguments<S: Shortcut>(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    if count == S::ARGUMENTS && names.is_null() {
        let argument = if S::ARGUMENTS == 0 {
            core::ptr::null_mut()
        } else {
            // SAFETY: there are as many as `count` says.
            unsafe { *arguments }
        };
        // SAFETY: as above, and the caller holds the arguments.
        if let Some(answer) = unsafe { take::<S>(this, argument) } {
            return answer;
        }
    }
    let wrapped = S::wrapped().load(Ordering::Relaxed);
    // SAFETY: as above.
    let wrapped =
        unsafe { core::mem::transmute::<*mut c_void, ffi::PyCFunctionFastWithKeywords>(wrapped) };
    // SAFETY: as above.
    unsafe { wrapped(this, arguments, count, names) }
}

/// Puts the shortcut before its method, whose name, parameters and docstring it keeps.
pub(crate) fn install<S: Shortcut>(py: Python<'_>) -> PyResult<()> {
    const WITHOUT: c_int = ffi::METH_NOARGS;
    const WITH: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let no_method = || PySystemError::new_err(format!("{:?} is no plain method", S::METHOD));
    if !S::wrapped().load(Ordering::Relaxed).is_null() {
        return Ok(()); // the module is imported once more; its classes are the same
    }
    let class = PyType::new::<S::Class>(py);
    let descriptor = class.getattr("__dict__")?.get_item(S::METHOD)?;
    if descriptor.get_type_ptr() != &raw mut ffi::PyMethodDescr_Type {
        return Err(no_method());
    }
    let definition = descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>();
    // SAFETY: an instance of exactly that type is such a struct.
    let definition = unsafe { (*definition).d_method };
    // SAFETY: it is there for as long as the class is, which is for ever.
    let method = unsafe { &*definition };
    let wrapped = method.ml_meth.as_ptr();
    let through = match method.ml_flags {
        WITHOUT => ffi::PyMethodDefPointer {
            PyCFunction: without_arguments::<S>,
        },
        WITH => ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: with_arguments::<S>,
        },
        _ => return Err(no_method()),
    };
    // Relaxed: whoever can call the method has seen the module imported.
    S::wrapped().store(wrapped, Ordering::Relaxed);
    // The interpreter keeps a reference to it for ever.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: method.ml_name,
        ml_meth: through,
        ml_flags: method.ml_flags,
        ml_doc: method.ml_doc,
    }));
    // SAFETY: a definition of a method of that class, with the flags that go with its function.
    let shortcut = unsafe { ffi::PyDescr_NewMethod(class.as_type_ptr(), definition) };
    // SAFETY: a new reference, or null and an exception.
    let shortcut = unsafe { Bound::from_owned_ptr_or_err(py, shortcut) }?;
    class.setattr(S::METHOD, shortcut)
}
