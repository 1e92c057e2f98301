// SPDX-License-Identifier: MIT
//! Whether a process is alive, and how to be told when it ends.
//!
//! A process is named by its id and its start time, so that a new process that got an old
//! one's id is never taken for it. Nothing is kept open: a pidfd is opened when somebody asks,
//! which needs no cooperation of the process that died and survives any `fork`. (A file lock
//! per process would be inherited by its forked children and outlive it; a robust futex ends
//! with the thread that took it, not with the process.)

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

/// Miri runs one process and has no `/proc`.
const IS_ONLY_PROCESS: bool = cfg!(miri);

/// A process, told apart from any later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between the boot and the start of the process; 0 if unknown.
    pub start_time: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
        }
    }

    /// Whether the process still runs. A zombie doesn't.
    #[must_use]
    pub fn is_alive(self) -> bool {
        if IS_ONLY_PROCESS {
            return self.pid == std::process::id();
        }
        match self.open() {
            Ok(pidfd) => !has_ended(&pidfd),
            Err(OpenError::Ended) => false,
            Err(OpenError::NoPidfd) => self.is_alive_by_signal(),
        }
    }

    /// Sleeps until the process has ended. Returns at once if pidfds are not to be had here
    /// and the process is alive (the answer says so).
    pub fn wait_end(self) -> Ended {
        match self.open() {
            Err(OpenError::Ended) => Ended::Yes,
            Err(OpenError::NoPidfd) => Ended::CannotWait,
            Ok(pidfd) => loop {
                let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
                match poll(&mut fds, None) {
                    Err(Errno::INTR) => {}
                    Err(_) => return Ended::CannotWait,
                    Ok(_) => return Ended::Yes,
                }
            },
        }
    }

    fn open(self) -> Result<OwnedFd, OpenError> {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(OpenError::Ended)?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Err(OpenError::Ended),
            // EPERM and ENOSYS under a seccomp filter or an old kernel, EMFILE when
            // descriptors have run out: there is another way.
            Err(_) => return Err(OpenError::NoPidfd),
        };
        // Asked after opening: the descriptor can't change its process any more.
        if self.has_other_start_time() {
            Err(OpenError::Ended)
        } else {
            Ok(pidfd)
        }
    }

    fn has_other_start_time(self) -> bool {
        self.start_time != 0 && start_time(self.pid).is_some_and(|now| now != self.start_time)
    }

    fn is_alive_by_signal(self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        test_kill_process(pid) != Err(Errno::SRCH)
            && !self.has_other_start_time()
            && !matches!(
                stat(self.pid),
                Some(Stat {
                    state: b'Z' | b'X',
                    ..
                })
            )
    }
}

/// The answer of [`Process::wait_end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    /// The process has ended.
    Yes,
    /// This system offers no way to wait for it.
    CannotWait,
}

enum OpenError {
    Ended,
    NoPidfd,
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A failed poll (out of memory) must not declare anybody dead.
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

struct Stat {
    state: u8,
    start_time: u64,
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// Fields 3 and 22 of `/proc/<pid>/stat` (see proc(5)).
fn stat(pid: u32) -> Option<Stat> {
    if IS_ONLY_PROCESS {
        return None;
    }
    let file = open(
        format!("/proc/{pid}/stat"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    // The name in field 2 is at most 64 bytes, each number at most 20 digits.
    let mut buffer = [0_u8; 1024];
    let length = rustix::io::read(&file, &mut buffer).ok()?;
    parse_stat(&buffer[..length])
}

fn parse_stat(line: &[u8]) -> Option<Stat> {
    // The name may hold spaces and parentheses; the fields go on after the last one.
    let name_end = line.iter().rposition(|&byte| byte == b')')?;
    let mut fields = line[name_end + 1..]
        .split(|&byte| byte == b' ')
        .filter(|field| !field.is_empty());
    let state = *fields.next()?.first()?;
    let start_time = core::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// The processes that this thread has forked, as far as they weren't waited for. Empty if the
/// kernel was built without this list.
pub(crate) fn children_of_this_thread() -> Vec<u32> {
    let listed = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    listed
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_is_alive_and_has_a_start_time() {
        let me = Process::current();
        assert!(me.start_time > 0);
        assert!(me.is_alive());
        assert!(me.is_alive_by_signal());
    }

    #[test]
    fn a_process_with_the_same_id_and_another_start_is_another() {
        let other = Process {
            start_time: 1,
            ..Process::current()
        };
        assert!(!other.is_alive());
        assert!(!other.is_alive_by_signal());
        assert_eq!(other.wait_end(), Ended::Yes);
    }

    #[test]
    fn a_killed_process_is_dead_even_before_it_is_reaped() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat is part of every system");
        let process = Process {
            pid: child.id(),
            start_time: start_time(child.id()).expect("it runs"),
        };
        assert!(process.is_alive());
        child.kill().expect("ours");
        assert_eq!(process.wait_end(), Ended::Yes);
        assert!(!process.is_alive());
        assert!(!process.is_alive_by_signal());
        child.wait().expect("ours");
        assert!(!process.is_alive());
    }

    #[test]
    fn ids_that_no_process_can_have_are_dead() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert!(!Process { pid, start_time: 0 }.is_alive());
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = b"7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        let stat = parse_stat(line).expect("well-formed");
        assert_eq!((stat.state, stat.start_time), (b'S', 4242));
    }

    #[test]
    fn a_malformed_line_is_none() {
        for line in [&b""[..], b"1 (x)", b"1 (x) S 1 2", b"no parenthesis"] {
            assert!(parse_stat(line).is_none());
        }
    }
}
