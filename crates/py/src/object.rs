// SPDX-License-Identifier: MIT
//! What all classes share: making their objects, pickling them as handles, comparing them.

use core::cell::{Cell, RefCell};
#[cfg(all(Py_3_14, Py_GIL_DISABLED))]
use core::ffi::c_int;

use freethreading_core::storage::handle::{self, Purpose};
use freethreading_core::storage::{Kind, Object, Shareable, Storage, Token, Unavailable};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::boarding::board;
use crate::errors::{from_handle, out_of_memory};
use crate::imported::Imported;
use crate::runtime;
use crate::wait::wait;

thread_local! {
    /// The handle that the next object of this thread is made from, instead of anew.
    static RESTORING: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// How many trial picklings this thread is in.
    static TRIALS: Cell<u32> = const { Cell::new(0) };
    /// Whether what is pickled in the innermost of them lasts as long as workers do.
    static LASTS: Cell<bool> = const { Cell::new(false) };
}

/// Makes the object of a class: a new one that `initialize` completes, or, within [`restore`],
/// the one that a handle names.
pub(crate) fn make<T: Shareable>(
    class: &'static str,
    initialize: impl FnOnce(&T),
) -> PyResult<Object<T>> {
    if let Some(handle) = RESTORING.take() {
        return handle::decode(&handle).map_err(|error| from_handle(class, error));
    }
    let object = make_in(runtime::storage()?, class)?;
    initialize(&object);
    Ok(object)
}

/// A new object, for one of `class`.
pub(crate) fn make_in<T: Shareable>(storage: Storage, class: &str) -> PyResult<Object<T>> {
    loop {
        match Object::try_new(storage) {
            Ok(object) => return Ok(object),
            Err(Unavailable::OutOfMemory) => return Err(out_of_memory(class)),
            Err(Unavailable::Busy) => await_entry(storage)?,
        }
    }
}

/// Waits, detached, until the process has gone on that is in the middle of a change of shared memory.
#[cold]
fn await_entry(storage: Storage) -> PyResult<()> {
    let parked = Python::attach(|py| wait(py, |park| storage.await_entry(park, None)));
    parked.map(|_entry| ())
}

/// Makes an instance of `class` for the object that a handle names.
///
/// `base` is the native class, whose constructor takes `arguments`; `class` may be derived from
/// it. The ticket has done its work by being unpickled: it brought this process into the
/// family.
#[pyfunction]
#[pyo3(signature = (base, class, arguments, handle, ticket))]
pub(crate) fn restore<'py>(
    base: &Bound<'py, PyType>,
    class: &Bound<'py, PyType>,
    arguments: &Bound<'py, PyTuple>,
    handle: &Bound<'py, PyBytes>,
    ticket: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let _ = ticket;
    let py = base.py();
    let mut all = vec![class.clone().into_any()];
    all.extend(arguments.iter());
    let all = PyTuple::new(py, all)?;
    let new = base.getattr("__new__")?;
    RESTORING.set(Some(handle.as_bytes().to_vec()));
    let result = new.call1(all);
    // Taken by `make`, unless the constructor failed before it.
    RESTORING.take();
    result
}

/// The value of `__reduce__`: `restore` with a handle and what the constructor needs.
pub(crate) fn reduce<'py, T: Shareable>(
    instance: &Bound<'py, PyAny>,
    base: &Bound<'py, PyType>,
    object: &Object<T>,
    arguments: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyTuple>> {
    static RESTORE: Imported = Imported::new("freethreading._native", "restore");
    let py = instance.py();
    let restore = RESTORE.get(py)?;
    let (purpose, ticket) = purpose(py, object)?;
    let class = instance.get_type();
    // Queues, barriers and derived classes hold what is the user's. (So does a condition over a
    // derived lock, for which this isn't made more complicated.)
    let holds_nothing = !matches!(T::KIND, Kind::Queue | Kind::Barrier) && class.is(base);
    if LASTS.get() && holds_nothing {
        spare_counting(instance);
    }
    let handle = PyBytes::new(py, &handle::encode(object, purpose));
    // The attributes, those in slots included.
    let state = instance.call_method0(intern!(py, "__getstate__"))?;
    let arguments = (base, class, arguments, handle, ticket);
    (restore, arguments, state).into_pyobject(py)
}

/// A handle for whoever it is pickled for now, and the ticket that goes with it.
pub(crate) fn handle<'py, T: Shareable>(
    py: Python<'py>,
    object: &Object<T>,
) -> PyResult<(Bound<'py, PyBytes>, Option<Bound<'py, PyAny>>)> {
    let (purpose, ticket) = purpose(py, object)?;
    Ok((PyBytes::new(py, &handle::encode(object, purpose)), ticket))
}

/// For whom a handle is made now, and the ticket that goes with it.
fn purpose<'py, T: Shareable>(
    py: Python<'py>,
    object: &Object<T>,
) -> PyResult<(Purpose, Option<Bound<'py, PyAny>>)> {
    static TICKET_OF: Imported = Imported::new("freethreading._bootstrap", "ticket_of");
    // First: a message may be put while something else is pickled for trial, or for a new process.
    if board(py, object) {
        return Ok((Purpose::Message, None));
    }
    if TRIALS.get() > 0 {
        return Ok((Purpose::Trial, None));
    }
    let Some(popen) = spawning_popen(py)? else {
        return Ok((Purpose::Anybody, None));
    };
    if object.storage().family().is_none() {
        return Err(PyRuntimeError::new_err(
            "this object belongs to the threads of this process (backend 'threading') and can't \
             be given to another one; FREETHREADING_BACKEND=multiprocessing makes objects that can",
        ));
    }
    let ticket = TICKET_OF.get(py)?.call1((popen,))?;
    let token: Option<u32> = ticket.getattr("token")?.extract()?;
    match token.and_then(Token::from_bits) {
        Some(token) => Ok((Purpose::NewProcess(token), Some(ticket))),
        None => Ok((Purpose::Anybody, Some(ticket))),
    }
}

/// The process that multiprocessing is starting in this thread right now, if it is.
fn spawning_popen(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static MODULES: Imported = Imported::new("sys", "modules");
    // Not imported means that nobody is starting a process with it.
    let modules = MODULES.get(py)?;
    let Ok(context) = modules.get_item("multiprocessing.context") else {
        return Ok(None);
    };
    // Half imported by another thread means the same.
    let Some(get_spawning_popen) = context.getattr_opt("get_spawning_popen")? else {
        return Ok(None);
    };
    let popen = get_spawning_popen.call0()?;
    Ok((!popen.is_none()).then_some(popen))
}

/// While it lives, this thread pickles only to see whether it can.
pub(crate) struct Trial {
    lasted_before: bool,
}

impl Trial {
    pub(crate) fn begin(lasts: bool) -> Self {
        TRIALS.set(TRIALS.get() + 1);
        Self {
            lasted_before: LASTS.replace(lasts),
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        LASTS.set(self.lasted_before);
        TRIALS.set(TRIALS.get() - 1);
    }
}

/// Spares the threads that are going to share an instance the counting of their references to
/// it, on which they would queue up. From then on only the garbage collector frees it, so this
/// is for what lasts, and holds nothing of the user's.
#[cfg(all(Py_3_14, Py_GIL_DISABLED))]
#[expect(unsafe_code, reason = "a function of the C API that PyO3 doesn't have")]
fn spare_counting(instance: &Bound<'_, PyAny>) {
    unsafe extern "C" {
        fn PyUnstable_Object_EnableDeferredRefcount(object: *mut pyo3::ffi::PyObject) -> c_int;
    }
    // SAFETY: since 3.14 the interpreter has it, with this signature; it takes any object, at any
    // time, from any thread, and can't fail.
    unsafe { PyUnstable_Object_EnableDeferredRefcount(instance.as_ptr()) };
}

/// With a GIL, or before 3.14, there is nothing to spare.
#[cfg(not(all(Py_3_14, Py_GIL_DISABLED)))]
fn spare_counting(_instance: &Bound<'_, PyAny>) {}

/// `instance == other`: whether both mean the same object.
pub(crate) fn is_same<T: Shareable>(object: &Object<T>, other: &Object<T>) -> bool {
    object.identity() == other.identity()
}
