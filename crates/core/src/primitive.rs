// SPDX-License-Identifier: MIT
//! The one place that names the atomics of the standard library, so that a model checker can
//! be put in their place.

#![allow(
    clippy::disallowed_types,
    reason = "this is the switch that the lint protects"
)]

#[cfg(loom)]
pub(crate) mod modelled;

/// What stays real in a model: the registries of a process, which aren't what is modelled and
/// would only multiply the interleavings.
pub(crate) mod unmodelled {
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32};
    #[cfg(loom)]
    pub(crate) use core::sync::atomic::{AtomicU64, fence};
}

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::fence;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
pub(crate) use core::sync::atomic::{Ordering, compiler_fence};
#[cfg(loom)]
pub(crate) use modelled::{AtomicU32, AtomicU64, fence};
pub(crate) use unmodelled::AtomicPtr;

/// A full fence (as `fence(SeqCst)`) for a thread that has just swapped or exchanged a value, and
/// uses what it got.
///
/// On x86 that was a locked instruction, which no load or store passes, so only the compiler is left
/// to be told; a fence instruction takes longer than the exchange did.
#[inline]
pub(crate) fn fence_after_update() {
    if cfg!(all(target_arch = "x86_64", not(loom), not(miri))) {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}
