// SPDX-License-Identifier: MIT
//! Scenarios for steps that are reached seldom; and the list of all scenarios, which together reach
//! every step.

use std::thread;

use super::super::faults;
use super::super::testing::{
    Child, Told, alone, die_at, die_by, die_everywhere, each_step, survey,
};
use super::*;
use crate::family::{Entry, Run, after_fork_in_child, before_fork, disown, name_process};
use crate::queue::{Join, TooManyDone};
use crate::storage::BlobName;
use crate::sync::{Event, EventWait, RLock};

/// As [`die_everywhere`], for what must be prepared anew for each child.
pub(super) fn die_everywhere_in<T>(
    mut prepare: impl FnMut() -> T,
    mut action: impl FnMut(&mut T),
    mut check: impl FnMut(T, Child),
) {
    for steps in each_step() {
        let mut scene = prepare();
        let child = die_at(steps, || action(&mut scene));
        let _told = Told(steps);
        check(scene, child);
        if child == Child::Finished {
            assert!(steps > 0, "there was no step to be killed at");
            return;
        }
    }
}

/// The lock works, or says that its owner died and works then.
fn takes(lock: &Lock) {
    if lock.is_locked() {
        let outcome = lock.poll(shared());
        assert!(matches!(outcome, Acquire::OwnerDied(_)), "{outcome:?}");
    }
    assert!(lock.try_acquire(shared()));
    assert_eq!(lock.release(shared()), Ok(()));
}

#[test]
fn a_lock_taken_and_released() {
    let _alone = alone();
    let lock = new::<Lock>();
    die_everywhere(
        || {
            assert!(lock.try_acquire(shared()));
            assert_eq!(lock.release(shared()), Ok(()));
        },
        |_| takes(&lock),
    );
}

#[test]
fn a_reentrant_lock_taken_and_released() {
    let _alone = alone();
    let lock = new::<RLock>();
    die_everywhere(
        || {
            let take = || {
                let outcome = lock.acquire(shared(), None, &Uninterruptible);
                assert_eq!(outcome, Acquire::Acquired);
            };
            take();
            take();
            assert_eq!(lock.release(shared()), Ok(()));
            assert_eq!(lock.release(shared()), Ok(()));
            take();
            let depth = lock.release_all(shared()).expect("held");
            take();
            lock.restore_depth(depth);
            assert_eq!(lock.release(shared()), Ok(()));
        },
        |_| {
            assert!(!lock.is_held(shared()));
            if lock.is_locked() {
                let outcome = lock.poll(shared());
                assert!(matches!(outcome, Acquire::OwnerDied(_)), "{outcome:?}");
            }
            for depth in 1..3 {
                assert!(lock.try_acquire(shared()));
                assert_eq!(lock.depth(), depth);
            }
            assert_eq!(lock.release(shared()), Ok(()));
            assert_eq!(lock.release(shared()), Ok(()));
            assert!(!lock.is_locked());
        },
    );
}

#[test]
fn a_burial_of_a_locks_owner() {
    let _alone = alone();
    let lock = new::<Lock>();
    die_everywhere_in(
        || {
            die_by("lock.changed:kill", || {
                assert!(lock.try_acquire(shared()));
            });
        },
        |()| {
            let outcome = lock.poll(shared());
            assert!(matches!(outcome, Acquire::OwnerDied(_)), "{outcome:?}");
            assert!(!lock.is_locked());
        },
        |(), _| takes(&lock),
    );
}

/// Who ends in the regular way leaves its locks taken.
#[test]
fn locks_disowned() {
    let _alone = alone();
    let before = census();
    die_everywhere_in(
        || (new::<Lock>(), new::<RLock>()),
        |(lock, reentrant)| {
            assert!(lock.try_acquire(shared()) && reentrant.try_acquire(shared()));
            disown();
        },
        |(lock, reentrant), child| {
            let died = |outcome| matches!(outcome, Acquire::OwnerDied(_));
            let outcomes = [
                lock.acquire(shared(), at_once(), &Uninterruptible),
                reentrant.acquire(shared(), at_once(), &Uninterruptible),
            ];
            // Taken by nobody, or free: nothing was lost. A dead owner is found once.
            for outcome in outcomes {
                assert!(child == Child::Killed || outcome == Acquire::TimedOut);
                assert!(outcome != Acquire::Interrupted);
            }
            if died(outcomes[0]) {
                takes(&lock);
            }
        },
    );
    assert_eq!(census(), before);
}

/// Private memory dies with its process.
#[test]
fn a_wait_in_private_memory() {
    let _alone = alone();
    let lock = Lock::default();
    assert!(lock.try_acquire(Storage::Private));
    let wait = || lock.acquire(Storage::Private, at_once(), &Uninterruptible);
    // Another thread's: a child's lock would be its dead parent's.
    die_everywhere(
        || {
            let _ = wait();
        },
        |_| {
            assert_eq!(wait(), Acquire::TimedOut);
            assert_eq!(lock.waiters(Storage::Private), 0);
        },
    );
    assert_eq!(lock.release(Storage::Private), Ok(()));
}

fn wait(condition: &Condition, waiting: Waiting) -> Notified {
    condition.wait(shared(), waiting, at_once(), &Uninterruptible)
}

/// The list works for who comes, whoever died in it, and its memory comes back.
fn waits(condition: &Condition) {
    condition.bury_dead(shared());
    assert_eq!(condition.waiters(shared()), 0);
    let waiting = [enter(condition), enter(condition)];
    assert_eq!(condition.waiters(shared()), 2);
    assert_eq!(condition.notify(shared(), 1), 1);
    let told = waiting.map(|it| wait(condition, it));
    assert_eq!(told, [Notified::Yes, Notified::TimedOut]);
    assert_eq!(condition.waiters(shared()), 0);
}

#[test]
fn a_place_of_an_earlier_waiter_taken() {
    let _alone = alone();
    let before = census();
    die_everywhere_in(
        || {
            let condition = new::<Condition>();
            let waiting = [enter(&condition), enter(&condition)];
            let _ = waiting.map(|it| wait(&condition, it));
            condition
        },
        |condition| {
            let waiting = [enter(condition), enter(condition)];
            let _ = waiting.map(|it| wait(condition, it));
        },
        |condition, _| {
            waits(&condition);
            drop(condition);
            assert_eq!(census(), before);
        },
    );
}

/// More places than are kept.
#[test]
fn a_place_given_back() {
    let _alone = alone();
    let before = census();
    die_everywhere_in(
        || {
            let condition = new::<Condition>();
            let mut waiting: Vec<_> = (0..65).map(|_| enter(&condition)).collect();
            let last = waiting.pop();
            for it in waiting {
                let _ = wait(&condition, it);
            }
            (condition, last)
        },
        |(condition, last)| {
            // In its parent's stead.
            let _ = wait(condition, last.take().expect("one"));
        },
        |(condition, last), child| {
            if child == Child::Killed {
                let _ = wait(&condition, last.expect("one"));
            }
            waits(&condition);
            drop(condition);
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn a_list_of_waiters_dropped() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let (condition, barrier) = (new::<Condition>(), new::<Barrier>());
            let waiting = [(); 3].map(|()| enter(&condition));
            let _ = waiting.map(|it| wait(&condition, it));
            let _ = enter(&condition);
            let _ = enter(&condition);
            drop((condition, barrier));
        },
        |_| assert_eq!(census(), before),
    );
}

/// Whoever mends a list is killed at it, too.
#[test]
fn a_list_of_waiters_mended() {
    let _alone = alone();
    for step in [
        "waiter.enter.linked",
        "waiter.enter.prepared",
        "waiter.leave.in_hand",
        "waiter.leave.unlinked",
        "spare.prepared",
    ] {
        let before = census();
        die_everywhere_in(
            || {
                let condition = new::<Condition>();
                die_by(&format!("{step}:kill"), || {
                    let _ = wait(&condition, enter(&condition));
                });
                condition
            },
            |condition| condition.bury_dead(shared()),
            |condition, _| {
                waits(&condition);
                drop(condition);
                assert_eq!(census(), before);
            },
        );
    }
}

/// Whoever mends a side of a queue is killed at it, too.
#[test]
fn a_queue_mended() {
    let _alone = alone();
    let before = census();
    for (step, times, was_put) in [("side.staged", 1, 0), ("side.committed", 1, 1)] {
        die_everywhere_in(
            || {
                let queue = new::<Queue>();
                die_by(&format!("{step}:kill:{times}"), || {
                    let _ = put(&queue, b"first");
                });
                queue
            },
            |queue| assert_eq!(put(queue, b"second"), Put::Done),
            |queue, _| {
                assert_eq!(put(&queue, b"third"), Put::Done);
                let all = [&b"first"[..], b"second", b"third"];
                let there = queue.len() as usize;
                let mut got: Vec<_> = (0..there).filter_map(|_| get(&queue)).collect();
                assert_eq!(got.len(), there);
                assert_eq!(got.pop().as_deref(), Some(all[2]));
                let wanted = &all[1 - was_put..][..got.len()];
                assert_eq!(got, wanted);
                drop(queue);
                assert_eq!(census(), before);
            },
        );
    }
}

#[test]
fn a_claim_mended() {
    let _alone = alone();
    let before = census();
    for step in ["claim.staged", "claim.committed", "claim.written"] {
        die_everywhere_in(
            || {
                let (queue, seat) = (new::<Queue>(), new::<Seat>());
                put_task(&queue, 1, false);
                put_task(&queue, 3, false);
                die_by(&format!("{step}:kill"), || {
                    let _ = claim_task(&queue, &seat);
                });
                (queue, seat)
            },
            |(queue, _)| queue.settle_claims(shared()),
            |(queue, seat), _| {
                queue.settle_claims(shared());
                let is_taken = step != "claim.staged";
                assert_eq!(seat.task(), is_taken.then_some(1));
                if !is_taken {
                    assert_eq!(get_number(&queue), Some(1));
                }
                assert_eq!(get_number(&queue), Some(3));
                assert_eq!(get_number(&queue), None);
                drop((queue, seat));
                assert_eq!(census(), before);
            },
        );
    }
}

/// The cycles' numbers go in a circle.
#[test]
fn a_barrier_of_many_cycles() {
    let _alone = alone();
    die_everywhere_in(
        || {
            let barrier = new::<Barrier>();
            barrier.initialize(1);
            barrier.skip_cycles(u32::MAX / 3);
            barrier
        },
        |barrier| {
            let outcome = barrier.wait(shared(), false, None, &Uninterruptible);
            assert_eq!(outcome, BarrierWait::Passed(0));
            barrier.reset(shared());
        },
        |barrier, _| {
            // Broken, or as before.
            let outcome = barrier.wait(shared(), false, None, &Uninterruptible);
            assert!(matches!(
                outcome,
                BarrierWait::Passed(0) | BarrierWait::Broken
            ));
            barrier.reset(shared());
            let outcome = barrier.wait(shared(), false, None, &Uninterruptible);
            assert_eq!(outcome, BarrierWait::Passed(0));
        },
    );
}

#[test]
fn an_event_set_and_cleared() {
    let _alone = alone();
    let event = new::<Event>();
    die_everywhere(
        || {
            event.clear();
            let outcome = event.wait(shared(), at_once(), &Uninterruptible);
            assert_eq!(outcome, EventWait::TimedOut);
            event.set(shared());
        },
        |child| {
            assert!(child == Child::Killed || event.is_set());
            event.set(shared());
            let outcome = event.wait(shared(), None, &Uninterruptible);
            assert_eq!(outcome, EventWait::Set);
            event.clear();
            assert!(!event.is_set());
        },
    );
}

/// Who was killed before it woke those who sleep: they find out by themselves.
#[test]
fn wakers_that_die_before_they_wake() {
    let _alone = alone();
    let (event, semaphore, queue) = (new::<Event>(), new::<Semaphore>(), new::<Queue>());
    thread::scope(|threads| {
        threads.spawn(|| {
            let outcome = event.wait(shared(), None, &Uninterruptible);
            assert_eq!(outcome, EventWait::Set);
            let outcome = semaphore.acquire(shared(), None, &Uninterruptible);
            assert_eq!(outcome, SemaphoreAcquire::Acquired);
            let patience = Patience::Until(None);
            let read = |_, message: &[u8]| message.to_vec();
            let got = queue.get(shared(), patience, &Uninterruptible, read);
            assert_eq!(got, Get::Got(b"there".to_vec()));
        });
        die_by("event.set:kill", || event.set(shared()));
        assert!(comes_true(|| semaphore.waiters(shared()) == 1));
        die_by("semaphore.given:kill", || {
            let _ = semaphore.release(shared());
        });
        die_by("mutex.unlocked_with_fence:kill", || {
            let _ = put(&queue, b"there");
        });
    });
}

#[test]
fn messages_reported_done() {
    let _alone = alone();
    die_everywhere_in(
        || {
            let queue = new::<Queue>();
            for _ in 0..2 {
                assert_eq!(put(&queue, b"work"), Put::Done);
            }
            queue
        },
        |queue| {
            for _ in 0..2 {
                assert!(get(queue).is_some());
                assert_eq!(queue.report_done(shared()), Ok(()));
            }
        },
        |queue, _| {
            assert!(queue.unfinished() >= queue.len());
            // One that was taken and not done is done by nobody, unless somebody knows.
            assert!(queue.unfinished() <= queue.len() + 1);
            while get(&queue).is_some() {}
            for _ in 0..queue.unfinished() {
                assert_eq!(queue.report_done(shared()), Ok(()));
            }
            assert_eq!(queue.report_done(shared()), Err(TooManyDone));
            assert_eq!(queue.join(shared(), &Uninterruptible), Join::Done);
        },
    );
}

#[test]
fn a_bell_heard_and_rung() {
    let _alone = alone();
    let soon = || Patience::Until(at_once());
    let read = |_, message: &[u8]| message.to_vec();
    let get_soon = |queue: &Queue| queue.get(shared(), soon(), &Uninterruptible, read);
    die_everywhere_in(
        || {
            let queue = new::<Queue>();
            assert_eq!(get_soon(&queue), Get::Empty);
            queue
        },
        |queue| {
            // Rings for its parent, then listens itself.
            assert_eq!(put(queue, b"rung"), Put::Done);
            assert!(get(queue).is_some());
            assert_eq!(get_soon(queue), Get::Empty);
        },
        |queue, _| {
            assert!(queue.len() <= 1);
            while get(&queue).is_some() {}
            assert_eq!(get_soon(&queue), Get::Empty);
            assert_eq!(put(&queue, b"again"), Put::Done);
            assert_eq!(get_soon(&queue), Get::Got(b"again".to_vec()));
        },
    );
}

#[test]
fn a_seat_used() {
    let _alone = alone();
    die_everywhere_in(
        || {
            let (queue, seat) = (new::<Queue>(), new::<Seat>());
            put_task(&queue, 1, false);
            (queue, seat)
        },
        |(queue, seat)| {
            seat.set_ready();
            assert_eq!(claim_task(queue, seat), Some(1));
            seat.clear();
        },
        |(queue, seat), child| {
            queue.settle_claims(shared());
            assert!(child == Child::Killed || seat.is_ready());
            // In the queue, in the seat, or done.
            let is_queued = queue.len() == 1;
            assert!(!is_queued || seat.task().is_none());
            assert!(seat.task().is_none_or(|task| task == 1));
            assert!(!is_queued || get_number(&queue) == Some(1));
        },
    );
}

/// Slots are reserved, adopted, taken and named.
#[test]
fn slots_taken() {
    let _alone = alone();
    let before = census();
    let mut kept = Vec::new();
    die_everywhere(
        || {
            kept.push(new::<Lock>());
            let child = family().reserve().expect("there are enough");
            assert!(family().reap(child));
            before_fork();
            after_fork_in_child();
            name_process("somebody");
            // With none reserved.
            after_fork_in_child();
        },
        |_| {
            assert_eq!(census(), before);
            let token = family().reserve().expect("there are enough");
            assert!(family().processes().is_reserved(token));
            assert!(family().reap(token));
            assert_eq!(census(), before);
        },
    );
}

/// A message whose blob is gone, as if somebody had overwritten its name.
#[test]
fn a_blob_that_is_gone() {
    let _alone = alone();
    let before = census();
    let get_it =
        |queue: &Queue| queue.get_with_blob(shared(), Patience::None, &Uninterruptible, |_, _| ());
    die_everywhere_in(
        || {
            let queue = new::<Queue>();
            let blob = filled(1);
            let name: BlobName = blob.name();
            assert_eq!(put_blob(&queue, blob), Put::Done);
            assert_eq!(name.discard(family()), None);
            queue
        },
        |queue| assert!(matches!(get_it(queue), Get::Corrupted)),
        |queue, _| {
            assert!(queue.is_empty() || matches!(get_it(&queue), Get::Corrupted));
            assert_eq!(put(&queue, b"next"), Put::Done);
            assert_eq!(get(&queue).as_deref(), Some(&b"next"[..]));
            drop(queue);
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn a_file_that_grows() {
    let _alone = alone();
    let before = census();
    // Larger than the largest extent that there is.
    let length = 1 << (19 + family().extent_count());
    for steps in each_step() {
        let child = die_at(steps, || drop(blob(length)));
        let _told = Told(steps);
        assert_eq!(census(), before);
        drop(blob(1000));
        // The rest is the same for each word of a long bitmap.
        if child == Child::Finished || steps > 99 {
            break;
        }
    }
    assert_eq!(census(), before);
}

#[test]
fn a_run_that_does_not_exist_is_not_freed() {
    let _alone = alone();
    let before = census();
    let seat = new::<Seat>();
    assert!(!family().free_linked(Entry::Whenever, Run::at(64), seat.claim(), 7));
    assert_eq!(seat.task(), None);
    drop(seat);
    assert_eq!(census(), before);
}

/// Much is written, through the file and then through the mapping, and pages are given back.
#[test]
fn pages_written_and_given_back() {
    let _alone = alone();
    let before = census();
    die_everywhere_in(
        || {
            // What was written through the file is forgotten.
            let _ = family().trim_in_full();
        },
        |()| {
            let mut blob = blob(100_000);
            for byte in 1..3 {
                blob.write(0, &vec![byte; 100_000]);
                assert_eq!(first_byte(&blob), byte);
            }
            drop(blob);
            let _ = family().trim_in_full();
        },
        |(), _| {
            assert_eq!(census(), before);
            let (idle, exactly) = family().trim_in_full();
            assert_eq!(idle, exactly);
        },
    );
}

/// All in which somebody is killed at each step.
const SCENARIOS: &[fn()] = &[
    objects_made_and_dropped,
    an_object_with_memory_of_its_own_dropped,
    a_blob_put,
    a_blob_got,
    a_queue_with_blobs_dropped,
    a_queue_with_blobs_left_by_a_consumer,
    a_queue_dropped_whose_memory_is_used_again,
    a_blob_put_before_a_plain_message,
    a_reaper,
    a_put,
    a_get,
    a_task_claimed,
    a_wait_list_entered_and_left,
    a_notification,
    an_inheritance,
    a_notification_to_the_dead,
    a_borrowed_permit_that_is_polled_for,
    a_permit_borrowed_and_given_back,
    a_dead_borrower_buried,
    a_wait_that_times_out,
    a_lock_whose_owner_died_buried,
    a_barrier_left_to_a_timeout,
    a_barriers_last_party,
    a_lock_taken_and_released,
    a_reentrant_lock_taken_and_released,
    a_burial_of_a_locks_owner,
    locks_disowned,
    a_wait_in_private_memory,
    a_place_of_an_earlier_waiter_taken,
    a_place_given_back,
    a_list_of_waiters_dropped,
    a_list_of_waiters_mended,
    a_queue_mended,
    a_claim_mended,
    a_barrier_of_many_cycles,
    an_event_set_and_cleared,
    messages_reported_done,
    a_bell_heard_and_rung,
    a_seat_used,
    slots_taken,
    a_blob_that_is_gone,
    a_file_that_grows,
    a_run_that_does_not_exist_is_not_freed,
    pages_written_and_given_back,
    cargo::a_message_with_objects_put,
    cargo::a_message_with_objects_got,
    cargo::a_queue_with_queues_dropped,
    cargo::an_object_carried_and_kept,
    cargo::a_cargo_overwritten,
];

/// Each step that there is, some scenario is killed at.
#[test]
fn every_step_is_somebodys_last() {
    let reached = survey(SCENARIOS);
    let is_missed = |name: &&&str| !reached.contains(name);
    let missed: Vec<_> = faults::names().iter().filter(is_missed).collect();
    assert!(missed.is_empty(), "no scenario is killed at {missed:?}");
}
