// SPDX-License-Identifier: MIT
//! How outcomes come in: one thread at a time is at the *desk* and takes them, for whomever they are.
//! Whoever waits for a job goes there if it is free.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use freethreading_core::deadline::{Deadline, earlier};
use freethreading_core::queue::Patience;
use freethreading_core::storage::{Blob, Storage};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

use super::engine::{Engine, locked, put_none};
use super::failures::{opened, unreadable};
use super::job::{Job, Outcome};
use super::pace::{MOMENT, Pace};
use super::wire::{self, Frame, Kind, Number, Packet};
use super::worker;
use crate::errors::out_of_memory;
use crate::message::{CANCELLED, in_spite, visit_reference};
use crate::transfer::{self, Channel};
use crate::wait::wait;

/// How many outcomes are taken in at once.
const BATCH: usize = 64;
/// How long somebody sleeps who isn't at the desk, before trying again to get there.
const NAP: Duration = Duration::from_millis(200);

/// How a thread came to the desk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was free.
    First,
    /// This is a signal handler of the thread that is there, in the middle of its wait.
    Again,
}

/// An outcome that was taken in, and whose it is, if anybody's.
pub(super) struct Arrival {
    job: Option<Arc<Job>>,
    packet: Packet,
    blob: Option<Blob>,
}

impl Engine {
    /// Waits until `is_ready`; false: not before the deadline. Meanwhile takes outcomes in, or has
    /// another thread do so.
    pub(super) fn wait_for(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        deadline: Option<Deadline>,
        is_ready: impl Fn(&Job) -> bool,
    ) -> PyResult<bool> {
        if is_ready(job) {
            return Ok(true);
        }
        self.check_process(job.owner(py))?;
        // A worker runs what no worker has begun of the job meanwhile: all the others may be waiting as
        // well. (Nothing else, for that could need a lock that this thread's task holds.)
        let helps = worker::is_worker_of(self);
        // Before it looks for tasks: who sends one later finds it counted, and raises the signal.
        job.helpers.fetch_add(usize::from(helps), Ordering::SeqCst);
        let result = self.wait_in_turn(py, job, deadline, helps, is_ready);
        job.helpers.fetch_sub(usize::from(helps), Ordering::SeqCst);
        self.pass_on();
        result
    }

    /// Runs what no worker has begun of the job, in this thread, which is a worker.
    #[cold]
    fn run_here(&self, py: Python<'_>, job: &Arc<Job>) -> PyResult<()> {
        if job.is_shared {
            self.work_on(py, job, true);
            return Ok(());
        }
        while let Some((frame, payload)) = self.take_back(py, job.number) {
            let outcome = worker::outcome_of(py, job, frame, payload);
            self.resolve(py, job, frame.number.index, |_| outcome);
            self.feed(py, job)?;
        }
        Ok(())
    }

    /// Takes a task of the job back out of the queue.
    fn take_back<'py>(&self, py: Python<'py>, job: u32) -> Option<(Frame, Bound<'py, PyAny>)> {
        let mut taken = None;
        self.tasks.retag(self.tasks.storage(), |tag, message| {
            let frame = Frame::from_bytes(message).map(|(frame, _)| frame);
            let frame = frame.filter(|it| it.number.job == job && tag & CANCELLED == 0);
            match frame {
                Some(frame) if taken.is_none() => {
                    // Whoever takes the message drops the reference that it has.
                    visit_reference(tag, message, |payload| {
                        taken = Some((frame, payload.clone_ref(py)));
                    });
                    tag | CANCELLED
                }
                _ => tag,
            }
        });
        taken.map(|(frame, payload)| (frame, payload.into_bound(py)))
    }

    fn wait_in_turn(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        deadline: Option<Deadline>,
        helps: bool,
        is_ready: impl Fn(&Job) -> bool,
    ) -> PyResult<bool> {
        let (mut has_looked, mut pace) = (false, Pace::default());
        loop {
            let number = job.changed.number();
            if helps {
                self.run_here(py, job)?;
            }
            if is_ready(job) {
                return Ok(true);
            }
            if has_looked && deadline.is_some_and(Deadline::has_passed) {
                return Ok(false);
            }
            has_looked = true;
            let Some(outcomes) = &self.outcomes else {
                wait(py, |park| {
                    let _ = job.changed.watch(number, deadline, park);
                })?;
                continue;
            };
            if pace.lets_gather(job) {
                let moment = earlier(deadline, Deadline::after(MOMENT));
                wait(py, |park| {
                    let _ = job.changed.sleep(number, moment, park);
                })?;
            }
            let begin = Instant::now();
            let turn = if self.is_at_desk() {
                Turn::Again
            } else if self.wanted.load(Ordering::SeqCst) == 0 && self.try_take_desk() {
                Turn::First
            } else {
                self.nap(py, job, number, deadline)?;
                continue;
            };
            let outer = self.at_desk.swap(job.number, Ordering::SeqCst);
            // From here on, who changes the job nudges us.
            let mut arrivals = Vec::new();
            let taken = if is_ready(job) {
                Ok(())
            } else {
                self.take_in(py, outcomes, Patience::Until(deadline), &mut arrivals)
            };
            match turn {
                Turn::First => self.leave_desk(),
                Turn::Again => self.at_desk.store(outer, Ordering::SeqCst),
            }
            pace.note(begin, arrivals.len(), arrivals.len() < BATCH);
            let delivered = self.deliver(py, outcomes, arrivals);
            if turn == Turn::Again {
                // What was delivered may be what the outer wait is for.
                self.nudge(py);
            }
            taken.and(delivered)?;
        }
    }

    pub(super) fn try_take_desk(&self) -> bool {
        let is_taken = self.desk.try_take();
        if is_taken {
            self.desk_thread.store(this_thread(), Ordering::Relaxed);
        }
        is_taken
    }

    /// Whether this very thread is at the desk: then this is a signal handler, amidst its wait.
    pub(super) fn is_at_desk(&self) -> bool {
        // Relaxed: what equals this thread's number was stored by itself.
        self.desk_thread.load(Ordering::Relaxed) == this_thread()
    }

    pub(super) fn leave_desk(&self) {
        self.at_desk.store(0, Ordering::SeqCst);
        self.desk_thread.store(0, Ordering::Relaxed);
        self.desk.leave();
    }

    /// Has who is at the desk look around.
    pub(super) fn nudge(&self, py: Python<'_>) {
        // Without memory for it, the next outcome does.
        let _ = self.put_nudge(py);
    }

    pub(super) fn put_nudge(&self, py: Python<'_>) -> PyResult<()> {
        match &self.outcomes {
            Some(outcomes) => put_none(py, outcomes, Frame::new(Number::NONE, Kind::Nudge)),
            None => Ok(()),
        }
    }

    /// Tells who waits for the job that it has changed.
    pub(super) fn announce(&self, py: Python<'_>, job: &Job) {
        job.changed.raise();
        // Who waits at the desk sleeps until an outcome comes.
        if self.at_desk.load(Ordering::SeqCst) == job.number {
            self.nudge(py);
        }
    }

    /// Sleeps until the job changes, or it is this thread's turn at the desk.
    pub(super) fn nap(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        number: u32,
        deadline: Option<Deadline>,
    ) -> PyResult<()> {
        locked(&self.sleepers).push(Arc::clone(job));
        let until = earlier(deadline, Deadline::after(NAP));
        let is_free = self.wanted.load(Ordering::SeqCst) == 0 && self.desk.is_free();
        let slept = if is_free {
            Ok(())
        } else {
            wait(py, |park| {
                let _ = job.changed.sleep(number, until, park);
            })
        };
        let mut sleepers = locked(&self.sleepers);
        if let Some(at) = sleepers.iter().position(|other| Arc::ptr_eq(other, job)) {
            sleepers.swap_remove(at);
        }
        drop(sleepers);
        slept
    }

    /// Who waits at the desk no longer lets another one come.
    pub(super) fn pass_on(&self) {
        if !self.wake_sleeper() && self.urgent.load(Ordering::SeqCst) != 0 {
            self.errands.raise();
        }
    }

    /// Wakes one of those who wait without being at the desk; false if there is none.
    pub(super) fn wake_sleeper(&self) -> bool {
        let next = locked(&self.sleepers).last().map(Arc::clone);
        if let Some(job) = &next {
            job.changed.raise();
        }
        next.is_some()
    }

    /// Takes outcomes in: at least one, if there is one in time. Only at the desk: what was taken
    /// is known to its job before the desk is left.
    pub(super) fn take_in(
        &self,
        py: Python<'_>,
        outcomes: &Channel,
        patience: Patience,
        arrivals: &mut Vec<Arrival>,
    ) -> PyResult<()> {
        let mut patience = patience;
        let mut last: Option<Arc<Job>> = None;
        for _ in 0..BATCH {
            let read = |tag, message: &[u8]| wire::read(tag, message, &[]);
            let Some((packet, blob)) = transfer::take(py, outcomes, None, patience, read)? else {
                break;
            };
            patience = Patience::None;
            let Some(packet) = packet else {
                return Err(overwritten());
            };
            let Number { job, index } = packet.frame.number;
            // Often one job's, one after the other.
            if last.as_ref().is_none_or(|last| last.number != job) {
                last = self.job(job);
            }
            let job = last.clone().filter(|job| job.arrive(index));
            arrivals.push(Arrival { job, packet, blob });
        }
        Ok(())
    }

    /// Makes objects of what was taken in, and hands them to their jobs: all of them, whatever is
    /// raised on the way, for they are in nobody else's hands.
    pub(super) fn deliver(
        &self,
        py: Python<'_>,
        outcomes: &Channel,
        arrivals: Vec<Arrival>,
    ) -> PyResult<()> {
        let mut result = Ok(());
        for arrival in arrivals {
            let delivered = self.deliver_one(py, outcomes.storage(), arrival);
            result = result.and(delivered);
        }
        result
    }

    fn deliver_one(&self, py: Python<'_>, storage: Storage, arrival: Arrival) -> PyResult<()> {
        let Arrival { job, packet, blob } = arrival;
        let Packet { frame, payload, .. } = packet;
        let mut interrupt = None;
        let object = payload
            .ok_or_else(|| out_of_memory("a task's outcome"))
            .and_then(|it| it.into_object_in_spite(py, storage, blob, &mut interrupt));
        let Some(job) = job else {
            match (frame.kind, object) {
                (Kind::Left, _) => self.note_left(),
                (Kind::Broken, object) => {
                    let error = object.and_then(|it| opened(py, &it));
                    self.note_broken(
                        &error
                            .unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any()),
                    );
                }
                _ => {}
            }
            return interrupt.map_or(Ok(()), Err);
        };
        let failed = |result: PyResult<Bound<'_, PyAny>>| {
            result.map_or_else(
                |error| Outcome::error(py, error),
                |error| Outcome::Error(error.unbind()),
            )
        };
        let outcome = match (frame.kind, object) {
            (Kind::Value, Ok(value)) => Outcome::Value(value.unbind()),
            (Kind::Values, Ok(values)) => {
                let taken = Duration::from_nanos(frame.extra.into());
                job.note_time(taken, values.len().unwrap_or(0));
                Outcome::Values(values.unbind())
            }
            (_, Ok(failure)) => failed(in_spite(py, &mut interrupt, || opened(py, &failure))),
            (_, Err(error)) => failed(unreadable(py, &error)),
        };
        self.settle(py, &job, frame.number.index, outcome);
        let fed = self.feed(py, &job);
        interrupt.map_or(keep_interrupt(py, fed), Err)
    }

    /// Takes in what is there, without waiting.
    pub(super) fn look(&self, py: Python<'_>) -> PyResult<()> {
        let Some(outcomes) = &self.outcomes else {
            return Ok(());
        };
        if self.is_foreign() || outcomes.is_empty() || !self.try_take_desk() {
            return Ok(());
        }
        let mut arrivals = Vec::new();
        let taken = self.take_in(py, outcomes, Patience::None, &mut arrivals);
        self.leave_desk();
        self.pass_on();
        taken.and(self.deliver(py, outcomes, arrivals))
    }

    /// Waits until nothing is outstanding.
    pub(super) fn wait_idle(&self, py: Python<'_>) -> PyResult<()> {
        while let Some(job) = self.jobs.all().into_iter().next() {
            self.wait_for(py, &job, None, |job| {
                let state = job.lock();
                state.is_settled(job.form)
            })?;
            // It is forgotten by who completes it, right after.
            if self.jobs.may_know(&job) {
                py.detach(std::thread::yield_now);
            }
        }
        Ok(())
    }
}

/// What sending an item raises is the outcome of its task, and not raised in whoever happened to
/// send it, but for a Ctrl-C.
fn keep_interrupt(py: Python<'_>, result: PyResult<()>) -> PyResult<()> {
    match result {
        Err(error) if !error.is_instance_of::<PyKeyboardInterrupt>(py) => Ok(()),
        result => result,
    }
}

/// A number that no other thread has.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| core::ptr::from_ref(place).addr())
}

fn overwritten() -> PyErr {
    PyRuntimeError::new_err("the pool's shared memory was overwritten: a message is malformed")
}
