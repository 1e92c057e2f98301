// SPDX-License-Identifier: MIT
//! The event against a bool.

use freethreading_core::park::Uninterruptible;
use freethreading_core::sync::{Event, EventWait};
use proptest::prelude::*;

use crate::support::at_once;
use crate::{both, new};

#[derive(Clone, Copy, Debug)]
enum Step {
    Set,
    Clear,
    Wait,
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn an_event_agrees_with_a_bool(
        steps in prop::collection::vec(
            prop::sample::select(vec![Step::Set, Step::Clear, Step::Wait]),
            0..100,
        ),
    ) {
        for storage in both() {
            let event = new::<Event>(storage);
            let mut is_set = false;
            for step in &steps {
                match step {
                    Step::Set => {
                        event.set(storage);
                        is_set = true;
                    }
                    Step::Clear => {
                        event.clear();
                        is_set = false;
                    }
                    Step::Wait => {
                        let outcome = event.wait(storage, at_once(), &Uninterruptible);
                        let expected = if is_set { EventWait::Set } else { EventWait::TimedOut };
                        prop_assert_eq!(outcome, expected);
                    }
                }
                prop_assert_eq!(event.is_set(), is_set);
            }
        }
    }
}
