// SPDX-License-Identifier: MIT
//! `freethreading.Semaphore` and `freethreading.BoundedSemaphore`.

use freethreading_core::queue::Patience;
use freethreading_core::storage::Object;
use freethreading_core::sync::{self, AboveBound, MAX_PERMITS, SemaphoreAcquire};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::arguments::{NegativeTimeout, Seconds, Truth, Whole, patience};
use crate::derived;
use crate::object;
use crate::shortcut::{Answer, shortcuts};
use crate::wait::wait;

type Permits = Object<sync::Semaphore>;

fn initial_value(value: Whole) -> PyResult<u32> {
    let value = value.named("value")?;
    u32::try_from(value)
        .ok()
        .filter(|&value| value <= MAX_PERMITS)
        .ok_or_else(|| {
            PyValueError::new_err(format!(
                "value must be from 0 to {MAX_PERMITS}, not {value}"
            ))
        })
}

fn make(class: &'static str, value: Whole, is_bounded: bool) -> PyResult<Permits> {
    let value = initial_value(value)?;
    object::make(class, |object: &sync::Semaphore| {
        object.initialize(value, is_bounded);
    })
}

#[inline]
fn acquire(py: Python<'_>, object: &Permits, patience: Patience) -> PyResult<bool> {
    if object.try_acquire() {
        Ok(true)
    } else {
        acquire_contended(py, object, patience)
    }
}

#[cold]
fn acquire_contended(py: Python<'_>, object: &Permits, patience: Patience) -> PyResult<bool> {
    let storage = object.storage();
    let Patience::Until(deadline) = patience else {
        return Ok(object.poll(storage));
    };
    let outcome = wait(py, |park| object.acquire(storage, deadline, park))?;
    Ok(outcome == SemaphoreAcquire::Acquired)
}

/// `with semaphore:`
#[inline]
fn borrow(py: Python<'_>, object: &Permits) -> PyResult<bool> {
    let storage = object.storage();
    if object.try_borrow(storage) {
        return Ok(true);
    }
    let outcome = wait(py, |park| object.borrow(storage, park))?;
    Ok(outcome == SemaphoreAcquire::Acquired)
}

fn give_back(py: Python<'_>, class: &str, object: &Permits) -> PyResult<()> {
    let storage = object.storage();
    // Detached: whoever enters a loan at this moment may be stopped in the middle of that.
    py.detach(|| object.give_back(storage))
        .map_err(|AboveBound| released_too_often(class))
}

#[inline]
fn release(class: &str, object: &Permits) -> PyResult<()> {
    object
        .release(object.storage())
        .map_err(|AboveBound| released_too_often(class))
}

#[cold]
fn released_too_often(class: &str) -> PyErr {
    PyValueError::new_err(format!("{class} released too many times"))
}

fn describe(class: &str, object: &Permits) -> String {
    let waiters = match object.waiters(object.storage()) {
        0 => String::new(),
        waiters => format!(", {waiters} waiting"),
    };
    format!("<freethreading.{class} value={}{waiters}>", object.value())
}

/// A number of permits that workers take and give back.
///
/// Like `threading.Semaphore` and `multiprocessing.Semaphore`.
///
/// >>> from freethreading import Semaphore
/// >>> semaphore = Semaphore(1)
/// >>> with semaphore:
/// ...     semaphore.acquire(timeout=0.01)
/// False
///
/// Raises ValueError for a negative `value` or one of 2^31 and more.
///
/// Differences from threading / multiprocessing: it can be pickled at any time, and the copy is
/// the same semaphore. A permit has no owner, for one worker may release what another acquired;
/// so if a worker process is killed, a permit that it took with `acquire()` doesn't come back. One
/// that it took with `with semaphore:` does, within a second, if it dies inside the block; so don't
/// `release()` that one by other means before the block ends.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct Semaphore {
    object: Permits,
}

shortcuts! { Semaphore:
    "acquire" (0) |it| it.object.try_acquire().then_some(Answer::True);
    "release" (0) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "__enter__" (0) |it| it.object.try_borrow(it.object.storage()).then_some(Answer::True);
    "__exit__" (3) |it| it.object.try_give_back(it.object.storage()).then_some(Answer::None);
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (value = Whole::new(1)), text_signature = "(value=1)")]
    fn new(value: Whole) -> PyResult<Self> {
        make("Semaphore", value, false).map(|object| Self { object })
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __init__(
        this: &Bound<'_, Self>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if let Some(settings) = derived::settings(this, arguments, keywords)? {
            let value = settings.get().object.value();
            this.get().object.initialize(value, false);
        }
        Ok(())
    }

    /// Take a permit; wait for one if `blocking`, at most `timeout` seconds.
    ///
    /// Returns whether one was taken. `timeout=None` waits for ever, a negative one not at all.
    ///
    /// Raises ValueError for a timeout without blocking.
    #[pyo3(
        signature = (blocking = Truth(true), timeout = None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<Seconds>) -> PyResult<bool> {
        acquire(
            py,
            &self.object,
            patience(blocking, timeout, NegativeTimeout::IsOver)?,
        )
    }

    /// Give a permit back, or add one.
    ///
    /// Raises ValueError if there would be 2^31 permits.
    fn release(&self) -> PyResult<()> {
        release("Semaphore", &self.object)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        borrow(py, &self.object)
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
        give_back(py, "Semaphore", &self.object)
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
        describe("Semaphore", &self.object)
    }
}

/// A semaphore that never has more permits than it started with.
///
/// Like `threading.BoundedSemaphore` and `multiprocessing.BoundedSemaphore`.
///
/// >>> from freethreading import BoundedSemaphore
/// >>> semaphore = BoundedSemaphore(2)
/// >>> semaphore.acquire()
/// True
/// >>> semaphore.release()
/// >>> semaphore.release()
/// Traceback (most recent call last):
/// ...
/// ValueError: BoundedSemaphore released too many times
///
/// Raises ValueError for a negative `value` or one of 2^31 and more.
///
/// Differences from threading / multiprocessing: as for `Semaphore`; the bound holds on every
/// platform.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct BoundedSemaphore {
    object: Permits,
}

shortcuts! { BoundedSemaphore:
    "acquire" (0) |it| it.object.try_acquire().then_some(Answer::True);
    "release" (0) |it| it.object.release(it.object.storage()).ok().map(|()| Answer::None);
    "__enter__" (0) |it| it.object.try_borrow(it.object.storage()).then_some(Answer::True);
    "__exit__" (3) |it| it.object.try_give_back(it.object.storage()).then_some(Answer::None);
}

#[pymethods]
impl BoundedSemaphore {
    #[new]
    #[pyo3(signature = (value = Whole::new(1)), text_signature = "(value=1)")]
    fn new(value: Whole) -> PyResult<Self> {
        make("BoundedSemaphore", value, true).map(|object| Self { object })
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __init__(
        this: &Bound<'_, Self>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if let Some(settings) = derived::settings(this, arguments, keywords)? {
            let value = settings.get().object.value();
            this.get().object.initialize(value, true);
        }
        Ok(())
    }

    /// Take a permit; wait for one if `blocking`, at most `timeout` seconds.
    ///
    /// Returns whether one was taken. `timeout=None` waits for ever, a negative one not at all.
    ///
    /// Raises ValueError for a timeout without blocking.
    #[pyo3(
        signature = (blocking = Truth(true), timeout = None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, blocking: Truth, timeout: Option<Seconds>) -> PyResult<bool> {
        acquire(
            py,
            &self.object,
            patience(blocking, timeout, NegativeTimeout::IsOver)?,
        )
    }

    /// Give a permit back.
    ///
    /// Raises ValueError if there would be more permits than at the start.
    fn release(&self) -> PyResult<()> {
        release("BoundedSemaphore", &self.object)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        borrow(py, &self.object)
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
        give_back(py, "BoundedSemaphore", &self.object)
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
        describe("BoundedSemaphore", &self.object)
    }
}
