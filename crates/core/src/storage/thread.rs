// SPDX-License-Identifier: MIT
//! Numbers for the threads of this process, which of them a fork left behind, and how the kernel
//! numbers them.

use core::cell::Cell;
use std::collections::HashMap;

use super::Token;
use super::fork_safe::ForkSafe;
use crate::primitive::Ordering;
use crate::primitive::unmodelled::AtomicU32;

/// The next thread's number.
static NEXT: AtomicU32 = AtomicU32::new(1);
/// Numbers below this were given out before this process was forked off ...
static FORKED_AT: AtomicU32 = AtomicU32::new(0);
/// ... and of those only this thread, which forked, lives on here.
static SURVIVOR: AtomicU32 = AtomicU32::new(0);

/// The number of this thread; a forked child's first thread keeps its parent's.
#[inline]
pub(crate) fn current() -> Token {
    #[cfg(loom)]
    if let Some(token) = crate::primitive::modelled::thread_number().and_then(Token::from_bits) {
        return token;
    }
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
    let token = Token::from_bits(number.get()).expect("a process doesn't start 2^31 threads");
    // The mutex of the table asks for the number, so this comes after it is set. A thread that
    // is ending, past its other values, isn't listed.
    if ENTRY.try_with(|entry| entry.token.set(Some(token))).is_ok() {
        IDS.with(|ids| ids.insert(token, kernel_id()));
    }
    token
}

/// The threads that have numbers and haven't ended.
static IDS: ForkSafe<HashMap<Token, u32>> = ForkSafe::new();

/// Ends with the thread, and ends its listing.
struct Entry {
    token: Cell<Option<Token>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(token) = self.token.get() {
            IDS.with(|ids| ids.remove(&token));
        }
    }
}

thread_local! {
    static ENTRY: Entry = const { Entry { token: Cell::new(None) } };
}

fn kernel_id() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// The kernel's number of a thread, if it hasn't ended.
pub(super) fn id(token: Token) -> Option<u32> {
    IDS.with(|ids| ids.get(&token).copied())
}

/// Whether a fork left the thread behind. (A thread that has merely ended isn't gone: nobody
/// asked it to give its locks back, as with the standard library's.)
pub(super) fn is_gone(token: Token) -> bool {
    #[cfg(loom)]
    if let Some(has_died) = crate::primitive::modelled::has_died(token.bits()) {
        return has_died;
    }
    // Relaxed: written by the only thread of a fresh child.
    token.bits() < FORKED_AT.load(Ordering::Relaxed)
        && token.bits() != SURVIVOR.load(Ordering::Relaxed)
}

/// In a forked child, in its only thread: all others are gone.
pub(super) fn leave_others_behind() {
    // First of all: the table's mutex may be held by one of those, and a thread without a number
    // asks for it to get one (which isn't below this).
    FORKED_AT.store(NEXT.load(Ordering::Relaxed), Ordering::Relaxed);
    let me = current();
    SURVIVOR.store(me.bits(), Ordering::Relaxed);
    IDS.with(|ids| {
        ids.clear();
        ids.insert(me, kernel_id());
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::{Barrier, OnceLock};
    use std::thread;

    use super::*;
    use crate::crash::testing::{Child, NEVER, alone, die_at};

    /// The child asked for a number before it knew that nobody else lives, and waited for ever
    /// for one that had been in the table.
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_thread_without_a_number_forks_while_another_is_in_the_table() {
        a_thread_without_a_number_forks_beside(|wait| IDS.with(|_| wait()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_thread_without_a_number_forks_beside_another() {
        a_thread_without_a_number_forks_beside(|wait| wait());
    }

    fn a_thread_without_a_number_forks_beside(other: impl FnOnce(&dyn Fn()) + Send) {
        let _alone = alone();
        let (is_there, is_over) = (Barrier::new(2), Barrier::new(2));
        let others = OnceLock::new();
        let fork = || {
            let others = *others.get().expect("set before");
            die_at(NEVER, || {
                let me = current();
                assert!(
                    me.bits() >= FORKED_AT.load(Ordering::Relaxed),
                    "numbered before"
                );
                assert!(is_gone(others) && !is_gone(me));
                assert_eq!((id(me), id(others)), (Some(kernel_id()), None));
            })
        };
        let outcome = thread::scope(|threads| {
            threads.spawn(|| {
                others.set(current()).expect("set once");
                other(&|| {
                    is_there.wait();
                    is_over.wait();
                });
            });
            is_there.wait();
            let outcome = threads.spawn(fork).join();
            is_over.wait();
            outcome
        });
        assert_eq!(outcome.expect("the child lives"), Child::Finished);
    }
}
