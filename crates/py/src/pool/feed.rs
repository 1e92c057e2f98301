// SPDX-License-Identifier: MIT
//! From items to tasks: how many go into one, and when it is sent.
//!
//! A job keeps a window of tasks on their way, so that workers find work and memory stays flat;
//! whoever takes an outcome in sends the next one. Where the caller left the size of tasks open,
//! they get smaller towards the end, so that no worker is waited for long, but not so small that
//! sending them would take longer than running them.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::common::have_in_common;
use super::engine::Engine;
use super::job::{Job, Source, Use};
use super::wire::Kind;
use crate::large::Large;
use crate::message::Outgoing;
use crate::picklable::{check_picklable, is_known};

/// A task of a size that we choose takes between these, as far as the items so far tell: so long that
/// what it takes to send it (a microsecond) doesn't matter, and so short that a wrong guess doesn't.
const SHORTEST: f64 = 200_000.0;
const LONGEST: f64 = 20_000_000.0;
/// What is left is divided in so many parts for each worker.
const SHARES: usize = 3;

/// How many of the items go into the next task.
fn size(source: &Source, item_time: Option<f64>, workers: usize) -> usize {
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
            left.div_ceil(workers * SHARES)
                .clamp(items(SHORTEST), items(LONGEST).max(items(SHORTEST)))
        }
    };
    wanted.min(left)
}

impl Engine {
    /// Sends tasks of the job's items, as far as its window allows.
    pub(super) fn feed(&self, py: Python<'_>, job: &Arc<Job>) -> PyResult<()> {
        loop {
            let mut state = job.lock();
            let item_time = state.item_time;
            let (in_flight, ahead) = (state.in_flight(), state.ahead());
            let Some(source) = &mut state.source else {
                return Ok(());
            };
            let open = if source.is_lazy { ahead } else { in_flight };
            if open >= source.window {
                return Ok(());
            }
            let count = size(source, item_time, self.most_workers);
            let (start, is_single) = (source.next, source.size == Some(1));
            let items = source.items.clone_ref(py).into_bound(py);
            source.next += count;
            let finished = if source.next >= source.end {
                state.source.take()
            } else {
                None
            };
            let lets_go = state.lets_go();
            let index = self.reserve(&mut state);
            drop(state);
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
            let payload = payload.and_then(|payload| {
                self.encode(
                    job,
                    payload,
                    start,
                    is_single,
                    |py, tag, pickle, buffers| {
                        job.common.encode(
                            py,
                            self.tasks.storage(),
                            tag,
                            pickle,
                            buffers,
                            comes_again(),
                        )
                    },
                )
            });
            drop(items);
            let sent = self.send(py, job, index, kind, payload);
            drop(finished);
            if lets_go {
                self.holds.fetch_sub(1, Ordering::SeqCst);
                self.stop_if_done(py);
            }
            sent?;
        }
    }

    /// Sends one task of a job that gets its items bit by bit; `first` is the position of the
    /// first one among all of them.
    pub(super) fn feed_items(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        items: &Bound<'_, PyTuple>,
        first: usize,
        is_single: bool,
    ) -> PyResult<()> {
        let (kind, payload) = if is_single {
            (single(job), items.get_item(0)?)
        } else {
            (many(job), items.clone().into_any())
        };
        let storage = self.tasks.storage();
        let payload = self.encode(
            job,
            payload,
            first,
            is_single,
            |py, tag, pickle, buffers| Large::of_pickle(py, storage, tag, pickle, &buffers),
        );
        let index = {
            let mut state = job.lock();
            if !state.is_open {
                return Ok(());
            }
            self.reserve(&mut state)
        };
        self.send(py, job, index, kind, payload)?;
        self.hire(py, Some(job))
    }

    fn encode<'py>(
        &self,
        job: &Job,
        payload: Bound<'py, PyAny>,
        first: usize,
        is_single: bool,
        large: impl FnOnce(Python<'py>, u32, &[u8], Vec<PyUntypedBuffer>) -> PyResult<Large>,
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

/// `ValueError`, naming the item, if one can't be pickled.
fn name_culprit(
    job: &Job,
    payload: &Bound<'_, PyAny>,
    first: usize,
    is_single: bool,
) -> PyResult<()> {
    let check = |at: usize, item: &Bound<'_, PyAny>| {
        if is_known(item) {
            return Ok(());
        }
        check_picklable(&job.owner, &format!("item {at}"), item, false)
    };
    if is_single {
        return check(first, payload);
    }
    if check_picklable(&job.owner, "an item", payload, false).is_ok() {
        return Ok(());
    }
    for (at, item) in payload.try_iter()?.enumerate() {
        check(first + at, &item?)?;
    }
    check_picklable(&job.owner, "an item", payload, false)
}

fn single(job: &Job) -> Kind {
    match job.each {
        Use::Item => Kind::Item,
        Use::Star => Kind::Star,
    }
}

fn many(job: &Job) -> Kind {
    match job.each {
        Use::Item => Kind::Items,
        Use::Star => Kind::Stars,
    }
}
