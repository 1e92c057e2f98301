// SPDX-License-Identifier: MIT
//! Locks, reentrant or not: never two owners, and each dead one is reported.

use std::hint::spin_loop;

use freethreading_core::park::{Park, Uninterruptible};
use freethreading_core::storage::{Object, Shareable};
use freethreading_core::sync::{Acquire, Lock, NotHeld, RLock};

use crate::board::{ORDER, Phase};
use crate::crew::{Crew, Tally, Worker, new};
use crate::park::Noting;
use crate::support::{Random, shared};

pub(crate) trait UserLock: Shareable {
    fn take(&self, park: &impl Park) -> Acquire;
    fn free(&self) -> Result<(), NotHeld>;
    fn is_taken(&self) -> bool;
    /// What only its holder can do.
    fn use_while_held(&self) -> bool;
}

impl UserLock for Lock {
    fn take(&self, park: &impl Park) -> Acquire {
        self.acquire(shared(), None, park)
    }

    fn free(&self) -> Result<(), NotHeld> {
        self.release(shared())
    }

    fn is_taken(&self) -> bool {
        self.is_locked()
    }

    fn use_while_held(&self) -> bool {
        !self.try_acquire(shared()) && self.owner() == Some(shared().me())
    }
}

impl UserLock for RLock {
    fn take(&self, park: &impl Park) -> Acquire {
        self.acquire(shared(), None, park)
    }

    fn free(&self) -> Result<(), NotHeld> {
        self.release(shared())
    }

    fn is_taken(&self) -> bool {
        self.is_locked()
    }

    fn use_while_held(&self) -> bool {
        let deeper = self.depth() == 1 && self.try_acquire(shared()) && self.depth() == 2;
        deeper && self.release(shared()).is_ok() && self.is_held(shared())
    }
}

fn hammer(lock: &impl UserLock, worker: &Worker<'_>) {
    while !worker.must_stop() {
        let park = Noting::new(worker.board);
        match lock.take(&park) {
            Acquire::Acquired => {
                worker.enter(Phase::Holding);
                use_alone(lock, worker, &park);
                worker.enter(Phase::Releasing);
                worker.check(lock.free().is_ok(), "its lock was free");
                worker.enter(Phase::Outside);
            }
            Acquire::OwnerDied(dead) => {
                let dead = dead.and_then(|dead| worker.board.life_of(dead));
                let killed = dead.filter(|dead| dead.doom().is_some());
                let Some(dead) = killed else {
                    worker.fail("a living owner was called dead");
                };
                dead.reports.fetch_add(1, ORDER);
            }
            Acquire::TimedOut | Acquire::Interrupted => worker.fail("it gave up"),
        }
    }
}

fn use_alone(lock: &impl UserLock, worker: &Worker<'_>, park: &Noting<'_>) {
    if let Some(dead) = worker.enter_room(1) {
        // Whoever waited when it was killed is told so, and doesn't just get the lock.
        let waited = park
            .kills_before
            .get()
            .is_some_and(|kills| Some(kills) < dead.doom());
        worker.check(!waited, "it waited when the owner died, and wasn't told");
    }
    // Loses updates if two are in here.
    let count = worker.board.count.load(ORDER);
    worker.check(
        lock.use_while_held(),
        "it doesn't hold what it has acquired",
    );
    for _ in 0..100 {
        spin_loop();
    }
    worker.board.count.store(count + 1, ORDER);
    worker.step();
    worker.leave_room();
}

pub(crate) fn locks_under_kills<T: UserLock>(random: &mut Random) -> Tally {
    let lock: Object<T> = new();
    let action = |worker: &Worker<'_>| hammer(&*lock, worker);
    let mut tally = Tally::default();
    let mut crew = Crew::start(4, random, &action);
    for _ in 0..25 {
        crew.let_work();
        let seat = crew.pick(Phase::Holding);
        let was_holding = crew.kill(seat).phase() == Phase::Holding;
        tally.kills += 1;
        tally.hits += u32::from(was_holding);
        if was_holding {
            let dead = crew.life(seat);
            crew.until("the owner's death is reported", || {
                dead.reports.load(ORDER) > 0
            });
        }
        crew.hire(seat);
    }
    crew.until_all_step();
    let board = crew.stop(|_| ());
    let (steps, count) = (board.steps(), board.count.load(ORDER));
    assert!(
        (count - u64::from(tally.hits)..=count).contains(&steps),
        "{steps} of {count}"
    );
    assert!(!lock.is_taken());
    assert_eq!(lock.take(&Uninterruptible), Acquire::Acquired);
    assert_eq!(lock.free(), Ok(()));
    tally
}
