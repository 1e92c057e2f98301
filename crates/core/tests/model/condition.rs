// SPDX-License-Identifier: MIT
//! The condition's waiters against a list of who was told.

use freethreading_core::deadline::Deadline;
use freethreading_core::futex::{FutexWord, Scope};
use freethreading_core::park::{Park, Parked, Uninterruptible};
use freethreading_core::storage::Storage;
use freethreading_core::sync::{Condition, Notified};
use proptest::prelude::*;

use crate::support::{Interrupting, at_once};
use crate::{both, new};

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter,
    Notify(usize),
    /// One of those that entered, whichever the number comes to, waits with a deadline that
    /// has passed.
    Wait(usize),
    /// The same, interrupted instead.
    Interrupt(usize),
    /// The same, and somebody is told while it sleeps: the first one, or the next if it is
    /// itself that was the first.
    InterruptLate(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Enter),
        2 => (0..4_usize).prop_map(Step::Notify),
        1 => Just(Step::Notify(usize::MAX)),
        2 => any::<usize>().prop_map(Step::Wait),
        1 => any::<usize>().prop_map(Step::Interrupt),
        1 => any::<usize>().prop_map(Step::InterruptLate),
    ];
    prop::collection::vec(step, 0..150)
}

/// A sleep during which somebody is told, and that is interrupted then.
struct Notifying<'a>(&'a Condition, Storage);

impl Park for Notifying<'_> {
    fn park(&self, _: &impl FutexWord, _: u32, _: Scope, _: Option<Deadline>) -> Parked {
        self.0.notify(self.1, 1);
        Parked::Interrupted
    }

    fn spin(&self, mut is_ready: impl FnMut() -> bool) -> bool {
        is_ready()
    }
}

/// Tells the first `count` that weren't told, in order of arrival; how many.
fn notify<T>(waiters: &mut [(T, bool)], count: usize) -> usize {
    let untold = waiters.iter_mut().filter(|(_, is_told)| !is_told);
    untold
        .take(count)
        .map(|(_, is_told)| *is_told = true)
        .count()
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_condition_agrees_with_a_list(steps in steps()) {
        for storage in both() {
            let condition = new::<Condition>(storage);
            let mut model = Vec::new();
            for &step in &steps {
                match step {
                    Step::Enter => model.push((condition.enter(storage).expect("memory"), false)),
                    Step::Notify(count) => {
                        let told = condition.notify(storage, count);
                        prop_assert_eq!(told, notify(&mut model, count));
                    }
                    Step::Wait(_) | Step::Interrupt(_) | Step::InterruptLate(_) if model.is_empty() => {}
                    Step::Wait(which) => {
                        let (waiting, is_told) = model.remove(which % model.len());
                        let outcome =
                            condition.wait(storage, waiting, at_once(), &Uninterruptible);
                        let expected = if is_told { Notified::Yes } else { Notified::TimedOut };
                        prop_assert_eq!(outcome, expected);
                    }
                    Step::Interrupt(which) => {
                        let (waiting, is_told) = model.remove(which % model.len());
                        let outcome = condition.wait(storage, waiting, None, &Interrupting);
                        // Who was told before it slept has no reason to be interrupted.
                        let expected = if is_told { Notified::Yes } else { Notified::Interrupted };
                        prop_assert_eq!(outcome, expected);
                    }
                    Step::InterruptLate(which) => {
                        let (waiting, is_told) = model.remove(which % model.len());
                        let park = Notifying(&condition, storage);
                        let outcome = condition.wait(storage, waiting, None, &park);
                        if is_told {
                            prop_assert_eq!(outcome, Notified::Yes);
                        } else {
                            prop_assert_eq!(outcome, Notified::Interrupted);
                            notify(&mut model, 1);
                        }
                    }
                }
                let untold = model.iter().filter(|(_, is_told)| !is_told).count();
                prop_assert_eq!(condition.waiters(storage), untold);
            }
            // In whatever order they leave.
            for (waiting, is_told) in model.into_iter().rev() {
                let outcome = condition.wait(storage, waiting, at_once(), &Uninterruptible);
                prop_assert_eq!(outcome == Notified::Yes, is_told);
            }
            prop_assert_eq!(condition.waiters(storage), 0);
        }
    }
}
