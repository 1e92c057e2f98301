// SPDX-License-Identifier: MIT
//! What becomes of a job when a task of it has ended: the outcome is stored, who waits is told, and
//! callbacks are due.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::prelude::*;

use super::assembly::assemble;
use super::engine::{Engine, locked};
use super::job::{Job, News, Outcome};
use super::state::Closing;

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
        // Before anybody is told: who sends the next task finds the worker that it needs.
        let is_last = !job.is_shared && self.outstanding.fetch_sub(1, Ordering::SeqCst) == 1;
        let news = job.store(index, outcome);
        self.tell(py, job, news);
        if is_last {
            self.stop_if_done(py);
        }
    }

    /// Tells who waits for a job what is new.
    pub(super) fn tell(&self, py: Python<'_>, job: &Arc<Job>, news: News) {
        match news {
            News::Nothing => {}
            News::Outcome => self.announce(py, job),
            News::AllOutcomes => self.complete(py, job),
            News::Complete(closing) => self.close(py, job, closing),
        }
    }

    /// A job has all its outcomes.
    pub(super) fn complete(&self, py: Python<'_>, job: &Arc<Job>) {
        let result = job.begin_assembly().map(|all| assemble(py, all));
        let closing = job.finish(result);
        self.close(py, job, closing);
    }

    fn close(&self, py: Python<'_>, job: &Arc<Job>, closing: Closing) {
        job.common.clear();
        if closing.was_urgent {
            self.urgent.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(watcher) = closing.watcher {
            // The collector doesn't end before the job is forgotten.
            let refused = locked(&self.due).add(watcher);
            self.errands.raise();
            drop(refused);
        }
        // From here on the collector may find that all is over.
        let known = self.jobs.remove(job);
        self.announce(py, job);
        drop(known);
        if closing.lets_go {
            self.holds.fetch_sub(1, Ordering::SeqCst);
            self.stop_if_done(py);
        }
    }

    /// Lets a job go on though nobody may wait for it: the collector sees to that.
    pub(super) fn urge(&self, job: &Job) {
        if self.outcomes.is_none() {
            return; // the workers see to it themselves
        }
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

    /// Has `watcher` called by the collector when the job is complete, also if it is by now; false if
    /// it is, and the collector has come to its end.
    pub(super) fn watch_surely(&self, py: Python<'_>, job: &Job, watcher: Py<PyAny>) -> bool {
        if self.watch(job, watcher.clone_ref(py)) {
            return true;
        }
        let refused = locked(&self.due).add(watcher);
        self.errands.raise();
        refused.is_none()
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
