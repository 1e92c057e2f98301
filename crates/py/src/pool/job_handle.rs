// SPDX-License-Identifier: MIT
//! What Python sees of a job: waiting for its result, taking results one by one, cancelling.

use std::sync::Arc;

use freethreading_core::deadline::Deadline;
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::engine::Engine;
use super::feed::Feeder;
use super::handle::EngineHandle;
use super::job::{Job, Outcome};
use super::taking::Turn;
use crate::arguments::{Seconds, deadline};
use crate::imported::Imported;

/// One call of a pool, for who made it.
#[pyclass(module = "freethreading._native", name = "_Job", frozen, weakref)]
pub(crate) struct JobHandle {
    engine: Py<EngineHandle>,
    pub(super) job: Arc<Job>,
}

impl JobHandle {
    pub(super) fn new(engine: &Bound<'_, EngineHandle>, job: Arc<Job>) -> Self {
        let engine = engine.clone().unbind();
        Self { engine, job }
    }

    fn engine(&self) -> &Engine {
        &self.engine.get().engine
    }
}

impl JobHandle {
    /// The next value, or what its task raised; `None` at the end.
    fn next_value<'py>(
        &self,
        py: Python<'py>,
        deadline: Option<Deadline>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        static LATE: Imported = Imported::new("freethreading._results", "Late");
        static RAISED: Imported = Imported::new("freethreading._results", "raised");
        let (job, engine) = (&self.job, self.engine());
        if engine.is_foreign() {
            engine.check_process(job.owner(py))?;
        }
        loop {
            match job.take(py) {
                Turn::Over => return Ok(None),
                Turn::Value { list, at, finished } => {
                    let value = list.bind(py).get_item(at);
                    drop(finished);
                    return value.map(Some);
                }
                Turn::Outcome(Outcome::Error(error)) => {
                    let error = RAISED.get(py)?.call1((error,))?;
                    return Err(PyErr::from_value(error));
                }
                Turn::Outcome(outcome) => return outcome.into_result(py).map(Some),
                Turn::Room => engine.feed(py, job)?,
                Turn::Later => {
                    // If that was in vain before, for lack of memory, or ended by a signal handler.
                    engine.feed(py, job)?;
                    if !engine.wait_for(py, job, deadline, Job::has_outcome)? {
                        return Err(PyErr::from_value(LATE.get(py)?.call0()?));
                    }
                }
            }
        }
    }
}

/// The results of a job, one after the other.
#[pyclass(
    module = "freethreading._native",
    name = "_Results",
    frozen,
    subclass,
    weakref
)]
pub(crate) struct Results(Py<JobHandle>);

#[pymethods]
impl Results {
    /// Whatever else comes is the subclass's.
    #[new]
    #[pyo3(signature = (job, *_args, **_kwargs))]
    fn new(
        job: Py<JobHandle>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        Self(job)
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.get().next_value(py, None)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

#[pymethods]
impl JobHandle {
    /// Wait for the result; false: not within the timeout.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<bool> {
        let deadline = deadline(timeout);
        self.engine()
            .wait_for(py, &self.job, deadline, Job::is_ready)
    }

    /// Wait for the result and return it, or raise.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.engine().wait_for(py, &self.job, None, Job::is_ready)?;
        match self.job.result(py) {
            Some(outcome) => outcome.into_result(py),
            None => Ok(py.None().into_bound(py)),
        }
    }

    /// Whether the result is there.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        if self.job.is_ready() {
            return Ok(true);
        }
        self.engine().look(py)?;
        Ok(self.job.is_ready())
    }

    /// The exception that the call ended with, if it did.
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self.job.result(py) {
            Some(Outcome::Error(error)) => Some(error.into_bound(py)),
            _ => None,
        }
    }

    /// The next value; StopIteration at the end, TimeoutError if it isn't there in time.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<Seconds>) -> PyResult<Bound<'py, PyAny>> {
        self.next_value(py, deadline(timeout))?
            .ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// What sends the items of a job that gets them bit by bit.
    fn feeder(&self) -> Feeder {
        let engine = Arc::clone(&self.engine.get().engine);
        Feeder::new(engine, Arc::clone(&self.job))
    }

    /// Sends all items that are left, however many results nobody has asked for.
    fn lift_limit(&self, py: Python<'_>) -> PyResult<()> {
        self.job.lift_limit();
        self.engine().feed(py, &self.job)
    }

    /// Have `watcher()` called by the collector when the job is done; false if it is.
    fn watch(&self, py: Python<'_>, watcher: Py<PyAny>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(self.engine().watch(&self.job, watcher))
    }

    /// As `watch`, but called by the collector also if the job is done by now; false if there is no
    /// collector any more.
    fn watch_surely(&self, py: Python<'_>, watcher: Py<PyAny>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(self.engine().watch_surely(py, &self.job, watcher))
    }

    /// Raise in a forked child of the process whose job it is, unless it is done.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.job.is_ready() {
            return Ok(());
        }
        self.engine().check_process(self.job.owner(py))
    }

    /// Let the job go on though nobody waits for it.
    fn urge(&self) {
        self.engine().urge(&self.job);
    }

    /// Whether items wait to be sent.
    fn has_unsent(&self) -> bool {
        !self.job.is_shared && self.job.holds()
    }

    /// Take back what no worker has begun; whether that was something.
    fn cancel(&self, py: Python<'_>) -> bool {
        !self.engine().is_foreign() && self.engine().cancel(py, &self.job)
    }

    /// Whether a worker has begun, and isn't done.
    fn is_running(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.ready(py)? && !self.engine().is_waiting(&self.job))
    }

    #[getter]
    fn is_cancelled(&self) -> bool {
        self.job.lock().is_cancelled
    }

    #[getter]
    fn is_abandoned(&self) -> bool {
        self.job.lock().is_abandoned
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        // As long as it is under way, it is the engine's.
        if self.engine().jobs.may_know(&self.job) {
            return Ok(());
        }
        self.job.traverse(&visit)
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        // What is sent only as somebody asks for it isn't sent any more.
        if !self.job.form.is_whole() && !self.engine().is_foreign() && self.job.is_lazy() {
            let _ = Python::try_attach(|py| {
                // An exception may be on its way, for which this is unwinding.
                let raised = PyErr::take(py);
                self.engine().cancel(py, &self.job);
                if let Some(raised) = raised {
                    raised.restore(py);
                }
            });
        }
    }
}
