// SPDX-License-Identifier: MIT
//! The semaphore in every order of its threads' steps.
#![cfg(loom)]

mod models;

use std::cell::Cell;
use std::rc::Rc;

use freethreading_core::sync::{Semaphore, SemaphoreAcquire};
use models::{
    Clock, GivingUp, Private, Thread, Tick, Uninterruptible, Witness, check, fresh, thread, tick,
};

fn acquire(semaphore: &Semaphore) {
    let outcome = semaphore.acquire(Private, None, &Uninterruptible);
    assert_eq!(outcome, SemaphoreAcquire::Acquired);
}

fn release(semaphore: &Semaphore) {
    semaphore.release(Private).expect("it is below the bound");
}

fn count_under(semaphore: &Semaphore, witness: &Witness) {
    acquire(semaphore);
    witness.count();
    release(semaphore);
}

/// Who is between acquire and release. Not an atomic of loom's: it is to be exact, and to add
/// no steps.
#[derive(Clone, Default)]
struct Holders(Rc<Cell<u32>>);

impl Holders {
    fn visit(&self, semaphore: &Semaphore, most: u32) {
        acquire(semaphore);
        self.0.set(self.0.get() + 1);
        assert!(self.0.get() <= most);
        // The first step of a release is one at which others may come in.
        let _ = semaphore.value();
        self.0.set(self.0.get() - 1);
        release(semaphore);
    }
}

#[test]
fn one_permit_is_held_by_one_of_three_at_a_time() {
    let semaphore = fresh::<Semaphore>();
    check(2, move || {
        semaphore.initialize(1, true);
        let witness = Witness::default();
        let others = [witness.clone(), witness.clone()]
            .map(|witness| thread(move || count_under(semaphore, &witness)));
        count_under(semaphore, &witness);
        others.into_iter().for_each(Thread::join);
        assert_eq!(witness.get(), 3);
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn one_permit_is_borrowed_by_one_and_acquired_by_another() {
    let semaphore = fresh::<Semaphore>();
    check(3, move || {
        semaphore.initialize(1, true);
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || count_under(semaphore, &theirs));
        let outcome = semaphore.borrow(Private, &Uninterruptible);
        assert_eq!(outcome, SemaphoreAcquire::Acquired);
        witness.count();
        semaphore.give_back(Private).expect("it is below the bound");
        if semaphore.try_borrow(Private) {
            witness.count();
            semaphore.give_back(Private).expect("it is below the bound");
        }
        other.join();
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn two_permits_are_held_by_two_of_three_at_most_and_nobody_sleeps_for_ever() {
    let semaphore = fresh::<Semaphore>();
    check(2, move || {
        semaphore.initialize(2, true);
        let holders = Holders::default();
        let others = [holders.clone(), holders.clone()]
            .map(|holders| thread(move || holders.visit(semaphore, 2)));
        holders.visit(semaphore, 2);
        others.into_iter().for_each(Thread::join);
        assert_eq!(semaphore.value(), 2);
    });
}

#[test]
fn two_releases_end_two_waits() {
    let semaphore = fresh::<Semaphore>();
    check(2, move || {
        let waiters = [(); 2].map(|()| thread(move || acquire(semaphore)));
        release(semaphore);
        release(semaphore);
        waiters.into_iter().for_each(Thread::join);
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn two_releases_end_two_waits_of_borrowers() {
    let semaphore = fresh::<Semaphore>();
    check(2, move || {
        let waiters = [(); 2].map(|()| {
            thread(move || {
                let outcome = semaphore.borrow(Private, &Uninterruptible);
                assert_eq!(outcome, SemaphoreAcquire::Acquired);
            })
        });
        release(semaphore);
        release(semaphore);
        waiters.into_iter().for_each(Thread::join);
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn two_releases_at_once_end_two_waits() {
    let semaphore = fresh::<Semaphore>();
    check(1, move || {
        let waiters = [(); 2].map(|()| thread(move || acquire(semaphore)));
        let other = thread(move || release(semaphore));
        release(semaphore);
        other.join();
        waiters.into_iter().for_each(Thread::join);
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn a_permit_that_is_taken_at_once_by_another_is_waited_for_again() {
    let semaphore = fresh::<Semaphore>();
    check(3, move || {
        let waiter = thread(move || acquire(semaphore));
        let other = thread(move || {
            if semaphore.try_acquire() {
                release(semaphore);
            }
        });
        release(semaphore);
        waiter.join();
        other.join();
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn a_timeout_and_a_release_at_once_lose_no_permit() {
    let semaphore = fresh::<Semaphore>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let waiter = thread(move || semaphore.acquire(Private, deadline, &Uninterruptible));
        let time = tick(clock);
        release(semaphore);
        let left = match waiter.join() {
            SemaphoreAcquire::Acquired => 0,
            SemaphoreAcquire::TimedOut => 1,
            SemaphoreAcquire::Interrupted => unreachable!("nobody interrupts"),
        };
        time.join();
        assert_eq!(semaphore.value(), left);
    });
}

#[test]
fn a_timeout_and_a_release_at_once_leave_nobody_asleep() {
    let semaphore = fresh::<Semaphore>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let hasty = thread(move || {
            let outcome = semaphore.acquire(Private, deadline, &Uninterruptible);
            if outcome == SemaphoreAcquire::Acquired {
                release(semaphore);
            }
        });
        let patient = thread(move || acquire(semaphore));
        let time = tick(clock);
        release(semaphore);
        hasty.join();
        patient.join();
        time.join();
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn a_waiter_that_is_woken_and_gives_up_passes_the_wake_up_on() {
    let semaphore = fresh::<Semaphore>();
    check(3, move || {
        let hasty = thread(move || {
            let outcome = semaphore.acquire(Private, None, &GivingUp);
            if outcome == SemaphoreAcquire::Acquired {
                release(semaphore);
            }
        });
        let patient = thread(move || acquire(semaphore));
        release(semaphore);
        patient.join();
        // The hasty one may not have slept before the first permit was gone.
        release(semaphore);
        hasty.join();
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn a_waiter_that_gives_up_when_the_permit_is_taken_again_leaves_word_of_the_other() {
    let semaphore = fresh::<Semaphore>();
    check(1, move || {
        let hasty = thread(move || {
            let outcome = semaphore.acquire(Private, None, &GivingUp);
            if outcome == SemaphoreAcquire::Acquired {
                release(semaphore);
            }
        });
        let patient = thread(move || acquire(semaphore));
        // A thread of its own, so that the others sleep first in most orders.
        let visitor = thread(move || {
            release(semaphore);
            if semaphore.try_acquire() {
                release(semaphore);
            }
        });
        patient.join();
        release(semaphore);
        hasty.join();
        visitor.join();
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn of_two_releases_at_once_up_to_the_bound_one_is_refused() {
    let semaphore = fresh::<Semaphore>();
    check(3, move || {
        semaphore.initialize(1, true);
        acquire(semaphore);
        let other = thread(move || semaphore.release(Private).is_ok());
        let mine = semaphore.release(Private).is_ok();
        assert_ne!(mine, other.join());
        assert_eq!(semaphore.value(), 1);
    });
}
