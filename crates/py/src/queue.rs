// SPDX-License-Identifier: MIT
//! `freethreading.Queue`.

use freethreading_core::queue::{self as core_queue, Patience, TooManyDone};
use freethreading_core::storage::Object;
use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::arguments::{Seconds, Truth, Whole, deadline};
use crate::derived;
use crate::errors::{EMPTY, Exception, FULL, NEGATIVE_TIMEOUT, out_of_memory};
use crate::large::Place;
use crate::message::quick::{self, Look};
use crate::message::{self, Incoming, Outgoing};
use crate::object;
use crate::shortcut::{Answer, shortcuts};
use crate::transfer::{self, Channel};
use crate::wait::wait;

/// The core's queue, holding Python objects. Both queue classes are shells around this.
pub(crate) struct Items {
    object: Channel,
}

impl Items {
    pub(crate) fn make(py: Python<'_>, class: &'static str, capacity: u32) -> PyResult<Self> {
        let object = object::make(class, |it: &core_queue::Queue| it.initialize(capacity))?;
        message::prepare(py, object.storage())?;
        let object = Channel::new(object);
        Ok(Self { object })
    }

    pub(crate) fn object(&self) -> &Object<core_queue::Queue> {
        &self.object
    }

    /// Puts an item; false if the queue is, or stays, full.
    pub(crate) fn put(
        &self,
        py: Python<'_>,
        item: Bound<'_, PyAny>,
        patience: Patience,
    ) -> PyResult<bool> {
        let place = Place::new(self.object.storage(), patience);
        self.put_outgoing(py, Outgoing::new(place, item)?, patience)
    }

    fn put_outgoing(
        &self,
        py: Python<'_>,
        outgoing: Outgoing<'_>,
        patience: Patience,
    ) -> PyResult<bool> {
        transfer::put(py, &self.object, 0, &[], outgoing, patience)
    }

    /// Puts items one after the other; how many of them found room in time. All are encoded
    /// before the first is put.
    pub(crate) fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        patience: Patience,
    ) -> PyResult<Many> {
        let mut outgoing = Vec::new();
        for item in items.try_iter()? {
            let place = Place::new(self.object.storage(), patience);
            let item = Outgoing::new(place, item?)?;
            let room = outgoing.try_reserve(1);
            room.map_err(|_| out_of_memory("so many items; the queue is as it was"))?;
            outgoing.push(item);
            // (The iterator has let signal handlers run, if it is one of Python code.)
            if outgoing.len() % SOME == 0 {
                let_others_run(py)?;
            }
        }
        let all = outgoing.len();
        for (done, outgoing) in outgoing.into_iter().enumerate() {
            let interrupted = if done % SOME == SOME - 1 {
                let_others_run(py)
            } else {
                Ok(())
            };
            match interrupted.and_then(|()| self.put_outgoing(py, outgoing, patience)) {
                Ok(true) => {}
                Ok(false) => return Ok(Many { done, all }),
                Err(error) => {
                    note(
                        &error,
                        intern!(py, "count"),
                        done.into_pyobject(py)?.as_any(),
                    );
                    return Err(error);
                }
            }
        }
        Ok(Many { done: all, all })
    }

    /// Takes up to `most` items: waits for the first, and takes what else there is then; `None` if
    /// there is none in time.
    pub(crate) fn get_many<'py>(
        &self,
        py: Python<'py>,
        most: usize,
        patience: Patience,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let items = PyList::empty(py);
        let (mut patience, mut most) = (patience, most);
        while items.len() < most {
            let interrupted = if items.len() % SOME == SOME - 1 {
                let_others_run(py)
            } else {
                Ok(())
            };
            match interrupted.and_then(|()| self.get(py, patience)) {
                Ok(Some(item)) => {
                    items.append(item)?;
                    if items.len() == 1 {
                        // Not what producers put meanwhile, who may go on for ever.
                        let there = self.object.len() as usize;
                        most = most.min(there.saturating_add(1));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // What was taken before mustn't be lost with it.
                    note(&error, intern!(py, "items"), items.as_any());
                    return Err(error);
                }
            }
            patience = Patience::None;
        }
        Ok((!items.is_empty()).then_some(items))
    }

    /// Takes the oldest item; `None` if the queue is, or stays, empty.
    pub(crate) fn get<'py>(
        &self,
        py: Python<'py>,
        patience: Patience,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let storage = self.object.storage();
        match transfer::take_if(py, &self.object, None, patience, Incoming::read_if)? {
            Some((item, blob)) => item.into_object(py, storage, blob).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn join(&self, py: Python<'_>) -> PyResult<()> {
        let storage = self.object.storage();
        // An abandoned join has its exception, which `wait` raises.
        wait(py, |park| self.object.join(storage, park)).map(|_outcome| ())
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.object.traverse(visit)
    }

    pub(crate) fn clear(&self, py: Python<'_>) {
        self.object.clear(py);
    }
}

/// So many items are put or taken before others may run and signals are looked for.
const SOME: usize = 1024;

/// Lets signal handlers run, and other threads that wait for the interpreter.
fn let_others_run(py: Python<'_>) -> PyResult<()> {
    py.detach(std::thread::yield_now);
    py.check_signals()
}

/// How many of the items of a `put_many` were put.
pub(crate) struct Many {
    done: usize,
    all: usize,
}

impl Many {
    /// `queue.Full`, or what else `put` raises then, which says how many were put, unless all were.
    pub(crate) fn check(&self, py: Python<'_>, wait: &Wait) -> PyResult<()> {
        let Self { done, all } = self;
        if done == all {
            return Ok(());
        }
        let error = if wait.is_negative {
            negative_timeout(py)
        } else {
            FULL.new_err(py, &format!("{done} of {all} items were put"))
        };
        error.value(py).setattr(intern!(py, "count"), done)?;
        Err(error)
    }
}

/// Sets an attribute of an exception of whatever class: past a `__setattr__` of its own, which
/// raises in frozen dataclasses. If that fails all the same, the exception itself says more.
fn note(error: &PyErr, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) {
    let py = name.py();
    let arguments = (error.value(py), name, value);
    let _ = PyType::new::<PyBaseException>(py).call_method1(intern!(py, "__setattr__"), arguments);
}

/// The parameter `max_items`.
pub(crate) fn most_items(max_items: Whole) -> PyResult<usize> {
    let number = max_items.named("max_items")?;
    usize::try_from(number)
        .ok()
        .filter(|&most| most > 0)
        .ok_or_else(|| PyValueError::new_err(format!("max_items must be at least 1, not {number}")))
}

/// How long a put or get waits, and what it raises if that was too short.
pub(crate) struct Wait {
    pub(crate) patience: Patience,
    is_negative: bool,
}

impl Wait {
    /// A negative timeout is an error for threads, as in `queue`; between processes it doesn't
    /// wait, as in `multiprocessing`. Either way the exception is both modules'.
    pub(crate) fn new(
        py: Python<'_>,
        items: &Items,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<Self> {
        let is_negative = block.0 && timeout.is_some_and(Seconds::is_negative);
        if is_negative && items.object.storage().family().is_none() {
            return Err(negative_timeout(py));
        }
        let waits = block.0 && !is_negative;
        let patience = if waits {
            Patience::Until(deadline(timeout))
        } else {
            Patience::None
        };
        Ok(Self {
            patience,
            is_negative,
        })
    }

    pub(crate) fn error(&self, py: Python<'_>, expected: &'static Exception) -> PyErr {
        if self.is_negative {
            negative_timeout(py)
        } else {
            expected.bare(py)
        }
    }
}

fn negative_timeout(py: Python<'_>) -> PyErr {
    NEGATIVE_TIMEOUT.new_err(py, "'timeout' must be a non-negative number")
}

fn capacity(maxsize: Whole) -> PyResult<u32> {
    let maxsize = maxsize.named("maxsize")?;
    // More than there can be is no limit.
    Ok(u32::try_from(maxsize)
        .ok()
        .filter(|&size| i32::try_from(size).is_ok())
        .unwrap_or(0))
}

/// A first-in, first-out queue between workers, with task tracking.
///
/// Like `queue.Queue` and `multiprocessing.JoinableQueue`. `maxsize` is the most items at a
/// time; 0 or less is unlimited, and so is 2**31 or more, which would be more than there can be.
///
/// >>> from freethreading import Queue
/// >>> queue = Queue(maxsize=2)
/// >>> queue.put("a")
/// >>> queue.put({"b": 1})
/// >>> queue.full(), queue.qsize()
/// (True, 2)
/// >>> queue.get(), queue.get()
/// ('a', {'b': 1})
/// >>> queue.task_done()
/// >>> queue.task_done()
/// >>> queue.join()
///
/// Differences from queue / multiprocessing: between processes, too, an item is in the queue
/// when `put` returns, without a feeder thread; `put` raises what pickling raises and leaves
/// the queue as it was; the queue outlives the worker that put, which may be joined before the
/// queue is drained; a worker killed in `put` or `get` leaves the queue usable. `qsize`, `empty`
/// and `full` are exact. It can be pickled at any time, and the copy is the same queue. `join` waits
/// for `task_done` of each item: if the worker that has one is killed, nobody calls that.
#[pyclass(module = "freethreading", frozen, weakref, subclass, generic)]
pub(crate) struct Queue {
    items: Items,
}

shortcuts! { Queue:
    "put" (1) |_py, it, item| quick::try_put(it.items.object(), item?).then_some(Answer::None);
    "put_nowait" (1) |_py, it, item| quick::try_put(it.items.object(), item?).then_some(Answer::None);
    "get" (0) |py, it, _none| quick::try_get(py, it.items.object(), Look::Briefly);
    "get_nowait" (0) |py, it, _none| quick::try_get(py, it.items.object(), Look::Once);
    "empty" (0) |it| Some(it.items.object().is_empty().into());
    "full" (0) |it| Some(it.items.object().is_full().into());
    "qsize" (0) |it| Some(Answer::Number(it.items.object().len()));
    "task_done" (0) |it| {
        let object = it.items.object();
        object.report_done(object.storage()).ok().map(|()| Answer::None)
    };
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (maxsize = Whole::new(0)), text_signature = "(maxsize=0)")]
    fn new(py: Python<'_>, maxsize: Whole) -> PyResult<Self> {
        Ok(Self {
            items: Items::make(py, "Queue", capacity(maxsize)?)?,
        })
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __init__(
        this: &Bound<'_, Self>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if let Some(settings) = derived::settings(this, arguments, keywords)? {
            let capacity = settings.get().items.object().capacity();
            this.get().items.object().initialize(capacity);
        }
        Ok(())
    }

    /// The most items at a time; 0: unlimited.
    #[getter]
    fn maxsize(&self) -> u32 {
        self.items.object().capacity()
    }

    /// Put an item; if the queue is full and `block`, wait for room, at most `timeout` seconds.
    ///
    /// Raises queue.Full if there is no room (in time), ValueError for a negative timeout,
    /// MemoryError if there is no memory for the item, which is not in the queue then, and between
    /// processes what pickling the item raises.
    ///
    /// A process that was stopped (SIGSTOP) in the middle of a call of its own is waited for 500 ms,
    /// even if `timeout` is shorter.
    #[pyo3(
        signature = (item, block = Truth(true), timeout = None),
        text_signature = "($self, item, block=True, timeout=None)"
    )]
    fn put(
        &self,
        py: Python<'_>,
        item: Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let wait = Wait::new(py, &self.items, block, timeout)?;
        if self.items.put(py, item, wait.patience)? {
            Ok(())
        } else {
            Err(wait.error(py, &FULL))
        }
    }

    /// Put an item if there is room now; else raise queue.Full.
    fn put_nowait(&self, py: Python<'_>, item: Bound<'_, PyAny>) -> PyResult<()> {
        if self.items.put(py, item, Patience::None)? {
            Ok(())
        } else {
            Err(FULL.bare(py))
        }
    }

    /// Take the oldest item; if there is none and `block`, wait for one, at most `timeout`
    /// seconds.
    ///
    /// Raises queue.Empty if there is none (in time), ValueError for a negative timeout, and
    /// between processes what unpickling the item raises, which is taken all the same. A
    /// MemoryError that says so leaves the item in the queue: there was no memory to copy it.
    ///
    /// A process that was stopped (SIGSTOP) in the middle of a call of its own is waited for 500 ms,
    /// even if `timeout` is shorter.
    #[pyo3(
        signature = (block = Truth(true), timeout = None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get<'py>(
        &self,
        py: Python<'py>,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wait = Wait::new(py, &self.items, block, timeout)?;
        self.items
            .get(py, wait.patience)?
            .ok_or_else(|| wait.error(py, &EMPTY))
    }

    /// Take the oldest item if there is one now; else raise queue.Empty.
    fn get_nowait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.items
            .get(py, Patience::None)?
            .ok_or_else(|| EMPTY.bare(py))
    }

    /// Put all `items` in their order; if the queue is full and `block`, wait for room, at most
    /// `timeout` seconds in all. Other workers' items may come in between.
    ///
    /// Between processes all are pickled before the first is put. Not in the standard library.
    ///
    /// Raises queue.Full if there is no room (in time) for all, else as `put` does; the exception's
    /// `count` says how many were put, if any can have been.
    #[pyo3(
        signature = (items, block = Truth(true), timeout = None),
        text_signature = "($self, items, block=True, timeout=None)"
    )]
    fn put_many(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<()> {
        let wait = Wait::new(py, &self.items, block, timeout)?;
        self.items
            .put_many(py, items, wait.patience)?
            .check(py, &wait)
    }

    /// Take up to `max_items` items: wait for the first as `get` does, and take what else is
    /// there then. Not in the standard library. A worker that is killed in the middle of it takes
    /// those along that it has by then.
    ///
    /// Raises queue.Empty if there is none (in time), ValueError if `max_items` is less than 1,
    /// and as `get` does; if that is because an item can't be unpickled, or of a signal, the
    /// exception's `items` are those that were taken before it.
    #[pyo3(
        signature = (max_items, block = Truth(true), timeout = None),
        text_signature = "($self, max_items, block=True, timeout=None)"
    )]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        max_items: Whole,
        block: Truth,
        timeout: Option<Seconds>,
    ) -> PyResult<Bound<'py, PyList>> {
        let most = most_items(max_items)?;
        let wait = Wait::new(py, &self.items, block, timeout)?;
        self.items
            .get_many(py, most, wait.patience)?
            .ok_or_else(|| wait.error(py, &EMPTY))
    }

    /// Whether there is no item.
    fn empty(&self) -> bool {
        self.items.object().is_empty()
    }

    /// Whether there is no room.
    fn full(&self) -> bool {
        self.items.object().is_full()
    }

    /// The number of items.
    fn qsize(&self) -> u32 {
        self.items.object().len()
    }

    /// Report an item that was taken as done, for `join`.
    ///
    /// Raises ValueError if all items that were put are.
    fn task_done(&self) -> PyResult<()> {
        let object = self.items.object();
        object
            .report_done(object.storage())
            .map_err(|TooManyDone| PyValueError::new_err("task_done() called too many times"))
    }

    /// Wait until every item that was put is reported done.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        self.items.join(py)
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let base = PyType::new::<Self>(this.py());
        object::reduce(
            this.as_any(),
            &base,
            this.get().items.object(),
            PyTuple::empty(this.py()),
        )
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(self.items.object(), other.get().items.object())
    }

    fn __hash__(&self) -> u64 {
        self.items.object().identity()
    }

    fn __repr__(&self) -> String {
        let object = self.items.object();
        let (size, unfinished) = (object.len(), object.unfinished());
        match object.capacity() {
            0 => format!("<freethreading.Queue {size} items, {unfinished} unfinished>"),
            most => format!("<freethreading.Queue {size}/{most} items, {unfinished} unfinished>"),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.items.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.items.clear(py);
    }
}
