// SPDX-License-Identifier: MIT
//! The process table: who belongs to the family and who of them has died.
//!
//! A slot's life; each arrow is one store of the slot's word, which holds the state, how often
//! the slot was claimed, and a process id. So no two processes follow an arrow, and none is
//! left halfway:
//!
//! ```text
//!        claim              reserve (for a child)           adopt (by that child)
//!   FREE -----> CLAIMED -----------------------> RESERVED -----------------------> ALIVE
//!    ^            |  |                              |                                |
//!    |            |  +------ enroll (for itself) ---|------------------------------->|
//!    |  it died   |                                 | it won't come                  | it died
//!    +------------+                                 v                                v
//!    +<------------------------------------------ REAPING <--------------------------+
//! ```
//!
//! | state    | the word's pid                    | a survivor that finds it               |
//! |----------|-----------------------------------|----------------------------------------|
//! | CLAIMED  | who claimed it                    | takes it over if that process has died |
//! | RESERVED | its creator's; the child's, once  | reaps it if that process or the        |
//! |          | the creator knows it              | creator has died                       |
//! | ALIVE    | its process's                     | reaps it if that process has died      |
//! | REAPING  | as before                         | goes on: only the holder of the        |
//! |          |                                   | family's mutex reaps                   |
//! | FREE     | the last one's, for reports       |                                        |
//!
//! A worker's slot is reserved by its parent before the worker exists, so that what it was
//! given is held in its name from the start. Coming alive needs no mutex: a process that has no
//! token yet could not be found dead while it holds one.
//!
//! Orderings: the word is changed with Release after the other fields and loaded with Acquire
//! before them. A reader that catches them between two lives asks about the earlier one, and
//! whatever it makes of the later one's fields, that life is over.

use core::num::NonZeroU32;

use super::layout::{MAX_PROCESSES, NAME_BYTES, Name, ProcessSlot, process_slot};
use super::{Family, OutOfSlots};
use crate::crash;
use crate::primitive::Ordering;
use crate::process::Process;
use crate::storage::Token;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const RESERVED: u32 = 2;
const ALIVE: u32 = 3;
const REAPING: u32 = 4;

/// Bits of a token that say which slot it is; the other 21 count its lives.
const SLOT_BITS: u32 = 10;
const _: () = assert!(MAX_PROCESSES <= 1 << SLOT_BITS);
const LIVES: u32 = 1 << (31 - SLOT_BITS);

/// The process table of a family.
#[derive(Clone, Copy)]
pub struct Processes<'a>(pub(super) &'a Family);

/// The number of the slot that a token names.
pub(super) fn slot_of(token: Token) -> u32 {
    token.bits() & ((1 << SLOT_BITS) - 1)
}

/// The token of a process that found no slot: nobody declares it dead, and it holds nothing.
pub(super) fn unregistered() -> Token {
    token(0, NOBODYS_LIFE)
}

/// Any would do. One that no small number and no flipped bit is taken for: what that token holds
/// is held for ever.
const NOBODYS_LIFE: u32 = 0x15_5AA5;
const _: () = assert!(NOBODYS_LIFE < LIVES);

fn token(slot: u32, life: u32) -> Token {
    // A life of zero would make slot 0 the token zero; lives start at one.
    let bits = NonZeroU32::new((life << SLOT_BITS) | slot).map_or(0, NonZeroU32::get);
    Token::from_bits(bits).expect("lives start at one and have 21 bits")
}

/// What a slot's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    state: u32,
    /// Which of the slot's lives: part of the token.
    number: u32,
    pid: u32,
}

impl Life {
    #[expect(clippy::cast_possible_truncation, reason = "splits a word in parts")]
    fn from_bits(bits: u64) -> Self {
        Self {
            state: (bits >> 56) as u32,
            number: (bits >> 32) as u32 & (LIVES - 1),
            pid: bits as u32,
        }
    }

    fn bits(self) -> u64 {
        (u64::from(self.state) << 56) | (u64::from(self.number) << 32) | u64::from(self.pid)
    }

    fn has_token(self) -> bool {
        matches!(self.state, RESERVED | ALIVE | REAPING)
    }

    fn is_claimed_by_dead(self) -> bool {
        // Our own claim may be another thread's.
        self.state == CLAIMED && self.pid != std::process::id() && !is_alive(self.pid)
    }

    fn next_number(self) -> u32 {
        // Not zero: slot 0 of life 0 would be the token zero.
        (self.number + 1) % LIVES + u32::from(self.number + 1 == LIVES)
    }
}

/// Whether there is a process with this id.
fn is_alive(pid: u32) -> bool {
    Process { pid, start_time: 0 }.is_alive()
}

impl ProcessSlot {
    fn life(&self) -> Life {
        Life::from_bits(self.life.load(Ordering::Acquire))
    }

    fn change(&self, from: Life, to: Life) -> bool {
        let (from, to) = (from.bits(), to.bits());
        crash::step!("slot.changing");
        let changed = self
            .life
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        crash::step!("slot.changed");
        changed.is_ok()
    }
}

impl<'a> Processes<'a> {
    fn slot(self, index: u32) -> &'a ProcessSlot {
        self.0
            .process_slot(process_slot(index.min(MAX_PROCESSES - 1)))
    }

    /// The slot of a token that still is one's, and what its word says.
    fn find(self, wanted: Token) -> Option<(&'a ProcessSlot, Life)> {
        let index = slot_of(wanted);
        if index == 0 || index >= MAX_PROCESSES {
            return None;
        }
        let slot = self.slot(index);
        let life = slot.life();
        (life.has_token() && token(index, life.number) == wanted).then_some((slot, life))
    }

    /// Whether the table alone says that the holder of `token` has died.
    #[must_use]
    pub fn is_known_gone(self, token: Token) -> bool {
        let is_held = self
            .find(token)
            .is_some_and(|(_, life)| life.state != REAPING);
        !is_held && token != unregistered()
    }

    /// Whether the holder of `token` has died; asks the kernel.
    #[must_use]
    pub fn is_gone(self, token: Token) -> bool {
        match self.find(token) {
            None => token != unregistered(),
            Some((slot, life)) => match life.state {
                ALIVE => !process(slot, life).is_alive(),
                RESERVED => self.is_hopeless(slot, life),
                _ => true,
            },
        }
    }

    /// Whether a reserved slot's process will never come: its creator died, or it died itself
    /// on the way. (If it comes all the same, it finds its slot gone and takes another.)
    fn is_hopeless(self, slot: &ProcessSlot, life: Life) -> bool {
        // Relaxed: ordered by the word.
        let creator = Token::from_bits(slot.creator.load(Ordering::Relaxed));
        match creator.map(|creator| (creator, self.process(creator))) {
            Some((_, Some(creator))) => {
                !creator.is_alive() || life.pid != creator.pid && !is_alive(life.pid)
            }
            // A creator without a slot is not known to be dead.
            Some((creator, None)) => creator != unregistered() || !is_alive(life.pid),
            None => true,
        }
    }

    /// The process that `token` names, dead or alive, as long as its slot isn't reused.
    #[must_use]
    pub fn process(self, token: Token) -> Option<Process> {
        let (slot, life) = self.find(token)?;
        (life.state == ALIVE).then(|| process(slot, life))
    }

    /// The id of the process that `token` names, dead or alive, as long as its slot isn't used
    /// again.
    #[must_use]
    pub fn last_pid(self, token: Token) -> Option<u32> {
        let index = slot_of(token);
        if index == 0 || index >= MAX_PROCESSES {
            return None;
        }
        let life = self.slot(index).life();
        (self::token(index, life.number) == token && life.pid != 0).then_some(life.pid)
    }

    /// What the process that `token` names was called, as long as its slot isn't used again;
    /// `None` if nobody said.
    #[must_use]
    pub fn name(self, token: Token) -> Option<String> {
        self.last_pid(token)?;
        self.slot(slot_of(token)).name.read()
    }

    /// Says what this process is called.
    pub(super) fn set_name(self, me: Token, name: &str) {
        if let Some((slot, _)) = self.find(me) {
            slot.name.write(name);
        }
    }

    /// The tokens of all slots in use.
    pub fn iter(self) -> impl Iterator<Item = Token> + use<'a> {
        (1..MAX_PROCESSES).filter_map(move |index| {
            let life = self.slot(index).life();
            life.has_token().then(|| token(index, life.number))
        })
    }

    /// Claims a free slot.
    fn claim(self) -> Result<(&'a ProcessSlot, Life, Token), OutOfSlots> {
        let claimed = (1..MAX_PROCESSES).find_map(|index| {
            let slot = self.slot(index);
            let life = slot.life();
            let mine = Life {
                state: CLAIMED,
                number: life.next_number(),
                pid: std::process::id(),
            };
            let is_free = life.state == FREE || life.is_claimed_by_dead();
            (is_free && slot.change(life, mine)).then(|| (slot, mine, token(index, mine.number)))
        });
        claimed.ok_or(OutOfSlots)
    }

    /// Takes a slot for a process that `creator`, this one, is about to start.
    pub(super) fn reserve(self, creator: Token) -> Result<Token, OutOfSlots> {
        let (slot, life, token) = self.claim()?;
        crash::step!("slot.reserving");
        slot.start_time.store(0, Ordering::Relaxed);
        crash::step!("slot.reserve.start_time");
        slot.creator.store(creator.bits(), Ordering::Relaxed);
        crash::step!("slot.reserve.creator");
        slot.name.write("");
        crash::step!("slot.reserve.prepared");
        let reserved = Life {
            state: RESERVED,
            ..life
        };
        slot.life.store(reserved.bits(), Ordering::Release);
        crash::step!("slot.reserved");
        Ok(token)
    }

    /// Takes a slot for this process.
    pub(super) fn enroll(self) -> Result<Token, OutOfSlots> {
        let (slot, life, token) = self.claim()?;
        let start_time = Process::current().start_time;
        crash::step!("slot.enrolling");
        slot.start_time.store(start_time, Ordering::Relaxed);
        crash::step!("slot.enroll.start_time");
        slot.name.write("");
        crash::step!("slot.enroll.prepared");
        let alive = Life {
            state: ALIVE,
            ..life
        };
        slot.life.store(alive.bits(), Ordering::Release);
        crash::step!("slot.enrolled");
        Ok(token)
    }

    /// Makes a reserved slot this process's own; false if it is no longer reserved.
    pub(super) fn adopt(self, token: Token) -> bool {
        let me = Process::current();
        // Again if the creator notes our id meanwhile.
        while let Some((slot, life)) = self.find(token) {
            let alive = Life {
                state: ALIVE,
                pid: me.pid,
                ..life
            };
            if life.state != RESERVED {
                return false;
            }
            if slot.change(life, alive) {
                crash::step!("slot.adopted");
                // Until now it was 0, by which a process is told by its id alone.
                slot.start_time.store(me.start_time, Ordering::Relaxed);
                crash::step!("slot.adopt.start_time");
                return true;
            }
        }
        false
    }

    /// Whether `token` is still waited for.
    pub fn is_reserved(self, token: Token) -> bool {
        self.find(token)
            .is_some_and(|(_, life)| life.state == RESERVED)
    }

    /// Notes who is going to adopt the slot, so that its death on the way is noticed.
    pub(super) fn expect(self, token: Token, pid: u32) {
        if let Some((slot, life)) = self.find(token) {
            if life.state == RESERVED {
                // A child that was faster has changed the word, and all is well.
                let _ = slot.change(life, Life { pid, ..life });
            }
        }
    }

    /// Begins to free the slot of `token`: false if its process lives, or it was freed before.
    /// A reserved one is given up. Under the family's mutex, until [`Processes::release`].
    pub(super) fn begin_reaping(self, token: Token) -> bool {
        let Some((slot, life)) = self.find(token) else {
            return false;
        };
        let reaping = Life {
            state: REAPING,
            ..life
        };
        match life.state {
            RESERVED => slot.change(life, reaping),
            ALIVE => !process(slot, life).is_alive() && slot.change(life, reaping),
            _ => true,
        }
    }

    /// Frees a slot whose holder bits are cleared. Under the family's mutex.
    pub(super) fn release(self, token: Token) {
        if let Some((slot, life)) = self.find(token) {
            let free = Life {
                state: FREE,
                ..life
            };
            crash::step!("slot.freeing");
            slot.life.store(free.bits(), Ordering::Release);
            crash::step!("slot.freed");
        }
    }
}

impl Name {
    // Relaxed throughout: only a report.

    #[expect(clippy::cast_possible_truncation, reason = "at most NAME_BYTES")]
    fn write(&self, name: &str) {
        let end = (0..=NAME_BYTES.min(name.len()))
            .rev()
            .find(|&end| name.is_char_boundary(end))
            .unwrap_or(0);
        let mut chunks = name.as_bytes()[..end].chunks(4);
        crash::step!("name.writing");
        for word in &self.bytes {
            let mut four = [0; 4];
            if let Some(chunk) = chunks.next() {
                four[..chunk.len()].copy_from_slice(chunk);
            }
            word.store(u32::from_ne_bytes(four), Ordering::Relaxed);
        }
        crash::step!("name.bytes");
        self.length.store(end as u32, Ordering::Relaxed);
        crash::step!("name.written");
    }

    fn read(&self) -> Option<String> {
        let length = self.length.load(Ordering::Relaxed) as usize;
        let words = self.bytes.iter().map(|word| word.load(Ordering::Relaxed));
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).take(length).collect();
        (length != 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn process(slot: &ProcessSlot, life: Life) -> Process {
    Process {
        pid: life.pid,
        start_time: slot.start_time.load(Ordering::Relaxed),
    }
}
