// SPDX-License-Identifier: MIT
//! Large buffers that several tasks of one call have in common: stored once, and copied by a worker
//! page by page as it writes to them.
//!
//! A buffer is known by its place in memory. Those that are known are held, so that nothing else
//! can come to lie there, until the call is done. That is right for items that are all there when
//! the call is made; an iterator may change what it gave before, and shares nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use freethreading_core::storage::{Blob, BlobName, Storage};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::large::Large;
use crate::message::Pickled;
use crate::picklable::is_scalar;

/// So many buffers are held that were met once.
const MOST_SINGLE: usize = 4;

/// The buffers that tasks of a call may have in common.
#[derive(Default)]
pub(super) struct Common(Mutex<Vec<Known>>);

/// A buffer that was met.
struct Known {
    buffer: PyUntypedBuffer,
    /// Where it is stored for all; nowhere as long as it was met once.
    blob: Option<Blob>,
}

impl Known {
    fn is(&self, buffer: &PyUntypedBuffer) -> bool {
        self.buffer.buf_ptr() == buffer.buf_ptr() && self.buffer.len_bytes() == buffer.len_bytes()
    }
}

impl Common {
    /// A pickle and its large buffers, on their way to a task. `comes_again`: another task will
    /// need them, too.
    pub(super) fn encode(
        &self,
        py: Python<'_>,
        storage: Storage,
        pickled: Pickled<'_>,
        comes_again: bool,
    ) -> PyResult<Large> {
        let mut names = Vec::with_capacity(pickled.buffers.len());
        let mut stored = Vec::with_capacity(pickled.buffers.len());
        for buffer in &pickled.buffers {
            let (name, was_met) = self.find(buffer);
            let blob = match name {
                None if was_met || comes_again => Some(Large::store(py, storage, buffer)?),
                _ => None,
            };
            names.push(blob.as_ref().map(Blob::name).or(name));
            stored.push(blob);
        }
        let large = Large::of_pickle_in_parts(py, storage, &pickled, &names)?;
        let unused: Vec<_> = pickled
            .buffers
            .into_iter()
            .zip(stored)
            .filter_map(|(buffer, blob)| self.remember(Known { buffer, blob }))
            .collect();
        // Not under the lock: releasing a buffer may run anybody's code.
        drop(unused);
        Ok(large)
    }

    /// Where a buffer is stored for all, if it is, and whether it was met before.
    fn find(&self, buffer: &PyUntypedBuffer) -> (Option<BlobName>, bool) {
        let known = self.lock();
        let mut met = known.iter().filter(|it| it.is(buffer)).peekable();
        let was_met = met.peek().is_some();
        (met.find_map(|it| it.blob.as_ref().map(Blob::name)), was_met)
    }

    /// Keeps what a task was sent; what needn't be kept comes back.
    fn remember(&self, new: Known) -> Option<Known> {
        let mut known = self.lock();
        if new.blob.is_some() {
            known.push(new);
            return None;
        }
        if known.iter().any(|it| it.is(&new.buffer)) {
            return Some(new);
        }
        let mut single = (0..known.len()).filter(|&at| known[at].blob.is_none());
        let oldest = single.next().filter(|_| single.count() + 1 >= MOST_SINGLE);
        let forgotten = oldest.map(|at| known.remove(at));
        known.push(new);
        forgotten
    }

    /// Keeps nothing any more: no task that was sent is still to be run.
    pub(super) fn clear(&self) {
        let known = core::mem::take(&mut *self.lock());
        drop(known);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two items are the same object, or tuples that have one in common.
pub(super) fn have_in_common(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
    if one.is(other) {
        return true;
    }
    let (Ok(one), Ok(other)) = (one.cast::<PyTuple>(), other.cast::<PyTuple>()) else {
        return false;
    };
    one.iter_borrowed()
        .zip(other.iter_borrowed())
        .any(|(one, other)| one.is(&*other) && !is_scalar(&one))
}
