// SPDX-License-Identifier: MIT
//! How fast outcomes come in, as seen by who waits for all of a job's.
//!
//! Where tasks are short, whoever slept until there is an outcome would be woken for each, which takes
//! longer than the task. So it sleeps for a moment, not to be woken, as long as the workers have
//! enough to do meanwhile.

use core::time::Duration;
use std::time::Instant;

use super::job::Job;

/// How long such a moment is (with what the kernel adds, about twice as long), and how fast outcomes
/// must come that it is worth it.
pub(super) const MOMENT: Duration = Duration::from_micros(50);
const FAST: Duration = Duration::from_micros(25);
/// So many tasks are enough for all workers for a moment and more: they take at least half a microsecond.
const ENOUGH: usize = 200;

/// Is fast or not, as the last outcomes were.
#[derive(Default)]
pub(super) struct Pace {
    is_fast: bool,
}

impl Pace {
    /// So many outcomes have been taken since `begin`; and perhaps not `all` that there were.
    pub(super) fn note(&mut self, begin: Instant, outcomes: usize, all: bool) {
        let outcomes = u32::try_from(outcomes).unwrap_or(u32::MAX);
        self.is_fast = all && outcomes > 0 && begin.elapsed() < FAST.saturating_mul(outcomes);
    }

    /// Whether to sleep for a moment, before outcomes of the job are looked for.
    pub(super) fn lets_gather(&self, job: &Job) -> bool {
        self.is_fast && job.form.is_whole() && job.lock().in_flight() >= ENOUGH
    }
}
