// SPDX-License-Identifier: MIT
//! Waits that look around more often than a heartbeat, so that a test can afford many deaths.

use std::cell::Cell;
use std::time::Duration;

use freethreading_core::deadline::Deadline;
use freethreading_core::futex::{FutexWord, Scope, Woken};
use freethreading_core::park::{Park, Parked, Uninterruptible, sleep};

use crate::board::{Board, Life, ORDER, Phase};

const HEARTBEAT: Duration = Duration::from_millis(2);

/// Like `Uninterruptible`, with a quick heart.
pub(crate) struct Hurried;

impl Park for Hurried {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        let beat = Deadline::after(HEARTBEAT);
        let until = deadline.into_iter().chain(beat).min();
        match sleep(word, expected, scope, until) {
            Woken::ByDeadline if until == deadline => Parked::TimedOut,
            Woken::ByDeadline | Woken::Maybe | Woken::BySignal => Parked::Retry,
        }
    }
}

/// Notes how many kills had been announced when the wait began.
pub(crate) struct Noting<'a> {
    board: &'a Board,
    /// `None` if it had not to wait.
    pub(crate) kills_before: Cell<Option<u32>>,
}

impl<'a> Noting<'a> {
    pub(crate) fn new(board: &'a Board) -> Self {
        Self {
            board,
            kills_before: Cell::new(None),
        }
    }
}

impl Park for Noting<'_> {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        Hurried.park(word, expected, scope, deadline)
    }

    fn spin(&self, is_ready: impl FnMut() -> bool) -> bool {
        self.kills_before.set(Some(self.board.kills.load(ORDER)));
        Uninterruptible.spin(is_ready)
    }
}

/// Tells whether a waiter is surely in a wait list, or may leave it any moment.
pub(crate) struct Tracked<'a>(pub(crate) &'a Life);

impl Park for Tracked<'_> {
    fn park(
        &self,
        word: &impl FutexWord,
        expected: u32,
        scope: Scope,
        deadline: Option<Deadline>,
    ) -> Parked {
        self.0.enter(Phase::Listed);
        let parked = Hurried.park(word, expected, scope, deadline);
        self.0.enter(Phase::Leaving);
        parked
    }

    fn spin(&self, is_ready: impl FnMut() -> bool) -> bool {
        let is_ready = Uninterruptible.spin(is_ready);
        self.0.enter(Phase::Leaving);
        is_ready
    }
}
