// SPDX-License-Identifier: MIT
//! Putting messages into queues and taking them out, for all who have queues: at once if that can
//! be, else detached from the interpreter. And letting go of queues, and what is left in them.

use core::ops::Deref;
use core::sync::atomic::AtomicU64;

use freethreading_core::deadline::Deadline;
use freethreading_core::park::{Parked, Uninterruptible};
use freethreading_core::queue::{Attempt, Get, Patience, Put, Queue, Waited};
use freethreading_core::storage::{Blob, Object, OutOfMemory};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::errors::out_of_memory;
use crate::large::Large;
use crate::message::{Incoming, Outgoing, drop_disposed, visit_reference};
use crate::wait::wait;

/// What was read from a message, and the blob that came with it.
type Taken<R> = (R, Option<Blob>);

/// A queue of messages; the references in it are dropped with it.
pub(crate) struct Channel(Option<Object<Queue>>);

impl Deref for Channel {
    type Target = Object<Queue>;

    fn deref(&self) -> &Object<Queue> {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Channel {
    pub(crate) fn new(queue: Object<Queue>) -> Self {
        Self(Some(queue))
    }

    /// Shows a garbage collector what is in the queue.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Who else holds the queue keeps its items alive, too; then they aren't ours to show.
        if self.storage().family().is_some() || !self.is_sole() {
            return Ok(());
        }
        let mut result = Ok(());
        self.try_visit(self.storage(), |tag, message| {
            visit_reference(tag, message, |item| {
                if result.is_ok() {
                    result = visit.call(item);
                }
            });
        });
        result
    }

    /// Drops what is in the queue, if it is garbage with it.
    pub(crate) fn clear(&self, py: Python<'_>) {
        if self.storage().family().is_some() || !self.is_sole() {
            return;
        }
        let read = |tag, message: &[u8]| Incoming::read_any(tag, message);
        while let Ok(Some((item, blob))) = take(py, self, None, Patience::None, read) {
            drop(item.into_object(py, self.storage(), blob));
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let queue = self.0.take();
        let _ = Python::try_attach(|py| {
            // If it is freed by that, its references are on the list of this thread then.
            drop(queue);
            drop_disposed(py);
        });
    }
}

/// Puts a message that begins with `head`, its tag marked with `mark`; false if the queue is, or
/// stays, full.
pub(crate) fn put(
    py: Python<'_>,
    queue: &Object<Queue>,
    mark: u32,
    head: &[u8],
    outgoing: Outgoing<'_>,
    patience: Patience,
) -> PyResult<bool> {
    let storage = queue.storage();
    let outgoing = match outgoing {
        Outgoing::Large(large) => return put_large(py, queue, mark, head, large, patience),
        outgoing => outgoing,
    };
    let attempt = outgoing.put_with(
        |tag, message| queue.try_put(storage, tag | mark, &[head, message]),
        |attempt| *attempt == Attempt::Ended(Put::Done),
    );
    let outcome = match attempt {
        Attempt::Ended(outcome) => outcome,
        Attempt::WouldWait => outgoing.put_with(
            |tag, message| {
                let message = [head, message];
                wait(py, |park| {
                    queue.put(storage, tag | mark, &message, patience, park)
                })
            },
            // An exception of a signal handler means that the put was abandoned.
            |outcome| matches!(outcome, Ok(Put::Done)),
        )?,
    };
    is_put(outcome)
}

#[cold]
fn put_large(
    py: Python<'_>,
    queue: &Object<Queue>,
    mark: u32,
    head: &[u8],
    large: Large,
    patience: Patience,
) -> PyResult<bool> {
    let storage = queue.storage();
    let Large {
        tag,
        head: rest,
        blob,
    } = large;
    let (outcome, unused) = wait(py, |park| {
        queue.put_with_blob(storage, tag | mark, &[head, &rest], blob, patience, park)
    })?;
    drop(unused);
    is_put(outcome)
}

fn is_put(outcome: Put) -> PyResult<bool> {
    match outcome {
        Put::Done => Ok(true),
        Put::Full | Put::Interrupted => Ok(false),
        Put::OutOfMemory => Err(out_of_memory("a message; the queue is as it was")),
        Put::Corrupted => Err(overwritten()),
    }
}

/// Takes the oldest message, with a claim if one is wanted; `None` if the queue is, or stays,
/// empty. `read` runs under the queue's mutex, and only copies.
pub(crate) fn take<R: Send>(
    py: Python<'_>,
    queue: &Object<Queue>,
    claim: Option<&AtomicU64>,
    patience: Patience,
    read: impl Fn(u32, &[u8]) -> R + Send + Sync,
) -> PyResult<Option<Taken<R>>> {
    take_if(py, queue, claim, patience, |tag, message| {
        Ok(read(tag, message))
    })
}

/// As [`take`]; what `read` has no memory for stays in the queue.
#[inline]
pub(crate) fn take_if<R: Send>(
    py: Python<'_>,
    queue: &Object<Queue>,
    claim: Option<&AtomicU64>,
    patience: Patience,
    read: impl Fn(u32, &[u8]) -> Result<R, OutOfMemory> + Send + Sync,
) -> PyResult<Option<Taken<R>>> {
    let storage = queue.storage();
    let outcome = match queue.try_get_claimed(storage, claim, &read) {
        Attempt::Ended(outcome) => outcome,
        Attempt::WouldWait if storage.family().is_none() => {
            take_attached(py, queue, claim, patience, &read)?
        }
        Attempt::WouldWait => wait(py, |park| {
            queue.get_claimed(storage, claim, patience, park, &read)
        })?,
    };
    match outcome {
        Get::Got(taken) => Ok(Some(taken)),
        Get::Empty | Get::Interrupted => Ok(None),
        Get::OutOfMemory => Err(out_of_memory("the next message; it stays in the queue")),
        Get::Corrupted => Err(overwritten()),
    }
}

fn overwritten() -> PyErr {
    PyRuntimeError::new_err("the queue's shared memory was overwritten")
}

/// Takes a reference out of a private queue, detached only while there is none.
///
/// A garbage collection visits the queue more than once, while detached threads run. A
/// reference that one of them took in between would be counted once and missed once, and
/// its object be taken for garbage.
fn take_attached<R: Send>(
    py: Python<'_>,
    queue: &Object<Queue>,
    claim: Option<&AtomicU64>,
    patience: Patience,
    read: &(impl Fn(u32, &[u8]) -> Result<R, OutOfMemory> + Send + Sync),
) -> PyResult<Get<Taken<R>>> {
    let storage = queue.storage();
    let take = || queue.get_claimed(storage, claim, Patience::None, &Uninterruptible, read);
    let Patience::Until(deadline) = patience else {
        return Ok(take());
    };
    let mut has_slept = false;
    let result = loop {
        let waited = wait(py, |park| queue.await_message(storage, deadline, park));
        has_slept |= !matches!(waited, Ok(Waited::Awake));
        let waited = match waited {
            Ok(waited) => waited,
            Err(error) => break Err(error),
        };
        match (take(), waited) {
            (Get::Empty, Waited::Awake | Waited::Asleep(Parked::Retry))
                if !deadline.is_some_and(Deadline::has_passed) => {}
            (outcome, _) => break Ok(outcome),
        }
    };
    if has_slept {
        queue.pass_messages_on(storage);
    }
    result
}
