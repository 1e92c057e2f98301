// SPDX-License-Identifier: MIT
//! What becomes of a job when a task of it has ended: the outcome is stored, who waits is told, and
//! callbacks are due.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::prelude::*;

use super::engine::{Engine, locked};
use super::job::{Job, News, Outcome};

impl Engine {
    /// Gives a task its outcome, unless it has one.
    pub(super) fn resolve(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        index: u32,
        outcome: impl FnOnce(Python<'_>) -> Outcome,
    ) {
        if job.arrive(index) {
            let outcome = outcome(py);
            self.settle(py, job, index, outcome);
        }
    }

    /// Stores the outcome of a task that has arrived, and tells who waits for it.
    pub(super) fn settle(&self, py: Python<'_>, job: &Arc<Job>, index: u32, outcome: Outcome) {
        match job.store(index, outcome) {
            News::Complete => self.complete(py, job),
            News::Outcome => self.announce(py, job),
            News::Nothing => {}
        }
        // Last: from then on the collector may find that all is over.
        if self.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.stop_if_done(py);
        }
    }

    /// A job has all its outcomes.
    pub(super) fn complete(&self, py: Python<'_>, job: &Arc<Job>) {
        job.common.clear();
        if let Some(outcomes) = job.begin_assembly() {
            job.finish(super::assembly::assemble(py, job.form, outcomes));
        }
        let known = locked(&self.jobs).by_number.remove(&job.number);
        let (watcher, was_urgent) = {
            let mut state = job.lock();
            (state.watcher.take(), core::mem::take(&mut state.is_urgent))
        };
        if was_urgent {
            self.urgent.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(watcher) = watcher {
            locked(&self.due).push(watcher);
            self.errands.raise();
        }
        self.announce(py, job);
        drop(known);
    }

    /// Lets a job go on though nobody may wait for it: the collector sees to that.
    pub(super) fn urge(&self, job: &Job) {
        let is_new = {
            let mut state = job.lock();
            let is_new = !state.is_urgent && !state.is_complete();
            state.is_urgent |= is_new;
            if is_new {
                // Counted under the lock, so that who completes the job finds it counted.
                self.urgent.fetch_add(1, Ordering::SeqCst);
            }
            is_new
        };
        if is_new {
            self.errands.raise();
        }
    }

    /// Has `watcher` called by the collector when the job is complete; false if it is.
    pub(super) fn watch(&self, job: &Job, watcher: Py<PyAny>) -> bool {
        let refused = {
            let mut state = job.lock();
            if state.is_settled(job.form) {
                Some(watcher)
            } else {
                state.watcher.replace(watcher)
            }
        };
        let is_watched = refused.is_none();
        drop(refused);
        if is_watched {
            self.urge(job);
        }
        is_watched
    }
}
