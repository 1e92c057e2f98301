// SPDX-License-Identifier: MIT
//! What the loom models of this crate need; there is none of it outside of them.

use core::time::Duration;

use crate::deadline::Deadline;
use crate::futex::modelled as futex;
use crate::park::Park;
pub use crate::primitive::modelled::{AtomicU32, AtomicU64};
use crate::primitive::modelled::{World, thread_number};
use crate::storage::Storage;
use crate::sync::mutex::{Locked, RobustMutex};

/// Runs `body` in every order that differs from the others by what threads see, with at most
/// `preemptions` moments at which a thread is stopped that could go on.
///
/// # Panics
///
/// If one of the executions fails.
pub fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(move || {
        World::begin();
        body();
    });
    World::end();
}

/// An object for a model: made outside of [`check`], it is as new in each execution.
#[must_use]
pub fn fresh<T: Default>() -> &'static T {
    Box::leak(Box::default())
}

/// A clock that goes on when the model says so, and only once.
#[derive(Debug)]
#[must_use]
pub struct Clock(Deadline);

/// What passes when a [`Clock`] ticks.
#[derive(Clone, Copy, Debug)]
pub enum Tick {
    /// A time that a user gave, and none of the crate's own.
    Short,
    /// Also the time after which a waiter within the crate looks whether somebody has died.
    Long,
}

impl Clock {
    /// To be made before the model's other threads: until then nobody knows that time passes.
    ///
    /// # Panics
    ///
    /// Never: the clock starts at zero.
    pub fn new(tick: Tick) -> Self {
        let tick = match tick {
            Tick::Short => Duration::from_millis(1),
            Tick::Long => Duration::from_secs(1),
        };
        futex::wind_up(tick);
        Self(Deadline::after(tick).expect("in range"))
    }

    /// The moment to which the clock will go.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        Some(self.0)
    }

    /// Time passes.
    pub fn tick(self) {
        futex::tick(None);
    }

    /// Time passes, and the calling thread is dead as far as others can find out.
    pub fn die(self) {
        futex::tick(thread_number());
    }
}

/// The mutex of the crate's critical sections, as its models see it.
#[derive(Debug, Default)]
pub struct Mutex(RobustMutex);

impl Mutex {
    /// Takes the mutex; whether it did so from a holder that has died.
    ///
    /// # Panics
    ///
    /// If `park` gives up.
    #[must_use]
    pub fn lock(&self, park: &impl Park) -> bool {
        match self.0.lock_until(Storage::Private, park, None) {
            Locked::Clean => false,
            Locked::Recovered => true,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Frees the mutex.
    pub fn unlock(&self) {
        self.0.unlock(Storage::Private);
    }
}
