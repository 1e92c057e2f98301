// SPDX-License-Identifier: MIT
//! `freethreading.Event`.

use freethreading_core::storage::Object;
use freethreading_core::sync::{self, EventWait};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::arguments::{Seconds, deadline};
use crate::object;
use crate::shortcut::shortcuts;
use crate::wait::wait;

/// A flag that workers wait for.
///
/// Like `threading.Event` and `multiprocessing.Event`.
///
/// >>> from freethreading import Event
/// >>> event = Event()
/// >>> event.wait(timeout=0.01)
/// False
/// >>> event.set()
/// >>> event.is_set(), event.wait()
/// (True, True)
///
/// Differences from threading / multiprocessing: it can be pickled at any time, and the copy is
/// the same event.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct Event {
    object: Object<sync::Event>,
}

shortcuts! { Event:
    "is_set" (0) |it| Some(it.object.is_set().into());
}

#[pymethods]
impl Event {
    #[new]
    fn new() -> PyResult<Self> {
        object::make("Event", |_| {}).map(|object| Self { object })
    }

    /// Whether the event is set.
    fn is_set(&self) -> bool {
        self.object.is_set()
    }

    /// Set the event, and wake all who wait for it.
    fn set(&self) {
        self.object.set(self.object.storage());
    }

    /// Clear the event: who waits from now on, waits for the next `set()`.
    fn clear(&self) {
        self.object.clear();
    }

    /// Wait until the event is set, at most `timeout` seconds.
    ///
    /// Returns True if it was set, also if it has been cleared again since; False if the time
    /// is over. `timeout=None` waits for ever, a negative one not at all.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<bool> {
        if self.object.is_set() {
            return Ok(true);
        }
        let (storage, deadline) = (self.object.storage(), deadline(timeout));
        let outcome = wait(py, |park| self.object.wait(storage, deadline, park))?;
        Ok(outcome == EventWait::Set)
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let base = PyType::new::<Self>(this.py());
        object::reduce(
            this.as_any(),
            &base,
            &this.get().object,
            PyTuple::empty(this.py()),
        )
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(&self.object, &other.get().object)
    }

    fn __hash__(&self) -> u64 {
        self.object.identity()
    }

    fn __repr__(&self) -> String {
        let state = if self.object.is_set() { "set" } else { "unset" };
        format!("<freethreading.Event {state}>")
    }
}
