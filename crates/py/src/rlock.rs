// SPDX-License-Identifier: MIT
//! `freethreading.RLock`.

use freethreading_core::park::Uninterruptible;
use freethreading_core::queue::Patience;
use freethreading_core::storage::Object;
use freethreading_core::sync::{self, Acquire, NotHeld, SavedDepth};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::arguments::{NegativeTimeout, Seconds, Truth, patience};
use crate::errors::{NOT_HELD, owner_died};
use crate::holder::describe_lock;
use crate::object;
use crate::shortcut::{Answer, shortcuts};
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
        let storage = self.object.storage();
        if self.object.is_held(storage) {
            return Err(PyOverflowError::new_err(
                "this thread has acquired the RLock 2^32 - 1 times without releasing it",
            ));
        }
        let outcome = match patience {
            Patience::None => self.object.poll(storage),
            Patience::Until(deadline) => {
                wait(py, |park| self.object.acquire(storage, deadline, park))?
            }
        };
        match outcome {
            Acquire::Acquired => Ok(true),
            Acquire::TimedOut | Acquire::Interrupted => Ok(false),
            Acquire::OwnerDied(owner) => Err(owner_died(py, "RLock", storage, owner)),
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
            .map_err(|NotHeld| not_held(py))
    }
}

#[cold]
fn not_held(py: Python<'_>) -> PyErr {
    NOT_HELD.new_err(py, "release of an RLock that this thread doesn't hold")
}

shortcuts! { RLock:
    "acquire" (0) |it| it.object.try_acquire(it.object.storage()).then_some(Answer::True);
    "release" (0) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "__enter__" (0) |it| it.object.try_acquire(it.object.storage()).then_some(Answer::True);
    "__exit__" (3) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "locked" (0) |it| Some(it.object.is_locked().into());
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

    /// Whether some worker holds the lock.
    fn locked(&self) -> bool {
        self.object.is_locked()
    }

    /// For `threading.Condition` over this lock: whether this thread holds it.
    fn _is_owned(&self) -> bool {
        self.object.is_held(self.object.storage())
    }

    /// For `threading.Condition`: undo all acquires of this thread; returns how many.
    fn _release_save(&self, py: Python<'_>) -> PyResult<u32> {
        self.object
            .release_all(self.object.storage())
            .map(SavedDepth::get)
            .map_err(|NotHeld| not_held(py))
    }

    /// For `threading.Condition`: take the lock, as often as `_release_save` said.
    #[pyo3(signature = (state, /))]
    fn _acquire_restore(&self, py: Python<'_>, state: u32) -> PyResult<()> {
        let saved = SavedDepth::new(state)
            .ok_or_else(|| PyValueError::new_err("state must be what _release_save returned"))?;
        let storage = self.object.storage();
        if self.object.is_held(storage) {
            self.object.restore_depth(saved);
            return Ok(());
        }
        // Whatever signals say: the caller is going to release it.
        let acquire = || self.object.acquire(storage, None, &Uninterruptible);
        match py.detach(acquire) {
            Acquire::Acquired => {
                self.object.restore_depth(saved);
                Ok(())
            }
            Acquire::OwnerDied(owner) => {
                while py.detach(acquire) != Acquire::Acquired {}
                self.object.restore_depth(saved);
                Err(owner_died(py, "RLock", storage, owner))
            }
            Acquire::TimedOut | Acquire::Interrupted => {
                unreachable!("an uninterruptible wait without deadline")
            }
        }
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
            let holder = describe_lock(
                py,
                object.storage(),
                object.owner(),
                object.waiters(object.storage()),
            );
            format!("{holder}, depth {}", object.depth())
        } else {
            "unlocked".to_owned()
        };
        format!("<freethreading.RLock {state}>")
    }
}
