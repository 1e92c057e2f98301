// SPDX-License-Identifier: MIT
//! The moments between two stores at which a process may be killed.
//!
//! SIGKILL stops a process between two instructions, and all that it stored before becomes
//! visible. So what it leaves in shared memory is a prefix of its stores, in the order in which
//! the compiler left them. A [`step!`] stands before and after each store that other processes can
//! see: the compiler moves nothing over it, and the tests of this crate kill a process at each of
//! them, by its name. With the feature `faults` any program can be told to do that: see `faults`.

use crate::primitive::{Ordering, compiler_fence};

#[cfg(any(test, feature = "faults"))]
pub mod faults;
pub(crate) mod steps;

/// A survivor may find the stores before this and none of those after it. No instruction.
macro_rules! step {
    ($name:literal) => {
        $crate::crash::reach(const { $crate::crash::steps::number($name) })
    };
}
pub(crate) use step;

/// See [`step!`].
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "it is a fence for its caller's stores"
)]
pub(crate) fn reach(number: u32) {
    compiler_fence(Ordering::SeqCst);
    #[cfg(any(test, feature = "faults"))]
    faults::reach(number);
    #[cfg(not(any(test, feature = "faults")))]
    let _ = number;
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
