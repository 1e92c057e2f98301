// SPDX-License-Identifier: MIT
//! The kernel's side of futexes, for models.
//!
//! As in the kernel, comparing the word and entering the queue is one step, and a sleep ends
//! once: by a wake-up, longest sleeper first, or by its deadline. Nothing else ends it, so a
//! wake-up that is lost is a deadlock, which loom reports.
//!
//! Each step here begins with an operation on the word that it is about: that is where loom
//! changes turns, and how it knows which steps of two threads are worth trying in both orders.
//! These operations are Relaxed, so a comparison orders nothing. (A wake-up does order waker
//! and woken, since loom's `unpark` does. A word whose ordering is too weak is still found
//! out: by the executions in which the waiter looks when the wake-up isn't needed any more.)

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use super::{FutexWord, Scope, Woken};
use crate::deadline::Deadline;
use crate::primitive::Ordering;
use crate::primitive::modelled::{World, newest};

type Ticking = loom::sync::atomic::AtomicU32;

/// Who sleeps, and what time it is.
#[derive(Default)]
pub(crate) struct Futexes {
    /// In the order in which they fell asleep.
    sleepers: Vec<Rc<Sleeper>>,
    now: Duration,
    /// Until when the clock will go.
    end: Duration,
    /// Stands for the clock in loom's eyes.
    ticking: Rc<Ticking>,
}

struct Sleeper {
    word: usize,
    deadline: Option<Deadline>,
    ended: Cell<Option<Woken>>,
    parked: RefCell<Option<loom::thread::Thread>>,
}

impl Sleeper {
    fn end(&self, woken: Woken) {
        self.ended.set(Some(woken));
        if let Some(thread) = self.parked.take() {
            thread.unpark();
        }
    }
}

/// Sleeps while the low half of `word` is `expected`, at most until `deadline`.
pub fn wait(
    word: &impl FutexWord,
    expected: u32,
    _scope: Scope,
    deadline: Option<Deadline>,
) -> Woken {
    let address = (&raw const *word.low_half()).addr();
    if newest(address) != Some(expected) {
        return Woken::Maybe;
    }
    let sleeper = Rc::new(Sleeper {
        word: address,
        deadline,
        ended: Cell::new(None),
        parked: RefCell::new(None),
    });
    let ticking = World::with(|world| world.futexes.enter(&sleeper)).flatten();
    if let Some(ticking) = ticking {
        // Before or after a tick, whose time is up?
        ticking.fetch_or(0, Ordering::Relaxed);
        if sleeper.ended.get().is_none() && deadline.is_some_and(Deadline::has_passed) {
            World::with(|world| world.futexes.leave(&sleeper));
            return Woken::ByDeadline;
        }
    }
    loop {
        if let Some(woken) = sleeper.ended.get() {
            return woken;
        }
        sleeper.parked.replace(Some(loom::thread::current()));
        loom::thread::park();
    }
}

/// Wakes up to `count` sleepers; says how many there were.
pub fn wake(word: &impl FutexWord, count: u32, _scope: Scope) -> usize {
    let address = (&raw const *word.low_half()).addr();
    if newest(address).is_none() {
        return 0;
    }
    let woken = World::with(|world| world.futexes.take(address, count)).unwrap_or_default();
    for sleeper in &woken {
        sleeper.end(Woken::Maybe);
    }
    woken.len()
}

/// What time it is in the model.
pub(crate) fn now() -> Duration {
    World::with(|world| world.futexes.now).unwrap_or_default()
}

/// Announces that the clock will go on for `time`. A deadline after that never passes.
pub(crate) fn wind_up(time: Duration) {
    World::with(|world| world.futexes.end = world.futexes.now + time);
}

/// The announced time passes, at once; each sleep whose deadline lies in it ends then, unless
/// it is woken before that comes to pass. At the same moment a thread dies, if any.
pub(crate) fn tick(dead: Option<u32>) {
    let Some(ticking) = World::with(|world| Rc::clone(&world.futexes.ticking)) else {
        return;
    };
    ticking.fetch_or(0, Ordering::Relaxed);
    let due = World::with(|world| {
        world.dead = dead;
        world.futexes.pass_time()
    });
    for sleeper in due.unwrap_or_default() {
        let _ = newest(sleeper.word);
        if World::with(|world| world.futexes.leave(&sleeper)) == Some(true) {
            sleeper.end(Woken::ByDeadline);
        }
    }
}

impl Futexes {
    /// Queues a sleeper. The clock, if the sleeper's deadline will pass.
    fn enter(&mut self, sleeper: &Rc<Sleeper>) -> Option<Rc<Ticking>> {
        self.sleepers.push(Rc::clone(sleeper));
        let passes = sleeper.deadline?.is_at_or_before(self.end);
        passes.then(|| Rc::clone(&self.ticking))
    }

    /// Takes a sleeper out of the queue; false if it wasn't there any more.
    fn leave(&mut self, sleeper: &Rc<Sleeper>) -> bool {
        let place = self.sleepers.iter().position(|it| Rc::ptr_eq(it, sleeper));
        place.map(|place| self.sleepers.remove(place)).is_some()
    }

    fn take(&mut self, word: usize, count: u32) -> Vec<Rc<Sleeper>> {
        let mut taken = Vec::new();
        self.sleepers.retain(|sleeper| {
            let is_taken = sleeper.word == word && taken.len() < count as usize;
            if is_taken {
                taken.push(Rc::clone(sleeper));
            }
            !is_taken
        });
        taken
    }

    fn pass_time(&mut self) -> Vec<Rc<Sleeper>> {
        self.now = self.end;
        let due = self.sleepers.iter().filter(|sleeper| {
            let deadline = sleeper.deadline;
            deadline.is_some_and(|deadline| deadline.is_at_or_before(self.now))
        });
        due.cloned().collect()
    }
}
