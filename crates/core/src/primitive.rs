// SPDX-License-Identifier: MIT
//! The one place that names the atomics of the standard library, so that a model checker can
//! be put in their place.

#![allow(
    clippy::disallowed_types,
    reason = "this is the switch that the lint protects"
)]

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};
