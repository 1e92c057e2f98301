// SPDX-License-Identifier: MIT
//! How tasks and outcomes lie in their queues.
//!
//! ```text
//!   task:     | job, index: 8 | kind: 1 | flags: 1 | 0: 2 | function: 4 |  function  | payload
//!   outcome:  | job, index: 8 | kind: 1 | 0: 3            | time: 4     |  payload
//!             '------------------- the frame, 16 bytes ------------------'
//! ```
//!
//! The task's number comes first, for that is what a worker claims.

use freethreading_core::queue::{Patience, Queue};
use freethreading_core::storage::Object;
use pyo3::prelude::*;

use crate::made;
use crate::message::{CANCELLED, FRAME, FRAMED, Incoming, Outgoing};
use crate::transfer;

/// What is to be done, or how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The worker is to end.
    Stop = 0,
    /// `(args, kwargs)`, or `(function, args, kwargs)` if no function comes with it.
    Call = 1,
    /// An argument.
    Item = 2,
    /// A tuple of arguments.
    Star = 3,
    /// A list of arguments.
    Items = 4,
    /// A list of tuples of arguments.
    Stars = 5,
    /// The worker is to take items of the job by itself.
    Share = 6,
    /// The arguments are the job's. (Between threads.)
    Kept = 7,
    /// What the function returned.
    Value = 16,
    /// A list of what it returned.
    Values = 17,
    /// What it raised, or what was in the way.
    Failure = 18,
    /// A worker has ended, as it was to.
    Left = 19,
    /// A worker's initializer has failed.
    Broken = 20,
    /// Nothing: whoever takes outcomes in is to look around.
    Nudge = 21,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Self> {
        use Kind::{
            Broken, Call, Failure, Item, Items, Kept, Left, Nudge, Share, Star, Stars, Stop, Value,
            Values,
        };
        [
            Stop, Call, Item, Star, Items, Stars, Share, Kept, Value, Values, Failure, Left,
            Broken, Nudge,
        ]
        .into_iter()
        .find(|&kind| kind as u8 == bits)
    }

    fn is_task(self) -> bool {
        (self as u8) < Self::Value as u8
    }
}

/// The number of a task: which job's, and which of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) job: u32,
    pub(super) index: u32,
}

impl Number {
    /// No task's: jobs count from one.
    pub(super) const NONE: Self = Self { job: 0, index: 0 };

    #[expect(clippy::cast_possible_truncation, reason = "splits a word in two")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            job: (bits >> 32) as u32,
            index: bits as u32,
        }
    }

    pub(super) fn bits(self) -> u64 {
        (u64::from(self.job) << 32) | u64::from(self.index)
    }
}

/// What every message of a pool begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) number: Number,
    pub(super) kind: Kind,
    /// The worker may use the function for this job only: it may have a state.
    pub(super) is_own: bool,
    /// A task: how many bytes of function follow. An outcome: nanoseconds that the task took.
    pub(super) extra: u32,
}

impl Frame {
    pub(super) fn new(number: Number, kind: Kind) -> Self {
        Self {
            number,
            kind,
            is_own: false,
            extra: 0,
        }
    }

    fn to_bytes(self) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        bytes[..8].copy_from_slice(&self.number.bits().to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9] = u8::from(self.is_own);
        bytes[12..].copy_from_slice(&self.extra.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(message: &[u8]) -> Option<(Self, &[u8])> {
        let (frame, rest) = message.split_first_chunk::<FRAME>()?;
        let frame = Self {
            number: Number::from_bits(u64::from_le_bytes(*frame.first_chunk()?)),
            kind: Kind::from_bits(frame[8])?,
            is_own: frame[9] != 0,
            extra: u32::from_le_bytes(*frame.last_chunk()?),
        };
        Some((frame, rest))
    }
}

/// The function of a task that was received.
pub(super) enum Function {
    /// None: it is in the payload, or the job's.
    Elsewhere,
    /// The same as the last one's.
    Known,
    Pickled(Vec<u8>),
}

/// A message that was taken out of its queue.
pub(super) struct Packet {
    pub(super) frame: Frame,
    pub(super) is_cancelled: bool,
    pub(super) function: Function,
    /// Missing where there was no memory to copy what came.
    pub(super) payload: Option<Incoming>,
}

/// Copies a message; runs under the queue's mutex. `known` is the last function.
#[inline]
pub(super) fn read(tag: u32, message: &[u8], known: &[u8]) -> Option<Packet> {
    let (frame, mut rest) = Frame::from_bytes(message).filter(|_| tag & FRAMED != 0)?;
    let (mut function, mut is_whole) = (Function::Elsewhere, true);
    if frame.kind.is_task() && frame.extra != 0 {
        let (bytes, payload) = rest.split_at_checked(usize::try_from(frame.extra).ok()?)?;
        function = if bytes == known {
            Function::Known
        } else {
            made::copy(bytes).map_or(Function::Elsewhere, Function::Pickled)
        };
        is_whole = !matches!(function, Function::Elsewhere);
        rest = payload;
    }
    let payload = Incoming::read_if(tag & !(FRAMED | CANCELLED), rest);
    Some(Packet {
        frame,
        is_cancelled: tag & CANCELLED != 0,
        function,
        payload: payload.ok().filter(|_| is_whole),
    })
}

/// Puts a task or an outcome.
pub(super) fn put(
    py: Python<'_>,
    queue: &Object<Queue>,
    frame: Frame,
    function: &[u8],
    payload: Outgoing<'_>,
) -> PyResult<()> {
    let patience = Patience::Until(None);
    let bytes = frame.to_bytes();
    if function.is_empty() {
        return transfer::put(py, queue, FRAMED, &bytes, payload, patience).map(|_is_put| ());
    }
    let mut head = Vec::with_capacity(FRAME + function.len());
    head.extend(bytes);
    head.extend(function);
    transfer::put(py, queue, FRAMED, &head, payload, patience).map(|_is_put| ())
}
