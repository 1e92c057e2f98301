// SPDX-License-Identifier: MIT
//! A process is killed at each step of each operation; the survivor mends what it left.
//!
//! What takes longer to prepare is in `tests/every_step.rs`, which also finds a step at which nobody
//! is killed.

use core::time::Duration;
use std::thread;

use super::faults;
use super::testing::{
    Child, NEVER, alone, arm, die_at, die_by, die_everywhere, each_step, is_survey, only_stop,
    start,
};
use crate::deadline::Deadline;
use crate::family::Family;
use crate::futex::{FutexWord, Scope};
use crate::park::{Park, Parked, Uninterruptible};
use crate::pool::Seat;
use crate::primitive::{AtomicU32, Ordering};
use crate::queue::{Attempt, Get, Patience, Put, Queue};
use crate::storage::{Blob, Object, Shareable, Storage, Unavailable};
use crate::sync::{
    Acquire, Barrier, BarrierWait, Condition, Lock, Notified, Semaphore, SemaphoreAcquire, Waiting,
};

mod cargo;
mod every_step;

fn family() -> &'static Family {
    Family::home().expect("memory files are to be had")
}

fn shared() -> Storage {
    Storage::Shared(family())
}

fn new<T: Shareable>() -> Object<T> {
    Object::new(shared()).expect("there is memory")
}

/// Objects, slots, bytes; the dead's left out.
fn census() -> (usize, usize, u64) {
    family().reap_dead();
    let slots = family().processes().iter().count();
    (family().object_count(), slots, family().bytes_taken())
}

fn put(queue: &Queue, message: &[u8]) -> Put {
    queue.put(shared(), 0, &[message], Patience::None, &Uninterruptible)
}

fn get(queue: &Queue) -> Option<Vec<u8>> {
    let read = |_, message: &[u8]| message.to_vec();
    match queue.get(shared(), Patience::None, &Uninterruptible, read) {
        Get::Got(message) => Some(message),
        _ => None,
    }
}

#[test]
fn objects_made_and_dropped() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let first = new::<Lock>();
            let second = new::<Queue>();
            drop(first);
            drop(second);
        },
        |_| assert_eq!(census(), before),
    );
}

#[test]
fn an_object_with_memory_of_its_own_dropped() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let queue = new::<Queue>();
            for length in [10, 5000, 10, 70_000] {
                assert_eq!(put(&queue, &vec![1; length]), Put::Done);
            }
            drop(queue);
        },
        |_| assert_eq!(census(), before),
    );
}

fn blob(length: usize) -> Blob {
    Blob::new(family(), length).expect("memory")
}

fn put_blob(queue: &Queue, blob: Blob) -> Put {
    let message: [&[u8]; 1] = [b"with a blob"];
    let put = queue.put_with_blob(
        shared(),
        0,
        &message,
        blob,
        Patience::None,
        &Uninterruptible,
    );
    put.0
}

fn get_blob(queue: &Queue) -> Option<Blob> {
    let read = |_, message: &[u8]| assert_eq!(message, b"with a blob");
    match queue.get_with_blob(shared(), Patience::None, &Uninterruptible, read) {
        Get::Got(((), blob)) => Some(blob.expect("it came with one")),
        _ => None,
    }
}

fn filled(byte: u8) -> Blob {
    let mut blob = blob(1000);
    blob.write(0, &[byte; 1000]);
    blob
}

fn first_byte(blob: &Blob) -> u8 {
    // SAFETY: it is that long, and nobody writes to it any more.
    unsafe { blob.as_ptr().read() }
}

#[test]
fn a_blob_put() {
    let _alone = alone();
    let before = census();
    let queue = new::<Queue>();
    die_everywhere(
        || {
            for byte in 0..3 {
                assert_eq!(put_blob(&queue, filled(byte)), Put::Done);
            }
        },
        |child| {
            let there = queue.len();
            assert!(there <= 3 && (child == Child::Killed || there == 3));
            assert_eq!(put_blob(&queue, filled(99)), Put::Done);
            for byte in (0..3).take(there as usize).chain([99]) {
                assert_eq!(get_blob(&queue).map(|blob| first_byte(&blob)), Some(byte));
            }
            assert!(get_blob(&queue).is_none());
            // Only the queue is left.
            assert_eq!(census().0, before.0 + 1);
        },
    );
    drop(queue);
    assert_eq!(census(), before);
}

#[test]
fn a_blob_got() {
    let _alone = alone();
    let before = census();
    let queue = new::<Queue>();
    let fill = || {
        for byte in 0..4 {
            assert_eq!(put_blob(&queue, filled(byte)), Put::Done);
        }
    };
    fill();
    die_everywhere(
        || {
            let _kept = [0, 1, 2].map(|byte| {
                let blob = get_blob(&queue).expect("there are enough");
                assert_eq!(first_byte(&blob), byte);
                blob
            });
        },
        |_| {
            let left = u8::try_from(queue.len()).expect("few");
            // What the dead had taken is free, what they hadn't is there.
            assert_eq!(census().0, before.0 + 1 + left as usize);
            for byte in 4 - left..4 {
                assert_eq!(get_blob(&queue).map(|blob| first_byte(&blob)), Some(byte));
            }
            assert!(get_blob(&queue).is_none());
            assert_eq!(census().0, before.0 + 1);
            fill();
        },
    );
    drop(queue);
    assert_eq!(census(), before);
}

#[test]
fn a_queue_with_blobs_dropped() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let queue = new::<Queue>();
            for byte in 0..3 {
                assert_eq!(put_blob(&queue, filled(byte)), Put::Done);
            }
            drop(queue);
        },
        |_| assert_eq!(census(), before),
    );
}

/// Whose last user is killed as a consumer.
#[test]
fn a_queue_with_blobs_left_by_a_consumer() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let queue = new::<Queue>();
            for byte in 0..4 {
                assert_eq!(put_blob(&queue, filled(byte)), Put::Done);
            }
            drop(get_blob(&queue));
            drop(get_blob(&queue));
            drop(queue);
        },
        |_| assert_eq!(census(), before),
    );
}

/// A queue that is freed twice, for the first who did it was killed: what the second finds where
/// the queue's segments were may be another's.
#[test]
fn a_queue_dropped_whose_memory_is_used_again() {
    let _alone = alone();
    let before = census();
    let fill = |queue: &Queue| {
        assert_eq!(put(queue, b"first"), Put::Done);
        for byte in 0..4 {
            assert_eq!(put_blob(queue, filled(byte)), Put::Done);
        }
        assert!(get(queue).is_some());
    };
    // Made before: then its first segment gets the place of the other's, which is freed.
    let mut other = Some(new::<Queue>());
    die_everywhere(
        || {
            let queue = new::<Queue>();
            fill(&queue);
            drop(queue);
        },
        |_| {
            let filled = other.take().expect("made for this time");
            fill(&filled);
            family().reap_dead();
            for byte in 0..4 {
                assert_eq!(get_blob(&filled).map(|blob| first_byte(&blob)), Some(byte));
            }
            drop(filled);
            assert_eq!(census(), before);
            other = Some(new::<Queue>());
        },
    );
}

/// What a dead producer left is put right before the next one, which needs no memory, changes the
/// count that tells whether it was done.
#[test]
fn a_blob_put_before_a_plain_message() {
    let _alone = alone();
    let before = census();
    for steps in each_step() {
        let queue = new::<Queue>();
        // Whatever segment is needed is there.
        assert_eq!(put(&queue, b"first"), Put::Done);
        let producer = die_at(steps, || assert_eq!(put_blob(&queue, filled(1)), Put::Done));
        assert_eq!(put(&queue, b"plain"), Put::Done);
        assert_eq!(get(&queue).as_deref(), Some(&b"first"[..]));
        if queue.len() == 2 {
            assert_eq!(get_blob(&queue).map(|blob| first_byte(&blob)), Some(1));
        }
        assert_eq!(get(&queue).as_deref(), Some(&b"plain"[..]));
        // Neither the dead's nor the family's, for ever.
        assert_eq!(census().0, before.0 + 1, "killed at step {steps}");
        drop(queue);
        if producer == Child::Finished {
            break;
        }
    }
    assert_eq!(census(), before);
}

/// A child killed at any step of a reaper's work, which it does for another that was killed.
#[test]
fn a_reaper() {
    let _alone = alone();
    let before = census();
    for steps in each_step() {
        let reaper = die_at(NEVER, || {
            let mut kept = Vec::new();
            die_by("side.staged:kill:3", || {
                kept.push(new::<Queue>());
                kept.push(new::<Queue>());
                loop {
                    let _ = put(&kept[0], b"x");
                }
            });
            arm(steps);
            family().reap_dead();
        });
        let after = census();
        assert_eq!((after.0, after.1), (before.0, before.1));
        if reaper == Child::Finished {
            return;
        }
    }
}

#[test]
fn a_put() {
    let _alone = alone();
    for length in [10, 3000, 9000] {
        let queue = new::<Queue>();
        die_everywhere(
            || {
                // Three, so that one of them needs a new segment in some child.
                for number in 0..3_u8 {
                    assert_eq!(put(&queue, &vec![number; length]), Put::Done);
                }
            },
            |child| {
                // What was committed is there, whole and in order; then the survivor puts.
                let there = queue.len();
                assert!(there <= 3 && (child == Child::Killed || there == 3));
                assert_eq!(put(&queue, &vec![99; length]), Put::Done);
                for number in (0..3).take(there as usize).chain([99]) {
                    assert_eq!(get(&queue), Some(vec![number; length]));
                }
                assert_eq!(get(&queue), None);
            },
        );
    }
}

#[test]
fn a_get() {
    let _alone = alone();
    for length in [10, 3000, 9000] {
        let queue = new::<Queue>();
        for number in 0..4 {
            assert_eq!(put(&queue, &vec![number; length]), Put::Done);
        }
        die_everywhere(
            || {
                for number in 0..3_u8 {
                    assert_eq!(get(&queue), Some(vec![number; length]));
                }
            },
            |_| {
                // Taken from the front, each in full or not at all.
                let left = u8::try_from(queue.len()).expect("few");
                for number in 4 - left..4 {
                    assert_eq!(get(&queue), Some(vec![number; length]));
                }
                assert_eq!(get(&queue), None);
                for number in 0..4 {
                    assert_eq!(put(&queue, &vec![number; length]), Put::Done);
                }
            },
        );
        drop(queue);
    }
}

/// A task on its way: its number, and whether it comes with a blob.
fn put_task(queue: &Queue, number: u64, has_blob: bool) {
    let message = number.to_le_bytes();
    let outcome = if has_blob {
        let blob = filled(1);
        let message: [&[u8]; 1] = [&message];
        let patience = Patience::None;
        let put = queue.put_with_blob(shared(), 0, &message, blob, patience, &Uninterruptible);
        put.0
    } else {
        put(queue, &message)
    };
    assert_eq!(outcome, Put::Done);
}

fn claim_task(queue: &Queue, seat: &Seat) -> Option<u64> {
    let read = |_, message: &[u8]| Ok(u64::from_le_bytes(message.try_into().expect("a number")));
    let patience = Patience::None;
    match queue.get_claimed(
        shared(),
        Some(seat.claim()),
        patience,
        &Uninterruptible,
        read,
    ) {
        Get::Got((number, blob)) => {
            assert_eq!(blob.is_some(), number % 2 == 0);
            Some(number)
        }
        _ => None,
    }
}

#[test]
fn a_task_claimed() {
    let _alone = alone();
    let before = census();
    let queue = new::<Queue>();
    let seat = new::<Seat>();
    let fill = || {
        for number in 1..=4 {
            put_task(&queue, number, number % 2 == 0);
        }
    };
    fill();
    die_everywhere(
        || {
            for number in 1..=4 {
                assert_eq!(claim_task(&queue, &seat), Some(number));
                assert_eq!(seat.task(), Some(number));
            }
        },
        |child| {
            queue.settle_claims(shared());
            let taken = 4 - u64::from(queue.len());
            assert!(child == Child::Killed || taken == 4);
            // What isn't in the queue was taken one by one, and the seat has the last of it.
            assert_eq!(seat.task().unwrap_or(0), taken);
            for number in taken + 1..=4 {
                assert_eq!(get_number(&queue), Some(number));
            }
            assert_eq!(get_number(&queue), None);
            seat.clear();
            fill();
        },
    );
    drop((queue, seat));
    assert_eq!(census(), before);
}

fn get_number(queue: &Queue) -> Option<u64> {
    get(queue).map(|message| u64::from_le_bytes(message.try_into().expect("a number")))
}

fn at_once() -> Option<Deadline> {
    Deadline::after(Duration::ZERO)
}

fn enter(condition: &Condition) -> Waiting {
    condition.enter(shared()).expect("memory")
}

#[test]
fn a_wait_list_entered_and_left() {
    let _alone = alone();
    let condition = new::<Condition>();
    let wait = |waiting| condition.wait(shared(), waiting, at_once(), &Uninterruptible);
    let mut early = Some(enter(&condition));
    die_everywhere(
        || {
            let (first, second) = (enter(&condition), enter(&condition));
            let _ = wait(first);
            let _ = wait(second);
        },
        |_| {
            // The dead are still in the list, and may count as told.
            let late = enter(&condition);
            assert!((2..=4).contains(&condition.notify(shared(), usize::MAX)));
            for living in early.replace(enter(&condition)).into_iter().chain([late]) {
                assert_eq!(wait(living), Notified::Yes);
            }
            assert_eq!(condition.waiters(shared()), 1);
        },
    );
}

#[test]
fn a_notification() {
    let _alone = alone();
    let condition = new::<Condition>();
    let enter_three = || [(); 3].map(|()| enter(&condition));
    let mut waiting = enter_three();
    die_everywhere(
        || {
            condition.notify(shared(), 2);
        },
        |child| {
            let last = core::mem::replace(&mut waiting, enter_three());
            let told =
                last.map(|waiting| condition.wait(shared(), waiting, at_once(), &Uninterruptible));
            let all = [Notified::Yes, Notified::Yes, Notified::TimedOut];
            let order = told.iter().filter(|&&told| told == Notified::Yes).count();
            assert!(told.iter().take(order).all(|&told| told == Notified::Yes));
            assert!(order <= 2 && (child == Child::Killed || told == all));
            assert_eq!(condition.waiters(shared()), 3);
        },
    );
}

/// The dead leave what they were told to one heir each, wherever those die who see to it.
#[test]
fn an_inheritance() {
    let _alone = alone();
    let condition = new::<Condition>();
    let wait = |waiting| condition.wait(shared(), waiting, at_once(), &Uninterruptible);
    for steps in each_step() {
        let dead = die_at(NEVER, || {
            let _ = enter(&condition);
            let _ = enter(&condition);
        });
        assert_eq!(dead, Child::Finished);
        let heirs = [(); 3].map(|()| enter(&condition));
        assert_eq!(condition.notify(shared(), 2), 2);
        let undertaker = die_at(steps, || condition.bury_dead(shared()));
        condition.bury_dead(shared());
        let told = heirs.map(wait);
        assert_eq!(
            told,
            [Notified::Yes, Notified::Yes, Notified::TimedOut],
            "killed at step {steps}"
        );
        assert_eq!(condition.waiters(shared()), 0);
        if undertaker == Child::Finished {
            return;
        }
    }
}

/// One of the heirs is dead, too.
#[test]
fn an_inheritance_of_the_dead() {
    let _alone = alone();
    let condition = new::<Condition>();
    let dead = die_at(NEVER, || {
        let _ = enter(&condition);
        let _ = enter(&condition);
    });
    assert_eq!(dead, Child::Finished);
    let survivor = enter(&condition);
    assert_eq!(condition.notify(shared(), 1), 1);
    condition.bury_dead(shared());
    let told = condition.wait(shared(), survivor, at_once(), &Uninterruptible);
    assert_eq!(told, Notified::Yes);
}

/// What a waiter was told before the notifier died reaches one that waited then.
#[test]
fn a_notification_to_the_dead() {
    let _alone = alone();
    let condition = new::<Condition>();
    let mut left_to_inherit = 0;
    for steps in each_step() {
        let dead = die_at(NEVER, || drop(enter(&condition)));
        assert_eq!(dead, Child::Finished);
        let survivor = enter(&condition);
        let notifier = die_at(steps, || {
            condition.notify(shared(), 2);
        });
        match condition.waiters(shared()) {
            // It told nobody: then the dead is told by another one.
            2 => assert_eq!(condition.notify(shared(), 1), 1),
            waiting => left_to_inherit += waiting,
        }
        condition.bury_dead(shared());
        let told = condition.wait(shared(), survivor, at_once(), &Uninterruptible);
        assert_eq!(told, Notified::Yes, "killed at step {steps}");
        if notifier == Child::Finished {
            assert!(
                is_survey() || left_to_inherit > 0,
                "none was killed between the two"
            );
            return;
        }
    }
}

/// Also for those who acquire and poll, and never borrow.
#[test]
fn a_borrowed_permit_that_is_polled_for() {
    let _alone = alone();
    for steps in each_step() {
        let semaphore = new::<Semaphore>();
        semaphore.initialize(1, false);
        let child = die_at(steps, || {
            assert!(semaphore.try_borrow(shared()));
            assert!(semaphore.try_give_back(shared()));
        });
        let soon = Deadline::after(Duration::from_secs(5));
        let outcome = semaphore.acquire(shared(), soon, &Uninterruptible);
        assert_eq!(
            outcome,
            SemaphoreAcquire::Acquired,
            "killed at step {steps}"
        );
        assert!(!semaphore.poll(shared()));
        if child == Child::Finished {
            return;
        }
    }
}

/// Wherever it is stopped, those who don't borrow take and give permits and give up in time: they
/// waited for the one who was stopped entering a loan, whatever their timeout.
#[test]
fn a_borrower_that_is_stopped() {
    let _alone = alone();
    for steps in each_step() {
        let semaphore = new::<Semaphore>();
        semaphore.initialize(1, true);
        // So that there is a record: memory is allocated under a mutex of the whole family.
        assert!(semaphore.try_borrow(shared()) && semaphore.try_give_back(shared()));
        let borrower = start(steps, || {
            only_stop();
            assert!(semaphore.try_borrow(shared()));
            assert!(semaphore.try_give_back(shared()));
        });
        if !borrower.has_stopped() {
            assert!(steps > 0, "there was no step to be stopped at");
            return;
        }
        let other = die_at(NEVER, || {
            for _ in 0..2 {
                let is_free = semaphore.poll(shared());
                assert!(!is_free || semaphore.release(shared()).is_ok());
                let outcome = semaphore.acquire(shared(), at_once(), &Uninterruptible);
                let expected = [SemaphoreAcquire::TimedOut, SemaphoreAcquire::Acquired];
                assert_eq!(outcome, expected[usize::from(is_free)]);
                assert!(!is_free || semaphore.release(shared()).is_ok());
                assert_eq!(semaphore.value(), u32::from(is_free));
            }
        });
        borrower.go_on();
        assert_eq!(
            (borrower.wait(), other),
            (Child::Finished, Child::Finished),
            "stopped at step {steps}"
        );
        assert_eq!(semaphore.value(), 1);
    }
}

/// No permit is lost or doubled wherever a borrower dies.
#[test]
fn a_permit_borrowed_and_given_back() {
    let _alone = alone();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(2, false);
    die_everywhere(
        || {
            for _ in 0..2 {
                assert!(semaphore.try_borrow(shared()));
                assert!(semaphore.try_borrow(shared()));
                assert_eq!(semaphore.give_back(shared()), Ok(()));
                assert_eq!(semaphore.give_back(shared()), Ok(()));
            }
        },
        |_| {
            // Whoever needs the mutex next completes what the dead had begun.
            let _ = semaphore.borrow(shared(), &Uninterruptible);
            family().reap_dead();
            assert_eq!(semaphore.value(), 1);
            assert_eq!(semaphore.give_back(shared()), Ok(()));
            assert_eq!(semaphore.value(), 2);
        },
    );
}

#[test]
fn a_dead_borrower_buried() {
    let _alone = alone();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(2, true);
    for steps in each_step() {
        let undertaker = die_at(NEVER, || {
            let borrower = die_at(NEVER, || {
                assert!(semaphore.try_borrow(shared()));
                assert!(semaphore.try_borrow(shared()));
            });
            assert_eq!(borrower, Child::Finished);
            arm(steps);
            assert_eq!(semaphore.bury_dead(shared(), Duration::ZERO), 2);
        });
        for _ in 0..2 {
            let outcome = semaphore.borrow(shared(), &Uninterruptible);
            assert_eq!(outcome, SemaphoreAcquire::Acquired);
        }
        assert!(!semaphore.try_acquire());
        assert_eq!(semaphore.give_back(shared()), Ok(()));
        assert_eq!(semaphore.give_back(shared()), Ok(()));
        if undertaker == Child::Finished {
            return;
        }
    }
}

/// Whoever is counted as waiting lives.
#[test]
fn a_wait_that_times_out() {
    let _alone = alone();
    let before = census();
    let (lock, semaphore) = (new::<Lock>(), new::<Semaphore>());
    assert!(lock.try_acquire(shared()));
    let wait = || {
        let outcome = lock.acquire(shared(), at_once(), &Uninterruptible);
        assert_eq!(outcome, Acquire::TimedOut);
        let outcome = semaphore.acquire(shared(), at_once(), &Uninterruptible);
        assert_eq!(outcome, SemaphoreAcquire::TimedOut);
    };
    die_everywhere(wait, |_| {
        // The kernel may be asked again only after a while.
        assert!(comes_true(|| lock.waiters(shared()) == 0));
        assert!(comes_true(|| semaphore.waiters(shared()) == 0));
        wait();
        assert_eq!(lock.waiters(shared()), 0);
        assert_eq!(semaphore.waiters(shared()), 0);
    });
    drop((lock, semaphore));
    let after = census();
    assert_eq!(after, before);
}

#[test]
fn a_lock_whose_owner_died_buried() {
    let _alone = alone();
    let lock = new::<Lock>();
    die_everywhere(
        || {
            // The first child to come here has nothing to bury: it is the one to be buried.
            if lock.try_acquire(shared()) {
                return;
            }
            let outcome = lock.acquire(shared(), None, &Uninterruptible);
            assert!(matches!(outcome, Acquire::OwnerDied(_)));
            assert!(lock.try_acquire(shared()));
        },
        |_| {
            // Held by a child that has ended, or freed by the one that was burying.
            if lock.is_locked() {
                let outcome = lock.acquire(shared(), None, &Uninterruptible);
                assert!(matches!(outcome, Acquire::OwnerDied(_)), "{outcome:?}");
            }
            assert!(lock.try_acquire(shared()));
            assert_eq!(lock.release(shared()), Ok(()));
            // The next one finds a dead owner.
            die_by("lock.changed:kill", || {
                assert!(lock.try_acquire(shared()));
            });
            assert!(lock.is_locked());
        },
    );
}

#[test]
fn a_barrier_left_to_a_timeout() {
    let _alone = alone();
    let barrier = new::<Barrier>();
    barrier.initialize(2);
    die_everywhere(
        || {
            let _ = barrier.wait(shared(), false, at_once(), &Uninterruptible);
        },
        |_| {
            family().reap_dead();
            barrier.reset(shared());
            assert!(!barrier.is_broken());
            assert_eq!(barrier.waiting(shared()), 0);
        },
    );
}

/// The last party of a cycle was killed when it had told some of the others, but not all, that
/// the cycle is complete; the rest waited for ever.
#[test]
fn a_barriers_last_party() {
    let _alone = alone();
    for has_action in [false, true] {
        for steps in each_step() {
            if last_party_dies_at(steps, has_action) == Child::Finished {
                assert!(steps > 2, "there were no steps to be killed at");
                break;
            }
        }
    }
}

fn last_party_dies_at(steps: u32, has_action: bool) -> Child {
    let barrier = new::<Barrier>();
    barrier.initialize(3);
    let wait = || {
        let outcome = barrier.wait(shared(), has_action, None, &Uninterruptible);
        match outcome {
            BarrierWait::RunAction(turn) => {
                let _ = barrier.finish(shared(), &turn, true);
            }
            BarrierWait::Passed(_) | BarrierWait::Broken => {}
            BarrierWait::Interrupted | BarrierWait::OutOfMemory => panic!("{outcome:?}"),
        }
    };
    let ended = AtomicU32::new(0);
    let (child, is_over) = thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                wait();
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        assert!(comes_true(|| barrier.waiting(shared()) == 2));
        let child = die_at(steps, wait);
        // Both have ended, or will when they look around, or nobody has arrived.
        let is_over = comes_true(|| {
            let waiting = barrier.waiting(shared());
            barrier.is_broken() || waiting == 2 || ended.load(Ordering::SeqCst) == 2
        });
        barrier.abort(shared());
        (child, is_over)
    });
    assert!(is_over, "some wait for ever; killed at step {steps}");
    barrier.reset(shared());
    assert!(!barrier.is_broken());
    child
}

/// Gives up after longer than a survivor needs to look around.
fn comes_true(mut is_true: impl FnMut() -> bool) -> bool {
    let end = Deadline::after(Duration::from_secs(10)).expect("soon");
    while !is_true() {
        if end.has_passed() {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Never sleeps.
struct GivingUp;

impl Park for GivingUp {
    fn park(
        &self,
        _word: &impl FutexWord,
        _expected: u32,
        _scope: Scope,
        _deadline: Option<Deadline>,
    ) -> Parked {
        Parked::Interrupted
    }
}

const FOR_EVER: Patience = Patience::Until(None);

/// Somebody is stopped anywhere in a change of shared memory. Who puts or gets meanwhile says so at
/// once, waits as it was told to, and does it when that one goes on.
#[test]
fn a_stopped_process_keeps_nobody_from_giving_up() {
    let _alone = alone();
    let before = census();
    let mut times_busy = 0;
    for steps in each_step() {
        // Its first message needs memory.
        let fresh = new::<Queue>();
        // Its second message ends the use of a segment.
        let full = new::<Queue>();
        for length in [4000, 5000, 10] {
            assert_eq!(put(&full, &vec![1; length]), Put::Done);
        }
        assert!(get(&full).is_some());
        let laden = new::<Queue>();
        assert_eq!(put_blob(&laden, filled(7)), Put::Done);
        assert_eq!(put(&laden, b"plain"), Put::Done);
        let (mut blob, dropped) = (Some(filled(8)), new::<Queue>());
        let child = start(NEVER, || {
            let lock = new::<Lock>();
            only_stop();
            arm(steps);
            drop(lock);
            drop(filled(1));
        });
        let has_stopped = child.has_stopped();
        let try_get = || laden.try_get_with_blob(shared(), |_, message| message.to_vec());
        let try_put = || fresh.try_put(shared(), 3, &[b"first"]);
        drop(dropped);
        let mut made = [Object::<Lock>::try_new(shared()).ok(), None];
        let is_busy = made[0].is_none();
        times_busy += u32::from(is_busy);
        let mut got = None;
        if is_busy {
            assert_eq!(
                Blob::try_new(family(), 1000, &[]).err(),
                Some(Unavailable::Busy)
            );
            assert_eq!(try_put(), Attempt::WouldWait);
            let outcome = fresh.put(shared(), 3, &[b"first"], FOR_EVER, &GivingUp);
            assert_eq!(outcome, Put::Interrupted);
            let given = blob.take().expect("not given yet");
            let message: [&[u8]; 1] = [b"with a blob"];
            let outcome = fresh.put_with_blob(shared(), 0, &message, given, FOR_EVER, &GivingUp);
            assert_eq!(outcome.0, Put::Interrupted);
            blob = outcome.1;
            assert!(matches!(try_get(), Attempt::WouldWait));
            let outcome = laden.get_with_blob(shared(), FOR_EVER, &GivingUp, |_, _| ());
            assert!(matches!(outcome, Get::Interrupted));
            let soon = Deadline::after(Duration::from_millis(1));
            let parked = shared().await_entry(&Uninterruptible, soon);
            assert_eq!(parked, Parked::TimedOut);
            assert_eq!((fresh.len(), laden.len()), (0, 2));
        } else {
            assert_eq!(try_put(), Attempt::Ended(Put::Done));
            got = Some(try_get());
        }
        // A message is taken whether or not its segment can be freed now.
        let read = |_, message: &[u8]| message.len();
        let taken = full.try_get(shared(), read);
        assert_eq!(taken, Attempt::Ended(Get::Got(5000)));
        if has_stopped {
            child.go_on();
            assert_eq!(child.wait(), Child::Finished);
        }
        if is_busy {
            assert_eq!(try_put(), Attempt::Ended(Put::Done));
            got = Some(try_get());
            made[1] = Object::try_new(shared()).ok();
            assert!(made[1].is_some());
        }
        match got {
            Some(Attempt::Ended(Get::Got((message, Some(blob))))) => {
                assert_eq!(message, b"with a blob");
                assert_eq!(first_byte(&blob), 7);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(get(&laden).as_deref(), Some(&b"plain"[..]));
        assert_eq!(put_blob(&fresh, blob.expect("it came back")), Put::Done);
        assert_eq!(get(&fresh).as_deref(), Some(&b"first"[..]));
        assert_eq!(get_blob(&fresh).map(|blob| first_byte(&blob)), Some(8));
        assert_eq!(get(&full), Some(vec![1; 10]));
        drop((fresh, full, laden, made));
        assert_eq!(census(), before, "stopped at step {steps}");
        if !has_stopped {
            break;
        }
    }
    assert!(times_busy > 5, "{times_busy}");
}

/// Segments that couldn't be freed are freed with the next message that is taken.
#[test]
fn a_segment_that_could_not_be_freed_is_freed_later() {
    let _alone = alone();
    let queue = new::<Queue>();
    let empty = census();
    for length in [4000, 5000, 10, 10] {
        assert_eq!(put(&queue, &vec![1; length]), Put::Done);
    }
    assert!(get(&queue).is_some());
    let one = census().2;
    let child = start(NEVER, || {
        faults::arm("intent.declared:stop").expect("well described");
        drop(new::<Lock>());
    });
    assert!(child.has_stopped());
    assert!(Object::<Lock>::try_new(shared()).is_err());
    assert_eq!(
        queue.try_get(shared(), |_, message| message.len()),
        Attempt::Ended(Get::Got(5000))
    );
    child.go_on();
    assert_eq!(child.wait(), Child::Finished);
    assert_eq!(census().2, one);
    assert_eq!(get(&queue).map(|message| message.len()), Some(10));
    assert!(census().2 < one);
    drop(queue);
    assert!(census().2 < empty.2);
}
