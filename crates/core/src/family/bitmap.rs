// SPDX-License-Identifier: MIT
//! Bitmaps in shared memory: which cells are taken, and where runs of cells begin.
//!
//! All changes happen under the family's mutex. The words are atomics because readers (the
//! check of a handle, a scan) don't take it to read one bit.

use crate::crash;
use crate::primitive::{AtomicU64, Ordering};

const BITS: u32 = u64::BITS;

/// One bit a cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bitmap<'a>(pub(super) &'a [AtomicU64]);

impl Bitmap<'_> {
    // Relaxed throughout: the mutex orders what happens under it, and a reader outside takes
    // the mutex before it relies on what it saw.

    pub(super) fn is_set(self, bit: u32) -> bool {
        self.word(bit / BITS) & mask(bit) != 0
    }

    pub(super) fn set(self, bit: u32) {
        if let Some(word) = self.0.get((bit / BITS) as usize) {
            crash::step!("bitmap.setting");
            word.fetch_or(mask(bit), Ordering::Relaxed);
            crash::step!("bitmap.set");
        }
    }

    pub(super) fn clear(self, bit: u32) {
        if let Some(word) = self.0.get((bit / BITS) as usize) {
            crash::step!("bitmap.clearing");
            word.fetch_and(!mask(bit), Ordering::Relaxed);
            crash::step!("bitmap.cleared");
        }
    }

    pub(super) fn set_run(self, first: u32, length: u32) {
        self.change_run(first, length, |word, bits| {
            // No step: those of `change_run`.
            word.fetch_or(bits, Ordering::Relaxed)
        });
    }

    pub(super) fn clear_run(self, first: u32, length: u32) {
        self.change_run(first, length, |word, bits| {
            // No step: those of `change_run`.
            word.fetch_and(!bits, Ordering::Relaxed)
        });
    }

    fn change_run(self, first: u32, length: u32, change: impl Fn(&AtomicU64, u64) -> u64) {
        let end = first.saturating_add(length);
        let mut bit = first;
        while bit < end {
            let Some(word) = self.0.get((bit / BITS) as usize) else {
                return;
            };
            let from = bit % BITS;
            let count = (BITS - from).min(end - bit);
            crash::step!("bitmap.run.changing");
            change(word, ones(count) << from);
            crash::step!("bitmap.run.changed");
            bit += count;
        }
    }

    /// The first run of `length` clear bits in `from..end`.
    pub(super) fn find_clear_run(self, from: u32, end: u32, length: u32) -> Option<u32> {
        let mut start = from;
        let mut bit = from;
        while bit < end {
            if bit == start {
                // Mostly this is a long way.
                bit += self.words_taken_from(bit);
                start = bit;
            }
            let rest = self.word(bit / BITS) >> (bit % BITS);
            let left_in_word = BITS - bit % BITS;
            let clear = rest.trailing_zeros().min(left_in_word);
            bit += clear;
            if bit.min(end) >= start.saturating_add(length) {
                return Some(start);
            }
            if clear < left_in_word {
                // A taken bit: the run starts anew behind the taken ones that follow it.
                bit += (rest >> clear).trailing_ones();
                start = bit;
            }
        }
        None
    }

    /// How many bits, from one that begins a word, lie in words without a clear bit.
    fn words_taken_from(self, bit: u32) -> u32 {
        let rest = self.0.get((bit / BITS) as usize..).unwrap_or(&[]);
        if bit % BITS != 0 {
            return 0;
        }
        let taken = rest
            .iter()
            .take_while(|word| word.load(Ordering::Relaxed) == u64::MAX);
        u32::try_from(taken.count()).map_or(0, |words| words.saturating_mul(BITS))
    }

    /// All runs of clear bits in `from..end`, each as its first bit and the one after its last.
    pub(super) fn clear_runs(self, from: u32, end: u32) -> impl Iterator<Item = (u32, u32)> {
        let mut bit = from;
        core::iter::from_fn(move || {
            let first = self.find_clear_run(bit, end, 1)?;
            bit = first;
            while bit < end {
                let rest = self.word(bit / BITS) >> (bit % BITS);
                let left_in_word = BITS - bit % BITS;
                let clear = rest.trailing_zeros().min(left_in_word);
                bit += clear;
                if clear < left_in_word {
                    break;
                }
            }
            bit = bit.min(end);
            Some((first, bit))
        })
    }

    /// How many bits are set.
    pub(super) fn count_set(self) -> u64 {
        (0..self.words())
            .map(|index| u64::from(self.word(index).count_ones()))
            .sum()
    }

    /// All set bits, in order.
    pub(super) fn iter_set(self) -> impl Iterator<Item = u32> {
        (0..self.words()).flat_map(move |index| {
            let mut word = self.word(index);
            core::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(index * BITS + bit)
            })
        })
    }

    fn words(self) -> u32 {
        u32::try_from(self.0.len()).expect("an extent has less than 2^32 cells")
    }

    fn word(self, index: u32) -> u64 {
        // Past the end counts as taken.
        self.0
            .get(index as usize)
            .map_or(u64::MAX, |word| word.load(Ordering::Relaxed))
    }
}

fn mask(bit: u32) -> u64 {
    1 << (bit % BITS)
}

fn ones(count: u32) -> u64 {
    u64::MAX >> (BITS - count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(bits: &[bool]) -> Vec<AtomicU64> {
        let bitmap: Vec<_> = (0..bits.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        for (index, _) in bits.iter().enumerate().filter(|(_, set)| **set) {
            Bitmap(&bitmap).set(u32::try_from(index).expect("small"));
        }
        bitmap
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(
            bits in prop::collection::vec(any::<bool>(), 1..400),
            from in 0_u32..300,
            length in 1_u32..150,
        ) {
            let end = u32::try_from(bits.len()).expect("small");
            let expected = (from..end).find(|&start| {
                start + length <= end
                    && bits[start as usize..(start + length) as usize].iter().all(|set| !set)
            });
            let bitmap = words(&bits);
            prop_assert_eq!(Bitmap(&bitmap).find_clear_run(from, end, length), expected);
        }

        #[test]
        fn runs_are_set_and_cleared_exactly(first in 0_u32..200, length in 0_u32..200) {
            let bitmap = words(&[false; 512]);
            let view = Bitmap(&bitmap);
            view.set_run(first, length);
            prop_assert_eq!(view.count_set(), u64::from(length));
            let set: Vec<u32> = view.iter_set().collect();
            prop_assert_eq!(set, (first..first + length).collect::<Vec<_>>());
            view.clear_run(first, length);
            prop_assert_eq!(view.iter_set().count(), 0);
        }
    }

    #[test]
    fn bits_past_the_end_count_as_taken() {
        let bitmap = words(&[false; 64]);
        let view = Bitmap(&bitmap);
        assert!(view.is_set(64));
        view.set(1000);
        view.clear_run(60, 1000);
        assert_eq!(view.find_clear_run(0, 1000, 65), None);
    }
}
