// SPDX-License-Identifier: MIT
//! What the collector does, a thread that runs when nobody else may: callbacks, outcomes that nobody
//! waits for, and the tasks of workers that died.

use core::sync::atomic::Ordering;
use core::time::Duration;

use freethreading_core::deadline::Deadline;
use freethreading_core::pool::{Seat, Signal};
use freethreading_core::queue::Patience;
use freethreading_core::storage::Object;
use pyo3::prelude::*;

use super::engine::{Engine, locked};
use super::failures::{broken_by, name};
use super::job::Outcome;
use super::receiving::Turn;
use super::wire::Number;
use crate::shield::call_none;
use crate::wait::wait;

impl Engine {
    /// What the collector does for at most `seconds`: callbacks, outcomes that nobody waits for.
    /// False when there is nothing left to be done, ever.
    pub(super) fn collect(&self, py: Python<'_>, pause: Duration) -> PyResult<bool> {
        let end = Deadline::after(pause);
        loop {
            let number = self.errands.number();
            // Apart: in the head of the loop the lock would be held until the loop ends.
            let due = core::mem::take(&mut locked(&self.due).watchers);
            for watcher in due {
                if let Err(error) = call_none(watcher.bind(py)) {
                    error.write_unraisable(py, Some(watcher.bind(py)));
                }
            }
            if self.is_over() {
                return Ok(false);
            }
            if self.attention.swap(0, Ordering::SeqCst) != 0 || end.is_none_or(Deadline::has_passed)
            {
                return Ok(true);
            }
            let at_desk = self.outcomes.as_ref().filter(|_| self.try_take_desk());
            if let Some(outcomes) = at_desk {
                let patience = if self.urgent.load(Ordering::SeqCst) != 0 {
                    Patience::Until(end)
                } else {
                    Patience::None
                };
                let mut arrivals = Vec::new();
                let taken = self.take_in(py, outcomes, patience, &mut arrivals);
                self.leave_desk();
                // Before callbacks that take long.
                self.wake_sleeper();
                let has_some = !arrivals.is_empty();
                // (Ctrl-C is the main thread's.)
                let _ = self.deliver(py, outcomes, arrivals);
                taken?;
                if has_some || matches!(patience, Patience::Until(_)) {
                    continue;
                }
            }
            wait(py, |park| {
                let _ = self.errands.sleep(number, end, park);
            })?;
        }
    }

    /// Whether there is nothing left to be done, ever; from then on no callback is taken.
    fn is_over(&self) -> bool {
        // Workers of a pool that was terminated are the crew's, once all jobs have ended.
        let is_abandoned = self.is_abandoned.load(Ordering::SeqCst);
        self.is_done()
            && (is_abandoned || self.hired.load(Ordering::SeqCst) == 0)
            && self.jobs.is_empty()
            && locked(&self.due).close()
    }

    /// Whether the collector should come by soon.
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding.load(Ordering::SeqCst) != 0 || self.is_closed.load(Ordering::SeqCst) != 0
    }

    /// A worker has ended.
    pub(super) fn note_left(&self) {
        self.attention.store(1, Ordering::SeqCst);
        self.errands.raise();
    }

    /// The initializer of a worker has raised `error`.
    pub(super) fn note_broken(&self, error: &Bound<'_, PyAny>) {
        let py = error.py();
        let error =
            broken_by(error).unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
        self.break_with(py, &error);
    }

    pub(super) fn nudge_collector(&self) {
        self.errands.raise();
    }

    /// Has whoever waits at the desk leave it, and waits for that.
    pub(super) fn take_desk(&self, py: Python<'_>) -> PyResult<Turn> {
        if self.is_at_desk() {
            return Ok(Turn::Again);
        }
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            if self.try_take_desk() {
                break Ok(Turn::First);
            }
            // At the desk somebody may have taken our nudge for an earlier one's.
            if let Err(error) = self.put_nudge(py) {
                break Err(error);
            }
            let (never, soon) = (Signal::default(), Deadline::after(Duration::from_millis(1)));
            if let Err(error) = wait(py, |park| {
                let _ = never.sleep(never.number(), soon, park);
            }) {
                break Err(error);
            }
        };
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// A worker has died. What it had in hand, and hadn't answered, is lost with it: `describe` is
    /// given the name of its function, and returns the exception.
    pub(super) fn bury(
        &self,
        py: Python<'_>,
        seat: &Object<Seat>,
        describe: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let Some(outcomes) = &self.outcomes else {
            return Ok(false);
        };
        // It may have died with the order to end in its hands.
        self.is_stopping.store(false, Ordering::SeqCst);
        let turn = self.take_desk(py)?;
        let mut arrivals = Vec::new();
        let taken = loop {
            let before = arrivals.len();
            let taken = self.take_in(py, outcomes, Patience::None, &mut arrivals);
            if taken.is_err() || arrivals.len() == before {
                break taken;
            }
        };
        let storage = self.tasks.storage();
        py.detach(|| self.tasks.settle_claims(storage));
        let lost = seat.task().map(Number::from_bits).and_then(|number| {
            let job = self.job(number.job)?;
            job.arrive(number.index).then_some((job, number.index))
        });
        seat.clear();
        if turn == Turn::First {
            self.leave_desk();
        }
        self.pass_on();
        let mut result = taken.and(self.deliver(py, outcomes, arrivals));
        let is_lost = lost.is_some();
        if let Some((job, index)) = lost {
            let error = name(job.function.bind(py))
                .and_then(|name| describe.call1((name,)))
                .unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
            self.settle(py, &job, index, Outcome::Error(error.unbind()));
            result = result.and(self.feed(py, &job));
        }
        if turn == Turn::Again {
            self.nudge(py);
        }
        result.map(|()| is_lost)
    }
}
