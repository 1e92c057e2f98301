// SPDX-License-Identifier: MIT
//! The moments between two stores at which a process may be killed.
//!
//! SIGKILL stops a process between two instructions, and all that it stored before becomes
//! visible. So what it leaves in shared memory is a prefix of its stores, in the order in which
//! the compiler left them. [`step`] stands between stores whose order a survivor relies on: the
//! compiler moves nothing over it, and the tests of this crate kill a process at each of them.

use crate::primitive::{Ordering, compiler_fence};

/// A survivor may find the stores before this and none of those after it. No instruction.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "it is a fence for its caller's stores"
)]
pub(crate) fn step() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(test)]
    testing::count_step();
}

#[cfg(test)]
pub(crate) mod testing {
    use core::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    thread_local! {
        /// Steps that this thread has left; `None`: it lives on.
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
        /// What stops it then.
        static SIGNAL: Cell<libc::c_int> = const { Cell::new(libc::SIGKILL) };
    }

    pub(super) fn count_step() {
        match LEFT.get() {
            None => {}
            Some(0) => stop(),
            Some(left) => LEFT.set(Some(left - 1)),
        }
    }

    fn stop() {
        // SAFETY: no arguments that could be wrong.
        let me = unsafe { libc::getpid() };
        LEFT.set(None);
        // SAFETY: as above.
        unsafe { libc::kill(me, SIGNAL.get()) };
        assert_eq!(SIGNAL.get(), libc::SIGSTOP, "SIGKILL can't be survived");
    }

    /// More steps than anybody takes.
    pub(crate) const NEVER: u32 = u32::MAX;

    /// This process, a child, is killed at its `steps`-th step from here.
    pub(crate) fn arm(steps: u32) {
        LEFT.set(Some(steps));
    }

    /// This process is stopped instead of killed.
    pub(crate) fn only_stop() {
        SIGNAL.set(libc::SIGSTOP);
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

    /// A forked child that runs beside its parent; to be waited for.
    #[must_use]
    pub(crate) struct Started(libc::pid_t);

    /// As [`die_at`], without waiting for the child's end.
    pub(crate) fn start(steps: u32, action: impl FnOnce()) -> Started {
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

    /// Kills a child at its first step, at its second one, and so on until one finishes.
    /// `check` sees what each leaves. To be called, and its census taken, [`alone`].
    pub(crate) fn die_everywhere(mut action: impl FnMut(), mut check: impl FnMut(Child)) {
        for steps in 0.. {
            let child = die_at(steps, &mut action);
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
}

#[cfg(test)]
mod tests;
