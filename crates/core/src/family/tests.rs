// SPDX-License-Identifier: MIT
//! The allocator of runs against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Family, Run, layout};
use crate::crash::testing::alone;

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    /// The run that is so many-eth now.
    Free(usize),
    FreeAgain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes =
        prop_oneof![9 => 0..500_usize, 2 => 4000..70_000_usize, 1 => 1_000_000..3_000_000_usize];
    let step = prop_oneof![
        5 => bytes.prop_map(Step::Allocate),
        4 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::FreeAgain),
    ];
    prop::collection::vec(step, 0..80)
}

fn cells(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(layout::CELL) + 1
}

/// Where runs of 1 to 12 cells would begin now.
fn first_places(family: &Family) -> Vec<Run> {
    let place = |bytes| {
        let run = family.allocate_raw(bytes).expect("memory");
        family.free(run);
        run
    };
    (0..12).map(|cells| place(cells * 64)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_never_overlap_and_come_back(steps in steps()) {
        let _alone = alone();
        let family = Family::home().expect("memory files are to be had");
        let before = family.bytes_taken();
        let places = first_places(family);
        // Cells of each run, by its offset.
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last_freed = None;
        for step in steps {
            match step {
                Step::Allocate(bytes) => {
                    let run = family.allocate_raw(bytes).expect("memory");
                    let end = run.0 + cells(bytes) * layout::CELL;
                    prop_assert_eq!(run.0 % layout::CELL, 0);
                    prop_assert!(family.resolve(run.data(), bytes).is_some());
                    prop_assert_eq!(Run::of_data(run.data()), run);
                    let below = model.range(..end).next_back();
                    let is_apart =
                        below.is_none_or(|(start, cells)| start + cells * layout::CELL <= run.0);
                    prop_assert!(is_apart);
                    model.insert(run.0, cells(bytes));
                }
                Step::Free(index) if !model.is_empty() => {
                    let offset = *model.keys().nth(index % model.len()).expect("not empty");
                    model.remove(&offset);
                    family.free(Run(offset));
                    last_freed = Some(offset);
                }
                Step::Free(_) | Step::FreeAgain => {
                    let offset = last_freed.filter(|offset| !model.contains_key(offset));
                    family.free(Run(offset.unwrap_or(u64::MAX - 7)));
                }
            }
            let taken = model.values().sum::<u64>() * layout::CELL;
            prop_assert_eq!(family.bytes_taken(), before + taken);
        }
        for offset in model.into_keys() {
            family.free(Run(offset));
        }
        prop_assert_eq!(family.bytes_taken(), before);
        // What is free again is found again.
        prop_assert_eq!(first_places(family), places);
    }
}
