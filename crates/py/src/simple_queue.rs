// SPDX-License-Identifier: MIT
//! `freethreading.SimpleQueue`.

use freethreading_core::queue::Patience;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::arguments::{Seconds, Truth, Whole};
use crate::errors::EMPTY;
use crate::message::quick::{self, Look};
use crate::object;
use crate::queue::{Items, Wait, most_items};
use crate::shortcut::{Answer, shortcuts};

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

shortcuts! { SimpleQueue:
    "put" (1) |_py, it, item| quick::try_put(it.items.object(), item?).then_some(Answer::None);
    "get" (0) |py, it, _none| quick::try_get(py, it.items.object(), Look::Briefly);
    "empty" (0) |it| Some(it.items.object().is_empty().into());
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
    /// Raises MemoryError if there is no memory for the item, which is not in the queue then, and
    /// between processes what pickling the item raises.
    fn put(&self, py: Python<'_>, item: Bound<'_, PyAny>) -> PyResult<()> {
        // It has no limit to wait for.
        self.items
            .put(py, item, Patience::Until(None))
            .map(|_is_put| ())
    }

    /// Take the oldest item; wait for one if there is none.
    ///
    /// Raises, between processes, what unpickling the item raises, which is taken all the same. A
    /// MemoryError that says so leaves the item in the queue: there was no memory to copy it.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Without a deadline it only comes back empty-handed with an exception.
        self.items
            .get(py, Patience::Until(None))?
            .ok_or_else(|| EMPTY.bare(py))
    }

    /// Put all `items` in their order. Other workers' items may come in between. (`block` and
    /// `timeout` are for calls that don't know which queue they have: it is never full.)
    ///
    /// Between processes all are pickled before the first is put. Not in the standard library.
    ///
    /// Raises as `put` does; the exception's `count` says how many were put, if any can have been.
    #[pyo3(
        signature = (items, block = Truth(true), timeout = None),
        text_signature = "($self, items, block=True, timeout=None)"
    )]
    fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let wait = Wait::new(py, &self.items, block, timeout)?;
        self.items
            .put_many(py, items, wait.patience)?
            .check(py, &wait)
    }

    /// Take up to `max_items` items: wait for the first as `get` does, and take what else is
    /// there then. Not in the standard library. A worker that is killed in the middle of it takes
    /// those along that it has by then.
    ///
    /// Raises queue.Empty if there is none (in time), ValueError if `max_items` is less than 1,
    /// and as `get` does; if that is because an item can't be unpickled, or of a signal, the
    /// exception's `items` are those that were taken before it.
    #[pyo3(
        signature = (max_items, block = Truth(true), timeout = None),
        text_signature = "($self, max_items, block=True, timeout=None)"
    )]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: Whole,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<Bound<'py, PyList>> {
        let most = most_items(max_items)?;
        let wait = Wait::new(py, &self.items, block, timeout)?;
        self.items
            .get_many(py, most, wait.patience)?
            .ok_or_else(|| wait.error(py, &EMPTY))
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
