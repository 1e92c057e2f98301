// SPDX-License-Identifier: MIT
//! A job: a call of a pool, the tasks that it consists of, and what became of them.
//!
//! A task's life, as its job sees it:
//!
//! ```text
//!    unsent ---> PENDING ---> ARRIVED ---> DONE ---> taken by who asked
//!         sent      taken out of the queue    decoded
//! ```
//!
//! PENDING becomes ARRIVED once, under the job's lock, whoever says how the task ended: its worker,
//! the one who found that worker dead, or the one who cancelled it. So it has one outcome.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use freethreading_core::pool::Signal;
use freethreading_core::queue::Mark;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::common::Common;
use super::functions::Sent;
use super::lane::{Lane, Wanted};
use super::state::{Closing, Next, Slot, Source, State, Stopped};
use super::taking::Moved;

/// How a task, or a whole job, ended.
pub(super) enum Outcome {
    Value(Py<PyAny>),
    /// A list, of a value for each item.
    Values(Py<PyAny>),
    /// An exception.
    Error(Py<PyAny>),
}

impl Outcome {
    pub(super) fn error(py: Python<'_>, error: PyErr) -> Self {
        Self::Error(error.into_value(py).into_any())
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Value(it) => Self::Value(it.clone_ref(py)),
            Self::Values(it) => Self::Values(it.clone_ref(py)),
            Self::Error(it) => Self::Error(it.clone_ref(py)),
        }
    }

    pub(super) fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Value(it) | Self::Values(it) | Self::Error(it) => it,
        }
    }

    /// The value, or the exception raised.
    pub(super) fn into_result(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Value(it) | Self::Values(it) => Ok(it.into_bound(py)),
            Self::Error(it) => Err(PyErr::from_value(it.into_bound(py))),
        }
    }
}

/// What a job makes of its tasks' outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One value.
    Single,
    /// A list of all values, in order, when all are there.
    List,
    /// One after the other, in order.
    Ordered,
    /// One after the other, as they come.
    Unordered,
}

impl Form {
    /// Whether it ends with one result.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Single | Self::List)
    }
}

/// What a job's tasks do with their items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// `function(item)`.
    Item,
    /// `function(*item)`.
    Star,
}

/// A call of a pool.
pub(super) struct Job {
    pub(super) number: u32,
    /// The call, for messages.
    owner: Py<PyString>,
    pub(super) function: Py<PyAny>,
    /// Those of its one task, if they are small: see `Engine::encode_call`. They can't be part of a
    /// cycle.
    pub(super) arguments: Option<Py<PyTuple>>,
    pub(super) sent: Sent,
    pub(super) form: Form,
    pub(super) each: Use,
    /// Where its tasks begin, in their queue.
    pub(super) mark: Option<Mark>,
    /// Whether workers take its items by themselves.
    pub(super) is_shared: bool,
    pub(super) common: Common,
    /// Raised when somebody who waits for this job may go on.
    pub(super) changed: Signal,
    /// Raised when there may be room for more items, or will be none.
    pub(super) room: Signal,
    /// Workers that wait for it, and run its tasks meanwhile.
    pub(super) helpers: AtomicUsize,
    pub(super) moved: Moved,
    pub(super) wanted: Wanted,
    state: Mutex<State>,
}

/// What is new after a task's outcome was stored.
pub(super) enum News {
    /// Nothing that anybody waits for.
    Nothing,
    /// There is an outcome to take.
    Outcome,
    /// The last outcome has come; a list is to be made of all.
    AllOutcomes,
    /// The last outcome has come, and there is nothing to be made of them.
    Complete(Closing),
}

/// What a worker has done since its last step.
pub(super) struct Ended {
    /// The task that it did last, unless that was done with already.
    pub(super) last: Option<(u32, Outcome)>,
    /// So many items took so long.
    pub(super) count: usize,
    pub(super) taken: Duration,
}

/// What came of a worker's step from one task to the next, when the job's lock isn't held any more.
pub(super) struct Step {
    pub(super) news: Option<News>,
    pub(super) next: Next,
    /// To be dropped: outcomes that came too late, and items that were the last.
    pub(super) unused: Vec<Outcome>,
    pub(super) finished: Option<Source>,
}

impl Job {
    #[expect(clippy::too_many_arguments, reason = "they are its fields")]
    pub(super) fn new(
        number: u32,
        owner: Py<PyString>,
        function: Py<PyAny>,
        arguments: Option<Py<PyTuple>>,
        sent: Sent,
        form: Form,
        each: Use,
        mark: Option<Mark>,
        state: State,
    ) -> Self {
        Self {
            number,
            owner,
            function,
            arguments,
            sent,
            form,
            each,
            mark,
            is_shared: state.is_shared,
            common: Common::default(),
            changed: Signal::default(),
            room: Signal::default(),
            helpers: AtomicUsize::new(0),
            moved: Moved::default(),
            wanted: Wanted::default(),
            state: Mutex::new(state),
        }
    }

    /// The call, for messages.
    pub(super) fn owner<'a>(&'a self, py: Python<'a>) -> &'a str {
        self.owner.bind(py).to_str().unwrap_or_default()
    }

    /// The state; no Python code may run, and no reference be dropped, while it is locked.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells workers that wait for it that there is more to be run.
    pub(super) fn call_helpers(&self) {
        if self.helpers.load(Ordering::SeqCst) != 0 {
            self.changed.raise();
        }
    }

    /// Whether the result of a whole job is there.
    pub(super) fn is_ready(&self) -> bool {
        self.lock().result.is_some()
    }

    /// The result of a whole job, if it is there.
    pub(super) fn result(&self, py: Python<'_>) -> Option<Outcome> {
        self.lock().result.as_ref().map(|it| it.clone_ref(py))
    }

    /// A task has ended; false if that was known.
    pub(super) fn arrive(&self, index: u32) -> bool {
        self.lock().arrive(index)
    }

    /// Stores the outcome of a task that has arrived.
    pub(super) fn store(&self, index: u32, outcome: Outcome) -> News {
        self.lock().store(self.form, index, outcome)
    }

    /// A worker that takes items by itself goes on: it has `ended` a task, if any, besides those in its
    /// lane, and gets the next ones.
    pub(super) fn step(
        &self,
        lane: &Lane,
        ended: Option<Ended>,
        is_guest: bool,
        stays: bool,
        workers: usize,
    ) -> Step {
        let mut state = self.lock();
        let mut unused = state.sweep(self.form, lane);
        let mut news = None;
        // The last one last: as long as it is pending, what is in the lane can't have been all.
        if let Some(Ended { last, count, taken }) = ended {
            state.note_time(taken, count);
            match last {
                Some((index, outcome)) if state.arrive(index) => {
                    news = Some(state.store(self.form, index, outcome));
                }
                // It was ended by somebody else.
                Some((_, outcome)) => unused.push(outcome),
                None => {}
            }
        }
        let (next, finished) = state.next(lane, is_guest, stays, workers);
        Step {
            news,
            next,
            unused,
            finished,
        }
    }

    /// Whether this is the one that assembles the result of a whole job.
    pub(super) fn begin_assembly(&self) -> Option<Vec<Outcome>> {
        let mut state = self.lock();
        if self.form != Form::List || core::mem::replace(&mut state.is_assembled, true) {
            return None;
        }
        let slots = core::mem::take(&mut state.slots);
        Some(
            slots
                .into_iter()
                .filter_map(|slot| match slot {
                    Slot::Done(outcome) => Some(outcome),
                    _ => None,
                })
                .collect(),
        )
    }

    /// All outcomes have come, and the result of a job that has one.
    pub(super) fn finish(&self, result: Option<Outcome>) -> Closing {
        let mut state = self.lock();
        let before = match result {
            Some(result) => state.result.replace(result),
            None => None,
        };
        let closing = state.closing();
        drop(state);
        drop(before);
        closing
    }

    /// Ends all tasks that have not arrived, and sends no more.
    pub(super) fn stop(&self) -> Stopped {
        let mut state = self.lock();
        let unused = state.sweep_all(self.form);
        let mut stopped = state.withhold();
        self.room.raise();
        for at in 0..state.slots.len() {
            if matches!(state.slots[at], Slot::Pending) {
                state.slots[at] = Slot::Arrived;
                stopped.arrived.push(state.index(at));
            }
        }
        drop(state);
        drop(unused);
        stopped
    }

    /// Sends no more.
    pub(super) fn withhold(&self) -> Stopped {
        let stopped = self.lock().withhold();
        self.room.raise();
        stopped
    }

    /// Whether one more task may be sent; `None`: no more are to be.
    pub(super) fn has_room(&self) -> Option<bool> {
        let state = self.lock();
        state.is_open.then(|| state.ahead() < state.most_ahead)
    }

    /// Lets all items be sent, however many outcomes nobody has asked for.
    pub(super) fn lift_limit(&self) {
        let mut state = self.lock();
        state.most_ahead = usize::MAX;
        if let Some(source) = &mut state.source {
            source.is_lazy = false;
        }
        drop(state);
        self.room.raise();
    }

    /// Whether there are items to be sent, or may be.
    pub(super) fn holds(&self) -> bool {
        let state = self.lock();
        state.is_open || state.source.is_some()
    }

    /// Whether items are sent only as outcomes are asked for.
    pub(super) fn is_lazy(&self) -> bool {
        let state = self.lock();
        state.is_open || state.source.as_ref().is_some_and(|source| source.is_lazy)
    }

    /// Notes how long a task with so many items took.
    pub(super) fn note_time(&self, taken: Duration, items: usize) {
        self.lock().note_time(taken, items);
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        self.moved.traverse(visit)?;
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        if let Some(source) = &state.source {
            visit.call(&source.items)?;
        }
        for lane in &state.lanes {
            lane.traverse(visit)?;
        }
        for slot in &state.slots {
            if let Slot::Done(outcome) = slot {
                visit.call(outcome.object())?;
            }
        }
        for outcome in state.ready.iter().chain(&state.result) {
            visit.call(outcome.object())?;
        }
        if let Some(watcher) = &state.watcher {
            visit.call(watcher)?;
        }
        Ok(())
    }

    /// Lets go of all that could be part of a cycle.
    pub(super) fn clear(&self) {
        let state = self
            .state
            .try_lock()
            .ok()
            .map(|mut state| core::mem::take(&mut *state));
        drop(state);
        self.moved.clear();
    }
}
