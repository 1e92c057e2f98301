// SPDX-License-Identifier: MIT
//! The native module of the Python package: shells around `freethreading-core` that parse
//! arguments, let go of the interpreter while they wait, and map outcomes to Python.
//!
//! Every class is frozen and holds a counted reference to an object of atomics, so methods
//! take `&self` and need no lock of their own. No Python code runs while an internal lock of
//! the core is held.

#![deny(unsafe_code)]
#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of classes are Python's docstrings"
)]

use pyo3::prelude::*;

mod any_lock;
mod arguments;
mod barrier;
mod boarding;
mod condition;
mod derived;
mod encoding;
mod errors;
mod event;
#[cfg(feature = "faults")]
mod faults;
mod fork;
mod holder;
mod imported;
mod large;
mod lock;
mod made;
mod message;
mod object;
mod picklable;
mod pool;
mod queue;
mod rlock;
mod runtime;
mod semaphore;
mod shield;
mod shortcut;
mod simple_queue;
mod transfer;
mod wait;
mod watchdog;

/// The engine of freethreading.
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::barrier::Barrier;
    #[pymodule_export]
    use super::boarding::board_anew;
    #[pymodule_export]
    use super::condition::Condition;
    #[pymodule_export]
    use super::event::Event;
    #[pymodule_export]
    use super::large::received_buffer;
    #[pymodule_export]
    use super::lock::Lock;
    #[pymodule_export]
    use super::object::restore;
    #[pymodule_export]
    use super::picklable::{check_arguments, check_picklable};
    #[pymodule_export]
    use super::pool::{EngineHandle, Feeder, JobHandle, Link, Results, restore_link};
    #[pymodule_export]
    use super::queue::Queue;
    #[pymodule_export]
    use super::rlock::RLock;
    #[pymodule_export]
    use super::runtime::{
        family_cancel, family_disown, family_id, family_join, family_name, family_reap,
        family_reserve, family_statistics, set_backend, usable_cpus,
    };
    #[pymodule_export]
    use super::semaphore::{BoundedSemaphore, Semaphore};
    #[pymodule_export]
    use super::simple_queue::SimpleQueue;
    #[pymodule_export]
    use super::watchdog::{process_start_time, watch_parent};

    use pyo3::prelude::*;

    use super::derived::allow_own_init;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let py = module.py();
        super::message::initialize();
        #[cfg(feature = "faults")]
        super::faults::add(module)?;
        Lock::add_shortcuts(py)?;
        RLock::add_shortcuts(py)?;
        Semaphore::add_shortcuts(py)?;
        BoundedSemaphore::add_shortcuts(py)?;
        Event::add_shortcuts(py)?;
        Condition::add_shortcuts(py)?;
        Queue::add_shortcuts(py)?;
        SimpleQueue::add_shortcuts(py)?;
        allow_own_init::<Lock>(py, ())?;
        allow_own_init::<RLock>(py, ())?;
        allow_own_init::<Semaphore>(py, ())?;
        allow_own_init::<BoundedSemaphore>(py, ())?;
        allow_own_init::<Event>(py, ())?;
        allow_own_init::<Condition>(py, ())?;
        allow_own_init::<Barrier>(py, (1,))?;
        allow_own_init::<Queue>(py, ())?;
        allow_own_init::<SimpleQueue>(py, ())?;
        super::fork::register(py)
    }
}
