// SPDX-License-Identifier: MIT
//! Condition: producers and consumers hand one item over at a time, so that a notification that
//! a killed waiter swallows leaves everybody asleep.
//!
//! Two things are the user's, not the engine's: a holder of the lock that is killed between what
//! it did and its notification, and a waiter that is killed when it has left the list with its
//! notification and not yet used it. The killer makes up for these, and for no others.

use std::time::Duration;

use freethreading_core::deadline::Deadline;
use freethreading_core::park::Uninterruptible;
use freethreading_core::storage::Object;
use freethreading_core::sync::{Acquire, Condition, Lock, Notified};

use crate::board::{Board, ORDER, Phase};
use crate::crew::{Crew, Tally, Worker, new};
use crate::park::{Hurried, Tracked};
use crate::support::{Random, shared};

/// An item more in `Board::count`, where the number of those made is in the upper half and that
/// of those taken in the lower one: both change at once.
const MADE: u64 = 1 << 32;
const TAKEN: u64 = 1;

fn made_and_taken(board: &Board) -> (u64, u64) {
    let count = board.count.load(ORDER);
    (count / MADE, count % MADE)
}

fn is_full(board: &Board) -> bool {
    let (made, taken) = made_and_taken(board);
    made != taken
}

struct Shop {
    lock: Object<Lock>,
    not_empty: Object<Condition>,
    not_full: Object<Condition>,
}

impl Shop {
    fn lock(&self, worker: &Worker<'_>) {
        loop {
            match self.lock.acquire(shared(), None, &Hurried) {
                Acquire::Acquired => break worker.enter(Phase::Holding),
                // One store changes all, so there is nothing to mend.
                Acquire::OwnerDied(_) => {}
                Acquire::TimedOut | Acquire::Interrupted => worker.fail("it gave up"),
            }
        }
    }

    fn unlock(&self, worker: &Worker<'_>) {
        worker.check(self.lock.release(shared()).is_ok(), "its lock was free");
    }

    fn wait(&self, condition: &Condition, worker: &Worker<'_>) {
        let Ok(waiting) = condition.enter(shared()) else {
            worker.fail("no memory");
        };
        worker.enter(Phase::Listed);
        self.unlock(worker);
        let outcome = condition.wait(shared(), waiting, None, &Tracked(worker.life()));
        worker.check(outcome == Notified::Yes, "it gave up");
        self.lock(worker);
    }

    fn produce(&self, worker: &Worker<'_>) {
        while !worker.must_stop() {
            self.lock(worker);
            while is_full(worker.board) && !worker.must_stop() {
                self.wait(&self.not_full, worker);
            }
            if !worker.must_stop() {
                worker.board.count.fetch_add(MADE, ORDER);
                self.not_empty.notify(shared(), 1);
            }
            self.unlock(worker);
            worker.enter(Phase::Outside);
        }
    }

    fn consume(&self, worker: &Worker<'_>) {
        let life = worker.life();
        loop {
            self.lock(worker);
            while !is_full(worker.board) && !worker.must_stop() {
                self.wait(&self.not_empty, worker);
            }
            let has_item = is_full(worker.board);
            if has_item {
                life.hand.store(1, ORDER);
                worker.board.count.fetch_add(TAKEN, ORDER);
                self.not_full.notify(shared(), 1);
            }
            self.unlock(worker);
            if !has_item {
                break;
            }
            worker.step();
            life.hand.store(0, ORDER);
            worker.enter(Phase::Outside);
        }
    }

    fn notify_all(&self) {
        let deadline = Deadline::after(Duration::from_secs(50));
        let take = || self.lock.acquire(shared(), deadline, &Uninterruptible);
        let taken =
            std::iter::repeat_with(take).find(|outcome| !matches!(outcome, Acquire::OwnerDied(_)));
        assert_eq!(taken, Some(Acquire::Acquired), "the lock is never free");
        self.not_empty.notify(shared(), usize::MAX);
        self.not_full.notify(shared(), usize::MAX);
        assert_eq!(self.lock.release(shared()), Ok(()));
    }
}

pub(crate) fn conditions_under_kills(random: &mut Random) -> Tally {
    let shop = Shop {
        lock: new(),
        not_empty: new(),
        not_full: new(),
    };
    let action = |worker: &Worker<'_>| match worker.seat % 2 {
        0 => shop.consume(worker),
        _ => shop.produce(worker),
    };
    let mut tally = Tally::default();
    let mut crew = Crew::start(5, random, &action);
    for _ in 0..40 {
        crew.let_work();
        let seat = crew.pick(Phase::Listed);
        let phase = crew.kill(seat).phase();
        tally.kills += 1;
        if matches!(phase, Phase::Listed | Phase::Outside) {
            tally.hits += u32::from(phase == Phase::Listed);
            // Before somebody new comes, who would look for himself.
            let enough = crew.board().steps() + 4;
            crew.until("the survivors go on", || crew.board().steps() >= enough);
        } else {
            shop.notify_all();
        }
        crew.hire(seat);
    }
    let board = crew.stop(|_| shop.notify_all());
    let (made, taken) = made_and_taken(&board);
    let in_dead_hands = board
        .lives
        .iter()
        .filter(|life| life.hand.load(ORDER) != 0)
        .count();
    let used = board.steps();
    assert_eq!(made, taken, "the survivors left something");
    assert!(
        used <= taken && taken - used <= in_dead_hands as u64,
        "{used} of {taken}"
    );
    tally
}
