// SPDX-License-Identifier: MIT
//! The queue against a `VecDeque`.

use std::collections::VecDeque;

use crate::shared;
use freethreading_core::park::Uninterruptible;
use freethreading_core::queue::{Attempt, Get, Patience, Put, Queue, TooManyDone};
use freethreading_core::storage::{Object, Storage};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put { tag: u32, length: usize },
    Get,
    Done,
    Visit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0..200_usize, 2 => 3900..4200_usize, 1 => 60_000..200_000_usize];
    let step = prop_oneof![
        5 => (any::<u32>(), length).prop_map(|(tag, length)| Step::Put { tag, length }),
        4 => Just(Step::Get),
        2 => Just(Step::Done),
        1 => Just(Step::Visit),
    ];
    prop::collection::vec(step, 0..120)
}

/// Bytes that differ from message to message.
fn bytes(tag: u32, length: usize) -> Vec<u8> {
    let mut bytes = tag.to_le_bytes().repeat(length / 4 + 1);
    bytes.truncate(length);
    bytes
}

fn queue_agrees(storage: Storage, capacity: u32, steps: &[Step]) {
    let queue: Object<Queue> = Object::new(storage).expect("memory");
    queue.initialize(capacity);
    let mut model: VecDeque<(u32, Vec<u8>)> = VecDeque::new();
    let (mut put, mut done) = (0, 0);
    for step in steps {
        let is_full = capacity != 0 && model.len() >= capacity as usize;
        assert_eq!(
            (queue.len() as usize, queue.is_full()),
            (model.len(), is_full)
        );
        match *step {
            Step::Put { tag, length } => {
                let message = bytes(tag, length);
                let (head, tail) = message.split_at(length / 3);
                let parts = [head, tail];
                let outcome = match queue.try_put(storage, tag, &parts) {
                    Attempt::Ended(outcome) => outcome,
                    // It is full, or another test is at the family's memory.
                    Attempt::WouldWait => {
                        queue.put(storage, tag, &parts, Patience::None, &Uninterruptible)
                    }
                };
                if is_full {
                    assert_eq!(outcome, Put::Full);
                } else {
                    assert_eq!(outcome, Put::Done);
                    model.push_back((tag, message));
                    put += 1;
                }
            }
            Step::Get => {
                let read = |tag, message: &[u8]| (tag, message.to_vec());
                let got = queue.get(storage, Patience::None, &Uninterruptible, read);
                assert_eq!(got, model.pop_front().map_or(Get::Empty, Get::Got));
            }
            Step::Done => {
                let outcome = queue.report_done(storage);
                assert_eq!(outcome, if done < put { Ok(()) } else { Err(TooManyDone) });
                done = put.min(done + 1);
            }
            Step::Visit => {
                let mut seen = VecDeque::new();
                queue.try_visit(storage, |tag, message| {
                    seen.push_back((tag, message.to_vec()));
                });
                assert_eq!(seen, model);
            }
        }
        assert_eq!(queue.unfinished(), put - done);
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_private_queue_agrees_with_a_deque(capacity in 0_u32..6, steps in steps()) {
        queue_agrees(Storage::Private, capacity, &steps);
    }

    #[test]
    fn a_shared_queue_agrees_with_a_deque(capacity in 0_u32..6, steps in steps()) {
        queue_agrees(shared(), capacity, &steps);
    }
}
