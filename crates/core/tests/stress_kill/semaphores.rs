// SPDX-License-Identifier: MIT
//! Semaphore: borrowed permits all come back; of plain ones each kill costs one at most.

use std::hint::spin_loop;

use freethreading_core::family::Family;
use freethreading_core::storage::Object;
use freethreading_core::sync::{Semaphore, SemaphoreAcquire};

use crate::board::Phase;
use crate::crew::{Crew, Tally, Worker, new};
use crate::park::Hurried;
use crate::support::{Random, shared, until};

fn use_permit(
    worker: &Worker<'_>,
    permits: usize,
    take: impl Fn() -> bool,
    give: impl Fn() -> bool,
) {
    while !worker.must_stop() {
        worker.check(take(), "it gave up");
        worker.enter(Phase::Holding);
        worker.enter_room(permits);
        for _ in 0..100 {
            spin_loop();
        }
        worker.leave_room();
        worker.enter(Phase::Releasing);
        worker.check(give(), "more permits than there were");
        worker.enter(Phase::Outside);
        worker.step();
    }
}

/// Kills random workers, and says how many of them surely held a permit.
fn kill_some(crew: &mut Crew<'_>, kills: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..kills {
        crew.let_work();
        let seat = crew.pick(Phase::Holding);
        tally.hits += u32::from(crew.kill(seat).phase() == Phase::Holding);
        tally.kills += 1;
        crew.hire(seat);
    }
    tally
}

pub(crate) fn borrowed_permits_under_kills(random: &mut Random) -> Tally {
    let permits = 1 + u32::try_from(random.below(3)).expect("few");
    let places = permits as usize;
    let semaphore: Object<Semaphore> = new();
    semaphore.initialize(permits, random.below(2) == 0);
    let borrow = || {
        semaphore.try_borrow(shared())
            || semaphore.borrow(shared(), &Hurried) == SemaphoreAcquire::Acquired
    };
    let give_back = || semaphore.give_back(shared()).is_ok();
    let action = |worker: &Worker<'_>| use_permit(worker, places, borrow, give_back);
    let is_reaped = random.below(2) == 0;
    let mut crew = Crew::start(5, random, &action);
    let tally = kill_some(&mut crew, 24);
    crew.until_all_step();
    // The last one isn't replaced.
    let seat = crew.pick(Phase::Holding);
    crew.kill(seat);
    drop(crew.stop(|_| ()));
    if is_reaped {
        Family::home().expect("it exists").reap_dead();
        assert_eq!(semaphore.value(), permits);
    }
    for _ in 0..permits {
        until(|| semaphore.poll(shared()));
    }
    assert!(!semaphore.poll(shared()), "a permit from nowhere");
    for _ in 0..permits {
        assert_eq!(semaphore.release(shared()), Ok(()));
    }
    assert_eq!(semaphore.value(), permits);
    Tally {
        kills: tally.kills + 1,
        ..tally
    }
}

/// So few kills that some permits must be left to go on with.
pub(crate) fn plain_permits_under_kills(random: &mut Random) -> Tally {
    const PERMITS: u32 = 6;
    let semaphore: Object<Semaphore> = new();
    semaphore.initialize(PERMITS, false);
    let acquire = || semaphore.acquire(shared(), None, &Hurried) == SemaphoreAcquire::Acquired;
    let release = || semaphore.release(shared()).is_ok();
    let action = |worker: &Worker<'_>| use_permit(worker, PERMITS as usize, acquire, release);
    let mut crew = Crew::start(7, random, &action);
    let tally = kill_some(&mut crew, PERMITS - 1);
    crew.until_all_step();
    drop(crew.stop(|_| ()));
    let left = semaphore.value();
    let expected = PERMITS - tally.kills..=PERMITS - tally.hits;
    assert!(
        expected.contains(&left),
        "{left} of {PERMITS}, {} surely lost",
        tally.hits
    );
    tally
}
