// SPDX-License-Identifier: MIT
//! Items that workers take by themselves: between threads all that a worker must be told is which job
//! has some.
//!
//! A *share* is a message that names a job. The worker that takes it runs tasks of that job, one after
//! the other: until there are no more (or, of a lazy job, until enough outcomes wait to be asked
//! for), or until somebody else needs a worker; then the share goes to the end of the queue. So a task
//! costs one locking of its job, and nothing that passes through a queue.
//!
//! Invariant: `State::shares` of a job's shares lie in the queue or are at work. A worker gives its share
//! up in the same locked step in which it finds nothing to do; whoever makes something to do looks
//! afterwards (`Engine::share`), and puts another one.

use core::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PySequence;

use super::engine::{Engine, put_none};
use super::feed::{many, name_culprit, single};
use super::job::{Job, Outcome};
use super::state::{Next, Slice};
use super::wire::{Frame, Kind, Number};
use super::worker::{run, run_all};

impl Engine {
    /// Has workers take items of the job, as many as there is work for.
    pub(super) fn share(&self, py: Python<'_>, job: &Job) -> PyResult<()> {
        while job.lock().begin_share(self.most_workers) {
            self.shares.fetch_add(1, Ordering::SeqCst);
            if let Err(error) = self.put_share(py, job) {
                self.shares.fetch_sub(1, Ordering::SeqCst);
                job.lock().give_share_up();
                return Err(error);
            }
            job.call_helpers();
        }
        Ok(())
    }

    fn put_share(&self, py: Python<'_>, job: &Job) -> PyResult<()> {
        let number = Number {
            job: job.number,
            index: 0,
        };
        put_none(py, &self.tasks, Frame::new(number, Kind::Share))
    }

    /// Uses a share, in this thread, which is a worker.
    pub(super) fn use_share(&self, py: Python<'_>, job: u32) {
        let job = self.job(job);
        if let Some(job) = &job {
            self.work_on(py, job, false);
        }
        drop(job);
        self.shares.fetch_sub(1, Ordering::SeqCst);
    }

    /// Runs tasks of the job in this thread, which is a worker: by a share, or as a `guest`, who stays
    /// until there are no more.
    pub(super) fn work_on(&self, py: Python<'_>, job: &Arc<Job>, is_guest: bool) {
        // Held meanwhile: whoever stops the job lets go of its items.
        let items = job.lock().source.as_ref().map(|it| it.items.clone_ref(py));
        let Some(items) = items else {
            if !is_guest {
                job.lock().give_share_up();
            }
            return;
        };
        let items = items.bind(py);
        // So is the function: a collection may find the call, but not this thread, which has it too.
        let function = job.function.clone_ref(py).into_bound(py);
        // At least for one task: or else two shares could go round and round.
        let (mut ended, mut must_stay) = (None, true);
        loop {
            let stays = must_stay || self.tasks.is_empty();
            must_stay = is_guest;
            let step = job.step(ended.take(), is_guest, stays, self.most_workers);
            drop((step.unused, step.finished));
            if let Some(news) = step.news {
                self.tell(py, job, news);
            }
            match step.next {
                Next::Task(slice) => {
                    let outcome = run_slice(job, &function, items, &slice);
                    ended = Some((slice.index, outcome));
                }
                // Without memory for it, it is used on.
                Next::Later => match self.put_share(py, job) {
                    Ok(()) => {
                        self.shares.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Err(_) => must_stay = true,
                },
                Next::Nothing => return,
            }
        }
    }
}

/// Runs a task.
fn run_slice(
    job: &Job,
    function: &Bound<'_, PyAny>,
    items: &Bound<'_, PySequence>,
    slice: &Slice,
) -> Outcome {
    let py = items.py();
    let &Slice { start, count, .. } = slice;
    let result = if slice.is_single {
        items.get_item(start).and_then(|item| {
            name_culprit(job, &item, start, true)?;
            run(Some(function), item, single(job)).map(|it| Outcome::Value(it.unbind()))
        })
    } else {
        items.get_slice(start, start + count).and_then(|payload| {
            name_culprit(job, &payload, start, false)?;
            let begin = Instant::now();
            let values = run_all(Some(function), &payload, many(job))?;
            job.note_time(begin.elapsed(), count);
            Ok(Outcome::Values(values.unbind()))
        })
    };
    result.unwrap_or_else(|error| Outcome::error(py, error))
}
