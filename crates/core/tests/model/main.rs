// SPDX-License-Identifier: MIT
//! Random sequences of operations, in one thread, against models that are plainly right.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

mod barrier;
mod condition;
mod event;
mod locks;
mod queue;
mod semaphore;

use freethreading_core::storage::{Object, Shareable, Storage};
use proptest::prelude::*;
use support::shared;

fn both() -> [Storage; 2] {
    [Storage::Private, shared()]
}

fn new<T: Shareable>(storage: Storage) -> Object<T> {
    Object::new(storage).expect("memory")
}

/// Failures are shrunk and shown, not written into the sources.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
