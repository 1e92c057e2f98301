// SPDX-License-Identifier: MIT
//! The lock in every order of its threads' steps.
#![cfg(loom)]

mod models;

use freethreading_core::sync::{Acquire, Lock};
use models::{
    Clock, GivingUp, LookingAround, Private, Tick, Uninterruptible, Witness, check, fresh, thread,
    tick,
};

fn acquire(lock: &Lock) {
    let outcome = lock.acquire(Private, None, &Uninterruptible);
    assert_eq!(outcome, Acquire::Acquired);
}

fn release(lock: &Lock) {
    lock.release(Private).expect("it is held");
}

fn count_under(lock: &Lock, witness: &Witness) {
    acquire(lock);
    witness.count();
    release(lock);
}

#[test]
fn two_threads_take_it_twice_each() {
    let lock = fresh::<Lock>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || (0..2).for_each(|_| count_under(lock, &theirs)));
        (0..2).for_each(|_| count_under(lock, &witness));
        other.join();
        assert_eq!(witness.get(), 4);
        assert!(!lock.is_locked());
    });
}

#[test]
fn three_threads_hold_it_one_at_a_time_and_nobody_sleeps_for_ever() {
    let lock = fresh::<Lock>();
    check(2, move || {
        let witness = Witness::default();
        let others = [witness.clone(), witness.clone()]
            .map(|witness| thread(move || count_under(lock, &witness)));
        count_under(lock, &witness);
        others.into_iter().for_each(models::Thread::join);
        assert_eq!(witness.get(), 3);
        assert!(!lock.is_locked());
    });
}

#[test]
fn a_try_that_succeeds_sees_what_the_last_holder_did() {
    let lock = fresh::<Lock>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || count_under(lock, &theirs));
        if lock.try_acquire(Private) {
            witness.count();
            release(lock);
        }
        other.join();
    });
}

#[test]
fn a_timeout_and_a_release_at_once_end_in_one_of_them() {
    let lock = fresh::<Lock>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let witness = Witness::default();
        acquire(lock);
        let theirs = witness.clone();
        let waiter = thread(move || {
            let outcome = lock.acquire(Private, deadline, &Uninterruptible);
            if outcome == Acquire::Acquired {
                theirs.count();
                release(lock);
            }
            outcome
        });
        let time = tick(clock);
        witness.count();
        release(lock);
        let outcome = waiter.join();
        time.join();
        assert!(matches!(outcome, Acquire::Acquired | Acquire::TimedOut));
        assert!(!lock.is_locked());
    });
}

#[test]
fn a_waiter_that_is_woken_and_gives_up_passes_the_wake_up_on() {
    let lock = fresh::<Lock>();
    check(3, move || {
        acquire(lock);
        let hasty = thread(move || {
            if lock.acquire(Private, None, &GivingUp) == Acquire::Acquired {
                release(lock);
            }
        });
        let patient = thread(move || {
            acquire(lock);
            release(lock);
        });
        release(lock);
        // Taken again before the woken one can: then its holder wakes the other.
        if lock.try_acquire(Private) {
            release(lock);
        }
        hasty.join();
        patient.join();
        assert!(!lock.is_locked());
    });
}

#[test]
fn a_timeout_and_a_release_at_once_leave_nobody_asleep() {
    let lock = fresh::<Lock>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        acquire(lock);
        let hasty = thread(move || {
            if lock.acquire(Private, deadline, &Uninterruptible) == Acquire::Acquired {
                release(lock);
            }
        });
        let patient = thread(move || {
            acquire(lock);
            release(lock);
        });
        let time = tick(clock);
        release(lock);
        hasty.join();
        patient.join();
        time.join();
        assert!(!lock.is_locked());
    });
}

#[test]
fn all_who_wait_when_the_owner_dies_are_told_and_the_lock_is_free() {
    let lock = fresh::<Lock>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        acquire(lock);
        let others = [(); 2].map(|()| {
            let park = LookingAround::at(&clock);
            thread(move || {
                let outcome = lock.acquire(Private, None, &park);
                if outcome == Acquire::Acquired {
                    assert!(!park.slept_before(), "it waited for the dead owner");
                    release(lock);
                }
                outcome
            })
        });
        clock.die();
        let outcomes = others.map(models::Thread::join);
        let is_told = |outcome: &Acquire| matches!(outcome, Acquire::OwnerDied(Some(_)));
        assert!(outcomes.iter().any(is_told));
        assert!(!lock.is_locked());
    });
}

#[test]
fn who_polls_and_finds_the_owner_dead_ends_all_waits() {
    let lock = fresh::<Lock>();
    check(1, move || {
        let clock = Clock::new(Tick::Short);
        acquire(lock);
        let waiters = [(); 2].map(|()| {
            thread(move || {
                if lock.acquire(Private, None, &Uninterruptible) == Acquire::Acquired {
                    release(lock);
                }
            })
        });
        clock.die();
        let poller = thread(move || {
            if lock.poll(Private) == Acquire::Acquired {
                release(lock);
            }
        });
        waiters.into_iter().for_each(models::Thread::join);
        poller.join();
        assert!(!lock.is_locked());
    });
}
