// SPDX-License-Identifier: MIT
//! Where an object lives: in this process's heap or in the shared memory of a family.
//!
//! This is the only module, besides `family`, that knows the difference. An algorithm asks
//! its storage three things: how its futexes are shared, under which [`Token`] this process
//! holds locks there, and whether the holder of another token is gone.

use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::family::{Entry, Family, Run};
use crate::futex::Scope;
use crate::park::{Park, Parked};
use crate::primitive::{AtomicU64, Ordering};

mod blob;
mod fork_safe;
mod local;
mod private_copy;
pub(crate) mod trail;

pub use blob::{Blob, BlobName, Passenger};
pub use local::after_fork_in_child;
pub use private_copy::PrivateCopy;

/// Names the holder of a lock, a process or a thread: 31 bits, never zero and never reused.
///
/// In shared memory it is a slot of the family's process table and a generation, so that the
/// next process in the slot is another holder. In private memory it is a thread's number: a
/// lock that another thread held when the process forked has, in the child, a holder that is
/// gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Token(NonZeroU32);

impl Token {
    /// Reads a token back from a word; `None` for zero or more than 31 bits.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        if bits >> 31 == 0 {
            NonZeroU32::new(bits).map(Self)
        } else {
            None
        }
    }

    /// The token as a number below 2^31.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0.get()
    }
}

/// What may live in a storage.
///
/// # Safety
///
/// An implementor promises that
/// - the type is `#[repr(C)]`, consists of atomics only and is valid when all bytes are zero;
/// - it holds no pointers and no file descriptors: it means the same at any address, in any
///   process;
/// - whatever another process may write into it can lead to wrong results, not to undefined
///   behaviour;
/// - `KIND` is different for each implementor.
pub unsafe trait Shareable: Send + Sync + 'static {
    /// Tells objects apart in handles and in shared memory.
    const KIND: Kind;

    /// Lets go of everything that the object owns in `storage`. Called once, when nobody holds
    /// the object any more; the object's memory itself is freed by the caller.
    fn destroy(&self, _storage: Storage) {}
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "each is the type of the same name")]
pub enum Kind {
    Lock = 1,
    RLock = 2,
    Semaphore = 3,
    Event = 4,
    Condition = 5,
    Barrier = 6,
    Queue = 7,
    Blob = 8,
    Seat = 9,
}

impl Kind {
    /// Reads a kind back from a number.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        use Kind::{Barrier, Blob, Condition, Event, Lock, Queue, RLock, Seat, Semaphore};
        [
            Lock, RLock, Semaphore, Event, Condition, Barrier, Queue, Blob, Seat,
        ]
        .into_iter()
        .find(|&kind| kind as u32 == bits)
    }
}

/// A place for objects, and for the memory that they need beside themselves.
#[derive(Clone, Copy, Debug)]
pub enum Storage {
    /// This process's heap.
    Private,
    /// The shared memory of a family.
    Shared(&'static Family),
}

/// Who holds something, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A thread of this process.
    Thread {
        /// As the kernel numbers it.
        id: u32,
    },
    /// A process of the family, perhaps dead.
    Process {
        /// Its id.
        pid: u32,
        /// What it is called, if it said so.
        name: Option<String>,
    },
}

pub(crate) mod thread;

impl Storage {
    /// How futexes in this storage are shared.
    #[must_use]
    #[inline]
    pub fn scope(self) -> Scope {
        match self {
            Self::Private => Scope::Private,
            Self::Shared(_) => Scope::Shared,
        }
    }

    /// The token under which this thread holds locks here.
    #[must_use]
    #[inline]
    pub fn me(self) -> Token {
        match self {
            Self::Private => thread::current(),
            Self::Shared(family) => family.me(),
        }
    }

    /// Whether the holder of `token` has died, as far as memory alone tells. Cheap.
    #[must_use]
    pub fn is_known_gone(self, token: Token) -> bool {
        match self {
            Self::Private => thread::is_gone(token),
            Self::Shared(family) => family.processes().is_known_gone(token),
        }
    }

    /// Whether the holder of `token` has died; asks the kernel, microseconds.
    #[must_use]
    pub fn is_gone(self, token: Token) -> bool {
        match self {
            Self::Private => self.is_known_gone(token),
            Self::Shared(family) => family.processes().is_gone(token),
        }
    }

    /// Whether the holder of `token` has died, as [`Storage::is_gone`] said within the last
    /// moments (50 milliseconds): the dead may still seem alive, the living never dead. Cheap
    /// enough for each turn of a waiting loop.
    #[must_use]
    pub fn seems_gone(self, token: Token) -> bool {
        match self {
            Self::Private => self.is_known_gone(token),
            Self::Shared(family) => family.seems_gone(token),
        }
    }

    /// The holder of `token`, for reports.
    #[must_use]
    pub fn holder(self, token: Token) -> Option<Holder> {
        match self {
            Self::Private => thread::id(token).map(|id| Holder::Thread { id }),
            Self::Shared(family) => {
                let processes = family.processes();
                let pid = processes.last_pid(token)?;
                let name = processes.name(token);
                Some(Holder::Process { pid, name })
            }
        }
    }

    /// Whether a holder can die while others live on.
    #[must_use]
    #[inline]
    pub fn can_lose_holders(self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Memory for `bytes` bytes, at least 64-byte aligned, its content undefined. The address
    /// is stable and means the same to every process of the storage.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is none.
    pub fn allocate(self, bytes: usize) -> Result<Address, OutOfMemory> {
        match self {
            Self::Private => local::allocate(bytes),
            Self::Shared(family) => family
                .allocate_raw(Entry::Whenever, bytes)
                .map(|run| Address(run.data()))
                .map_err(Unavailable::for_good),
        }
    }

    /// Memory for `bytes` bytes that `prepare` fills; `link`, a word of this storage, is its
    /// address from then on. A process that is killed in this has done all or nothing.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is none.
    pub fn allocate_linked(
        self,
        bytes: usize,
        link: &AtomicU64,
        prepare: impl FnOnce(NonNull<u8>),
    ) -> Result<Address, OutOfMemory> {
        self.allocate_linked_if(Entry::Whenever, bytes, link, prepare)
            .map_err(Unavailable::for_good)
    }

    pub(crate) fn allocate_linked_if(
        self,
        entry: Entry,
        bytes: usize,
        link: &AtomicU64,
        prepare: impl FnOnce(NonNull<u8>),
    ) -> Result<Address, Unavailable> {
        match self {
            Self::Private => {
                let address = local::allocate(bytes)?;
                prepare(local::resolve(address).ok_or(OutOfMemory)?);
                // No step: private memory. Release: what was prepared is seen by who follows it.
                link.store(address.bits(), Ordering::Release);
                Ok(address)
            }
            Self::Shared(family) => family
                .allocate_linked(entry, bytes, link, prepare)
                .map(|run| Address(run.data())),
        }
    }

    /// Moves `link`, a word of this storage, on to `next`, and gives the memory back that it led
    /// to. A process that is killed in this has done all or nothing. False, and nothing has happened,
    /// if it doesn't lead to memory (somebody has overwritten shared memory).
    ///
    /// # Safety
    ///
    /// As [`Storage::free`].
    #[must_use]
    pub unsafe fn free_linked(
        self,
        address: Address,
        bytes: usize,
        link: &AtomicU64,
        next: u64,
    ) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.free_linked_if(Entry::Whenever, address, bytes, link, next) }
    }

    /// As [`Storage::free_linked`]; false also if that isn't possible in time.
    ///
    /// # Safety
    ///
    /// As [`Storage::free`].
    pub(crate) unsafe fn free_linked_if(
        self,
        entry: Entry,
        address: Address,
        bytes: usize,
        link: &AtomicU64,
        next: u64,
    ) -> bool {
        match self {
            Self::Private => {
                // No step: private memory.
                link.store(next, Ordering::Release);
                // SAFETY: passed on to the caller.
                unsafe { local::free(address, bytes) };
                true
            }
            Self::Shared(family) => family.free_linked(entry, Run::of_data(address.0), link, next),
        }
    }

    /// For who was told [`Unavailable::Busy`]: waits until it is worth another try.
    pub fn await_entry(self, park: &impl Park, deadline: Option<Deadline>) -> Parked {
        match self {
            Self::Private => Parked::Retry,
            Self::Shared(family) => family.await_entry(park, deadline),
        }
    }

    /// Runs `section` as one of those that change what belongs to whom; `None`, and nothing has
    /// happened, if that isn't possible in time.
    pub(crate) fn locked_if<R>(self, entry: Entry, section: impl FnOnce() -> R) -> Option<R> {
        match self {
            Self::Private => Some(section()),
            Self::Shared(family) => family.locked_if(entry, section),
        }
    }

    /// The address of a word of this storage, if others may need it because who uses it died.
    pub(crate) fn address_of<T>(self, word: &T) -> Option<Address> {
        self.family().map(|family| Address(family.offset_of(word)))
    }

    /// False if `address` lies in shared memory that this process has no room to map.
    pub(crate) fn can_map(self, address: Address) -> bool {
        match self {
            Self::Private => true,
            Self::Shared(family) => family.can_map(address.0),
        }
    }

    /// Finishes what a process that was killed has left in the middle.
    pub(crate) fn mend(self) {
        if let Self::Shared(family) = self {
            family.mend_now();
        }
    }

    /// Gives memory back. A second call for the same allocation is a logic error; in shared
    /// memory it is noticed and ignored.
    ///
    /// # Safety
    ///
    /// - `address` came from [`Storage::allocate`] of the same storage with the same `bytes`;
    /// - nobody uses the memory any more.
    pub unsafe fn free(self, address: Address, bytes: usize) {
        match self {
            // SAFETY: passed on to the caller.
            Self::Private => unsafe { local::free(address, bytes) },
            Self::Shared(family) => family.free_raw(Run::of_data(address.0)),
        }
    }

    /// Whether memory was allocated that begins at `address`, as far as shared memory tells.
    pub(crate) fn is_allocated(self, address: Address) -> bool {
        match self {
            Self::Private => true,
            Self::Shared(family) => family.is_raw(Run::of_data(address.0)),
        }
    }

    /// Where a `T` at `address` is mapped here; `None` if there can't be one.
    #[inline]
    pub(crate) fn resolve_as<T>(self, address: Address) -> Option<NonNull<T>> {
        let start = self.resolve(address, size_of::<T>())?.cast::<T>();
        start.is_aligned().then_some(start)
    }

    /// Where a `T` at `address` is mapped here, and how many bytes an allocation may have there, at
    /// most; `None` if there can't be one.
    #[inline]
    pub(crate) fn reach_as<T>(self, address: Address) -> Option<(NonNull<T>, u64)> {
        let (start, room) = match self {
            Self::Private => (local::resolve(address)?, u64::MAX),
            Self::Shared(family) => family.reach(address.0)?,
        };
        let start = start.cast::<T>();
        (start.is_aligned() && size_of::<T>() as u64 <= room).then_some((start, room))
    }

    /// Where `address` is mapped here; `None` if `bytes` bytes from it can't be an allocation
    /// (shared memory that somebody has overwritten).
    #[must_use]
    pub fn resolve(self, address: Address, bytes: usize) -> Option<NonNull<u8>> {
        match self {
            Self::Private => local::resolve(address),
            Self::Shared(family) => family.resolve(address.0, bytes),
        }
    }
}

/// Names memory in a storage: an offset in shared memory, an exposed address in private
/// memory. Zero names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub(crate) u64);

impl Address {
    /// Names nothing.
    pub const NULL: Self = Self(0);

    /// Whether this names nothing.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address as it is stored in shared structures.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Reads a stored address back.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// There is no more memory of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Why there is no memory, or nothing else that shared memory's own mutex guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no more of it.
    OutOfMemory,
    /// Another process is in the middle of a change, longer than usual: it may have been stopped.
    /// [`Storage::await_entry`] waits for it.
    Busy,
}

impl Unavailable {
    /// For those who have waited however long it takes.
    fn for_good(_: Self) -> OutOfMemory {
        OutOfMemory
    }
}

impl From<OutOfMemory> for Unavailable {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A counted reference to a `T` in a storage; the last one in the last process frees it.
pub struct Object<T: Shareable> {
    target: NonNull<T>,
    keep: Keep,
    _owns: PhantomData<Arc<T>>,
}

// SAFETY: an Object is a counted reference to a T, which is Send and Sync (Shareable asks for
// it); counting is done with atomics or under the family's lock.
unsafe impl<T: Shareable> Send for Object<T> {}
// SAFETY: as above; &Object gives no more than &T.
unsafe impl<T: Shareable> Sync for Object<T> {}

enum Keep {
    /// `target` came from `Arc::into_raw`; the count is given back in `drop`.
    Private,
    Shared(&'static Family, Run),
}

impl<T: Shareable> Object<T> {
    /// A new, all-zero object.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the shared memory can't grow.
    pub fn new(storage: Storage) -> Result<Self, OutOfMemory> {
        Self::new_if(Entry::Whenever, storage).map_err(Unavailable::for_good)
    }

    /// As [`Object::new`], without waiting for anybody.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is no memory now.
    pub fn try_new(storage: Storage) -> Result<Self, Unavailable> {
        Self::new_if(Entry::AtOnce, storage)
    }

    fn new_if(entry: Entry, storage: Storage) -> Result<Self, Unavailable> {
        match storage {
            Storage::Private => {
                // SAFETY: Shareable promises that all-zero is a valid T.
                let object: Arc<T> = Arc::new(unsafe { core::mem::zeroed() });
                Ok(Self::from_arc(object))
            }
            Storage::Shared(family) => {
                let run = family.allocate_object(entry, T::KIND, size_of::<T>())?;
                Ok(Self::from_run(family, run))
            }
        }
    }

    fn from_arc(object: Arc<T>) -> Self {
        let target = NonNull::new(Arc::into_raw(object).cast_mut()).expect("Arc is never null");
        Self {
            target,
            keep: Keep::Private,
            _owns: PhantomData,
        }
    }

    /// Takes over one local reference to the object of `run`, whose kind the caller checked.
    fn from_run(family: &'static Family, run: Run) -> Self {
        let target = family.object(run).cast();
        Self {
            target,
            keep: Keep::Shared(family, run),
            _owns: PhantomData,
        }
    }

    /// Where the object lives.
    #[must_use]
    #[inline]
    pub fn storage(&self) -> Storage {
        match self.keep {
            Keep::Private => Storage::Private,
            Keep::Shared(family, _) => Storage::Shared(family),
        }
    }

    /// One more reference to the same object.
    #[must_use]
    pub fn another(&self) -> Self {
        match self.keep {
            Keep::Private => Self::from_arc(self.arc()),
            Keep::Shared(family, run) => {
                family.retain_once_more(run);
                Self::from_run(family, run)
            }
        }
    }

    /// One more reference, for a message of this family that names the object; `None` if the object
    /// lives elsewhere.
    #[must_use]
    pub fn passenger(&self, to: &'static Family) -> Option<Passenger> {
        match self.keep {
            Keep::Shared(family, run) if core::ptr::eq(family, to) => {
                family.retain_once_more(run);
                Some(Passenger::new(family, run))
            }
            _ => None,
        }
    }

    /// A number that two references share exactly if they mean the same object.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.target.as_ptr().addr() as u64
    }

    /// Whether this is the only reference to a private object.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        match self.keep {
            // One count is ours, one the temporary's.
            Keep::Private => Arc::strong_count(&self.arc()) == 2,
            Keep::Shared(..) => false,
        }
    }

    fn arc(&self) -> Arc<T> {
        // SAFETY: only called for Keep::Private, where target came from Arc::into_raw and its
        // count is ours, so the Arc lives; ManuallyDrop leaves that count alone.
        let ours = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(self.target.as_ptr()) });
        Arc::clone(&ours)
    }
}

impl<T: Shareable> Deref for Object<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: target points to a T that our count (Private) or our family's holder bit
        // (Shared) keeps; T is made of atomics, so others may change it under a shared
        // reference. Mappings are never removed while the process lives.
        unsafe { self.target.as_ref() }
    }
}

impl<T: Shareable> Drop for Object<T> {
    fn drop(&mut self) {
        match self.keep {
            Keep::Private => {
                // SAFETY: target came from Arc::into_raw, and this is the one time that its
                // count is taken back.
                let object = unsafe { Arc::from_raw(self.target.as_ptr()) };
                if let Some(last) = Arc::into_inner(object) {
                    last.destroy(Storage::Private);
                }
            }
            Keep::Shared(family, run) => family.release(run),
        }
    }
}

pub mod handle;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_31_bits_and_are_not_zero() {
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(1 << 31), None);
        assert_eq!(Token::from_bits(7).map(Token::bits), Some(7));
    }

    #[test]
    fn kinds_read_back() {
        for bits in 0..100 {
            if let Some(kind) = Kind::from_bits(bits) {
                assert_eq!(kind as u32, bits);
            }
        }
        assert_eq!(Kind::from_bits(0), None);
    }
}
