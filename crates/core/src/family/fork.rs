// SPDX-License-Identifier: MIT
//! What must happen around a fork, so that the child holds what it has copies of.

use core::cell::RefCell;

use super::Family;
use super::families;
use super::processes::{slot_of, unregistered};
use crate::primitive::Ordering::Relaxed;
use crate::process::children_of_this_thread;
use crate::storage::Token;

/// What a thread notes for the fork that it is about to make.
#[derive(Default)]
struct Forking {
    /// Slots reserved for the child, one for each family.
    reserved: Vec<Option<Token>>,
    /// The children that the thread has already.
    children: Vec<u32>,
}

thread_local! {
    static FORKING: RefCell<Forking> = RefCell::default();
}

/// Before a fork, in the thread that forks: everything that this process holds is held in the
/// child's name as well, so that the parent may drop it at once.
pub fn before_fork() {
    if Family::existing_home().is_none() {
        return;
    }
    let reserved = families()
        .map(|family| {
            let child = family.reserve().ok()?;
            family.locked(|| family.copy_holder(slot_of(family.me()), slot_of(child)));
            Some(child)
        })
        .collect();
    let children = children_of_this_thread();
    FORKING.set(Forking { reserved, children });
}

/// After a fork, in the parent.
pub fn after_fork_in_parent() {
    let forking = FORKING.take();
    let reserved = || {
        families()
            .zip(&forking.reserved)
            .filter_map(|(family, reserved)| {
                reserved
                    .filter(|&token| family.processes().is_reserved(token))
                    .map(|token| (family, token))
            })
    };
    if reserved().next().is_none() {
        return;
    }
    // The hook isn't told whom it forked. More than one new child (another thread ended and
    // left us its own) or none (it was waited for already) leaves that open; then a child that
    // is killed before it adopts its slot holds it until this process ends.
    let mut new = children_of_this_thread();
    new.retain(|pid| !forking.children.contains(pid));
    if let [child] = new[..] {
        reserved().for_each(|(family, token)| family.processes().expect(token, child));
    }
}

/// After a fork, in the child: takes the slots that [`before_fork`] reserved, or others, and
/// makes up for what other threads did between [`before_fork`] and the fork.
pub fn after_fork_in_child() {
    let reserved = FORKING.take().reserved;
    for (family, reserved) in families().zip(reserved.into_iter().chain(core::iter::repeat(None))) {
        // No step: this process's own.
        family.me.store(unregistered().bits(), Relaxed);
        // With a full table the child works on unregistered: it keeps nothing alive by itself,
        // and its death goes unnoticed.
        if family.register(reserved).is_ok() {
            family.hold_what_is_counted();
        }
    }
}
