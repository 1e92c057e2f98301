// SPDX-License-Identifier: MIT
//! The barrier: some fixed number of threads or processes wait for each other, in cycles.
//!
//! Everything is decided under the wait list's mutex. Waiters are told one by one how their
//! cycle ended, so the barrier can be used again at once, whoever still is on the way out.
//!
//! A process that dies in the barrier breaks it: waiting, running the action, or in the critical
//! section, where it may have told some that their cycle is complete and not the others.

use super::wait_list::{Ending, Place, Section, Slept, WaitList};
use crate::crash;
use crate::deadline::Deadline;
use crate::park::Park;
use crate::primitive::AtomicU32;
use crate::primitive::Ordering::Relaxed;
use crate::storage::{Kind, OutOfMemory, Shareable, Storage, Token};

/// | field    | meaning                                                                      |
/// |----------|------------------------------------------------------------------------------|
/// | `parties`| how many make a cycle; set once, before the object is shared                 |
/// | `cycle`  | the cycle that fills now; its waiters carry it as their tag                  |
/// | `broken` | 1 from a break to the next reset                                             |
/// | `floor`  | cycles below this one were broken or reset                                   |
/// | `runner` | token of who runs the action of the cycle before `cycle`, or 0               |
///
/// All Relaxed: written under the list's mutex; the getters' answers are old anyway.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Barrier {
    waiters: WaitList,
    parties: AtomicU32,
    cycle: AtomicU32,
    broken: AtomicU32,
    floor: AtomicU32,
    runner: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: repr(C), atomics only; zero is a barrier that nobody waits at, whose every caller
// passes, until `initialize`; addresses in it are checked before use.
unsafe impl Shareable for Barrier {
    const KIND: Kind = Kind::Barrier;

    fn destroy(&self, storage: Storage) {
        self.waiters.lock(storage).clear();
    }
}

const RELEASED: Ending = Ending(Ending::FIRST);
const BROKEN: Ending = Ending(Ending::FIRST + 1);

/// How an arrival ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum BarrierWait {
    /// The cycle is complete; the caller was the index-th to arrive.
    Passed(u32),
    /// The caller arrived last: it runs the action, then calls [`Barrier::finish`].
    RunAction(Turn),
    /// The barrier is or was broken.
    Broken,
    /// The wait was abandoned; the barrier goes on without this one.
    Interrupted,
    /// No memory to wait in.
    OutOfMemory,
}

/// The right and duty to end a cycle.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    cycle: u32,
    index: u32,
}

impl Barrier {
    /// Gives a fresh barrier its size.
    pub fn initialize(&self, parties: u32) {
        // No step: it isn't shared yet.
        self.parties.store(parties, Relaxed);
    }

    fn lock(&self, storage: Storage) -> Section<'_> {
        let section = self.waiters.lock(storage);
        if section.is_inherited() {
            self.break_in(&section);
        }
        section
    }

    /// Arrives, and waits until all have, or the barrier breaks, or `deadline` passes, which
    /// breaks it.
    pub fn wait(
        &self,
        storage: Storage,
        has_action: bool,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> BarrierWait {
        let section = self.lock(storage);
        if self.broken.load(Relaxed) != 0 {
            return BarrierWait::Broken;
        }
        let cycle = self.cycle.load(Relaxed);
        let index = Self::arrived(&section, cycle);
        if index + 1 >= self.parties.load(Relaxed) {
            if storage.can_lose_holders() && section.bury_dead(|_, _| false) > 0 {
                self.break_in(&section);
                return BarrierWait::Broken;
            }
            crash::step!("barrier.completing");
            self.cycle.store(cycle.wrapping_add(1), Relaxed);
            crash::step!("barrier.complete");
            self.drag_floor(cycle);
            let turn = Turn { cycle, index };
            if has_action {
                crash::step!("barrier.runner.entering");
                self.runner.store(storage.me().bits(), Relaxed);
                crash::step!("barrier.runner.entered");
                return BarrierWait::RunAction(turn);
            }
            Self::tell_cycle(&section, cycle, RELEASED);
            return BarrierWait::Passed(index);
        }
        let place = match section.enter(cycle) {
            Ok(place) => place,
            Err(OutOfMemory) => return BarrierWait::OutOfMemory,
        };
        drop(section);
        self.wait_in(storage, place, index, deadline, park)
    }

    fn wait_in(
        &self,
        storage: Storage,
        place: Place,
        index: u32,
        deadline: Option<Deadline>,
        park: &impl Park,
    ) -> BarrierWait {
        let slept = loop {
            match place.sleep(storage, deadline, park) {
                Slept::LookAround => self.break_if_somebody_died(storage),
                slept => break slept,
            }
        };
        let section = self.lock(storage);
        match (section.leave(place), slept) {
            (_, Slept::Interrupted) => BarrierWait::Interrupted,
            (Some(RELEASED), _) => BarrierWait::Passed(index),
            (Some(_), _) => BarrierWait::Broken,
            (None, _) => {
                self.break_in(&section);
                BarrierWait::Broken
            }
        }
    }

    /// Ends the cycle whose action the caller ran; the caller's index, unless the action failed
    /// or the cycle was broken or reset meanwhile.
    pub fn finish(&self, storage: Storage, turn: &Turn, succeeded: bool) -> Option<u32> {
        let section = self.lock(storage);
        crash::step!("barrier.runner.leaving");
        self.runner.store(0, Relaxed);
        crash::step!("barrier.runner.left");
        if !succeeded {
            self.break_in(&section);
            return None;
        }
        if !self.is_floor_at_or_below(turn.cycle) {
            return None;
        }
        Self::tell_cycle(&section, turn.cycle, RELEASED);
        Some(turn.index)
    }

    /// Cycles are numbered in a circle: what is less than half of it ahead of the floor is above.
    fn is_floor_at_or_below(&self, cycle: u32) -> bool {
        cycle.wrapping_sub(self.floor.load(Relaxed)) <= u32::MAX / 2
    }

    /// Keeps the floor less than half the circle behind.
    fn drag_floor(&self, cycle: u32) {
        if cycle.wrapping_sub(self.floor.load(Relaxed)) > u32::MAX / 4 {
            crash::step!("barrier.floor.dragging");
            self.floor.store(cycle.wrapping_sub(u32::MAX / 4), Relaxed);
            crash::step!("barrier.floor.dragged");
        }
    }

    /// Breaks the barrier until it is reset.
    pub fn abort(&self, storage: Storage) {
        self.break_in(&self.lock(storage));
    }

    /// Mends the barrier; who waits in it gets [`BarrierWait::Broken`].
    pub fn reset(&self, storage: Storage) {
        let section = self.lock(storage);
        self.end_all(&section);
        crash::step!("barrier.resetting");
        self.broken.store(0, Relaxed);
        crash::step!("barrier.reset");
    }

    fn break_in(&self, section: &Section<'_>) {
        crash::step!("barrier.breaking");
        self.broken.store(1, Relaxed);
        crash::step!("barrier.broken");
        self.end_all(section);
    }

    fn end_all(&self, section: &Section<'_>) {
        let next = self.cycle.load(Relaxed).wrapping_add(1);
        crash::step!("barrier.ending");
        self.cycle.store(next, Relaxed);
        crash::step!("barrier.end.cycle");
        self.floor.store(next, Relaxed);
        crash::step!("barrier.end.floor");
        for waiter in section.waiting() {
            let _ = section.tell(waiter, BROKEN);
        }
        crash::step!("barrier.end.told");
        // Nobody waits for it any more, so its death concerns nobody.
        self.runner.store(0, Relaxed);
        crash::step!("barrier.ended");
    }

    fn tell_cycle(section: &Section<'_>, cycle: u32, ending: Ending) {
        for waiter in section.waiting().filter(|waiter| waiter.tag() == cycle) {
            let _ = section.tell(waiter, ending);
        }
    }

    #[cold]
    fn break_if_somebody_died(&self, storage: Storage) {
        let section = self.lock(storage);
        let runner = Token::from_bits(self.runner.load(Relaxed));
        let runner_died = runner.is_some_and(|runner| storage.is_gone(runner));
        if section.bury_dead(|_, _| false) > 0 || runner_died {
            self.break_in(&section);
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "fewer than `parties`, which is 32 bits"
    )]
    fn arrived(section: &Section<'_>, cycle: u32) -> u32 {
        section
            .waiting()
            .filter(|waiter| waiter.tag() == cycle)
            .count() as u32
    }

    /// As if so many cycles had been since the last break.
    #[cfg(test)]
    pub(crate) fn skip_cycles(&self, cycles: u32) {
        // No step: for tests.
        self.cycle.fetch_add(cycles, Relaxed);
    }

    /// How many make a cycle.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.parties.load(Relaxed)
    }

    /// How many wait in the cycle that fills now.
    #[must_use]
    pub fn waiting(&self, storage: Storage) -> u32 {
        let section = self.lock(storage);
        Self::arrived(&section, self.cycle.load(Relaxed))
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed) != 0
    }
}
