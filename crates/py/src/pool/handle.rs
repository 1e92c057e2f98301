// SPDX-License-Identifier: MIT
//! What Python sees of a pool's engine and of its jobs.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PySequence, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::engine::Engine;
use super::functions::{Sent, parameter};
use super::job::{Form, Job, Outcome, Use};
use super::job_handle::JobHandle;
use super::state::{Source, State};
use super::wire::Kind;
use super::worker::{self, Link};
use crate::message::Outgoing;
use crate::picklable::{check_arguments, check_picklable, is_small};

/// So many tasks of one job for each worker are on their way at a time.
const WINDOW: usize = 256;
/// The same where tasks are as large as seems good.
const LARGE_WINDOW: usize = 3;

/// The engine of a pool, for its callers.
#[pyclass(module = "freethreading._native", name = "_Engine", frozen, weakref)]
pub(crate) struct EngineHandle {
    pub(super) engine: Arc<Engine>,
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
        owner: &Bound<'py, PyString>,
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
        engine.hire(py, Some(&handle.job), 1)?;
        Ok(handle)
    }

    /// Have workers run `func` with each of `items`, a tuple or a range: all results, or (`form` 2) one after the other.
    #[expect(clippy::too_many_arguments, reason = "named by Python")]
    #[pyo3(signature = (owner, func, items, size, *, star, form, is_lazy=false, ahead=0))]
    fn map<'py>(
        this: &Bound<'py, Self>,
        owner: &Bound<'py, PyString>,
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
        let tasks = size.map_or(count, |size| count.div_ceil(size));
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
            .and_then(|()| engine.hire(py, Some(job), tasks));
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
        owner: &Bound<'py, PyString>,
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
        self.engine.hire(py, None, 0)
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
        owner: &Bound<'py, PyString>,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Arc<Job>> {
        let py = func.py();
        let engine = &self.engine;
        let name = owner.to_str()?;
        engine.check(py, name)?;
        let (sent, kind, payload) = engine.encode_call(name, func, args, kwargs)?;
        let kept = (kind == Kind::Kept).then(|| args.clone().unbind());
        let mut state = State::default();
        let index = engine.reserve(&mut state);
        let (owner, function) = (owner.clone().unbind(), func.clone().unbind());
        let (form, each) = (Form::Single, Use::Item);
        let mark = engine.tasks.mark(engine.tasks.storage());
        let make = |number| Job::new(number, owner, function, kept, sent, form, each, mark, state);
        let job = engine.jobs.admit(make);
        engine.send(py, &job, index, kind, Ok(payload))?;
        Ok(job)
    }

    fn start<'py>(
        &self,
        this: &Bound<'py, Self>,
        owner: &Bound<'py, PyString>,
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
        let name = owner.to_str()?;
        let holds = usize::from(state.is_open || state.source.is_some());
        engine.holds.fetch_add(holds, Ordering::SeqCst);
        let prepared = engine
            .check(this.py(), name)
            .and_then(|()| engine.functions.prepare(storage, name, func));
        let sent = match prepared {
            Ok(sent) => sent,
            Err(error) => {
                engine.holds.fetch_sub(holds, Ordering::SeqCst);
                engine.stop_if_done(this.py());
                return Err(error);
            }
        };
        let (owner, function) = (owner.clone().unbind(), func.clone().unbind());
        let state = State {
            is_shared: engine.outcomes.is_none() && state.source.is_some(),
            ..state
        };
        let mark = engine.tasks.mark(engine.tasks.storage());
        let make = |number| Job::new(number, owner, function, None, sent, form, each, mark, state);
        let job = engine.jobs.admit(make);
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
    ) -> PyResult<(Sent, Kind, Outgoing<'py>)> {
        let py = func.py();
        let storage = self.tasks.storage();
        let check = || check_arguments(owner, args, kwargs.as_mapping(), false);
        let sent = if storage.family().is_none() {
            let known = self.functions.known(func);
            let prepare = || self.functions.prepare(storage, owner, func);
            let sent = known.map_or_else(prepare, Ok)?;
            check()?;
            Some(sent)
        } else {
            self.functions.prepare_named(storage, owner, func)?
        };
        let keywords = || {
            if kwargs.is_empty() {
                py.None().into_bound(py)
            } else {
                kwargs.clone().into_any()
            }
        };
        // What one thread has made and another one drops is given back to the first, which takes both
        // of them longer than all else here. So what is small nobody drops before the job goes.
        let are_small = |args: &Bound<'_, PyTuple>| args.iter_borrowed().all(|it| is_small(&it));
        let (sent, kind, payload) = match sent {
            Some(sent) if kwargs.is_empty() && storage.family().is_none() && are_small(args) => {
                (sent, Kind::Kept, PyTuple::empty(py))
            }
            Some(sent) if kwargs.is_empty() => (sent, Kind::Star, args.clone()),
            Some(sent) => (sent, Kind::Call, (args, keywords()).into_pyobject(py)?),
            None => {
                let parts = (func, args, keywords()).into_pyobject(py)?;
                (Sent::nothing(), Kind::Call, parts)
            }
        };
        match Outgoing::new(storage, payload.into_any()) {
            Ok(payload) => Ok((sent, kind, payload)),
            // What it is, is said of one that can't be pickled.
            Err(error) => Err(check_picklable(owner, parameter(owner), func, false)
                .and_then(|()| check())
                .err()
                .unwrap_or(error)),
        }
    }
}
