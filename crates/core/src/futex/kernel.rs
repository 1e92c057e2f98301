// SPDX-License-Identifier: MIT
//! The system calls.

use core::num::NonZeroU32;

use rustix::io::Errno;
use rustix::thread::futex::{Flags, wait_bitset, wake as futex_wake};

use super::{FutexWord, Scope, Woken};
use crate::deadline::Deadline;

impl Scope {
    fn flags(self) -> Flags {
        match self {
            Self::Private => Flags::PRIVATE,
            Self::Shared => Flags::empty(),
        }
    }
}

/// Sleeps while the low half of `word` is `expected`, at most until `deadline`.
pub fn wait(
    word: &impl FutexWord,
    expected: u32,
    scope: Scope,
    deadline: Option<Deadline>,
) -> Woken {
    // FUTEX_WAIT_BITSET takes an absolute time of the monotonic clock, plain FUTEX_WAIT only
    // a relative one, which would stretch with each signal.
    let until = deadline.map(Deadline::timespec);
    match wait_bitset(
        word.low_half(),
        scope.flags(),
        expected,
        until.as_ref(),
        NonZeroU32::MAX,
    ) {
        Err(Errno::TIMEDOUT) => Woken::ByDeadline,
        Err(Errno::INTR) => Woken::BySignal,
        // EAGAIN: the word had already changed. Anything else can't happen to a valid,
        // aligned reference; treated as a spurious wake it costs a turn of the caller's loop.
        Ok(()) | Err(_) => Woken::Maybe,
    }
}

/// Wakes up to `count` sleepers; says how many there were.
pub fn wake(word: &impl FutexWord, count: u32, scope: Scope) -> usize {
    // The kernel reads the count as a signed number.
    futex_wake(word.low_half(), scope.flags(), count.min(i32::MAX as u32)).unwrap_or(0)
}
