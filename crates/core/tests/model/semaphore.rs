// SPDX-License-Identifier: MIT
//! The semaphore against two numbers: permits that are there, and permits that are lent.

use freethreading_core::family::Family;
use freethreading_core::park::Uninterruptible;
use freethreading_core::storage::{Object, Storage};
use freethreading_core::sync::{MAX_PERMITS, Semaphore, SemaphoreAcquire};
use proptest::prelude::*;

use crate::support::{Child, alone, at_once, check, shared, until};
use crate::{both, new};

#[derive(Clone, Copy, Debug)]
enum Step {
    TryAcquire,
    Acquire,
    Poll,
    Release,
    TryBorrow,
    Borrow,
    GiveBack,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::{Acquire, Borrow, GiveBack, Poll, Release, TryAcquire, TryBorrow};
    prop::sample::select(vec![
        TryAcquire, Acquire, Poll, Release, Release, TryBorrow, Borrow, GiveBack, GiveBack,
    ])
}

/// What a step does to a semaphore; whether it succeeds.
fn run(step: Step, semaphore: &Semaphore, storage: Storage) -> bool {
    match step {
        Step::TryAcquire => semaphore.try_acquire(),
        Step::Poll => semaphore.poll(storage),
        Step::Acquire => {
            let outcome = semaphore.acquire(storage, at_once(), &Uninterruptible);
            outcome == SemaphoreAcquire::Acquired
        }
        Step::Release => semaphore.release(storage).is_ok(),
        Step::TryBorrow => semaphore.try_borrow(storage),
        // For ever if there is none.
        Step::Borrow => {
            let has_one = semaphore.value() > 0;
            has_one && semaphore.borrow(storage, &Uninterruptible) == SemaphoreAcquire::Acquired
        }
        Step::GiveBack => semaphore.give_back(storage).is_ok(),
    }
}

#[derive(Clone, Copy)]
struct Model {
    bound: u32,
    value: u32,
    /// What the process that is alive has borrowed.
    lent: u32,
}

impl Model {
    fn run(&mut self, step: Step) -> bool {
        let (gives, is_loan) = match step {
            Step::TryAcquire | Step::Acquire | Step::Poll => (false, false),
            Step::TryBorrow | Step::Borrow => (false, true),
            Step::Release => (true, false),
            Step::GiveBack => (true, true),
        };
        let succeeds = if gives {
            self.value < self.bound
        } else {
            self.value > 0
        };
        if gives {
            self.value += u32::from(succeeds);
            // The block has ended even if there is no room.
            self.lent = self.lent.saturating_sub(u32::from(is_loan));
        } else {
            self.value -= u32::from(succeeds);
            self.lent += u32::from(succeeds && is_loan);
        }
        succeeds
    }

    fn bury(&mut self) {
        self.value += self.lent.min(self.bound - self.value);
        self.lent = 0;
    }
}

fn semaphore(storage: Storage, permits: u32, is_bounded: bool) -> (Object<Semaphore>, Model) {
    let semaphore = new::<Semaphore>(storage);
    semaphore.initialize(permits, is_bounded);
    let bound = if is_bounded { permits } else { MAX_PERMITS };
    let model = Model {
        bound,
        value: permits,
        lent: 0,
    };
    (semaphore, model)
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_semaphore_agrees_with_two_numbers(
        permits in 0_u32..5,
        is_bounded: bool,
        steps in prop::collection::vec(step(), 0..100),
    ) {
        for storage in both() {
            let (semaphore, mut model) = semaphore(storage, permits, is_bounded);
            for &step in &steps {
                prop_assert_eq!(run(step, &semaphore, storage), model.run(step), "{:?}", step);
                prop_assert_eq!(semaphore.value(), model.value);
            }
        }
    }
}

proptest! {
    // A process for each borrower.
    #![proptest_config(ProptestConfig { cases: 60, ..crate::config() })]

    #[test]
    fn what_the_dead_had_borrowed_comes_back(
        permits in 0_u32..5,
        is_bounded: bool,
        borrowers in prop::collection::vec(prop::collection::vec(step(), 0..20), 1..4),
        is_reaped: bool,
    ) {
        let _alone = alone();
        let (semaphore, mut model) = semaphore(shared(), permits, is_bounded);
        for steps in &borrowers {
            let mut twin = model;
            let child = Child::fork(|| {
                for &step in steps {
                    check(run(step, &semaphore, shared()) == twin.run(step), 1);
                    check(semaphore.value() == twin.value, 2);
                }
            });
            prop_assert_eq!(child.wait(), Some(0));
            for &step in steps {
                model.run(step);
            }
            prop_assert_eq!(semaphore.value(), model.value);
            if !is_reaped && model.value == 0 && model.lent > 0 {
                until(|| semaphore.poll(shared()));
                prop_assert_eq!(semaphore.release(shared()), Ok(()));
            } else {
                Family::home().expect("it exists").reap_dead();
            }
            model.bury();
            prop_assert_eq!(semaphore.value(), model.value);
        }
    }
}
