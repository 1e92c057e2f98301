// SPDX-License-Identifier: MIT
//! The mutex of the crate's own critical sections in every order of its threads' steps.
#![cfg(loom)]

mod models;

use std::cell::Cell;
use std::rc::Rc;

use freethreading_core::model::Mutex;
use models::{
    Clock, LookingAround, Thread, Tick, Uninterruptible, Witness, check, fresh, thread, tick,
};

fn count_under(mutex: &Mutex, witness: &Witness) {
    assert!(!mutex.lock(&Uninterruptible), "nobody has died");
    witness.count();
    mutex.unlock();
}

#[test]
fn two_threads_take_it_twice_each() {
    let mutex = fresh::<Mutex>();
    check(4, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || (0..2).for_each(|_| count_under(mutex, &theirs)));
        (0..2).for_each(|_| count_under(mutex, &witness));
        other.join();
        assert_eq!(witness.get(), 4);
    });
}

#[test]
fn three_threads_hold_it_one_at_a_time_and_nobody_sleeps_for_ever() {
    let mutex = fresh::<Mutex>();
    check(3, move || {
        let witness = Witness::default();
        let others = [witness.clone(), witness.clone()]
            .map(|witness| thread(move || count_under(mutex, &witness)));
        count_under(mutex, &witness);
        others.into_iter().for_each(Thread::join);
        assert_eq!(witness.get(), 3);
    });
}

#[test]
fn who_looks_whether_the_holder_has_died_misses_no_wake_up() {
    let mutex = fresh::<Mutex>();
    check(2, move || {
        let time = tick(Clock::new(Tick::Long));
        let witness = Witness::default();
        let others = [witness.clone(), witness.clone()]
            .map(|witness| thread(move || count_under(mutex, &witness)));
        count_under(mutex, &witness);
        others.into_iter().for_each(Thread::join);
        time.join();
        assert_eq!(witness.get(), 3);
    });
}

#[test]
fn one_of_two_that_wait_for_the_dead_repairs_and_the_other_sees_that() {
    let mutex = fresh::<Mutex>();
    check(3, move || {
        let clock = Clock::new(Tick::Long);
        let (witness, repairs) = (Witness::default(), Rc::new(Cell::new(0)));
        assert!(!mutex.lock(&Uninterruptible));
        let others = [(); 2].map(|()| {
            let (witness, repairs) = (witness.clone(), Rc::clone(&repairs));
            thread(move || {
                let needs_repair = mutex.lock(&Uninterruptible);
                repairs.set(repairs.get() + u32::from(needs_repair));
                assert_eq!(repairs.get(), 1);
                witness.count();
                mutex.unlock();
            })
        });
        clock.die();
        others.into_iter().for_each(Thread::join);
        assert_eq!(witness.get(), 2);
    });
}

#[test]
fn who_takes_over_from_the_dead_wakes_the_next() {
    let mutex = fresh::<Mutex>();
    check(3, move || {
        // Too short for a waiter of the crate's own to look.
        let clock = Clock::new(Tick::Short);
        let park = LookingAround::at(&clock);
        assert!(!mutex.lock(&Uninterruptible));
        let finder = thread(move || {
            let _ = mutex.lock(&park);
            mutex.unlock();
        });
        let other = thread(move || {
            let _ = mutex.lock(&Uninterruptible);
            mutex.unlock();
        });
        clock.die();
        finder.join();
        other.join();
    });
}
