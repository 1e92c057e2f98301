// SPDX-License-Identifier: MIT
//! The condition in every order of its threads' steps.
//!
//! Where a model is about waiters of one moment, its first thread enters them all: whoever
//! enters, each waits in a thread of its own. That leaves out the user's lock, which costs most
//! of the steps, where it decides nothing.
#![cfg(loom)]

mod models;

use std::cell::Cell;
use std::rc::Rc;

use freethreading_core::sync::{Acquire, Condition, Lock, Notified, Waiting};
use models::{
    Clock, GivingUp, LookingAround, Private, Thread, Tick, Uninterruptible, check, fresh, thread,
    tick,
};

const ALL: usize = usize::MAX;

fn enter(condition: &Condition) -> Waiting {
    condition.enter(Private).expect("there is memory")
}

fn wait(condition: &Condition, waiting: Waiting) -> Notified {
    condition.wait(Private, waiting, None, &Uninterruptible)
}

fn acquire(lock: &Lock) {
    let outcome = lock.acquire(Private, None, &Uninterruptible);
    assert_eq!(outcome, Acquire::Acquired);
}

fn release(lock: &Lock) {
    lock.release(Private).expect("it is held");
}

#[test]
fn a_change_under_the_lock_is_not_missed() {
    let (lock, condition) = (fresh::<Lock>(), fresh::<Condition>());
    check(3, move || {
        let is_ready = Rc::new(loom::cell::Cell::new(false));
        let seen = Rc::clone(&is_ready);
        let waiter = thread(move || {
            acquire(lock);
            while !seen.get() {
                let waiting = enter(condition);
                release(lock);
                assert_eq!(wait(condition, waiting), Notified::Yes);
                acquire(lock);
            }
            release(lock);
        });
        acquire(lock);
        is_ready.set(true);
        condition.notify(Private, 1);
        release(lock);
        waiter.join();
        assert_eq!(condition.waiters(Private), 0);
    });
}

#[test]
fn all_are_notified_at_once() {
    let condition = fresh::<Condition>();
    check(3, move || {
        let waiters = [enter(condition), enter(condition)]
            .map(|waiting| thread(move || wait(condition, waiting)));
        assert_eq!(condition.notify(Private, ALL), 2);
        for waiter in waiters {
            assert_eq!(waiter.join(), Notified::Yes);
        }
        assert_eq!(condition.waiters(Private), 0);
    });
}

#[test]
fn two_notifications_at_once_wake_two() {
    let condition = fresh::<Condition>();
    check(2, move || {
        let waiters = [enter(condition), enter(condition)]
            .map(|waiting| thread(move || wait(condition, waiting)));
        let other = thread(move || condition.notify(Private, 1));
        assert_eq!(condition.notify(Private, 1), 1);
        assert_eq!(other.join(), 1);
        for waiter in waiters {
            assert_eq!(waiter.join(), Notified::Yes);
        }
    });
}

#[test]
fn one_notification_wakes_the_longest_waiter_and_nobody_else() {
    let condition = fresh::<Condition>();
    check(2, move || {
        let first = enter(condition);
        let second = enter(condition);
        let is_second_notified = Rc::new(Cell::new(false));
        let may_be_woken = Rc::clone(&is_second_notified);
        let first = thread(move || wait(condition, first));
        let second = thread(move || {
            let outcome = wait(condition, second);
            assert!(may_be_woken.get(), "woken by the first one's notification");
            outcome
        });
        assert_eq!(condition.notify(Private, 1), 1);
        assert_eq!(first.join(), Notified::Yes);
        is_second_notified.set(true);
        assert_eq!(condition.notify(Private, 1), 1);
        assert_eq!(second.join(), Notified::Yes);
    });
}

#[test]
fn a_notification_and_a_timeout_at_once_end_in_what_the_notifier_was_told() {
    let condition = fresh::<Condition>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let waiting = enter(condition);
        let waiter = thread(move || condition.wait(Private, waiting, deadline, &Uninterruptible));
        let time = tick(clock);
        let expected = match condition.notify(Private, 1) {
            0 => Notified::TimedOut,
            _ => Notified::Yes,
        };
        assert_eq!(waiter.join(), expected);
        time.join();
        assert_eq!(condition.waiters(Private), 0);
    });
}

#[test]
fn a_notification_that_comes_when_one_of_two_times_out_reaches_exactly_one() {
    let condition = fresh::<Condition>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let [hasty, patient] = [enter(condition), enter(condition)];
        let hasty = thread(move || condition.wait(Private, hasty, deadline, &Uninterruptible));
        let patient = thread(move || wait(condition, patient));
        let time = tick(clock);
        assert_eq!(condition.notify(Private, 1), 1);
        // If it was told, the other one still waits.
        if hasty.join() == Notified::Yes {
            assert_eq!(condition.notify(Private, ALL), 1);
        }
        assert_eq!(patient.join(), Notified::Yes);
        time.join();
    });
}

#[test]
fn a_waiter_that_is_notified_and_gives_up_passes_it_on() {
    let condition = fresh::<Condition>();
    check(3, move || {
        let [hasty, patient] = [enter(condition), enter(condition)];
        let hasty = thread(move || condition.wait(Private, hasty, None, &GivingUp));
        let patient = thread(move || wait(condition, patient));
        assert_eq!(condition.notify(Private, 1), 1);
        // It may have been told before it slept.
        if hasty.join() == Notified::Yes {
            assert_eq!(condition.notify(Private, 1), 1);
        }
        assert_eq!(patient.join(), Notified::Yes);
    });
}

#[test]
fn a_notifier_that_holds_the_lock_tells_exactly_who_has_released_it() {
    let (lock, condition) = (fresh::<Lock>(), fresh::<Condition>());
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let has_entered = Rc::new(loom::cell::Cell::new(false));
        let entered = Rc::clone(&has_entered);
        let waiter = thread(move || {
            acquire(lock);
            entered.set(true);
            let waiting = enter(condition);
            release(lock);
            condition.wait(Private, waiting, deadline, &Uninterruptible)
        });
        acquire(lock);
        let told = condition.notify(Private, 1);
        assert_eq!(told, usize::from(has_entered.get()));
        release(lock);
        clock.tick();
        let expected = match told {
            0 => Notified::TimedOut,
            _ => Notified::Yes,
        };
        assert_eq!(waiter.join(), expected);
    });
}

#[test]
fn what_a_dead_waiter_was_told_reaches_one_who_waited_then() {
    let condition = fresh::<Condition>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let park = LookingAround::at(&clock);
        let _never_left = enter(condition);
        let heir = thread(move || {
            let waiting = enter(condition);
            let notifier = thread(move || condition.notify(Private, 1));
            let outcome = condition.wait(Private, waiting, None, &park);
            assert_eq!(notifier.join(), 1);
            outcome
        });
        clock.die();
        assert_eq!(heir.join(), Notified::Yes);
        assert_eq!(condition.waiters(Private), 0);
    });
}

#[test]
fn what_a_dead_waiter_was_told_reaches_nobody_who_came_later() {
    let condition = fresh::<Condition>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let park = LookingAround::at(&clock);
        let _never_left = enter(condition);
        assert_eq!(condition.notify(Private, 1), 1);
        let late = thread(move || {
            let waiting = enter(condition);
            let is_notified = Rc::new(Cell::new(false));
            let may_be_woken = Rc::clone(&is_notified);
            let notifier = thread(move || {
                is_notified.set(true);
                condition.notify(Private, 1)
            });
            let outcome = condition.wait(Private, waiting, None, &park);
            assert!(may_be_woken.get(), "woken by what the dead one was told");
            assert_eq!(notifier.join(), 1);
            outcome
        });
        clock.die();
        assert_eq!(late.join(), Notified::Yes);
    });
}

#[test]
fn waiters_that_enter_and_leave_at_once_leave_a_whole_list() {
    let condition = fresh::<Condition>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        let first = enter(condition);
        clock.tick();
        let waiter = thread(move || {
            let waiting = enter(condition);
            condition.wait(Private, waiting, deadline, &Uninterruptible)
        });
        let outcome = condition.wait(Private, first, deadline, &Uninterruptible);
        assert_eq!(outcome, Notified::TimedOut);
        let last = enter(condition);
        assert_eq!(waiter.join(), Notified::TimedOut);
        assert_eq!(condition.notify(Private, ALL), 1);
        assert_eq!(wait(condition, last), Notified::Yes);
        assert_eq!(condition.waiters(Private), 0);
    });
}

#[test]
fn each_of_two_waiters_takes_one_of_what_two_produce() {
    let (lock, condition) = (fresh::<Lock>(), fresh::<Condition>());
    check(2, move || {
        let items = Rc::new(loom::cell::Cell::new(0));
        let takers = [Rc::clone(&items), Rc::clone(&items)].map(|items| {
            thread(move || {
                acquire(lock);
                while items.get() == 0 {
                    let waiting = enter(condition);
                    release(lock);
                    assert_eq!(wait(condition, waiting), Notified::Yes);
                    acquire(lock);
                }
                items.set(items.get() - 1);
                release(lock);
            })
        });
        for _ in 0..2 {
            acquire(lock);
            items.set(items.get() + 1);
            condition.notify(Private, 1);
            release(lock);
        }
        takers.into_iter().for_each(Thread::join);
        assert_eq!(items.get(), 0);
    });
}
