// SPDX-License-Identifier: MIT
//! Processes that share memory, and what is left when one of them is killed.
#![cfg(not(loom))]

mod support;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use freethreading_core::family::{Family, FamilyError};
use freethreading_core::park::Uninterruptible;
use freethreading_core::queue::{Get, Patience, Put, Queue};
use freethreading_core::storage::handle::{self, HandleError, Purpose};
use freethreading_core::storage::{Blob, Object, Shareable, Storage, Token};
use freethreading_core::sync::{
    Acquire, Barrier, BarrierWait, Condition, Event, EventWait, Lock, Notified, RLock, Semaphore,
    SemaphoreAcquire,
};
use support::{Child, Random, alone, at_once, check, exit_child, shared, soon, until};

const FOREVER: Patience = Patience::Until(None);

fn family() -> &'static Family {
    Family::home().expect("memory files are to be had")
}

fn new<T: Shareable>() -> Object<T> {
    Object::new(shared()).expect("there is memory")
}

fn queue(capacity: u32) -> Object<Queue> {
    let queue = new::<Queue>();
    queue.initialize(capacity);
    queue
}

/// In a child: waits until it is killed.
fn wait_for_the_end() -> ! {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn wait_set(event: &Event) {
    assert_eq!(event.wait(shared(), None, &Uninterruptible), EventWait::Set);
}

/// What there is in the family's memory, the dead's left out.
fn census() -> (usize, u64, usize) {
    family().reap_dead();
    let slots = family().processes().iter().count();
    (family().object_count(), family().bytes_taken(), slots)
}

#[test]
fn a_killed_childs_slot_is_reused_and_its_references_are_gone() {
    let _alone = alone();
    let ready = new::<Event>();
    let before = census();
    for _ in 0..5 {
        let child = Child::fork(|| {
            let locks: Vec<Object<Lock>> = (0..50).map(|_| new()).collect();
            let queue = queue(0);
            for length in [1, 5000, 200_000] {
                let message = vec![1; length];
                let outcome = queue.put(shared(), 0, &[&message], FOREVER, &Uninterruptible);
                check(outcome == Put::Done, 1);
            }
            check(locks.iter().all(|lock| lock.try_acquire(shared())), 2);
            ready.set(shared());
            wait_for_the_end();
        });
        wait_set(&ready);
        ready.clear();
        assert_eq!(family().object_count(), before.0 + 51);
        assert_eq!(family().processes().iter().count(), before.2 + 1);
        child.kill_and_wait();
        assert_eq!(census(), before);
    }
}

#[test]
fn every_waiter_is_told_that_a_locks_owner_died() {
    let _alone = alone();
    let (lock, ready) = (new::<Lock>(), new::<Event>());
    for _ in 0..3 {
        let owner = Child::fork(|| {
            check(lock.try_acquire(shared()), 1);
            ready.set(shared());
            wait_for_the_end();
        });
        wait_set(&ready);
        ready.clear();
        let token = lock.owner().expect("held");
        let died = Acquire::OwnerDied(Some(token));
        let other = Child::fork(|| {
            check(lock.acquire(shared(), None, &Uninterruptible) == died, 2);
        });
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    assert_eq!(lock.acquire(shared(), None, &Uninterruptible), died);
                });
            }
            until(|| lock.waiters(shared()) == 4);
            assert_eq!(
                family().processes().process(token).map(|owner| owner.pid),
                Some(owner.pid())
            );
            owner.kill_and_wait();
        });
        assert_eq!(other.wait(), Some(0));
        assert!(!lock.is_locked());
        assert!(lock.try_acquire(shared()));
        assert_eq!(lock.release(shared()), Ok(()));
    }
}

#[test]
fn a_waiter_that_died_is_not_counted() {
    let _alone = alone();
    let before = census();
    let (lock, semaphore) = (new::<Lock>(), new::<Semaphore>());
    assert!(lock.try_acquire(shared()));
    for round in 0..3 {
        let at_lock = Child::fork(|| {
            let _ = lock.acquire(shared(), None, &Uninterruptible);
        });
        let at_semaphore = Child::fork(|| {
            let _ = semaphore.acquire(shared(), None, &Uninterruptible);
        });
        until(|| lock.waiters(shared()) == 1 && semaphore.waiters(shared()) == 1);
        at_lock.kill_and_wait();
        at_semaphore.kill_and_wait();
        until(|| lock.waiters(shared()) == 0 && semaphore.waiters(shared()) == 0);
        // Their records are taken over.
        family().reap_dead();
        if round == 0 {
            assert_eq!(census().0, before.0 + 2);
        }
    }
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let outcome = lock.acquire(shared(), None, &Uninterruptible);
                assert_eq!(outcome, Acquire::Acquired);
                assert_eq!(lock.release(shared()), Ok(()));
            });
        }
        until(|| lock.waiters(shared()) == 2);
        assert_eq!(lock.release(shared()), Ok(()));
    });
    assert_eq!(lock.waiters(shared()), 0);
    drop((lock, semaphore));
    assert_eq!(census(), before);
}

#[test]
fn an_owners_death_is_noticed_by_short_timeouts_and_by_rlocks() {
    let _alone = alone();
    let (lock, ready) = (new::<RLock>(), new::<Event>());
    let owner = Child::fork(|| {
        check(lock.try_acquire(shared()) && lock.try_acquire(shared()), 1);
        ready.set(shared());
        wait_for_the_end();
    });
    wait_set(&ready);
    assert_eq!(
        lock.acquire(shared(), soon(), &Uninterruptible),
        Acquire::TimedOut
    );
    owner.kill_and_wait();
    until(|| match lock.acquire(shared(), soon(), &Uninterruptible) {
        // Seen alive a moment ago.
        Acquire::TimedOut => false,
        outcome => {
            assert!(
                matches!(outcome, Acquire::OwnerDied(Some(_))),
                "{outcome:?}"
            );
            true
        }
    });
    assert!(!lock.is_held(shared()));
    assert!(lock.try_acquire(shared()));
    assert_eq!(lock.depth(), 1);
    assert_eq!(lock.release(shared()), Ok(()));
}

#[test]
fn an_owner_that_is_alive_and_slow_keeps_its_lock() {
    let _alone = alone();
    let (lock, ready, go) = (new::<Lock>(), new::<Event>(), new::<Event>());
    let owner = Child::fork(|| {
        check(lock.try_acquire(shared()), 1);
        ready.set(shared());
        check(
            go.wait(shared(), None, &Uninterruptible) == EventWait::Set,
            2,
        );
        check(lock.release(shared()).is_ok(), 3);
    });
    wait_set(&ready);
    // Longer than a heartbeat.
    let deadline = freethreading_core::deadline::Deadline::after(Duration::from_millis(700));
    assert_eq!(
        lock.acquire(shared(), deadline, &Uninterruptible),
        Acquire::TimedOut
    );
    go.set(shared());
    assert_eq!(
        lock.acquire(shared(), None, &Uninterruptible),
        Acquire::Acquired
    );
    assert_eq!(owner.wait(), Some(0));
}

#[test]
fn a_lock_that_a_process_left_on_purpose_stays_taken() {
    let _alone = alone();
    let (lock, rlock) = (new::<Lock>(), new::<RLock>());
    let child = Child::fork(|| {
        check(lock.try_acquire(shared()) && rlock.try_acquire(shared()), 1);
        freethreading_core::family::disown();
    });
    assert_eq!(child.wait(), Some(0));
    family().reap_dead();
    for _ in 0..2 {
        let outcome = lock.acquire(shared(), soon(), &Uninterruptible);
        assert_eq!(outcome, Acquire::TimedOut);
        let outcome = rlock.acquire(shared(), soon(), &Uninterruptible);
        assert_eq!(outcome, Acquire::TimedOut);
    }
    assert_eq!(lock.release(shared()), Ok(()));
    assert!(lock.try_acquire(shared()));
}

#[test]
fn a_killed_waiter_swallows_no_notification() {
    let _alone = alone();
    let before = census();
    let condition = new::<Condition>();
    let child = Child::fork(|| {
        let waiting = condition.enter(shared()).unwrap_or_else(|_| exit_child(1));
        let _ = condition.wait(shared(), waiting, None, &Uninterruptible);
    });
    until(|| condition.waiters(shared()) == 1);
    thread::scope(|threads| {
        threads.spawn(|| {
            let waiting = condition.enter(shared()).expect("memory");
            let outcome = condition.wait(shared(), waiting, None, &Uninterruptible);
            assert_eq!(outcome, Notified::Yes);
        });
        until(|| condition.waiters(shared()) == 2);
        child.kill_and_wait();
        assert_eq!(condition.notify(shared(), 1), 1);
    });
    assert_eq!(condition.waiters(shared()), 0);
    drop(condition);
    assert_eq!(census(), before);
}

/// A waiter that is killed before it sleeps, or after it was told, can't be known to be dead by
/// who notifies; so it is left to those who wait to find its notification.
#[test]
fn what_a_killed_waiter_was_told_goes_to_one_that_waited_then() {
    let _alone = alone();
    let before = census();
    let condition = new::<Condition>();
    let enter = || condition.enter(shared()).expect("memory");
    let wait = |waiting, deadline| condition.wait(shared(), waiting, deadline, &Uninterruptible);
    let child = Child::fork(|| {
        let _ = condition.enter(shared());
    });
    assert_eq!(child.wait(), Some(0));
    let heir = enter();
    assert_eq!(condition.notify(shared(), 1), 1);
    let late = enter();
    thread::scope(|threads| {
        threads.spawn(|| assert_eq!(wait(heir, None), Notified::Yes));
    });
    assert_eq!(wait(late, at_once()), Notified::TimedOut);
    drop(condition);
    assert_eq!(census(), before);
}

#[test]
fn borrowed_permits_come_back_when_the_borrower_dies() {
    let _alone = alone();
    let before = census();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(3, true);
    let event = new::<Event>();
    let child = Child::fork(|| {
        check(semaphore.try_borrow(shared()), 1);
        check(semaphore.try_borrow(shared()), 2);
        check(semaphore.try_acquire(), 3);
        event.set(shared());
        loop {
            thread::park();
        }
    });
    assert_eq!(event.wait(shared(), None, &Uninterruptible), EventWait::Set);
    assert_eq!(semaphore.value(), 0);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| semaphore.borrow(shared(), &Uninterruptible));
        until(|| semaphore.waiters(shared()) == 1);
        child.kill_and_wait();
        let outcome = waiter.join().expect("no panic");
        assert_eq!(outcome, SemaphoreAcquire::Acquired);
    });
    // The plain one doesn't, for nobody knows whose it is.
    assert_eq!(semaphore.value(), 1);
    assert_eq!(semaphore.give_back(shared()), Ok(()));
    assert_eq!(semaphore.value(), 2);
    drop((semaphore, event));
    assert_eq!(census(), before);
}

#[test]
fn reaping_brings_borrowed_permits_back() {
    let _alone = alone();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(1, false);
    let child = Child::fork(|| check(semaphore.try_borrow(shared()), 1));
    assert_eq!(child.wait(), Some(0));
    assert_eq!(semaphore.value(), 0);
    family().reap_dead();
    assert_eq!(semaphore.value(), 1);
}

#[test]
fn those_who_poll_find_the_dead() {
    let _alone = alone();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(1, false);
    let lock = new::<Lock>();
    let rlock = new::<RLock>();
    let child = Child::fork(|| {
        check(semaphore.try_borrow(shared()), 1);
        check(lock.try_acquire(shared()), 2);
        check(rlock.try_acquire(shared()), 3);
    });
    assert_eq!(child.wait(), Some(0));
    until(|| semaphore.poll(shared()));
    let died = |outcome| match outcome {
        Acquire::OwnerDied(_) => true,
        other => {
            assert_eq!(other, Acquire::TimedOut);
            false
        }
    };
    until(|| died(lock.poll(shared())));
    until(|| died(rlock.poll(shared())));
    assert_eq!(lock.poll(shared()), Acquire::Acquired);
    assert_eq!(rlock.poll(shared()), Acquire::Acquired);
    assert_eq!(rlock.poll(shared()), Acquire::Acquired);
    assert_eq!(rlock.depth(), 2);
}

/// A block that the living have left is not called back when they die.
#[test]
fn what_was_given_back_stays_given_back() {
    let _alone = alone();
    let semaphore = new::<Semaphore>();
    semaphore.initialize(1, false);
    let child = Child::fork(|| {
        for _ in 0..3 {
            check(semaphore.try_borrow(shared()), 1);
            check(semaphore.give_back(shared()).is_ok(), 2);
        }
    });
    assert_eq!(child.wait(), Some(0));
    family().reap_dead();
    assert_eq!(semaphore.value(), 1);
    assert!(semaphore.try_borrow(shared()));
    assert_eq!(semaphore.release(shared()), Ok(()));
    // Nothing was taken, but the block ends.
    assert_eq!(semaphore.give_back(shared()), Ok(()));
    assert_eq!(semaphore.give_back(shared()), Ok(()));
    assert_eq!(semaphore.value(), 3);
}

#[test]
fn a_barrier_breaks_when_one_that_waits_is_killed() {
    let _alone = alone();
    let barrier = new::<Barrier>();
    barrier.initialize(3);
    let child = Child::fork(|| {
        let _ = barrier.wait(shared(), false, None, &Uninterruptible);
    });
    until(|| barrier.waiting(shared()) == 1);
    thread::scope(|threads| {
        threads.spawn(|| {
            let outcome = barrier.wait(shared(), false, None, &Uninterruptible);
            assert_eq!(outcome, BarrierWait::Broken);
        });
        until(|| barrier.waiting(shared()) == 2);
        child.kill_and_wait();
    });
    assert!(barrier.is_broken());
    barrier.reset(shared());
    assert_eq!(barrier.waiting(shared()), 0);
}

#[test]
fn a_barrier_breaks_when_the_one_that_runs_its_action_is_killed() {
    let _alone = alone();
    let barrier = new::<Barrier>();
    barrier.initialize(2);
    thread::scope(|threads| {
        threads.spawn(|| {
            let outcome = barrier.wait(shared(), true, None, &Uninterruptible);
            assert_eq!(outcome, BarrierWait::Broken);
        });
        until(|| barrier.waiting(shared()) == 1);
        let child = Child::fork(|| {
            if let BarrierWait::RunAction(_) = barrier.wait(shared(), true, None, &Uninterruptible)
            {
                wait_for_the_end();
            }
        });
        until(|| barrier.waiting(shared()) == 0);
        child.kill_and_wait();
    });
    assert!(barrier.is_broken());
}

#[test]
fn a_child_keeps_what_its_parent_drops_right_after_the_fork() {
    let _alone = alone();
    let (go, done) = (new::<Event>(), new::<Event>());
    let before = census();
    let lock = new::<Lock>();
    let handle = handle::encode(&lock, Purpose::Trial);
    let child = Child::fork(|| {
        check(
            go.wait(shared(), None, &Uninterruptible) == EventWait::Set,
            1,
        );
        let other = new::<Lock>();
        check(other.identity() != lock.identity(), 2);
        check(lock.try_acquire(shared()), 3);
        check(!other.is_locked(), 4);
        // A handle works, too.
        let again = handle::decode::<Lock>(&handle);
        check(again.is_ok_and(|again| again.is_locked()), 5);
        done.set(shared());
        wait_for_the_end();
    });
    drop(lock);
    assert_eq!(family().object_count(), before.0 + 1);
    go.set(shared());
    wait_set(&done);
    child.kill_and_wait();
    assert_eq!(census(), before);
    assert!(handle::decode::<Lock>(&handle).is_err());
}

#[test]
fn what_is_held_for_a_child_that_never_comes_is_given_up() {
    let _alone = alone();
    let before = census();
    let token = family().reserve().expect("there is room");
    let lock = new::<Lock>();
    let handle = handle::encode(&lock, Purpose::NewProcess(token));
    drop(lock);
    assert_eq!(family().reap_dead(), 0, "a slow child isn't a dead one");
    assert_eq!(family().object_count(), before.0 + 1);
    assert!(family().reap(token));
    assert!(!family().reap(token));
    assert!(family().processes().is_gone(token));
    // Too late: nothing is held for a process that was given up.
    let late = new::<Lock>();
    let _ = handle::encode(&late, Purpose::NewProcess(token));
    drop(late);
    assert_eq!(census(), before);
    assert!(matches!(
        handle::decode::<Lock>(&handle),
        Err(HandleError::Stale)
    ));
}

#[test]
fn a_living_process_is_not_reaped() {
    let _alone = alone();
    let ready = new::<Event>();
    let child = Child::fork(|| {
        ready.set(shared());
        wait_for_the_end();
    });
    wait_set(&ready);
    for token in family().processes().iter() {
        assert!(!family().reap(token));
    }
    for bits in [1, 1024, 1023, 1 << 30, (1 << 31) - 1] {
        assert!(!family().reap(Token::from_bits(bits).expect("31 bits")));
    }
    child.kill_and_wait();
    assert_eq!(family().reap_dead(), 1);
}

#[test]
fn a_fork_without_hooks_takes_nothing_away_from_the_parent() {
    let _alone = alone();
    let lock = new::<Lock>();
    let handle = handle::encode(&lock, Purpose::Trial);
    let before = census();
    // SAFETY: the child drops an object and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(lock);
        exit_child(0);
    }
    let mut status = 0;
    // SAFETY: status is a local.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(census(), before);
    assert!(handle::decode::<Lock>(&handle).is_ok());
    drop(lock);
}

/// What other threads made and dropped between `before_fork` and the fork was held, or not
/// held, in the child's name by mistake.
#[test]
fn forks_while_other_threads_make_and_drop_objects_leave_nothing() {
    let _alone = alone();
    let before = census();
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let queue = queue(0);
                let outcome = queue.put(shared(), 0, &[b"x"], FOREVER, &Uninterruptible);
                assert_eq!(outcome, Put::Done);
            }
        });
        for round in 0..60 {
            let child = Child::fork(|| {
                if round % 2 == 0 {
                    wait_for_the_end();
                }
            });
            if round % 2 == 0 {
                child.kill_and_wait();
            } else {
                assert_eq!(child.wait(), Some(0));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    // A child killed before it took its reserved slot is known to be dead by its parent only,
    // which names no slot here: the slots that are left are those.
    let stuck: Vec<Token> = family().processes().iter().collect();
    for token in stuck {
        family().reap(token);
    }
    assert_eq!(census(), before);
}

#[test]
fn processes_killed_while_they_allocate_leave_the_memory_whole() {
    let _alone = alone();
    let ready = new::<Event>();
    let before = census();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..300 {
        let child = Child::fork(|| {
            ready.set(shared());
            loop {
                let kept: [Object<RLock>; 3] = [new(), new(), new()];
                let gone = new::<Semaphore>();
                drop(gone);
                drop(kept);
            }
        });
        wait_set(&ready);
        ready.clear();
        random.spin(Duration::from_micros(200));
        child.kill_and_wait();
        // The parent uses the same mutex, and finds it abandoned now and then.
        drop(new::<Lock>());
    }
    assert_eq!(census(), before);
}

/// Message `number`, of a length that crosses segments now and then.
fn message(number: u32) -> Vec<u8> {
    let length = 4 + (number as usize * 37) % if number % 16 == 0 { 9000 } else { 300 };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length, number.to_le_bytes()[0]);
    bytes
}

/// What message `number` has in a blob beside it, if anything.
fn blob(number: u32) -> Option<Blob> {
    (number % 3 == 0).then(|| {
        let bytes = vec![number.to_le_bytes()[0]; BLOB];
        let mut blob = Blob::new(family(), BLOB).expect("memory");
        blob.write(0, &bytes);
        blob
    })
}

const BLOB: usize = 20_000;

/// As many as a quick run has time for.
const KILLS: u32 = 300;

fn put_message(queue: &Queue, number: u32) -> Put {
    let message = message(number);
    let (head, tail) = message.split_at(4);
    let parts = [head, tail];
    match blob(number) {
        None => queue.put(shared(), 0, &parts, FOREVER, &Uninterruptible),
        Some(blob) => {
            queue
                .put_with_blob(shared(), 0, &parts, blob, FOREVER, &Uninterruptible)
                .0
        }
    }
}

/// Checks what was got.
fn number_of(bytes: &[u8], blob: Option<&Blob>) -> u32 {
    let number = u32::from_le_bytes(bytes[..4].try_into().expect("four"));
    assert_eq!(bytes, message(number), "a torn message");
    assert_eq!(blob.is_some(), number % 3 == 0, "a blob is lost");
    if let Some(blob) = blob {
        assert!(blob.capacity() >= BLOB);
        // SAFETY: it was filled so far before it was put, and is ours alone.
        let bytes = unsafe { std::slice::from_raw_parts(blob.as_ptr().as_ptr(), BLOB) };
        assert!(
            bytes.iter().all(|&byte| byte == number.to_le_bytes()[0]),
            "a torn blob"
        );
    }
    number
}

fn get(queue: &Queue, patience: Patience) -> Option<u32> {
    let read = |_, bytes: &[u8]| bytes.to_vec();
    match queue.get_with_blob(shared(), patience, &Uninterruptible, read) {
        Get::Got((bytes, blob)) => Some(number_of(&bytes, blob.as_ref())),
        Get::Empty => None,
        other => panic!("{other:?}"),
    }
}

fn producers_are_killed(capacity: u32, kills: u32) {
    let _alone = alone();
    let mut random = Random(42 + u64::from(capacity));
    let before = census();
    {
        let queue = queue(capacity);
        for _ in 0..kills {
            let completed = new::<Semaphore>();
            let producer = Child::fork(|| {
                for number in 0.. {
                    check(put_message(&queue, number) == Put::Done, 1);
                    let _ = completed.release(shared());
                }
            });
            let mut expected = 0;
            for _ in 0..random.below(40) {
                assert_eq!(get(&queue, FOREVER), Some(expected));
                expected += 1;
            }
            random.spin(Duration::from_micros(300));
            producer.kill_and_wait();
            while let Some(number) = get(&queue, Patience::None) {
                assert_eq!(number, expected);
                expected += 1;
            }
            let completed = completed.value();
            assert!(
                (completed..=completed + 1).contains(&expected),
                "{completed} {expected}"
            );
            assert!(queue.is_empty());
        }
    }
    assert_eq!(census(), before);
}

#[test]
fn a_queue_survives_its_producers() {
    producers_are_killed(0, KILLS);
}

#[test]
fn a_bounded_queue_survives_its_producers() {
    producers_are_killed(3, KILLS);
}

#[test]
fn a_queue_survives_its_consumers() {
    consumers_are_killed(KILLS);
}

#[test]
#[ignore = "takes minutes: make stress"]
fn a_queue_survives_thousands_of_kills() {
    producers_are_killed(0, 10 * KILLS);
    producers_are_killed(3, 10 * KILLS);
    consumers_are_killed(10 * KILLS);
}

fn consumers_are_killed(kills: u32) {
    let _alone = alone();
    let mut random = Random(7);
    let before = census();
    {
        let (queue, results) = (queue(0), queue(0));
        let mut put = 0;
        let mut seen = HashSet::new();
        for _ in 0..kills {
            for _ in 0..50 {
                assert_eq!(put_message(&queue, put), Put::Done);
                put += 1;
            }
            let consumer = Child::fork(|| {
                loop {
                    let Some(number) = get(&queue, FOREVER) else {
                        exit_child(1)
                    };
                    check(put_message(&results, number) == Put::Done, 2);
                }
            });
            let mut last = None;
            let mut note = |number: u32| {
                assert!(last < Some(number), "out of order");
                assert!(seen.insert(number), "{number} came twice");
                last = Some(number);
            };
            for _ in 0..random.below(10) {
                note(get(&results, FOREVER).expect("it waits"));
            }
            random.spin(Duration::from_micros(200));
            consumer.kill_and_wait();
            while let Some(number) = get(&results, Patience::None) {
                note(number);
            }
        }
        let mut rest = Vec::new();
        while let Some(number) = get(&queue, Patience::None) {
            rest.push(number);
        }
        assert!(rest.is_sorted());
        assert!(rest.iter().all(|&number| seen.insert(number)));
        let lost = u64::from(put) - seen.len() as u64;
        assert!(lost <= u64::from(kills), "{lost} lost in {kills} kills");
    }
    assert_eq!(census(), before);
}

#[test]
fn two_consumers_share_a_queue_of_which_one_is_killed() {
    let _alone = alone();
    let mut random = Random(99);
    let queue = queue(2);
    let got = new::<Semaphore>();
    let mut put_in_all = 0;
    for _ in 0..100 {
        let stop = AtomicU32::new(u32::MAX);
        let victim = Child::fork(|| {
            while let Get::Got(()) = queue.get(shared(), FOREVER, &Uninterruptible, |_, _| ()) {
                let _ = got.release(shared());
            }
        });
        let mine = thread::scope(|threads| {
            let consumer = threads.spawn(|| {
                let mut mine = 0;
                while let Get::Got(tag) =
                    queue.get(shared(), FOREVER, &Uninterruptible, |tag, _| tag)
                {
                    if tag == stop.load(Ordering::Relaxed) {
                        break;
                    }
                    mine += 1;
                }
                mine
            });
            for _ in 0..random.below(60) {
                let outcome = queue.put(shared(), 1, &[b"x"], FOREVER, &Uninterruptible);
                assert_eq!(outcome, Put::Done);
                put_in_all += 1;
            }
            random.spin(Duration::from_micros(100));
            victim.kill_and_wait();
            let stop = queue.put(shared(), u32::MAX, &[], FOREVER, &Uninterruptible);
            assert_eq!(stop, Put::Done);
            consumer.join().expect("no panic")
        });
        let theirs = got.value();
        while got.try_acquire() {}
        put_in_all -= mine + theirs;
        assert!(put_in_all <= 1, "more lost than one was holding");
        put_in_all = 0;
        assert!(queue.is_empty());
    }
}

/// Run by other tests in a process of its own, told by the environment what to do there.
#[test]
fn in_a_process_of_its_own() {
    let Ok(task) = std::env::var("FREETHREADING_TEST_TASK") else {
        return;
    };
    let words: Vec<u64> = task
        .split(' ')
        .map(|word| word.parse().expect("numbers"))
        .collect();
    let [pid, fd, low, high, token, ref handle @ ..] = words[..] else {
        // Only a handle of a family that is about to end.
        let lock = new::<Lock>();
        let handle = handle::encode(&lock, Purpose::Anybody);
        std::fs::write(
            std::env::var("FREETHREADING_TEST_FILE").expect("given"),
            handle,
        )
        .expect("writable");
        return;
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/fd/{fd}"))
        .expect("our parent's");
    let token = Token::from_bits(u32::try_from(token).expect("31 bits"));
    let family = Family::join(OwnedFd::from(file), [low, high], token).expect("it exists");
    let handle: Vec<u8> = handle
        .iter()
        .map(|&byte| u8::try_from(byte).expect("a byte"))
        .collect();
    match handle::decode::<Lock>(&handle) {
        Ok(lock) => {
            assert_eq!(Some(family.me()), token);
            assert!(lock.try_acquire(lock.storage()));
        }
        Err(HandleError::Stale) => assert_ne!(Some(family.me()), token),
        Err(other) => panic!("{other}"),
    }
    // A second way to the same family is the same view of it.
    let pid = u32::try_from(pid).expect("an id");
    let fd = u32::try_from(fd).expect("a descriptor");
    let again = Family::join_through(pid, fd, [low, high]).expect("joined already");
    assert!(std::ptr::eq(family, again));
    let foreign = Family::join_through(pid, 0, [1, 2]);
    assert!(foreign.is_err());
}

fn run_in_process(task: &str, file: &str) {
    let status = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "in_a_process_of_its_own"])
        .env("FREETHREADING_TEST_TASK", task)
        .env("FREETHREADING_TEST_FILE", file)
        .status()
        .expect("it can be started");
    assert!(status.success());
}

fn task(token: Token, handle: &[u8]) -> String {
    let id = family().id();
    let mut words = vec![
        u64::from(std::process::id()),
        family().raw_fd().unsigned_abs().into(),
        id[0],
        id[1],
        token.bits().into(),
    ];
    words.extend(handle.iter().map(|&byte| u64::from(byte)));
    words
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_started_process_finds_what_was_dropped_before_it_came() {
    let _alone = alone();
    let before = census();
    let token = family().reserve().expect("there is room");
    let lock = new::<Lock>();
    let handle = handle::encode(&lock, Purpose::NewProcess(token));
    drop(lock);
    run_in_process(&task(token, &handle), "");
    assert_eq!(census(), before);
}

#[test]
fn a_process_that_was_given_up_joins_all_the_same() {
    let _alone = alone();
    let before = census();
    let token = family().reserve().expect("there is room");
    let lock = new::<Lock>();
    let handle = handle::encode(&lock, Purpose::NewProcess(token));
    drop(lock);
    assert!(family().reap(token));
    run_in_process(&task(token, &handle), "");
    assert_eq!(census(), before);
}

#[test]
fn a_handle_of_a_family_that_ended_is_an_error() {
    let path = std::env::temp_dir().join(format!("freethreading-{}", std::process::id()));
    let path = path.to_str().expect("plain");
    run_in_process("0", path);
    let handle = std::fs::read(path).expect("written");
    std::fs::remove_file(path).expect("ours");
    let error = handle::decode::<Lock>(&handle).err();
    assert!(matches!(error, Some(HandleError::NoFamily(_))), "{error:?}");
}

#[test]
fn a_file_that_is_no_family_is_not_joined() {
    let fd = std::fs::File::open("/dev/null").expect("it exists");
    let error = Family::join(OwnedFd::from(fd), [1, 2], None).err();
    assert!(matches!(error, Some(FamilyError::Foreign)), "{error:?}");
    let file = family()
        .file()
        .try_clone_to_owned()
        .expect("descriptors are left");
    let error = Family::join(file, [1, 2], None).err();
    assert!(matches!(error, Some(FamilyError::Foreign)), "{error:?}");
    for fd in 0..3 {
        let error = Family::join_through(std::process::id(), fd, [1, 2]).err();
        assert!(error.is_some());
    }
}

#[test]
fn storage_tells_the_dead_from_the_living() {
    let _alone = alone();
    let storage = shared();
    assert!(!storage.is_gone(storage.me()));
    assert!(!storage.is_known_gone(storage.me()));
    let never = Token::from_bits(0x1720).expect("31 bits");
    assert!(storage.is_known_gone(never));
    assert!(!Storage::Private.is_gone(Storage::Private.me()));
}

/// A private lock that another thread held when the process forked has no owner in the child.
#[test]
fn a_private_lock_of_a_thread_left_behind_is_found_ownerless() {
    let _alone = alone();
    let lock = Object::<Lock>::new(Storage::Private).expect("memory");
    thread::scope(|threads| {
        threads.spawn(|| assert!(lock.try_acquire(Storage::Private)));
    });
    let mine = Object::<Lock>::new(Storage::Private).expect("memory");
    assert!(mine.try_acquire(Storage::Private));
    let child = Child::fork(|| {
        let outcome = lock.acquire(Storage::Private, None, &Uninterruptible);
        check(matches!(outcome, Acquire::OwnerDied(_)), 1);
        check(lock.try_acquire(Storage::Private), 2);
        let outcome = mine.acquire(Storage::Private, soon(), &Uninterruptible);
        check(outcome == Acquire::TimedOut, 3);
        check(mine.release(Storage::Private).is_ok(), 4);
    });
    assert_eq!(child.wait(), Some(0));
    assert!(lock.is_locked() && mine.is_locked());
}
