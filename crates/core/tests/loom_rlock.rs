// SPDX-License-Identifier: MIT
//! The reentrant lock: what it adds to the lock is who holds it, and how often.
#![cfg(loom)]

mod models;

use freethreading_core::sync::{Acquire, RLock};
use models::{Private, Uninterruptible, Witness, check, fresh, thread};

fn acquire(lock: &RLock) {
    let outcome = lock.acquire(Private, None, &Uninterruptible);
    assert_eq!(outcome, Acquire::Acquired);
    assert!(lock.is_held(Private));
}

fn release(lock: &RLock) {
    lock.release(Private).expect("it is held");
}

fn count_under_two(lock: &RLock, witness: &Witness) {
    acquire(lock);
    acquire(lock);
    release(lock);
    witness.count();
    release(lock);
    assert!(!lock.is_held(Private));
}

#[test]
fn the_first_release_of_two_frees_it_for_nobody() {
    let lock = fresh::<RLock>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || count_under_two(lock, &theirs));
        count_under_two(lock, &witness);
        other.join();
        assert_eq!(witness.get(), 2);
        assert!(!lock.is_locked());
    });
}

#[test]
fn who_does_not_hold_it_can_not_release_it() {
    let lock = fresh::<RLock>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let other = thread(move || count_under_two(lock, &theirs));
        assert!(lock.release(Private).is_err());
        if lock.try_acquire(Private) {
            witness.count();
            release(lock);
        }
        assert!(lock.release_all(Private).is_err());
        other.join();
    });
}
