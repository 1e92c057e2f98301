// SPDX-License-Identifier: MIT
//! `freethreading.SimpleQueue`.

use freethreading_core::queue::Patience;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::errors::EMPTY;
use crate::object;
use crate::queue::Items;

/// An unlimited first-in, first-out queue between workers, without task tracking.
///
/// Like `queue.SimpleQueue` and `multiprocessing.SimpleQueue`.
///
/// >>> from freethreading import SimpleQueue
/// >>> queue = SimpleQueue()
/// >>> queue.put([1, 2])
/// >>> queue.empty(), queue.get(), queue.empty()
/// (False, [1, 2], True)
///
/// Differences from queue / multiprocessing: `put` never waits for a reader, whatever the
/// item's size; else as for `Queue`.
#[pyclass(module = "freethreading", frozen, weakref, subclass, generic)]
pub(crate) struct SimpleQueue {
    items: Items,
}

#[pymethods]
impl SimpleQueue {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            items: Items::make(py, "SimpleQueue", 0)?,
        })
    }

    /// Put an item.
    ///
    /// Raises MemoryError, and between processes what pickling the item raises.
    fn put(&self, py: Python<'_>, item: Bound<'_, PyAny>) -> PyResult<()> {
        // It has no limit to wait for.
        self.items
            .put(py, item, Patience::Until(None))
            .map(|_is_put| ())
    }

    /// Take the oldest item; wait for one if there is none.
    ///
    /// Raises, between processes, what unpickling the item raises.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Without a deadline it only comes back empty-handed with an exception.
        self.items
            .get(py, Patience::Until(None))?
            .ok_or_else(|| EMPTY.bare(py))
    }

    /// Whether there is no item.
    fn empty(&self) -> bool {
        self.items.object().is_empty()
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let base = PyType::new::<Self>(this.py());
        object::reduce(
            this.as_any(),
            &base,
            this.get().items.object(),
            PyTuple::empty(this.py()),
        )
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(self.items.object(), other.get().items.object())
    }

    fn __hash__(&self) -> u64 {
        self.items.object().identity()
    }

    fn __repr__(&self) -> String {
        format!(
            "<freethreading.SimpleQueue {} items>",
            self.items.object().len()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.items.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.items.clear(py);
    }
}
