// SPDX-License-Identifier: MIT
//! How outcomes are taken one after the other, by who iterates over them.
//!
//! Outcomes are moved out of the job's state some at a time, so that who takes them and the workers
//! that store others seldom meet at its lock. Those that were moved count as taken, but for the
//! iteration's end; a job's window is smaller by so many (`State::bulk`).
//!
//! Lock order: what was moved, then the state. Both are held to say that there is nothing to take, lest
//! somebody go to sleep between the one and the other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{PyTraverseError, PyVisit};

use super::job::{Job, Outcome};

/// Outcomes that were moved, and values that came with the last one.
#[derive(Default)]
pub(super) struct Moved(Mutex<Rest>);

#[derive(Default)]
struct Rest {
    outcomes: VecDeque<Outcome>,
    /// A list, and the position of the next value.
    values: Option<(Py<PyList>, usize)>,
}

impl Rest {
    /// Takes the next value or outcome, if there is one.
    fn next(&mut self, py: Python<'_>) -> Option<Turn> {
        if self.values.is_none() {
            let outcome = self.outcomes.pop_front()?;
            let list = match &outcome {
                Outcome::Values(values) => values.bind(py).cast::<PyList>().ok().cloned(),
                _ => None,
            };
            let Some(list) = list else {
                return Some(Turn::Outcome(outcome));
            };
            // Here, so that nobody finds nothing in between.
            self.values = Some((list.unbind(), 0));
        }
        let (values, next) = self.values.as_mut()?;
        let (list, at) = (values.clone_ref(py), *next);
        *next += 1;
        let is_last = *next >= list.bind(py).len();
        let finished = if is_last { self.values.take() } else { None };
        Some(Turn::Value { list, at, finished })
    }
}

/// What there is to take.
pub(super) enum Turn {
    /// A value that came with others: in the list, there. To be dropped: the list, if that was the
    /// last one.
    Value {
        list: Py<PyList>,
        at: usize,
        finished: Option<(Py<PyList>, usize)>,
    },
    Outcome(Outcome),
    /// There is something, and there may be room for more items, which comes first.
    Room,
    /// Nothing yet, or another thread was faster.
    Later,
    /// Nothing any more.
    Over,
}

impl Moved {
    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(rest) = self.0.try_lock() else {
            return Ok(());
        };
        for outcome in &rest.outcomes {
            visit.call(outcome.object())?;
        }
        if let Some((values, _)) = &rest.values {
            visit.call(values)?;
        }
        Ok(())
    }

    pub(super) fn clear(&self) {
        let rest = self.0.try_lock().ok();
        let rest = rest.map(|mut rest| core::mem::take(&mut *rest));
        drop(rest);
    }
}

impl Job {
    /// Takes the value, or the outcome, whose turn it is.
    pub(super) fn take(&self, py: Python<'_>) -> Turn {
        // Dropped when nothing is locked any more.
        let _unused;
        let mut rest = self.moved.lock();
        if let Some(turn) = rest.next(py) {
            return turn;
        }
        let mut state = self.lock();
        if !state.has_outcome(self.form) {
            _unused = state.sweep_all(self.form);
        }
        state.move_outcomes(self.form, &mut rest.outcomes);
        // Not for each one: whoever sleeps goes on when there is something to do.
        if state.is_open && state.ahead() <= state.most_ahead / 2 {
            self.room.raise();
        }
        if !rest.outcomes.is_empty() && state.source.is_some() {
            return Turn::Room;
        }
        match rest.next(py) {
            Some(turn) => turn,
            None if state.is_over() => Turn::Over,
            None => Turn::Later,
        }
    }

    /// Whether [`Job::take`] would answer.
    pub(super) fn has_outcome(&self) -> bool {
        let rest = self.moved.lock();
        if rest.values.is_some() || !rest.outcomes.is_empty() {
            return true;
        }
        let state = self.lock();
        state.has_outcome(self.form) || self.look_into_lanes(&state) || state.is_over()
    }
}
