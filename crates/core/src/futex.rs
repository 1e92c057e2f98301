// SPDX-License-Identifier: MIT
//! The kernel's futex: sleep while a word has a value, and wake who sleeps on it.
//!
//! Two things differ from the standard library's futex layer. The private flag depends on
//! where the word lives ([`Scope`]), and a signal ends the wait ([`Woken::BySignal`]), so that
//! the handlers of the language above can run.

#[cfg(miri)]
mod interpreted;
#[cfg(not(loom))]
#[cfg_attr(miri, expect(unreachable_pub, reason = "behind `interpreted`"))]
mod kernel;
#[cfg(loom)]
pub(crate) mod modelled;

#[cfg(miri)]
pub use interpreted::{wait, wake};
#[cfg(not(any(loom, miri)))]
pub use kernel::{wait, wake};
#[cfg(loom)]
pub use modelled::{wait, wake};

use crate::primitive::{AtomicU32, AtomicU64};

/// Who can meet in a futex word: the threads of this process, or all who map its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The word is in memory of this process alone.
    Private,
    /// The word is in memory that other processes map, too.
    Shared,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Woken {
    /// The word had changed, somebody woke us, or for no reason: look at the word again.
    Maybe,
    /// The deadline has passed.
    ByDeadline,
    /// A signal handler ran in this thread.
    BySignal,
}

/// An atomic that threads can sleep on: the kernel looks at its low 32 bits.
pub trait FutexWord: Sync {
    /// The part that the kernel looks at. For its address only: nobody loads or stores through
    /// it, because atomic accesses of two sizes to one place don't mix.
    fn low_half(&self) -> &AtomicU32;

    /// The atomic, if it has another half.
    #[cfg(miri)]
    fn whole(&self) -> Option<&AtomicU64> {
        None
    }
}

impl FutexWord for AtomicU32 {
    fn low_half(&self) -> &AtomicU32 {
        self
    }
}

#[cfg(target_endian = "little")]
impl FutexWord for AtomicU64 {
    fn low_half(&self) -> &AtomicU32 {
        // SAFETY: valid and aligned, since the whole is, and its low half comes first; as the
        // trait says, no access of this process goes through it.
        unsafe { AtomicU32::from_ptr(self.as_ptr().cast()) }
    }

    #[cfg(miri)]
    fn whole(&self) -> Option<&AtomicU64> {
        Some(self)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::deadline::Deadline;
    use crate::primitive::{AtomicU32, Ordering};

    #[test]
    fn a_changed_word_does_not_sleep() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, Scope::Private, None), Woken::Maybe);
    }

    #[test]
    fn a_deadline_ends_the_sleep() {
        let word = AtomicU32::new(0);
        for scope in [Scope::Private, Scope::Shared] {
            let deadline = Deadline::after(Duration::from_millis(5));
            assert_eq!(wait(&word, 0, scope, deadline), Woken::ByDeadline);
            assert!(deadline.expect("in range").has_passed());
        }
    }

    #[test]
    fn a_wake_ends_the_sleep() {
        for scope in [Scope::Private, Scope::Shared] {
            let word = AtomicU32::new(0);
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    while word.load(Ordering::Acquire) == 0 {
                        let _ = wait(&word, 0, scope, None);
                    }
                });
                word.store(1, Ordering::Release);
                wake(&word, u32::MAX, scope);
            });
        }
    }
}
