// SPDX-License-Identifier: MIT
//! What Python sees of a job: waiting for its result, taking results one by one, cancelling.

use std::sync::Arc;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::engine::Engine;
use super::feed::Feeder;
use super::handle::EngineHandle;
use super::job::{Job, Outcome};
use super::state::Turn;
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

    /// The next value; StopIteration at the end, TimeoutError if it isn't there in time. What the
    /// task raised is raised as the only argument of this job's own exception class.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<Seconds>) -> PyResult<Bound<'py, PyAny>> {
        static LATE: Imported = Imported::new("freethreading._results", "Late");
        let deadline = deadline(timeout);
        let job = &self.job;
        self.engine().check_process(&job.owner)?;
        loop {
            if let Some(value) = job.next_value(py) {
                return value;
            }
            if !self.engine().wait_for(py, job, deadline, |job| {
                job.has_value() || job.has_outcome()
            })? {
                return Err(PyErr::from_value(LATE.get(py)?.call0()?));
            }
            match job.take() {
                Turn::Over => return Err(PyStopIteration::new_err(())),
                Turn::Later => {}
                Turn::Outcome(outcome) => {
                    // Another one may follow, or somebody learn that there are no more.
                    self.engine().announce(py, job);
                    if let Err(error) = self.engine().feed(py, job) {
                        job.give_back(outcome);
                        return Err(error);
                    }
                    match outcome {
                        Outcome::Values(values) => {
                            job.keep_values(values.into_bound(py).cast_into()?.unbind());
                        }
                        Outcome::Value(value) => return Ok(value.into_bound(py)),
                        Outcome::Error(error) => {
                            static RAISED: Imported =
                                Imported::new("freethreading._results", "raised");
                            let error = RAISED.get(py)?.call1((error,))?;
                            return Err(PyErr::from_value(error));
                        }
                    }
                }
            }
        }
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
    fn watch(&self, watcher: Py<PyAny>) -> PyResult<bool> {
        self.check_process()?;
        Ok(self.engine().watch(&self.job, watcher))
    }

    /// As `watch`, but called by the collector in any case.
    fn watch_surely(&self, py: Python<'_>, watcher: Py<PyAny>) -> PyResult<()> {
        self.check_process()?;
        self.engine().watch_surely(py, &self.job, watcher);
        Ok(())
    }

    /// Raise in a forked child of the process whose job it is, unless it is done.
    fn check_process(&self) -> PyResult<()> {
        if self.job.is_ready() {
            return Ok(());
        }
        self.engine().check_process(&self.job.owner)
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
        Ok(!self.ready(py)? && !self.engine().is_waiting(self.job.number))
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
        if self.engine().knows(&self.job) {
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
