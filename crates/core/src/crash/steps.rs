// SPDX-License-Identifier: MIT
//! The names of all steps, in the order of the files and lines where they stand.
//!
//! A name says whose store it is about and how far that has come: `-ing` before, what is true then
//! after it. Each is used in one place. A name that isn't here doesn't compile; `make lint` finds one
//! that isn't used, or twice, and a store without a step before or after it.

/// All names.
#[rustfmt::skip]
pub(super) const NAMES: &[&str] = &[
    // sync/mutex.rs
    "mutex.trying",
    "mutex.taken",
    "mutex.changing",
    "mutex.changed",
    "mutex.unlocking",
    "mutex.unlocked",
    "mutex.unlocking_with_fence",
    "mutex.unlocked_with_fence",
    "mutex.wake.passing",
    "mutex.wake.passed",
    // sync/lock.rs
    "lock.bury.held",
    "lock.bury.named",
    "lock.bury.counted",
    "lock.bury.freed",
    "lock.changing",
    "lock.changed",
    "lock.releasing",
    "lock.released",
    "lock.owner.changing",
    "lock.owner.changed",
    // sync/rlock.rs
    "rlock.deepening",
    "rlock.deepened",
    "rlock.beginning",
    "rlock.named",
    "rlock.begun",
    "rlock.rising",
    "rlock.risen",
    "rlock.leaving",
    "rlock.left",
    "rlock.leaving_in_full",
    "rlock.left_in_full",
    "rlock.restoring",
    "rlock.restored",
    // sync/semaphore.rs
    "semaphore.taking",
    "semaphore.taken",
    "semaphore.giving_up",
    "semaphore.gave_up",
    "semaphore.sleeper.announcing",
    "semaphore.sleeper.announced",
    "semaphore.giving",
    "semaphore.given",
    // sync/semaphore/loans.rs
    "loan.intending",
    "loan.record_intended",
    "loan.intended",
    "loan.noted",
    "loan.settled",
    // sync/per_process.rs
    "record.setting",
    "record.set",
    "record.changing",
    "record.changed",
    "record.writing",
    "record.written",
    // sync/waiters.rs
    "waiters.entered",
    "waiters.leaving",
    "waiters.counting",
    "waiters.counted",
    "waiters.discounting",
    "waiters.discounted",
    // sync/wait_list.rs
    "waiter.sleep.announcing",
    "waiter.sleep.announced",
    "waiter.entering",
    "waiter.enter.state",
    "waiter.enter.owner",
    "waiter.enter.tag",
    "waiter.enter.prepared",
    "waiter.enter.linked",
    "waiter.enter.tail",
    "waiter.entered",
    "spare.taking",
    "spare.in_hand",
    "spare.unlinked",
    "spare.taken",
    "waiter.node.writing",
    "waiter.node.written",
    "waiter.leaving",
    "waiter.leave.in_hand",
    "waiter.leave.unlinked",
    "waiter.left",
    "spare.keeping",
    "spare.prepared",
    "spare.linked",
    "spare.counted",
    "spare.kept",
    "waiter.telling",
    "waiter.told",
    "wait_list.clearing",
    "wait_list.cleared",
    "waiter.tagging",
    "waiter.tagged",
    // sync/wait_list/dead.rs
    "heir.forgetting",
    "heir.forgotten",
    "heir.choosing",
    "heir.dead_in_hand",
    "heir.chosen",
    "wait_list.mending",
    "wait_list.mend.tail",
    "wait_list.mend.chains",
    "wait_list.mend.hand",
    "wait_list.mended",
    // sync/condition.rs
    "condition.counting",
    "condition.counted",
    // sync/barrier.rs
    "barrier.completing",
    "barrier.complete",
    "barrier.runner.entering",
    "barrier.runner.entered",
    "barrier.runner.leaving",
    "barrier.runner.left",
    "barrier.floor.dragging",
    "barrier.floor.dragged",
    "barrier.resetting",
    "barrier.reset",
    "barrier.breaking",
    "barrier.broken",
    "barrier.ending",
    "barrier.end.cycle",
    "barrier.end.floor",
    "barrier.end.told",
    "barrier.ended",
    // sync/event.rs
    "event.setting",
    "event.set",
    "event.clearing",
    "event.cleared",
    "event.sleeper.announcing",
    "event.sleeper.announced",
    // queue.rs
    "queue.emptying",
    "queue.emptied",
    "queue.done.reporting",
    "queue.done.reported",
    // queue/segment.rs
    "segment.preparing",
    "segment.ends",
    "segment.prepared",
    "segment.part.copying",
    "segment.part.copied",
    "segment.header.writing",
    "segment.header.written",
    // queue/side.rs
    "side.looking",
    "side.looked",
    "side.staging",
    "side.stage.segment",
    "side.staged",
    "side.committed",
    "side.advance.segment",
    "side.advance.position",
    "side.synced",
    // queue/claim.rs
    "claim.staging",
    "claim.stage.value",
    "claim.staged",
    "claim.committed",
    "claim.written",
    "claim.settled",
    "claim.mending",
    "claim.mend.written",
    "claim.mended",
    // queue/bell.rs
    "bell.listening",
    "bell.listens",
    "bell.ringing",
    "bell.silenced",
    "bell.rung",
    // pool/seat.rs
    "seat.clearing",
    "seat.cleared",
    "seat.readying",
    "seat.ready",
    // family/processes.rs
    "slot.changing",
    "slot.changed",
    "slot.reserving",
    "slot.reserve.start_time",
    "slot.reserve.creator",
    "slot.reserve.prepared",
    "slot.reserved",
    "slot.enrolling",
    "slot.enroll.start_time",
    "slot.enroll.prepared",
    "slot.enrolled",
    "slot.adopted",
    "slot.adopt.start_time",
    "slot.freeing",
    "slot.freed",
    "name.writing",
    "name.bytes",
    "name.written",
    // family/objects.rs
    "object.zeroing",
    "object.zeroed",
    "object.holders.clearing",
    "object.carriers",
    "object.cargo",
    "object.holders.cleared",
    "object.condemning",
    "object.condemned",
    "holder.setting",
    "holder.set",
    "holder.clearing",
    "holder.cleared",
    // family/cargo.rs
    "cargo.entry.writing",
    "cargo.entry.offset",
    "cargo.entry.written",
    "cargo.skipping",
    "cargo.skipped",
    "cargo.shifting",
    "cargo.carriers",
    "cargo.counting",
    "cargo.counted",
    // family/blobs.rs
    "blob.giving",
    "blob.given",
    "blob.missing",
    "blob.missed",
    "blob.taking",
    "blob.taken",
    // family/runs.rs
    "run.preparing",
    "run.cells",
    "run.kind",
    "run.serial_taken",
    "run.prepared",
    "run.linking",
    "run.linked",
    "intent.writing",
    "intent.offset",
    "intent.cells",
    "intent.word",
    "intent.written",
    "intent.declared",
    "intent.settling",
    "intent.settled",
    "intent.link.changing",
    "intent.link.changed",
    "free_from.raising",
    "free_from.raised",
    "free_from.lowering",
    "free_from.lowered",
    "extent.growing",
    "extent.grown",
    "extent.mapped",
    "extent.added",
    // family/bitmap.rs
    "bitmap.setting",
    "bitmap.set",
    "bitmap.clearing",
    "bitmap.cleared",
    "bitmap.run.changing",
    "bitmap.run.changed",
    // family/trim.rs
    "pages.allowing",
    "pages.allowed",
    "pages.asking",
    "pages.asked",
    "idle.using",
    "idle.used",
    "idle.backing",
    "idle.backed",
    "idle.freeing",
    "idle.freed",
    "idle.recounting",
    "idle.unpunched",
    "idle.recounted",
    "pages.trimmed",
    "pages.punching",
    "pages.punched",
    // family/write.rs
    "write.to_file",
    "write.in_file",
    "write.to_mapping",
    "write.in_mapping",
];

/// The place of a name in the list. For constants: a name that isn't there doesn't compile.
pub(crate) const fn number(name: &str) -> u32 {
    let mut number = 0;
    while number < NAMES.len() {
        if is_same(NAMES[number].as_bytes(), name.as_bytes()) {
            #[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
            return number as u32;
        }
        number += 1;
    }
    panic!("a step's name isn't in crash/steps.rs")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}
