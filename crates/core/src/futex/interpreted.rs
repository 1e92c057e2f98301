// SPDX-License-Identifier: MIT
//! The system calls under Miri, which takes the kernel's look at half of a word for a load of
//! the program's, and a program mustn't mix the sizes of its accesses to one place.
//!
//! So who sleeps on half of a word sleeps on [`WAKE_UPS`] there, which every such wake-up changes
//! and ends all those sleeps with. They may end early, as any; none outlasts its wake-up: it
//! comes after the word's change, so either the look here sees that, or `WAKE_UPS` changes after
//! it was loaded.
//!
//! Orderings: all Relaxed, for the kernel's look orders nothing, and ordering more than it does
//! would hide what Miri is there to find. (The wake-up itself orders waker and woken, in Miri as
//! in loom.)

use super::{FutexWord, Scope, Woken, kernel};
use crate::deadline::Deadline;
use crate::primitive::{AtomicU32, Ordering};

static WAKE_UPS: AtomicU32 = AtomicU32::new(0);

/// Sleeps while the low half of `word` is `expected`, at most until `deadline`.
#[expect(clippy::cast_possible_truncation, reason = "the low half of the word")]
pub fn wait(
    word: &impl FutexWord,
    expected: u32,
    scope: Scope,
    deadline: Option<Deadline>,
) -> Woken {
    let Some(whole) = word.whole() else {
        return kernel::wait(word, expected, scope, deadline);
    };
    let wake_ups = WAKE_UPS.load(Ordering::Relaxed);
    // An addition of nothing, not a load, which might return a value that isn't the newest.
    if whole.fetch_add(0, Ordering::Relaxed) as u32 != expected {
        return Woken::Maybe;
    }
    kernel::wait(&WAKE_UPS, wake_ups, Scope::Private, deadline)
}

/// Wakes up to `count` sleepers, or all; says how many there were.
pub fn wake(word: &impl FutexWord, count: u32, scope: Scope) -> usize {
    if word.whole().is_none() {
        return kernel::wake(word, count, scope);
    }
    WAKE_UPS.fetch_add(1, Ordering::Relaxed);
    kernel::wake(&WAKE_UPS, u32::MAX, Scope::Private)
}
