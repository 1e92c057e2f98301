// SPDX-License-Identifier: MIT
//! A family: processes that share one memory file, and who of them holds which object.
//!
//! The file is an anonymous `memfd`. It needs no `/dev/shm`, has no name to leak, is not
//! bounded by a container's shm mount, and is freed by the kernel when the last process that
//! maps it has ended.
//!
//! Invariants:
//! 1. Bitmaps and holder bits change only under the header's robust mutex; process slots are
//!    taken without it and freed under it.
//! 2. A run exists exactly while its bit in the starts bitmap is set; that bit is the last
//!    store of an allocation and the first of a freeing.
//! 3. An object is freed when its last holder bit is cleared: by the holder, or by whoever
//!    finds that the holder has died. Bits are set and cleared, never counted, so a process
//!    that is killed anywhere can't leave a wrong count. Who frees an object leaves its own
//!    bit set until that is done, so that its own death on the way is found like any other;
//!    meanwhile a serial number of zero keeps everybody else from the object.
//! 4. In each process a counter per object says how many references it has there; the
//!    transitions from and to zero happen under the mutex, together with the holder bit. Whoever
//!    drops a reference waits only a moment for the mutex: if somebody was stopped who has it, the
//!    reference is counted on until this process gets the mutex again.
//! 5. Nothing of a joined family is unmapped while the process lives, and the file is sealed
//!    against being cut. Whatever is read from it is checked before it is used as an offset, a
//!    length or a bound, as if somebody had overwritten it: what is followed lies in the file and
//!    is aligned, and each loop ends.

use core::fmt;
use core::ptr::NonNull;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, open, readlink};
use rustix::io::{Errno, FdFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::deadline::Deadline;
use crate::park::{Park, Parked, Uninterruptible};
use crate::primitive::Ordering::{Acquire, Relaxed, Release};
use crate::primitive::{AtomicPtr, AtomicU32};
use crate::process::Process;
use crate::storage::{Storage, Token};
use crate::sync::mutex::{Locked, RobustMutex, Tried};

mod bitmap;
mod blobs;
mod cargo;
mod container;
mod fork;
mod kernel;
mod layout;
mod mapping;
mod objects;
mod processes;
mod runs;
mod trim;
mod write;

pub(crate) use cargo::CARGO_BYTES;
pub use fork::{after_fork_in_child, after_fork_in_parent, before_fork};
use kernel::{fcntl_add_seals, fcntl_get_seals, fcntl_setfd, fstat, ftruncate, memfd_create};
use layout::{Extent, Header, MAGIC, MAX_EXTENTS, ObjectHeader, ProcessSlot};
pub(crate) use mapping::CopyOnWrite;
pub use processes::Processes;
use processes::{slot_of, unregistered};

/// What names a family in handles: random, so that it can't be guessed.
pub type FamilyId = [u64; 2];

/// This process's view of a family. Once it is joined, never dropped.
#[derive(Debug)]
pub struct Family {
    id: FamilyId,
    file: OwnedFd,
    /// Where each extent is mapped; null until it is met.
    extents: [AtomicPtr<u8>; MAX_EXTENTS],
    /// One counter a cell: this process's references to the object that begins there.
    references: [AtomicPtr<AtomicU32>; MAX_EXTENTS],
    /// When each slot's process was last seen alive, in milliseconds; 0 is never.
    seen_alive: [AtomicU32; layout::MAX_PROCESSES as usize],
    /// For each part of the file (those with the same number modulo [`PARTS`] share an entry) the
    /// count of trims, plus one, at which this process wrote to it through the file.
    written: [AtomicU32; PARTS],
    /// Whether (1) objects were released whose references are still counted.
    has_deferred: AtomicU32,
    me: AtomicU32,
    /// The process that `me` belongs to; another one after a fork that nobody told us of.
    pid: AtomicU32,
}

/// A run of cells, by the offset of its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run(u64);

impl Run {
    /// The run that begins at an offset, if there is one.
    pub(crate) fn at(offset: u64) -> Self {
        Self(offset)
    }

    /// Where a raw run's data starts.
    pub(crate) fn data(self) -> u64 {
        self.0 + layout::CELL
    }

    /// The raw run with this data.
    pub(crate) fn of_data(offset: u64) -> Self {
        Self(offset.wrapping_sub(layout::CELL))
    }
}

/// How long the family's mutex is waited for. Critical sections take microseconds, but a process
/// may be stopped in the middle of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Not at all: for who keeps an interpreter from going on, or another mutex from the living.
    AtOnce,
    /// Long enough for those who go on, and to find out about those who died.
    Soon,
    /// However long it takes.
    Whenever,
}

/// See [`Entry::Soon`].
const SOON: Duration = Duration::from_millis(10);

/// The process table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfSlots;

/// Why a family can't be made or joined.
#[derive(Debug)]
pub enum FamilyError {
    /// A system call failed.
    Os {
        /// Which one.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// More processes than a family can have.
    OutOfSlots,
    /// More families than a process can be part of.
    TooMany,
    /// The file is not a family's, not this version's, or not the one that was expected.
    Foreign,
}

impl fmt::Display for FamilyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os { call, errno } => write!(out, "{call} failed: {errno}"),
            Self::OutOfSlots => {
                write!(
                    out,
                    "more than {} processes share memory",
                    layout::MAX_PROCESSES - 1
                )
            }
            Self::TooMany => write!(out, "more than {MAX_FAMILIES} families in one process"),
            Self::Foreign => write!(out, "the shared memory belongs to something else"),
        }
    }
}

impl core::error::Error for FamilyError {}

impl From<OutOfSlots> for FamilyError {
    fn from(_: OutOfSlots) -> Self {
        Self::OutOfSlots
    }
}

fn os(call: &'static str) -> impl Fn(Errno) -> FamilyError {
    move |errno| FamilyError::Os { call, errno }
}

const MAX_FAMILIES: usize = 16;

/// How many parts of the file are remembered as written.
const PARTS: usize = 1024;

/// Milliseconds for which a process that was seen alive is taken to be.
const SEEN_ALIVE: u32 = 50;

/// The families of this process, without gaps.
static FAMILIES: [AtomicPtr<Family>; MAX_FAMILIES] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_FAMILIES];

/// The one in which new objects are made, if that isn't simply the first.
static HOME: AtomicPtr<Family> = AtomicPtr::new(core::ptr::null_mut());

/// Held by the thread that adds a family. A child that is forked meanwhile finds it held by a
/// thread that is gone, and nothing to repair: a family is added by one store.
static ADDING: RobustMutex = RobustMutex::new();

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().map_while(|entry| {
        // SAFETY: entries are null or point to a leaked Family, published with Release.
        unsafe { entry.load(Acquire).as_ref() }
    })
}

/// Adds a family to this process's, for good, unless `existing` finds that another thread did.
fn add(
    existing: impl FnOnce() -> Option<&'static Family>,
    make: impl FnOnce() -> Result<Family, FamilyError>,
) -> Result<&'static Family, FamilyError> {
    let _ = ADDING.lock(Storage::Private);
    let added = existing().map_or_else(|| make_and_publish(make), Ok);
    ADDING.unlock(Storage::Private);
    added
}

/// Under the mutex `ADDING`.
fn make_and_publish(
    make: impl FnOnce() -> Result<Family, FamilyError>,
) -> Result<&'static Family, FamilyError> {
    let free = FAMILIES
        .iter()
        .find(|entry| entry.load(Relaxed).is_null())
        .ok_or(FamilyError::TooMany)?;
    let family: *mut Family = Box::into_raw(Box::new(make()?));
    // No step: this process's own. Release: pairs with the Acquire in `families`.
    free.store(family, Release);
    // SAFETY: leaked just now, and shared from now on.
    Ok(unsafe { &*family })
}

impl Family {
    /// The family in which this process makes its objects; founded if there is none yet.
    ///
    /// # Errors
    ///
    /// [`FamilyError`] if there is no memory file to be had.
    pub fn home() -> Result<&'static Self, FamilyError> {
        match Self::existing_home() {
            Some(home) => Ok(home),
            None => add(Self::existing_home, Self::found),
        }
    }

    /// The family in which this process makes its objects, if it has one.
    #[must_use]
    pub fn existing_home() -> Option<&'static Self> {
        // SAFETY: null, or one of FAMILIES, which are never freed.
        let moved_to = unsafe { HOME.load(Acquire).as_ref() };
        moved_to.or_else(|| families().next())
    }

    /// Makes this the family in which this process makes its objects from now on: that of who has
    /// started it. (It may have made some in another before: at the top of a module that it needed
    /// to find out what it was started for.)
    pub fn make_home(&'static self) {
        // No step: this process's own. Release: pairs with the Acquire in `existing_home`.
        HOME.store(core::ptr::from_ref(self).cast_mut(), Release);
    }

    /// The family with this id, if this process has joined it.
    #[must_use]
    pub fn find(id: FamilyId) -> Option<&'static Self> {
        families().find(|family| family.id == id)
    }

    /// Joins the family of `file`, in the slot that was reserved for this process.
    ///
    /// # Errors
    ///
    /// [`FamilyError`] if the file isn't that of family `id`, or a limit is reached.
    pub fn join(
        file: OwnedFd,
        id: FamilyId,
        reserved: Option<Token>,
    ) -> Result<&'static Self, FamilyError> {
        let make = || {
            let family = Self::over(file, id)?;
            let header = family.header();
            let same_id = [header.id[0].load(Relaxed), header.id[1].load(Relaxed)] == id;
            if header.magic.load(Relaxed) != MAGIC || !same_id {
                return Err(FamilyError::Foreign);
            }
            family.register(reserved)?;
            Ok(family)
        };
        add(|| Self::find(id), make)
    }

    /// Joins the family `id` through the descriptor that `pid`, a process of the same user,
    /// has of it.
    ///
    /// # Errors
    ///
    /// [`FamilyError`] if that process is gone, another one, or not to be looked into.
    pub fn join_through(pid: u32, fd: u32, id: FamilyId) -> Result<&'static Self, FamilyError> {
        if let Some(family) = Self::find(id) {
            return Ok(family);
        }
        let path = format!("/proc/{pid}/fd/{fd}");
        // Looked at first: opening a device or a pipe by mistake could have consequences.
        let target = readlink(&path, Vec::new()).map_err(os("readlink"))?;
        if !target.as_bytes().starts_with(b"/memfd:freethreading") {
            return Err(FamilyError::Foreign);
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty()).map_err(os("open"))?;
        Self::join(file, id, None)
    }

    fn found() -> Result<Self, FamilyError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(c"freethreading", flags).map_err(os("memfd_create"))?;
        // No step: nobody else has the file yet.
        ftruncate(&file, Extent(0).size()).map_err(os("ftruncate"))?;
        // Nobody can take from the others what they have mapped, or forbid them to map more.
        let seals = SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(os("fcntl"))?;
        let mut id = [0_u8; 16];
        fill_random(&mut id)?;
        let (low, high) = id.split_at(8);
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |word, &byte| (word << 8) | u64::from(byte))
        };
        let family = Self::over(file, [word(low), word(high)])?;
        let header = family.header();
        // No step, four times: nobody else has the file yet.
        header.id[0].store(family.id[0], Relaxed);
        header.id[1].store(family.id[1], Relaxed);
        header.extents.store(1, Relaxed);
        header.magic.store(MAGIC, Release);
        family.register(None)?;
        Ok(family)
    }

    /// A view of `file` with its first extent mapped; nobody is registered yet.
    fn over(file: OwnedFd, id: FamilyId) -> Result<Self, FamilyError> {
        // A mapping past the end of a file faults when it is touched.
        let size = fstat(&file).map_err(os("fstat"))?.st_size;
        if u64::try_from(size).unwrap_or(0) < Extent(0).size() {
            return Err(FamilyError::Foreign);
        }
        // Nor may it end sooner one day. (What has no seals isn't a memory file.)
        let seals = fcntl_get_seals(&file).map_err(|_| FamilyError::Foreign)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(FamilyError::Foreign);
        }
        // One that came over an exec has lost the mark; programs that we start mustn't keep it.
        fcntl_setfd(&file, FdFlags::CLOEXEC).map_err(os("fcntl"))?;
        let family = Self {
            id,
            file,
            extents: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_EXTENTS],
            references: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_EXTENTS],
            seen_alive: [const { AtomicU32::new(0) }; layout::MAX_PROCESSES as usize],
            written: [const { AtomicU32::new(0) }; PARTS],
            has_deferred: AtomicU32::new(0),
            me: AtomicU32::new(unregistered().bits()),
            pid: AtomicU32::new(std::process::id()),
        };
        family.map_extent(Extent(0)).map_err(os("mmap"))?;
        Ok(family)
    }

    fn header(&self) -> &Header {
        let start = NonNull::new(self.extents[0].load(Relaxed)).expect("mapped in `over`");
        // SAFETY: extent 0 is mapped in `over`, before anybody can call this, and stays; the
        // header is at its start, made of atomics, and valid whatever the bytes are.
        unsafe { start.cast().as_ref() }
    }

    fn process_slot(&self, offset: u64) -> &ProcessSlot {
        let slot = self
            .resolve(offset, size_of::<ProcessSlot>())
            .expect("part of extent 0");
        // SAFETY: resolved; made of atomics; valid whatever the bytes are.
        unsafe { slot.cast().as_ref() }
    }

    fn object_header(&self, run: Run) -> Option<&ObjectHeader> {
        let header = self.resolve(run.0, size_of::<ObjectHeader>())?.cast();
        if !header.is_aligned() {
            return None;
        }
        // SAFETY: as above, and aligned.
        Some(unsafe { header.as_ref() })
    }

    /// The name of the family.
    #[must_use]
    pub fn id(&self) -> FamilyId {
        self.id
    }

    /// The memory file.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The memory file's number in this process.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The token of this process.
    #[must_use]
    #[inline]
    pub fn me(&self) -> Token {
        // Relaxed: written before the family is published or by a child's only thread.
        Token::from_bits(self.me.load(Relaxed)).unwrap_or_else(unregistered)
    }

    /// Whether this process has a slot, and others find out when it dies.
    pub(crate) fn is_registered(&self) -> bool {
        self.me() != unregistered()
    }

    /// What no other living process of the family has: the token, or, for one that found no slot
    /// and shares its token with others of that kind, a number that is no token.
    #[inline]
    pub(crate) fn mark(&self) -> u32 {
        let me = self.me();
        if me == unregistered() {
            return 1 << 31
                | rustix::process::getpid()
                    .as_raw_nonzero()
                    .get()
                    .unsigned_abs();
        }
        me.bits()
    }

    /// The process table.
    #[must_use]
    pub fn processes(&self) -> Processes<'_> {
        Processes(self)
    }

    /// Whether the holder of `token` has died; asks the kernel unless it has done so within the
    /// last [`SEEN_ALIVE`].
    pub(crate) fn seems_gone(&self, token: Token) -> bool {
        if self.processes().is_known_gone(token) {
            return true;
        }
        let Some(seen) = self.seen_alive.get(slot_of(token) as usize) else {
            return true;
        };
        // Relaxed: whatever is read, it is a time at which the process of this slot was alive,
        // and an earlier life's end is known.
        let now = Deadline::now().millis();
        let last = seen.load(Relaxed);
        if last != 0 && now.wrapping_sub(last) < SEEN_ALIVE {
            return false;
        }
        let is_gone = self.processes().is_gone(token);
        if !is_gone {
            // No step: this process's own.
            seen.store(now.max(1), Relaxed);
        }
        is_gone
    }

    /// Gives this process a slot and hence a token. It holds no mutex until it has one.
    fn register(&self, reserved: Option<Token>) -> Result<(), OutOfSlots> {
        let processes = self.processes();
        let token = match reserved.filter(|&token| processes.adopt(token)) {
            Some(adopted) => adopted,
            None => processes.enroll().or_else(|OutOfSlots| {
                self.reap_dead();
                processes.enroll()
            })?,
        };
        // No step, twice: this process's own.
        self.me.store(token.bits(), Relaxed);
        self.pid.store(std::process::id(), Relaxed);
        self.reap_dead();
        Ok(())
    }

    /// Reserves a slot for a process that this one is about to start.
    ///
    /// # Errors
    ///
    /// [`OutOfSlots`] if the table is full of living processes.
    pub fn reserve(&'static self) -> Result<Token, OutOfSlots> {
        self.reap_dead();
        self.processes().reserve(self.me())
    }

    /// Frees the slots of processes that have died and what only they held. Returns how many.
    pub fn reap_dead(&self) -> usize {
        self.reap_dead_if(Entry::Whenever)
    }

    /// As `reap_dead`, as far as the mutex is to be had in time.
    pub(crate) fn reap_dead_if(&self, entry: Entry) -> usize {
        let dead: Vec<Token> = self
            .processes()
            .iter()
            .filter(|&token| self.processes().is_gone(token))
            .collect();
        dead.iter()
            .filter(|&&token| self.reap_if(entry, token))
            .count()
    }

    /// Frees the slot of `token` and what only it held, if its process is dead or hasn't
    /// arrived yet (and never will: then it gets another slot, and holds nothing). Says whether
    /// it did.
    pub fn reap(&self, token: Token) -> bool {
        self.reap_if(Entry::Whenever, token)
    }

    fn reap_if(&self, entry: Entry, token: Token) -> bool {
        if token == self.me()
            || self
                .processes()
                .process(token)
                .is_some_and(Process::is_alive)
        {
            return false;
        }
        let left = self.locked_if(entry, || {
            if !self.processes().begin_reaping(token) {
                return None;
            }
            let orphans = self.inherit(slot_of(token));
            let lenders = self.lenders(token);
            self.processes().release(token);
            Some((orphans, lenders))
        });
        let Some(Some((orphans, lenders))) = left else {
            return false;
        };
        for orphan in orphans {
            self.destroy(orphan);
        }
        for (lender, serial) in lenders {
            self.call_loans_in(lender, serial);
        }
        true
    }

    /// Runs a critical section under the family's mutex; mends first what the dead left.
    fn locked<R>(&self, section: impl FnOnce() -> R) -> R {
        let storage = self.as_storage();
        if self.header().mutex.lock(storage) {
            self.mend();
        }
        let result = section();
        self.header().mutex.unlock(storage);
        result
    }

    /// As `locked`; `None`, and nothing has happened, if the mutex isn't to be had in time.
    pub(crate) fn locked_if<R>(&self, entry: Entry, section: impl FnOnce() -> R) -> Option<R> {
        let storage = self.as_storage();
        let mutex = &self.header().mutex;
        let locked = match (entry, mutex.try_lock_briefly(storage)) {
            (_, Tried::Taken) => Locked::Clean,
            (Entry::AtOnce, Tried::Busy) => Locked::TimedOut,
            // (The clock isn't looked at before.)
            (Entry::Soon, Tried::Busy) => {
                mutex.lock_until(storage, &Uninterruptible, Deadline::after(SOON))
            }
            (Entry::Whenever, Tried::Busy) => return Some(self.locked(section)),
        };
        match locked {
            Locked::Clean => {}
            Locked::Recovered => self.mend(),
            Locked::TimedOut | Locked::Interrupted => return None,
        }
        let result = section();
        mutex.unlock(storage);
        Some(result)
    }

    /// For who wasn't let in: waits until it may try again.
    pub(crate) fn await_entry(&self, park: &impl Park, deadline: Option<Deadline>) -> Parked {
        let storage = self.as_storage();
        let mutex = &self.header().mutex;
        match mutex.lock_until(storage, park, deadline) {
            Locked::Clean => {}
            Locked::Recovered => self.mend(),
            Locked::TimedOut => return Parked::TimedOut,
            Locked::Interrupted => return Parked::Interrupted,
        }
        mutex.unlock(storage);
        Parked::Retry
    }

    fn as_storage(&self) -> Storage {
        // SAFETY: the storage is used for the mutex within this call only, during which self
        // lives. (A view that is still being made isn't 'static yet.)
        Storage::Shared(unsafe { NonNull::from(self).as_ref() })
    }
}

fn fill_random(buffer: &mut [u8]) -> Result<(), FamilyError> {
    match getrandom(&mut *buffer, GetRandomFlags::empty()) {
        Ok(count) if count == buffer.len() => Ok(()),
        Ok(_) => Err(FamilyError::Os {
            call: "getrandom",
            errno: Errno::IO,
        }),
        Err(errno) => Err(FamilyError::Os {
            call: "getrandom",
            errno,
        }),
    }
}

/// Says what this process is called, for reports to the others.
pub fn name_process(name: &str) {
    for family in families() {
        family.processes().set_name(family.me(), name);
    }
}

/// Before this process ends in the regular way: the locks that it holds stay taken, as with the
/// standard library's, and nobody finds that their owner died.
pub fn disown() {
    families().for_each(Family::disown_locks);
}

#[cfg(test)]
mod tests;
