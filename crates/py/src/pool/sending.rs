// SPDX-License-Identifier: MIT
//! From a task to its queue, and workers for it.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::prelude::*;

use super::engine::{Engine, locked, put_none};
use super::job::{Job, Outcome};
use super::state::State;
use super::wire::{self, Frame, Kind, Number};
use crate::message::Outgoing;
use crate::shield::call_none;

impl Engine {
    /// Reserves the next task of a job.
    pub(super) fn reserve(&self, state: &mut State) -> u32 {
        // Counted under the job's lock, so that whoever stops the job finds it counted.
        self.outstanding.fetch_add(1, Ordering::SeqCst);
        state.reserve()
    }

    /// Sends a task that was reserved. Whatever is in the way is its outcome.
    pub(super) fn send(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        index: u32,
        kind: Kind,
        payload: PyResult<Outgoing<'_>>,
    ) -> PyResult<()> {
        let number = Number {
            job: job.number,
            index,
        };
        let bytes = &job.sent.bytes;
        let frame = Frame {
            is_own: job.sent.is_own,
            extra: u32::try_from(bytes.len()).unwrap_or(0),
            ..Frame::new(number, kind)
        };
        let is_ended = self.has_ended();
        let sent = match payload {
            Ok(_) if is_ended => Err(self.why_ended(py)),
            Ok(payload) => wire::put(py, &self.tasks, frame, bytes, payload),
            Err(error) => Err(error),
        };
        let Err(error) = sent else {
            // The pool may have ended in between, and have missed this one.
            if self.has_ended() {
                let error = self.why_ended(py);
                self.resolve(py, job, index, |py| Outcome::error(py, error));
            }
            return Ok(());
        };
        let kept = Outcome::error(py, error.clone_ref(py));
        self.resolve(py, job, index, |_| kept);
        // Ctrl-C and the like are the caller's.
        if error.is_instance_of::<pyo3::exceptions::PyException>(py) {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Starts workers as long as there are more tasks than workers, and fewer than `tasks`, which were
    /// sent just now and may be done already. If there is none at all, `job` ends with the reason,
    /// which is raised.
    pub(super) fn hire(
        &self,
        py: Python<'_>,
        job: Option<&Arc<Job>>,
        tasks: usize,
    ) -> PyResult<()> {
        let hired = self.hired.load(Ordering::SeqCst);
        // So many each, and not as many as it takes: they may be told to end meanwhile.
        let mut for_tasks = self.most_workers.min(tasks).saturating_sub(hired);
        loop {
            if self.has_ended() || self.is_done() {
                return Ok(());
            }
            let hired = self.hired.load(Ordering::SeqCst);
            let work = self.outstanding.load(Ordering::SeqCst) + self.shares.load(Ordering::SeqCst);
            let for_work = self.most_workers.min(work);
            if hired >= for_work && (for_tasks == 0 || hired >= self.most_workers) {
                return Ok(());
            }
            for_tasks = for_tasks.saturating_sub(1);
            let grown =
                self.hired
                    .compare_exchange(hired, hired + 1, Ordering::SeqCst, Ordering::SeqCst);
            if grown.is_err() {
                continue;
            }
            let hire = locked(&self.hire).as_ref().map(|hire| hire.clone_ref(py));
            let Some(Err(error)) = hire.map(|hire| call_none(hire.bind(py))) else {
                continue;
            };
            let is_alone = self.hired.fetch_sub(1, Ordering::SeqCst) == 1;
            let is_plain = error.is_instance_of::<pyo3::exceptions::PyException>(py);
            if is_plain && !is_alone {
                return Ok(()); // the others do the work
            }
            if let Some(job) = job {
                self.withdraw(Some(job));
                self.stop(py, job, |py| Outcome::error(py, error.clone_ref(py)));
            }
            return Err(error);
        }
    }

    /// Whether all that was to be sent is sent and done.
    pub(super) fn is_done(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst) != 0
            && self.holds.load(Ordering::SeqCst) == 0
            && self.outstanding.load(Ordering::SeqCst) == 0
    }

    /// Tells workers to end, if all that was to be sent is sent and done.
    pub(super) fn stop_if_done(&self, py: Python<'_>) {
        if !self.is_done() {
            return;
        }
        // One is enough: each worker passes it on to the next. Another one does no harm.
        if !self.is_stopping.swap(true, Ordering::SeqCst) {
            let frame = Frame::new(Number::NONE, Kind::Stop);
            if put_none(py, &self.tasks, frame).is_err() {
                self.is_stopping.store(false, Ordering::SeqCst);
                return;
            }
        }
        self.errands.raise();
    }
}
