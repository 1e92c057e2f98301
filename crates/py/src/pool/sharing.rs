// SPDX-License-Identifier: MIT
//! Items that workers take by themselves: between threads all that a worker must be told is which job
//! has some.
//!
//! A *share* is a message that names a job. The worker that takes it runs tasks of that job, one after
//! the other: until there are no more (or, of a lazy job, until enough outcomes wait to be asked
//! for), or until somebody else needs a worker; then the share goes to the end of the queue. So no task
//! passes through a queue; and short ones are claimed several at a time (see `lane`).
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
use super::job::{Ended, Job, Outcome};
use super::lane::{Lane, number};
use super::state::{Next, Slice, Source, State};
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
        let lane = {
            let mut state = job.lock();
            let lane = state.enter(py);
            if lane.is_none() && !is_guest {
                state.give_share_up();
            }
            lane
        };
        let Some(lane) = lane else {
            return;
        };
        let items = lane.items.bind(py);
        // The lane holds the items meanwhile: whoever stops the job lets go of them. The function is held,
        // too: a collection may find the call, but not this thread.
        let function = job.function.clone_ref(py).into_bound(py);
        // At least for one task: or else two shares could go round and round.
        let (mut ended, mut must_stay) = (None, true);
        loop {
            let stays = must_stay || self.tasks.is_empty();
            must_stay = is_guest;
            let step = job.step(&lane, ended.take(), is_guest, stays, self.most_workers);
            drop((step.unused, step.finished));
            if let Some(news) = step.news {
                self.tell(py, job, news);
            }
            match step.next {
                Next::Task(slice) => {
                    let begin = Instant::now();
                    let outcome = run_slice(job, &function, items, &slice);
                    ended = Some(Ended {
                        last: Some((slice.index, outcome)),
                        count: slice.count,
                        taken: begin.elapsed(),
                    });
                }
                Next::Lane => ended = Some(self.run_lane(job, &function, &lane, is_guest)),
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

impl State {
    /// Whether one more share is of use; it counts from here on.
    pub(super) fn begin_share(&mut self, workers: usize) -> bool {
        let (ahead, in_flight) = (self.ahead(), self.in_flight());
        let Some(source) = &self.source else {
            return false;
        };
        let items = source.end - source.next;
        let unsent = source.size.map_or(items, |size| items.div_ceil(size));
        // Of the shares that there are, some may be at the tasks in flight.
        let tasks = unsent + in_flight;
        // Half a window at a time: else workers would stop after each task.
        let has_room = !source.is_lazy || ahead <= self.window(source) / 2;
        let begins = has_room && self.shares < workers.min(tasks);
        self.shares += usize::from(begins);
        begins
    }

    /// A share is used up. (A collection may have cleared the state of a job that is garbage.)
    pub(super) fn give_share_up(&mut self) {
        self.shares = self.shares.saturating_sub(1);
    }

    /// What a worker that takes items by itself does next. Unless it is a `guest`, it has a share.
    pub(super) fn next(
        &mut self,
        lane: &Lane,
        is_guest: bool,
        stays: bool,
        workers: usize,
    ) -> (Next, Option<Source>) {
        let ahead = self.ahead();
        let is_open = |source: &Source| !source.is_lazy || ahead < self.window(source);
        let has_items = self.source.as_ref().is_some_and(is_open);
        if !stays && (has_items || self.has_items_in_lanes()) {
            return (Next::Later, None);
        }
        if lane.has_items() {
            return (Next::Lane, None); // of a worker that has left
        }
        if has_items {
            if self.claim(lane, workers) {
                return (Next::Lane, self.used_up());
            }
            if let Some((slice, finished)) = self.next_slice(workers) {
                return (Next::Task(slice), finished);
            }
        }
        if self.steal(lane) {
            return (Next::Lane, None);
        }
        if !is_guest {
            self.give_share_up();
        }
        (Next::Nothing, None)
    }
}

impl Engine {
    /// Runs what is in a lane, until somebody else needs its worker.
    fn run_lane(
        &self,
        job: &Job,
        function: &Bound<'_, PyAny>,
        lane: &Lane,
        is_guest: bool,
    ) -> Ended {
        let items = lane.items.bind(function.py());
        let (begin, mut count, mut last) = (Instant::now(), 0, None);
        loop {
            let stays = is_guest || count == 0 || self.tasks.is_empty();
            let ended = last.as_ref().map(|(index, _)| *index);
            match lane.step(last.take(), stays) {
                Ok(position) => {
                    if let Some(index) = ended {
                        job.note_ended(index);
                    }
                    let outcome = run_item(job, function, items, position);
                    last = Some((number(position), outcome));
                    count += 1;
                }
                Err(last) => {
                    let taken = begin.elapsed();
                    return Ended { last, count, taken };
                }
            }
        }
    }
}

/// Runs a task that is an item.
fn run_item(
    job: &Job,
    function: &Bound<'_, PyAny>,
    items: &Bound<'_, PySequence>,
    position: usize,
) -> Outcome {
    let result = items.get_item(position).and_then(|item| {
        name_culprit(job, &item, position, true)?;
        run(Some(function), item, single(job)).map(|it| Outcome::Value(it.unbind()))
    });
    result.unwrap_or_else(|error| Outcome::error(items.py(), error))
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
    if slice.is_single {
        return run_item(job, function, items, start);
    }
    let result = items.get_slice(start, start + count).and_then(|payload| {
        name_culprit(job, &payload, start, false)?;
        run_all(Some(function), &payload, many(job)).map(|it| Outcome::Values(it.unbind()))
    });
    result.unwrap_or_else(|error| Outcome::error(py, error))
}
