// SPDX-License-Identifier: MIT
//! Private storage: the heap, and the table that finds an object again from its handle.
//!
//! An object enters the table when it is first pickled and stays there until the process ends,
//! since nobody can know how many times the pickle will be read.

use core::any::Any;
use core::ptr::NonNull;
#[cfg(not(loom))]
use std::alloc::alloc;
// What is in fresh memory must not differ between executions of a model.
#[cfg(loom)]
use std::alloc::alloc_zeroed as alloc;
use std::alloc::{Layout, dealloc};
use std::collections::HashMap;
use std::sync::Arc;

use super::fork_safe::ForkSafe;
use super::{Address, Object, OutOfMemory, Shareable, thread};

const ALIGNMENT: usize = 64;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()
}

pub(super) fn allocate(bytes: usize) -> Result<Address, OutOfMemory> {
    let layout = layout(bytes).ok_or(OutOfMemory)?;
    // SAFETY: the layout's size isn't zero.
    let memory = NonNull::new(unsafe { alloc(layout) }).ok_or(OutOfMemory)?;
    Ok(Address(memory.as_ptr().expose_provenance() as u64))
}

/// # Safety
///
/// As [`Storage::free`].
pub(super) unsafe fn free(address: Address, bytes: usize) {
    let (Some(memory), Some(layout)) = (resolve(address), layout(bytes)) else {
        return;
    };
    #[cfg(loom)]
    // SAFETY: the caller promises that the address came from `allocate` with the same size.
    if unsafe { crate::primitive::modelled::retire(memory, layout) } {
        return;
    }
    // SAFETY: the caller promises that the address came from `allocate` with the same size.
    unsafe { dealloc(memory.as_ptr(), layout) }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an address of this very process"
)]
pub(super) fn resolve(address: Address) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(address.0 as usize))
}

/// By address.
type Pinned = HashMap<u64, Pin>;

struct Pin {
    /// Unique, also among forked processes, which share addresses: with the process's id in
    /// its upper half.
    serial: u64,
    object: Arc<dyn Any + Send + Sync>,
}

static TABLE: ForkSafe<Pinned> = ForkSafe::new();

/// After a fork, in the child, before anything else: what the parent's other threads held
/// counts as held by the dead from now on.
pub fn after_fork_in_child() {
    thread::leave_others_behind();
}

/// Keeps the object and gives the serial number under which [`find`] returns it.
pub(super) fn pin<T: Shareable>(object: &Object<T>) -> u64 {
    let kept = object.arc();
    TABLE.with(|pinned| {
        let serial = (u64::from(std::process::id()) << 32) | (pinned.len() as u64 + 1);
        let pin = pinned.entry(object.identity()).or_insert(Pin {
            serial,
            object: kept,
        });
        pin.serial
    })
}

/// The object that [`pin`] kept, if it is a `T`.
pub(super) fn find<T: Shareable>(identity: u64, serial: u64) -> Option<Object<T>> {
    let kept = TABLE.with(|pinned| {
        let pin = pinned.get(&identity)?;
        (pin.serial == serial).then(|| Arc::clone(&pin.object))
    })?;
    kept.downcast::<T>().ok().map(Object::from_arc)
}
