// SPDX-License-Identifier: MIT
//! What the workers and their killer tell each other, in memory that the engine has no part in.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use freethreading_core::storage::Token;

/// Lives that a board has room for: each has a name of eight bits.
pub(crate) const MAX_LIVES: usize = 250;

/// Sequentially consistent throughout: an oracle should not need an argument.
pub(crate) const ORDER: Ordering = Ordering::SeqCst;

/// What one round of a test writes down. All-zero at first.
pub(crate) struct Board {
    /// Set once some check has failed.
    pub(crate) failed: AtomicU32,
    /// Tells the workers to go home.
    pub(crate) stop: AtomicU32,
    /// How many kills have been announced.
    pub(crate) kills: AtomicU32,
    /// Who is where only some may be at once.
    pub(crate) room: Room,
    /// Whatever a test counts.
    pub(crate) count: AtomicU64,
    pub(crate) lives: [Life; MAX_LIVES],
}

/// What is known of one worker, from its start to its death.
pub(crate) struct Life {
    phase: AtomicU32,
    /// Which kill it is that ends this life; 0: none so far.
    doom: AtomicU32,
    pub(crate) token: AtomicU32,
    /// How often this worker's death was reported to somebody.
    pub(crate) reports: AtomicU32,
    /// What it has done, whatever a test counts.
    pub(crate) steps: AtomicU64,
    /// Not zero while it may have something in hand that nobody else has.
    pub(crate) hand: AtomicU32,
}

/// What a worker is doing. A worker that is killed leaves the last word on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    Starting,
    /// Neither has anything nor was told anything.
    Outside,
    /// Surely has what it asked for.
    Holding,
    /// May have given it back already.
    Releasing,
    /// In a wait list, for certain.
    Listed,
    /// May have left the list, and be on its way to use what it was told.
    Leaving,
    /// Knows that a barrier is broken.
    Resting,
    Done,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Starting,
        Self::Outside,
        Self::Holding,
        Self::Releasing,
        Self::Listed,
        Self::Leaving,
        Self::Resting,
        Self::Done,
    ];
}

impl Life {
    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[self.phase.load(ORDER) as usize]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, ORDER);
    }

    pub(crate) fn doom(&self) -> Option<u32> {
        Some(self.doom.load(ORDER)).filter(|&doom| doom != 0)
    }
}

impl Board {
    /// Says that a worker is about to be killed, before it is.
    pub(crate) fn announce_kill(&self, life: usize) {
        let doom = self.kills.fetch_add(1, ORDER) + 1;
        self.lives[life].doom.store(doom, ORDER);
    }

    /// The life that had this token.
    pub(crate) fn life_of(&self, token: Token) -> Option<&Life> {
        self.lives
            .iter()
            .find(|life| life.token.load(ORDER) == token.bits())
    }

    pub(crate) fn steps(&self) -> u64 {
        self.lives.iter().map(|life| life.steps.load(ORDER)).sum()
    }
}

impl fmt::Display for Board {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} kills;", self.kills.load(ORDER))?;
        for (number, life) in self.lives.iter().enumerate() {
            if life.phase() == Phase::Starting && life.token.load(ORDER) == 0 {
                continue;
            }
            // The dead of long ago tell nothing.
            if life
                .doom()
                .is_some_and(|doom| doom + 3 < self.kills.load(ORDER))
            {
                continue;
            }
            let end = if life.doom().is_some() {
                ", killed"
            } else {
                ""
            };
            let steps = life.steps.load(ORDER);
            write!(
                out,
                " worker {number}: {:?}, {steps} steps{end};",
                life.phase()
            )?;
        }
        Ok(())
    }
}

/// Up to eight names, one a byte, so that who enters and who leaves is one atomic change.
#[derive(Default)]
pub(crate) struct Room(AtomicU64);

impl Room {
    /// Puts `name` in a place that is free or a dead one's, of the first `places`. Whom it
    /// replaced, 0 for nobody; `None` if all are taken by the living.
    pub(crate) fn enter(
        &self,
        places: usize,
        name: u8,
        is_dead: impl Fn(u8) -> bool,
    ) -> Option<u8> {
        let mut now = self.0.load(ORDER);
        loop {
            let mut names = now.to_le_bytes();
            let place = names[..places]
                .iter_mut()
                .find(|there| **there == 0 || is_dead(**there))?;
            let before = std::mem::replace(place, name);
            let new = u64::from_le_bytes(names);
            match self.0.compare_exchange(now, new, ORDER, ORDER) {
                Ok(_) => return Some(before),
                Err(other) => now = other,
            }
        }
    }

    /// Takes `name` out; false if it isn't there any more.
    pub(crate) fn leave(&self, name: u8) -> bool {
        let leave = |now: u64| {
            let mut names = now.to_le_bytes();
            *names.iter_mut().find(|there| **there == name)? = 0;
            Some(u64::from_le_bytes(names))
        };
        self.0.fetch_update(ORDER, ORDER, leave).is_ok()
    }
}

/// A board that forked children share with their parent.
pub(crate) struct SharedBoard(NonNull<Board>);

// SAFETY: points to atomics that live until the drop.
unsafe impl Sync for SharedBoard {}

impl SharedBoard {
    pub(crate) fn new() -> Self {
        // SAFETY: a new mapping, wherever there is room.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Board>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED, "no memory for the board");
        Self(NonNull::new(memory.cast()).expect("mapped, and not at 0"))
    }
}

impl Deref for SharedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: mapped in `new` until the drop; atomics, for which all-zero is valid.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedBoard {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size; no reference outlives self.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Board>()) };
    }
}
