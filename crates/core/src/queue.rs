// SPDX-License-Identifier: MIT
//! A FIFO queue of messages for any number of producers and consumers.
//!
//! A message is a tag and some bytes; what they mean is the user's affair (in private memory:
//! a reference to an object). Messages lie as records in a chain of segments:
//!
//! ```text
//!  consumers.segment                      producers.segment
//!        v                                       v
//!   +---------+  next   +---------+   next  +---------+
//!   | r r R R | ------> | R R R J | ------> | R R     |     R: in the queue   r: taken
//!   +-----^---+         +---------+         +-----^---+     J: jump to the next segment
//!         consumers.position                      producers.position
//! ```
//!
//! Invariants:
//! 1. Producers and consumers have a mutex each, so one of each runs side by side. What they
//!    tell each other are two counters: `producers.count` messages were put, `consumers.count`
//!    were taken.
//! 2. A counter's store commits a put or a take. Before it the new position is staged; after
//!    it the position is moved there. A process killed before has done nothing; killed after,
//!    the next holder of the mutex moves the position (`Side::mend`).
//! 3. Consumers read a record only if the counters differ, and follow `next` only when the
//!    record that they look for isn't in the segment. A producer leaves a segment for good
//!    before it commits the first record in the next one. So a segment that consumers have
//!    left belongs to nobody.
//! 4. No code of the user runs while a mutex is held, except `read`, which must only copy. Nor is
//!    one that others may hold for long waited for meanwhile: who finds the storage's taken releases
//!    its own, waits, and begins again.
//! 5. What is read from shared memory is checked before it is used as a length or address, and a
//!    chain of segments that goes in a circle is found out: no walk is endless.
//! 6. Who takes a message with a claim has written it down, in a word of its own, from the moment
//!    on that the message is taken: `claim` says how.
//!
//! (Longer than our files should be: putting and getting are halves of one protocol, and these
//! invariants are checked by reading them side by side.)

use core::ops::ControlFlow;
use core::time::Duration;

use crate::crash;
use crate::deadline::Deadline;
use crate::family::{Entry, Family, Run};
use crate::park::{Park, Parked, Uninterruptible};
use crate::primitive::{AtomicU32, AtomicU64, Ordering, fence_after_update};
use crate::storage::trail::Trail;
use crate::storage::{Address, Blob, BlobName, Kind, OutOfMemory, Shareable, Storage, Unavailable};
use crate::sync::mutex::{Locked, Tried};

mod bell;
mod claim;
mod segment;
mod side;

use bell::Bell;
use claim::{Claim, StagedClaim};
pub use segment::MAX_MESSAGE;
use segment::{Cursor, Record, Segment, Unreadable, Unwritable};
use side::Side;
pub use side::Waited;

/// A queue. All-zero is empty and unbounded.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Queue {
    producers: Side,
    /// The first segment that isn't freed yet: the consumers', or, if one of them was killed
    /// before it freed what it had read, or couldn't then, one before. Written by the first
    /// producer, from then on by consumers only.
    first: AtomicU64,
    /// The most messages at a time; 0: no limit. Set once, before the object is shared.
    capacity: AtomicU32,
    reserved: AtomicU32,
    /// The fields above are rarely written, so they also keep the sides two lines apart: a CPU
    /// that fetches one line of 64 bytes may fetch its neighbour as well.
    consumers: Side,
    /// How many messages are reported done. Together with `producers.count` this says how
    /// many aren't, with nothing that a killed process could leave half counted.
    done: AtomicU32,
    /// Rings for those who join.
    all_done: Bell,
    claim: StagedClaim,
}

// SAFETY: repr(C), atomics only, zero is an empty queue; addresses and lengths in it are
// checked before use.
unsafe impl Shareable for Queue {
    const KIND: Kind = Kind::Queue;

    /// In shared memory after [`Queue::discard_blobs`].
    fn destroy(&self, storage: Storage) {
        if storage.family().is_none() {
            self.dispose();
        }
        self.retire(storage, Entry::Whenever, Address::NULL);
    }
}

/// A place in a queue: so many messages were put before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    count: u32,
    cursor: Cursor,
}

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// The message is in the queue.
    Done,
    /// The queue is (or stayed, until the deadline) full.
    Full,
    /// The wait was abandoned.
    Interrupted,
    /// No memory for the message; the queue is as it was.
    OutOfMemory,
    /// Somebody has overwritten the shared memory.
    Corrupted,
}

/// How a get ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Get<R> {
    /// A message was taken, and this was read from it.
    Got(R),
    /// The queue is (or stayed, until the deadline) empty.
    Empty,
    /// The wait was abandoned.
    Interrupted,
    /// This process has no memory to copy the oldest message, or no room to map what it lies in; it
    /// stays where it is.
    OutOfMemory,
    /// Somebody has overwritten the shared memory.
    Corrupted,
}

impl<R> Get<R> {
    fn map<S>(self, change: impl FnOnce(R) -> S) -> Get<S> {
        match self {
            Self::Got(taken) => Get::Got(change(taken)),
            Self::Empty => Get::Empty,
            Self::Interrupted => Get::Interrupted,
            Self::OutOfMemory => Get::OutOfMemory,
            Self::Corrupted => Get::Corrupted,
        }
    }
}

/// How a join ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Join {
    /// All messages are done.
    Done,
    /// The wait was abandoned.
    Interrupted,
}

/// The outcome of an operation that doesn't wait for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Attempt<R> {
    /// It ended.
    Ended(R),
    /// Somebody else is at it, or it would have to wait: try again with a wait.
    WouldWait,
}

/// More messages were reported done than were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyDone;

/// How long an operation may wait.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Not at all (but for somebody who is in the middle of a put or get, or of another change of
    /// shared memory).
    None,
    /// Until then; `None` is for ever.
    Until(Option<Deadline>),
}

impl Patience {
    /// Until when the queue's mutex is waited for: long enough for who is in the middle of a put
    /// or get, however soon the deadline is. Else a queue with room would be called full.
    /// Whoever is stopped there makes it full, or empty, all the same. (Threads are stopped
    /// together.)
    #[must_use]
    pub fn of_mutex(self, storage: Storage) -> Option<Deadline> {
        let deadline = match self {
            Self::None => None,
            Self::Until(deadline) => Some(deadline?),
        };
        if deadline.is_none() && !storage.can_lose_holders() {
            return None;
        }
        Deadline::after(IN_THE_MIDDLE).map(|later| deadline.map_or(later, |at| later.max(at)))
    }
}

/// How long somebody may be in the middle of a put or get: microseconds, unless it was stopped or
/// didn't get a core.
const IN_THE_MIDDLE: Duration = Duration::from_millis(500);

/// What a message says, and the blob that came with it.
type Taken<R> = (R, Option<Blob>);

/// What is done with messages that are still in a private queue when it is freed.
static DISPOSER: std::sync::OnceLock<fn(u32, &[u8])> = std::sync::OnceLock::new();

/// Says what becomes of the messages in a private queue that is freed. Once per process.
pub fn set_disposer(disposer: fn(tag: u32, message: &[u8])) {
    DISPOSER.get_or_init(|| disposer);
}

impl Queue {
    /// Limits a fresh queue to `capacity` messages at a time.
    pub fn initialize(&self, capacity: u32) {
        // No step: it isn't shared yet.
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// The most messages at a time; 0: no limit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// How many messages are in the queue: as many as there were at one moment of the call.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u32 {
        let mut taken = self.consumers.count.load(Ordering::Acquire);
        loop {
            let put = self.producers.count.load(Ordering::Acquire);
            // Acquire, as all three: they are read in this order. If nothing was taken meanwhile,
            // both numbers were true when the second one was read.
            let again = self.consumers.count.load(Ordering::Acquire);
            if again == taken {
                return put.wrapping_sub(taken);
            }
            taken = again;
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a put would have to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit()
    }

    fn limit(&self) -> u32 {
        match self.capacity() {
            0 => i32::MAX as u32,
            capacity => capacity,
        }
    }

    /// Puts a message if that needs no waiting.
    #[inline]
    pub fn try_put(&self, storage: Storage, tag: u32, message: &[&[u8]]) -> Attempt<Put> {
        if self.producers.mutex.try_lock_briefly(storage) == Tried::Busy {
            return Attempt::WouldWait;
        }
        match self.put_locked(storage, Entry::AtOnce, tag, message, None) {
            Attempt::Ended(Put::Full) => Attempt::WouldWait,
            outcome => outcome,
        }
    }

    /// Puts a message, made of the parts in `message`.
    pub fn put(
        &self,
        storage: Storage,
        tag: u32,
        message: &[&[u8]],
        patience: Patience,
        park: &impl Park,
    ) -> Put {
        self.put_any(storage, tag, message, None, patience, park)
    }

    /// Puts a message, made of the parts in `message` and a blob of this storage's family. The
    /// blob comes back unless the message is in the queue.
    pub fn put_with_blob(
        &self,
        storage: Storage,
        tag: u32,
        message: &[&[u8]],
        blob: Blob,
        patience: Patience,
        park: &impl Park,
    ) -> (Put, Option<Blob>) {
        let outcome = self.put_any(storage, tag, message, Some(&blob), patience, park);
        if outcome == Put::Done {
            // It was given away.
            core::mem::forget(blob);
            return (outcome, None);
        }
        (outcome, Some(blob))
    }

    fn put_any(
        &self,
        storage: Storage,
        tag: u32,
        message: &[&[u8]],
        blob: Option<&Blob>,
        patience: Patience,
        park: &impl Park,
    ) -> Put {
        let (mut has_waited, mut has_slept) = (false, false);
        let outcome = loop {
            let until = patience.of_mutex(storage);
            match self.producers.mutex.lock_until(storage, park, until) {
                Locked::Clean => {}
                Locked::Recovered => self.producers.mend(storage, &self.consumers),
                Locked::TimedOut => break Put::Full,
                Locked::Interrupted => break Put::Interrupted,
            }
            let taken = self.consumers.count.load(Ordering::Acquire);
            let outcome = match self.put_locked(storage, Entry::Soon, tag, message, blob) {
                Attempt::Ended(outcome) => outcome,
                Attempt::WouldWait => match storage.await_entry(park, until) {
                    Parked::Retry => continue,
                    Parked::TimedOut => break Put::Full,
                    Parked::Interrupted => break Put::Interrupted,
                },
            };
            let (Put::Full, Patience::Until(deadline)) = (outcome, patience) else {
                break outcome;
            };
            if has_waited && deadline.is_some_and(Deadline::has_passed) {
                break outcome; // others were always faster
            }
            has_waited = true;
            let waited = self.consumers.wait_change(storage, taken, deadline, park);
            let Waited::Asleep(parked) = waited else {
                continue;
            };
            has_slept = true;
            match parked {
                Parked::Retry => {}
                Parked::TimedOut => break Put::Full,
                Parked::Interrupted => break Put::Interrupted,
            }
        };
        if has_slept {
            self.consumers.pass_on(storage, || !self.is_full());
        }
        outcome
    }

    /// Puts under the producers' mutex, releases it, and wakes a consumer; would wait only for the
    /// storage.
    #[inline]
    fn put_locked(
        &self,
        storage: Storage,
        entry: Entry,
        tag: u32,
        message: &[&[u8]],
        blob: Option<&Blob>,
    ) -> Attempt<Put> {
        let outcome = if self.has_room() {
            let appended = match blob {
                None => Record::new(tag, message, false)
                    .map_err(Unwritable::from)
                    .and_then(|record| {
                        self.append(storage, entry, &record, |producers, end| {
                            producers.commit(end);
                            Ok(())
                        })
                    }),
                Some(blob) => self.append_with_blob(storage, entry, tag, message, blob),
            };
            match appended {
                Ok(()) => Attempt::Ended(Put::Done),
                Err(Unwritable::Unavailable(Unavailable::OutOfMemory)) => {
                    Attempt::Ended(Put::OutOfMemory)
                }
                Err(Unwritable::Unavailable(Unavailable::Busy)) => Attempt::WouldWait,
                Err(Unwritable::Corrupted) => Attempt::Ended(Put::Corrupted),
            }
        } else {
            Attempt::Ended(self.why_no_room())
        };
        self.producers.mutex.unlock_and_fence(storage);
        if outcome == Attempt::Ended(Put::Done) {
            self.producers.wake_other_side(storage);
        }
        outcome
    }

    /// Whether a message may be put. Under the producers' mutex.
    #[inline]
    fn has_room(&self) -> bool {
        // Relaxed: written under this mutex.
        let put = self.producers.count.load(Ordering::Relaxed);
        let limit = self.limit();
        put.wrapping_sub(self.producers.other_count()) < limit
            || put.wrapping_sub(self.producers.look_at(&self.consumers)) < limit
    }

    /// Under the producers' mutex, after `has_room`: more messages than there may be at a time can't
    /// have been put, and nobody will ever make room.
    #[cold]
    fn why_no_room(&self) -> Put {
        // Relaxed: written under this mutex.
        let put = self.producers.count.load(Ordering::Relaxed);
        if put.wrapping_sub(self.producers.other_count()) > self.limit() {
            Put::Corrupted
        } else {
            Put::Full
        }
    }

    /// Whether there is a message to take. Under the consumers' mutex.
    #[inline]
    fn has_message(&self) -> bool {
        // Relaxed: written under this mutex.
        let taken = self.consumers.count.load(Ordering::Relaxed);
        taken != self.consumers.other_count() || taken != self.consumers.look_at(&self.producers)
    }

    #[inline]
    fn append(
        &self,
        storage: Storage,
        entry: Entry,
        record: &Record<'_>,
        commit: impl FnOnce(&Side, Cursor) -> Result<(), Unavailable>,
    ) -> Result<(), Unwritable> {
        let cursor = self.producers.cursor();
        let segment = Segment::unless_null(storage, cursor.segment)?;
        match segment.and_then(|segment| segment.write(cursor.position, record)) {
            Some(position) => {
                commit(&self.producers, Cursor { position, ..cursor }).map_err(Unwritable::from)
            }
            None => self.append_further(storage, entry, segment, cursor, record, commit),
        }
    }

    /// Appends after a segment that has no room. (Apart, so that the usual case stays short.)
    #[cold]
    #[inline(never)]
    fn append_further(
        &self,
        storage: Storage,
        entry: Entry,
        full: Option<Segment>,
        cursor: Cursor,
        record: &Record<'_>,
        commit: impl FnOnce(&Side, Cursor) -> Result<(), Unavailable>,
    ) -> Result<(), Unwritable> {
        let mut segment = full;
        let mut cursor = cursor;
        let mut trail = Trail::default();
        loop {
            cursor =
                self.next_segment(storage, entry, segment, cursor.position, record.length())?;
            if !trail.goes_on(cursor.segment) {
                return Err(Unwritable::Corrupted);
            }
            segment = Segment::unless_null(storage, cursor.segment)?;
            if let Some(position) =
                segment.and_then(|segment| segment.write(cursor.position, record))
            {
                return Ok(commit(&self.producers, Cursor { position, ..cursor })?);
            }
        }
    }

    /// The blob's name is the first part of the message.
    #[cold]
    fn append_with_blob(
        &self,
        storage: Storage,
        entry: Entry,
        tag: u32,
        message: &[&[u8]],
        blob: &Blob,
    ) -> Result<(), Unwritable> {
        let name = blob.name().to_bytes();
        let mut parts: Vec<&[u8]> = Vec::new();
        let room = parts.try_reserve_exact(1 + message.len());
        room.map_err(|_| OutOfMemory)?;
        parts.push(&name);
        parts.extend_from_slice(message);
        self.append(
            storage,
            entry,
            &Record::new(tag, &parts, true)?,
            |producers, end| {
                let commit = || producers.commit_by(end, |count, value| blob.give(count, value));
                storage.locked_if(entry, commit).ok_or(Unavailable::Busy)
            },
        )
    }

    /// The segment after a full one: one that a killed producer had already linked, else a new
    /// one.
    #[cold]
    fn next_segment(
        &self,
        storage: Storage,
        entry: Entry,
        full: Option<Segment>,
        position: u32,
        length: u32,
    ) -> Result<Cursor, Unwritable> {
        let link: &AtomicU64 = match full {
            Some(full) => full.next_link(),
            None => &self.first,
        };
        let mut next = Address::from_bits(link.load(Ordering::Relaxed));
        if next.is_null() {
            next = Segment::allocate(storage, entry, link, full, length)?;
        } else if !storage.is_allocated(next) {
            return Err(Unwritable::Corrupted);
        }
        if let Some(full) = full {
            full.write_jump(position);
        }
        Ok(Cursor {
            segment: next,
            position: 0,
        })
    }

    /// Takes a message if that needs no waiting. (A blob that comes with it is dropped.)
    #[inline]
    pub fn try_get<R>(
        &self,
        storage: Storage,
        read: impl FnMut(u32, &[u8]) -> R,
    ) -> Attempt<Get<R>> {
        match self.try_get_with_blob(storage, read) {
            Attempt::Ended(get) => Attempt::Ended(get.map(|(taken, _)| taken)),
            Attempt::WouldWait => Attempt::WouldWait,
        }
    }

    /// Takes a message, and the blob that comes with it, if that needs no waiting.
    #[inline]
    pub fn try_get_with_blob<R>(
        &self,
        storage: Storage,
        mut read: impl FnMut(u32, &[u8]) -> R,
    ) -> Attempt<Get<Taken<R>>> {
        self.try_get_claimed(storage, None, |tag, message| Ok(read(tag, message)))
    }

    /// As [`Queue::try_get_with_blob`]; the first 8 bytes of the message are written to `claim`, a
    /// word of this storage, in one step with taking it. What `read` has no memory for stays in the
    /// queue.
    #[inline]
    pub fn try_get_claimed<R>(
        &self,
        storage: Storage,
        claim: Option<&AtomicU64>,
        mut read: impl FnMut(u32, &[u8]) -> Result<R, OutOfMemory>,
    ) -> Attempt<Get<Taken<R>>> {
        if self.consumers.mutex.try_lock_briefly(storage) == Tried::Busy {
            return Attempt::WouldWait;
        }
        match self.get_locked(storage, Entry::AtOnce, claim, &mut read) {
            Attempt::Ended(Get::Empty) => Attempt::WouldWait,
            outcome => outcome,
        }
    }

    /// Takes the oldest message; `read` copies what it wants of it, and nothing else. (Seldom it is
    /// called again, if the message couldn't be taken; what it answered last counts.)
    pub fn get<R>(
        &self,
        storage: Storage,
        patience: Patience,
        park: &impl Park,
        read: impl FnMut(u32, &[u8]) -> R,
    ) -> Get<R> {
        self.get_with_blob(storage, patience, park, read)
            .map(|(taken, _)| taken)
    }

    /// Takes the oldest message, and the blob that comes with it, if there is one.
    pub fn get_with_blob<R>(
        &self,
        storage: Storage,
        patience: Patience,
        park: &impl Park,
        mut read: impl FnMut(u32, &[u8]) -> R,
    ) -> Get<Taken<R>> {
        self.get_claimed(storage, None, patience, park, |tag, message| {
            Ok(read(tag, message))
        })
    }

    /// As [`Queue::get_with_blob`], with a claim as [`Queue::try_get_claimed`].
    pub fn get_claimed<R>(
        &self,
        storage: Storage,
        claim: Option<&AtomicU64>,
        patience: Patience,
        park: &impl Park,
        mut read: impl FnMut(u32, &[u8]) -> Result<R, OutOfMemory>,
    ) -> Get<Taken<R>> {
        let (mut has_waited, mut has_slept) = (false, false);
        let outcome = loop {
            let until = patience.of_mutex(storage);
            match self.consumers.mutex.lock_until(storage, park, until) {
                Locked::Clean => {}
                Locked::Recovered => self.mend_consumers(storage),
                Locked::TimedOut => break Get::Empty,
                Locked::Interrupted => break Get::Interrupted,
            }
            let put = self.producers.count.load(Ordering::Acquire);
            let outcome = match self.get_locked(storage, Entry::Soon, claim, &mut read) {
                Attempt::Ended(outcome) => outcome,
                Attempt::WouldWait => match storage.await_entry(park, until) {
                    Parked::Retry => continue,
                    Parked::TimedOut => break Get::Empty,
                    Parked::Interrupted => break Get::Interrupted,
                },
            };
            let (Get::Empty, Patience::Until(deadline)) = (&outcome, patience) else {
                break outcome;
            };
            if has_waited && deadline.is_some_and(Deadline::has_passed) {
                break outcome; // others were always faster
            }
            has_waited = true;
            let waited = self.producers.wait_change(storage, put, deadline, park);
            let Waited::Asleep(parked) = waited else {
                continue;
            };
            has_slept = true;
            match parked {
                Parked::Retry => {}
                Parked::TimedOut => break Get::Empty,
                Parked::Interrupted => break Get::Interrupted,
            }
        };
        if has_slept {
            self.producers.pass_on(storage, || !self.is_empty());
        }
        outcome
    }

    /// Takes a message if that needs no waiting and `read` wants it: what it answers `None` to stays
    /// in the queue, as does what comes with a blob. `None` also if there is no message, or somebody else is at it.
    #[inline]
    pub fn try_get_if<R>(
        &self,
        storage: Storage,
        read: impl FnOnce(u32, &[u8]) -> Option<R>,
    ) -> Option<R> {
        if self.consumers.mutex.try_lock_briefly(storage) == Tried::Busy {
            return None;
        }
        let start = self.start();
        let read = |tag, message: &[u8], has_blob| {
            if has_blob { None } else { read(tag, message) }
        };
        let found = if self.has_message() {
            Segment::read(storage, start, None, read).ok()
        } else {
            None
        };
        let Some((Some(result), end)) = found else {
            self.consumers.mutex.unlock(storage);
            return None;
        };
        self.consumers.commit(end);
        self.finish_take(storage, Entry::AtOnce, end);
        Some(result)
    }

    /// Looks for a message without waiting for it: for half a microsecond, which is what another CPU
    /// needs to answer, and less than it takes to detach from an interpreter and come back.
    pub fn glance(&self) -> bool {
        let is_there = crate::spin::glance(|| !self.is_empty());
        if is_there {
            crate::spin::let_gather(|| self.len() > 3);
        }
        is_there
    }

    /// Waits until there may be a message, and takes none. Whoever was [`Waited::Asleep`] calls
    /// [`Queue::pass_messages_on`] when it has given up or taken what it wanted.
    ///
    /// For users whose messages must not be taken while they are detached from an interpreter.
    pub fn await_message(
        &self,
        storage: Storage,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> Waited {
        let put = self.producers.count.load(Ordering::Acquire);
        if put != self.consumers.count.load(Ordering::Relaxed) {
            return Waited::Awake;
        }
        self.producers.wait_change(storage, put, deadline, park)
    }

    /// After [`Queue::await_message`], however it ended: wakes another waiter if there are more
    /// messages.
    pub fn pass_messages_on(&self, storage: Storage) {
        self.producers.pass_on(storage, || !self.is_empty());
    }

    /// Finishes what a consumer that died had begun.
    #[cold]
    fn mend_consumers(&self, storage: Storage) {
        // A blob that was changing hands with the commit decides whether that has happened.
        storage.mend();
        self.claim.mend(storage, self.consumers.is_committed());
        self.consumers.mend(storage, &self.producers);
        let segment = self.consumers.cursor().segment;
        if !segment.is_null() {
            self.retire(storage, Entry::Soon, segment);
        }
    }

    /// Takes under the consumers' mutex, releases it, and wakes a producer; would wait only for the
    /// storage.
    #[inline]
    fn get_locked<R>(
        &self,
        storage: Storage,
        entry: Entry,
        claim: Option<&AtomicU64>,
        read: &mut impl FnMut(u32, &[u8]) -> Result<R, OutOfMemory>,
    ) -> Attempt<Get<Taken<R>>> {
        if !self.has_message() {
            self.consumers.mutex.unlock(storage);
            return Attempt::Ended(Get::Empty);
        }
        let start = self.start();
        let (mut blob, mut staged) = (None, None);
        let read = |tag, message: &[u8], has_blob| {
            let (name, message) = split_name(message, has_blob);
            blob = name;
            staged = claim.map(|word| Claim::new(word, message));
            read(tag, message)
        };
        let found = Segment::read(storage, start, None, read);
        let result = found.and_then(|(taken, end)| {
            let can_be_taken = blob
                .zip(storage.family())
                .is_none_or(|(name, family)| name.can_be_taken(family));
            match taken {
                Ok(taken) if can_be_taken => Ok((taken, end)),
                _ => Err(Unreadable::NoMemory),
            }
        });
        let (result, end) = match result {
            Ok(taken) => taken,
            Err(why) => {
                self.consumers.mutex.unlock(storage);
                return Attempt::Ended(match why {
                    Unreadable::NoMemory => Get::OutOfMemory,
                    Unreadable::Corrupted => Get::Corrupted,
                });
            }
        };
        let mut is_complete = true;
        let blob = if let Some((name, family)) = blob.zip(storage.family()) {
            let take = || {
                if let Some(staged) = &staged {
                    self.claim.stage(storage, staged);
                }
                self.consumers.commit_by(end, |count, value| {
                    let taken = name.take(family, count, value);
                    self.claim.settle(staged.as_ref());
                    taken
                })
            };
            let Some(taken) = family.locked_if(entry, take) else {
                self.consumers.mutex.unlock(storage);
                return Attempt::WouldWait;
            };
            is_complete = taken.is_some();
            taken
        } else if let Some(claim) = &staged {
            self.claim.stage(storage, claim);
            self.consumers.commit_by(end, |count, value| {
                // No step: those of `commit_by`. Release: as in `Side::commit`.
                count.store(value, Ordering::Release);
                self.claim.settle(staged.as_ref());
            });
            None
        } else {
            self.consumers.commit(end);
            None
        };
        self.finish_take(storage, entry, end);
        // Without its blob the rest of a message would be taken for the whole of it.
        Attempt::Ended(if is_complete {
            Get::Got((result, blob))
        } else {
            Get::Corrupted
        })
    }

    /// After the message before `end` was taken: releases the consumers' mutex, and wakes a producer.
    #[inline]
    fn finish_take(&self, storage: Storage, entry: Entry, end: Cursor) {
        // Relaxed: written by the first producer, whose messages we have seen, then by consumers.
        if self.first.load(Ordering::Relaxed) != end.segment.bits() {
            self.retire(storage, entry, end.segment);
        }
        self.consumers.mutex.unlock_and_fence(storage);
        if self.capacity() != 0 {
            self.consumers.wake_other_side(storage);
        }
    }

    /// Where the oldest message is, or where to start looking for it.
    fn start(&self) -> Cursor {
        let cursor = self.consumers.cursor();
        if cursor.segment.is_null() {
            // Acquire: pairs with the Release of the link; `count` orders it anyway.
            Cursor {
                segment: Address::from_bits(self.first.load(Ordering::Acquire)),
                ..cursor
            }
        } else {
            cursor
        }
    }

    /// Frees the segments before `until`; those that it can't free in time are the next one's.
    #[cold]
    #[inline(never)]
    fn retire(&self, storage: Storage, entry: Entry, until: Address) {
        loop {
            let first = Address::from_bits(self.first.load(Ordering::Relaxed));
            let Some(segment) = Segment::at(storage, first).filter(|_| first != until) else {
                return;
            };
            if !segment.free(storage, entry, &self.first) {
                return;
            }
        }
    }

    /// Reports one message as done.
    ///
    /// # Errors
    ///
    /// [`TooManyDone`] if all that were put are.
    pub fn report_done(&self, storage: Storage) -> Result<(), TooManyDone> {
        let mut done = self.done.load(Ordering::Relaxed);
        loop {
            if !self.may_be_done(done) {
                return Err(TooManyDone);
            }
            let next = done.wrapping_add(1);
            crash::step!("queue.done.reporting");
            // Release: who joins sees what was done.
            match self
                .done
                .compare_exchange(done, next, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => {
                    crash::step!("queue.done.reported");
                    fence_after_update();
                    // Unless somebody joins, the producers' memory is left alone.
                    if self.all_done.is_heard()
                        && next == self.producers.count.load(Ordering::Acquire)
                    {
                        self.all_done.ring(u32::MAX, storage);
                    }
                    return Ok(());
                }
                Err(now) => done = now,
            }
        }
    }

    /// Whether one more than `done` were put.
    fn may_be_done(&self, done: u32) -> bool {
        // Mostly it was taken, which says the same without a look at the producers' memory.
        let taken = self.consumers.count.load(Ordering::Relaxed);
        let taken_and_not_done = taken.wrapping_sub(done);
        (1..=i32::MAX as u32).contains(&taken_and_not_done)
            || done != self.producers.count.load(Ordering::Acquire)
    }

    /// How many messages were put and aren't reported done.
    #[must_use]
    pub fn unfinished(&self) -> u32 {
        let done = self.done.load(Ordering::Acquire);
        self.producers
            .count
            .load(Ordering::Acquire)
            .wrapping_sub(done)
    }

    /// Waits until every message that was put is reported done.
    pub fn join(&self, storage: Storage, park: &impl Park) -> Join {
        loop {
            let listener = self.all_done.listen();
            let done = self.done.load(Ordering::Acquire);
            if self.producers.count.load(Ordering::Acquire) == done {
                return Join::Done;
            }
            match self.all_done.sleep(listener, storage, None, park) {
                Parked::Retry | Parked::TimedOut => {}
                Parked::Interrupted => return Join::Interrupted,
            }
        }
    }

    /// Shows every message to `visit`, unless a consumer is at work. For garbage collectors:
    /// `visit` must not come back to this queue.
    pub fn try_visit(&self, storage: Storage, mut visit: impl FnMut(u32, &[u8])) {
        if self.consumers.mutex.try_lock(storage) == Tried::Busy {
            return;
        }
        let (mut cursor, mut trail) = (self.start(), Trail::default());
        for _ in 0..self.len() {
            let visit = |tag, message: &[u8], _| visit(tag, message);
            match Segment::read(storage, cursor, Some(&mut trail), visit) {
                Ok(((), next)) => cursor = next,
                Err(_) => break,
            }
        }
        self.consumers.mutex.unlock(storage);
    }

    /// Frees the blobs of the messages that nobody will take; those that carry objects are added to
    /// `condemned`. If this process is killed on the way, the next one that frees the queue begins
    /// again.
    pub(crate) fn discard_blobs(
        &self,
        storage: Storage,
        family: &Family,
        condemned: &mut Vec<Run>,
    ) {
        // The last user may have died as a consumer. Else the messages would be taken to begin one
        // too early, and the last one's blob be left.
        self.consumers.mend(storage, &self.producers);
        let (mut cursor, mut trail) = (self.start(), Trail::default());
        for _ in 0..self.len() {
            let discard = |_, message: &[u8], has_blob| {
                if let (Some(name), _) = split_name(message, has_blob) {
                    condemned.extend(name.discard(family));
                }
            };
            match Segment::read(storage, cursor, Some(&mut trail), discard) {
                Ok(((), next)) => cursor = next,
                Err(_) => break,
            }
        }
        // Empty from here on: whoever begins again, because we are killed below, mustn't read what
        // lies where the segments were.
        let put = self.producers.count.load(Ordering::Relaxed);
        crash::step!("queue.emptying");
        self.consumers.count.store(put, Ordering::Relaxed);
        crash::step!("queue.emptied");
    }

    /// Gives each message that nobody has taken the tag that `retag` answers for it, given its tag
    /// and bytes; one that gets the same tag stays as it is. Once this has returned, who takes such
    /// a message sees the new tag. `retag` must not come back to this queue, or panic.
    pub fn retag(&self, storage: Storage, mut retag: impl FnMut(u32, &[u8]) -> u32) {
        self.retag_from(storage, None, |tag, message| {
            ControlFlow::Continue(retag(tag, message))
        });
    }

    /// As [`Queue::retag`], for the messages that were put after `mark` was taken, as far as that is
    /// known, until `retag` breaks off.
    pub fn retag_from(
        &self,
        storage: Storage,
        mark: Option<Mark>,
        mut retag: impl FnMut(u32, &[u8]) -> ControlFlow<u32, u32>,
    ) {
        if self.consumers.mutex.lock(storage) {
            self.mend_consumers(storage);
        }
        // Relaxed: written under this mutex.
        let taken = self.consumers.count.load(Ordering::Relaxed);
        let is_ahead = |mark: &Mark| i32::try_from(mark.count.wrapping_sub(taken)).is_ok();
        // What lies before the mark is skipped, unless consumers have come past it.
        let (count, mut cursor) = match mark.filter(is_ahead) {
            Some(Mark { count, cursor }) => (count, cursor),
            None => (taken, self.start()),
        };
        let put = self.producers.count.load(Ordering::Acquire);
        let mut trail = Trail::default();
        for _ in 0..put.wrapping_sub(count) {
            let mut is_over = false;
            let retag =
                |tag, message: &[u8], has_blob| match retag(tag, split_name(message, has_blob).1) {
                    ControlFlow::Continue(tag) => tag,
                    ControlFlow::Break(tag) => {
                        is_over = true;
                        tag
                    }
                };
            match Segment::rewrite_tag(storage, cursor, Some(&mut trail), retag) {
                Ok(next) if !is_over => cursor = next,
                _ => break,
            }
        }
        self.consumers.mutex.unlock(storage);
    }

    /// Where the next message will be put; `None` if somebody else is at it, or that isn't known.
    pub fn mark(&self, storage: Storage) -> Option<Mark> {
        if self.producers.mutex.try_lock(storage) == Tried::Busy {
            return None;
        }
        // Relaxed: written under this mutex. Consumers don't leave a segment for good before they
        // have taken a message from the next one, which is put after this.
        let mark = Mark {
            count: self.producers.count.load(Ordering::Relaxed),
            cursor: self.producers.cursor(),
        };
        self.producers.mutex.unlock(storage);
        (!mark.cursor.segment.is_null()).then_some(mark)
    }

    /// Sees to it that what a consumer that died has taken is in its claim.
    pub fn settle_claims(&self, storage: Storage) {
        if self.consumers.mutex.lock(storage) {
            self.mend_consumers(storage);
        }
        self.consumers.mutex.unlock(storage);
    }

    /// Hands the messages of a private queue that is being freed to the disposer.
    fn dispose(&self) {
        let Some(disposer) = DISPOSER.get() else {
            return;
        };
        while let Get::Got(()) = self.get(
            Storage::Private,
            Patience::None,
            &Uninterruptible,
            |tag, message| {
                disposer(tag, message);
            },
        ) {}
    }
}

/// The name of a message's blob, and the rest of the message.
#[inline]
fn split_name(message: &[u8], has_blob: bool) -> (Option<BlobName>, &[u8]) {
    if !has_blob {
        return (None, message);
    }
    let rest = message.get(BlobName::LENGTH..).unwrap_or(&[]);
    (BlobName::from_bytes(message), rest)
}
