// SPDX-License-Identifier: MIT
//! For tests of this crate: children that are killed at a step.

use core::cell::Cell;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::faults::{self, Fault};
use super::steps::NAMES;
use crate::primitive::Ordering::Relaxed;
use crate::primitive::unmodelled::AtomicU32;

/// What children note for their parents.
#[repr(C)]
struct Notes {
    /// Whether a child was killed or stopped at a step, or would have been.
    reached: [AtomicU32; NAMES.len()],
    /// The last one, plus one.
    last: AtomicU32,
}

static NOTES: OnceLock<&'static Notes> = OnceLock::new();

thread_local! {
    static IS_SURVEY: Cell<bool> = const { Cell::new(false) };
    /// What becomes of who is armed here.
    static FAULT: Cell<Fault> = const { Cell::new(Fault::Kill) };
}

/// Memory that children share with their parent, and with nobody else.
fn notes() -> &'static Notes {
    NOTES.get_or_init(|| {
        let (length, protection) = (size_of::<Notes>(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), length, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let notes = NonNull::new(start).expect("mapped").cast();
        // SAFETY: mapped for ever, of that size, all zero; made of atomics.
        unsafe { notes.as_ref() }
    })
}

/// In a child that ends or stops here, or is surveyed.
pub(super) fn note(number: u32) {
    if let Some(notes) = NOTES.get() {
        notes.reached[number as usize].store(1, Relaxed);
        notes.last.store(number + 1, Relaxed);
    }
}

/// For messages: the step at which a child died last.
pub(crate) fn last_step() -> &'static str {
    match notes().last.load(Relaxed) {
        0 => "none",
        last => NAMES[last as usize - 1],
    }
}

/// The steps that `scenarios` reach where they would be killed, without killing anybody: what
/// [`each_step`] gives is the end of it at once.
pub(crate) fn survey(scenarios: &[fn()]) -> Vec<&'static str> {
    let notes = notes();
    for it in &notes.reached {
        it.store(0, Relaxed);
    }
    IS_SURVEY.set(true);
    for scenario in scenarios {
        scenario();
    }
    IS_SURVEY.set(false);
    let names = NAMES.iter().zip(&notes.reached);
    let reached = names.filter(|(_, it)| it.load(Relaxed) != 0);
    reached.map(|(name, _)| *name).collect()
}

pub(crate) fn is_survey() -> bool {
    IS_SURVEY.get()
}

/// More steps than anybody takes.
pub(crate) const NEVER: u32 = u32::MAX;
/// Nobody is killed; all steps are noted.
const SURVEYED: u32 = u32::MAX - 1;

/// The numbers of steps after which a child is to be killed: to be left when one finishes.
pub(crate) fn each_step() -> impl Iterator<Item = u32> {
    let is_survey = is_survey();
    (0..).map(move |steps| if is_survey { SURVEYED } else { steps })
}

/// This process, a child, is killed at its `steps`-th step from here.
pub(crate) fn arm(steps: u32) {
    match steps {
        NEVER => {}
        SURVEYED => faults::start_counting(),
        steps => faults::arm_any(FAULT.get(), steps + 1),
    }
}

/// This process is stopped instead of killed.
pub(crate) fn only_stop() {
    FAULT.set(Fault::Stop);
    faults::change(Fault::Stop);
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Finished,
    Killed,
}

/// Runs `action` in a forked child that is killed at its `steps`-th step, if it gets there.
pub(crate) fn die_at(steps: u32, action: impl FnOnce()) -> Child {
    start(steps, action).wait()
}

/// Runs `action` in a forked child that dies as `fault` describes.
pub(crate) fn die_by(fault: &str, action: impl FnOnce()) {
    let child = die_at(NEVER, || {
        faults::arm(fault).expect("well described");
        action();
    });
    assert_eq!(child, Child::Killed, "{fault}");
}

/// A forked child that runs beside its parent; to be waited for.
#[must_use]
pub(crate) struct Started(libc::pid_t);

/// As [`die_at`], without waiting for the child's end.
pub(crate) fn start(steps: u32, action: impl FnOnce()) -> Started {
    notes();
    crate::family::before_fork();
    // SAFETY: the child runs nothing but `action`, which doesn't need other threads.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // One that hangs ends by this signal.
        // SAFETY: sets a timer of this process.
        unsafe { libc::alarm(30) };
        crate::storage::after_fork_in_child();
        crate::family::after_fork_in_child();
        arm(steps);
        // A panic that left the thread would end the process, its only one, with status 0.
        let outcome = catch_unwind(AssertUnwindSafe(action));
        // SAFETY: ends this process, without the test harness's exit handlers.
        unsafe { libc::_exit(if outcome.is_ok() { 0 } else { 101 }) };
    }
    crate::family::after_fork_in_parent();
    assert!(pid > 0, "fork failed");
    Started(pid)
}

impl Started {
    /// Waits until the child has stopped or ended; whether it has stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        let mut status = 0;
        // SAFETY: status is a local.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, libc::WUNTRACED) };
        assert_eq!(pid, self.0);
        assert!(
            libc::WIFSTOPPED(status) || status == 0,
            "the child failed: {status:#x}"
        );
        libc::WIFSTOPPED(status)
    }

    /// Lets a stopped child go on.
    pub(crate) fn go_on(&self) {
        // SAFETY: a child that wasn't waited for yet, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.0, libc::SIGCONT) }, 0);
    }

    pub(crate) fn wait(self) -> Child {
        let mut status = 0;
        // SAFETY: status is a local.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "the child failed");
            Child::Finished
        } else {
            assert_eq!(libc::WTERMSIG(status), libc::SIGKILL, "the child hangs");
            Child::Killed
        }
    }
}

/// Says where a child was killed, if the test fails.
pub(crate) struct Told(pub(crate) u32);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("killed at step {}, {}", self.0, last_step());
        }
    }
}

/// Kills a child at its first step, at its second one, and so on until one finishes.
/// `check` sees what each leaves. To be called, and its census taken, [`alone`].
pub(crate) fn die_everywhere(mut action: impl FnMut(), mut check: impl FnMut(Child)) {
    for steps in each_step() {
        let child = die_at(steps, &mut action);
        let _told = Told(steps);
        check(child);
        if child == Child::Finished {
            assert!(steps > 0, "there was no step to be killed at");
            return;
        }
    }
}

/// Tests that count what is in the family's memory run one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
