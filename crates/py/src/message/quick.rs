// SPDX-License-Identifier: MIT
//! The messages that shortcuts put and take: references, and scalars that a few instructions
//! encode. Nothing here runs Python code.

use core::cell::Cell;
use core::ffi::c_int;

use freethreading_core::queue::{Attempt, Put, Queue};
use freethreading_core::storage::Object;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt};
use pyo3::{Borrowed, ffi};

use super::{own, tag};
use crate::shortcut::Answer;

/// Puts `item` if that needs neither waiting nor pickling; says whether it did.
#[inline]
pub(crate) fn try_put(queue: &Object<Queue>, item: Borrowed<'_, '_, PyAny>) -> bool {
    let storage = queue.storage();
    let put =
        |tag, message: &[u8]| queue.try_put(storage, tag, &[message]) == Attempt::Ended(Put::Done);
    if storage.family().is_some() {
        return Scalar::of(item).is_some_and(|scalar| scalar.put_with(put));
    }
    // The queue's reference is counted before anybody can take it out.
    let queued = item.to_owned();
    let address = queued.as_ptr().expose_provenance() as u64;
    let is_put = put(tag::REFERENCE, &address.to_ne_bytes());
    if is_put {
        let _ = queued.into_ptr();
    }
    is_put
}

/// Whether a get may wait for a message, if only for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It may not.
    Once,
    /// It may.
    Briefly,
}

/// Takes the oldest item, if there is one (soon), and nothing needs to be unpickled.
#[inline]
pub(crate) fn try_get<'py>(
    py: Python<'py>,
    queue: &Object<Queue>,
    look: Look,
) -> Option<Answer<'py>> {
    let storage = queue.storage();
    let is_for_others = Cell::new(false);
    let take = || {
        queue.try_get_if(storage, |tag, message| {
            let taken = Taken::read(tag, message, storage.family().is_none());
            is_for_others.set(taken.is_none());
            taken
        })
    };
    let taken = match take() {
        None if look == Look::Briefly && !is_for_others.get() && queue.glance() => take(),
        taken => taken,
    };
    taken.map(|taken| taken.into_answer(py))
}

/// A scalar on its way into shared memory.
enum Scalar {
    /// The tag says it all.
    Tag(u32),
    Word(u32, [u8; 8]),
}

impl Scalar {
    #[inline]
    fn of(item: Borrowed<'_, '_, PyAny>) -> Option<Self> {
        if item.is_exact_instance_of::<PyInt>() {
            let mut overflow: c_int = 0;
            // SAFETY: an int, and a place for the overflow. With an exact int it raises nothing.
            let value =
                unsafe { ffi::PyLong_AsLongLongAndOverflow(item.as_ptr(), &raw mut overflow) };
            return (overflow == 0).then(|| Self::Word(tag::INT, value.to_le_bytes()));
        }
        if let Ok(value) = item.cast_exact::<PyFloat>() {
            return Some(Self::Word(tag::FLOAT, value.value().to_le_bytes()));
        }
        if item.is_none() {
            return Some(Self::Tag(tag::NONE));
        }
        let value = item.cast_exact::<PyBool>().ok()?;
        Some(Self::Tag(if value.is_true() {
            tag::TRUE
        } else {
            tag::FALSE
        }))
    }

    #[inline]
    fn put_with(&self, put: impl Fn(u32, &[u8]) -> bool) -> bool {
        match self {
            Self::Tag(tag) => put(*tag, &[]),
            Self::Word(tag, word) => put(*tag, word),
        }
    }
}

/// A message copied out of a queue.
enum Taken {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Reference(u64),
}

impl Taken {
    /// `None` for what the other way is for: text, bytes, pickles, and what is malformed.
    #[inline]
    fn read(tag: u32, message: &[u8], is_private: bool) -> Option<Self> {
        let word = || <[u8; 8]>::try_from(message).ok();
        match tag {
            tag::REFERENCE if is_private => word().map(u64::from_ne_bytes).map(Self::Reference),
            tag::INT => word().map(i64::from_le_bytes).map(Self::Int),
            tag::FLOAT => word().map(f64::from_le_bytes).map(Self::Float),
            tag::NONE => Some(Self::None),
            tag::TRUE => Some(Self::Bool(true)),
            tag::FALSE => Some(Self::Bool(false)),
            _ => None,
        }
    }

    #[inline]
    fn into_answer(self, py: Python<'_>) -> Answer<'_> {
        let object = match self {
            Self::None => return Answer::None,
            Self::Bool(value) => return value.into(),
            Self::Reference(address) => return Answer::Object(Some(own(py, address))),
            // SAFETY: attached.
            Self::Int(value) => unsafe { ffi::PyLong_FromLongLong(value) },
            // SAFETY: attached.
            Self::Float(value) => unsafe { ffi::PyFloat_FromDouble(value) },
        };
        // SAFETY: a new reference, or null and MemoryError.
        Answer::Object(unsafe { Bound::from_owned_ptr_or_opt(py, object) })
    }
}
