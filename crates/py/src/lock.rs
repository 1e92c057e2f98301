// SPDX-License-Identifier: MIT
//! `freethreading.Lock`.

use freethreading_core::queue::Patience;
use freethreading_core::storage::Object;
use freethreading_core::sync::{self, Acquire, NotHeld};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::arguments::{NegativeTimeout, Seconds, Truth, patience};
use crate::errors::{NOT_HELD, owner_died};
use crate::holder::describe_lock;
use crate::object;
use crate::shortcut::{Answer, shortcuts};
use crate::wait::wait;

/// A lock for the workers of this program: threads or processes, whatever the backend is.
///
/// Like `threading.Lock` and `multiprocessing.Lock`: not reentrant, and any worker may release
/// it, not only the one that acquired it.
///
/// >>> from freethreading import Lock
/// >>> lock = Lock()
/// >>> with lock:
/// ...     lock.locked()
/// True
/// >>> lock.acquire(blocking=False), lock.acquire(timeout=0.01)
/// (True, False)
/// >>> lock.release()
///
/// Differences from threading / multiprocessing: `timeout=None` waits for ever on both backends
/// (so does a negative one). If the process that acquired the lock dies without releasing it
/// (killed, crashed, `os._exit`), those who wait get `OwnerDiedError` within a second, and the
/// lock is free again; the owner is that process, even if another worker was meant to release
/// the lock. It can be pickled at any time, and the copy is the same lock.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct Lock {
    object: Object<sync::Lock>,
}

impl Lock {
    pub(crate) fn object(&self) -> &Object<sync::Lock> {
        &self.object
    }

    #[cold]
    fn acquire_contended(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        let storage = self.object.storage();
        let outcome = match patience {
            Patience::None => self.object.poll(storage),
            Patience::Until(deadline) => {
                wait(py, |park| self.object.acquire(storage, deadline, park))?
            }
        };
        match outcome {
            Acquire::Acquired => Ok(true),
            Acquire::TimedOut | Acquire::Interrupted => Ok(false),
            Acquire::OwnerDied(owner) => Err(owner_died(py, "Lock", storage, owner)),
        }
    }

    /// `with lock:`
    #[inline]
    pub(crate) fn enter(&self, py: Python<'_>) -> PyResult<bool> {
        if self.object.try_acquire(self.object.storage()) {
            return Ok(true);
        }
        self.acquire_contended(py, Patience::Until(None))
    }

    #[inline]
    pub(crate) fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        self.object
            .release(self.object.storage())
            .map_err(|NotHeld| NOT_HELD.new_err(py, "release of a Lock that nobody holds"))
    }
}

shortcuts! { Lock:
    "acquire" (0) |it| it.object.try_acquire(it.object.storage()).then_some(Answer::True);
    "release" (0) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "__enter__" (0) |it| it.object.try_acquire(it.object.storage()).then_some(Answer::True);
    "__exit__" (3) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "locked" (0) |it| Some(it.object.is_locked().into());
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> PyResult<Self> {
        object::make("Lock", |_| {}).map(|object| Self { object })
    }

    /// Take the lock; wait for it if `blocking`, at most `timeout` seconds.
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

    /// Free the lock, whoever took it.
    ///
    /// Raises an exception that is a RuntimeError, a ValueError and an AssertionError if nobody
    /// holds it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py)
    }

    /// Whether somebody holds the lock.
    fn locked(&self) -> bool {
        self.object.is_locked()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.enter(py)
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

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(&self.object, &other.get().object)
    }

    fn __hash__(&self) -> u64 {
        self.object.identity()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let object = &self.object;
        let state = if object.is_locked() {
            describe_lock(
                py,
                object.storage(),
                object.owner(),
                object.waiters(object.storage()),
            )
        } else {
            "unlocked".to_owned()
        };
        format!("<freethreading.Lock {state}>")
    }
}
