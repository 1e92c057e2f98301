// SPDX-License-Identifier: MIT
//! Numbers for the threads of this process, and which of them a fork left behind.

use core::cell::Cell;

use super::Token;
use crate::primitive::{AtomicU32, Ordering};

/// The next thread's number.
static NEXT: AtomicU32 = AtomicU32::new(1);
/// Numbers below this were given out before this process was forked off ...
static FORKED_AT: AtomicU32 = AtomicU32::new(0);
/// ... and of those only this thread, which forked, lives on here.
static SURVIVOR: AtomicU32 = AtomicU32::new(0);

/// The number of this thread; a forked child's first thread keeps its parent's.
#[inline]
pub(crate) fn current() -> Token {
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    match Token::from_bits(NUMBER.get()) {
        Some(token) => token,
        None => number_this_thread(&NUMBER),
    }
}

#[cold]
fn number_this_thread(number: &'static std::thread::LocalKey<Cell<u32>>) -> Token {
    // Relaxed: only uniqueness matters.
    number.set(NEXT.fetch_add(1, Ordering::Relaxed));
    Token::from_bits(number.get()).expect("a process doesn't start 2^31 threads")
}

/// Whether a fork left the thread behind. (A thread that has merely ended isn't gone: nobody
/// asked it to give its locks back, as with the standard library's.)
pub(super) fn is_gone(token: Token) -> bool {
    // Relaxed: written by the only thread of a fresh child.
    token.bits() < FORKED_AT.load(Ordering::Relaxed)
        && token.bits() != SURVIVOR.load(Ordering::Relaxed)
}

/// In a forked child, in its only thread: all others are gone.
pub(super) fn leave_others_behind() {
    SURVIVOR.store(current().bits(), Ordering::Relaxed);
    FORKED_AT.store(NEXT.load(Ordering::Relaxed), Ordering::Relaxed);
}
