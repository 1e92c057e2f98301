// SPDX-License-Identifier: MIT
//! Lock against a bool, `RLock` against a depth.

use freethreading_core::park::Uninterruptible;
use freethreading_core::sync::{Acquire, Lock, NotHeld, RLock};
use proptest::prelude::*;

use crate::support::at_once;
use crate::{both, new};

#[derive(Clone, Copy, Debug)]
enum Step {
    TryAcquire,
    Poll,
    Acquire,
    Release,
    /// Of an `RLock` only: all acquires are undone, and then redone.
    ReleaseAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Step::{Acquire, Poll, Release, ReleaseAll, TryAcquire};
    let kinds = vec![
        TryAcquire, Poll, Acquire, Release, Release, Release, ReleaseAll,
    ];
    prop::collection::vec(prop::sample::select(kinds), 0..100)
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_lock_agrees_with_a_bool(steps in steps()) {
        for storage in both() {
            let lock = new::<Lock>(storage);
            let mut is_held = false;
            for step in &steps {
                let free = if is_held { Acquire::TimedOut } else { Acquire::Acquired };
                match step {
                    Step::TryAcquire => prop_assert_eq!(lock.try_acquire(storage), !is_held),
                    Step::Poll => prop_assert_eq!(lock.poll(storage), free),
                    Step::Acquire => {
                        let outcome = lock.acquire(storage, at_once(), &Uninterruptible);
                        prop_assert_eq!(outcome, free);
                    }
                    Step::Release | Step::ReleaseAll => {
                        let expected = if is_held { Ok(()) } else { Err(NotHeld) };
                        prop_assert_eq!(lock.release(storage), expected);
                    }
                }
                is_held = !matches!(step, Step::Release | Step::ReleaseAll);
                prop_assert_eq!(lock.is_locked(), is_held);
                prop_assert_eq!(lock.owner(), is_held.then(|| storage.me()));
                prop_assert_eq!(lock.waiters(storage), 0);
            }
        }
    }

    #[test]
    fn an_rlock_agrees_with_a_depth(steps in steps()) {
        for storage in both() {
            let lock = new::<RLock>(storage);
            let mut depth = 0_u32;
            for step in &steps {
                match step {
                    Step::TryAcquire => prop_assert!(lock.try_acquire(storage)),
                    Step::Poll => prop_assert_eq!(lock.poll(storage), Acquire::Acquired),
                    Step::Acquire => {
                        let outcome = lock.acquire(storage, at_once(), &Uninterruptible);
                        prop_assert_eq!(outcome, Acquire::Acquired);
                    }
                    Step::Release => {
                        let expected = if depth > 0 { Ok(()) } else { Err(NotHeld) };
                        prop_assert_eq!(lock.release(storage), expected);
                    }
                    Step::ReleaseAll => match lock.release_all(storage) {
                        Err(NotHeld) => prop_assert_eq!(depth, 0),
                        Ok(saved) => {
                            prop_assert_eq!(saved.get(), depth);
                            prop_assert!(!lock.is_locked() && lock.try_acquire(storage));
                            lock.restore_depth(saved);
                        }
                    },
                }
                depth = match step {
                    Step::Release => depth.saturating_sub(1),
                    Step::ReleaseAll => depth,
                    Step::TryAcquire | Step::Poll | Step::Acquire => depth + 1,
                };
                prop_assert_eq!(lock.depth(), depth);
                prop_assert_eq!(lock.is_locked(), depth > 0);
                prop_assert_eq!(lock.is_held(storage), depth > 0);
                prop_assert_eq!(lock.owner(), (depth > 0).then(|| storage.me()));
            }
        }
    }
}
