// SPDX-License-Identifier: MIT
//! Messages that name objects: whoever is killed with one in hands, the objects live as long as
//! somebody may read the message, and no longer.

use super::super::testing::{Child, alone, die_everywhere};
use super::every_step::die_everywhere_in;
use super::*;
use crate::storage::Passenger;

fn aboard<T: Shareable>(object: &Object<T>) -> Passenger {
    object.passenger(family()).expect("of the same family")
}

/// What a message carries has no other user.
fn put_carrying(queue: &Queue, passengers: Vec<Passenger>) -> Put {
    let mut blob = Blob::try_new(family(), 1000, &passengers).expect("memory");
    assert!(blob.capacity() >= 1000);
    blob.write(0, &[1; 1000]);
    drop(passengers);
    put_blob(queue, blob)
}

fn put_new_lock(queue: &Queue) -> Put {
    put_carrying(queue, vec![aboard(&new::<Lock>())])
}

pub(super) fn a_message_with_objects_put() {
    let _alone = alone();
    let before = census();
    let queue = new::<Queue>();
    die_everywhere(
        || {
            let (lock, semaphore) = (new::<Lock>(), new::<Semaphore>());
            assert_eq!(put_carrying(&queue, vec![aboard(&lock)]), Put::Done);
            // One of them twice.
            let both = vec![aboard(&lock), aboard(&semaphore), aboard(&lock)];
            drop((lock, semaphore));
            assert_eq!(put_carrying(&queue, both), Put::Done);
        },
        |child| {
            let there = queue.len() as usize;
            assert!(there <= 2 && (child == Child::Killed || there == 2));
            // The queue, and what is in it: one blob and a lock; one more, and a semaphore.
            assert_eq!(census().0, before.0 + 1 + 2 * there);
            while get_blob(&queue).is_some() {}
            assert_eq!(census().0, before.0 + 1);
        },
    );
    drop(queue);
    assert_eq!(census(), before);
}

pub(super) fn a_message_with_objects_got() {
    let _alone = alone();
    let before = census();
    let queue = new::<Queue>();
    let fill = || {
        for _ in 0..3 {
            assert_eq!(put_new_lock(&queue), Put::Done);
        }
    };
    fill();
    die_everywhere(
        || {
            let kept = get_blob(&queue).expect("there are enough");
            drop(get_blob(&queue).expect("there are enough"));
            drop(kept);
        },
        |_| {
            assert_eq!(census().0, before.0 + 1 + 2 * queue.len() as usize);
            while get_blob(&queue).is_some() {}
            assert_eq!(census().0, before.0 + 1);
            fill();
        },
    );
    drop(queue);
    assert_eq!(census(), before);
}

/// Queues in queues in queues, all of which go with the outermost.
pub(super) fn a_queue_with_queues_dropped() {
    let _alone = alone();
    let before = census();
    die_everywhere(
        || {
            let mut queue = new::<Queue>();
            for _ in 0..3 {
                let outer = new::<Queue>();
                assert_eq!(put_carrying(&outer, vec![aboard(&queue)]), Put::Done);
                assert_eq!(put_new_lock(&outer), Put::Done);
                queue = outer;
            }
            drop(queue);
        },
        |_| assert_eq!(census(), before),
    );
}

/// What a message carries stays with those who have it anyway.
pub(super) fn an_object_carried_and_kept() {
    let _alone = alone();
    let before = census();
    die_everywhere_in(
        || (new::<Queue>(), new::<Lock>()),
        |(queue, lock)| {
            assert_eq!(put_carrying(queue, vec![aboard(lock)]), Put::Done);
            drop(get_blob(queue));
        },
        |(queue, lock), _| {
            drop(get_blob(&queue));
            assert_eq!(census().0, before.0 + 2);
            drop((queue, lock));
            assert_eq!(census(), before);
        },
    );
}

/// An entry that somebody has overwritten keeps nothing, and isn't followed; the others are.
pub(super) fn a_cargo_overwritten() {
    let _alone = alone();
    let mut before = census().0;
    die_everywhere_in(
        new::<Lock>,
        |lock| {
            let passengers = [aboard(&new::<Lock>()), aboard(lock)];
            let blob = Blob::try_new(family(), 1000, &passengers).expect("memory");
            // SAFETY: the last entry follows what there is room for, within the blob's run.
            let last = unsafe { blob.as_ptr().add(blob.capacity()) };
            // SAFETY: as above; aligned, as the run and its end are; nobody else is at it.
            unsafe { last.cast::<[u64; 2]>().write([64, 1]) };
            drop(blob);
        },
        |lock, _| {
            assert!(lock.try_acquire(shared()));
            drop(lock);
            // Carried for ever, as far as it knows; the blob is gone.
            let after = census().0;
            assert!(after == before || after == before + 1);
            before = after;
        },
    );
}

#[test]
fn messages_with_objects() {
    a_message_with_objects_put();
    a_message_with_objects_got();
    a_queue_with_queues_dropped();
    an_object_carried_and_kept();
    a_cargo_overwritten();
}
