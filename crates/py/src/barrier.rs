// SPDX-License-Identifier: MIT
//! `freethreading.Barrier`.

use std::sync::OnceLock;

use freethreading_core::storage::Object;
use freethreading_core::sync::{self, BarrierWait, Turn};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::arguments::{Seconds, Whole, deadline};
use crate::derived;
use crate::errors::{BROKEN_BARRIER, out_of_memory};
use crate::object;
use crate::wait::wait;

/// A place where `parties` workers wait for each other, again and again.
///
/// Like `threading.Barrier` and `multiprocessing.Barrier`. `action()` is called by one of the
/// workers in each cycle, before they are released; `timeout` (seconds) is the default of
/// `wait`.
///
/// >>> from freethreading import Barrier
/// >>> barrier = Barrier(1, action=lambda: print("all here"))
/// >>> barrier.wait()
/// all here
/// 0
///
/// Raises ValueError if `parties` is less than 1, TypeError for wrong types.
///
/// Differences from threading / multiprocessing: it can be used again at once, before everybody
/// has left; a process that dies while it waits (or in the action) breaks the barrier. It can
/// be pickled at any time (the action must be picklable then), and the copy is the same barrier.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct Barrier {
    object: Object<sync::Barrier>,
    /// Unset until a derived class's `__init__` has called ours.
    settings: OnceLock<Settings>,
}

#[derive(Default)]
struct Settings {
    action: Option<Py<PyAny>>,
    timeout: Option<Py<PyAny>>,
}

impl Barrier {
    fn settings(&self) -> PyResult<&Settings> {
        self.settings
            .get()
            .ok_or_else(|| derived::not_initialized("Barrier"))
    }

    fn run_action(&self, py: Python<'_>, turn: &Turn) -> PyResult<u32> {
        let storage = self.object.storage();
        let action = self.settings()?.action.as_ref();
        let result = action.map_or(Ok(()), |action| action.call0(py).map(drop));
        let index = py.detach(|| self.object.finish(storage, turn, result.is_ok()));
        result?;
        index.ok_or_else(|| BROKEN_BARRIER.bare(py))
    }
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties, action = None, timeout = None))]
    fn new(
        parties: Whole,
        action: Option<Bound<'_, PyAny>>,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let is_deferred = derived::is_deferred();
        let number = parties.named("parties")?;
        let parties = u32::try_from(number)
            .ok()
            .filter(|&parties| parties > 0)
            .ok_or_else(|| {
                PyValueError::new_err(format!("parties must be from 1 to 2^32 - 1, not {number}"))
            })?;
        if let Some(action) = action.as_ref().filter(|action| !action.is_callable()) {
            let class = action.get_type().fully_qualified_name()?;
            return Err(PyTypeError::new_err(format!(
                "action must be callable or None, not {class}"
            )));
        }
        if let Some(timeout) = &timeout {
            timeout.extract::<Seconds>()?;
        }
        let object = object::make("Barrier", |it: &sync::Barrier| it.initialize(parties))?;
        let settings = OnceLock::new();
        if !is_deferred {
            settings.get_or_init(|| Settings {
                action: action.map(Bound::unbind),
                timeout: timeout.map(Bound::unbind),
            });
        }
        Ok(Self { object, settings })
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __init__(
        this: &Bound<'_, Self>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if let Some(settings) = derived::settings(this, arguments, keywords)? {
            let py = this.py();
            let (given, barrier) = (settings.get(), this.get());
            let (action, timeout) = (&given.settings()?.action, &given.settings()?.timeout);
            barrier.object.initialize(given.object.parties());
            barrier.settings.get_or_init(|| Settings {
                action: action.as_ref().map(|action| action.clone_ref(py)),
                timeout: timeout.as_ref().map(|timeout| timeout.clone_ref(py)),
            });
        }
        Ok(())
    }

    /// Wait until all parties are here, at most `timeout` seconds (None: the barrier's own
    /// timeout, if it has one).
    ///
    /// Returns a number from 0 to parties - 1, each once a cycle.
    ///
    /// Raises threading.BrokenBarrierError, in every waiter, if the barrier is broken or reset,
    /// if anybody's time is over, or if the action raises.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<u32> {
        let settings = self.settings()?;
        let timeout = match (timeout, &settings.timeout) {
            (None, Some(default)) => Some(default.extract(py)?),
            (timeout, _) => timeout,
        };
        let (storage, deadline) = (self.object.storage(), deadline(timeout));
        let has_action = settings.action.is_some();
        let outcome = wait(py, |park| {
            self.object.wait(storage, has_action, deadline, park)
        })?;
        match outcome {
            BarrierWait::Passed(index) => Ok(index),
            BarrierWait::RunAction(turn) => self.run_action(py, &turn),
            BarrierWait::Broken | BarrierWait::Interrupted => Err(BROKEN_BARRIER.bare(py)),
            BarrierWait::OutOfMemory => Err(out_of_memory("a waiter")),
        }
    }

    /// Make the barrier empty and whole again; who waits in it gets BrokenBarrierError.
    fn reset(&self, py: Python<'_>) {
        py.detach(|| self.object.reset(self.object.storage()));
    }

    /// Break the barrier: who waits in it, and who comes, gets BrokenBarrierError until it is
    /// reset.
    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.object.abort(self.object.storage()));
    }

    /// How many workers make a cycle.
    #[getter]
    fn parties(&self) -> u32 {
        self.object.parties()
    }

    /// How many wait now.
    #[getter]
    fn n_waiting(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.object.waiting(self.object.storage()))
    }

    /// Whether the barrier is broken.
    #[getter]
    fn broken(&self) -> bool {
        self.object.is_broken()
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = this.py();
        let base = PyType::new::<Self>(py);
        let barrier = this.get();
        let settings = barrier.settings()?;
        let action = settings.action.as_ref().map(|action| action.bind(py));
        let timeout = settings.timeout.as_ref().map(|timeout| timeout.bind(py));
        let arguments = (barrier.object.parties(), action, timeout).into_pyobject(py)?;
        object::reduce(this.as_any(), &base, &barrier.object, arguments)
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(&self.object, &other.get().object)
    }

    fn __hash__(&self) -> u64 {
        self.object.identity()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let waiting = self.n_waiting(py);
        let state = if self.broken() { ", broken" } else { "" };
        format!(
            "<freethreading.Barrier {waiting}/{} waiting{state}>",
            self.parties()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(settings) = self.settings.get() else {
            return Ok(());
        };
        visit.call(&settings.action)?;
        visit.call(&settings.timeout)
    }
}
