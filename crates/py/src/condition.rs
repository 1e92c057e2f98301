// SPDX-License-Identifier: MIT
//! `freethreading.Condition`.

use std::sync::OnceLock;

use freethreading_core::deadline::Deadline;
use freethreading_core::park::Uninterruptible;
use freethreading_core::storage::Object;
use freethreading_core::sync::{self, Notified};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::any_lock::AnyLock;
use crate::arguments::{Seconds, Truth, Whole, deadline};
use crate::derived;
use crate::errors::{NOT_HELD, from_out_of_memory, owner_died};
use crate::object;
use crate::rlock::RLock;
use crate::shortcut::{Answer, shortcuts};
use crate::wait::wait;

/// A condition variable: workers wait until another one notifies them.
///
/// Like `threading.Condition` and `multiprocessing.Condition`, over a `Lock` or `RLock` that is
/// given, else over a new `RLock`.
///
/// >>> from freethreading import Condition
/// >>> condition = Condition()
/// >>> with condition:
/// ...     condition.wait_for(lambda: "ready", timeout=1)
/// 'ready'
///
/// Raises TypeError if `lock` is neither.
///
/// Differences from threading / multiprocessing: `notify(n)` wakes exactly the n longest
/// waiters; a waiter that was killed doesn't swallow a notification. It can be pickled at any
/// time, and the copy is the same condition over the same lock.
#[pyclass(module = "freethreading", frozen, weakref, subclass)]
pub(crate) struct Condition {
    object: Object<sync::Condition>,
    /// Unset until a derived class's `__init__` has called ours.
    guard: OnceLock<Guard>,
}

struct Guard {
    lock: AnyLock,
    /// Whether the lock is of a class derived from ours, whose methods may be its own.
    is_derived: bool,
}

impl Guard {
    fn new(py: Python<'_>, lock: AnyLock) -> Self {
        let is_derived = lock.is_derived(py);
        Self { lock, is_derived }
    }
}

impl Condition {
    fn guard(&self) -> PyResult<&Guard> {
        self.guard
            .get()
            .ok_or_else(|| derived::not_initialized("Condition"))
    }

    fn lock(&self) -> PyResult<&AnyLock> {
        self.guard().map(|guard| &guard.lock)
    }

    /// The lock, if its methods are ours.
    #[inline]
    fn plain_lock(&self) -> Option<&AnyLock> {
        let guard = self.guard.get()?;
        (!guard.is_derived).then_some(&guard.lock)
    }

    fn check_held(&self, py: Python<'_>, action: &str) -> PyResult<()> {
        if self.lock()?.is_held() {
            Ok(())
        } else {
            Err(not_held(py, action))
        }
    }

    /// Whether the caller may notify, but nobody waits.
    fn notify_is_vain(&self) -> bool {
        self.guard.get().is_some_and(|guard| guard.lock.is_held()) && !self.object.has_waiters()
    }

    fn wait_until(&self, py: Python<'_>, deadline: Option<Deadline>) -> PyResult<bool> {
        self.check_held(py, "wait for")?;
        let storage = self.object.storage();
        let waiting = self
            .object
            .enter(storage)
            .map_err(from_out_of_memory("a waiter"))?;
        let lock = self.lock()?;
        let Ok(saved) = lock.release_all() else {
            // Somebody else released it just now: leave the list again.
            let now = Some(Deadline::now());
            let _ = self.object.wait(storage, waiting, now, &Uninterruptible);
            return Err(not_held(py, "wait for"));
        };
        let mut owner = Ok(());
        let notified = wait(py, |park| {
            let take_back = || owner = lock.take_back(saved, park);
            self.object
                .wait_and(storage, waiting, deadline, park, take_back)
        })?;
        owner.map_err(|dead| owner_died(py, lock.name(), lock.storage(), dead))?;
        Ok(notified == Notified::Yes)
    }
}

fn not_held(py: Python<'_>, action: &str) -> PyErr {
    NOT_HELD.new_err(
        py,
        &format!("can't {action} a Condition without holding its lock"),
    )
}

shortcuts! { Condition:
    "__enter__" (0) |it| it.plain_lock()?.try_enter().then_some(Answer::True);
    "__exit__" (3) |it| it.plain_lock()?.try_give_back().then_some(Answer::None);
    "notify" (0) |it| it.notify_is_vain().then_some(Answer::None);
    "notify_all" (0) |it| it.notify_is_vain().then_some(Answer::None);
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (lock = None))]
    fn new(py: Python<'_>, lock: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let is_deferred = derived::is_deferred();
        let object = object::make("Condition", |_: &sync::Condition| {})?;
        let guard = OnceLock::new();
        if !is_deferred {
            let lock = match lock {
                Some(lock) => AnyLock::new(lock)?,
                None => AnyLock::new(&PyType::new::<RLock>(py).call0()?)?,
            };
            guard.get_or_init(|| Guard::new(py, lock));
        }
        Ok(Self { object, guard })
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __init__(
        this: &Bound<'_, Self>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if let Some(settings) = derived::settings(this, arguments, keywords)? {
            let py = this.py();
            let lock = AnyLock::new(settings.get().lock()?.object(py))?;
            this.get().guard.get_or_init(|| Guard::new(py, lock));
        }
        Ok(())
    }

    /// Take the condition's lock: its own `acquire(blocking=True, timeout=None)`.
    #[pyo3(
        signature = (blocking = Truth(true), timeout = None),
        text_signature = "($self, blocking=True, timeout=None)"
    )]
    fn acquire<'py>(
        &self,
        py: Python<'py>,
        blocking: Truth,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.lock()?
            .object(py)
            .call_method1("acquire", (blocking.0, timeout))
    }

    /// Free the condition's lock: its own `release()`.
    fn release<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.lock()?.object(py).call_method0("release")
    }

    /// Free the lock, wait to be notified, at most `timeout` seconds, and take the lock again.
    ///
    /// Returns whether it was notified. `timeout=None` waits for ever, a negative one not at
    /// all.
    ///
    /// Raises an exception that is a RuntimeError and an AssertionError if the lock isn't held,
    /// OwnerDiedError (with the lock taken) if a process died holding it meanwhile.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<bool> {
        self.wait_until(py, deadline(timeout))
    }

    /// Wait until `predicate()` is true, at most `timeout` seconds.
    ///
    /// Returns the predicate's last value. Raises as `wait` does.
    #[pyo3(signature = (predicate, timeout = None))]
    fn wait_for<'py>(
        &self,
        py: Python<'py>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline = deadline(timeout);
        loop {
            let value = predicate.call0()?;
            if value.is_truthy()? || deadline.is_some_and(Deadline::has_passed) {
                return Ok(value);
            }
            self.wait_until(py, deadline)?;
        }
    }

    /// Wake the `n` longest waiters, or all if there are fewer.
    ///
    /// Raises an exception that is a RuntimeError and an AssertionError if the lock isn't held.
    #[pyo3(signature = (n = Whole::new(1)), text_signature = "($self, n=1)")]
    fn notify(&self, py: Python<'_>, n: Whole) -> PyResult<()> {
        let n = n.named("n")?;
        self.check_held(py, "notify")?;
        let count = usize::try_from(n).unwrap_or(0);
        self.object.notify(self.object.storage(), count);
        Ok(())
    }

    /// Wake all waiters.
    ///
    /// Raises an exception that is a RuntimeError and an AssertionError if the lock isn't held.
    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.check_held(py, "notify")?;
        self.object.notify(self.object.storage(), usize::MAX);
        Ok(())
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let guard = self.guard()?;
        if guard.is_derived {
            return guard.lock.object(py).call_method0("__enter__");
        }
        let entered = guard.lock.enter(py)?;
        Ok(PyBool::new(py, entered).to_owned().into_any())
    }

    /// Whether some worker holds the condition's lock.
    fn locked(&self) -> PyResult<bool> {
        self.lock().map(AnyLock::is_locked)
    }

    #[pyo3(signature = (exc_type, exc_value, traceback, /))]
    fn __exit__<'py>(
        &self,
        py: Python<'py>,
        exc_type: &Bound<'py, PyAny>,
        exc_value: &Bound<'py, PyAny>,
        traceback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let guard = self.guard()?;
        if guard.is_derived {
            return guard
                .lock
                .object(py)
                .call_method1("__exit__", (exc_type, exc_value, traceback));
        }
        guard.lock.give_back(py)?;
        Ok(py.None().into_bound(py))
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = this.py();
        let base = PyType::new::<Self>(py);
        let condition = this.get();
        let arguments = PyTuple::new(py, [condition.lock()?.object(py)])?;
        object::reduce(this.as_any(), &base, &condition.object, arguments)
    }

    fn __eq__(&self, other: &Bound<'_, Self>) -> bool {
        object::is_same(&self.object, &other.get().object)
    }

    fn __hash__(&self) -> u64 {
        self.object.identity()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let lock = self.lock()?.object(py).repr()?;
        let waiters = self.object.waiters(self.object.storage());
        Ok(format!(
            "<freethreading.Condition over {lock}, {waiters} waiting>"
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.guard.get().map(|guard| &guard.lock) {
            Some(AnyLock::Plain(lock)) => visit.call(lock),
            Some(AnyLock::Reentrant(lock)) => visit.call(lock),
            None => Ok(()),
        }
    }
}
