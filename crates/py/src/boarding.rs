// SPDX-License-Identifier: MIT
//! Boarding: which objects are kept by a message that is being pickled, until it is read.
//!
//! A handle that a message's pickler asks for is read when the message is, so the message keeps the
//! object. One that is pickled apart in between (by somebody's `__reduce__`, to bytes of its own) may
//! be read at any time later: its object stays until the family ends, like that of any other pickle.
//! The two are told apart by the Python code that is running: it is the same as when pickling began,
//! if the pickler itself asks.

#![expect(
    unsafe_code,
    reason = "a function of the C API that PyO3 has no wrapper for"
)]

use core::cell::RefCell;

use freethreading_core::family::Family;
use freethreading_core::storage::{Object, Passenger, Shareable, Storage};
use pyo3::ffi;
use pyo3::prelude::*;

thread_local! {
    /// The message that this thread is pickling.
    static BOARDING: RefCell<Option<Boarding>> = const { RefCell::new(None) };
}

/// A message that is being pickled.
struct Boarding {
    family: &'static Family,
    /// Where the Python code runs that has it pickled: an address to compare with.
    frame: usize,
    passengers: Vec<Passenger>,
}

/// Puts back what was there before, whatever happens.
struct Outer(Option<Boarding>);

impl Drop for Outer {
    fn drop(&mut self) {
        BOARDING.set(self.0.take());
    }
}

/// Runs `pickle`, for a message in a storage; also returns the objects that the message must keep.
pub(crate) fn while_boarding<R>(
    py: Python<'_>,
    storage: Storage,
    pickle: impl FnOnce() -> R,
) -> (R, Vec<Passenger>) {
    let new = storage.family().map(|family| Boarding {
        family,
        frame: running(py),
        passengers: Vec::new(),
    });
    // One message may be put while another is pickled.
    let outer = Outer(BOARDING.replace(new));
    let result = pickle();
    let passengers = BOARDING.take().map(|it| it.passengers).unwrap_or_default();
    drop(outer);
    (result, passengers)
}

/// Begins the pickling of this thread's message again, from where the caller's Python code runs.
#[pyfunction]
pub(crate) fn board_anew(py: Python<'_>) {
    let frame = running(py);
    let abandoned = BOARDING.with_borrow_mut(|boarding| {
        let boarding = boarding.as_mut()?;
        boarding.frame = frame;
        Some(core::mem::take(&mut boarding.passengers))
    });
    drop(abandoned);
}

/// Has the message that is being pickled keep an object that it names; false if that isn't what the
/// handle is for.
pub(crate) fn board<T: Shareable>(py: Python<'_>, object: &Object<T>) -> bool {
    if BOARDING.with_borrow(Option::is_none) {
        return false;
    }
    // Not while it is borrowed: up to 3.11 a garbage collection may come of it, and put a message.
    let frame = running(py);
    BOARDING.with_borrow_mut(|boarding| {
        let boarding = boarding.as_mut().filter(|it| it.frame == frame);
        boarding.is_some_and(|it| {
            let passenger = object.passenger(it.family);
            let is_aboard = passenger.is_some();
            it.passengers.extend(passenger);
            is_aboard
        })
    })
}

/// Which call of Python code is running in this thread; zero for none.
fn running(_attached: Python<'_>) -> usize {
    // SAFETY: attached. The frame isn't used, and lives as long as the call that it is compared for.
    unsafe { ffi::PyEval_GetFrame() }.addr()
}
