// SPDX-License-Identifier: MIT
//! Handles: what an object is called when it travels in a pickle.
//!
//! A handle names the family, the object's place and its serial number, so a stale or foreign
//! one is recognized, never followed. It also says where a process that hasn't joined the
//! family yet can find the memory file (a descriptor of the process that made the handle).

use core::fmt;

use super::{Keep, Kind, Object, Shareable, Storage, local};
use crate::family::{Family, FamilyError, FamilyId};
use crate::primitive::{AtomicU64, Ordering};
use crate::storage::Token;

/// Bytes of an encoded handle.
pub const LENGTH: usize = 48;

const MAGIC: u8 = 0xF7;
const VERSION: u8 = 1;

/// For whom a handle is made: who keeps the object alive until it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nobody reads it; it is only made to see that it can be.
    Trial,
    /// Anybody may read it, at any time, any number of times: the object stays until its
    /// family (in private memory: its process) ends.
    Anybody,
    /// The message that it is put in: the object is its [`Passenger`](super::Passenger).
    Message,
    /// The process that a slot was reserved for reads it, when it starts.
    NewProcess(Token),
}

/// Why there is no object for a handle.
#[derive(Debug)]
pub enum HandleError {
    /// These bytes are not a handle of this version.
    Malformed,
    /// It is another kind of object's.
    WrongKind {
        /// What the handle names.
        found: Option<Kind>,
    },
    /// The object doesn't exist any more.
    Stale,
    /// The object lives in the private memory of another process.
    Elsewhere,
    /// The family can't be joined.
    NoFamily(FamilyError),
}

impl fmt::Display for HandleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongKind { found: Some(found) } => write!(out, "the handle is a {found:?}'s"),
            Self::Malformed | Self::WrongKind { found: None } => {
                write!(out, "the handle is corrupted")
            }
            Self::Stale => write!(
                out,
                "the object no longer exists: every process that held it has dropped it or ended"
            ),
            Self::Elsewhere => write!(
                out,
                "the object belongs to the threads of another process (backend 'threading')"
            ),
            Self::NoFamily(error) => write!(
                out,
                "the object's family of processes can't be joined, it may have ended ({error})"
            ),
        }
    }
}

impl core::error::Error for HandleError {}

struct Fields {
    kind: Kind,
    /// Zero for private storage.
    pid: u32,
    fd: u32,
    id: FamilyId,
    place: u64,
    serial: u64,
}

impl Fields {
    fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = MAGIC;
        bytes[1] = VERSION;
        bytes[2] = self.kind as u8;
        let words = [
            (u64::from(self.pid) << 32) | u64::from(self.fd),
            self.id[0],
            self.id[1],
            self.place,
            self.serial,
        ];
        for (chunk, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[expect(clippy::cast_possible_truncation, reason = "splits a word in two")]
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[0] != MAGIC || bytes[1] != VERSION || bytes[3] != 0 {
            return None;
        }
        if bytes[4..8] != checksum(bytes).to_le_bytes() {
            return None;
        }
        let kind = Kind::from_bits(u32::from(bytes[2]))?;
        let mut words = bytes[8..].chunks_exact(8).map(|chunk| {
            chunk
                .iter()
                .rev()
                .fold(0_u64, |word, &byte| (word << 8) | u64::from(byte))
        });
        let mut next = || words.next();
        let process = next()?;
        Some(Self {
            kind,
            pid: (process >> 32) as u32,
            fd: process as u32,
            id: [next()?, next()?],
            place: next()?,
            serial: next()?,
        })
    }
}

/// FNV-1a over all but its own place. Each step is one-to-one, so no change of a single byte
/// goes unnoticed. It is there against accidents: who means harm can compute it.
fn checksum(bytes: &[u8; LENGTH]) -> u32 {
    let covered = bytes[..4].iter().chain(&bytes[8..]);
    covered.fold(0x811C_9DC5, |sum, &byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Tells the private memories of processes apart, as a family's id tells families. A forked
/// child keeps it: it has a copy of every object.
fn private_id() -> u64 {
    static ID: AtomicU64 = AtomicU64::new(0);
    let mine = crate::process::Process::current();
    let fresh = (u64::from(mine.pid) << 40) ^ mine.start_time | 1;
    // No step: this process's own.
    match ID.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => fresh,
        Err(known) => known,
    }
}

/// Whether new processes get their tokens from this family.
fn is_home(family: &Family) -> bool {
    Family::existing_home().is_some_and(|home| core::ptr::eq(home, family))
}

/// Makes a handle.
#[must_use]
pub fn encode<T: Shareable>(object: &Object<T>, purpose: Purpose) -> [u8; LENGTH] {
    let fields = match object.keep {
        Keep::Private => {
            let serial = match purpose {
                Purpose::Trial => 0,
                Purpose::Anybody | Purpose::Message | Purpose::NewProcess(_) => local::pin(object),
            };
            let id = [private_id(), 0];
            Fields {
                kind: T::KIND,
                pid: 0,
                fd: 0,
                id,
                place: object.identity(),
                serial,
            }
        }
        Keep::Shared(family, run) => {
            match purpose {
                Purpose::Trial | Purpose::Message => {}
                Purpose::NewProcess(token) if is_home(family) => family.retain_for(run, token),
                // The token is another family's.
                Purpose::Anybody | Purpose::NewProcess(_) => family.pin(run),
            }
            Fields {
                kind: T::KIND,
                pid: std::process::id(),
                fd: family.raw_fd().unsigned_abs(),
                id: family.id(),
                place: Family::offset(run),
                serial: family.serial(run),
            }
        }
    };
    fields.encode()
}

/// Finds the object of a handle.
///
/// # Errors
///
/// [`HandleError`] says why there is none.
pub fn decode<T: Shareable>(handle: &[u8]) -> Result<Object<T>, HandleError> {
    let fields = Fields::decode(handle).ok_or(HandleError::Malformed)?;
    if fields.kind != T::KIND {
        return Err(HandleError::WrongKind {
            found: Some(fields.kind),
        });
    }
    if fields.pid == 0 {
        if fields.id != [private_id(), 0] {
            return Err(HandleError::Elsewhere);
        }
        return local::find(fields.place, fields.serial).ok_or(HandleError::Stale);
    }
    let family = Family::find(fields.id)
        .map_or_else(
            || Family::join_through(fields.pid, fields.fd, fields.id),
            Ok,
        )
        .map_err(HandleError::NoFamily)?;
    let (run, kind) = family
        .retain(fields.place, fields.serial, size_of::<T>())
        .ok_or(HandleError::Stale)?;
    if kind != T::KIND as u32 {
        family.release(run);
        return Err(HandleError::WrongKind {
            found: Kind::from_bits(kind),
        });
    }
    Ok(Object::from_run(family, run))
}

impl Storage {
    /// The family, if this storage is shared.
    #[must_use]
    pub fn family(self) -> Option<&'static Family> {
        match self {
            Self::Private => None,
            Self::Shared(family) => Some(family),
        }
    }
}
