// SPDX-License-Identifier: MIT
//! What every primitive promises, on both storages.
#![cfg(not(loom))]

mod support;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use freethreading_core::park::Uninterruptible;
use freethreading_core::queue::{Attempt, Get, Join, Patience, Put, Queue, TooManyDone};
use freethreading_core::storage::handle::{self, HandleError, Purpose};
use freethreading_core::storage::{Kind, Object, Shareable, Storage};
use freethreading_core::sync::{
    AboveBound, Acquire, Barrier, BarrierWait, Condition, Event, EventWait, Lock, NotHeld,
    Notified, RLock, Semaphore, SemaphoreAcquire,
};
use support::{GivingUp, Interrupting, Watched, at_once, shared, soon, until};

/// Compiles each test for both storages.
macro_rules! on_both_storages {
    ($($(#[$attribute:meta])* fn $name:ident($storage:ident: Storage) $body:block)*) => {
        mod private {
            use super::*;
            $($(#[$attribute])* #[test] fn $name() { super::cases::$name(Storage::Private); })*
        }
        mod shared_memory {
            use super::*;
            $($(#[$attribute])* #[test] fn $name() { super::cases::$name(shared()); })*
        }
        mod cases {
            use super::*;
            $(pub(super) fn $name($storage: Storage) $body)*
        }
    };
}

fn new<T: Shareable>(storage: Storage) -> Object<T> {
    Object::new(storage).expect("there is memory")
}

fn semaphore(storage: Storage, permits: u32, bounded: bool) -> Object<Semaphore> {
    let semaphore = new::<Semaphore>(storage);
    semaphore.initialize(permits, bounded);
    semaphore
}

fn barrier(storage: Storage, parties: u32) -> Object<Barrier> {
    let barrier = new::<Barrier>(storage);
    barrier.initialize(parties);
    barrier
}

fn queue(storage: Storage, capacity: u32) -> Object<Queue> {
    let queue = new::<Queue>(storage);
    queue.initialize(capacity);
    queue
}

fn put(storage: Storage, queue: &Queue, message: &[u8]) -> Put {
    queue.put(storage, 7, &[message], Patience::None, &Uninterruptible)
}

fn get(storage: Storage, queue: &Queue) -> Get<Vec<u8>> {
    queue.get(storage, Patience::None, &Uninterruptible, |tag, message| {
        assert_eq!(tag, 7);
        message.to_vec()
    })
}

fn wait_at(storage: Storage, barrier: &Barrier) -> BarrierWait {
    barrier.wait(storage, false, None, &Watched::default())
}

const FOREVER: Patience = Patience::Until(None);

/// How much of many is enough for Miri, which takes milliseconds for what takes nanoseconds.
const MANY: u32 = if cfg!(miri) { 100 } else { 2000 };
const LONG: usize = if cfg!(miri) { 200_000 } else { 5_000_000 };

on_both_storages! {
    // ---- Lock

    fn a_lock_is_taken_once(storage: Storage) {
        let lock = new::<Lock>(storage);
        assert!(!lock.is_locked());
        assert!(lock.try_acquire(storage));
        assert!(lock.is_locked());
        assert_eq!(lock.owner(), Some(storage.me()));
        assert!(!lock.try_acquire(storage));
        assert_eq!(lock.acquire(storage, at_once(), &Uninterruptible), Acquire::TimedOut);
        assert_eq!(lock.acquire(storage, None, &Interrupting), Acquire::Interrupted);
        assert_eq!(lock.waiters(storage), 0);
        assert_eq!(lock.release(storage), Ok(()));
        assert_eq!(lock.release(storage), Err(NotHeld));
        assert_eq!(lock.owner(), None);
    }

    fn a_lock_is_handed_over_and_released_by_anybody(storage: Storage) {
        let lock = new::<Lock>(storage);
        assert!(lock.try_acquire(storage));
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    let park = Watched::default();
                    assert_eq!(lock.acquire(storage, None, &park), Acquire::Acquired);
                    // Released by another thread, from within the same scope.
                    threads.spawn(|| assert_eq!(lock.release(storage), Ok(())));
                });
            }
            until(|| lock.waiters(storage) == 3);
            assert_eq!(lock.release(storage), Ok(()));
        });
        until(|| !lock.is_locked());
        assert_eq!(lock.waiters(storage), 0);
    }

    fn a_lock_waiter_that_gives_up_passes_its_wake_up_on(storage: Storage) {
        let lock = new::<Lock>(storage);
        for _ in 0..50 {
            assert!(lock.try_acquire(storage));
            let (quitter, stayer) = (Watched::default(), Watched::default());
            thread::scope(|threads| {
                threads.spawn(|| {
                    let outcome = lock.acquire(storage, None, &GivingUp(&quitter));
                    assert_eq!(outcome, Acquire::Interrupted);
                });
                quitter.until_parked(1);
                threads.spawn(|| {
                    assert_eq!(lock.acquire(storage, None, &stayer), Acquire::Acquired);
                });
                stayer.until_parked(1);
                assert_eq!(lock.release(storage), Ok(()));
                // In shared memory the first heartbeat may end the quitter's sleep earlier.
            });
            assert_eq!(lock.release(storage), Ok(()));
        }
    }

    // ---- RLock

    fn an_rlock_counts_its_holders_acquires(storage: Storage) {
        let lock = new::<RLock>(storage);
        assert_eq!(lock.release(storage), Err(NotHeld));
        for depth in 1..=3 {
            let outcome = lock.acquire(storage, None, &Uninterruptible);
            assert_eq!(outcome, Acquire::Acquired);
            assert_eq!(lock.depth(), depth);
        }
        thread::scope(|threads| {
            threads.spawn(|| {
                assert!(!lock.is_held(storage));
                assert!(!lock.try_acquire(storage));
                assert_eq!(lock.release(storage), Err(NotHeld));
                assert_eq!(lock.acquire(storage, soon(), &Uninterruptible), Acquire::TimedOut);
            });
        });
        for _ in 0..3 {
            assert!(lock.is_locked());
            assert_eq!(lock.release(storage), Ok(()));
        }
        assert!(!lock.is_locked());
        assert_eq!(lock.depth(), 0);
        assert_eq!(lock.release(storage), Err(NotHeld));
    }

    fn an_rlock_is_released_in_full_and_restored(storage: Storage) {
        let lock = new::<RLock>(storage);
        assert!(lock.release_all(storage).is_err());
        assert!(lock.try_acquire(storage));
        assert!(lock.try_acquire(storage));
        let saved = lock.release_all(storage).expect("held");
        assert!(!lock.is_locked());
        thread::scope(|threads| {
            threads.spawn(|| {
                assert!(lock.try_acquire(storage));
                assert_eq!(lock.release(storage), Ok(()));
            });
        });
        assert!(lock.try_acquire(storage));
        lock.restore_depth(saved);
        assert_eq!(lock.depth(), 2);
        assert_eq!(lock.release(storage), Ok(()));
        assert!(lock.is_held(storage));
        assert_eq!(lock.release(storage), Ok(()));
        assert!(!lock.is_held(storage));
    }

    // ---- Semaphore

    fn a_semaphore_gives_out_its_permits(storage: Storage) {
        let semaphore = semaphore(storage, 2, false);
        assert!(semaphore.try_acquire());
        assert_eq!(semaphore.value(), 1);
        let outcome = semaphore.acquire(storage, None, &Uninterruptible);
        assert_eq!(outcome, SemaphoreAcquire::Acquired);
        assert!(!semaphore.try_acquire());
        let outcome = semaphore.acquire(storage, soon(), &Uninterruptible);
        assert_eq!(outcome, SemaphoreAcquire::TimedOut);
        let outcome = semaphore.acquire(storage, None, &Interrupting);
        assert_eq!(outcome, SemaphoreAcquire::Interrupted);
        for value in 1..=5 {
            assert_eq!(semaphore.release(storage), Ok(()));
            assert_eq!(semaphore.value(), value);
        }
        assert_eq!(semaphore.waiters(storage), 0);
    }

    fn a_bounded_semaphore_refuses_a_release_too_many(storage: Storage) {
        for bound in [0, 1, 3] {
            let semaphore = semaphore(storage, bound, true);
            assert_eq!(semaphore.release(storage), Err(AboveBound));
            for _ in 0..bound {
                assert!(semaphore.try_acquire());
            }
            for _ in 0..bound {
                assert_eq!(semaphore.release(storage), Ok(()));
            }
            assert_eq!(semaphore.release(storage), Err(AboveBound));
            assert_eq!(semaphore.value(), bound);
        }
    }

    fn each_permit_wakes_a_waiter(storage: Storage) {
        let semaphore = semaphore(storage, 0, false);
        for _ in 0..20 {
            let park = Watched::default();
            thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| {
                        let outcome = semaphore.acquire(storage, None, &park);
                        assert_eq!(outcome, SemaphoreAcquire::Acquired);
                    });
                }
                park.until_parked(4);
                for _ in 0..4 {
                    assert_eq!(semaphore.release(storage), Ok(()));
                }
            });
            assert_eq!(semaphore.value(), 0);
        }
    }

    fn a_semaphore_waiter_that_gives_up_passes_its_wake_up_on(storage: Storage) {
        let semaphore = semaphore(storage, 0, false);
        for _ in 0..50 {
            let (quitter, stayer) = (Watched::default(), Watched::default());
            thread::scope(|threads| {
                threads.spawn(|| {
                    let outcome = semaphore.acquire(storage, None, &GivingUp(&quitter));
                    assert_eq!(outcome, SemaphoreAcquire::Interrupted);
                });
                quitter.until_parked(1);
                threads.spawn(|| {
                    let outcome = semaphore.acquire(storage, None, &stayer);
                    assert_eq!(outcome, SemaphoreAcquire::Acquired);
                });
                stayer.until_parked(1);
                assert_eq!(semaphore.release(storage), Ok(()));
            });
            assert_eq!(semaphore.value(), 0);
        }
    }

    // ---- Event

    fn an_event_is_set_and_cleared(storage: Storage) {
        let event = new::<Event>(storage);
        assert!(!event.is_set());
        assert_eq!(event.wait(storage, at_once(), &Uninterruptible), EventWait::TimedOut);
        assert_eq!(event.wait(storage, None, &Interrupting), EventWait::Interrupted);
        event.set(storage);
        event.set(storage);
        assert!(event.is_set());
        assert_eq!(event.wait(storage, at_once(), &Uninterruptible), EventWait::Set);
        event.clear();
        event.clear();
        assert!(!event.is_set());
        assert_eq!(event.wait(storage, soon(), &Uninterruptible), EventWait::TimedOut);
    }

    fn an_event_wakes_all_even_if_it_is_cleared_at_once(storage: Storage) {
        let event = new::<Event>(storage);
        for _ in 0..20 {
            let park = Watched::default();
            thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| {
                        assert_eq!(event.wait(storage, None, &park), EventWait::Set);
                    });
                }
                park.until_parked(4);
                event.set(storage);
                event.clear();
            });
            assert!(!event.is_set());
        }
    }

    /// `set` on an event that looked set to it, while another thread clears it and a third one
    /// waits: the waiter was never woken.
    fn an_event_set_against_a_clear_still_wakes(storage: Storage) {
        let event = new::<Event>(storage);
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    event.clear();
                    event.set(storage);
                }
            });
            for _ in 0..MANY {
                let outcome = event.wait(storage, None, &Watched::default());
                assert_eq!(outcome, EventWait::Set);
                event.clear();
                event.set(storage);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(event.is_set());
    }

    // ---- Condition

    fn a_condition_wakes_exactly_those_that_waited(storage: Storage) {
        let condition = new::<Condition>(storage);
        assert_eq!(condition.notify(storage, 5), 0);
        let woken = AtomicU32::new(0);
        thread::scope(|threads| {
            for _ in 0..5 {
                threads.spawn(|| {
                    let waiting = condition.enter(storage).expect("memory");
                    let outcome = condition.wait(storage, waiting, None, &Uninterruptible);
                    assert_eq!(outcome, Notified::Yes);
                    woken.fetch_add(1, Ordering::SeqCst);
                });
            }
            until(|| condition.waiters(storage) == 5);
            assert_eq!(condition.notify(storage, 2), 2);
            until(|| woken.load(Ordering::SeqCst) == 2);
            assert_eq!(condition.waiters(storage), 3);
            // A later waiter doesn't get what was meant for the earlier ones.
            let late = condition.enter(storage).expect("memory");
            assert_eq!(condition.notify(storage, 3), 3);
            let outcome = condition.wait(storage, late, at_once(), &Uninterruptible);
            assert_eq!(outcome, Notified::TimedOut);
            until(|| woken.load(Ordering::SeqCst) == 5);
        });
        assert_eq!(condition.waiters(storage), 0);
        assert_eq!(condition.notify(storage, usize::MAX), 0);
    }

    fn a_condition_wakes_in_order_of_arrival(storage: Storage) {
        let condition = new::<Condition>(storage);
        let first = condition.enter(storage).expect("memory");
        let second = condition.enter(storage).expect("memory");
        let third = condition.enter(storage).expect("memory");
        assert_eq!(condition.notify(storage, 1), 1);
        let wait = |waiting| condition.wait(storage, waiting, at_once(), &Uninterruptible);
        assert_eq!(wait(second), Notified::TimedOut);
        assert_eq!(wait(first), Notified::Yes);
        // The third entered last but is the longest waiter now.
        let fourth = condition.enter(storage).expect("memory");
        assert_eq!(condition.notify(storage, 1), 1);
        assert_eq!(wait(fourth), Notified::TimedOut);
        assert_eq!(wait(third), Notified::Yes);
    }

    fn a_notification_of_an_interrupted_waiter_goes_to_another(storage: Storage) {
        let condition = new::<Condition>(storage);
        let park = Watched::default();
        thread::scope(|threads| {
            threads.spawn(|| {
                let waiting = condition.enter(storage).expect("memory");
                let outcome = condition.wait(storage, waiting, None, &GivingUp(&park));
                assert_eq!(outcome, Notified::Interrupted);
            });
            park.until_parked(1);
            let entered = AtomicBool::new(false);
            thread::scope(|threads| {
                threads.spawn(|| {
                    let waiting = condition.enter(storage).expect("memory");
                    entered.store(true, Ordering::SeqCst);
                    let outcome = condition.wait(storage, waiting, None, &Uninterruptible);
                    assert_eq!(outcome, Notified::Yes);
                });
                until(|| entered.load(Ordering::SeqCst));
                assert_eq!(condition.notify(storage, 1), 1);
            });
        });
        assert_eq!(condition.waiters(storage), 0);
    }

    // ---- Barrier

    fn a_barrier_passes_all_with_an_index_each(storage: Storage) {
        let barrier = barrier(storage, 3);
        assert_eq!(barrier.parties(), 3);
        let passed = [const { AtomicU32::new(0) }; 3];
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    for _ in 0..100 {
                        let BarrierWait::Passed(index) = wait_at(storage, &barrier) else {
                            panic!("nobody breaks it");
                        };
                        passed[index as usize].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(passed.iter().all(|count| count.load(Ordering::Relaxed) == 100));
        assert_eq!(barrier.waiting(storage), 0);
        assert!(!barrier.is_broken());
    }

    fn a_barrier_of_one_never_waits(storage: Storage) {
        let barrier = barrier(storage, 1);
        for _ in 0..3 {
            assert_eq!(wait_at(storage, &barrier), BarrierWait::Passed(0));
        }
    }

    fn an_abort_breaks_a_barrier_until_its_reset(storage: Storage) {
        let barrier = barrier(storage, 3);
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| assert_eq!(wait_at(storage, &barrier), BarrierWait::Broken));
            }
            until(|| barrier.waiting(storage) == 2);
            barrier.abort(storage);
        });
        assert!(barrier.is_broken());
        assert_eq!(wait_at(storage, &barrier), BarrierWait::Broken);
        barrier.reset(storage);
        assert!(!barrier.is_broken());
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    assert!(matches!(wait_at(storage, &barrier), BarrierWait::Passed(_)));
                });
            }
        });
    }

    fn a_reset_ends_the_waits_and_leaves_the_barrier_whole(storage: Storage) {
        let barrier = barrier(storage, 2);
        thread::scope(|threads| {
            threads.spawn(|| assert_eq!(wait_at(storage, &barrier), BarrierWait::Broken));
            until(|| barrier.waiting(storage) == 1);
            barrier.reset(storage);
            assert!(!barrier.is_broken());
        });
        assert_eq!(barrier.waiting(storage), 0);
    }

    fn a_timeout_breaks_a_barrier_for_all(storage: Storage) {
        let barrier = barrier(storage, 3);
        thread::scope(|threads| {
            threads.spawn(|| assert_eq!(wait_at(storage, &barrier), BarrierWait::Broken));
            until(|| barrier.waiting(storage) == 1);
            let outcome = barrier.wait(storage, false, soon(), &Uninterruptible);
            assert_eq!(outcome, BarrierWait::Broken);
        });
        assert!(barrier.is_broken());
    }

    fn an_interrupted_waiter_leaves_a_barrier_as_if_it_had_not_come(storage: Storage) {
        let barrier = barrier(storage, 2);
        let outcome = barrier.wait(storage, false, None, &Interrupting);
        assert_eq!(outcome, BarrierWait::Interrupted);
        assert!(!barrier.is_broken());
        assert_eq!(barrier.waiting(storage), 0);
    }

    fn a_barriers_action_runs_once_before_anybody_passes(storage: Storage) {
        let barrier = barrier(storage, 3);
        let (runs, passes) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    for cycle in 0..50 {
                        match barrier.wait(storage, true, None, &Uninterruptible) {
                            BarrierWait::Passed(_) => {}
                            BarrierWait::RunAction(turn) => {
                                assert_eq!(passes.load(Ordering::SeqCst), cycle * 3);
                                runs.fetch_add(1, Ordering::SeqCst);
                                assert!(barrier.finish(storage, &turn, true).is_some());
                            }
                            other => panic!("{other:?}"),
                        }
                        assert_eq!(runs.load(Ordering::SeqCst), cycle + 1);
                        passes.fetch_add(1, Ordering::SeqCst);
                        until(|| passes.load(Ordering::SeqCst) >= (cycle + 1) * 3);
                    }
                });
            }
        });
        assert_eq!(runs.load(Ordering::SeqCst), 50);
    }

    fn a_failed_action_breaks_the_barrier(storage: Storage) {
        let barrier = barrier(storage, 2);
        thread::scope(|threads| {
            threads.spawn(|| {
                let outcome = barrier.wait(storage, true, None, &Uninterruptible);
                assert_eq!(outcome, BarrierWait::Broken);
            });
            until(|| barrier.waiting(storage) == 1);
            let BarrierWait::RunAction(turn) = barrier.wait(storage, true, None, &Uninterruptible)
            else {
                panic!("the last one runs the action");
            };
            assert_eq!(barrier.finish(storage, &turn, false), None);
        });
        assert!(barrier.is_broken());
    }

    fn a_reset_during_the_action_wins(storage: Storage) {
        let barrier = barrier(storage, 1);
        let run = || match barrier.wait(storage, true, None, &Uninterruptible) {
            BarrierWait::RunAction(turn) => turn,
            other => panic!("{other:?}"),
        };
        let turn = run();
        barrier.reset(storage);
        assert_eq!(barrier.finish(storage, &turn, true), None);
        assert!(!barrier.is_broken());
        assert_eq!(barrier.finish(storage, &run(), true), Some(0));
    }

    // ---- Queue

    fn what_a_reader_does_not_want_stays_in_the_queue(storage: Storage) {
        let queue = queue(storage, 0);
        assert_eq!(queue.try_get_if(storage, |_, _| Some(())), None);
        assert_eq!(put(storage, &queue, b"one"), Put::Done);
        let wanted = |message: &'static [u8]| {
            queue.try_get_if(storage, |_, found| (found == message).then_some(()))
        };
        assert_eq!(wanted(b"two"), None);
        assert_eq!(queue.len(), 1);
        assert_eq!(wanted(b"one"), Some(()));
        assert!(queue.is_empty());
        assert!(!queue.glance());
        assert_eq!(put(storage, &queue, b"two"), Put::Done);
        assert!(queue.glance());
        assert_eq!(get(storage, &queue), Get::Got(b"two".to_vec()));
    }

    fn a_queue_is_first_in_first_out(storage: Storage) {
        let queue = queue(storage, 0);
        assert_eq!(get(storage, &queue), Get::Empty);
        for length in 0..300 {
            let message = vec![u8::try_from(length % 251).expect("small"); length];
            assert_eq!(put(storage, &queue, &message), Put::Done);
        }
        assert_eq!(queue.len(), 300);
        for length in 0..300 {
            let message = vec![u8::try_from(length % 251).expect("small"); length];
            assert_eq!(get(storage, &queue), Get::Got(message));
        }
        assert!(queue.is_empty());
        assert_eq!(get(storage, &queue), Get::Empty);
    }

    fn a_message_may_have_parts_and_be_empty(storage: Storage) {
        let queue = queue(storage, 0);
        let parts: [&[u8]; 4] = [b"one", b"", b"two and", b" three"];
        let outcome = queue.put(storage, 9, &parts, Patience::None, &Uninterruptible);
        assert_eq!(outcome, Put::Done);
        assert_eq!(queue.try_put(storage, u32::MAX, &[]), Attempt::Ended(Put::Done));
        let got = queue.try_get(storage, |tag, message| (tag, message.to_vec()));
        assert_eq!(got, Attempt::Ended(Get::Got((9, b"onetwo and three".to_vec()))));
        let got = queue.try_get(storage, |tag, message| (tag, message.len()));
        assert_eq!(got, Attempt::Ended(Get::Got((u32::MAX, 0))));
        assert_eq!(queue.try_get(storage, |_, _| ()), Attempt::WouldWait);
    }

    fn a_long_message_has_a_segment_of_its_own(storage: Storage) {
        let queue = queue(storage, 0);
        for round in 0..3_u8 {
            for length in [10, LONG, 3, 70_000, 65_528 - 64, 4032 - 8, 4032 - 16, 1] {
                assert_eq!(put(storage, &queue, &vec![round; length]), Put::Done);
            }
            for length in [10, LONG, 3, 70_000, 65_528 - 64, 4032 - 8, 4032 - 16, 1] {
                assert_eq!(get(storage, &queue), Get::Got(vec![round; length]));
            }
        }
    }

    fn messages_are_found_from_a_mark_on(storage: Storage) {
        let queue = queue(storage, 0);
        assert_eq!(queue.mark(storage), None); // there is no place before the first message
        // Long enough to fill many segments; a mark may lie at the end of one.
        let message = |number: u32| [number.to_le_bytes().to_vec(), vec![0; 500]].concat();
        let marks: Vec<_> = (0..1000_u32)
            .map(|number| {
                let mark = queue.mark(storage);
                assert_eq!(put(storage, &queue, &message(number)), Put::Done);
                mark
            })
            .collect();
        let seen_from = |mark, wanted: u32| {
            let mut seen = Vec::new();
            queue.retag_from(storage, mark, |tag, message| {
                let number = u32::from_le_bytes(*message.first_chunk().expect("a number"));
                seen.push(number);
                if number == wanted {
                    ControlFlow::Break(tag + 1)
                } else {
                    ControlFlow::Continue(tag)
                }
            });
            seen
        };
        for wanted in [1, 7, 8, 130, 999] {
            assert_eq!(seen_from(marks[wanted as usize], wanted), [wanted]);
        }
        assert_eq!(seen_from(marks[990], u32::MAX), (990..1000).collect::<Vec<_>>());
        assert_eq!(seen_from(None, 2), [0, 1, 2]);
        for number in 0..500_u32 {
            let taken = queue.try_get(storage, |tag, message| (tag, message.to_vec()));
            let tag = if [1, 2, 7, 8, 130].contains(&number) { 8 } else { 7 };
            assert_eq!(taken, Attempt::Ended(Get::Got((tag, message(number)))));
        }
        // Before what is still there, a mark is of no use.
        assert_eq!(seen_from(marks[499], 501), [500, 501]);
        assert_eq!(seen_from(marks[500], 500), [500]);
        assert_eq!(seen_from(queue.mark(storage), 0), []);
    }

    fn a_full_queue_takes_nothing(storage: Storage) {
        let queue = queue(storage, 2);
        assert!(!queue.is_full());
        assert_eq!(put(storage, &queue, b"1"), Put::Done);
        assert_eq!(put(storage, &queue, b"2"), Put::Done);
        assert!(queue.is_full());
        assert_eq!(queue.try_put(storage, 7, &[b"3"]), Attempt::WouldWait);
        assert_eq!(put(storage, &queue, b"3"), Put::Full);
        let timed = |deadline| {
            queue.put(storage, 7, &[b"3"], Patience::Until(deadline), &Uninterruptible)
        };
        assert_eq!(timed(soon()), Put::Full);
        let outcome = queue.put(storage, 7, &[b"3"], FOREVER, &Interrupting);
        assert_eq!(outcome, Put::Interrupted);
        assert_eq!(get(storage, &queue), Get::Got(b"1".to_vec()));
        assert_eq!(timed(soon()), Put::Done);
        assert_eq!(get(storage, &queue), Get::Got(b"2".to_vec()));
        assert_eq!(get(storage, &queue), Get::Got(b"3".to_vec()));
    }

    fn an_empty_queue_times_out(storage: Storage) {
        let queue = queue(storage, 0);
        let outcome = queue.get(storage, Patience::Until(soon()), &Uninterruptible, |_, _| ());
        assert_eq!(outcome, Get::Empty);
        let outcome = queue.get(storage, FOREVER, &Interrupting, |_, _| ());
        assert_eq!(outcome, Get::Interrupted);
    }

    fn every_consumer_that_sleeps_gets_a_message(storage: Storage) {
        let queue = queue(storage, 0);
        for _ in 0..50 {
            let park = Watched::default();
            thread::scope(|threads| {
                for _ in 0..4 {
                    threads.spawn(|| {
                        let outcome = queue.get(storage, FOREVER, &park, |_, _| ());
                        assert_eq!(outcome, Get::Got(()));
                    });
                }
                park.until_parked(4);
                for _ in 0..4 {
                    assert_eq!(put(storage, &queue, b"x"), Put::Done);
                }
            });
            assert!(queue.is_empty());
        }
    }

    fn every_producer_that_sleeps_gets_its_place(storage: Storage) {
        let queue = queue(storage, 1);
        for _ in 0..50 {
            assert_eq!(put(storage, &queue, b"x"), Put::Done);
            let park = Watched::default();
            thread::scope(|threads| {
                for _ in 0..3 {
                    threads.spawn(|| {
                        assert_eq!(queue.put(storage, 7, &[b"y"], FOREVER, &park), Put::Done);
                    });
                }
                park.until_parked(3);
                for _ in 0..4 {
                    let outcome = queue.get(storage, FOREVER, &Uninterruptible, |_, _| ());
                    assert_eq!(outcome, Get::Got(()));
                }
            });
        }
    }

    /// A consumer that gave up with the only wake-up left the others asleep.
    fn a_consumer_that_gives_up_passes_its_wake_up_on(storage: Storage) {
        let queue = queue(storage, 0);
        for _ in 0..50 {
            let (quitter, stayer) = (Watched::default(), Watched::default());
            thread::scope(|threads| {
                threads.spawn(|| {
                    let outcome = queue.get(storage, FOREVER, &GivingUp(&quitter), |_, _| ());
                    assert_eq!(outcome, Get::Interrupted);
                });
                quitter.until_parked(1);
                threads.spawn(|| {
                    let outcome = queue.get(storage, FOREVER, &stayer, |_, _| ());
                    assert_eq!(outcome, Get::Got(()));
                });
                stayer.until_parked(1);
                assert_eq!(put(storage, &queue, b"x"), Put::Done);
            });
        }
    }

    fn a_join_waits_until_all_is_done(storage: Storage) {
        let queue = queue(storage, 0);
        assert_eq!(queue.report_done(storage), Err(TooManyDone));
        assert_eq!(queue.join(storage, &Uninterruptible), Join::Done);
        for _ in 0..3 {
            assert_eq!(put(storage, &queue, b"x"), Put::Done);
        }
        assert_eq!(queue.join(storage, &Interrupting), Join::Interrupted);
        let (park, joined) = (Watched::default(), AtomicBool::new(false));
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    assert_eq!(queue.join(storage, &park), Join::Done);
                    joined.store(true, Ordering::SeqCst);
                });
            }
            park.until_parked(2);
            for left in [2, 1, 0] {
                assert!(!joined.load(Ordering::SeqCst));
                assert_eq!(queue.report_done(storage), Ok(()));
                assert_eq!(queue.unfinished(), left);
            }
        });
        assert_eq!(queue.report_done(storage), Err(TooManyDone));
        assert_eq!(queue.len(), 3, "taking and reporting are two things");
    }

    fn a_visit_shows_what_is_in_the_queue(storage: Storage) {
        let queue = queue(storage, 0);
        for length in 0..MANY {
            let message = length.to_le_bytes();
            assert_eq!(put(storage, &queue, &message), Put::Done);
        }
        assert_eq!(get(storage, &queue), Get::Got(0_u32.to_le_bytes().to_vec()));
        let mut seen = Vec::new();
        queue.try_visit(storage, |_, message| seen.push(message.to_vec()));
        let expected: Vec<_> = (1..MANY).map(|n| n.to_le_bytes().to_vec()).collect();
        assert_eq!(seen, expected);
        assert_eq!(queue.len(), MANY - 1);
    }

    // ---- Objects and handles

    fn a_handle_finds_the_same_object(storage: Storage) {
        let lock = new::<Lock>(storage);
        let handle = handle::encode(&lock, Purpose::Anybody);
        let again: Object<Lock> = handle::decode(&handle).expect("it lives");
        assert_eq!(again.identity(), lock.identity());
        assert!(again.try_acquire(storage));
        assert!(lock.is_locked());
        // It was made for anybody, so it outlives all references.
        drop((lock, again));
        let later: Object<Lock> = handle::decode(&handle).expect("kept for anybody");
        assert!(later.is_locked());
        assert_eq!(later.storage().scope(), storage.scope());
    }

    fn a_trial_keeps_nothing(storage: Storage) {
        let lock = new::<Lock>(storage);
        let handle = handle::encode(&lock, Purpose::Trial);
        drop(lock);
        let stale = handle::decode::<Lock>(&handle).err();
        assert!(matches!(stale, Some(HandleError::Stale)), "{stale:?}");
        // The next object in the same place is another one.
        let next = new::<Lock>(storage);
        assert!(handle::decode::<Lock>(&handle).is_err());
        drop(next);
    }

    fn a_handle_is_of_one_kind(storage: Storage) {
        let handle = handle::encode(&new::<Event>(storage), Purpose::Anybody);
        let error = handle::decode::<Lock>(&handle).err();
        let is_named = matches!(error, Some(HandleError::WrongKind { found: Some(Kind::Event) }));
        assert!(is_named, "{error:?}");
    }

    fn no_corrupted_handle_is_followed(storage: Storage) {
        let object = new::<Queue>(storage);
        let handle = handle::encode(&object, Purpose::Anybody);
        for bit in 0..handle.len() * 8 {
            let mut corrupted = handle;
            corrupted[bit / 8] ^= 1 << (bit % 8);
            let error = handle::decode::<Queue>(&corrupted).err().expect("corrupted");
            assert!(!error.to_string().is_empty());
        }
        for length in 0..handle.len() {
            let error = handle::decode::<Queue>(&handle[..length]).err();
            assert!(matches!(error, Some(HandleError::Malformed)));
        }
        let longer: Vec<u8> = handle.iter().copied().chain([0]).collect();
        assert!(handle::decode::<Queue>(&longer).is_err());
        assert!(handle::decode::<Queue>(&[0xFF; handle::LENGTH]).is_err());
    }
}

/// Blobs live where there are several processes.
mod blobs {
    use super::*;
    use freethreading_core::family::Family;
    use freethreading_core::storage::Blob;

    fn blob(byte: u8) -> Blob {
        let family = Family::home().expect("memory files are to be had");
        let mut blob = Blob::new(family, 100).expect("there is memory");
        blob.write(0, &[byte; 100]);
        blob
    }

    fn put(queue: &Queue, byte: u8) -> (Put, Option<Blob>) {
        let (patience, park) = (Patience::None, &Uninterruptible);
        queue.put_with_blob(shared(), 7, &[&[byte]], blob(byte), patience, park)
    }

    fn bytes(blob: &Blob) -> &[u8] {
        // SAFETY: written in `blob`, and nobody writes to it again.
        unsafe { core::slice::from_raw_parts(blob.as_ptr().as_ptr(), 100) }
    }

    #[test]
    fn a_blob_comes_with_its_message_and_no_other() {
        let queue = queue(shared(), 0);
        for byte in 0..4 {
            assert!(matches!(put(&queue, byte), (Put::Done, None)));
            assert_eq!(super::put(shared(), &queue, &[byte]), Put::Done);
        }
        for byte in 0..4 {
            // Other tests of this process change the same memory, and a try waits for nobody.
            let got = loop {
                match queue.try_get_with_blob(shared(), |tag, message| (tag, message.to_vec())) {
                    Attempt::WouldWait => thread::yield_now(),
                    got @ Attempt::Ended(_) => break got,
                }
            };
            let Attempt::Ended(Get::Got(((7, message), Some(blob)))) = got else {
                panic!("{got:?}");
            };
            assert_eq!(message, [byte]);
            assert!(bytes(&blob).iter().all(|&it| it == byte));
            let got = queue.try_get_with_blob(shared(), |tag, _| tag);
            assert!(
                matches!(got, Attempt::Ended(Get::Got((7, None)))),
                "{got:?}"
            );
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn a_blob_that_finds_no_room_comes_back() {
        let queue = queue(shared(), 1);
        assert!(matches!(put(&queue, 1), (Put::Done, None)));
        let (outcome, back) = put(&queue, 2);
        assert_eq!(outcome, Put::Full);
        assert!(back.is_some_and(|blob| bytes(&blob) == [2; 100]));
        // Whoever takes no blobs drops it.
        assert_eq!(get(shared(), &queue), Get::Got(vec![1]));
    }
}
