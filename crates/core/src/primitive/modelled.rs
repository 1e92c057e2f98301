// SPDX-License-Identifier: MIT
//! Atomics that loom explores, in the shape that the crate needs.
//!
//! Loom's own atomics are records of its execution: they can't be made at compile time, nor by
//! zeroing memory, nor by looking at mapped memory as one. So the atomics here have the layout
//! of the real ones and are real ones outside of a model; within a model, each stands for the
//! loom atomic that is bound to its address for as long as the execution lasts. An object that
//! was made before the model therefore begins each execution as it was made.
//!
//! Loom runs all threads of a model in turn on the one system thread that called it, and
//! changes turns only inside its own operations. So a thread-local of the standard library is
//! a model's own global state, and what happens between two operations of loom is one step; no
//! borrow of that state may be held across such an operation.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::alloc::{Layout, dealloc};
use std::collections::HashMap;
use std::rc::Rc;

use super::{Ordering, unmodelled};
use crate::futex::modelled::Futexes;

/// What an execution of a model knows besides what loom does.
pub(crate) struct World {
    words: Words<loom::sync::atomic::AtomicU32>,
    double_words: Words<loom::sync::atomic::AtomicU64>,
    threads: u32,
    /// The number of the thread that has died.
    pub(crate) dead: Option<u32>,
    pub(crate) futexes: Futexes,
    /// Freed for the model only, so that no address is given twice in an execution: it would
    /// depend on the allocator, and loom asks that an execution can be repeated.
    retired: Vec<(NonNull<u8>, Layout)>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

loom::thread_local! {
    static NUMBER: Cell<u32> = Cell::new(0);
}

/// The loom atomics of one width, by address.
struct Words<A> {
    bound: HashMap<usize, Rc<A>>,
    /// All zero, made by the first thread before any other one ran. (Loom wants an atomic's
    /// making to happen before all uses; a zeroed object's does, but nobody tells loom.)
    spare: Vec<Rc<A>>,
}

/// More than any model uses; one that isn't there is made where it is first used.
const SPARE: usize = 32;

impl<A: Default> Words<A> {
    fn new() -> Self {
        let mut spare = Vec::with_capacity(SPARE);
        spare.resize_with(SPARE, Rc::default);
        Self {
            bound: HashMap::new(),
            spare,
        }
    }

    fn at(&mut self, address: usize, is_zero: bool, make: impl FnOnce() -> A) -> Rc<A> {
        let spare = &mut self.spare;
        let bound = self.bound.entry(address).or_insert_with(|| {
            let zero = if is_zero { spare.pop() } else { None };
            zero.unwrap_or_else(|| Rc::new(make()))
        });
        Rc::clone(bound)
    }
}

impl World {
    /// Starts an execution. To be called by its first thread, before anything else.
    pub(crate) fn begin() {
        let world = Self {
            words: Words::new(),
            double_words: Words::new(),
            threads: 0,
            dead: None,
            futexes: Futexes::default(),
            retired: Vec::new(),
        };
        WORLD.replace(Some(world));
    }

    /// After the last execution.
    pub(crate) fn end() {
        WORLD.replace(None);
    }

    /// `None` outside of a model, and while a failed model is unwound: loom is of no use to
    /// the destructors that run then.
    pub(crate) fn with<R>(use_it: impl FnOnce(&mut Self) -> R) -> Option<R> {
        if std::thread::panicking() {
            return None;
        }
        // There is no model any more, either, when the system's thread that ran it ends.
        WORLD
            .try_with(|world| world.borrow_mut().as_mut().map(use_it))
            .ok()
            .flatten()
    }

    fn check_address(&self, address: usize) {
        let is_retired = self.retired.iter().any(|&(memory, layout)| {
            let start = memory.addr().get();
            (start..start + layout.size()).contains(&address)
        });
        assert!(!is_retired, "memory is used after it was freed");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for &(memory, layout) in &self.retired {
            // SAFETY: `retire` was given it with this layout, to be freed at some time.
            unsafe { dealloc(memory.as_ptr(), layout) };
        }
    }
}

/// Takes memory over, to free it when the execution is over; false outside of a model.
///
/// # Safety
///
/// - `memory` was allocated with `layout`, and is the caller's to free;
/// - if this returns true, the caller doesn't free it.
pub(crate) unsafe fn retire(memory: NonNull<u8>, layout: Layout) -> bool {
    World::with(|world| world.retired.push((memory, layout))).is_some()
}

/// The number of this thread of the model.
pub(crate) fn thread_number() -> Option<u32> {
    World::with(|_| ())?;
    let known = NUMBER.with(Cell::get);
    if known != 0 {
        return Some(known);
    }
    let fresh = World::with(|world| {
        world.threads += 1;
        world.threads
    })?;
    NUMBER.with(|number| number.set(fresh));
    Some(fresh)
}

/// Whether a thread of the model has died.
pub(crate) fn has_died(number: u32) -> Option<bool> {
    World::with(|world| world.dead == Some(number))
}

macro_rules! newest_of {
    ($word:ident, $never:expr) => {
        $word
            .compare_exchange($never, $never, Ordering::Relaxed, Ordering::Relaxed)
            .expect_err("no word of this crate has all bits set")
    };
}

/// The value that `address` has now, whoever wrote it: what the kernel sees. Orders nothing.
///
/// A compare-and-swap that fails, for loom: it always finds the newest value, as a load needn't,
/// and it stores nothing. (Not even the same value: loom would let that overwrite a plain store
/// by another thread.) It is of the word or of the lower half of the double word at `address`;
/// `None` if there never was one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the half that a futex looks at"
)]
pub(crate) fn newest(address: usize) -> Option<u32> {
    let (word, double_word) = World::with(|world| {
        let word = world.words.bound.get(&address).cloned();
        (word, world.double_words.bound.get(&address).cloned())
    })?;
    if let Some(word) = word {
        return Some(newest_of!(word, u32::MAX));
    }
    double_word.map(|word| newest_of!(word, u64::MAX) as u32)
}

macro_rules! modelled {
    ($name:ident, $int:ident, $words:ident) => {
        /// An atomic as in the standard library.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(unmodelled::$name);

        #[allow(dead_code, missing_docs, reason = "as in the standard library")]
        impl $name {
            pub const fn new(value: $int) -> Self {
                Self(unmodelled::$name::new(value))
            }

            pub const fn as_ptr(&self) -> *mut $int {
                self.0.as_ptr()
            }

            /// # Safety
            ///
            /// As in the standard library.
            pub const unsafe fn from_ptr<'a>(ptr: *mut $int) -> &'a Self {
                // SAFETY: the caller promises that it is valid and aligned, which is all that
                // the layout of the real atomic asks for.
                unsafe { &*ptr.cast() }
            }

            fn address(&self) -> usize {
                self.as_ptr().addr()
            }

            fn bound(&self) -> Option<Rc<loom::sync::atomic::$name>> {
                World::with(|world| {
                    let address = self.address();
                    world.check_address(address);
                    let initial = self.0.load(Ordering::Relaxed);
                    world.$words.at(address, initial == 0, || {
                        loom::sync::atomic::$name::new(initial)
                    })
                })
            }

            modelled!(@forward load($int) (order: Ordering) -> $int);
            modelled!(@forward store($int) (value: $int, order: Ordering) -> ());
            modelled!(@forward swap($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_add($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_sub($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_and($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_or($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_xor($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_max($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward fetch_min($int) (value: $int, order: Ordering) -> $int);
            modelled!(@forward compare_exchange($int)
                (current: $int, new: $int, success: Ordering, failure: Ordering)
                -> Result<$int, $int>);
            modelled!(@forward compare_exchange_weak($int)
                (current: $int, new: $int, success: Ordering, failure: Ordering)
                -> Result<$int, $int>);
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // The next object at this address is another one.
                let bound = World::with(|world| world.$words.bound.remove(&self.address()));
                drop(bound);
            }
        }
    };
    (@forward $method:ident($int:ident) ($($arg:ident: $type:ty),*) -> $result:ty) => {
        pub fn $method(&self, $($arg: $type),*) -> $result {
            match self.bound() {
                Some(word) => word.$method($($arg),*),
                None => self.0.$method($($arg),*),
            }
        }
    };
}

/// A fence as in the standard library.
pub(crate) fn fence(order: Ordering) {
    match World::with(|_| ()) {
        Some(()) => loom::sync::atomic::fence(order),
        None => unmodelled::fence(order),
    }
}

modelled!(AtomicU32, u32, words);
modelled!(AtomicU64, u64, double_words);
