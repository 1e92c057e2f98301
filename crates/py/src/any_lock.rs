// SPDX-License-Identifier: MIT
//! The lock under a condition: ours, of either kind.

use freethreading_core::park::Park;
use freethreading_core::storage::{Storage, Token};
use freethreading_core::sync::{Acquire, NotHeld, SavedDepth};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::lock::Lock;
use crate::rlock::RLock;
use crate::wait::Interruptible;

/// The lock under a condition.
pub(crate) enum AnyLock {
    Plain(Py<Lock>),
    Reentrant(Py<RLock>),
}

/// What to restore when the lock is taken again.
pub(crate) enum Saved {
    Plain,
    Reentrant(SavedDepth),
}

impl AnyLock {
    pub(crate) fn new(lock: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(lock) = lock.cast::<Lock>() {
            return Ok(Self::Plain(lock.clone().unbind()));
        }
        if let Ok(lock) = lock.cast::<RLock>() {
            return Ok(Self::Reentrant(lock.clone().unbind()));
        }
        let class = lock.get_type().fully_qualified_name()?;
        Err(PyTypeError::new_err(format!(
            "lock must be a freethreading.Lock, a freethreading.RLock or None, not {class}"
        )))
    }

    pub(crate) fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Self::Plain(lock) => lock.bind(py).as_any(),
            Self::Reentrant(lock) => lock.bind(py).as_any(),
        }
    }

    pub(crate) fn is_derived(&self, py: Python<'_>) -> bool {
        match self {
            Self::Plain(lock) => !lock.bind(py).is_exact_instance_of::<Lock>(),
            Self::Reentrant(lock) => !lock.bind(py).is_exact_instance_of::<RLock>(),
        }
    }

    /// `with lock:`
    #[inline]
    pub(crate) fn enter(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Self::Plain(lock) => lock.get().enter(py),
            Self::Reentrant(lock) => lock.get().enter(py),
        }
    }

    #[inline]
    pub(crate) fn give_back(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Plain(lock) => lock.get().give_back(py),
            Self::Reentrant(lock) => lock.get().give_back(py),
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub(crate) fn try_enter(&self) -> bool {
        match self {
            Self::Plain(lock) => {
                let object = lock.get().object();
                object.try_acquire(object.storage())
            }
            Self::Reentrant(lock) => {
                let object = lock.get().object();
                object.try_acquire(object.storage())
            }
        }
    }

    /// Frees the lock if it is held.
    #[inline]
    pub(crate) fn try_give_back(&self) -> bool {
        match self {
            Self::Plain(lock) => {
                let object = lock.get().object();
                object.release(object.storage()).is_ok()
            }
            Self::Reentrant(lock) => {
                let object = lock.get().object();
                object.release(object.storage()).is_ok()
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Plain(_) => "Lock",
            Self::Reentrant(_) => "RLock",
        }
    }

    pub(crate) fn is_locked(&self) -> bool {
        match self {
            Self::Plain(lock) => lock.get().object().is_locked(),
            Self::Reentrant(lock) => lock.get().object().is_locked(),
        }
    }

    /// Whether the caller may wait and notify. A plain lock doesn't know who holds it.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Plain(lock) => lock.get().object().is_locked(),
            Self::Reentrant(lock) => {
                let object = lock.get().object();
                object.is_held(object.storage())
            }
        }
    }

    pub(crate) fn release_all(&self) -> Result<Saved, NotHeld> {
        match self {
            Self::Plain(lock) => {
                let object = lock.get().object();
                object.release(object.storage()).map(|()| Saved::Plain)
            }
            Self::Reentrant(lock) => {
                let object = lock.get().object();
                object.release_all(object.storage()).map(Saved::Reentrant)
            }
        }
    }

    /// Takes the lock again, for the caller is going to release it; says who died holding it
    /// meanwhile. Signal handlers run; only after a second one that raises an exception it gives
    /// up.
    pub(crate) fn take_back(
        &self,
        saved: Saved,
        park: &Interruptible,
    ) -> Result<(), Option<Token>> {
        let mut dead = Ok(());
        loop {
            let was_interrupted = park.has_error();
            match self.acquire(park) {
                Acquire::Acquired => break,
                Acquire::OwnerDied(owner) => dead = Err(owner),
                Acquire::Interrupted if was_interrupted => return dead,
                Acquire::TimedOut | Acquire::Interrupted => {}
            }
        }
        if let (Self::Reentrant(lock), Saved::Reentrant(depth)) = (self, saved) {
            lock.get().object().restore_depth(depth);
        }
        dead
    }

    fn acquire(&self, park: &impl Park) -> Acquire {
        match self {
            Self::Plain(lock) => {
                let object = lock.get().object();
                object.acquire(object.storage(), None, park)
            }
            Self::Reentrant(lock) => {
                let object = lock.get().object();
                object.acquire(object.storage(), None, park)
            }
        }
    }

    pub(crate) fn storage(&self) -> Storage {
        match self {
            Self::Plain(lock) => lock.get().object().storage(),
            Self::Reentrant(lock) => lock.get().object().storage(),
        }
    }
}
