// SPDX-License-Identifier: MIT
//! The event in every order of its threads' steps.
#![cfg(loom)]

mod models;

use freethreading_core::sync::{Event, EventWait};
use models::{
    Announcing, Clock, Private, Thread, Tick, Uninterruptible, Witness, check, fresh, thread, tick,
};

fn wait(event: &Event) {
    let outcome = event.wait(Private, None, &Uninterruptible);
    assert_eq!(outcome, EventWait::Set);
}

#[test]
fn a_set_wakes_all_who_wait_and_they_see_what_was_done_before() {
    let event = fresh::<Event>();
    check(3, move || {
        let witness = Witness::default();
        let waiters = [witness.clone(), witness.clone()].map(|witness| {
            thread(move || {
                wait(event);
                assert_eq!(witness.get(), 1);
            })
        });
        witness.count();
        event.set(Private);
        waiters.into_iter().for_each(Thread::join);
        assert!(event.is_set());
    });
}

#[test]
fn who_sees_it_set_sees_what_was_done_before() {
    let event = fresh::<Event>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || {
            if event.is_set() {
                assert_eq!(theirs.get(), 1);
            }
        });
        witness.count();
        event.set(Private);
        other.join();
    });
}

#[test]
fn a_waiter_gets_through_an_event_that_is_set_cleared_and_set() {
    let event = fresh::<Event>();
    check(4, move || {
        let waiter = thread(move || wait(event));
        event.set(Private);
        event.clear();
        event.set(Private);
        waiter.join();
        assert!(event.is_set());
    });
}

#[test]
fn who_waits_already_gets_through_an_event_that_is_set_and_cleared() {
    let event = fresh::<Event>();
    check(3, move || {
        let park = Announcing::default();
        let waiter = park.clone();
        let waiter = thread(move || event.wait(Private, None, &waiter));
        assert!(!event.is_set());
        let is_waiting = park.is_waiting();
        event.set(Private);
        event.clear();
        if !is_waiting {
            event.set(Private);
        }
        assert_eq!(waiter.join(), EventWait::Set);
    });
}

#[test]
fn two_waiters_get_through_whoever_clears_between_two_sets() {
    let event = fresh::<Event>();
    check(2, move || {
        let waiters = [(); 2].map(|()| thread(move || wait(event)));
        let other = thread(move || event.clear());
        event.set(Private);
        other.join();
        event.set(Private);
        waiters.into_iter().for_each(Thread::join);
    });
}

#[test]
fn a_timeout_and_a_set_at_once_end_in_one_of_them() {
    let event = fresh::<Event>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let witness = Witness::default();
        let theirs = witness.clone();
        let waiter = thread(
            move || match event.wait(Private, deadline, &Uninterruptible) {
                EventWait::Set => assert_eq!(theirs.get(), 1),
                EventWait::TimedOut => {}
                EventWait::Interrupted => unreachable!("nobody interrupts"),
            },
        );
        let time = tick(clock);
        witness.count();
        event.set(Private);
        waiter.join();
        time.join();
    });
}

#[test]
fn a_timeout_and_a_set_at_once_leave_nobody_asleep() {
    let event = fresh::<Event>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let hasty = thread(move || {
            let _ = event.wait(Private, deadline, &Uninterruptible);
        });
        let patient = thread(move || wait(event));
        let time = tick(clock);
        event.set(Private);
        hasty.join();
        patient.join();
        time.join();
    });
}
