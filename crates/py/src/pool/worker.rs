// SPDX-License-Identifier: MIT
//! A worker's half of a pool: takes tasks, runs them, and answers.

use core::cell::Cell;
use core::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use freethreading_core::pool::Seat;
use freethreading_core::queue::{Patience, Queue};
use freethreading_core::storage::handle::decode;
use freethreading_core::storage::{Blob, Object, Storage};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySequence, PyTuple};

use super::engine::{Engine, put_none};
use super::functions::Made;
use super::job::{Job, Outcome};
use super::wire::{self, Frame, Function, Kind, Number, Packet};
use crate::errors::{from_handle, out_of_memory};
use crate::imported::Imported;
use crate::message::{self, Outgoing};
use crate::object;
use crate::shield::{call, call_one};
use crate::transfer::{self, Channel};

/// What one worker of a pool is given.
#[pyclass(module = "freethreading._native", name = "_Link", frozen, weakref)]
pub(crate) struct Link {
    tasks: Channel,
    pub(super) seat: Object<Seat>,
    callers: Callers,
}

/// Where a worker's callers are, who want to know how its tasks ended.
enum Callers {
    /// In this process: the worker settles its tasks itself.
    Here(Arc<Engine>),
    /// In another one, which takes outcomes out of this queue.
    Elsewhere(Channel),
}

thread_local! {
    /// The address of the engine whose worker this thread is.
    static EMPLOYER: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is a worker of the pool.
pub(super) fn is_worker_of(engine: &Engine) -> bool {
    EMPLOYER.get() == core::ptr::from_ref(engine).addr()
}

/// Runs a task in this thread, with the job's own function: between threads only.
pub(super) fn outcome_of(
    py: Python<'_>,
    job: &Job,
    frame: Frame,
    payload: Bound<'_, PyAny>,
) -> Outcome {
    // Held: a collection may find the call, but not this thread, which has it too.
    let function = job.function.clone_ref(py).into_bound(py);
    let function = Some(&function);
    let (kind, payload) = match (frame.kind, &job.arguments) {
        (Kind::Kept, Some(kept)) => (Kind::Star, kept.bind(py).clone().into_any()),
        (kind, _) => (kind, payload),
    };
    let result = match kind {
        Kind::Items | Kind::Stars => {
            run_all(function, &payload, kind).map(|it| Outcome::Values(it.unbind()))
        }
        kind => run(function, payload, kind).map(|it| Outcome::Value(it.unbind())),
    };
    result.unwrap_or_else(|error| Outcome::error(py, error))
}

impl Link {
    /// A new worker's.
    pub(super) fn new(engine: &Arc<Engine>) -> PyResult<Self> {
        let seat = object::make_in(engine.tasks.storage(), "a pool's worker")?;
        let callers = match &engine.outcomes {
            Some(outcomes) => Callers::Elsewhere(Channel::new(outcomes.another())),
            None => Callers::Here(Arc::clone(engine)),
        };
        Ok(Self {
            tasks: Channel::new(engine.tasks.another()),
            seat,
            callers,
        })
    }

    /// Runs a task for callers in this process, and settles it.
    fn perform_here(&self, py: Python<'_>, engine: &Engine, packet: Packet) {
        let Packet { frame, payload, .. } = packet;
        let Number { job, index } = frame.number;
        if frame.kind == Kind::Share {
            return engine.use_share(py, job);
        }
        let payload = payload
            .ok_or_else(|| out_of_memory("a task"))
            .and_then(|it| it.into_object(py, self.tasks.storage(), None));
        // One that isn't known has been ended meanwhile.
        let Some(job) = engine.job(job) else {
            return;
        };
        let outcome = match payload {
            Ok(payload) => outcome_of(py, &job, frame, payload),
            Err(error) => Outcome::error(py, error),
        };
        engine.resolve(py, &job, index, |_| outcome);
    }

    /// Runs a task for callers in another process, and sends them its outcome.
    fn perform_and_answer(
        &self,
        py: Python<'_>,
        outcomes: &Channel,
        made: &mut Made,
        packet: Packet,
        blob: Option<Blob>,
    ) -> PyResult<()> {
        let number = packet.frame.number;
        let (kind, result, time) = self.perform(py, made, packet, blob);
        answer(py, outcomes, number, kind, result, time)?;
        self.seat.clear();
        Ok(())
    }

    /// Runs a task; the answer's kind, its payload, and what the task took.
    fn perform<'py>(
        &self,
        py: Python<'py>,
        made: &mut Made,
        packet: Packet,
        blob: Option<Blob>,
    ) -> (Kind, PyResult<Bound<'py, PyAny>>, u32) {
        let (frame, function) = (packet.frame, packet.function);
        let storage = self.tasks.storage();
        let job = frame.is_own.then_some(frame.number.job);
        let function = match function {
            Function::Known => made.known(py, storage, job).map(Some),
            Function::Pickled(bytes) => made.make(py, storage, bytes, job).map(Some),
            Function::Elsewhere => Ok(None),
        };
        let payload = packet
            .payload
            .ok_or_else(|| out_of_memory("a task"))
            .and_then(|it| it.into_object(py, storage, blob));
        let (function, payload) = match (function, payload) {
            (Ok(function), Ok(payload)) => (function, payload),
            (Err(error), _) | (_, Err(error)) => {
                let note = "Raised in the worker while the task was unpickled, before it ran.";
                let _ = error
                    .value(py)
                    .call_method1(intern!(py, "add_note"), (note,));
                return (Kind::Failure, Err(error), 0);
            }
        };
        let function = function.as_ref();
        match frame.kind {
            Kind::Items | Kind::Stars => {
                let start = Instant::now();
                let values = run_all(function, &payload, frame.kind);
                let time = u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX);
                (Kind::Values, values, time.max(1))
            }
            kind => (Kind::Value, run(function, payload, kind), 0),
        }
    }

    /// Takes tasks and runs them until told to end, or `most` were run.
    fn run_tasks(&self, py: Python<'_>, most: Option<u64>) -> PyResult<()> {
        let mut made = Made::default();
        let mut left = most;
        let claim = match &self.callers {
            Callers::Here(engine) => {
                EMPLOYER.set(Arc::as_ptr(engine).addr());
                None
            }
            // What it has in hand is written down, in case that it dies.
            Callers::Elsewhere(_) => Some(self.seat.claim()),
        };
        self.seat.set_ready();
        while left != Some(0) {
            let known = made.bytes();
            let taken = transfer::take(
                py,
                &self.tasks,
                claim,
                Patience::Until(None),
                |tag, message| wire::read(tag, message, known),
            )?;
            // Without a deadline it comes back empty-handed with an exception only.
            let Some((packet, blob)) = taken else {
                continue;
            };
            let Some(packet) = packet else {
                return Err(overwritten());
            };
            if packet.frame.kind == Kind::Stop {
                let none = Outgoing::new(self.tasks.storage(), py.None().into_bound(py))?;
                wire::put(py, &self.tasks, packet.frame, &[], none)?;
                break;
            }
            if packet.is_cancelled {
                let storage = self.tasks.storage();
                let nobodys = packet.payload.map(|it| it.into_object(py, storage, blob));
                drop(nobodys);
                if let (Callers::Here(engine), Kind::Share) = (&self.callers, packet.frame.kind) {
                    engine.shares.fetch_sub(1, Ordering::SeqCst);
                }
                self.seat.clear();
                continue;
            }
            match &self.callers {
                Callers::Here(engine) => self.perform_here(py, engine, packet),
                Callers::Elsewhere(outcomes) => {
                    self.perform_and_answer(py, outcomes, &mut made, packet, blob)?;
                }
            }
            left = left.map(|left| left - 1);
        }
        Ok(())
    }
}

/// Sends an answer; what can't be sent is described instead.
fn answer(
    py: Python<'_>,
    outcomes: &Channel,
    number: Number,
    kind: Kind,
    result: PyResult<Bound<'_, PyAny>>,
    time: u32,
) -> PyResult<()> {
    let storage = outcomes.storage();
    let encoded = result.map(|value| {
        let outgoing = Outgoing::new(storage, value.clone());
        (value, outgoing)
    });
    let (kind, payload) = match encoded {
        Ok((_, Ok(outgoing))) => (kind, outgoing),
        Ok((value, Err(error))) => (Kind::Failure, described(py, storage, &error, Some(&value))?),
        Err(error) => (Kind::Failure, described(py, storage, &error, None)?),
    };
    let frame = Frame {
        extra: time,
        ..Frame::new(number, kind)
    };
    wire::put(py, outcomes, frame, &[], payload)
}

/// An exception as it travels: its pickle, if there is one, and what can always be told of it.
/// `value` is what couldn't be pickled.
fn described<'py>(
    py: Python<'py>,
    storage: Storage,
    error: &PyErr,
    value: Option<&Bound<'py, PyAny>>,
) -> PyResult<Outgoing<'py>> {
    static DESCRIBED: Imported = Imported::new("freethreading._tasks", "described");
    // With its traceback, which CPython 3.11 keeps apart.
    let exception = error.clone_ref(py).into_value(py).into_bound(py).into_any();
    let described = DESCRIBED.get(py)?.call1((exception, value))?;
    Outgoing::new(storage, described)
}

#[pymethods]
impl Link {
    /// Takes tasks and runs them until told to end, or `most` were run.
    #[pyo3(signature = (most=None))]
    fn run(&self, py: Python<'_>, most: Option<u64>) -> PyResult<()> {
        let result = self.run_tasks(py, most);
        result.and(self.leave(py))
    }

    /// Tells that the worker's initializer has failed.
    fn report_broken(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        match &self.callers {
            Callers::Here(engine) => {
                engine.note_broken(&error);
                Ok(())
            }
            Callers::Elsewhere(outcomes) => {
                let error = PyErr::from_value(error);
                let payload = described(py, outcomes.storage(), &error, None)?;
                let frame = Frame::new(Number::NONE, Kind::Broken);
                wire::put(py, outcomes, frame, &[], payload)
            }
        }
    }

    /// Tells that the worker is about to end.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        EMPLOYER.set(0);
        match &self.callers {
            Callers::Here(engine) => {
                engine.note_left();
                Ok(())
            }
            Callers::Elsewhere(outcomes) => {
                put_none(py, outcomes, Frame::new(Number::NONE, Kind::Left))
            }
        }
    }

    /// Whether the worker came as far as to take tasks.
    fn is_ready(&self) -> bool {
        self.seat.is_ready()
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        static RESTORE: Imported = Imported::new("freethreading._native", "restore_link");
        let Callers::Elsewhere(outcomes) = &self.callers else {
            return Err(PyTypeError::new_err("a thread's link stays in its process"));
        };
        let (tasks, ticket) = object::handle(py, &self.tasks)?;
        let (outcomes, _) = object::handle(py, outcomes)?;
        let (seat, _) = object::handle(py, &self.seat)?;
        let handles = (tasks, outcomes, seat, ticket);
        (RESTORE.get(py)?, handles).into_pyobject(py)
    }
}

/// A worker's link, in the process that it was sent to.
#[pyfunction]
pub(crate) fn restore_link(
    py: Python<'_>,
    tasks: &Bound<'_, PyBytes>,
    outcomes: &Bound<'_, PyBytes>,
    seat: &Bound<'_, PyBytes>,
    ticket: &Bound<'_, PyAny>,
) -> PyResult<Link> {
    let _ = ticket;
    let failed = |error| from_handle("pool's worker", error);
    let tasks: Object<Queue> = decode(tasks.as_bytes()).map_err(failed)?;
    message::prepare(py, tasks.storage())?;
    let outcomes = decode(outcomes.as_bytes()).map_err(failed)?;
    Ok(Link {
        tasks: Channel::new(tasks),
        seat: decode(seat.as_bytes()).map_err(failed)?,
        callers: Callers::Elsewhere(Channel::new(outcomes)),
    })
}

fn overwritten() -> PyErr {
    PyRuntimeError::new_err("the pool's shared memory was overwritten: a task is malformed")
}

fn no_function() -> PyErr {
    PyRuntimeError::new_err("the task's function is gone: its call was abandoned")
}

/// Runs a task of one call.
pub(super) fn run<'py>(
    function: Option<&Bound<'py, PyAny>>,
    payload: Bound<'py, PyAny>,
    kind: Kind,
) -> PyResult<Bound<'py, PyAny>> {
    match kind {
        Kind::Item => call_one(function.ok_or_else(no_function)?, &payload),
        Kind::Star => {
            let arguments = as_arguments(&payload)?;
            call(function.ok_or_else(no_function)?, &arguments, None)
        }
        _ => {
            let parts = payload.cast_into::<PyTuple>()?;
            let (own, at) = match parts.len() {
                2 => (None, 0),
                3 => (Some(parts.get_item(0)?), 1),
                _ => return Err(overwritten()),
            };
            let positional = parts.get_item(at)?.cast_into::<PyTuple>()?;
            let keywords = parts.get_item(at + 1)?;
            let function = own.as_ref().or(function).ok_or_else(no_function)?;
            drop(parts);
            let keywords = (!keywords.is_none()).then(|| keywords.cast::<PyDict>());
            call(function, &positional, keywords.transpose()?)
        }
    }
}

/// Runs a task of many calls.
pub(super) fn run_all<'py>(
    function: Option<&Bound<'py, PyAny>>,
    items: &Bound<'py, PyAny>,
    kind: Kind,
) -> PyResult<Bound<'py, PyAny>> {
    let function = function.ok_or_else(no_function)?;
    // A range, or a tuple already.
    let items = items.cast::<PySequence>()?.to_tuple()?;
    let mut values = Vec::with_capacity(items.len());
    for item in items.iter_borrowed() {
        values.push(if kind == Kind::Stars {
            call(function, &as_arguments(&item)?, None)?
        } else {
            call_one(function, &item)?
        });
    }
    PyList::new(items.py(), values).map(Bound::into_any)
}

/// Any iterable as positional arguments.
fn as_arguments<'py>(item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if let Ok(arguments) = item.cast_exact::<PyTuple>() {
        return Ok(arguments.clone());
    }
    let items = item.try_iter().map_err(|_| {
        PyTypeError::new_err(format!(
            "starmap: each item must be an iterable of arguments, not {}",
            item.get_type()
        ))
    })?;
    let items = items.collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(item.py(), items)
}
