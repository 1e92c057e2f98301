// SPDX-License-Identifier: MIT
//! What Python sees of a pool's engine and of its jobs.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use pyo3::exceptions::{PyStopIteration, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySequence, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::engine::Engine;
use super::feed::Feeder;
use super::functions::{Sent, parameter};
use super::job::{Form, Job, Outcome, Source, State, Turn, Use};
use super::wire::Kind;
use super::worker::{self, Link};
use crate::arguments::{Seconds, deadline};
use crate::imported::Imported;
use crate::message::Outgoing;
use crate::picklable::{check_arguments, check_picklable};

/// So many tasks of one job for each worker are on their way at a time.
const WINDOW: usize = 256;
/// The same where tasks are as large as seems good.
const LARGE_WINDOW: usize = 3;

/// The engine of a pool, for its callers.
#[pyclass(module = "freethreading._native", name = "_Engine", frozen, weakref)]
pub(crate) struct EngineHandle {
    engine: Arc<Engine>,
}

#[pymethods]
impl EngineHandle {
    /// `hire` starts one more worker.
    #[new]
    fn new(py: Python<'_>, most_workers: usize, hire: Py<PyAny>) -> PyResult<Self> {
        let engine = Arc::new(Engine::new(py, most_workers, hire)?);
        Ok(Self { engine })
    }

    /// What a new worker is given.
    fn link(&self) -> PyResult<Link> {
        Link::new(&self.engine)
    }

    /// Have a worker run `func(*args, **kwargs)`.
    fn call<'py>(
        this: &Bound<'py, Self>,
        owner: &str,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<JobHandle> {
        let py = this.py();
        let engine = &this.get().engine;
        engine.holds.fetch_add(1, Ordering::SeqCst);
        let job = this.get().call_held(owner, func, args, kwargs);
        if engine.holds.fetch_sub(1, Ordering::SeqCst) == 1 {
            engine.stop_if_done(py);
        }
        let handle = JobHandle::new(this, job?);
        engine.hire(py, Some(&handle.job))?;
        Ok(handle)
    }

    /// Have workers run `func` with each of `items`, a tuple or a range: all results, or (`form` 2) one after the other.
    #[expect(clippy::too_many_arguments, reason = "named by Python")]
    #[pyo3(signature = (owner, func, items, size, *, star, form, is_lazy=false, ahead=0))]
    fn map<'py>(
        this: &Bound<'py, Self>,
        owner: &str,
        func: &Bound<'py, PyAny>,
        items: &Bound<'py, PySequence>,
        size: Option<usize>,
        star: bool,
        form: u8,
        is_lazy: bool,
        ahead: usize,
    ) -> PyResult<JobHandle> {
        let py = this.py();
        let engine = &this.get().engine;
        let window = match (is_lazy, size) {
            (true, _) => ahead,
            (false, Some(_)) => WINDOW.saturating_mul(engine.most_workers),
            (false, None) => LARGE_WINDOW.saturating_mul(engine.most_workers),
        };
        let count = items.len()?;
        let state = if count == 0 {
            State::default()
        } else {
            State::of_items(Source {
                items: items.clone().unbind(),
                next: 0,
                end: count,
                size,
                window,
                is_lazy,
            })
        };
        let handle = this.get().start(this, owner, func, star, form, state)?;
        let job = &handle.job;
        let fed = engine
            .feed(py, job)
            .and_then(|()| engine.hire(py, Some(job)));
        if let Err(error) = fed {
            engine.stop(py, job, |py| Outcome::error(py, error.clone_ref(py)));
            return Err(error);
        }
        if count == 0 {
            engine.complete(py, job);
        }
        Ok(handle)
    }

    /// As `map`, with items that come bit by bit, from a `Feeder`.
    fn stream<'py>(
        this: &Bound<'py, Self>,
        owner: &str,
        func: &Bound<'py, PyAny>,
        form: u8,
        ahead: usize,
    ) -> PyResult<JobHandle> {
        this.get()
            .start(this, owner, func, false, form, State::open(ahead))
    }

    /// What the collector does for at most so many seconds; false: it is done for good.
    fn collect(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        self.engine.collect(py, Duration::from_secs_f64(seconds))
    }

    /// Whether the collector should come by soon.
    fn is_busy(&self) -> bool {
        self.engine.is_busy()
    }

    /// Have the collector look around.
    fn nudge(&self) {
        self.engine.nudge_collector();
    }

    /// A worker has ended; `describe(function's name)` returns the exception for what it had in
    /// hand. Whether that was something. `None`: it can't have had anything.
    fn bury(
        &self,
        py: Python<'_>,
        link: &Bound<'_, Link>,
        describe: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.engine.bury(py, &link.get().seat, describe)
    }

    /// A worker is gone.
    fn left(&self) {
        self.engine.hired.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether this thread is a worker of the pool.
    fn has_this_thread(&self) -> bool {
        worker::is_worker_of(&self.engine)
    }

    /// Start as many workers as there are tasks for; raises if none at all can be started.
    fn hire(&self, py: Python<'_>) -> PyResult<()> {
        self.engine.hire(py, None)
    }

    fn hired(&self) -> usize {
        self.engine.hired.load(Ordering::SeqCst)
    }

    /// End all that is waited for with an exception, and take nothing any more.
    fn break_with(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        self.engine.break_with(py, error);
    }

    /// The exception that the pool was broken with.
    fn broken(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.engine.broken_with(py)
    }

    /// Take no more calls; workers end when all is done.
    fn close(&self, py: Python<'_>) {
        self.engine.is_closed.store(1, Ordering::SeqCst);
        self.engine.stop_if_done(py);
        self.engine.nudge_collector();
    }

    /// End all that is waited for with an exception, silently.
    fn terminate(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        self.engine.terminate(py, error);
    }

    /// Tell workers once more to end, if all is done.
    fn stop_if_done(&self, py: Python<'_>) {
        self.engine.stop_if_done(py);
    }

    /// Wait until all that was sent is done.
    fn wait_idle(&self, py: Python<'_>) -> PyResult<()> {
        self.engine.wait_idle(py)
    }

    /// Cancel what no worker has begun.
    fn cancel_pending(&self, py: Python<'_>) {
        self.engine.cancel_pending(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.engine.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.engine.clear(py);
    }
}

impl EngineHandle {
    /// Sends a call, of a pool that is held open.
    fn call_held<'py>(
        &self,
        owner: &str,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Arc<Job>> {
        let py = func.py();
        let engine = &self.engine;
        engine.check(py, owner)?;
        let (sent, payload) = engine.encode_call(owner, func, args, kwargs)?;
        let mut state = State::default();
        let index = engine.reserve(&mut state);
        let function = func.clone().unbind();
        let (form, each) = (Form::Single, Use::Item);
        let job = engine.admit(|number| Job::new(number, owner, function, sent, form, each, state));
        engine.send(py, &job, index, Kind::Call, Ok(payload))?;
        Ok(job)
    }

    fn start<'py>(
        &self,
        this: &Bound<'py, Self>,
        owner: &str,
        func: &Bound<'py, PyAny>,
        star: bool,
        form: u8,
        state: State,
    ) -> PyResult<JobHandle> {
        let engine = &self.engine;
        let form = match form {
            0 => Form::Single,
            1 => Form::List,
            2 => Form::Ordered,
            _ => Form::Unordered,
        };
        let each = if star { Use::Star } else { Use::Item };
        let storage = engine.tasks.storage();
        let holds = usize::from(state.is_open || state.source.is_some());
        engine.holds.fetch_add(holds, Ordering::SeqCst);
        let prepared = engine
            .check(this.py(), owner)
            .and_then(|()| engine.functions.prepare(storage, owner, func));
        let sent = match prepared {
            Ok(sent) => sent,
            Err(error) => {
                engine.holds.fetch_sub(holds, Ordering::SeqCst);
                engine.stop_if_done(this.py());
                return Err(error);
            }
        };
        let function = func.clone().unbind();
        let job = engine.admit(|number| Job::new(number, owner, function, sent, form, each, state));
        // Who ended the pool meanwhile may have missed this one.
        if engine.has_ended() {
            let py = this.py();
            engine.stop(py, &job, |py| Outcome::error(py, engine.why_ended(py)));
        }
        Ok(JobHandle::new(this, job))
    }
}

impl Engine {
    /// A call as it is sent: its function apart if that has no state, else all in one.
    fn encode_call<'py>(
        &self,
        owner: &str,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<(Sent, Outgoing<'py>)> {
        let py = func.py();
        let storage = self.tasks.storage();
        let keywords = if kwargs.is_empty() {
            py.None().into_bound(py)
        } else {
            kwargs.clone().into_any()
        };
        let check = || -> PyResult<()> {
            check_picklable(owner, parameter(owner), func, false)?;
            check_arguments(owner, args, kwargs.as_mapping(), false)
        };
        if storage.family().is_none() {
            let sent = match self.functions.known(func) {
                Some(sent) => sent,
                None => self.functions.prepare(storage, owner, func)?,
            };
            check_arguments(owner, args, kwargs.as_mapping(), false)?;
            let payload = (func, args, keywords).into_pyobject(py)?.into_any();
            return Ok((sent, Outgoing::new(storage, payload)?));
        }
        let (sent, payload) = match self.functions.prepare_named(storage, owner, func)? {
            Some(sent) => (sent, (args, keywords).into_pyobject(py)?),
            None => (Sent::nothing(), (func, args, keywords).into_pyobject(py)?),
        };
        match Outgoing::new(storage, payload.into_any()) {
            Ok(payload) => Ok((sent, payload)),
            Err(error) => Err(check().err().unwrap_or(error)),
        }
    }
}

/// The result of a whole job: its only outcome, a list of all values, or the first exception.
pub(super) fn assemble(py: Python<'_>, form: Form, outcomes: Vec<Outcome>) -> Outcome {
    if form == Form::Single {
        return outcomes.into_iter().next().unwrap_or_else(|| {
            Outcome::error(py, PyTimeoutError::new_err("the call has no outcome"))
        });
    }
    joined(py, outcomes).unwrap_or_else(|error| Outcome::error(py, error))
}

fn joined(py: Python<'_>, outcomes: Vec<Outcome>) -> PyResult<Outcome> {
    let list = PyList::empty(py);
    // Those that came one by one are put together first: a list made at once takes less time.
    let mut single = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Value(value) => single.push(value),
            Outcome::Values(values) => {
                if !single.is_empty() {
                    extend(&list, PyList::new(py, single.drain(..))?.as_any())?;
                }
                extend(&list, values.bind(py))?;
            }
            error @ Outcome::Error(_) => return Ok(error),
        }
    }
    let list = if list.is_empty() {
        PyList::new(py, single)?
    } else {
        extend(&list, PyList::new(py, single)?.as_any())?;
        list
    };
    Ok(Outcome::Value(list.into_any().unbind()))
}

fn extend(list: &Bound<'_, PyList>, more: &Bound<'_, PyAny>) -> PyResult<()> {
    let more = more.cast::<PySequence>()?;
    list.as_sequence().in_place_concat(more).map(drop)
}

/// One call of a pool, for who made it.
#[pyclass(module = "freethreading._native", name = "_Job", frozen, weakref)]
pub(crate) struct JobHandle {
    engine: Py<EngineHandle>,
    job: Arc<Job>,
}

impl JobHandle {
    fn new(engine: &Bound<'_, EngineHandle>, job: Arc<Job>) -> Self {
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
        self.job.holds()
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
