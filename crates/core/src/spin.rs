// SPDX-License-Identifier: MIT
//! How long a thread looks at a word before it sleeps.
//!
//! A sleep and a wake-up take 5 to 25 microseconds, a look takes nanoseconds. So who waits for
//! something that another core is about to do should look, and who waits for anything else
//! should sleep; nobody knows beforehand which it is. Two workers that hand something to and fro
//! make it worse, for both habits are stable: if both sleep, each finds the other asleep, and a
//! look that is shorter than a wake-up never succeeds.
//!
//! Each thread therefore looks for [`LONG`], longer than a wake-up takes, as long as that
//! succeeds. Each failure in a row doubles the number of waits that it then begins with a
//! [`BRIEF`] look only, up to [`MAX_RESTS`]; any success ends that. In the long run a thread
//! whose waits are all long burns `LONG / MAX_RESTS`, half a microsecond, in each.

use core::cell::Cell;

use crate::deadline::Deadline;
use crate::primitive::{AtomicU32, Ordering};

/// Nanoseconds of a long look: more than a wake-up takes on a virtual machine.
const LONG: u64 = 30_000;
/// Turns of a brief look; each is one load and a CPU pause, in all about half a microsecond.
const BRIEF: u32 = 40;
/// Turns of a long look from one look at the clock, which costs about as much, to the next.
const TURNS: u32 = 20;
const MAX_RESTS: u32 = 63;

/// What a thread has learnt from its waits.
struct Habit {
    /// Waits to come that begin with a brief look.
    rests: Cell<u32>,
    /// How many of them the last failure of a long look ordered.
    ordered: Cell<u32>,
}

thread_local! {
    static HABIT: Habit = const { Habit { rests: Cell::new(0), ordered: Cell::new(0) } };
}

/// Looks for a while whether `is_ready`; says whether it came true.
pub(crate) fn spin(mut is_ready: impl FnMut() -> bool) -> bool {
    // In a model, a look at any moment is among those that are tried.
    if cfg!(loom) || !has_other_cpus() {
        return is_ready();
    }
    HABIT.with(|habit| match habit.rests.get() {
        0 => {
            let succeeded = look_long(&mut is_ready);
            habit.learn(succeeded);
            succeeded
        }
        rests => {
            let succeeded = look(BRIEF, &mut is_ready);
            habit.rests.set(rests - 1);
            if succeeded {
                habit.learn(true);
            }
            succeeded
        }
    })
}

/// Looks a moment, about half a microsecond, whether `is_ready`, whatever the thread has learnt.
pub(crate) fn glance(mut is_ready: impl FnMut() -> bool) -> bool {
    if cfg!(loom) || !has_other_cpus() {
        return is_ready();
    }
    look(BRIEF, &mut is_ready)
}

/// Turns of a pause that lets messages gather: about half a microsecond.
const GATHER: u32 = 60;

/// Who has looked for one message, and come as fast as it was put, takes the producer's cache lines
/// away for each. Pauses without a look, if that has lately let several messages come, and says
/// by `has_several` whether it has.
pub(crate) fn let_gather(has_several: impl FnOnce() -> bool) {
    thread_local! {
        static GATHERING: Habit = const { Habit { rests: Cell::new(0), ordered: Cell::new(0) } };
    }
    if cfg!(loom) || !has_other_cpus() {
        return;
    }
    GATHERING.with(|habit| match habit.rests.get() {
        0 => {
            for _ in 0..GATHER {
                core::hint::spin_loop();
            }
            habit.learn(has_several());
        }
        rests => habit.rests.set(rests - 1),
    });
}

impl Habit {
    fn learn(&self, succeeded: bool) {
        let ordered = if succeeded {
            0
        } else {
            MAX_RESTS.min(self.ordered.get() * 2 + 1)
        };
        self.ordered.set(ordered);
        self.rests.set(ordered);
    }
}

fn look(turns: u32, is_ready: &mut impl FnMut() -> bool) -> bool {
    for _ in 0..turns {
        if is_ready() {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

fn look_long(is_ready: &mut impl FnMut() -> bool) -> bool {
    // Most waits that are worth it are over before the clock is needed.
    if look(TURNS, is_ready) {
        return true;
    }
    let end = Deadline::after(core::time::Duration::from_nanos(LONG));
    while !end.is_none_or(Deadline::has_passed) {
        if look(TURNS, is_ready) {
            return true;
        }
    }
    false
}

fn has_other_cpus() -> bool {
    // Not a OnceLock: a child forked while another thread initializes that would wait for ever.
    static CPUS: AtomicU32 = AtomicU32::new(0);
    match CPUS.load(Ordering::Relaxed) {
        0 => count_cpus(&CPUS) > 1,
        count => count > 1,
    }
}

#[cold]
fn count_cpus(cpus: &AtomicU32) -> u32 {
    let count = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    // Relaxed: all who count find the same number.
    cpus.store(count, Ordering::Relaxed);
    count
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_make_looks_brief_and_one_success_makes_them_long() {
        let habit = Habit {
            rests: Cell::new(0),
            ordered: Cell::new(0),
        };
        for rests in [1, 3, 7, 15, 31, 63, 63] {
            habit.learn(false);
            assert_eq!(habit.rests.get(), rests);
        }
        habit.learn(true);
        assert_eq!(habit.rests.get(), 0);
        habit.learn(false);
        assert_eq!(habit.rests.get(), 1);
    }

    #[test]
    fn what_gathers_nothing_is_done_less_and_less_often() {
        if !has_other_cpus() {
            return;
        }
        let mut asked = 0;
        let mut wait = |comes: bool| {
            let before = asked;
            let_gather(|| {
                asked += 1;
                comes
            });
            asked > before
        };
        assert!([true, true, false].map(&mut wait).iter().all(|&it| it));
        assert_eq!([true; 2].map(&mut wait), [false, true]);
        assert!(wait(false));
        assert_eq!(
            [false; 6].map(&mut wait),
            [false, true, false, false, false, true]
        );
    }

    #[test]
    fn what_comes_true_ends_the_look() {
        let mut looks = 0;
        assert!(
            spin(|| {
                looks += 1;
                looks == 5
            }) || !has_other_cpus()
        );
    }
}
