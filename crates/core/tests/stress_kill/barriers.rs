// SPDX-License-Identifier: MIT
//! Barrier: when a party dies in it, it breaks for the others, and goes on after a reset.

use std::hint::spin_loop;
use std::thread;

use freethreading_core::storage::Object;
use freethreading_core::sync::{Barrier, BarrierWait};

use crate::board::{Life, ORDER, Phase};
use crate::crew::{Crew, Tally, Worker, new};
use crate::park::Tracked;
use crate::support::{Random, shared};

const PARTIES: usize = 4;

/// `Board::count` is how often the barrier was reset.
fn pass_often(barrier: &Barrier, has_action: bool, worker: &Worker<'_>) {
    while !worker.must_stop() {
        let resets = worker.board.count.load(ORDER);
        worker.enter(Phase::Outside);
        let park = Tracked(worker.life());
        let has_passed = match barrier.wait(shared(), has_action, None, &park) {
            BarrierWait::Passed(_) => true,
            BarrierWait::RunAction(turn) => {
                worker.enter(Phase::Holding);
                worker.enter_room(1);
                for _ in 0..3000 {
                    spin_loop();
                }
                worker.leave_room();
                barrier.finish(shared(), &turn, true).is_some()
            }
            BarrierWait::Broken => false,
            BarrierWait::Interrupted | BarrierWait::OutOfMemory => worker.fail("it gave up"),
        };
        if has_passed {
            worker.step();
            continue;
        }
        worker.enter(Phase::Resting);
        while worker.board.count.load(ORDER) == resets && !worker.must_stop() {
            thread::yield_now();
        }
    }
}

/// Brings everybody out of a broken barrier and in again.
fn mend(crew: &Crew<'_>, barrier: &Barrier) {
    crew.until("all are told that the barrier is broken", || {
        crew.living().all(|life| life.phase() == Phase::Resting)
    });
    barrier.reset(shared());
    crew.board().count.fetch_add(1, ORDER);
}

fn under_kills(random: &mut Random, has_action: bool) -> Tally {
    let barrier: Object<Barrier> = new();
    barrier.initialize(u32::try_from(PARTIES).expect("few"));
    let action = |worker: &Worker<'_>| pass_often(&barrier, has_action, worker);
    let mut tally = Tally::default();
    let mut crew = Crew::start(PARTIES, random, &action);
    for _ in 0..30 {
        crew.let_work();
        // Two now and then: one that waited, and is missed, for the other will not come.
        let wanted = [Phase::Listed, Phase::Holding][usize::from(has_action)];
        let first = crew.pick(wanted);
        let second = Some((first + 1) % PARTIES).filter(|_| crew.random.below(2) == 0);
        let vacant: Vec<usize> = second.into_iter().chain([first]).collect();
        crew.kill_together(&vacant);
        tally.kills += 1 + u32::from(second.is_some());
        crew.until(
            "the barrier breaks, or the living wait in it, and no one else",
            || {
                let is_in = |life: &Life| life.phase() == Phase::Listed;
                let living = PARTIES - vacant.len();
                let waiting = barrier.waiting(shared()) as usize;
                barrier.is_broken() || (waiting == living && crew.living().all(is_in))
            },
        );
        for seat in vacant {
            crew.hire(seat);
        }
        let steps = || crew.living().map(|life| life.steps.load(ORDER));
        let before: Vec<u64> = steps().collect();
        crew.until("the barrier breaks, or all pass", || {
            barrier.is_broken() || steps().zip(&before).all(|(now, before)| now > *before)
        });
        if barrier.is_broken() {
            tally.hits += 1;
            mend(&crew, &barrier);
        }
    }
    crew.until_all_step();
    drop(crew.stop(|_| barrier.abort(shared())));
    tally
}

pub(crate) fn barriers_under_kills(random: &mut Random) -> Tally {
    under_kills(random, false)
}

pub(crate) fn barriers_with_actions_under_kills(random: &mut Random) -> Tally {
    under_kills(random, true)
}
