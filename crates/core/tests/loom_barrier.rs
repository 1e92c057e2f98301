// SPDX-License-Identifier: MIT
//! The barrier in every order of its threads' steps.
#![cfg(loom)]

mod models;

use freethreading_core::sync::{Barrier, BarrierWait};
use models::{
    Clock, LookingAround, Private, Thread, Tick, Uninterruptible, Witness, check, fresh, thread,
    tick,
};

fn wait(barrier: &Barrier) -> BarrierWait {
    barrier.wait(Private, false, None, &Uninterruptible)
}

fn pass(barrier: &Barrier) -> u32 {
    match wait(barrier) {
        BarrierWait::Passed(index) => index,
        other => panic!("{other:?}"),
    }
}

/// The index of one that passes, having run the action if it is to.
fn pass_or_run(barrier: &Barrier) -> u32 {
    match barrier.wait(Private, true, None, &Uninterruptible) {
        BarrierWait::RunAction(turn) => barrier
            .finish(Private, &turn, true)
            .expect("nobody breaks it"),
        BarrierWait::Passed(index) => index,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_pass_with_different_indexes_and_see_what_the_other_did() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let [mine, theirs] = [Witness::default(), Witness::default()];
        let (seen, done) = (mine.clone(), theirs.clone());
        let other = thread(move || {
            done.count();
            let index = pass(barrier);
            assert_eq!(seen.get(), 1);
            index
        });
        mine.count();
        let index = pass(barrier);
        assert_eq!(theirs.get(), 1);
        assert_eq!(index + other.join(), 1);
        assert_eq!(barrier.waiting(Private), 0);
    });
}

#[test]
fn three_pass_with_different_indexes() {
    let barrier = fresh::<Barrier>();
    check(2, move || {
        barrier.initialize(3);
        let others = [(); 2].map(|()| thread(move || pass(barrier)));
        let mut indexes = vec![pass(barrier)];
        indexes.extend(others.map(Thread::join));
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2]);
    });
}

#[test]
fn it_is_used_again_while_somebody_is_on_the_way_out() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let other = thread(move || [pass(barrier), pass(barrier)]);
        let mine = [pass(barrier), pass(barrier)];
        let theirs = other.join();
        assert_eq!([mine[0] + theirs[0], mine[1] + theirs[1]], [1, 1]);
    });
}

#[test]
fn nobody_passes_before_the_action_is_done() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let witness = Witness::default();
        let arrive = move |witness: &Witness| {
            match barrier.wait(Private, true, None, &Uninterruptible) {
                BarrierWait::RunAction(turn) => {
                    witness.count();
                    assert_eq!(barrier.finish(Private, &turn, true), Some(1));
                }
                BarrierWait::Passed(index) => assert_eq!(index, 0),
                other => panic!("{other:?}"),
            }
            assert_eq!(witness.get(), 1);
        };
        let theirs = witness.clone();
        let other = thread(move || arrive(&theirs));
        arrive(&witness);
        other.join();
    });
}

#[test]
fn an_action_that_fails_breaks_it_for_all() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let arrive = move || match barrier.wait(Private, true, None, &Uninterruptible) {
            BarrierWait::RunAction(turn) => {
                assert_eq!(barrier.finish(Private, &turn, false), None);
            }
            outcome => assert_eq!(outcome, BarrierWait::Broken),
        };
        let other = thread(arrive);
        arrive();
        other.join();
        assert!(barrier.is_broken());
    });
}

#[test]
fn a_timeout_that_races_with_the_last_arrival_lets_both_pass_or_neither() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        let deadline = clock.deadline();
        barrier.initialize(2);
        let hasty = thread(move || barrier.wait(Private, false, deadline, &Uninterruptible));
        let time = tick(clock);
        match (wait(barrier), hasty.join()) {
            (BarrierWait::Passed(mine), BarrierWait::Passed(theirs)) => {
                assert_eq!(mine + theirs, 1);
                assert!(!barrier.is_broken());
            }
            (BarrierWait::Broken, BarrierWait::Broken) => assert!(barrier.is_broken()),
            outcomes => panic!("{outcomes:?}"),
        }
        time.join();
    });
}

#[test]
fn an_abort_lets_both_pass_or_neither_and_leaves_nobody_asleep() {
    let barrier = fresh::<Barrier>();
    check(2, move || {
        barrier.initialize(2);
        let other = thread(move || wait(barrier));
        let abort = thread(move || barrier.abort(Private));
        match (wait(barrier), other.join()) {
            (BarrierWait::Passed(mine), BarrierWait::Passed(theirs)) => {
                assert_eq!(mine + theirs, 1);
            }
            outcomes => assert_eq!(outcomes, (BarrierWait::Broken, BarrierWait::Broken)),
        }
        abort.join();
        assert!(barrier.is_broken());
        assert_eq!(wait(barrier), BarrierWait::Broken);
    });
}

#[test]
fn a_reset_sends_away_who_waits_and_nobody_else() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let other = thread(move || match wait(barrier) {
            // It came before the reset.
            BarrierWait::Broken => pass(barrier),
            BarrierWait::Passed(index) => index,
            outcome => panic!("{outcome:?}"),
        });
        barrier.reset(Private);
        let mine = pass(barrier);
        assert_eq!(mine + other.join(), 1);
        assert!(!barrier.is_broken());
    });
}

#[test]
fn a_reset_of_a_broken_barrier_lets_all_pass_again() {
    let barrier = fresh::<Barrier>();
    check(2, move || {
        barrier.initialize(2);
        barrier.abort(Private);
        let other = thread(move || match wait(barrier) {
            BarrierWait::Broken => None,
            outcome => Some(outcome),
        });
        barrier.reset(Private);
        // Passes with the other one if that came after the reset.
        let late = thread(move || wait(barrier));
        match other.join() {
            None => barrier.abort(Private),
            Some(outcome) => assert!(matches!(outcome, BarrierWait::Passed(_))),
        }
        let _ = late.join();
    });
}

#[test]
fn an_action_whose_runner_dies_breaks_it_for_who_waits() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        let clock = Clock::new(Tick::Short);
        barrier.initialize(2);
        let park = LookingAround::at(&clock);
        let other = thread(move || match barrier.wait(Private, true, None, &park) {
            // It came last, and so the dead one was the one to wait.
            BarrierWait::RunAction(turn) => {
                assert_eq!(barrier.finish(Private, &turn, true), Some(1));
            }
            outcome => assert_eq!(outcome, BarrierWait::Broken),
        });
        if let BarrierWait::RunAction(_) = barrier.wait(Private, true, None, &Uninterruptible) {
            clock.die();
        }
        other.join();
    });
}

#[test]
fn who_waits_at_a_reset_is_sent_away() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let other = thread(move || wait(barrier));
        let is_waiting = barrier.waiting(Private) == 1;
        barrier.reset(Private);
        if !is_waiting {
            barrier.abort(Private);
        }
        assert_eq!(other.join(), BarrierWait::Broken);
    });
}

#[test]
fn a_reset_while_the_action_runs_breaks_the_cycle_for_all_or_for_nobody() {
    let barrier = fresh::<Barrier>();
    check(3, move || {
        barrier.initialize(2);
        let has_passed = move || match barrier.wait(Private, true, None, &Uninterruptible) {
            BarrierWait::RunAction(turn) => {
                let reset = thread(move || barrier.reset(Private));
                let index = barrier.finish(Private, &turn, true);
                reset.join();
                index.is_some()
            }
            BarrierWait::Passed(_) => true,
            outcome => {
                assert_eq!(outcome, BarrierWait::Broken);
                false
            }
        };
        let other = thread(has_passed);
        assert_eq!(has_passed(), other.join());
        assert!(!barrier.is_broken());
    });
}

#[test]
fn who_arrives_while_the_action_runs_is_the_first_of_the_next_cycle() {
    let barrier = fresh::<Barrier>();
    check(2, move || {
        barrier.initialize(2);
        let both_cycles = move || {
            if let BarrierWait::RunAction(turn) =
                barrier.wait(Private, true, None, &Uninterruptible)
            {
                let late = thread(move || pass_or_run(barrier));
                assert_eq!(barrier.finish(Private, &turn, true), Some(1));
                assert_eq!(pass_or_run(barrier) + late.join(), 1);
            }
        };
        let other = thread(both_cycles);
        both_cycles();
        other.join();
    });
}
