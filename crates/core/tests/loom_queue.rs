// SPDX-License-Identifier: MIT
//! The queue in every order of its threads' steps: nobody sleeps for ever, nothing is lost or
//! overtaken. (A message's bytes are no atomics, and so not modelled; witnesses stand for them.)
#![cfg(loom)]

mod models;

use freethreading_core::queue::{Get, Join, Patience, Put, Queue};
use models::{
    Clock, GivingUp, Private, Thread, Tick, Uninterruptible, Witness, check, fresh, thread, tick,
};

const FOR_EVER: Patience = Patience::Until(None);

fn put(queue: &Queue, tag: u32) {
    let outcome = queue.put(Private, tag, &[], FOR_EVER, &Uninterruptible);
    assert_eq!(outcome, Put::Done);
}

fn get(queue: &Queue) -> u32 {
    match queue.get(Private, FOR_EVER, &Uninterruptible, |tag, _| tag) {
        Get::Got(tag) => tag,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn a_consumer_gets_in_order_what_a_producer_puts() {
    let queue = fresh::<Queue>();
    check(3, move || {
        let consumer = thread(move || {
            assert_eq!(get(queue), 1);
            assert_eq!(get(queue), 2);
        });
        put(queue, 1);
        put(queue, 2);
        consumer.join();
        assert!(queue.is_empty());
    });
}

#[test]
fn who_gets_a_message_sees_what_was_done_before_it_was_put() {
    let queue = fresh::<Queue>();
    check(3, move || {
        let witness = Witness::default();
        let theirs = witness.clone();
        let consumer = thread(move || {
            get(queue);
            assert_eq!(theirs.get(), 1);
        });
        witness.count();
        put(queue, 1);
        consumer.join();
    });
}

#[test]
fn two_consumers_get_two_messages() {
    let queue = fresh::<Queue>();
    check(2, move || {
        let consumers = [(); 2].map(|()| thread(move || get(queue)));
        put(queue, 1);
        put(queue, 2);
        let got: u32 = consumers.into_iter().map(Thread::join).sum();
        assert_eq!(got, 3);
    });
}

#[test]
fn messages_of_two_producers_reach_a_consumer() {
    let queue = fresh::<Queue>();
    check(2, move || {
        let producers = [1, 2].map(|tag| thread(move || put(queue, tag)));
        assert_eq!(get(queue) + get(queue), 3);
        producers.into_iter().for_each(Thread::join);
    });
}

#[test]
fn a_producer_waits_for_room() {
    let queue = fresh::<Queue>();
    check(3, move || {
        queue.initialize(1);
        let producer = thread(move || {
            put(queue, 1);
            put(queue, 2);
            put(queue, 3);
        });
        for tag in 1..=3 {
            assert_eq!(get(queue), tag);
        }
        producer.join();
    });
}

#[test]
fn a_consumer_that_is_woken_and_gives_up_passes_the_wake_up_on() {
    let queue = fresh::<Queue>();
    check(2, move || {
        let hasty = thread(move || {
            let outcome = queue.get(Private, FOR_EVER, &GivingUp, |tag, _| tag);
            if let Get::Got(tag) = outcome {
                put(queue, tag);
            }
        });
        let patient = thread(move || get(queue));
        put(queue, 1);
        assert_eq!(patient.join(), 1);
        // The hasty one may not have slept before the first message was gone.
        put(queue, 1);
        hasty.join();
        assert_eq!(queue.len(), 1);
    });
}

#[test]
fn a_timeout_and_a_put_at_once_lose_no_message() {
    let queue = fresh::<Queue>();
    check(2, move || {
        let clock = Clock::new(Tick::Short);
        let patience = Patience::Until(clock.deadline());
        let hasty = thread(move || queue.get(Private, patience, &Uninterruptible, |tag, _| tag));
        let time = tick(clock);
        put(queue, 1);
        let left = match hasty.join() {
            Get::Got(_) => 0,
            _ => 1,
        };
        time.join();
        assert_eq!(queue.len(), left);
    });
}

#[test]
fn a_join_ends_when_all_is_done() {
    let queue = fresh::<Queue>();
    check(3, move || {
        let worker = thread(move || {
            for _ in 0..2 {
                get(queue);
                queue.report_done(Private).expect("there was one to do");
            }
        });
        put(queue, 1);
        assert_eq!(queue.join(Private, &Uninterruptible), Join::Done);
        put(queue, 2);
        assert_eq!(queue.join(Private, &Uninterruptible), Join::Done);
        worker.join();
    });
}
