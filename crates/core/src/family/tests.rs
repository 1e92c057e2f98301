// SPDX-License-Identifier: MIT
//! The allocator of runs against a model, and processes that find the table full.

use std::collections::BTreeMap;
use std::thread;

use proptest::prelude::*;

use super::container::testing::Files;
use super::{Entry, Family, Run, layout, unregistered};
use crate::crash::testing::{Child, NEVER, alone, die_everywhere, start};
use crate::park::Uninterruptible;
use crate::primitive::AtomicU32;
use crate::primitive::Ordering::Relaxed;
use crate::storage::{Blob, Object, OutOfMemory, Shareable, Storage, Token, Unavailable};
use crate::sync::{
    Acquire, Barrier, Event, EventWait, Lock, NotHeld, RLock, Semaphore, SemaphoreAcquire,
};

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    /// The run that is so many-eth now.
    Free(usize),
    FreeAgain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes =
        prop_oneof![9 => 0..500_usize, 2 => 4000..70_000_usize, 1 => 1_000_000..3_000_000_usize];
    let step = prop_oneof![
        5 => bytes.prop_map(Step::Allocate),
        4 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::FreeAgain),
    ];
    prop::collection::vec(step, 0..80)
}

fn cells(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(layout::CELL) + 1
}

/// Where runs of 1 to 12 cells would begin now.
fn first_places(family: &Family) -> Vec<Run> {
    let place = |bytes| {
        let run = family.allocate_raw(Entry::Whenever, bytes).expect("memory");
        family.free(run);
        run
    };
    (0..12).map(|cells| place(cells * 64)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_never_overlap_and_come_back(steps in steps()) {
        let _alone = alone();
        let family = Family::home().expect("memory files are to be had");
        family.locked(|| family.punch_holes(0)); // counts anew
        let before = family.bytes_taken();
        let places = first_places(family);
        // Cells of each run, by its offset.
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last_freed = None;
        for step in steps {
            match step {
                Step::Allocate(bytes) => {
                    let run = family.allocate_raw(Entry::Whenever, bytes).expect("memory");
                    let end = run.0 + cells(bytes) * layout::CELL;
                    prop_assert_eq!(run.0 % layout::CELL, 0);
                    prop_assert!(family.resolve(run.data(), bytes).is_some());
                    prop_assert_eq!(Run::of_data(run.data()), run);
                    let below = model.range(..end).next_back();
                    let is_apart =
                        below.is_none_or(|(start, cells)| start + cells * layout::CELL <= run.0);
                    prop_assert!(is_apart);
                    model.insert(run.0, cells(bytes));
                }
                Step::Free(index) if !model.is_empty() => {
                    let offset = *model.keys().nth(index % model.len()).expect("not empty");
                    model.remove(&offset);
                    family.free(Run(offset));
                    last_freed = Some(offset);
                }
                Step::Free(_) | Step::FreeAgain => {
                    let offset = last_freed.filter(|offset| !model.contains_key(offset));
                    family.free(Run(offset.unwrap_or(u64::MAX - 7)));
                }
            }
            let taken = model.values().sum::<u64>() * layout::CELL;
            prop_assert_eq!(family.bytes_taken(), before + taken);
            prop_assert_eq!(idle(family), family.locked(|| family.exactly_idle()));
        }
        for offset in model.into_keys() {
            family.free(Run(offset));
        }
        prop_assert_eq!(family.bytes_taken(), before);
        // What is free again is found again.
        prop_assert_eq!(first_places(family), places);
    }
}

fn idle(family: &Family) -> u64 {
    family.header().idle.load(Relaxed)
}

/// Nobody finds a slot as long as this lives.
struct FullTable(Vec<Token>);

impl FullTable {
    fn new() -> Self {
        let family = home();
        family.reap_dead(); // their slots would be found
        let reserve = || family.processes().reserve(family.me()).ok();
        Self(core::iter::from_fn(reserve).collect())
    }
}

impl Drop for FullTable {
    fn drop(&mut self) {
        for &token in &self.0 {
            assert!(home().reap(token), "somebody has taken it");
        }
    }
}

fn home() -> &'static Family {
    Family::home().expect("memory files are to be had")
}

fn shared() -> Storage {
    Storage::Shared(home())
}

fn new<T: Shareable>() -> Object<T> {
    Object::new(shared()).expect("there is memory")
}

/// A number that loses an update whenever two are inside; in shared memory.
fn counter() -> &'static AtomicU32 {
    let address = shared().allocate(size_of::<AtomicU32>()).expect("memory");
    let place = shared().resolve(address, size_of::<AtomicU32>());
    // SAFETY: mapped for as long as the process lives, aligned to 64 bytes, and an atomic.
    let counter: &AtomicU32 = unsafe { place.expect("it is mapped").cast().as_ref() };
    counter.store(0, Relaxed);
    counter
}

fn count_up(counter: &AtomicU32) {
    let before = counter.load(Relaxed);
    thread::yield_now();
    counter.store(before + 1, Relaxed);
}

/// They share one token, and keep each other out all the same.
#[test]
#[cfg_attr(miri, ignore = "forks")]
fn processes_beyond_the_table_count_exactly() {
    const CHILDREN: u32 = 4;
    const TIMES: u32 = 300;
    let _alone = alone();
    let (lock, rlock, semaphore) = (new::<Lock>(), new::<RLock>(), new::<Semaphore>());
    semaphore.initialize(1, true);
    let counters = [(); 4].map(|()| counter());
    let count = || {
        assert_eq!(home().me(), unregistered());
        for _ in 0..TIMES {
            let outcome = lock.acquire(shared(), None, &Uninterruptible);
            assert_eq!(outcome, Acquire::Acquired);
            count_up(counters[0]);
            assert_eq!(lock.release(shared()), Ok(()));
            for _ in 0..2 {
                let outcome = rlock.acquire(shared(), None, &Uninterruptible);
                assert_eq!(outcome, Acquire::Acquired);
            }
            count_up(counters[1]);
            assert_eq!(rlock.release(shared()), Ok(()));
            assert_eq!(rlock.release(shared()), Ok(()));
            let outcome = semaphore.acquire(shared(), None, &Uninterruptible);
            assert_eq!(outcome, SemaphoreAcquire::Acquired);
            count_up(counters[2]);
            assert_eq!(semaphore.release(shared()), Ok(()));
            let outcome = semaphore.borrow(shared(), &Uninterruptible);
            assert_eq!(outcome, SemaphoreAcquire::Acquired);
            count_up(counters[3]);
            assert_eq!(semaphore.give_back(shared()), Ok(()));
        }
    };
    let full = FullTable::new();
    let children: Vec<_> = (0..CHILDREN).map(|_| start(NEVER, count)).collect();
    for child in children {
        assert_eq!(child.wait(), Child::Finished);
    }
    drop(full);
    let counts = counters.map(|counter| counter.load(Relaxed));
    assert_eq!(counts, [CHILDREN * TIMES; 4]);
    assert!(!lock.is_locked() && !rlock.is_locked());
    assert_eq!(semaphore.value(), 1);
}

/// Each was taken for the owner of what the others held.
#[test]
#[cfg_attr(miri, ignore = "forks")]
fn an_rlock_beyond_the_table_has_one_owner() {
    let _alone = alone();
    let (rlock, is_held, go) = (new::<RLock>(), new::<Event>(), new::<Event>());
    let wait = |event: &Event| {
        let outcome = event.wait(shared(), None, &Uninterruptible);
        assert_eq!(outcome, EventWait::Set);
    };
    let full = FullTable::new();
    let owner = start(NEVER, || {
        assert!(rlock.try_acquire(shared()));
        is_held.set(shared());
        wait(&go);
        assert_eq!(rlock.release(shared()), Ok(()));
    });
    wait(&is_held);
    let other = start(NEVER, || {
        assert_eq!(home().me(), unregistered());
        assert!(!rlock.is_held(shared()));
        assert!(!rlock.try_acquire(shared()));
        assert_eq!(rlock.release(shared()), Err(NotHeld));
    });
    let other = other.wait();
    go.set(shared());
    assert_eq!((owner.wait(), other), (Child::Finished, Child::Finished));
    drop(full);
    assert!(!rlock.is_locked());
}

/// Bytes of pages that the family's file has.
fn resident(family: &Family) -> u64 {
    let stat = rustix::fs::fstat(family.file()).expect("it is open");
    u64::try_from(stat.st_blocks).expect("a count") * 512
}

#[test]
#[cfg_attr(miri, ignore = "there is no file")]
fn freed_pages_go_back_to_the_system() {
    const MIB: usize = 1 << 20;
    let _alone = alone();
    let family = home();
    let before = family.bytes_taken();
    let blobs: Vec<Blob> = (0..40_u8)
        .map(|number| {
            let mut blob = Blob::new(family, 10 * MIB).expect("memory");
            blob.write(0, &vec![number; 10 * MIB]);
            blob
        })
        .collect();
    assert!(resident(family) >= 400 << 20);
    drop(blobs);
    assert_eq!(family.bytes_taken(), before);
    // What is kept for the next, and what other tests have left in pages of their own.
    let kept = resident(family);
    assert!((60 << 20..144 << 20).contains(&kept), "{kept}");
}

/// Large ones that come and go, and between them small ones that stay until the end.
#[test]
#[cfg_attr(miri, ignore = "there is no file")]
fn pages_between_others_go_back_to_the_system() {
    const MIB: usize = 1 << 20;
    let _alone = alone();
    let family = home();
    let fill = |length: usize| {
        let mut blob = Blob::new(family, length).expect("memory");
        blob.write(0, &vec![1; length]);
        blob
    };
    let mut kept = Vec::new();
    for mib in 20..64 {
        let large = fill(mib * MIB);
        kept.push(fill(80_000));
        drop(large);
        assert_eq!(idle(family), family.locked(|| family.exactly_idle()));
    }
    // The holes between those that are kept may have pages, too.
    assert!(resident(family) < 160 << 20, "{}", resident(family));
    drop(kept);
    assert!(idle(family) <= 128 << 20);
    assert!(resident(family) < 144 << 20, "{}", resident(family));
}

/// The limit is a file's; what is used is what the test says.
#[test]
#[cfg_attr(miri, ignore = "files")]
fn beyond_a_containers_limit_there_is_no_memory() {
    const MIB: usize = 1 << 20;
    let _alone = alone();
    let family = home();
    let before = family.bytes_taken();
    family.locked(|| {
        family.punch_holes(0);
        family.header().allowance.store(0, Relaxed);
    });
    let files = Files::new("limit");
    files.write("proc/self/cgroup", "0::/\n");
    files.write("sys/fs/cgroup/memory.max", "104857600\n");
    let set_used = |mib: usize| {
        let used = (mib << 20).to_string();
        files.write("sys/fs/cgroup/memory.current", &used);
    };
    set_used(50);
    assert_eq!(Blob::new(family, 50 * MIB).err(), Some(OutOfMemory));
    let first = Blob::new(family, 20 * MIB).expect("there is room");
    set_used(94);
    // So many were allowed before.
    let mut blobs = Vec::new();
    while let Ok(blob) = Blob::new(family, MIB) {
        blobs.push(blob);
    }
    assert!(blobs.len() < 16, "{}", blobs.len());
    // What has pages may be used again.
    drop(first);
    let again = Blob::new(family, 19 * MIB).expect("there is room");
    // Nothing else goes on: neither objects nor segments.
    let more: Vec<Object<Barrier>> = (0..100_000)
        .map_while(|_| Object::try_new(shared()).ok())
        .collect();
    assert!(more.len() < 100_000);
    assert_eq!(
        Object::<Barrier>::try_new(shared()).err(),
        Some(Unavailable::OutOfMemory)
    );
    set_used(10);
    drop(new::<Lock>());
    drop((again, blobs, more));
    drop(files);
    family.header().allowance.store(0, Relaxed);
    assert_eq!(family.bytes_taken(), before);
}

/// A death leaves the count of what could be given back too large, which the next trim puts right;
/// never too small, which nothing would.
#[test]
#[cfg_attr(miri, ignore = "forks")]
fn a_death_never_hides_what_could_be_given_back() {
    let _alone = alone();
    let family = home();
    die_everywhere(
        || {
            // Of the next granule, too.
            let blob = Blob::new(family, 70_000).expect("memory");
            drop(new::<Lock>());
            drop(blob);
        },
        |_| {
            family.reap_dead();
            assert!(idle(family) >= family.locked(|| family.exactly_idle()));
            family.locked(|| family.punch_holes(0));
            assert_eq!(idle(family), family.locked(|| family.exactly_idle()));
        },
    );
}

#[test]
fn what_is_written_to_a_blob_is_there() {
    let _alone = alone();
    let family = home();
    // Through the file at first, then through the mapping.
    for round in 0..3_u8 {
        // (Miri takes milliseconds for what takes nanoseconds.)
        for length in [0, 1, 4095, 100_000, 3_000_001]
            .into_iter()
            .take(if cfg!(miri) { 3 } else { 5 })
        {
            let bytes: Vec<u8> = (0..length)
                .map(|index: u32| (index.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ round)
                .collect();
            let mut blob = Blob::new(family, bytes.len()).expect("memory");
            let (first, second) = bytes.split_at(bytes.len() / 3);
            blob.write(first.len(), second);
            blob.write(0, first);
            let start = blob.as_ptr().as_ptr();
            assert_eq!(start.addr() % 64, 0);
            // SAFETY: just written, and ours alone.
            let there = unsafe { core::slice::from_raw_parts(start, bytes.len()) };
            assert!(there == bytes, "{length} bytes, round {round}");
            // What has no room is left out.
            let capacity = blob.capacity();
            blob.write(capacity, b"x");
            blob.write(capacity + 1, b"x");
        }
    }
}
