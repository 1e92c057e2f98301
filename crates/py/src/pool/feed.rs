// SPDX-License-Identifier: MIT
//! From items to tasks: how many go into one, and when it is sent.
//!
//! A job keeps a window of tasks on their way, so that workers find work and memory stays flat;
//! whoever takes an outcome in sends the next one. Where the caller left the size of tasks open,
//! they get smaller towards the end, so that no worker is waited for long, but not so small that
//! sending them would take longer than running them.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

use super::common::have_in_common;
use super::engine::Engine;
use super::job::{Job, Outcome, Use};
use super::state::{Slice, Source};
use super::wire::Kind;
use crate::large::Large;
use crate::message::{Outgoing, Pickled, in_spite};
use crate::picklable::{check_picklable, is_known};
use crate::shield::next;
use crate::wait::wait;

/// A task of a size that we choose takes between these, as far as the items so far tell: so long that
/// what it takes to send it (a microsecond) doesn't matter, and so short that a wrong guess doesn't.
const SHORTEST: f64 = 200_000.0;
const LONGEST: f64 = 20_000_000.0;
/// What is left is divided in so many parts for each worker.
const SHARES: usize = 3;

/// How many of the items go into the next task.
pub(super) fn size(source: &Source, item_time: Option<f64>, workers: usize) -> usize {
    let left = source.end - source.next;
    let wanted = match (source.size, item_time) {
        (Some(size), _) => size,
        // The first ones are sent to learn how long they take.
        (None, None) => 1,
        (None, Some(time)) => {
            let items = |duration: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a positive number, and far from the limits"
                )]
                let items = (duration / time).clamp(1.0, 1e9) as usize;
                items
            };
            left.div_ceil(workers.saturating_mul(SHARES))
                .clamp(items(SHORTEST), items(LONGEST).max(items(SHORTEST)))
        }
    };
    wanted.min(left)
}

impl Engine {
    /// Sends tasks of the job's items, as far as its window allows.
    pub(super) fn feed(&self, py: Python<'_>, job: &Arc<Job>) -> PyResult<()> {
        if job.is_shared {
            return self.share(py, job);
        }
        let mut is_first = true;
        loop {
            let mut state = job.lock();
            let (in_flight, ahead) = (state.in_flight(), state.ahead());
            let Some(source) = &state.source else {
                return Ok(());
            };
            let open = if source.is_lazy { ahead } else { in_flight };
            // Half a window at a time: one after the other, workers would sleep in between.
            let is_enough = is_first && source.is_lazy && open > source.window / 2;
            if open >= source.window || is_enough {
                return Ok(());
            }
            is_first = false;
            let items = source.items.clone_ref(py).into_bound(py);
            // Counted under the job's lock, so that whoever stops the job finds it counted.
            self.outstanding.fetch_add(1, Ordering::SeqCst);
            let Some((slice, finished)) = state.next_slice(self.most_workers) else {
                return Ok(());
            };
            let lets_go = state.lets_go();
            drop(state);
            let Slice {
                index,
                start,
                count,
                is_single,
            } = slice;
            let (kind, payload) = if is_single {
                (single(job), items.get_item(start))
            } else {
                (
                    many(job),
                    items.get_slice(start, start + count).map(Bound::into_any),
                )
            };
            // Whether the next task needs what this one does.
            let comes_again = || {
                let end = start + count;
                let neighbours = items
                    .get_item(end - 1)
                    .and_then(|last| Ok((last, items.get_item(end)?)));
                neighbours.is_ok_and(|(last, next)| have_in_common(&last, &next))
            };
            let storage = self.tasks.storage();
            let large =
                |py: Python<'_>, pickled| job.common.encode(py, storage, pickled, comes_again());
            // A Ctrl-C in the middle of it is not the item's fault.
            let mut interrupt = None;
            let payload = payload.and_then(|payload| {
                in_spite(py, &mut interrupt, || {
                    self.encode(job, payload.clone(), start, is_single, large)
                })
            });
            drop(items);
            let sent = self.send(py, job, index, kind, payload);
            drop(finished);
            if lets_go {
                self.holds.fetch_sub(1, Ordering::SeqCst);
                self.stop_if_done(py);
            }
            interrupt.map_or(sent, Err)?;
        }
    }

    /// Sends one task of a job that gets its items bit by bit; `first` is the position of the
    /// first one among all of them.
    fn feed_items<'py>(
        &self,
        job: &Arc<Job>,
        mut items: Vec<Bound<'py, PyAny>>,
        first: usize,
        is_single: bool,
        py: Python<'py>,
    ) -> PyResult<()> {
        let (kind, payload) = match (is_single, items.pop()) {
            (_, None) => return Ok(()),
            (true, Some(item)) => (single(job), item),
            (false, Some(item)) => {
                items.push(item);
                (many(job), PyTuple::new(py, items)?.into_any())
            }
        };
        let storage = self.tasks.storage();
        let large = |py, pickled| Large::of_pickle(py, storage, &pickled);
        let payload = self.encode(job, payload, first, is_single, large);
        let index = {
            let mut state = job.lock();
            if !state.is_open {
                return Ok(());
            }
            self.reserve(&mut state)
        };
        self.send(py, job, index, kind, payload)?;
        job.call_helpers();
        self.hire(py, Some(job), 1)
    }

    fn encode<'py>(
        &self,
        job: &Job,
        payload: Bound<'py, PyAny>,
        first: usize,
        is_single: bool,
        large: impl FnOnce(Python<'py>, Pickled<'py>) -> PyResult<Large>,
    ) -> PyResult<Outgoing<'py>> {
        let storage = self.tasks.storage();
        if storage.family().is_none() {
            // Between threads nothing is pickled, and what can't be is found all the same.
            name_culprit(job, &payload, first, is_single)?;
            return Outgoing::new(storage, payload);
        }
        Outgoing::with_large(storage, payload.clone(), large).map_err(|error| {
            name_culprit(job, &payload, first, is_single)
                .err()
                .unwrap_or(error)
        })
    }
}

/// Takes items from an iterator, in a thread of its own, so that no call has to wait for a slow one;
/// so many ahead of the outcomes that were asked for as the job allows.
#[pyclass(module = "freethreading._native", name = "_Feeder", frozen)]
pub(crate) struct Feeder {
    engine: Arc<Engine>,
    job: Arc<Job>,
}

impl Feeder {
    pub(super) fn new(engine: Arc<Engine>, job: Arc<Job>) -> Self {
        Self { engine, job }
    }

    /// Waits until more may be sent; false: no more is to be.
    fn await_room(&self, py: Python<'_>) -> PyResult<bool> {
        loop {
            let room = &self.job.room;
            let number = room.number();
            match self.job.has_room() {
                None => return Ok(false),
                Some(true) => return Ok(true),
                Some(false) => wait(py, |park| {
                    let _ = room.sleep(number, None, park);
                })?,
            }
        }
    }

    /// Takes and sends items until there are no more, or nobody wants them.
    fn send_all(&self, items: &Bound<'_, PyIterator>, size: usize) -> PyResult<()> {
        let py = items.py();
        let mut first = 0;
        while self.await_room(py)? {
            // Of a chunk in which the iterator raises nothing is sent, as by the stdlib's pools.
            let mut chunk = Vec::new();
            while chunk.len() < size {
                let Some(item) = next(items)? else {
                    break;
                };
                chunk.push(item);
            }
            let count = chunk.len();
            if count == 0 {
                break;
            }
            self.engine
                .feed_items(&self.job, chunk, first, size == 1, py)?;
            first += count;
        }
        Ok(())
    }
}

#[pymethods]
impl Feeder {
    /// Be the thread: `size` items for each task. What the iterator raises is raised in its place.
    fn run(&self, py: Python<'_>, items: &Bound<'_, PyIterator>, size: usize) {
        if let Err(error) = self.send_all(items, size) {
            let index = {
                let mut state = self.job.lock();
                state.is_open.then(|| self.engine.reserve(&mut state))
            };
            if let Some(index) = index {
                self.engine
                    .resolve(py, &self.job, index, |py| Outcome::error(py, error));
            }
        }
        self.engine.end_feeding(py, &self.job);
    }
}

impl Engine {
    /// There are no more items for a job that gets them bit by bit.
    pub(super) fn end_feeding(&self, py: Python<'_>, job: &Arc<Job>) {
        let (is_complete, lets_go) = {
            let mut state = job.lock();
            (state.close(), state.lets_go())
        };
        if lets_go {
            self.holds.fetch_sub(1, Ordering::SeqCst);
        }
        if is_complete {
            self.complete(py, job);
        }
        self.announce(py, job);
        self.stop_if_done(py);
    }
}

/// `ValueError`, naming the item, if one can't be pickled.
pub(super) fn name_culprit(
    job: &Job,
    payload: &Bound<'_, PyAny>,
    first: usize,
    is_single: bool,
) -> PyResult<()> {
    let check = |at: usize, item: &Bound<'_, PyAny>| {
        if is_known(item) {
            return Ok(());
        }
        check_picklable(job.owner(payload.py()), &format!("item {at}"), item, false)
    };
    if is_single {
        return check(first, payload);
    }
    if check_picklable(job.owner(payload.py()), "an item", payload, false).is_ok() {
        return Ok(());
    }
    for (at, item) in payload.try_iter()?.enumerate() {
        check(first + at, &item?)?;
    }
    check_picklable(job.owner(payload.py()), "an item", payload, false)
}

pub(super) fn single(job: &Job) -> Kind {
    match job.each {
        Use::Item => Kind::Item,
        Use::Star => Kind::Star,
    }
}

pub(super) fn many(job: &Job) -> Kind {
    match job.each {
        Use::Item => Kind::Items,
        Use::Star => Kind::Stars,
    }
}
