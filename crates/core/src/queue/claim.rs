// SPDX-License-Identifier: MIT
//! Claims: who has taken a message says so in a word of its own, so that it is known what was in
//! the hands of a process that died.
//!
//! The message and the claim are one step, whatever happens to the taker. Under the consumers'
//! mutex:
//!
//! ```text
//!   stage: claim, word   commit: count   word = claim   staged = none   advance: position, synced
//!  ----------------------------|--------------------------------------------------|------------
//!   died here: not taken,      |  died here: the next holder of the mutex         |  done
//!   what is staged is void     |  writes the word                                 |
//! ```

use crate::crash;
use crate::primitive::{AtomicU64, Ordering};
use crate::storage::{Address, Storage};

/// A claim that is being made.
pub(super) struct Claim<'a> {
    word: &'a AtomicU64,
    value: u64,
}

impl<'a> Claim<'a> {
    /// The first 8 bytes of a message, claimed in `word`; zero if there aren't so many.
    #[inline]
    pub(super) fn new(word: &'a AtomicU64, message: &[u8]) -> Self {
        let value = message
            .first_chunk()
            .map_or(0, |id| u64::from_le_bytes(*id));
        Self { word, value }
    }
}

/// What the next holder of the mutex needs if the taker dies. Written under the mutex, which orders
/// it: Relaxed throughout.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct StagedClaim {
    /// The address of the taker's word; null: nothing is staged.
    word: AtomicU64,
    value: AtomicU64,
}

impl StagedClaim {
    /// Before the commit. (Private memory has no holders that die; nothing need be staged there.)
    #[inline]
    pub(super) fn stage(&self, storage: Storage, claim: &Claim<'_>) {
        if let Some(address) = storage.address_of(claim.word) {
            crash::step!("claim.staging");
            self.value.store(claim.value, Ordering::Relaxed);
            crash::step!("claim.stage.value");
            self.word.store(address.bits(), Ordering::Relaxed);
            crash::step!("claim.staged");
        }
    }

    /// After the commit, before it is synced.
    #[inline]
    pub(super) fn settle(&self, claim: Option<&Claim<'_>>) {
        if let Some(claim) = claim {
            crash::step!("claim.committed");
            claim.word.store(claim.value, Ordering::Relaxed);
            crash::step!("claim.written");
            self.word.store(Address::NULL.bits(), Ordering::Relaxed);
            crash::step!("claim.settled");
        }
    }

    /// Finishes what a dead holder has begun.
    pub(super) fn mend(&self, storage: Storage, is_committed: bool) {
        let address = Address::from_bits(self.word.load(Ordering::Relaxed));
        if address.is_null() {
            return;
        }
        if is_committed {
            let word = storage.resolve(address, size_of::<AtomicU64>());
            let word = word.map(core::ptr::NonNull::cast::<AtomicU64>);
            if let Some(word) = word.filter(|word| word.is_aligned()) {
                // SAFETY: resolved and aligned; any bytes are an AtomicU64.
                let word = unsafe { word.as_ref() };
                crash::step!("claim.mending");
                word.store(self.value.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        crash::step!("claim.mend.written");
        self.word.store(Address::NULL.bits(), Ordering::Relaxed);
        crash::step!("claim.mended");
    }
}
