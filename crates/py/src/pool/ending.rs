// SPDX-License-Identifier: MIT
//! How calls and pools end before all is done: cancelled, broken, terminated.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::prelude::*;

use super::engine::{Engine, locked};
use super::failures::{again, cancelled};
use super::job::{Form, Job, Outcome};
use super::state::Stopped;
use super::wire::{Frame, Kind, Number};
use crate::message::CANCELLED;

impl Engine {
    /// Nothing is taken any more, and what is waited for ends with `error`.
    pub(super) fn break_with(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        let kept = error.clone().unbind();
        {
            let mut broken = locked(&self.broken);
            if broken.is_none() {
                *broken = Some(kept);
            }
        }
        // From here on, who sends a task looks afterwards and ends it.
        self.has_ended.store(true, Ordering::SeqCst);
        self.attention.store(1, Ordering::SeqCst);
        self.abandon(py, error, false);
        // Threads would run what lies in the queue, though nobody waits for it any more.
        self.withdraw(None);
        self.errands.raise();
    }

    /// As [`Engine::break_with`], when the pool is terminated: no callbacks are called.
    pub(super) fn terminate(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        let before = locked(&self.end).replace(error.clone().unbind());
        drop(before);
        self.is_closed.store(1, Ordering::SeqCst);
        self.has_ended.store(true, Ordering::SeqCst);
        self.abandon(py, error, true);
        self.is_abandoned.store(true, Ordering::SeqCst);
        // Threads are told to end; of processes the crew takes care.
        let storage = self.tasks.storage();
        self.tasks.retag(storage, |tag, _| tag | CANCELLED);
        self.stop_if_done(py);
        self.nudge(py);
        self.errands.raise();
    }

    /// Ends all jobs with an error.
    pub(super) fn abandon(&self, py: Python<'_>, error: &Bound<'_, PyAny>, is_silent: bool) {
        for job in self.jobs.all() {
            if is_silent {
                job.lock().is_abandoned = true;
            }
            self.stop(py, &job, |py| {
                Outcome::Error(again(py, &error.clone().unbind()).into_value(py).into_any())
            });
        }
    }

    /// Ends what a job still waits for with an outcome, and sends no more of it.
    pub(super) fn stop(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        outcome: impl Fn(Python<'_>) -> Outcome,
    ) {
        let stopped = job.stop();
        self.let_go(job, &stopped);
        for &index in &stopped.arrived {
            self.settle(py, job, index, outcome(py));
        }
    }

    /// Counts what became of a job that was stopped.
    fn let_go(&self, job: &Job, stopped: &Stopped) {
        if stopped.has_rest && !job.is_shared {
            self.outstanding.fetch_add(1, Ordering::SeqCst);
        }
        if stopped.lets_go {
            self.holds.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes tasks that no worker has taken back out of the queue, those of `job` or of all jobs; the
    /// jobs whose tasks they were, with their positions.
    pub(super) fn withdraw(&self, job: Option<&Job>) -> Vec<(Arc<Job>, u32)> {
        let mut withdrawn = Vec::new();
        self.look_at_tasks(job, |frame, tag| {
            withdrawn.push(frame.number);
            tag | CANCELLED
        });
        let job_of = |number: Number| Some((self.job(number.job)?, number.index));
        withdrawn.into_iter().filter_map(job_of).collect()
    }

    /// Shows tasks that no worker has taken, nor anybody taken back, those of `job` or of all jobs, and
    /// gives them the tag that is answered.
    fn look_at_tasks(&self, job: Option<&Job>, mut look: impl FnMut(Frame, u32) -> u32) {
        let mark = job.and_then(|job| job.mark);
        let has_one_task = job.is_some_and(|job| job.form == Form::Single);
        let storage = self.tasks.storage();
        self.tasks.retag_from(storage, mark, |tag, message| {
            let frame = Frame::from_bytes(message).map(|(frame, _)| frame);
            // (A share is of no use any more when its job is stopped, and does no harm.)
            let frame = frame.filter(|it| {
                it.number.job != 0
                    && it.kind != Kind::Share
                    && job.is_none_or(|job| job.number == it.number.job)
            });
            let Some(frame) = frame else {
                return ControlFlow::Continue(tag);
            };
            let tag = if tag & CANCELLED == 0 {
                look(frame, tag)
            } else {
                tag
            };
            if has_one_task {
                ControlFlow::Break(tag)
            } else {
                ControlFlow::Continue(tag)
            }
        });
    }

    /// Takes back what no worker has begun of a job; whether that was something.
    pub(super) fn cancel(&self, py: Python<'_>, job: &Arc<Job>) -> bool {
        let stopped = job.withhold();
        self.let_go(job, &stopped);
        let withdrawn = if job.is_shared || job.lock().in_flight() == 0 {
            Vec::new()
        } else {
            self.withdraw(Some(job))
        };
        let is_any = !stopped.arrived.is_empty() || !withdrawn.is_empty();
        self.cancel_withdrawn(py, withdrawn);
        for &index in &stopped.arrived {
            job.lock().is_cancelled = true;
            self.settle(py, job, index, cancelled(py));
        }
        if is_any {
            self.announce(py, job);
            self.stop_if_done(py);
        }
        is_any
    }

    /// Takes back what no worker has begun of single calls, and all that wasn't sent.
    pub(super) fn cancel_pending(&self, py: Python<'_>) {
        if self.is_foreign() {
            return;
        }
        for job in self.jobs.all() {
            if job.holds() {
                self.cancel(py, &job);
            }
        }
        let withdrawn = self.withdraw(None);
        self.cancel_withdrawn(py, withdrawn);
    }

    pub(super) fn cancel_withdrawn(&self, py: Python<'_>, withdrawn: Vec<(Arc<Job>, u32)>) {
        for (job, index) in withdrawn {
            job.lock().is_cancelled = true;
            self.resolve(py, &job, index, cancelled);
        }
    }

    /// Whether a job's task lies in the queue.
    pub(super) fn is_waiting(&self, job: &Job) -> bool {
        let mut is_there = false;
        self.look_at_tasks(Some(job), |_, tag| {
            is_there = true;
            tag
        });
        is_there
    }
}
