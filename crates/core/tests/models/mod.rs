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

use std::cell::Cell;
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

/// Sleeps, having said so. What it says is exact: it is no step of the model.
#[derive(Clone, Default)]
pub(crate) struct Announcing(Rc<Cell<bool>>);

impl Announcing {
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.get()
    }
}

impl Park for Announcing {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        self.0.set(true);
        Uninterruptible.park(word, expected, scope, deadline)
    }
}

/// Sleeps as in shared memory, where sleeps end now and then so that a waiter sees what nobody
/// lived to tell it: here once, when the clock goes.
pub(crate) struct LookingAround {
    look: Option<Deadline>,
    has_looked: Cell<bool>,
    slept_before: Cell<bool>,
}

impl LookingAround {
    pub(crate) fn at(clock: &Clock) -> Self {
        Self {
            look: clock.deadline(),
            has_looked: Cell::new(false),
            slept_before: Cell::new(false),
        }
    }

    /// Whether it was about to sleep when the clock hadn't gone yet.
    pub(crate) fn slept_before(&self) -> bool {
        self.slept_before.get()
    }
}

impl Park for LookingAround {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        if self.has_looked.get() {
            return Uninterruptible.park(word, expected, scope, deadline);
        }
        if !self.look.is_some_and(Deadline::has_passed) {
            self.slept_before.set(true);
        }
        let parked = Uninterruptible.park(word, expected, scope, self.look);
        self.has_looked.set(parked == Parked::TimedOut);
        Parked::Retry
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
