// SPDX-License-Identifier: MIT
//! The barrier against what one thread alone can see of it: it completes cycles of one party,
//! breaks larger ones by its deadline, and leaves them when it is interrupted.

use freethreading_core::park::Uninterruptible;
use freethreading_core::sync::{Barrier, BarrierWait};
use proptest::prelude::*;

use crate::support::{Interrupting, at_once};
use crate::{both, new};

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait,
    Interrupt,
    /// With an action, which succeeds or fails, or is overtaken by a reset.
    Act {
        succeeds: bool,
        is_reset: bool,
    },
    Abort,
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Wait),
        2 => Just(Step::Interrupt),
        3 => any::<(bool, bool)>()
            .prop_map(|(succeeds, is_reset)| Step::Act { succeeds, is_reset }),
        1 => Just(Step::Abort),
        4 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 0..100)
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_barrier_agrees_with_a_bool(parties in 1_u32..4, steps in steps()) {
        for storage in both() {
            let barrier = new::<Barrier>(storage);
            barrier.initialize(parties);
            let mut is_broken = false;
            for &step in &steps {
                match step {
                    Step::Wait => {
                        let outcome = barrier.wait(storage, false, at_once(), &Uninterruptible);
                        is_broken |= parties > 1;
                        let broken = BarrierWait::Broken;
                        let expected = if is_broken { broken } else { BarrierWait::Passed(0) };
                        prop_assert_eq!(outcome, expected);
                    }
                    Step::Interrupt => {
                        let outcome = barrier.wait(storage, false, None, &Interrupting);
                        let expected = match (is_broken, parties) {
                            (true, _) => BarrierWait::Broken,
                            (false, 1) => BarrierWait::Passed(0),
                            (false, _) => BarrierWait::Interrupted,
                        };
                        prop_assert_eq!(outcome, expected);
                    }
                    Step::Act { succeeds, is_reset } => {
                        match barrier.wait(storage, true, at_once(), &Uninterruptible) {
                            BarrierWait::RunAction(turn) => {
                                prop_assert!(!is_broken && parties == 1);
                                if is_reset {
                                    barrier.reset(storage);
                                }
                                let index = barrier.finish(storage, &turn, succeeds);
                                prop_assert_eq!(index, (succeeds && !is_reset).then_some(0));
                                is_broken = !succeeds;
                            }
                            outcome => {
                                is_broken |= parties > 1;
                                prop_assert!(is_broken);
                                prop_assert_eq!(outcome, BarrierWait::Broken);
                            }
                        }
                    }
                    Step::Abort => {
                        barrier.abort(storage);
                        is_broken = true;
                    }
                    Step::Reset => {
                        barrier.reset(storage);
                        is_broken = false;
                    }
                }
                prop_assert_eq!(barrier.is_broken(), is_broken);
                prop_assert_eq!((barrier.waiting(storage), barrier.parties()), (0, parties));
            }
        }
    }
}
