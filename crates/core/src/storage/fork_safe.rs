// SPDX-License-Identifier: MIT
//! A value under a mutex that the child of a fork can use, whoever held it then.

use core::cell::UnsafeCell;

use super::Storage;
use crate::sync::mutex::RobustMutex;

/// A lazily made `T`.
pub(super) struct ForkSafe<T> {
    mutex: RobustMutex,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: `value` is only touched in `with`, under the mutex.
unsafe impl<T: Send> Sync for ForkSafe<T> {}

impl<T: Default> ForkSafe<T> {
    pub(super) const fn new() -> Self {
        Self {
            mutex: RobustMutex::new(),
            value: UnsafeCell::new(None),
        }
    }

    /// Hands the value to `use_it`, which must not come back here.
    pub(super) fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        if self.mutex.lock(Storage::Private) {
            // Another thread was in the middle of a change when this process was forked off, so
            // the value may be half changed: it is left alone and another one taken. (A thread
            // that ends does so without the interpreter, so a fork doesn't wait for it. Nothing is locked before forks instead: two threads
            // that fork at once would wait for each other with the interpreter locked.)
            // SAFETY: we hold the mutex; the old value isn't dropped, only overwritten.
            unsafe { self.value.get().write(None) };
        }
        // SAFETY: we hold the mutex, and `use_it` doesn't come back here.
        let result = use_it(unsafe { &mut *self.value.get() }.get_or_insert_default());
        self.mutex.unlock(Storage::Private);
        result
    }
}
