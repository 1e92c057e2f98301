// SPDX-License-Identifier: MIT
//! Workers hammer one primitive in shared memory and are killed at random moments.
//!
//! `crash` (beside the sources) kills at each point that somebody thought of; this finds the
//! others. What must hold all the same is kept in a [`board::Board`], memory that the engine has
//! no part in, and counted exactly. A run prints its seed; `FREETHREADING_STRESS_SEED` repeats
//! the choices of who is killed when (though not how the processes were scheduled). The soaks
//! kill twenty times as many: `make stress`.
#![cfg(not(loom))]

#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod board;
mod conditions;
mod crew;
mod events;
mod locks;
mod park;
mod semaphores;

use crew::Plan;

macro_rules! under_kills {
    ($($name:ident => $case:expr;)*) => {
        $(#[test] fn $name() { Plan::short(stringify!($name)).run($case); })*
        mod soak {
            use super::*;
            $(
                #[test]
                #[ignore = "takes minutes: make stress"]
                fn $name() { Plan::long(stringify!($name)).run($case); }
            )*
        }
    };
}

under_kills! {
    a_lock => locks::locks_under_kills::<freethreading_core::sync::Lock>;
    an_rlock => locks::locks_under_kills::<freethreading_core::sync::RLock>;
    borrowed_permits => semaphores::borrowed_permits_under_kills;
    plain_permits => semaphores::plain_permits_under_kills;
    a_condition => conditions::conditions_under_kills;
    an_event => events::events_under_kills;
    a_barrier => barriers::barriers_under_kills;
    a_barrier_with_an_action => barriers::barriers_with_actions_under_kills;
}
