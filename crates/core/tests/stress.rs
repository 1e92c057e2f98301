// SPDX-License-Identifier: MIT
//! Many threads, or threads of several processes, at once; exact counts at the end.
#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use freethreading_core::park::Uninterruptible;
use freethreading_core::queue::{Get, Join, Patience, Put, Queue};
use freethreading_core::storage::{Object, Shareable, Storage};
use freethreading_core::sync::{
    Acquire, Barrier, BarrierWait, Condition, Event, EventWait, Lock, Notified, RLock, Semaphore,
    SemaphoreAcquire,
};
use support::{Child, alone, check, shared};

const THREADS: u32 = 8;
const FOREVER: Patience = Patience::Until(None);

fn new<T: Shareable>(storage: Storage) -> Object<T> {
    Object::new(storage).expect("there is memory")
}

/// A counter that loses updates unless something keeps its users apart.
#[derive(Default)]
struct Unguarded(AtomicU64);

impl Unguarded {
    fn add_one(&self) {
        let value = self.0.load(Ordering::Relaxed);
        std::hint::spin_loop();
        self.0.store(value + 1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn on_threads(count: u32, action: impl Fn(u32) + Sync) {
    thread::scope(|threads| {
        for index in 0..count {
            let action = &action;
            threads.spawn(move || action(index));
        }
    });
}

fn locks_exclude(storage: Storage) {
    let (lock, count) = (new::<Lock>(storage), Unguarded::default());
    on_threads(THREADS, |_| {
        for _ in 0..5000 {
            let outcome = lock.acquire(storage, None, &Uninterruptible);
            assert_eq!(outcome, Acquire::Acquired);
            count.add_one();
            assert_eq!(lock.release(storage), Ok(()));
        }
    });
    assert_eq!(count.value(), u64::from(THREADS) * 5000);
    assert_eq!(lock.waiters(storage), 0);
}

fn rlocks_exclude(storage: Storage) {
    let (lock, count) = (new::<RLock>(storage), Unguarded::default());
    on_threads(THREADS, |_| {
        for round in 0..3000 {
            for _ in 0..=round % 3 {
                let outcome = lock.acquire(storage, None, &Uninterruptible);
                assert_eq!(outcome, Acquire::Acquired);
            }
            count.add_one();
            for _ in 0..=round % 3 {
                assert_eq!(lock.release(storage), Ok(()));
            }
        }
    });
    assert_eq!(count.value(), u64::from(THREADS) * 3000);
}

fn semaphores_bound(storage: Storage) {
    let (semaphore, inside) = (new::<Semaphore>(storage), AtomicU32::new(0));
    semaphore.initialize(3, true);
    on_threads(THREADS, |_| {
        for _ in 0..3000 {
            let outcome = semaphore.acquire(storage, None, &Uninterruptible);
            assert_eq!(outcome, SemaphoreAcquire::Acquired);
            assert!(inside.fetch_add(1, Ordering::Relaxed) < 3);
            inside.fetch_sub(1, Ordering::Relaxed);
            assert_eq!(semaphore.release(storage), Ok(()));
        }
    });
    assert_eq!(semaphore.value(), 3);
}

/// A waiter that was about to sleep when its mark was cleared, and the permit taken again by a
/// third, slept for ever.
fn one_permit_goes_round(storage: Storage) {
    for _ in 0..50 {
        let semaphore = new::<Semaphore>(storage);
        semaphore.initialize(1, false);
        on_threads(4, |_| {
            for _ in 0..300 {
                let outcome = semaphore.acquire(storage, None, &Uninterruptible);
                assert_eq!(outcome, SemaphoreAcquire::Acquired);
                std::thread::yield_now();
                assert_eq!(semaphore.release(storage), Ok(()));
            }
        });
        assert_eq!(semaphore.value(), 1);
    }
}

fn events_alternate(storage: Storage) {
    let (first, second) = (new::<Event>(storage), new::<Event>(storage));
    on_threads(2, |index| {
        let (mine, other) = if index == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        for _ in 0..3000 {
            if index == 0 {
                other.set(storage);
            }
            assert_eq!(mine.wait(storage, None, &Uninterruptible), EventWait::Set);
            mine.clear();
            if index == 1 {
                other.set(storage);
            }
        }
    });
}

fn conditions_lose_no_wake_up(storage: Storage) {
    let (lock, condition) = (new::<Lock>(storage), new::<Condition>(storage));
    let (items, rounds) = (Unguarded::default(), 4000);
    let with_lock = |action: &dyn Fn()| {
        assert_eq!(
            lock.acquire(storage, None, &Uninterruptible),
            Acquire::Acquired
        );
        action();
        assert_eq!(lock.release(storage), Ok(()));
    };
    on_threads(4, |index| {
        for _ in 0..rounds {
            with_lock(&|| {
                if index % 2 == 0 {
                    items.add_one();
                    condition.notify(storage, 1);
                    return;
                }
                while items.value() == 0 {
                    let waiting = condition.enter(storage).expect("memory");
                    assert_eq!(lock.release(storage), Ok(()));
                    let outcome = condition.wait(storage, waiting, None, &Uninterruptible);
                    assert_eq!(outcome, Notified::Yes);
                    let outcome = lock.acquire(storage, None, &Uninterruptible);
                    assert_eq!(outcome, Acquire::Acquired);
                }
                items.0.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(items.value(), 0);
    assert_eq!(condition.waiters(storage), 0);
}

fn barriers_keep_step(storage: Storage) {
    let (barrier, arrived) = (new::<Barrier>(storage), AtomicU32::new(0));
    barrier.initialize(4);
    on_threads(4, |_| {
        for cycle in 1..=1000 {
            arrived.fetch_add(1, Ordering::Relaxed);
            let outcome = barrier.wait(storage, false, None, &Uninterruptible);
            assert!(matches!(outcome, BarrierWait::Passed(_)));
            let seen = arrived.load(Ordering::Relaxed);
            assert!((cycle * 4..cycle * 4 + 4).contains(&seen));
        }
    });
}

/// Every message once, and those of one producer in order at each consumer.
fn queues_deliver(storage: Storage, capacity: u32) {
    let queue = new::<Queue>(storage);
    queue.initialize(capacity);
    let (producers, consumers, each) = (3, 3, 4000);
    let (sum, got) = (AtomicU64::new(0), AtomicU64::new(0));
    // Read and compared, so that a record that is seen too early is seen by the sanitizers, too.
    let bytes = |number: u32| vec![number.to_le_bytes()[0]; number as usize % 100];
    thread::scope(|threads| {
        let (queue, sum, got) = (&queue, &sum, &got);
        for _ in 0..consumers {
            threads.spawn(move || {
                let mut last = [None; 3];
                loop {
                    let read = |tag, message: &[u8]| (tag, message.to_vec());
                    let Get::Got((tag, message)) =
                        queue.get(storage, FOREVER, &Uninterruptible, read)
                    else {
                        panic!("it waits for ever");
                    };
                    assert_eq!(queue.report_done(storage), Ok(()));
                    if tag == u32::MAX {
                        break;
                    }
                    let (producer, number) = (tag as usize % 3, tag / 3);
                    assert_eq!(message, bytes(number));
                    assert!(last[producer] < Some(number));
                    last[producer] = Some(number);
                    sum.fetch_add(u64::from(number), Ordering::Relaxed);
                    got.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        on_threads(producers, |producer| {
            for number in 0..each {
                let (tag, message) = (number * 3 + producer, bytes(number));
                let outcome = queue.put(storage, tag, &[&message], FOREVER, &Uninterruptible);
                assert_eq!(outcome, Put::Done);
            }
        });
        assert_eq!(queue.join(storage, &Uninterruptible), Join::Done);
        for _ in 0..consumers {
            let outcome = queue.put(storage, u32::MAX, &[], FOREVER, &Uninterruptible);
            assert_eq!(outcome, Put::Done);
        }
    });
    let each = u64::from(each);
    assert_eq!(got.load(Ordering::Relaxed), each * 3);
    assert_eq!(sum.load(Ordering::Relaxed), each * (each - 1) / 2 * 3);
    assert_eq!(queue.unfinished(), 0);
}

macro_rules! on_both_storages {
    ($($name:ident => $case:expr;)*) => {
        mod private {
            use super::*;
            $(#[test] fn $name() { ($case)(Storage::Private); })*
        }
        mod shared_memory {
            use super::*;
            $(#[test] fn $name() { ($case)(shared()); })*
        }
    };
}

on_both_storages! {
    locks => locks_exclude;
    rlocks => rlocks_exclude;
    semaphores => semaphores_bound;
    one_permit => one_permit_goes_round;
    events => events_alternate;
    conditions => conditions_lose_no_wake_up;
    barriers => barriers_keep_step;
    queues => |storage| queues_deliver(storage, 0);
    bounded_queues => |storage| queues_deliver(storage, 2);
}

/// The same between processes: a semaphore counts, its permits being the numbers.
#[test]
fn processes_exclude_each_other() {
    let _alone = alone();
    let storage = shared();
    let (lock, count) = (new::<Lock>(storage), new::<Semaphore>(storage));
    let children: Vec<Child> = (0..4)
        .map(|_| {
            Child::fork(|| {
                for _ in 0..2000 {
                    let outcome = lock.acquire(storage, None, &Uninterruptible);
                    check(outcome == Acquire::Acquired, 1);
                    // Two steps that others must not see halfway.
                    let even = count.value() % 2 == 0;
                    check(count.release(storage).is_ok() && even, 2);
                    check(count.release(storage).is_ok(), 3);
                    check(lock.release(storage).is_ok(), 4);
                }
            })
        })
        .collect();
    for child in children {
        assert_eq!(child.wait(), Some(0));
    }
    assert_eq!(count.value(), 4 * 2000 * 2);
}

/// Wakes a process up late, in a loop: no wake-up may be lost between processes either.
#[test]
fn processes_hand_messages_round() {
    let _alone = alone();
    let storage = shared();
    let (there, back) = (new::<Queue>(storage), new::<Queue>(storage));
    let child = Child::fork(|| {
        for number in 0..5000 {
            let got = there.get(storage, FOREVER, &Uninterruptible, |tag, _| tag);
            check(got == Get::Got(number), 1);
            let outcome = back.put(storage, number, &[b"x"], FOREVER, &Uninterruptible);
            check(outcome == Put::Done, 2);
        }
    });
    for number in 0..5000 {
        let outcome = there.put(storage, number, &[b"x"], FOREVER, &Uninterruptible);
        assert_eq!(outcome, Put::Done);
        let got = back.get(storage, FOREVER, &Uninterruptible, |tag, _| tag);
        assert_eq!(got, Get::Got(number));
    }
    assert_eq!(child.wait(), Some(0));
}
