// SPDX-License-Identifier: MIT
//! The jobs that are under way, by their numbers.
//!
//! Spread over several tables, by their numbers' lowest bits: whoever starts one call after the other,
//! and the workers that end them, seldom meet at one of them.
//!
//! Invariant: no number is given to two jobs that are under way.

use core::hash::{BuildHasherDefault, Hasher};
use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use super::engine::locked;
use super::job::Job;

/// A power of two.
const TABLES: usize = 16;

type ByNumber = HashMap<u32, Arc<Job>, BuildHasherDefault<Scatter>>;

/// On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Table(Mutex<ByNumber>);

#[derive(Default)]
pub(super) struct Registry {
    last: AtomicU32,
    tables: [Table; TABLES],
}

impl Registry {
    fn table(&self, number: u32) -> &Mutex<ByNumber> {
        &self.tables[number as usize % TABLES].0
    }

    /// Makes a job known.
    pub(super) fn admit(&self, make: impl FnOnce(u32) -> Job) -> Arc<Job> {
        loop {
            // Relaxed: no two get the same before all others were given.
            let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if number == 0 {
                continue; // nobody's
            }
            if let Entry::Vacant(place) = locked(self.table(number)).entry(number) {
                return Arc::clone(place.insert(Arc::new(make(number))));
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<Job>> {
        locked(self.table(number)).get(&number).map(Arc::clone)
    }

    /// Forgets a job; what comes back is to be dropped.
    pub(super) fn remove(&self, job: &Job) -> Option<Arc<Job>> {
        locked(self.table(job.number)).remove(&job.number)
    }

    /// Whether a job is known, or that can't be told right now.
    pub(super) fn may_know(&self, job: &Job) -> bool {
        self.table(job.number)
            .try_lock()
            .map_or(true, |jobs| jobs.contains_key(&job.number))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| locked(&table.0).is_empty())
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        let jobs_of = |table: &Table| {
            locked(&table.0)
                .values()
                .map(Arc::clone)
                .collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(jobs_of).collect()
    }

    /// Those in tables that nobody uses right now, or, after a fork, will use for ever.
    pub(super) fn unlocked(&self) -> impl Iterator<Item = MutexGuard<'_, ByNumber>> {
        let tables = self.tables.iter();
        tables.filter_map(|table| table.0.try_lock().ok())
    }
}

/// Numbers are given one after the other, by us: any of their bits will do.
#[derive(Default)]
pub(super) struct Scatter(u64);

impl Hasher for Scatter {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes its place from the lowest bits, and marks from the highest.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}
