// SPDX-License-Identifier: MIT
//! What the models share.
//!
//! A model fails when an assertion does, when all its threads are blocked (a wake-up was lost),
//! or when a [`Witness`] is accessed by two threads in no order.

#![allow(dead_code, reason = "each model uses its own part of this")]

use std::rc::Rc;

pub(crate) use freethreading_core::model::{Clock, check, fresh};
pub(crate) use freethreading_core::park::Uninterruptible;
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
