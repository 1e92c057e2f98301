// SPDX-License-Identifier: MIT
//! Event: whatever a killed setter leaves behind, one set wakes all who wait.

use freethreading_core::storage::Object;
use freethreading_core::sync::{Event, EventWait};

use crate::board::{ORDER, Phase};
use crate::crew::{Crew, Tally, Worker, new};
use crate::park::Tracked;
use crate::support::{Random, shared};

const SETTER: usize = 0;

fn set_and_clear(event: &Event, worker: &Worker<'_>) {
    while !worker.must_stop() {
        event.clear();
        let waits: u64 = worker.board.steps();
        // Some waits begin before the set, most of them after the next one.
        for _ in 0..waits % 50 {
            std::hint::spin_loop();
        }
        worker.board.count.fetch_add(1, ORDER);
        event.set(shared());
        worker.step();
    }
}

fn wait_often(event: &Event, worker: &Worker<'_>) {
    while !worker.must_stop() {
        let outcome = event.wait(shared(), None, &Tracked(worker.life()));
        worker.enter(Phase::Outside);
        worker.check(outcome == EventWait::Set, "it gave up");
        worker.check(worker.board.count.load(ORDER) > 0, "it was never set");
        worker.step();
    }
}

pub(crate) fn events_under_kills(random: &mut Random) -> Tally {
    let event: Object<Event> = new();
    let action = |worker: &Worker<'_>| match worker.seat {
        SETTER => set_and_clear(&event, worker),
        _ => wait_often(&event, worker),
    };
    let mut tally = Tally::default();
    let mut crew = Crew::start(4, random, &action);
    for _ in 0..40 {
        crew.let_work();
        let seat = match crew.random.below(3) {
            0 => SETTER,
            _ => crew.pick(Phase::Listed),
        };
        let was_listed = crew.kill(seat).phase() == Phase::Listed;
        tally.kills += 1;
        tally.hits += u32::from(was_listed || seat == SETTER);
        if seat == SETTER {
            // Once: it stays set, so all pass.
            crew.board().count.fetch_add(1, ORDER);
            event.set(shared());
        }
        crew.until_all_step();
        crew.hire(seat);
    }
    crew.until_all_step();
    drop(crew.stop(|crew| {
        let setter = crew.life(SETTER);
        crew.until("the setter goes home", || setter.phase() == Phase::Done);
        event.set(shared());
    }));
    tally
}
