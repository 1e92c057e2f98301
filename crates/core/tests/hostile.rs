//! Shared memory that somebody overwrites: whatever it says, each call returns.
//!
//! Each round is a forked child with a family of its own: it fills the memory with objects in all
//! kinds of states, overwrites some words, and uses everything. A child that crashes, panics, or
//! hangs fails the round. What is overwritten and what is done comes from a seed, which the failure
//! names: `FUZZ_SEED` repeats that round. `FUZZ_MINUTES` is how long all of it takes (`make fuzz`).
//!
//! One thing isn't written: the name of a living process, where a mutex may be. Such a mutex is held
//! by that process, and waited for until it ends.
#![cfg(not(any(loom, miri)))]
#![allow(
    clippy::cast_possible_truncation,
    reason = "random numbers, cut to what is wanted"
)]

mod support;

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freethreading_core::deadline::{Deadline, earlier};
use freethreading_core::family::{Family, FamilyError};
use freethreading_core::futex::{FutexWord, Scope};
use freethreading_core::park::{Park, Parked, Uninterruptible};
use freethreading_core::pool::Seat;
use freethreading_core::queue::{Patience, Queue};
use freethreading_core::storage::handle::{self, Purpose};
use freethreading_core::storage::{Blob, BlobName, Object, PrivateCopy, Shareable, Storage, Token};
use freethreading_core::sync::{Barrier, BarrierWait, Condition, Event, Lock, RLock, Semaphore};
use support::{Child, Random, shared};

/// Seconds after which a child counts as hanging.
const PATIENCE: u32 = 30;
/// Address space of a child: what is made of nonsense is found out before the machine is.
const ADDRESS_SPACE: u64 = 4 << 30;

const SCENARIOS: f64 = 3.0;

/// What a round is about.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// Some words become anything.
    Words,
    /// A word that leads somewhere leads elsewhere, in a circle perhaps.
    Links,
    /// Other processes use everything meanwhile.
    Beside,
}

#[test]
fn overwritten_words_crash_and_hang_nobody() {
    rounds(Scenario::Words, 100);
}

#[test]
fn links_that_lead_anywhere_crash_and_hang_nobody() {
    rounds(Scenario::Links, 100);
}

#[test]
fn words_overwritten_beside_others_crash_and_hang_nobody() {
    rounds(Scenario::Beside, 8);
}

/// Runs some rounds, or as many as there is time for.
fn rounds(scenario: Scenario, count: u64) {
    let number = |name| std::env::var(name).ok()?.parse::<f64>().ok();
    let minutes = number("FUZZ_MINUTES").map(|it| it / SCENARIOS);
    let repeated = std::env::var("FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    if let Some(seed) = repeated {
        return round(scenario, seed);
    }
    let end = minutes.map(|it| Instant::now() + Duration::from_secs_f64(it * 60.0));
    // Some rounds are always the same; a longer run has other words each time, and says which.
    let now = || std::time::UNIX_EPOCH.elapsed().map(|it| it.as_nanos());
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let first = end.map_or(1, |_| now().map_or(1, |it| it as u64));
    for number in 0.. {
        if end.map_or(number == count, |end| Instant::now() >= end) {
            break;
        }
        round(scenario, first.wrapping_add(number));
    }
}

fn round(scenario: Scenario, seed: u64) {
    assert_eq!(
        in_a_family_of_its_own(|| play(scenario, seed)),
        Some(0),
        "{scenario:?}: FUZZ_SEED={seed} (None: killed by a signal, SIGALRM if it hung)"
    );
}

/// Runs `action` in a forked child, which founds a family of its own, for this process has none.
fn in_a_family_of_its_own(action: impl FnOnce()) -> Option<i32> {
    let child = Child::fork(|| {
        // SAFETY: sets a timer of this process.
        unsafe { libc::alarm(PATIENCE) };
        let limit = libc::rlimit {
            rlim_cur: ADDRESS_SPACE,
            rlim_max: ADDRESS_SPACE,
        };
        // SAFETY: a limit of this process.
        unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
        action();
    });
    child.wait()
}

#[test]
fn a_blob_is_no_longer_than_its_part_of_the_file() {
    let status = in_a_family_of_its_own(|| {
        let blob = Blob::new(family(), 5000).expect("memory");
        let words = Words::of(family());
        let place = u64::from_le_bytes(*blob.name().to_bytes().first_chunk().expect("16 bytes"));
        let cells = usize::try_from(place / 8 + 1).expect("small");
        for claimed in [u32::MAX, 1 << 31, 0] {
            words.store(cells, words.load(cells) >> 32 << 32 | u64::from(claimed));
            let found = Blob::find(family(), blob.name()).expect("it is held");
            assert!(found.capacity() <= words.0.len() * 8);
            if let Some(last) = found.capacity().checked_sub(1) {
                // SAFETY: it says that it has so many bytes.
                let last = unsafe { found.as_ptr().add(last) };
                // SAFETY: as above.
                assert_eq!(unsafe { last.read_volatile() }, 0);
            }
        }
    });
    assert_eq!(status, Some(0));
}

#[test]
fn a_blob_that_claims_to_carry_more_than_it_can_is_freed_at_once() {
    let status = in_a_family_of_its_own(|| {
        let blob = Blob::new(family(), 5000).expect("memory");
        let words = Words::of(family());
        let place = u64::from_le_bytes(*blob.name().to_bytes().first_chunk().expect("16 bytes"));
        let header = usize::try_from(place / 8).expect("small");
        // At the end of its header, after the number of its carriers.
        words.store(header + 15, u64::from(u32::MAX) << 32);
        assert_eq!(
            Blob::find(family(), blob.name()).expect("held").capacity(),
            0
        );
        // And its length, after its serial number.
        words.store(header + 1, words.load(header + 1) | u64::from(u32::MAX));
        drop(blob);
        assert_eq!(family().object_count(), 0);
    });
    assert_eq!(status, Some(0));
}

#[test]
fn a_mutex_with_one_bit_too_many_is_taken_over() {
    let status = in_a_family_of_its_own(|| {
        let lock = new::<Lock>();
        let words = Words::of(family());
        // The mutex is the upper half, after the number of extents.
        let extents = 4;
        let mine = lock.storage().me().bits();
        for bit in (0..32).filter(|bit| (1 << bit) >> 1 != mine) {
            words.store(extents, words.load(extents) | 1 << (32 + bit));
            assert_eq!(family().object_count(), 1);
        }
    });
    assert_eq!(status, Some(0));
}

#[test]
fn parts_that_the_file_does_not_have_are_not_touched() {
    let status = in_a_family_of_its_own(|| {
        let lock = new::<Lock>();
        let words = Words::of(family());
        // After the magic number, the name and the last serial number.
        let extents = 4;
        let rest = words.load(extents) >> 32 << 32;
        for claimed in [2, 21, u32::MAX, 0] {
            words.store(extents, rest | u64::from(claimed));
            assert!(family().object_count() <= 1);
            assert!(Blob::new(family(), 3 << 20).is_err());
            family().reap_dead();
            let _ = family().bytes_taken();
        }
        words.store(extents, rest | 1);
        assert!(Blob::new(family(), 3 << 20).is_ok());
        drop(lock);
    });
    assert_eq!(status, Some(0));
}

#[test]
fn nobody_can_cut_the_file_or_forbid_to_map_it() {
    let status = in_a_family_of_its_own(|| {
        let file = family().raw_fd();
        for length in [0, 4096] {
            // SAFETY: a call about an open file.
            assert_eq!(unsafe { libc::ftruncate(file, length) }, -1);
        }
        for seal in [libc::F_SEAL_GROW, libc::F_SEAL_FUTURE_WRITE] {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::fcntl(file, libc::F_ADD_SEALS, seal) }, -1);
        }
        assert!(Blob::new(family(), 3 << 20).is_ok());
    });
    assert_eq!(status, Some(0));
}

#[test]
fn a_file_that_could_be_cut_is_not_joined() {
    let status = in_a_family_of_its_own(|| {
        // SAFETY: a new file.
        let file = unsafe { libc::memfd_create(c"freethreading".as_ptr(), 0) };
        let mut copy = vec![0_u8; 1 << 20];
        let into = copy.as_mut_ptr().cast();
        // SAFETY: so many bytes have room there.
        assert!(unsafe { libc::pread(family().raw_fd(), into, copy.len(), 0) } > 0);
        // The file is another family's, by its name.
        copy[8] ^= 1;
        // SAFETY: so many bytes are there.
        assert!(unsafe { libc::pwrite(file, copy.as_ptr().cast(), copy.len(), 0) } > 0);
        let [low, high] = family().id();
        let fd = file.unsigned_abs();
        let error = Family::join_through(std::process::id(), fd, [low ^ 1, high]).err();
        assert!(matches!(error, Some(FamilyError::Foreign)), "{error:?}");
    });
    assert_eq!(status, Some(0));
}

/// Sleeps a moment, and then gives up.
struct Impatient;

impl Park for Impatient {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        match Uninterruptible.park(word, expected, scope, earlier(deadline, moment())) {
            Parked::TimedOut => Parked::Interrupted,
            parked => parked,
        }
    }
}

fn moment() -> Option<Deadline> {
    Deadline::after(Duration::from_micros(300))
}

fn patience() -> Patience {
    Patience::Until(moment())
}

/// The words of the memory file, mapped once more.
struct Words(&'static [AtomicU64]);

impl Words {
    fn of(family: &Family) -> Self {
        let file = family.file().as_raw_fd();
        // SAFETY: asks for the size of an open file.
        let size = unsafe { libc::lseek(file, 0, libc::SEEK_END) };
        let size = usize::try_from(size).expect("a size");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let place = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let mapped = unsafe { libc::mmap(place, size, protection, libc::MAP_SHARED, file, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        // SAFETY: mapped with this size, for as long as the process lives; atomics.
        Self(unsafe { std::slice::from_raw_parts(mapped.cast(), size / 8) })
    }

    fn load(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Relaxed)
    }

    fn store(&self, at: usize, value: u64) {
        self.0[at].store(value, Ordering::Relaxed);
    }

    fn used(&self) -> Vec<usize> {
        // The file's first words and all that isn't zero.
        (0..self.0.len())
            .filter(|&at| at < 32 || self.load(at) != 0)
            .collect()
    }
}

/// Whether a half of the word could name a living process, as a token or in a mutex.
fn names_the_living(living: &[u32], value: u64) -> bool {
    let halves = [value as u32, (value >> 32) as u32];
    halves
        .iter()
        .any(|half| living.contains(half) || living.contains(&(half >> 1)))
}

struct Vandal {
    words: Words,
    random: Random,
    living: Vec<u32>,
}

impl Vandal {
    fn new(random: Random) -> Self {
        let family = Family::home().expect("founded before");
        Self {
            words: Words::of(family),
            random,
            living: family.processes().iter().map(Token::bits).collect(),
        }
    }

    fn value(&mut self, before: u64) -> u64 {
        let random = &mut self.random;
        let size = self.words.0.len() as u64 * 8;
        let number = match random.below(9) {
            0 => [0, 1, u64::MAX, 1 << 63, u64::from(u32::MAX), 1 << 31][random.below(6) as usize],
            1 => before ^ (1 << random.below(64)),
            2 => before.wrapping_add(random.below(17)).wrapping_sub(8),
            3 => random.below(size) / 64 * 64,
            4 => random.below(size * 2),
            5 => size.wrapping_add(random.below(256)).wrapping_sub(128),
            6 => self.words.load(random.below(size / 8) as usize),
            7 => random.below(100),
            _ => random.below(u64::MAX),
        };
        // One half of the word, or all.
        match random.below(4) {
            0 => before & 0xFFFF_FFFF | number << 32,
            1 => before & !0xFFFF_FFFF | number & 0xFFFF_FFFF,
            _ => number,
        }
    }

    fn overwrite_words(&mut self, count: u64) {
        let used = self.words.used();
        for _ in 0..count {
            let at = if self.random.below(10) == 0 {
                self.random.below(self.words.0.len() as u64) as usize
            } else {
                used[self.random.below(used.len() as u64) as usize]
            };
            let value = self.value(self.words.load(at));
            if !names_the_living(&self.living, value) {
                self.words.store(at, value);
            }
        }
    }

    fn overwrite_links(&mut self, count: u64) {
        let size = self.words.0.len() as u64 * 8;
        let leads = |value: u64| value % 64 == 0 && value >= 4096 && value < size;
        let links: Vec<usize> = self.words.used();
        let links: Vec<usize> = links
            .into_iter()
            .filter(|&at| leads(self.words.load(at)))
            .collect();
        let targets: Vec<u64> = links.iter().map(|&at| self.words.load(at)).collect();
        for _ in 0..count {
            let at = links[self.random.below(links.len() as u64) as usize];
            let target = targets[self.random.below(targets.len() as u64) as usize];
            let beside = [0, 0, 0, 8, 4, 1][self.random.below(6) as usize];
            if !names_the_living(&self.living, target + beside) {
                self.words.store(at, target + beside);
            }
        }
    }
}

/// Objects in all kinds of states.
struct Things {
    storage: Storage,
    locks: Vec<Object<Lock>>,
    rlock: Object<RLock>,
    semaphores: Vec<Object<Semaphore>>,
    event: Object<Event>,
    conditions: Vec<Object<Condition>>,
    barriers: Vec<Object<Barrier>>,
    queues: Vec<Object<Queue>>,
    seat: Object<Seat>,
    blobs: Vec<Blob>,
    handles: Vec<[u8; handle::LENGTH]>,
    names: Vec<BlobName>,
}

fn new<T: Shareable>() -> Object<T> {
    Object::new(shared()).expect("there is memory")
}

fn several<T: Shareable>() -> Vec<Object<T>> {
    (0..3).map(|_| new()).collect()
}

fn family() -> &'static Family {
    Family::home().expect("founded before")
}

/// A blob that keeps some objects.
fn carrying<T: Shareable>(length: usize, objects: &[Object<T>]) -> Option<Blob> {
    let aboard = |object: &Object<T>| object.passenger(family());
    let passengers: Vec<_> = objects.iter().filter_map(aboard).collect();
    Blob::try_new(family(), length, &passengers).ok()
}

impl Things {
    fn new() -> Self {
        let storage = shared();
        let things = Self {
            storage,
            locks: several(),
            rlock: new(),
            semaphores: several(),
            event: new(),
            conditions: several(),
            barriers: several(),
            queues: several(),
            seat: new(),
            blobs: [100, 5000, 70_000]
                .map(|it| carrying(it, &several::<Lock>()).expect("memory"))
                .into(),
            handles: Vec::new(),
            names: Vec::new(),
        };
        assert!(things.locks[0].try_acquire(storage));
        assert!(things.rlock.try_acquire(storage));
        things.semaphores[0].initialize(3, true);
        things.semaphores[1].initialize(1, false);
        assert!(things.semaphores[0].try_borrow(storage));
        for barrier in &things.barriers {
            barrier.initialize(3);
        }
        things.queues[1].initialize(400);
        // Waiters, records of waiters, spares, and several segments of messages with blobs.
        for condition in &things.conditions {
            let waiting: Vec<_> = (0..4).map(|_| condition.enter(storage)).collect();
            let left = waiting.into_iter().take(2).flatten();
            for place in left {
                let _ = condition.wait(storage, place, moment(), &Impatient);
            }
            condition.notify(storage, 1);
        }
        let wait = |lock: &Object<Lock>| lock.acquire(storage, moment(), &Impatient);
        let _ = wait(&things.locks[0]);
        for queue in &things.queues {
            for number in 0..300_u64 {
                let message = number.to_le_bytes();
                let _ = queue.try_put(storage, 3, &[&message, &[7; 90]]);
            }
            for _ in 0..60 {
                let _ = queue.try_get(storage, |_, message| message.len());
            }
            let blob = carrying(70_000, &things.locks).expect("memory");
            let message: &[&[u8]] = &[b"rest"];
            drop(queue.put_with_blob(storage, 4, message, blob, patience(), &Impatient));
        }
        let names = things.blobs.iter().map(Blob::name).collect();
        let handles = vec![
            handle::encode(&things.locks[0], Purpose::Anybody),
            handle::encode(&things.semaphores[0], Purpose::Anybody),
            handle::encode(&things.queues[0], Purpose::Anybody),
            handle::encode(&things.conditions[0], Purpose::Anybody),
        ];
        Self {
            handles,
            names,
            ..things
        }
    }

    /// Does something with something.
    fn act(&mut self, random: &mut Random) {
        let storage = self.storage;
        let one = random.below(3) as usize;
        match random.below(40) {
            0 => drop(self.locks[one].acquire(storage, moment(), &Impatient)),
            1 => drop(self.locks[one].release(storage)),
            2 => drop(self.locks[one].poll(storage)),
            3 => drop((self.locks[one].waiters(storage), self.locks[one].owner())),
            4 => drop(self.rlock.acquire(storage, moment(), &Impatient)),
            5 => drop(self.rlock.release(storage)),
            6 => drop(self.semaphores[one].acquire(storage, moment(), &Impatient)),
            7 => drop(self.semaphores[one].release(storage)),
            8 => drop(self.semaphores[one].borrow(storage, &Impatient)),
            9 => drop(self.semaphores[one].give_back(storage)),
            10 => drop((
                self.semaphores[one].poll(storage),
                self.semaphores[one].waiters(storage),
            )),
            11 => self.event.set(storage),
            12 => self.event.clear(),
            13 => drop(self.event.wait(storage, moment(), &Impatient)),
            14 => {
                if let Ok(waiting) = self.conditions[one].enter(storage) {
                    let _ = self.conditions[one].wait(storage, waiting, moment(), &Impatient);
                }
            }
            15 => drop(self.conditions[one].notify(storage, random.below(4) as usize)),
            16 => drop(self.conditions[one].waiters(storage)),
            17 => {
                let outcome = self.barriers[one].wait(storage, true, moment(), &Impatient);
                if let BarrierWait::RunAction(turn) = outcome {
                    let _ = self.barriers[one].finish(storage, &turn, random.below(2) == 0);
                }
            }
            18 => self.barriers[one].reset(storage),
            19 => self.barriers[one].abort(storage),
            20 => drop(self.barriers[one].waiting(storage)),
            21 | 22 => self.use_blobs(random),
            23 | 24 => self.use_handles(random),
            25 | 26 => {
                // Drops one, and makes another.
                match random.below(5) {
                    0 => remake(&mut self.locks[one]),
                    1 => remake(&mut self.semaphores[one]),
                    2 => remake(&mut self.conditions[one]),
                    3 => remake(&mut self.barriers[one]),
                    _ => remake(&mut self.queues[one]),
                }
            }
            27 => drop((family().object_count(), family().bytes_taken())),
            28 => drop(family().reap_dead()),
            29 => drop(family().reserve().map(|token| family().reap(token))),
            30 => {
                self.seat.set_ready();
                let _ = (self.seat.task(), self.seat.is_ready());
                let tokens: Vec<_> = family().processes().iter().collect();
                drop(
                    tokens
                        .into_iter()
                        .map(|it| storage.holder(it))
                        .collect::<Vec<_>>(),
                );
            }
            31 => {
                let child = Child::fork(|| {
                    let _ = self.locks[one].acquire(storage, moment(), &Impatient);
                });
                assert_eq!(child.wait(), Some(0), "a forked child fails");
            }
            _ => self.use_queue(one, random),
        }
    }

    fn use_queue(&self, one: usize, random: &mut Random) {
        let (storage, queue) = (self.storage, &self.queues[one]);
        let length = [0, 8, 90, 3000, 70_000][random.below(5) as usize];
        let message = vec![5; length];
        let read = |_, message: &[u8]| message.iter().map(|&it| u64::from(it)).sum::<u64>();
        match random.below(12) {
            0 | 1 => drop(queue.put(storage, 9, &[&message], patience(), &Impatient)),
            2 => drop(queue.try_put(storage, 9, &[&message])),
            3..=5 => drop(queue.get_with_blob(storage, patience(), &Impatient, read)),
            6 => drop(queue.try_get_if(storage, |tag, message| Some(read(tag, message)))),
            7 => {
                let claim = Some(self.seat.claim());
                let read = |tag, message: &[u8]| Ok(read(tag, message));
                drop(queue.try_get_claimed(storage, claim, read));
            }
            8 => {
                let mark = queue.mark(storage);
                queue.retag_from(storage, mark, |tag, _| ControlFlow::Continue(tag));
                queue.retag(storage, |tag, message| tag ^ message.len() as u32);
            }
            9 => {
                let _ = (queue.len(), queue.is_full(), queue.unfinished());
                let _ = queue.report_done(storage);
                let _ = queue.join(storage, &Impatient);
                queue.settle_claims(storage);
            }
            10 => {
                if let Some(blob) = carrying(length, &self.queues[..random.below(3) as usize]) {
                    let message: &[&[u8]] = &[b"rest"];
                    drop(queue.put_with_blob(storage, 4, message, blob, patience(), &Impatient));
                }
            }
            _ => {
                for _ in 0..50 {
                    drop(queue.try_get_with_blob(storage, read));
                }
            }
        }
    }

    fn use_blobs(&mut self, random: &mut Random) {
        let name = self.names[random.below(self.names.len() as u64) as usize];
        let Some(mut blob) = Blob::find(family(), name) else {
            return;
        };
        let end = blob.capacity();
        if end > 0 {
            // SAFETY: the blob has so many bytes.
            let last = unsafe { blob.as_ptr().add(end - 1) };
            // SAFETY: as above; that others write to it is what this is about.
            let last = unsafe { last.read_volatile() };
            blob.write(random.below(end as u64) as usize, &vec![last; 20_000]);
        }
        if let Some(copy) = PrivateCopy::of(blob).filter(|_| end > 0) {
            // SAFETY: the copy has so many bytes as the blob.
            let last = unsafe { copy.as_ptr().add(end - 1) };
            // SAFETY: as above.
            unsafe { last.write_volatile(1) };
        }
        if random.below(3) == 0 {
            self.blobs.clear();
            self.blobs.extend(carrying(3000, &self.conditions));
        }
    }

    fn use_handles(&mut self, random: &mut Random) {
        let mut handle = self.handles[random.below(self.handles.len() as u64) as usize];
        if random.below(2) == 0 {
            // Another place, or another number, with a checksum that is right.
            let at = 8 + random.below(40) as usize;
            handle[at] = random.below(256) as u8;
            let covered = handle[..4].iter().chain(&handle[8..]);
            let sum = covered.fold(0x811C_9DC5_u32, |sum, &byte| {
                (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            handle[4..8].copy_from_slice(&sum.to_le_bytes());
        }
        drop(handle::decode::<Lock>(&handle));
        drop(handle::decode::<Queue>(&handle));
        drop(handle::decode::<Semaphore>(&handle));
        drop(handle::decode::<Condition>(&handle));
    }
}

/// Drops an object, and makes another, unless there is no memory.
fn remake<T: Shareable>(object: &mut Object<T>) {
    if let Ok(new) = Object::new(shared()) {
        *object = new;
    }
}

fn play(scenario: Scenario, seed: u64) {
    // The generator's first numbers are as small as its seed.
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..20 {
        random.below(2);
    }
    let mut things = Things::new();
    match scenario {
        Scenario::Words | Scenario::Links => {
            let mut vandal = Vandal::new(Random(random.below(u64::MAX) | 1));
            for _ in 0..=random.below(3) {
                let count = 1 + random.below(12);
                match scenario {
                    Scenario::Links => vandal.overwrite_links(count / 4 + 1),
                    _ => vandal.overwrite_words(count),
                }
                for _ in 0..random.below(60) {
                    things.act(&mut random);
                }
            }
        }
        Scenario::Beside => beside(&mut things, &mut random),
    }
    drop(things);
    family().reap_dead();
}

/// Others work while this process overwrites words.
fn beside(things: &mut Things, random: &mut Random) {
    let mut workers = Vec::new();
    for _ in 0..2 {
        let seed = random.below(u64::MAX) | 1;
        workers.push(Child::fork(|| {
            // SAFETY: a timer isn't inherited.
            unsafe { libc::alarm(PATIENCE - 5) };
            let mut random = Random(seed);
            for _ in 0..150 {
                things.act(&mut random);
            }
        }));
    }
    let mut vandal = Vandal::new(Random(random.below(u64::MAX) | 1));
    for _ in 0..100 {
        vandal.overwrite_words(1);
        vandal.overwrite_links(1);
        random.spin(Duration::from_micros(200));
        things.act(random);
    }
    for worker in workers {
        assert_eq!(worker.wait(), Some(0), "a worker fails");
    }
}
