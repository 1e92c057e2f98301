// SPDX-License-Identifier: MIT
//! Synchronization primitives and queues that work the same between threads and between
//! processes.
//!
//! Every primitive is a `#[repr(C)]` struct of atomics that is valid all-zero and holds no
//! pointer; a [`storage::Storage`] says where it lives (this process's heap, or a memory file
//! mapped by every process of a [`family::Family`]) and hence how its waiters are woken.
//!
//! Layers, each importing only those above it: [`futex`] and [`process`] (what the kernel
//! offers), [`family`] (shared memory and who is alive), [`storage`] (where an object lives),
//! [`sync`] and [`queue`] (the algorithms).

#[cfg(not(target_os = "linux"))]
compile_error!("freethreading-core is native on Linux only; other platforms are not ready yet");

mod crash;
#[cfg(any(test, feature = "faults"))]
pub use crash::faults;
pub mod deadline;
pub mod family;
pub mod futex;
#[cfg(loom)]
pub mod model;
pub mod park;
pub mod pool;
mod primitive;
pub mod process;
pub mod queue;
mod spin;
pub mod storage;
pub mod sync;
