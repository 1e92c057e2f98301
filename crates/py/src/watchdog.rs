// SPDX-License-Identifier: MIT
//! The watchdog that ends a worker process when its parent has died.

use core::time::Duration;
use std::thread;

use freethreading_core::process::{Ended, Process};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use rustix::process::{Signal, getpid, kill_process};

/// What a worker gets to clean up between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// How often the parent is looked for where nobody can wait for it (no pidfds).
const POLL: Duration = Duration::from_millis(500);

/// The start time of a process, by which it is told apart from a later one with its id; 0 if
/// unknown.
#[pyfunction]
pub(crate) fn process_start_time() -> u64 {
    Process::current().start_time
}

/// Ends this process when that one has died: SIGTERM, and SIGKILL a second later.
///
/// The watchdog is a thread that never touches Python, so it works whatever the worker does.
#[pyfunction]
pub(crate) fn watch_parent(pid: u32, start_time: u64) -> PyResult<()> {
    let parent = Process { pid, start_time };
    thread::Builder::new()
        .name("freethreading-watchdog".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || watch(parent))
        .map(drop)
        .map_err(|error| PyOSError::new_err(format!("can't start the watchdog thread: {error}")))
}

fn watch(parent: Process) {
    while parent.wait_end() == Ended::CannotWait && parent.is_alive() {
        pause(POLL);
    }
    // An error here would mean that we don't exist.
    let _ = kill_process(getpid(), Signal::TERM);
    pause(GRACE);
    let _ = kill_process(getpid(), Signal::KILL);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the watchdog waits for time to pass, nothing else"
)]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
