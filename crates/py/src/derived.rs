// SPDX-License-Identifier: MIT
//! Classes that users derive from ours, with an `__init__` of their own.
//!
//! Our classes take their arguments in `__new__`, which for such a class gets the arguments of
//! its `__init__`, whatever these mean. So it gets a `__new__` that ignores them, and gives ours
//! what it needs when its `__init__` calls ours, as with the standard library's classes.

use core::cell::Cell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PySuper, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, PyClass};

use crate::imported::Imported;

static CLASS_METHOD: Imported = Imported::new("builtins", "classmethod");
static STATIC_METHOD: Imported = Imported::new("builtins", "staticmethod");

thread_local! {
    /// Whether the instance that this thread is making gets its arguments later.
    static IS_DEFERRED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the arguments of the instance that is being made come with `__init__`. To be asked
/// once, by a constructor, before anything that could run code of Python's (which might make another
/// instance) or collect garbage.
pub(crate) fn is_deferred() -> bool {
    IS_DEFERRED.take()
}

/// Lets classes derived from `T` have an `__init__` of their own. `placeholders` are arguments
/// that `T`'s constructor accepts.
pub(crate) fn allow_own_init<'py, T: PyClass>(
    py: Python<'py>,
    placeholders: impl IntoPyObject<'py, Target = PyTuple>,
) -> PyResult<()> {
    let base = PyType::new::<T>(py);
    if base.getattr("__dict__")?.contains("__init_subclass__")? {
        return Ok(()); // the module is imported once more; its classes are the same
    }
    let arguments = placeholders.into_bound_py_any(py)?.cast_into::<PyTuple>()?;
    let (kept, arguments) = (base.clone().unbind(), arguments.unbind());
    let prepare = PyCFunction::new_closure(
        py,
        Some(c"__init_subclass__"),
        None,
        move |given: &Bound<'_, PyTuple>, keywords: Option<&Bound<'_, PyDict>>| {
            let (py, class) = (given.py(), given.get_item(0)?.cast_into::<PyType>()?);
            prepare(kept.bind(py), &class, keywords, arguments.bind(py))
        },
    )?;
    base.setattr(
        "__init_subclass__",
        CLASS_METHOD.get(py)?.call1((prepare,))?,
    )
}

/// Sees to a class that has just been derived from `base`.
fn prepare(
    base: &Bound<'_, PyType>,
    class: &Bound<'_, PyType>,
    keywords: Option<&Bound<'_, PyDict>>,
    placeholders: &Bound<'_, PyTuple>,
) -> PyResult<()> {
    PySuper::new(base, class)?.call_method("__init_subclass__", (), keywords)?;
    if !has_own_init(base, class)? || !class.getattr("__new__")?.is(&base.getattr("__new__")?) {
        return Ok(());
    }
    let py = base.py();
    let (base, placeholders) = (base.clone().unbind(), placeholders.clone().unbind());
    let make = PyCFunction::new_closure(
        py,
        Some(c"__new__"),
        None,
        move |given: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            make_deferred(base.bind(given.py()), given, placeholders.bind(given.py()))
                .map(Bound::unbind)
        },
    )?;
    class.setattr("__new__", STATIC_METHOD.get(py)?.call1((make,))?)
}

fn has_own_init(base: &Bound<'_, PyType>, class: &Bound<'_, PyType>) -> PyResult<bool> {
    Ok(!class.getattr("__init__")?.is(&base.getattr("__init__")?))
}

/// `__new__(class, *ignored)`.
fn make_deferred<'py>(
    base: &Bound<'py, PyType>,
    given: &Bound<'py, PyTuple>,
    placeholders: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let class = given.get_item(0)?;
    let arguments = PyTuple::new(base.py(), [class])?.add(placeholders)?;
    let new = base.getattr("__new__")?;
    IS_DEFERRED.set(true);
    let result = new.call1(arguments.cast_into::<PyTuple>()?);
    // Taken by the constructor, unless it wasn't reached.
    IS_DEFERRED.take();
    result
}

/// What the `__init__` of our class `T` does: nothing if `__new__` has got the arguments; else a
/// `T` made of them, whose settings the instance is to take over.
pub(crate) fn settings<'py, T: PyClass>(
    instance: &Bound<'py, T>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Option<Bound<'py, T>>> {
    let object = instance.as_any();
    if object.is_exact_instance_of::<T>() {
        return Ok(None);
    }
    let base = PyType::new::<T>(instance.py());
    if !has_own_init(&base, &object.get_type())? {
        return Ok(None);
    }
    Ok(Some(base.call(arguments, keywords)?.cast_into::<T>()?))
}

/// A derived class's `__init__` hasn't called ours.
pub(crate) fn not_initialized(class: &str) -> PyErr {
    PyRuntimeError::new_err(format!("{class}.__init__() was not called"))
}
