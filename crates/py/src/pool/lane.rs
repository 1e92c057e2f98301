// SPDX-License-Identifier: MIT
//! Lanes: where a worker that takes items by itself keeps some that it will run next, and outcomes of
//! those that it has run, so that it need not meet the others at the job's lock for each of them.
//!
//! ```text
//!   source --claim--> a lane's items --step--> running --step--> the lane's outcomes --+--> slots
//!                       ^        |                 `------ the last of its items ------'
//!                       `-steal--'  another worker has nothing to do
//! ```
//!
//! What lies in a lane is kept back from nobody: others take its items when they have none, and who
//! iterates looks for outcomes there. So a task may wait for the next one, whoever has claimed that.
//!
//! Invariants: an item in a lane is a pending task of its job. Several items are claimed only while
//! each worker that could run them has a share; a share is given up only when no lane has items.
//! Lock order: the job's state, then a lane.

use core::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PySequence;
use pyo3::{PyTraverseError, PyVisit};

use super::job::{Form, Job, Outcome};
use super::state::{Source, State};

/// What is claimed at once takes so many nanoseconds, as far as the items so far tell. A claim costs
/// about a hundred; and outcomes that are to come in order wait for so long behind each other.
const CLAIM: f64 = 20_000.0;
/// As many items at most.
const MOST: usize = 64;

/// Nanoseconds of a short task.
const SHORT: f64 = 5_000.0;

/// Nobody waits for an outcome; somebody waits for any. Else: the number of a task.
const NOBODY: u64 = u64::MAX;
const ANY: u64 = u64::MAX - 1;

/// What one worker at a time uses.
pub(super) struct Lane {
    pub(super) items: Py<PySequence>,
    content: Mutex<Content>,
}

/// Each item is a task, and its position is the task's number.
#[derive(Default)]
struct Content {
    next: usize,
    end: usize,
    ended: Vec<(u32, Outcome)>,
}

/// The number of the task that an item is.
#[expect(clippy::cast_possible_truncation, reason = "modulo 2^32, as a job's")]
pub(super) fn number(position: usize) -> u32 {
    position as u32
}

impl Lane {
    fn new(items: Py<PySequence>) -> Self {
        Self {
            items,
            content: Mutex::default(),
        }
    }

    /// No Python code may run, and no reference be dropped, while it is locked.
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its worker has `ended` a task, if any, and gets the next; if there is none, or it doesn't stay,
    /// the outcome comes back.
    pub(super) fn step(
        &self,
        ended: Option<(u32, Outcome)>,
        stays: bool,
    ) -> Result<usize, Option<(u32, Outcome)>> {
        let mut content = self.lock();
        let position = content.next;
        if !stays || position == content.end {
            return Err(ended);
        }
        content.ended.extend(ended);
        content.next += 1;
        Ok(position)
    }

    fn fill(&self, start: usize, count: usize) {
        let mut content = self.lock();
        (content.next, content.end) = (start, start + count);
    }

    /// Takes the first half of its items: those whose outcomes are wanted first.
    fn share_out(&self) -> Option<(usize, usize)> {
        let mut content = self.lock();
        let (start, count) = (content.next, (content.end - content.next).div_ceil(2));
        content.next += count;
        (count > 0).then_some((start, count))
    }

    pub(super) fn has_items(&self) -> bool {
        let content = self.lock();
        content.next != content.end
    }

    /// Takes all its items.
    fn empty(&self) -> core::ops::Range<usize> {
        let mut content = self.lock();
        let items = content.next..content.end;
        content.next = content.end;
        items
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.items)?;
        let Ok(content) = self.content.try_lock() else {
            return Ok(());
        };
        for (_, outcome) in &content.ended {
            visit.call(outcome.object())?;
        }
        Ok(())
    }
}

impl State {
    /// A lane that no worker uses, for one that comes; `None`: there are no items any more.
    pub(super) fn enter(&mut self, py: Python<'_>) -> Option<Arc<Lane>> {
        // Only a worker that has entered holds another reference to one.
        let free = self.lanes.iter().find(|lane| Arc::strong_count(lane) == 1);
        if let Some(lane) = free {
            return Some(Arc::clone(lane));
        }
        let items = match (&self.source, self.lanes.first()) {
            (Some(source), _) => &source.items,
            (None, Some(lane)) => &lane.items,
            (None, None) => return None,
        };
        let lane = Arc::new(Lane::new(items.clone_ref(py)));
        self.lanes.push(Arc::clone(&lane));
        Some(lane)
    }

    /// How many tasks of a lazy source may be ahead of those whose outcome was taken. More where they
    /// are so short that workers would stop and be woken again all the time.
    pub(super) fn window(&self, source: &Source) -> usize {
        let are_short = self.item_time.is_some_and(|time| time < SHORT);
        source.window.saturating_mul(if are_short { 4 } else { 1 })
    }

    /// How many items are claimed at once.
    fn claim_size(&self, source: &Source, workers: usize) -> usize {
        let left = source.end - source.next;
        let comes_everybody = self.shares >= workers.min(left + self.in_flight());
        let (Some(1), Some(time), true) = (source.size, self.item_time, comes_everybody) else {
            return 1;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, and far from the limits"
        )]
        let wanted = (CLAIM / time).clamp(1.0, 1e6) as usize;
        let room = if source.is_lazy {
            self.window(source).saturating_sub(self.ahead())
        } else {
            left
        };
        let fair = room.min(left).div_ceil(workers.max(1));
        wanted.min(fair).clamp(1, MOST)
    }

    /// Claims several items, if that is of use.
    pub(super) fn claim(&mut self, lane: &Lane, workers: usize) -> bool {
        let size = |source| self.claim_size(source, workers);
        let count = self.source.as_ref().map_or(1, size);
        let Some(source) = self.source.as_mut().filter(|_| count > 1) else {
            return false;
        };
        lane.fill(source.next, count);
        source.next += count;
        for _ in 0..count {
            self.reserve();
        }
        true
    }

    /// Takes items out of another lane.
    pub(super) fn steal(&self, lane: &Lane) -> bool {
        let items = self.lanes.iter().find_map(|lane| lane.share_out());
        if let Some((start, count)) = items {
            lane.fill(start, count);
        }
        items.is_some()
    }

    pub(super) fn has_items_in_lanes(&self) -> bool {
        self.lanes.iter().any(|lane| lane.has_items())
    }

    /// The tasks that nobody has begun of those that were claimed; they have arrived.
    pub(super) fn empty_lanes(&mut self) -> Vec<u32> {
        let items = self.lanes.iter().flat_map(|lane| lane.empty());
        let numbers: Vec<u32> = items.map(number).collect();
        numbers.into_iter().filter(|it| self.arrive(*it)).collect()
    }

    /// Stores what lies in one lane; to be dropped: what came too late.
    pub(super) fn sweep(&mut self, form: Form, lane: &Lane) -> Vec<Outcome> {
        let mut unused = Vec::new();
        // The room for them stays the lane's.
        for (index, outcome) in lane.lock().ended.drain(..) {
            if self.arrive(index) {
                self.put(form, index, outcome);
            } else {
                unused.push(outcome);
            }
        }
        unused
    }

    /// Stores what lies in all lanes; to be dropped: what came too late.
    pub(super) fn sweep_all(&mut self, form: Form) -> Vec<Outcome> {
        let mut unused = Vec::new();
        for at in 0..self.lanes.len() {
            let lane = Arc::clone(&self.lanes[at]);
            unused.append(&mut self.sweep(form, &lane));
        }
        unused
    }

    /// Whether a lane has an outcome whose turn it is.
    fn has_outcome_in_lanes(&self, form: Form) -> bool {
        let first = self.index(0);
        self.lanes.iter().any(|lane| {
            let content = lane.lock();
            match form {
                Form::Unordered => !content.ended.is_empty(),
                _ => content.ended.iter().any(|(index, _)| *index == first),
            }
        })
    }
}

/// Which outcome somebody waits for who iterates.
pub(super) struct Wanted(core::sync::atomic::AtomicU64);

impl Default for Wanted {
    fn default() -> Self {
        Self(core::sync::atomic::AtomicU64::new(NOBODY))
    }
}

impl Job {
    /// Whether there is an outcome to take in a lane. If not, who puts it there raises `changed`.
    pub(super) fn look_into_lanes(&self, state: &State) -> bool {
        let wanted = match self.form {
            Form::Unordered => ANY,
            _ => state.index(0).into(),
        };
        // With the lanes' locks, and the fence below: either the worker finds this, or we its outcome.
        self.wanted.0.store(wanted, Ordering::SeqCst);
        core::sync::atomic::fence(Ordering::SeqCst);
        state.has_outcome_in_lanes(self.form)
    }

    /// A worker has put an outcome in its lane.
    pub(super) fn note_ended(&self, index: u32) {
        if self.form.is_whole() {
            return; // it is complete when the last one is stored
        }
        core::sync::atomic::fence(Ordering::SeqCst);
        // Relaxed: the fence orders it.
        let wanted = self.wanted.0.load(Ordering::Relaxed);
        if (wanted == ANY || wanted == u64::from(index))
            && self.wanted.0.swap(NOBODY, Ordering::SeqCst) != NOBODY
        {
            self.changed.raise();
        }
    }
}
