// SPDX-License-Identifier: MIT
//! How a thread waits, as the algorithms see it: spin a little, then sleep on a futex.
//!
//! The algorithms are handed a [`Park`], so they know neither the system call nor what the
//! language above wants done around it (release an interpreter lock, run signal handlers).
//!
//! Invariant: every algorithm takes [`Parked::Retry`] to mean nothing but "look again". So a
//! sleep may end early at any time, and sleeps in shared memory do end every [`HEARTBEAT`]:
//! then a waiter sees what nobody lived to tell it (an owner that died, a waker that was
//! killed between its store and its wake-up).

use core::time::Duration;

use crate::deadline::{Deadline, earlier};
use crate::futex::{self, FutexWord, Scope, Woken};

/// The longest sleep in shared memory before a waiter looks around.
///
/// A look takes about 120 microseconds, as all caches are cold by then and the kernel is asked
/// about a holder, so an idle waiter uses 0.025 % of a core, and a death is noticed within half a
/// second.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

/// Why [`Park::park`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Parked {
    /// Look at the word again.
    Retry,
    /// The caller's deadline has passed.
    TimedOut,
    /// The caller wants the operation abandoned.
    Interrupted,
}

/// A way to wait.
pub trait Park {
    /// Sleeps while `word` is `expected`, at most until `deadline`.
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked;

    /// Waits for `is_ready` without sleeping, for as long as that is likely to be shorter than
    /// a sleep and a wake-up; says whether it came true.
    fn spin(&self, is_ready: impl FnMut() -> bool) -> bool {
        crate::spin::spin(is_ready)
    }
}

/// Sleeps once, at most a [`HEARTBEAT`] in shared memory; a signal is reported.
pub fn sleep(
    word: &impl FutexWord,
    expected: u32,
    scope: Scope,
    deadline: Option<Deadline>,
) -> Woken {
    let until = match scope {
        Scope::Private => deadline,
        Scope::Shared => earlier(deadline, Deadline::after(HEARTBEAT)),
    };
    match futex::wait(word, expected, scope, until) {
        Woken::ByDeadline if until != deadline => Woken::Maybe,
        woken => woken,
    }
}

/// Waits that signals don't end: for internal critical sections and for Rust programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uninterruptible;

impl Park for Uninterruptible {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        match sleep(word, expected, scope, deadline) {
            Woken::Maybe | Woken::BySignal => Parked::Retry,
            Woken::ByDeadline => Parked::TimedOut,
        }
    }
}
