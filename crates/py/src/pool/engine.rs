// SPDX-License-Identifier: MIT
//! What the callers of a pool share: its jobs, the desk where outcomes are taken in, and what the
//! collector is to do.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use freethreading_core::pool::{Desk, Signal};
use freethreading_core::queue::Queue;
use freethreading_core::storage::Object;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::failures::again;
use super::functions::Functions;
use super::job::Job;
use super::registry::Registry;
use super::wire::{self, Frame};
use crate::fork;
use crate::message::{self, Outgoing};
use crate::object::make_in;
use crate::runtime;
use crate::transfer::Channel;

/// The callers' half of a pool.
pub(crate) struct Engine {
    pub(super) tasks: Channel,
    /// Where outcomes come in, to who is at the desk; none between threads, where a worker settles its
    /// tasks itself.
    pub(super) outcomes: Option<Channel>,
    pub(super) functions: Functions,
    /// How many workers there may be.
    pub(super) most_workers: usize,
    /// Starts a worker.
    pub(super) hire: Mutex<Option<Py<PyAny>>>,
    pub(super) jobs: Registry,
    pub(super) desk: Desk,
    /// The job that who is at the desk waits for; 0: nobody's in particular.
    pub(super) at_desk: AtomicU32,
    /// The thread that is at the desk: a signal handler may come here in the middle of its wait.
    pub(super) desk_thread: AtomicUsize,
    /// Those who wait for their jobs without being at the desk.
    pub(super) sleepers: Mutex<Vec<Arc<Job>>>,
    /// Callbacks that are due.
    pub(super) due: Mutex<Due>,
    /// Raised when the collector has something to do.
    pub(super) errands: Signal,
    /// Tasks that were sent and aren't done.
    pub(super) outstanding: AtomicUsize,
    /// Shares that were sent and aren't used up.
    pub(super) shares: AtomicUsize,
    /// Jobs that must go on though nobody may wait for them.
    pub(super) urgent: AtomicUsize,
    /// Threads that want the desk for more than an outcome.
    pub(super) wanted: AtomicUsize,
    /// Calls to hold a closed pool open: each may still send tasks.
    pub(super) holds: AtomicUsize,
    pub(super) hired: AtomicUsize,
    pub(super) is_closed: AtomicU32,
    /// Whether the pool was terminated, and all its jobs were ended.
    pub(super) is_abandoned: AtomicBool,
    /// Whether workers were told to end.
    pub(super) is_stopping: AtomicBool,
    /// Whether a worker's message asks that workers be looked after.
    pub(super) attention: AtomicU32,
    /// Whether nothing is taken any more, and why.
    pub(super) has_ended: AtomicBool,
    pub(super) end: Mutex<Option<Py<PyAny>>>,
    pub(super) broken: Mutex<Option<Py<PyAny>>>,
    /// The process whose pool it is.
    pub(super) generation: u32,
}

/// What the collector is to call.
#[derive(Default)]
pub(super) struct Due {
    pub(super) watchers: Vec<Py<PyAny>>,
    /// Whether the collector has come to its end.
    is_closed: bool,
}

impl Due {
    /// Takes no more, unless there are some.
    pub(super) fn close(&mut self) -> bool {
        self.is_closed = self.watchers.is_empty();
        self.is_closed
    }

    /// Adds one; it comes back if no more are taken.
    pub(super) fn add(&mut self, watcher: Py<PyAny>) -> Option<Py<PyAny>> {
        if self.is_closed {
            return Some(watcher);
        }
        self.watchers.push(watcher);
        None
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(super) fn new(py: Python<'_>, most_workers: usize, hire: Py<PyAny>) -> PyResult<Self> {
        let storage = runtime::storage()?;
        message::prepare(py, storage)?;
        let queue = || PyResult::Ok(Channel::new(make_in(storage, "a pool")?));
        Ok(Self {
            tasks: queue()?,
            outcomes: storage.family().map(|_| queue()).transpose()?,
            functions: Functions::default(),
            most_workers,
            hire: Mutex::new(Some(hire)),
            jobs: Registry::default(),
            desk: Desk::default(),
            at_desk: AtomicU32::new(0),
            desk_thread: AtomicUsize::new(0),
            sleepers: Mutex::default(),
            due: Mutex::default(),
            errands: Signal::default(),
            outstanding: AtomicUsize::new(0),
            shares: AtomicUsize::new(0),
            urgent: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            hired: AtomicUsize::new(0),
            is_closed: AtomicU32::new(0),
            is_abandoned: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            attention: AtomicU32::new(0),
            has_ended: AtomicBool::new(false),
            end: Mutex::default(),
            broken: Mutex::default(),
            generation: fork::generation(),
        })
    }

    /// Whether this is a forked child of the process whose pool it is. Its locks may be anybody's,
    /// and what comes back is the parent's.
    pub(super) fn is_foreign(&self) -> bool {
        fork::generation() != self.generation
    }

    /// Raises in a forked child; `owner` is the call.
    pub(super) fn check_process(&self, owner: &str) -> PyResult<()> {
        if self.is_foreign() {
            return Err(PyRuntimeError::new_err(format!(
                "{owner}: this pool belongs to the process that made it, not to a forked child; \
                 make a new pool here"
            )));
        }
        Ok(())
    }

    /// Raises unless calls are taken; `owner` is the call, which holds the pool open meanwhile, so
    /// that what it sends is found by a worker.
    pub(super) fn check(&self, py: Python<'_>, owner: &str) -> PyResult<()> {
        self.check_process(owner)?;
        if self.is_closed.load(Ordering::SeqCst) != 0 {
            let message = format!(
                "{owner}: no more calls are taken: the pool, or the program, is at its end"
            );
            return Err(if owner.starts_with("WorkerPoolExecutor") {
                PyRuntimeError::new_err(message)
            } else {
                PyValueError::new_err(message)
            });
        }
        if !self.has_ended() {
            return Ok(());
        }
        let broken = locked(&self.broken).as_ref().map(|it| it.clone_ref(py));
        broken.map_or(Ok(()), |error| Err(again(py, &error)))
    }

    pub(super) fn job(&self, number: u32) -> Option<Arc<Job>> {
        self.jobs.get(number)
    }

    /// Whether nothing is sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    pub(super) fn why_ended(&self, py: Python<'_>) -> PyErr {
        let end = locked(&self.broken)
            .as_ref()
            .or(locked(&self.end).as_ref())
            .map(|it| it.clone_ref(py));
        end.map_or_else(
            || PyRuntimeError::new_err("the pool has ended"),
            |error| again(py, &error),
        )
    }

    pub(super) fn broken_with(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        locked(&self.broken).as_ref().map(|it| it.clone_ref(py))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.tasks.traverse(visit)?;
        if let Some(outcomes) = &self.outcomes {
            outcomes.traverse(visit)?;
        }
        for jobs in self.jobs.unlocked() {
            for job in jobs.values() {
                job.traverse(visit)?;
            }
        }
        if let Ok(hire) = self.hire.try_lock() {
            if let Some(hire) = &*hire {
                visit.call(hire)?;
            }
        }
        if let Ok(due) = self.due.try_lock() {
            for watcher in &due.watchers {
                visit.call(watcher)?;
            }
        }
        Ok(())
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        self.tasks.clear(py);
        if let Some(outcomes) = &self.outcomes {
            outcomes.clear(py);
        }
        // Nobody uses it any more. In a forked child its locks may be held by nobody, for ever.
        let hire = self.hire.try_lock().ok().and_then(|mut hire| hire.take());
        drop(hire);
        let mut jobs = Vec::new();
        for table in self.jobs.unlocked() {
            jobs.extend(table.values().map(Arc::clone));
        }
        for job in jobs {
            job.clear();
        }
        let due = self
            .due
            .try_lock()
            .ok()
            .map(|mut due| core::mem::take(&mut due.watchers));
        drop(due);
    }
}

/// Puts a message that has nothing but a frame.
pub(super) fn put_none(py: Python<'_>, queue: &Object<Queue>, frame: Frame) -> PyResult<()> {
    let none = py.None().into_bound(py);
    wire::put(py, queue, frame, &[], Outgoing::new(queue.storage(), none)?)
}
