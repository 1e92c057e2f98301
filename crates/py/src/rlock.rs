// SPDX-License-Identifier: MIT
//! `freethreading.RLock`.

use freethreading_core::queue::Patience;
use freethreading_core::storage::Object;
use freethreading_core::sync::{self, Acquire, NotHeld};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::arguments::{NegativeTimeout, Seconds, Truth, patience};
use crate::errors::{NOT_HELD, owner_died};
use crate::lock::holder_and_waiters;
use crate::object;
use crate::wait::wait;

/// A reentrant lock: the thread that holds it may acquire it again, and releases it as often.
///
/// Like `threading.RLock` and `multiprocessing.RLock`. It belongs to one thread of one process.
///
/// >>> from freethreading import RLock
/// >>> lock = RLock()
/// >>> with lock, lock:
/// ...     print("twice")
/// twice
///
/// Differences from threading / multiprocessing: as for `Lock`.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct RLock {
    object: Object<sync::RLock>,
}

impl RLock {
    pub(crate) fn object(&self) -> &Object<sync::RLock> {
        &self.object
    }

    #[cold]
    fn acquire_contended(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        let Patience::Until(deadline) = patience else {
            return Ok(false);
        };
        let storage = self.object.storage();
        match wait(py, |park| self.object.acquire(storage, deadline, park))? {
            Acquire::Acquired => Ok(true),
            Acquire::TimedOut | Acquire::Interrupted => Ok(false),
            Acquire::OwnerDied(owner) => Err(owner_died(py, "RLock", storage, owner)),
        }
    }

    #[inline]
    fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        self.object
            .release(self.object.storage())
            .map_err(|NotHeld| {
                NOT_HELD.new_err(py, "release of an RLock that this thread doesn't hold")
            })
    }
}

#[pymethods]
impl RLock {
    #[new]
    fn new() -> PyResult<Self> {
        object::make("RLock", |_| {}).map(|object| Self { object })
    }

    /// Take the lock, once more or for the first time; wait for it if `blocking`, at most
    /// `timeout` seconds.
    ///
    /// Returns whether the lock was taken. `timeout=None` or a negative one waits for ever.
    ///
    /// Raises ValueError for a timeout without blocking, OwnerDiedError if the process that
    /// holds the lock has died.
    #[pyo3(
        signature = (blocking = Truth(true), timeout = None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<Seconds>) -> PyResult<bool> {
        let patience = patience(blocking, timeout, NegativeTimeout::IsForever)?;
        if self.object.try_acquire(self.object.storage()) {
            return Ok(true);
        }
        self.acquire_contended(py, patience)
    }

    /// Undo one acquire of this thread; the last one frees the lock.
    ///
    /// Raises an exception that is a RuntimeError, a ValueError and an AssertionError if this
    /// thread doesn't hold it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        if self.object.try_acquire(self.object.storage()) {
            return Ok(true);
        }
        self.acquire_contended(py, Patience::Until(None))
    }

    #[pyo3(signature = (exc_type, exc_value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (exc_type, exc_value, traceback);
        self.give_back(py)
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

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|it| object::is_same(&self.object, &it.get().object))
    }

    fn __hash__(&self) -> u64 {
        self.object.identity()
    }

    fn __repr__(&self) -> String {
        let object = &self.object;
        let state = if object.is_locked() {
            let holder = holder_and_waiters(object.storage(), object.owner(), object.waiters());
            format!("{holder}, depth {}", object.depth())
        } else {
            "unlocked".to_owned()
        };
        format!("<freethreading.RLock {state}>")
    }
}
