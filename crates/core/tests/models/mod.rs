// SPDX-License-Identifier: MIT
//! What the models share.
//!
//! A model fails when an assertion does, when all its threads are blocked (a wake-up was lost),
//! or when a [`Witness`] is accessed by two threads in no order.

#![allow(
    dead_code,
    unused_imports,
    reason = "each model uses its own part of this"
)]

use std::rc::Rc;

use freethreading_core::deadline::Deadline;
use freethreading_core::futex::{FutexWord, Scope};
pub(crate) use freethreading_core::model::{Clock, Tick, check, fresh};
pub(crate) use freethreading_core::park::Uninterruptible;
use freethreading_core::park::{Park, Parked};
pub(crate) use freethreading_core::storage::Storage::Private;
pub(crate) use loom::thread::spawn;

/// A number without any protection: loom objects if a change isn't ordered with all other
/// accesses by what is modelled.
#[derive(Clone, Default)]
pub(crate) struct Witness(Rc<loom::cell::Cell<u32>>);

impl Witness {
    pub(crate) fn count(&self) {
        self.0.set(self.0.get() + 1);
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.get()
    }
}

/// Sleeps, and gives up when it has slept: a wake-up that came must reach somebody else.
pub(crate) struct GivingUp;

impl Park for GivingUp {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        let _ = Uninterruptible.park(word, expected, scope, deadline);
        Parked::Interrupted
    }
}

/// Starts a thread.
pub(crate) fn thread<T: 'static>(body: impl FnOnce() -> T + 'static) -> Thread<T> {
    Thread(spawn(body))
}

pub(crate) struct Thread<T>(loom::thread::JoinHandle<T>);

impl<T> Thread<T> {
    pub(crate) fn join(self) -> T {
        self.0.join().expect("it doesn't panic")
    }
}

/// Starts the thread in which time passes.
pub(crate) fn tick(clock: Clock) -> Thread<()> {
    thread(|| clock.tick())
}
