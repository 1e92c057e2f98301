// SPDX-License-Identifier: MIT
//! The picklability check, the same on both backends.
//!
//! Known scalars, containers of them, arrays, and functions that a worker can import are recognized
//! here; all else is pickled for trial, its large buffers out of band, so that no array is
//! copied to be checked.

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyFunction, PyInt,
    PyList, PyMapping, PyRange, PySet, PyString, PyTuple,
};

use crate::imported::Imported;
use crate::object::Trial;
use crate::shield::call_one;

/// Containers nested deeper are left to pickle.
const MAX_DEPTH: u32 = 16;

/// Raise ValueError, naming `owner` and `part`, if `obj` can't be pickled.
///
/// The exception of pickling is the cause. KeyboardInterrupt and SystemExit pass. What lasts as
/// long as workers do will be used by many threads, and is prepared for that.
#[pyfunction]
#[pyo3(signature = (owner, part, obj, *, lasts = false))]
pub(crate) fn check_picklable(
    owner: &str,
    part: &str,
    obj: &Bound<'_, PyAny>,
    lasts: bool,
) -> PyResult<()> {
    if is_plain(obj, MAX_DEPTH) {
        return Ok(());
    }
    let py = obj.py();
    let Err(error) = try_pickling(obj, lasts) else {
        return Ok(());
    };
    let wants_out =
        error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py);
    if wants_out {
        return Err(error);
    }
    let name = error.get_type(py).name()?;
    let reason = error
        .value(py)
        .str()
        .map_or_else(|_| String::new(), |text| text.to_string());
    let report = PyValueError::new_err(format!(
        "{owner}: {part} can't be pickled ({name}: {reason}). Workers may be processes, so what \
         they are given must be picklable: use a function, class or data defined at the top \
         level of a module, and open files, connections or locks in the worker"
    ));
    report.set_cause(py, Some(error));
    Err(report)
}

/// Raise ValueError, naming `owner` and the argument, if one of them can't be pickled.
#[pyfunction]
#[pyo3(signature = (owner, args, kwargs, *, lasts = false))]
pub(crate) fn check_arguments(
    owner: &str,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyMapping>,
    lasts: bool,
) -> PyResult<()> {
    for (index, value) in args.iter().enumerate() {
        if !is_plain(&value, MAX_DEPTH) {
            check_picklable(owner, &format!("args[{index}]"), &value, lasts)?;
        }
    }
    if kwargs.is_empty()? {
        return Ok(());
    }
    for item in kwargs.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        if !is_plain(&value, MAX_DEPTH) {
            check_picklable(owner, &format!("kwargs[{}]", key.repr()?), &value, lasts)?;
        }
    }
    Ok(())
}

/// Whether it is known, without a trial, that `obj` can be pickled.
pub(crate) fn is_known(obj: &Bound<'_, PyAny>) -> bool {
    is_plain(obj, MAX_DEPTH)
}

fn try_pickling(obj: &Bound<'_, PyAny>, lasts: bool) -> PyResult<()> {
    static TRY_PICKLING: Imported = Imported::new("freethreading._picklable", "try_pickling");
    let py = obj.py();
    let try_pickling = TRY_PICKLING.get(py)?;
    let _trial = Trial::begin(lasts);
    call_one(try_pickling, obj).map(drop)
}

/// Whether pickle is known to succeed.
fn is_plain(obj: &Bound<'_, PyAny>, depth: u32) -> bool {
    let all_plain = |mut items: Box<dyn Iterator<Item = Bound<'_, PyAny>> + '_>| {
        depth > 0 && items.all(|item| is_plain(&item, depth - 1))
    };
    if is_scalar(obj) {
        true
    } else if let Ok(items) = obj.cast_exact::<PyTuple>() {
        depth > 0 && items.iter_borrowed().all(|item| is_plain(&item, depth - 1))
    } else if obj.is_exact_instance_of::<PyRange>() {
        true
    } else if let Ok(items) = obj.cast_exact::<PyList>() {
        all_plain(Box::new(items.iter()))
    } else if let Ok(items) = obj.cast_exact::<PyDict>() {
        // A copy, because another thread may change the dict.
        items.copy().is_ok_and(|items| {
            depth > 0
                && items
                    .iter()
                    .all(|(key, value)| is_plain(&key, depth - 1) && is_plain(&value, depth - 1))
        })
    } else if let Ok(items) = obj.cast_exact::<PyFrozenSet>() {
        all_plain(Box::new(items.iter()))
    } else if let Ok(items) = obj.cast_exact::<PySet>() {
        PyFrozenSetCopy::of(items).is_some_and(|items| all_plain(Box::new(items.0.iter())))
    } else if obj.cast_exact::<PyFunction>().is_ok() {
        is_importable(obj).unwrap_or(false)
    } else {
        is_array_of_plain(obj).unwrap_or(false)
    }
}

/// Whether this is a NumPy array, and not one of Python objects.
fn is_array_of_plain(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (py, class) = (obj.py(), obj.get_type());
    if class.name()? != "ndarray" {
        return Ok(false);
    }
    let numpy = py.import("sys")?.getattr("modules")?.get_item("numpy")?;
    if !numpy.getattr("ndarray")?.is(&class) {
        return Ok(false);
    }
    let has_objects = obj.getattr("dtype")?.getattr("hasobject")?;
    has_objects.is_truthy().map(|has_objects| !has_objects)
}

/// A set as it was at a moment.
struct PyFrozenSetCopy<'py>(Bound<'py, PyFrozenSet>);

impl<'py> PyFrozenSetCopy<'py> {
    fn of(set: &Bound<'py, PySet>) -> Option<Self> {
        let copy = set.py().get_type::<PyFrozenSet>().call1((set,)).ok()?;
        copy.cast_into().ok().map(Self)
    }
}

pub(crate) fn is_scalar(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_none()
        || obj.is_exact_instance_of::<PyInt>()
        || obj.is_exact_instance_of::<PyString>()
        || obj.is_exact_instance_of::<PyFloat>()
        || obj.is_exact_instance_of::<PyBool>()
        || obj.is_exact_instance_of::<PyBytes>()
        || obj.is_exact_instance_of::<PyByteArray>()
        || obj.is_exact_instance_of::<PyComplex>()
}

/// Whether an object has a plain value that takes next to no memory.
pub(crate) fn is_small(obj: &Bound<'_, PyAny>) -> bool {
    const MOST: usize = 1024;
    obj.is_none()
        || obj.is_exact_instance_of::<PyInt>()
        || obj.is_exact_instance_of::<PyFloat>()
        || obj.is_exact_instance_of::<PyBool>()
        || obj
            .cast_exact::<PyString>()
            .is_ok_and(|it| it.len().is_ok_and(|length| length <= MOST))
        || obj
            .cast_exact::<PyBytes>()
            .is_ok_and(|it| it.as_bytes().len() <= MOST)
}

/// Whether a function is found where its name says it is, as pickle will look for it.
pub(crate) fn is_importable(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = function.py();
    let module = function.getattr("__module__")?;
    let name = function.getattr("__qualname__")?;
    let Some(module) = py.import("sys")?.getattr("modules")?.get_item(module).ok() else {
        return Ok(false);
    };
    let mut found = module;
    for part in name.extract::<String>()?.split('.') {
        found = found.getattr(part)?;
    }
    Ok(found.is(function))
}
