// SPDX-License-Identifier: MIT
//! Waiting without the interpreter: every blocking call detaches, and comes back for signals.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use freethreading_core::deadline::{Deadline, earlier};
use freethreading_core::futex::{FutexWord, Scope, Woken};
use freethreading_core::park::{Park, Parked, sleep};
use pyo3::prelude::*;

use crate::runtime::is_main_thread;

/// The main thread's first sleep and the ones after it. A signal that comes just before a
/// sleep doesn't end it, so the main thread looks for signals by itself after a while.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const NEXT_LOOK: Duration = Duration::from_millis(500);

/// A wait that runs Python's signal handlers, and ends with the exception that they raise.
pub(crate) struct Interruptible {
    /// Known only once it matters: it takes two system calls.
    is_main_thread: Cell<Option<bool>>,
    has_slept: Cell<bool>,
    error: RefCell<Option<PyErr>>,
}

impl Interruptible {
    fn new() -> Self {
        Self {
            is_main_thread: Cell::new(None),
            has_slept: Cell::new(false),
            error: RefCell::new(None),
        }
    }

    /// Whether a signal handler has raised an exception already.
    pub(crate) fn has_error(&self) -> bool {
        self.error.borrow().is_some()
    }

    fn is_main_thread(&self) -> bool {
        let known = self.is_main_thread.get();
        known.unwrap_or_else(|| {
            let is_main_thread = is_main_thread();
            self.is_main_thread.set(Some(is_main_thread));
            is_main_thread
        })
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method by its name has too narrow a lifetime"
    )]
    fn run_signal_handlers(&self) -> Parked {
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => Parked::Retry,
            Err(error) => {
                *self.error.borrow_mut() = Some(error);
                Parked::Interrupted
            }
        }
    }
}

impl Park for Interruptible {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        // Only the main thread runs handlers; the others needn't wake for them.
        if !self.is_main_thread() {
            return match sleep(word, expected, scope, deadline) {
                Woken::Maybe | Woken::BySignal => Parked::Retry,
                Woken::ByDeadline => Parked::TimedOut,
            };
        }
        let look = if self.has_slept.replace(true) {
            NEXT_LOOK
        } else {
            FIRST_LOOK
        };
        let until = earlier(deadline, Deadline::after(look));
        match sleep(word, expected, scope, until) {
            Woken::Maybe => Parked::Retry,
            Woken::ByDeadline if until == deadline => Parked::TimedOut,
            Woken::ByDeadline | Woken::BySignal => self.run_signal_handlers(),
        }
    }
}

/// Runs a waiting operation detached; the exception of a signal handler comes first.
pub(crate) fn wait<R: Send>(
    py: Python<'_>,
    operation: impl FnOnce(&Interruptible) -> R + Send,
) -> PyResult<R> {
    let (result, error) = py.detach(|| {
        let park = Interruptible::new();
        let result = operation(&park);
        (result, park.error.into_inner())
    });
    error.map_or(Ok(result), Err)
}
