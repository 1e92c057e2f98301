// SPDX-License-Identifier: MIT
//! What the dead leave behind in a list: waiters that were killed, and the holder of its mutex.
//!
//! Invariant: a waiter that was told something and didn't live to use it leaves that to at most
//! one other, even if the one who sees to it is killed in the middle.

use super::{Ending, Section, Waiter, chain, node};
use crate::crash;
use crate::primitive::Ordering::Relaxed;
use crate::storage::{Address, Token};

impl Section<'_> {
    /// Whether a waiter's process has died; asks the kernel.
    pub(in crate::sync) fn is_dead(&self, waiter: Waiter<'_>) -> bool {
        Token::from_bits(waiter.node.owner.load(Relaxed))
            .is_none_or(|owner| self.storage.is_gone(owner))
    }

    /// Removes a waiter that is dead.
    pub(in crate::sync) fn bury(&self, dead: Waiter<'_>) {
        self.remove(dead.address);
    }

    /// Removes the waiters whose processes have died; says how many of them were still waiting.
    /// What a dead one was told goes to the first waiter that `heir` likes, if any.
    pub(in crate::sync) fn bury_dead(
        &self,
        heir: impl Fn(Waiter<'_>, Waiter<'_>) -> bool,
    ) -> usize {
        let mut waiting = 0;
        for (address, node) in chain(self.storage, &self.list.head) {
            let owner = Token::from_bits(node.owner.load(Relaxed));
            if owner.is_some_and(|owner| !self.storage.seems_gone(owner)) {
                continue;
            }
            let dead = Waiter { node, address };
            match Ending::of(node) {
                None => waiting += 1,
                Some(ending) => {
                    if let Some(heir) = self.waiting().find(|&waiter| heir(dead, waiter)) {
                        self.bequeath(dead, ending, heir);
                    }
                }
            }
            self.bury(dead);
            crash::step!("heir.forgetting");
            self.list.heir.store(0, Relaxed);
            crash::step!("heir.forgotten");
        }
        waiting
    }

    fn bequeath(&self, dead: Waiter<'_>, ending: Ending, heir: Waiter<'_>) {
        crash::step!("heir.choosing");
        self.list.in_hand.store(dead.address.bits(), Relaxed);
        crash::step!("heir.dead_in_hand");
        self.list.heir.store(heir.address.bits(), Relaxed);
        crash::step!("heir.chosen");
        heir.set_told_tag(dead.told_tag());
        // If that one is dead, too, whoever buries it passes it on again.
        let _ = self.tell(heir, ending);
    }

    /// Completes what a holder was in the middle of when it died.
    #[cold]
    pub(super) fn mend(&self) {
        // A node that was being allocated or freed: then the storage's intent leads to `in_hand`.
        self.storage.mend();
        let last = chain(self.storage, &self.list.head).last();
        let tail = last.map_or(0, |(address, _)| address.bits());
        crash::step!("wait_list.mending");
        self.list.tail.store(tail, Relaxed);
        crash::step!("wait_list.mend.tail");
        let in_hand = Address::from_bits(self.list.in_hand.load(Relaxed));
        let heir = Address::from_bits(self.list.heir.load(Relaxed));
        let has_inherited = node(self.storage, heir).and_then(Ending::of).is_some();
        if let Some(node) = node(self.storage, in_hand) {
            let is_in = |first| chain(self.storage, first).any(|(address, _)| address == in_hand);
            if is_in(&self.list.head) {
                // Its waiter is dead, and the heir has what it was told.
                if has_inherited {
                    self.remove(in_hand);
                }
            } else if !is_in(&self.list.spares) {
                self.keep_or_free(in_hand, node);
            }
        }
        crash::step!("wait_list.mend.chains");
        self.list.in_hand.store(0, Relaxed);
        crash::step!("wait_list.mend.hand");
        self.list.heir.store(0, Relaxed);
        crash::step!("wait_list.mended");
    }
}
