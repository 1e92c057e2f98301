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
    #[cfg(loom)]
    pub(crate) use core::sync::atomic::AtomicU64;
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32};
}

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
pub(crate) use core::sync::atomic::{Ordering, compiler_fence};
#[cfg(loom)]
pub(crate) use modelled::{AtomicU32, AtomicU64};
pub(crate) use unmodelled::AtomicPtr;
