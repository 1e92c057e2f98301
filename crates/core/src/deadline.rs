// SPDX-License-Identifier: MIT
//! Absolute points of the monotonic clock. A timeout becomes a deadline once, at the public
//! call, so that waits that are repeated (signals, spurious wakes) never add up.

use core::time::Duration;

use rustix::time::Timespec;
#[cfg(not(loom))]
use rustix::time::{ClockId, clock_gettime};

#[cfg(not(loom))]
fn now() -> Timespec {
    clock_gettime(ClockId::Monotonic)
}

/// The time of the model, which starts at zero.
#[cfg(loom)]
fn now() -> Timespec {
    crate::futex::modelled::now()
        .try_into()
        .expect("a model takes no centuries")
}

const NANOS_PER_SEC: i64 = 1_000_000_000;

/// A point of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    secs: i64,
    nanos: i64,
}

impl Deadline {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = now();
        Self {
            secs: now.tv_sec,
            nanos: now.tv_nsec,
        }
    }

    /// `timeout` from now; `None`, which means for ever, if the clock can't say that.
    #[must_use]
    pub fn after(timeout: Duration) -> Option<Self> {
        let now = Self::now();
        let secs = now
            .secs
            .checked_add(i64::try_from(timeout.as_secs()).ok()?)?;
        let nanos = now.nanos + i64::from(timeout.subsec_nanos());
        let carry = i64::from(nanos >= NANOS_PER_SEC);
        Some(Self {
            secs: secs.checked_add(carry)?,
            nanos: nanos - carry * NANOS_PER_SEC,
        })
    }

    /// Whether the point lies in the past.
    #[must_use]
    pub fn has_passed(self) -> bool {
        Self::now() >= self
    }

    /// Milliseconds since some moment, in a circle of 49 days.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it goes in a circle"
    )]
    pub(crate) fn millis(self) -> u32 {
        (self.secs.wrapping_mul(1000) + self.nanos / 1_000_000) as u32
    }

    /// Whether it comes no later than when `time` has passed since the clock's zero.
    #[cfg(loom)]
    pub(crate) fn is_at_or_before(self, time: Duration) -> bool {
        Timespec::try_from(time).is_ok_and(|time| self.timespec() <= time)
    }

    pub(crate) fn timespec(self) -> Timespec {
        Timespec {
            tv_sec: self.secs,
            tv_nsec: self.nanos,
        }
    }
}

/// The earlier of two deadlines, where `None` is never.
#[must_use]
pub fn earlier(a: Option<Deadline>, b: Option<Deadline>) -> Option<Deadline> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_past_the_end_of_the_clock_is_for_ever() {
        assert_eq!(Deadline::after(Duration::MAX), None);
        assert_eq!(Deadline::after(Duration::from_secs(u64::MAX)), None);
    }

    #[test]
    fn nanoseconds_carry_into_seconds() {
        let now = Deadline::now();
        let later = Deadline::after(Duration::new(3, 999_999_999)).expect("in range");
        assert!(later > now);
        assert!(later.nanos < NANOS_PER_SEC);
        assert!(later.secs - now.secs >= 3);
    }

    #[test]
    fn zero_has_passed_at_once() {
        assert!(
            Deadline::after(Duration::ZERO)
                .expect("in range")
                .has_passed()
        );
    }

    #[test]
    fn earlier_takes_never_as_latest() {
        let now = Some(Deadline::now());
        assert_eq!(earlier(None, now), now);
        assert_eq!(earlier(now, None), now);
        assert_eq!(earlier(None, None), None);
    }
}
