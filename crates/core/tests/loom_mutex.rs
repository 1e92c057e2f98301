// SPDX-License-Identifier: MIT
//! The mutex of the crate's own critical sections in every order of its threads' steps.
#![cfg(loom)]

mod models;

use freethreading_core::model::Mutex;
use models::{Clock, Thread, Tick, Witness, check, fresh, thread, tick};

fn count_under(mutex: &Mutex, witness: &Witness) {
    mutex.lock();
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
