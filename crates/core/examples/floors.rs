// SPDX-License-Identifier: MIT
//! What nothing can be faster than on this machine, without Python: `make bench` prints it.
//!
//! A line per floor, `NAME MICROSECONDS ...`, a number per round. Two threads hand a word to each
//! other, once both spinning on a core of their own, once both sleeping in the kernel's futex.

use std::hint::{black_box, spin_loop};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use freethreading_core::family::Family;
use freethreading_core::futex::{self, Scope};
use freethreading_core::park::Uninterruptible;
use freethreading_core::storage::{Object, Storage};
use freethreading_core::sync::{Acquire, Lock};

const ROUNDS: u32 = 5;
const SPINNING_TURNS: u32 = 20_000;
const SLEEPING_TURNS: u32 = 1_000;
const CALLS: u32 = 1_000_000;

/// A turn on a single core takes a time slice, and 20,000 of them minutes.
const TOO_LONG: Duration = Duration::from_secs(2);

/// Waits until `word` isn't `old` any more.
type Wait = fn(word: &AtomicU32, old: u32);

/// Tells the other thread that `word` has changed.
type Tell = fn(word: &AtomicU32);

fn spin(word: &AtomicU32, old: u32) {
    while word.load(Ordering::Acquire) == old {
        spin_loop();
    }
}

fn sleep_in(scope: Scope, word: &AtomicU32, old: u32) {
    while word.load(Ordering::Acquire) == old {
        let _ = futex::wait(word, old, scope, None);
    }
}

/// A word in a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU32);

/// Microseconds per round trip: one thread counts `question` up, the other answers with `answer`.
fn round_trip(turns: u32, wait: Wait, tell: Tell) -> f64 {
    let (question, answer) = (Line::default(), Line::default());
    thread::scope(|threads| {
        threads.spawn(|| {
            for turn in 0..turns {
                wait(&question.0, turn);
                // Release, as below: pairs with the Acquire of the other thread's wait.
                answer.0.store(turn + 1, Ordering::Release);
                tell(&answer.0);
            }
        });
        let began = Instant::now();
        for turn in 0..turns {
            question.0.store(turn + 1, Ordering::Release);
            tell(&question.0);
            wait(&answer.0, turn);
        }
        each(began.elapsed(), turns)
    })
}

/// Microseconds to take and release our own lock, called from Rust.
fn lock(storage: Storage) -> f64 {
    let lock = Object::<Lock>::new(storage).expect("there is memory for one object");
    let began = Instant::now();
    for _ in 0..CALLS {
        let lock = black_box(&lock);
        let outcome = lock.acquire(storage, None, &Uninterruptible);
        assert_eq!(outcome, Acquire::Acquired);
        assert_eq!(lock.release(storage), Ok(()));
    }
    each(began.elapsed(), CALLS)
}

/// Microseconds to exchange a word that no other thread wants.
fn exchange() -> f64 {
    let word = Line::default();
    let began = Instant::now();
    for turn in 0..CALLS {
        let _ = black_box(&word.0).swap(turn, Ordering::AcqRel);
    }
    each(began.elapsed(), CALLS)
}

fn each(took: Duration, turns: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(turns)
}

/// Measures in rounds and prints a line.
fn report(name: &str, mut measure: impl FnMut() -> f64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "floor {name}")?;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        write!(out, " {:.5}", measure())?;
        if began.elapsed() > TOO_LONG {
            break;
        }
    }
    writeln!(out)
}

fn main() -> io::Result<()> {
    report("exchange", exchange)?;
    report("lock_private", || lock(Storage::Private))?;
    if let Ok(family) = Family::home() {
        report("lock_shared", || lock(Storage::Shared(family)))?;
    }
    let cores = thread::available_parallelism().map_or(1, core::num::NonZero::get);
    if cores > 1 {
        report("round_trip_spinning", || {
            round_trip(SPINNING_TURNS, spin, |_| ())
        })?;
    }
    report("round_trip_sleeping_private", || {
        let wait: Wait = |word, old| sleep_in(Scope::Private, word, old);
        round_trip(SLEEPING_TURNS, wait, |word| {
            futex::wake(word, 1, Scope::Private);
        })
    })?;
    report("round_trip_sleeping_shared", || {
        let wait: Wait = |word, old| sleep_in(Scope::Shared, word, old);
        round_trip(SLEEPING_TURNS, wait, |word| {
            futex::wake(word, 1, Scope::Shared);
        })
    })
}
