// SPDX-License-Identifier: MIT
//! Faults on purpose: this process is killed, aborted, stopped or delayed at a step of its choice.
//!
//! Only in builds with the feature `faults`, for tests. The environment variable
//! `FREETHREADING_FAULT`, read when the first step is reached, or [`arm`] says which step:
//!
//! ```text
//! side.staged:kill        SIGKILL when that step is reached
//! side.staged:stop:3      SIGSTOP when it is reached for the third time
//! *:kill:17               SIGKILL at the 17th step from here, whichever that is
//! ```
//!
//! `abort` is SIGABRT, `delay` a sleep of [`DELAY`]. A fault happens once, and a process that goes on
//! after it does so unharmed. A child that is forked before has it before it, too.

use core::fmt;
use core::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::steps::NAMES;
use crate::primitive::Ordering::Relaxed;
use crate::primitive::unmodelled::AtomicU32;

/// Names the environment variable.
pub const VARIABLE: &str = "FREETHREADING_FAULT";

/// How long `delay` takes: longer than anybody looks without sleeping, and than the first sleep of
/// who waits for a mutex.
pub const DELAY: Duration = Duration::from_millis(20);

/// Any step, instead of the number of one.
const ANY: u32 = u32::MAX;

/// What is done at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGABRT.
    Abort,
    /// SIGSTOP.
    Stop,
    /// A sleep.
    Delay,
}

const FAULTS: [(&str, Fault); 4] = [
    ("kill", Fault::Kill),
    ("abort", Fault::Abort),
    ("stop", Fault::Stop),
    ("delay", Fault::Delay),
];

/// Why a description of a fault isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It isn't `name:fault` or `name:fault:times`.
    Form,
    /// There is no step of that name.
    Name,
    /// There is no such fault.
    Fault,
    /// The number of times isn't one, or zero.
    Times,
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Form => "a fault is described as `step:fault` or `step:fault:times`",
            Self::Name => "there is no step of that name",
            Self::Fault => "a fault is kill, abort, stop or delay",
            Self::Times => "the times are a number, 1 or more",
        })
    }
}

impl core::error::Error for Malformed {}

/// Whether there is anything to do at a step: one load is all that it costs while there isn't.
static MODE: AtomicU32 = AtomicU32::new(UNREAD);
const UNREAD: u32 = 0;
const IDLE: u32 = 1;
const BUSY: u32 = 2;

// All Relaxed: whoever arms a fault for other threads than its own sees to it that they come after.
static STEP: AtomicU32 = AtomicU32::new(0);
/// Times that the step is still to be reached; 0: nothing is armed.
static LEFT: AtomicU32 = AtomicU32::new(0);
static FAULT: AtomicU32 = AtomicU32::new(0);
static IS_COUNTING: AtomicU32 = AtomicU32::new(0);
static COUNTS: [AtomicU32; NAMES.len()] = [const { AtomicU32::new(0) }; NAMES.len()];

/// The names of all steps.
#[must_use]
pub fn names() -> &'static [&'static str] {
    NAMES
}

/// Arms the fault that is described, instead of the one that was armed before.
///
/// # Errors
///
/// [`Malformed`]; nothing has changed then.
pub fn arm(description: &str) -> Result<(), Malformed> {
    let (step, fault, times) = parse(description)?;
    arm_step(step, fault, times);
    Ok(())
}

/// From here on, counts how often this process reaches each step.
pub fn start_counting() {
    for count in &COUNTS {
        count.store(0, Relaxed);
    }
    IS_COUNTING.store(1, Relaxed);
    MODE.store(BUSY, Relaxed);
}

/// How often this process, or before that its parent, has reached each step.
pub fn counts() -> impl Iterator<Item = (&'static str, u32)> {
    let counts = COUNTS.iter().map(|count| count.load(Relaxed));
    NAMES.iter().copied().zip(counts)
}

fn parse(description: &str) -> Result<(u32, Fault, u32), Malformed> {
    let mut parts = description.split(':');
    let (Some(name), Some(fault)) = (parts.next(), parts.next()) else {
        return Err(Malformed::Form);
    };
    let times = match (parts.next(), parts.next()) {
        (None, _) => 1,
        (Some(times), None) => times.parse().map_err(|_| Malformed::Times)?,
        _ => return Err(Malformed::Form),
    };
    if times == 0 {
        return Err(Malformed::Times);
    }
    let step = match name {
        "*" => ANY,
        name => number_of(name).ok_or(Malformed::Name)?,
    };
    let known = FAULTS.iter().find(|(name, _)| *name == fault);
    Ok((step, known.ok_or(Malformed::Fault)?.1, times))
}

fn number_of(name: &str) -> Option<u32> {
    let found = NAMES.iter().position(|known| *known == name)?;
    u32::try_from(found).ok()
}

fn arm_step(step: u32, fault: Fault, times: u32) {
    STEP.store(step, Relaxed);
    FAULT.store(fault as u32, Relaxed);
    LEFT.store(times, Relaxed);
    MODE.store(BUSY, Relaxed);
}

/// At a step.
#[inline]
pub(super) fn reach(number: u32) {
    if MODE.load(Relaxed) != IDLE {
        act(number);
    }
}

#[cold]
fn act(number: u32) {
    if MODE.load(Relaxed) == UNREAD {
        read_environment();
    }
    if IS_COUNTING.load(Relaxed) != 0 {
        COUNTS[number as usize].fetch_add(1, Relaxed);
        #[cfg(test)]
        super::testing::note(number);
    }
    let step = STEP.load(Relaxed);
    if (step != number && step != ANY) || LEFT.load(Relaxed) == 0 {
        return;
    }
    // Of several threads one makes it zero.
    if LEFT.fetch_sub(1, Relaxed) == 1 {
        #[cfg(test)]
        super::testing::note(number);
        commit(FAULT.load(Relaxed));
    }
}

/// Twice is no harm.
fn read_environment() {
    // Before it is read: reading reaches no step, but must not be in the way of `arm`.
    let _ = MODE.compare_exchange(UNREAD, IDLE, Relaxed, Relaxed);
    let Ok(description) = std::env::var(VARIABLE) else {
        return;
    };
    if let Err(malformed) = arm(&description) {
        // Lest a test take a fault that can't happen for one that was survived.
        eprintln!("{VARIABLE}={description}: {malformed}");
        std::process::abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "to sleep is what it was told")]
fn commit(fault: u32) {
    let signal = match fault {
        it if it == Fault::Kill as u32 => Signal::KILL,
        it if it == Fault::Stop as u32 => Signal::STOP,
        it if it == Fault::Delay as u32 => return std::thread::sleep(DELAY),
        _ => std::process::abort(),
    };
    // An error can't be: the process is there, and its own.
    let _ = kill_process(getpid(), signal);
}

#[cfg(test)]
pub(super) fn arm_any(fault: Fault, times: u32) {
    arm_step(ANY, fault, times);
}

#[cfg(test)]
pub(super) fn change(fault: Fault) {
    FAULT.store(fault as u32, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_read() {
        let first = NAMES[0];
        let kill = parse(&format!("{first}:kill"));
        assert_eq!(kill, Ok((0, Fault::Kill, 1)));
        assert_eq!(parse("*:stop:17"), Ok((ANY, Fault::Stop, 17)));
        let last = NAMES[NAMES.len() - 1];
        let number = u32::try_from(NAMES.len() - 1).expect("few");
        let delay = parse(&format!("{last}:delay:2"));
        assert_eq!(delay, Ok((number, Fault::Delay, 2)));
        assert_eq!(parse("*:abort").map(|it| it.1), Ok(Fault::Abort));
    }

    #[test]
    fn wrong_descriptions_are_refused() {
        for (wrong, why) in [
            ("", Malformed::Form),
            ("*", Malformed::Form),
            ("*:kill:1:1", Malformed::Form),
            ("no.such.step:kill", Malformed::Name),
            ("*:explode", Malformed::Fault),
            ("*:kill:0", Malformed::Times),
            ("*:kill:once", Malformed::Times),
        ] {
            assert_eq!(parse(wrong), Err(why), "{wrong}");
            assert!(!why.to_string().is_empty());
        }
    }
}
