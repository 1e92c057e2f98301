// SPDX-License-Identifier: MIT
//! What the callers of a pool share: its jobs, the desk where outcomes are taken in, and what the
//! collector is to do.

use core::hash::{BuildHasherDefault, Hasher};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use freethreading_core::deadline::{Deadline, earlier};
use freethreading_core::pool::{Desk, Seat, Signal};
use freethreading_core::queue::{Patience, Queue};
use freethreading_core::storage::{Blob, Object};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::functions::Functions;
use super::job::{Job, News, Outcome, State, Stopped};
use super::wire::{self, Frame, Kind, Number, Packet};
use super::worker;
use crate::errors::from_out_of_memory;
use crate::fork;
use crate::imported::Imported;
use crate::message::{self, CANCELLED, Outgoing, in_spite, visit_reference};
use crate::runtime;
use crate::transfer::{self, Channel};
use crate::wait::wait;

/// How many outcomes are taken in at once.
const BATCH: usize = 64;
/// How long somebody sleeps who isn't at the desk, before trying again to get there.
const NAP: Duration = Duration::from_millis(200);

/// The callers' half of a pool.
pub(crate) struct Engine {
    pub(super) tasks: Channel,
    pub(super) outcomes: Channel,
    pub(super) functions: Functions,
    /// How many workers there may be.
    pub(super) most_workers: usize,
    /// Starts a worker.
    hire: Mutex<Option<Py<PyAny>>>,
    jobs: Mutex<Jobs>,
    desk: Desk,
    /// The job that who is at the desk waits for; 0: nobody's in particular.
    at_desk: AtomicU32,
    /// The thread that is at the desk: a signal handler may come here in the middle of its wait.
    desk_thread: AtomicUsize,
    /// Those who wait for their jobs without being at the desk.
    sleepers: Mutex<Vec<Arc<Job>>>,
    /// Callbacks that are due.
    due: Mutex<Vec<Py<PyAny>>>,
    /// Raised when the collector has something to do.
    errands: Signal,
    /// Tasks that were sent and aren't done.
    pub(super) outstanding: AtomicUsize,
    /// Jobs that must go on though nobody may wait for them.
    urgent: AtomicUsize,
    /// Threads that want the desk for more than an outcome.
    wanted: AtomicUsize,
    /// Calls to hold a closed pool open: each may still send tasks.
    pub(super) holds: AtomicUsize,
    pub(super) hired: AtomicUsize,
    pub(super) is_closed: AtomicU32,
    /// Whether the pool was terminated, and all its jobs were ended.
    is_abandoned: AtomicBool,
    /// Whether workers were told to end.
    is_stopping: AtomicBool,
    /// Whether a worker's message asks that workers be looked after.
    attention: AtomicU32,
    /// Whether nothing is taken any more, and why.
    has_ended: AtomicBool,
    end: Mutex<Option<Py<PyAny>>>,
    broken: Mutex<Option<Py<PyAny>>>,
    /// The process whose pool it is.
    generation: u32,
}

#[derive(Default)]
struct Jobs {
    last: u32,
    by_number: HashMap<u32, Arc<Job>, BuildHasherDefault<Scatter>>,
}

/// Numbers are given one after the other, by us: any of their bits will do.
#[derive(Default)]
struct Scatter(u64);

impl Hasher for Scatter {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes its place from the lowest bits, and marks from the highest.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

/// How a thread came to the desk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It was free.
    First,
    /// This is a signal handler of the thread that is there, in the middle of its wait.
    Again,
}

/// An outcome that was taken in, and whose it is, if anybody's.
struct Arrival {
    job: Option<Arc<Job>>,
    packet: Packet,
    blob: Option<Blob>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(super) fn new(py: Python<'_>, most_workers: usize, hire: Py<PyAny>) -> PyResult<Self> {
        let storage = runtime::storage()?;
        message::prepare(py, storage)?;
        let queue = || {
            let queue = Object::new(storage).map_err(from_out_of_memory("a pool"))?;
            PyResult::Ok(Channel::new(queue))
        };
        Ok(Self {
            tasks: queue()?,
            outcomes: queue()?,
            functions: Functions::default(),
            most_workers,
            hire: Mutex::new(Some(hire)),
            jobs: Mutex::default(),
            desk: Desk::default(),
            at_desk: AtomicU32::new(0),
            desk_thread: AtomicUsize::new(0),
            sleepers: Mutex::default(),
            due: Mutex::default(),
            errands: Signal::default(),
            outstanding: AtomicUsize::new(0),
            urgent: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            hired: AtomicUsize::new(0),
            is_closed: AtomicU32::new(0),
            is_abandoned: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            attention: AtomicU32::new(0),
            has_ended: AtomicBool::new(false),
            end: Mutex::default(),
            broken: Mutex::default(),
            generation: fork::generation(),
        })
    }

    /// Whether this is a forked child of the process whose pool it is. Its locks may be anybody's,
    /// and what comes back is the parent's.
    pub(super) fn is_foreign(&self) -> bool {
        fork::generation() != self.generation
    }

    /// Raises in a forked child; `owner` is the call.
    pub(super) fn check_process(&self, owner: &str) -> PyResult<()> {
        if self.is_foreign() {
            return Err(PyRuntimeError::new_err(format!(
                "{owner}: this pool belongs to the process that made it, not to a forked child; \
                 make a new pool here"
            )));
        }
        Ok(())
    }

    /// Raises unless calls are taken; `owner` is the call, which holds the pool open meanwhile, so
    /// that what it sends is found by a worker.
    pub(super) fn check(&self, py: Python<'_>, owner: &str) -> PyResult<()> {
        self.check_process(owner)?;
        if self.is_closed.load(Ordering::SeqCst) != 0 {
            let message = format!(
                "{owner}: no more calls are taken: the pool, or the program, is at its end"
            );
            return Err(if owner.starts_with("WorkerPoolExecutor") {
                PyRuntimeError::new_err(message)
            } else {
                PyValueError::new_err(message)
            });
        }
        let broken = locked(&self.broken).as_ref().map(|it| it.clone_ref(py));
        broken.map_or(Ok(()), |error| Err(again(py, &error)))
    }

    /// Makes a job known.
    pub(super) fn admit(&self, make: impl FnOnce(u32) -> Job) -> Arc<Job> {
        let mut jobs = locked(&self.jobs);
        loop {
            jobs.last = jobs.last.wrapping_add(1);
            if jobs.last != 0 && !jobs.by_number.contains_key(&jobs.last) {
                break;
            }
        }
        let job = Arc::new(make(jobs.last));
        jobs.by_number.insert(job.number, Arc::clone(&job));
        job
    }

    pub(super) fn job(&self, number: u32) -> Option<Arc<Job>> {
        locked(&self.jobs).by_number.get(&number).map(Arc::clone)
    }

    fn all_jobs(&self) -> Vec<Arc<Job>> {
        locked(&self.jobs)
            .by_number
            .values()
            .map(Arc::clone)
            .collect()
    }

    // --- sending ----------------------------------------------------------------------------

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

    /// Whether nothing is sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    pub(super) fn why_ended(&self, py: Python<'_>) -> PyErr {
        let end = locked(&self.broken)
            .as_ref()
            .or(locked(&self.end).as_ref())
            .map(|it| it.clone_ref(py));
        end.map_or_else(
            || PyRuntimeError::new_err("the pool has ended"),
            |error| again(py, &error),
        )
    }

    /// Gives a task its outcome, unless it has one.
    pub(super) fn resolve(
        &self,
        py: Python<'_>,
        job: &Arc<Job>,
        index: u32,
        outcome: impl FnOnce(Python<'_>) -> Outcome,
    ) {
        if job.arrive(index) {
            let outcome = outcome(py);
            self.settle(py, job, index, outcome);
        }
    }

    /// Stores the outcome of a task that has arrived, and tells who waits for it.
    fn settle(&self, py: Python<'_>, job: &Arc<Job>, index: u32, outcome: Outcome) {
        match job.store(index, outcome) {
            News::Complete => self.complete(py, job),
            News::Outcome => self.announce(py, job),
            News::Nothing => {}
        }
        // Last: from then on the collector may find that all is over.
        if self.outstanding.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.stop_if_done(py);
        }
    }

    /// A job has all its outcomes.
    pub(super) fn complete(&self, py: Python<'_>, job: &Arc<Job>) {
        job.common.clear();
        if let Some(outcomes) = job.begin_assembly() {
            job.finish(super::handle::assemble(py, job.form, outcomes));
        }
        let known = locked(&self.jobs).by_number.remove(&job.number);
        let (watcher, was_urgent) = {
            let mut state = job.lock();
            (state.watcher.take(), core::mem::take(&mut state.is_urgent))
        };
        if was_urgent {
            self.urgent.fetch_sub(1, Ordering::SeqCst);
        }
        if let Some(watcher) = watcher {
            locked(&self.due).push(watcher);
            self.errands.raise();
        }
        self.announce(py, job);
        drop(known);
    }

    /// Lets a job go on though nobody may wait for it: the collector sees to that.
    pub(super) fn urge(&self, job: &Job) {
        let is_new = {
            let mut state = job.lock();
            let is_new = !state.is_urgent && !state.is_complete();
            state.is_urgent |= is_new;
            if is_new {
                // Counted under the lock, so that who completes the job finds it counted.
                self.urgent.fetch_add(1, Ordering::SeqCst);
            }
            is_new
        };
        if is_new {
            self.errands.raise();
        }
    }

    /// Has `watcher` called by the collector when the job is complete; false if it is.
    pub(super) fn watch(&self, job: &Job, watcher: Py<PyAny>) -> bool {
        let refused = {
            let mut state = job.lock();
            if state.is_settled(job.form) {
                Some(watcher)
            } else {
                state.watcher.replace(watcher)
            }
        };
        let is_watched = refused.is_none();
        drop(refused);
        if is_watched {
            self.urge(job);
        }
        is_watched
    }

    /// Starts workers as long as there are more tasks than workers. If there is none at all, `job`
    /// ends with the reason, which is raised.
    pub(super) fn hire(&self, py: Python<'_>, job: Option<&Arc<Job>>) -> PyResult<()> {
        loop {
            if self.has_ended() {
                return Ok(());
            }
            let hired = self.hired.load(Ordering::SeqCst);
            let wanted = self
                .most_workers
                .min(self.outstanding.load(Ordering::SeqCst));
            if hired >= wanted {
                return Ok(());
            }
            let grown =
                self.hired
                    .compare_exchange(hired, hired + 1, Ordering::SeqCst, Ordering::SeqCst);
            if grown.is_err() {
                continue;
            }
            let hire = locked(&self.hire).as_ref().map(|hire| hire.clone_ref(py));
            let Some(Err(error)) = hire.map(|hire| hire.call0(py)) else {
                continue;
            };
            let is_alone = self.hired.fetch_sub(1, Ordering::SeqCst) == 1;
            let is_plain = error.is_instance_of::<pyo3::exceptions::PyException>(py);
            if is_plain && !is_alone {
                return Ok(()); // the others do the work
            }
            if let Some(job) = job {
                self.withdraw(Some(job.number));
                self.stop(py, job, |py| Outcome::error(py, error.clone_ref(py)));
            }
            return Err(error);
        }
    }

    /// Tells workers to end, if all that was to be sent is sent and done.
    pub(super) fn stop_if_done(&self, py: Python<'_>) {
        let is_done = self.is_closed.load(Ordering::SeqCst) != 0
            && self.holds.load(Ordering::SeqCst) == 0
            && self.outstanding.load(Ordering::SeqCst) == 0;
        if !is_done {
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

    // --- receiving --------------------------------------------------------------------------

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
        self.check_process(&job.owner)?;
        if worker::is_worker_of(self) {
            self.run_here(py, job)?;
        }
        let result = self.wait_in_turn(py, job, deadline, is_ready);
        self.pass_on();
        result
    }

    /// Runs what no worker has begun of the job, in this thread, which is a worker that waits for
    /// it: all the others may be waiting as well. (Nothing else is run, for that could need a lock
    /// that this thread's task holds.)
    #[cold]
    fn run_here(&self, py: Python<'_>, job: &Arc<Job>) -> PyResult<()> {
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
        is_ready: impl Fn(&Job) -> bool,
    ) -> PyResult<bool> {
        let mut has_looked = false;
        loop {
            let number = job.changed.number();
            if is_ready(job) {
                return Ok(true);
            }
            if has_looked && deadline.is_some_and(Deadline::has_passed) {
                return Ok(false);
            }
            has_looked = true;
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
                self.take_in(py, Patience::Until(deadline), &mut arrivals)
            };
            match turn {
                Turn::First => self.leave_desk(),
                Turn::Again => self.at_desk.store(outer, Ordering::SeqCst),
            }
            let delivered = self.deliver(py, arrivals);
            if turn == Turn::Again {
                // What was delivered may be what the outer wait is for.
                self.nudge(py);
            }
            taken.and(delivered)?;
        }
    }

    fn try_take_desk(&self) -> bool {
        let is_taken = self.desk.try_take();
        if is_taken {
            self.desk_thread.store(this_thread(), Ordering::Relaxed);
        }
        is_taken
    }

    /// Whether this very thread is at the desk: then this is a signal handler, amidst its wait.
    fn is_at_desk(&self) -> bool {
        // Relaxed: what equals this thread's number was stored by itself.
        self.desk_thread.load(Ordering::Relaxed) == this_thread()
    }

    fn leave_desk(&self) {
        self.at_desk.store(0, Ordering::SeqCst);
        self.desk_thread.store(0, Ordering::Relaxed);
        self.desk.leave();
    }

    /// Has who is at the desk look around.
    fn nudge(&self, py: Python<'_>) {
        // Without memory for it, the next outcome does.
        let _ = put_none(py, &self.outcomes, Frame::new(Number::NONE, Kind::Nudge));
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
    fn nap(
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
    fn pass_on(&self) {
        let next = locked(&self.sleepers).last().map(Arc::clone);
        match next {
            Some(job) => job.changed.raise(),
            None if self.urgent.load(Ordering::SeqCst) != 0 => self.errands.raise(),
            None => {}
        }
    }

    /// Takes outcomes in: at least one, if there is one in time. Only at the desk: what was taken
    /// is known to its job before the desk is left.
    fn take_in(
        &self,
        py: Python<'_>,
        patience: Patience,
        arrivals: &mut Vec<Arrival>,
    ) -> PyResult<()> {
        let mut patience = patience;
        let mut last: Option<Arc<Job>> = None;
        for _ in 0..BATCH {
            let read = |tag, message: &[u8]| wire::read(tag, message, &[]);
            let Some((packet, blob)) = transfer::take(py, &self.outcomes, None, patience, read)?
            else {
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
    fn deliver(&self, py: Python<'_>, arrivals: Vec<Arrival>) -> PyResult<()> {
        let mut result = Ok(());
        for arrival in arrivals {
            let delivered = self.deliver_one(py, arrival);
            result = result.and(delivered);
        }
        result
    }

    fn deliver_one(&self, py: Python<'_>, arrival: Arrival) -> PyResult<()> {
        let Arrival { job, packet, blob } = arrival;
        let Packet { frame, payload, .. } = packet;
        let storage = self.outcomes.storage();
        let is_thread = storage.family().is_none();
        let mut interrupt = None;
        let object = payload.into_object_in_spite(py, storage, blob, &mut interrupt);
        let Some(job) = job else {
            match frame.kind {
                Kind::Left => {
                    self.attention.store(1, Ordering::SeqCst);
                    self.errands.raise();
                }
                Kind::Broken => {
                    let error = object
                        .and_then(|it| opened(py, is_thread, &it))
                        .and_then(|error| broken_by(&error))
                        .unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
                    self.break_with(py, &error);
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
                job.note_time(frame.extra, values.len().unwrap_or(0));
                Outcome::Values(values.unbind())
            }
            (_, Ok(failure)) => failed(in_spite(py, &mut interrupt, || {
                opened(py, is_thread, &failure)
            })),
            (_, Err(error)) => failed(unreadable(py, &error)),
        };
        self.settle(py, &job, frame.number.index, outcome);
        let fed = self.feed(py, &job);
        interrupt.map_or(keep_interrupt(py, fed), Err)
    }

    // --- the collector ----------------------------------------------------------------------

    /// What the collector does for at most `seconds`: callbacks, outcomes that nobody waits for.
    /// False when there is nothing left to be done, ever.
    pub(super) fn collect(&self, py: Python<'_>, pause: Duration) -> PyResult<bool> {
        let end = Deadline::after(pause);
        loop {
            let number = self.errands.number();
            // Apart: in the head of the loop the lock would be held until the loop ends.
            let due = core::mem::take(&mut *locked(&self.due));
            for watcher in due {
                if let Err(error) = watcher.call0(py) {
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
            if self.try_take_desk() {
                let patience = if self.urgent.load(Ordering::SeqCst) != 0 {
                    Patience::Until(end)
                } else {
                    Patience::None
                };
                let mut arrivals = Vec::new();
                let taken = self.take_in(py, patience, &mut arrivals);
                self.leave_desk();
                let has_some = !arrivals.is_empty();
                // (Ctrl-C is the main thread's.)
                let _ = self.deliver(py, arrivals);
                taken?;
                if has_some || patience_is_long(patience) {
                    continue;
                }
            }
            wait(py, |park| {
                let _ = self.errands.sleep(number, end, park);
            })?;
        }
    }

    fn is_over(&self) -> bool {
        // Workers of a pool that was terminated are the crew's, once all jobs have ended.
        let is_abandoned = self.is_abandoned.load(Ordering::SeqCst);
        self.is_closed.load(Ordering::SeqCst) != 0
            && self.holds.load(Ordering::SeqCst) == 0
            && self.outstanding.load(Ordering::SeqCst) == 0
            && (is_abandoned || self.hired.load(Ordering::SeqCst) == 0)
            && locked(&self.due).is_empty()
    }

    /// Whether the collector should come by soon.
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding.load(Ordering::SeqCst) != 0 || self.is_closed.load(Ordering::SeqCst) != 0
    }

    pub(super) fn nudge_collector(&self) {
        self.errands.raise();
    }

    /// Has whoever waits at the desk leave it, and waits for that.
    fn take_desk(&self, py: Python<'_>) -> PyResult<Turn> {
        if self.is_at_desk() {
            return Ok(Turn::Again);
        }
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let frame = Frame::new(Number::NONE, Kind::Nudge);
        let result = loop {
            if self.try_take_desk() {
                break Ok(Turn::First);
            }
            // At the desk somebody may have taken our nudge for an earlier one's.
            if let Err(error) = put_none(py, &self.outcomes, frame) {
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
        // It may have died with the order to end in its hands.
        self.is_stopping.store(false, Ordering::SeqCst);
        let turn = self.take_desk(py)?;
        let mut arrivals = Vec::new();
        let taken = loop {
            let before = arrivals.len();
            let taken = self.take_in(py, Patience::None, &mut arrivals);
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
        let mut result = taken.and(self.deliver(py, arrivals));
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

    // --- the end ----------------------------------------------------------------------------

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
        let frame = Frame::new(Number::NONE, Kind::Nudge);
        let _ = put_none(py, &self.outcomes, frame);
        self.errands.raise();
    }

    /// Ends all jobs with an error.
    fn abandon(&self, py: Python<'_>, error: &Bound<'_, PyAny>, is_silent: bool) {
        for job in self.all_jobs() {
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
        self.let_go(&stopped);
        for &index in &stopped.arrived {
            self.settle(py, job, index, outcome(py));
        }
    }

    /// Counts what became of a job that was stopped.
    fn let_go(&self, stopped: &Stopped) {
        if stopped.has_rest {
            self.outstanding.fetch_add(1, Ordering::SeqCst);
        }
        if stopped.lets_go {
            self.holds.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes tasks that no worker has taken back out of the queue, those of `job` or of all jobs; the
    /// jobs whose tasks they were, with their positions.
    pub(super) fn withdraw(&self, job: Option<u32>) -> Vec<(Arc<Job>, u32)> {
        let mut withdrawn = Vec::new();
        let storage = self.tasks.storage();
        self.tasks.retag(storage, |tag, message| {
            let id = message.first_chunk().map(|id| u64::from_le_bytes(*id));
            let number = id.map_or(Number::NONE, Number::from_bits);
            let is_meant = number.job != 0 && job.is_none_or(|job| job == number.job);
            if tag & CANCELLED != 0 || !is_meant {
                return tag;
            }
            withdrawn.push(number);
            tag | CANCELLED
        });
        let job_of = |number: Number| Some((self.job(number.job)?, number.index));
        withdrawn.into_iter().filter_map(job_of).collect()
    }

    /// Takes back what no worker has begun of a job; whether that was something.
    pub(super) fn cancel(&self, py: Python<'_>, job: &Arc<Job>) -> bool {
        let stopped = job.withhold();
        self.let_go(&stopped);
        let withdrawn = if job.lock().in_flight() == 0 {
            Vec::new()
        } else {
            self.withdraw(Some(job.number))
        };
        let is_any = stopped.has_rest || !withdrawn.is_empty();
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
        for job in self.all_jobs() {
            if job.holds() {
                self.cancel(py, &job);
            }
        }
        let withdrawn = self.withdraw(None);
        self.cancel_withdrawn(py, withdrawn);
    }

    fn cancel_withdrawn(&self, py: Python<'_>, withdrawn: Vec<(Arc<Job>, u32)>) {
        for (job, index) in withdrawn {
            job.lock().is_cancelled = true;
            self.resolve(py, &job, index, cancelled);
        }
    }

    /// Whether a job's task lies in the queue.
    pub(super) fn is_waiting(&self, job: u32) -> bool {
        let mut is_there = false;
        let storage = self.tasks.storage();
        self.tasks.retag(storage, |tag, message| {
            let id = message.first_chunk().map(|id| u64::from_le_bytes(*id));
            is_there |=
                tag & CANCELLED == 0 && id.is_some_and(|id| Number::from_bits(id).job == job);
            tag
        });
        is_there
    }

    /// Takes in what is there, without waiting.
    pub(super) fn look(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_foreign() || self.outcomes.is_empty() || !self.try_take_desk() {
            return Ok(());
        }
        let mut arrivals = Vec::new();
        let taken = self.take_in(py, Patience::None, &mut arrivals);
        self.leave_desk();
        self.pass_on();
        taken.and(self.deliver(py, arrivals))
    }

    /// Waits until nothing is outstanding.
    pub(super) fn wait_idle(&self, py: Python<'_>) -> PyResult<()> {
        while let Some(job) = self.all_jobs().into_iter().next() {
            self.wait_for(py, &job, None, |job| {
                let state = job.lock();
                state.is_settled(job.form)
            })?;
            // It is forgotten by who completes it, right after.
            if self.knows(&job) {
                py.detach(std::thread::yield_now);
            }
        }
        Ok(())
    }

    /// Whether a job is under way.
    pub(super) fn knows(&self, job: &Job) -> bool {
        self.jobs
            .try_lock()
            .map_or(true, |jobs| jobs.by_number.contains_key(&job.number))
    }

    pub(super) fn broken_with(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        locked(&self.broken).as_ref().map(|it| it.clone_ref(py))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.tasks.traverse(visit)?;
        self.outcomes.traverse(visit)?;
        if let Ok(jobs) = self.jobs.try_lock() {
            for job in jobs.by_number.values() {
                job.traverse(visit)?;
            }
        }
        if let Ok(hire) = self.hire.try_lock() {
            if let Some(hire) = &*hire {
                visit.call(hire)?;
            }
        }
        if let Ok(due) = self.due.try_lock() {
            for watcher in &*due {
                visit.call(watcher)?;
            }
        }
        Ok(())
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        self.tasks.clear(py);
        self.outcomes.clear(py);
        // Nobody uses it any more. In a forked child its locks may be held by nobody, for ever.
        let hire = self.hire.try_lock().ok().and_then(|mut hire| hire.take());
        drop(hire);
        let jobs = self.jobs.try_lock().ok();
        let jobs: Vec<_> = jobs.map_or_else(Vec::new, |jobs| {
            jobs.by_number.values().map(Arc::clone).collect()
        });
        for job in jobs {
            job.clear();
        }
        let due = self
            .due
            .try_lock()
            .ok()
            .map(|mut due| core::mem::take(&mut *due));
        drop(due);
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

/// Puts a message that has nothing but a frame.
fn put_none(py: Python<'_>, queue: &Object<Queue>, frame: Frame) -> PyResult<()> {
    let none = py.None().into_bound(py);
    wire::put(py, queue, frame, &[], Outgoing::new(queue.storage(), none)?)
}

fn patience_is_long(patience: Patience) -> bool {
    matches!(patience, Patience::Until(_))
}

fn overwritten() -> PyErr {
    PyRuntimeError::new_err("the pool's shared memory was overwritten: a message is malformed")
}

/// An exception like this one, to be raised in one more place: each gets a traceback of its own.
fn again(py: Python<'_>, error: &Py<PyAny>) -> PyErr {
    static AGAIN: Imported = Imported::new("freethreading._tasks", "again");
    match AGAIN.get(py).and_then(|again| again.call1((error,))) {
        Ok(copy) => PyErr::from_value(copy),
        Err(error) => error,
    }
}

/// The exception of a failure that came from a worker.
fn opened<'py>(
    py: Python<'py>,
    is_thread: bool,
    failure: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static OPENED: Imported = Imported::new("freethreading._tasks", "opened");
    if is_thread {
        return Ok(failure.clone());
    }
    OPENED.get(py)?.call1((failure,))
}

/// What a pool is broken with by an initializer that raised `error`.
fn broken_by<'py>(error: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static BROKEN_BY: Imported = Imported::new("freethreading._tasks", "broken_by");
    BROKEN_BY.get(error.py())?.call1((error,))
}

/// What becomes of a task that was taken back.
fn cancelled(py: Python<'_>) -> Outcome {
    static CANCELLED_ERROR: Imported = Imported::new("concurrent.futures", "CancelledError");
    match CANCELLED_ERROR.get(py).and_then(PyAnyMethods::call0) {
        Ok(error) => Outcome::Error(error.unbind()),
        Err(error) => Outcome::error(py, error),
    }
}

/// What stands for a result that can't be unpickled.
fn unreadable<'py>(py: Python<'py>, error: &PyErr) -> PyResult<Bound<'py, PyAny>> {
    static UNREADABLE: Imported = Imported::new("freethreading._tasks", "unreadable");
    UNREADABLE
        .get(py)?
        .call1((error.clone_ref(py).into_value(py),))
}

/// What a function is called, for messages.
fn name<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match function.getattr_opt("__qualname__")? {
        Some(name) => Ok(name),
        None => Ok(function.repr()?.into_any()),
    }
}
