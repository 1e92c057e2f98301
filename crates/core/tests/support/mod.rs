// SPDX-License-Identifier: MIT
//! What the integration tests share: waiting for something observable, waits that can be
//! watched and scripted, and forked children.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use freethreading_core::deadline::Deadline;
use freethreading_core::family::Family;
use freethreading_core::futex::{FutexWord, Scope};
use freethreading_core::park::{Park, Parked, Uninterruptible};
use freethreading_core::storage::Storage;

/// The shared memory of this process's family.
pub(crate) fn shared() -> Storage {
    Storage::Shared(Family::home().expect("memory files are to be had"))
}

/// A deadline that has passed.
pub(crate) fn at_once() -> Option<Deadline> {
    Deadline::after(Duration::ZERO)
}

/// A deadline that will pass soon.
pub(crate) fn soon() -> Option<Deadline> {
    Deadline::after(Duration::from_millis(5))
}

/// Waits until something observable has come true.
pub(crate) fn until(mut is_true: impl FnMut() -> bool) {
    // Not a bound on speed: it turns a hang into a failure that names its line.
    let end = Instant::now() + Duration::from_secs(100);
    while !is_true() {
        assert!(Instant::now() < end, "it never came true");
        std::thread::yield_now();
    }
}

/// Waits like [`Uninterruptible`], without spinning, and counts how often it was about to sleep.
#[derive(Default)]
pub(crate) struct Watched(AtomicUsize);

impl Watched {
    pub(crate) fn until_parked(&self, times: usize) {
        until(|| self.0.load(Ordering::SeqCst) >= times);
    }
}

impl Park for Watched {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        self.0.fetch_add(1, Ordering::SeqCst);
        Uninterruptible.park(word, expected, scope, deadline)
    }

    fn spin(&self, mut is_ready: impl FnMut() -> bool) -> bool {
        is_ready()
    }
}

/// Answers every request to sleep with an interruption.
pub(crate) struct Interrupting;

impl Park for Interrupting {
    fn park(&self, _: &impl FutexWord, _: u32, _: Scope, _: Option<Deadline>) -> Parked {
        Parked::Interrupted
    }

    fn spin(&self, mut is_ready: impl FnMut() -> bool) -> bool {
        is_ready()
    }
}

/// Sleeps, and gives up when it has slept: the worst moment, for a wake-up may have come.
pub(crate) struct GivingUp<'a>(pub(crate) &'a Watched);

impl Park for GivingUp<'_> {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        let _ = self.0.park(word, expected, scope, deadline);
        Parked::Interrupted
    }

    fn spin(&self, mut is_ready: impl FnMut() -> bool) -> bool {
        is_ready()
    }
}

/// Numbers that are different each time, but the same for the same seed, which isn't zero.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Lets a random moment pass.
    pub(crate) fn spin(&mut self, most: Duration) {
        let most = u64::try_from(most.as_nanos()).expect("short");
        let end = Instant::now() + Duration::from_nanos(self.below(most));
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}

/// Tests that count what is in the family's memory, or fork, run one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exit status of a child that failed an assertion.
const PANICKED: i32 = 101;

/// A forked child.
#[derive(Debug)]
pub(crate) struct Child {
    pid: libc::pid_t,
}

impl Child {
    /// Runs `action` in a forked child, with the hooks that every fork must have. It may use
    /// the library and nothing that another thread of this process could have locked.
    pub(crate) fn fork(action: impl FnOnce()) -> Self {
        freethreading_core::family::before_fork();
        // SAFETY: no arguments; the child does only what the doc comment allows.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            freethreading_core::storage::after_fork_in_child();
            freethreading_core::family::after_fork_in_child();
            // A panic that left the thread would end the process, its only one, with status 0.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
            exit_child(if outcome.is_ok() { 0 } else { PANICKED });
        }
        freethreading_core::family::after_fork_in_parent();
        assert!(pid > 0, "fork failed");
        Self { pid }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    pub(crate) fn kill(&self) {
        // SAFETY: a child that wasn't waited for yet, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.pid, libc::SIGKILL) }, 0);
    }

    /// Waits for its end; `None` if a signal killed it.
    pub(crate) fn wait(self) -> Option<i32> {
        let mut status = 0;
        // SAFETY: status is a local.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(waited, self.pid);
        libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
    }

    pub(crate) fn kill_and_wait(self) {
        self.kill();
        assert_eq!(self.wait(), None, "it ended before it was killed");
    }
}

/// Ends a forked child without the test harness's exit handlers.
pub(crate) fn exit_child(code: i32) -> ! {
    // SAFETY: ends this process; nothing to hold.
    unsafe { libc::_exit(code) }
}

/// In a forked child, instead of an assertion (which would unwind into the harness).
pub(crate) fn check(is_true: bool, code: i32) {
    if !is_true {
        exit_child(code);
    }
}
