// SPDX-License-Identifier: MIT
//! How far a job is: what was sent of it, and the outcomes that nobody has taken.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PySequence;

use super::feed::size;
use super::job::{Form, News, Outcome};
use super::lane::Lane;

/// A task.
pub(super) enum Slot {
    Pending,
    Arrived,
    Done(Outcome),
    /// Its outcome is among those that are ready, or taken.
    Gone,
}

/// Items that weren't sent yet.
pub(super) struct Source {
    /// A tuple or a range.
    pub(super) items: Py<PySequence>,
    pub(super) next: usize,
    pub(super) end: usize,
    /// How many go into a task; `None`: as many as seems good.
    pub(super) size: Option<usize>,
    /// How many tasks may be sent and not done, or, if it is lazy, not taken by who asked.
    pub(super) window: usize,
    pub(super) is_lazy: bool,
}

/// The items of a task: from `start` on, among all items of the job.
#[derive(Debug)]
pub(super) struct Slice {
    /// The task's number.
    pub(super) index: u32,
    pub(super) start: usize,
    pub(super) count: usize,
    /// Whether the task is an item, and not a list of some.
    pub(super) is_single: bool,
}

/// What a worker that takes items by itself is to do next.
pub(super) enum Next {
    Task(Slice),
    /// What is in its lane.
    Lane,
    /// There is work, but somebody else needs a worker, too.
    Later,
    Nothing,
}

/// What there is to do once all outcomes have come, when the job's lock isn't held any more.
#[derive(Default)]
pub(super) struct Closing {
    pub(super) watcher: Option<Py<PyAny>>,
    pub(super) was_urgent: bool,
    /// Whether the job holds its pool open no longer.
    pub(super) lets_go: bool,
    /// To be dropped.
    pub(super) _lanes: Vec<Arc<Lane>>,
}

/// What there is to do after a job was stopped, when its lock isn't held any more.
pub(super) struct Stopped {
    /// Tasks that have arrived, and have no outcome yet.
    pub(super) arrived: Vec<u32>,
    /// Whether the first of them stands for all that wasn't sent, which must not look as if it had
    /// never been there. It isn't counted as outstanding yet.
    pub(super) has_rest: bool,
    /// Whether the job holds its pool open no longer.
    pub(super) lets_go: bool,
    /// To be dropped.
    pub(super) _source: Option<Source>,
}

/// How many outcomes are taken at once, where so many tasks may be ahead of those that were.
fn bulk(ahead: usize) -> usize {
    (ahead / 4).clamp(1, 64)
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct State {
    pub(super) source: Option<Source>,
    /// The tasks from `first` on.
    pub(super) slots: VecDeque<Slot>,
    pub(super) first: usize,
    /// Of an unordered job: outcomes that weren't taken yet.
    pub(super) ready: VecDeque<Outcome>,
    /// Tasks that were sent, or failed to be; and those of them that are done.
    pub(super) sent: usize,
    pub(super) done: usize,
    /// Outcomes that were taken.
    pub(super) taken: usize,
    /// Whether more items may come.
    pub(super) is_open: bool,
    /// How many tasks may then be sent whose outcomes nobody has taken.
    pub(super) most_ahead: usize,
    /// So many outcomes are taken at once, at most.
    pub(super) bulk: usize,
    /// Whether it holds its pool open: there are items to be sent, or may be.
    pub(super) is_holding: bool,
    /// Whether it does so until all is done, because workers take its items by themselves.
    pub(super) is_shared: bool,
    /// So many shares of it lie in the queue, or are at work.
    pub(super) shares: usize,
    /// As many as workers were at it at the same time.
    pub(super) lanes: Vec<Arc<Lane>>,
    /// Whether one thread is assembling, or has assembled, the result.
    pub(super) is_assembled: bool,
    pub(super) result: Option<Outcome>,
    /// Called once all is done.
    pub(super) watcher: Option<Py<PyAny>>,
    pub(super) is_urgent: bool,
    pub(super) is_cancelled: bool,
    pub(super) is_abandoned: bool,
    /// Nanoseconds that an item takes, smoothed.
    pub(super) item_time: Option<f64>,
}

impl State {
    /// Of a job that gets its items bit by bit.
    pub(super) fn open(ahead: usize) -> Self {
        let bulk = bulk(ahead);
        Self {
            is_open: true,
            most_ahead: ahead - bulk,
            bulk,
            is_holding: true,
            ..Self::default()
        }
    }

    /// Of a job that has items.
    pub(super) fn of_items(source: Source) -> Self {
        let bulk = bulk(source.window);
        let window = if source.is_lazy {
            source.window - bulk
        } else {
            source.window
        };
        Self {
            source: Some(Source { window, ..source }),
            bulk,
            is_holding: true,
            ..Self::default()
        }
    }

    /// True, once, when it needn't hold its pool open any more.
    pub(super) fn lets_go(&mut self) -> bool {
        let is_sent = !self.is_open && self.source.is_none();
        let may_go = is_sent && (!self.is_shared || self.is_complete());
        may_go && core::mem::take(&mut self.is_holding)
    }

    /// The items of the next task, which is reserved; and the source, if it has no more.
    pub(super) fn next_slice(&mut self, workers: usize) -> Option<(Slice, Option<Source>)> {
        let source = self.source.as_mut()?;
        let (start, is_single) = (source.next, source.size == Some(1));
        let count = size(source, self.item_time, workers);
        source.next += count;
        let slice = Slice {
            index: self.reserve(),
            start,
            count,
            is_single,
        };
        Some((slice, self.used_up()))
    }

    /// The source, once it has no more.
    pub(super) fn used_up(&mut self) -> Option<Source> {
        self.source.take_if(|source| source.next >= source.end)
    }

    /// A task has ended; false if that was known.
    pub(super) fn arrive(&mut self, index: u32) -> bool {
        let position = self.position(index);
        match self.slots.get_mut(position) {
            Some(slot @ Slot::Pending) => {
                *slot = Slot::Arrived;
                true
            }
            _ => false,
        }
    }

    /// Stores the outcome of a task that has arrived.
    pub(super) fn store(&mut self, form: Form, index: u32, outcome: Outcome) -> News {
        let position = self.position(index);
        self.put(form, index, outcome);
        match form {
            Form::List if self.is_complete() => News::AllOutcomes,
            _ if self.is_complete() => News::Complete(self.closing()),
            Form::Ordered if position == 0 => News::Outcome,
            // Who waits has found none.
            Form::Unordered if self.ready.len() == 1 => News::Outcome,
            _ => News::Nothing,
        }
    }

    /// Stores the outcome of a task that has arrived, without more ado.
    pub(super) fn put(&mut self, form: Form, index: u32, outcome: Outcome) {
        self.done += 1;
        let position = self.position(index);
        match form {
            Form::Single => {
                self.result = Some(outcome);
                self.slots.clear();
            }
            Form::Unordered => {
                if let Some(slot) = self.slots.get_mut(position) {
                    *slot = Slot::Gone;
                }
                while matches!(self.slots.front(), Some(Slot::Gone)) {
                    self.slots.pop_front();
                    self.first += 1;
                }
                self.ready.push_back(outcome);
            }
            Form::List | Form::Ordered => {
                if let Some(slot) = self.slots.get_mut(position) {
                    *slot = Slot::Done(outcome);
                }
            }
        }
    }

    /// So many items took so long.
    pub(super) fn note_time(&mut self, taken: Duration, items: usize) {
        if items > 0 && !taken.is_zero() {
            #[expect(clippy::cast_precision_loss, reason = "a rough figure is enough")]
            let time = taken.as_secs_f64() * 1e9 / items as f64;
            let smoothed = |before| f64::midpoint(before, time);
            self.item_time = Some(self.item_time.map_or(time, smoothed));
        }
    }

    /// All is done.
    pub(super) fn closing(&mut self) -> Closing {
        Closing {
            watcher: self.watcher.take(),
            was_urgent: core::mem::take(&mut self.is_urgent),
            lets_go: self.lets_go(),
            _lanes: core::mem::take(&mut self.lanes),
        }
    }

    pub(super) fn withhold(&mut self) -> Stopped {
        let has_rest = self.is_open || self.source.is_some();
        self.is_open = false;
        let source = self.source.take();
        let mut arrived = self.empty_lanes();
        if has_rest {
            let index = self.reserve();
            if let Some(slot) = self.slots.back_mut() {
                *slot = Slot::Arrived;
            }
            arrived.push(index);
        }
        Stopped {
            arrived,
            has_rest,
            lets_go: self.lets_go(),
            _source: source,
        }
    }

    /// Reserves the next task; its number within the job.
    pub(super) fn reserve(&mut self) -> u32 {
        let index = self.index(self.slots.len());
        self.slots.push_back(Slot::Pending);
        self.sent += 1;
        index
    }

    /// The number of the task in a slot; numbers start anew after 2^32, when the earlier ones are
    /// long done.
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
    pub(super) fn index(&self, position: usize) -> u32 {
        (self.first + position) as u32
    }

    /// The slot of a task.
    pub(super) fn position(&self, index: u32) -> usize {
        index.wrapping_sub(self.index(0)) as usize
    }

    /// Tasks that were sent and aren't done.
    pub(super) fn in_flight(&self) -> usize {
        self.sent - self.done
    }

    /// Tasks that were sent and whose outcome nobody has taken.
    pub(super) fn ahead(&self) -> usize {
        self.sent - self.taken
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.is_open && self.source.is_none() && self.sent == self.done
    }

    /// Whether all is done, and the result there if it has one.
    pub(super) fn is_settled(&self, form: Form) -> bool {
        self.is_complete() && (!form.is_whole() || self.result.is_some())
    }

    /// Whether all outcomes were taken, and no more will come.
    pub(super) fn is_over(&self) -> bool {
        self.is_complete() && self.taken == self.done
    }

    /// Moves outcomes whose turn it is to `moved`; they are taken.
    pub(super) fn move_outcomes(&mut self, form: Form, moved: &mut VecDeque<Outcome>) {
        let before = moved.len();
        if form == Form::Unordered {
            let count = self.bulk.min(self.ready.len());
            moved.extend(self.ready.drain(..count));
        } else {
            while moved.len() - before < self.bulk
                && matches!(self.slots.front(), Some(Slot::Done(_)))
            {
                if let Some(Slot::Done(outcome)) = self.slots.pop_front() {
                    moved.push_back(outcome);
                }
                self.first += 1;
            }
        }
        self.taken += moved.len() - before;
    }

    pub(super) fn has_outcome(&self, form: Form) -> bool {
        if form == Form::Unordered {
            !self.ready.is_empty()
        } else {
            matches!(self.slots.front(), Some(Slot::Done(_)))
        }
    }

    /// No more items come; true if that was what was missing.
    pub(super) fn close(&mut self) -> bool {
        let was_open = core::mem::replace(&mut self.is_open, false);
        was_open && self.is_complete()
    }
}
