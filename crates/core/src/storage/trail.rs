// SPDX-License-Identifier: MIT
//! Walks along links in shared memory: they end, even if somebody has overwritten the links.

use super::Address;

/// Finds out that a walk goes in a circle, with two comparisons a step and no memory: it remembers
/// one place, and another one after twice as many steps each time. So it has gone round about three
/// times when that is found.
#[derive(Debug)]
pub(crate) struct Trail {
    remembered: Address,
    steps: u32,
    most: u32,
}

impl Default for Trail {
    fn default() -> Self {
        Self {
            remembered: Address::NULL,
            steps: 0,
            most: 1,
        }
    }
}

impl Trail {
    /// The walk comes to a place, which isn't null; false if it has been there.
    #[must_use]
    pub(crate) fn goes_on(&mut self, place: Address) -> bool {
        if place == self.remembered {
            return false;
        }
        if self.steps == self.most {
            self.remembered = place;
            self.steps = 0;
            self.most = self.most.saturating_mul(2);
        }
        self.steps += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_circle_is_found_and_nothing_else(lead in 0..200_usize, round in 1..200_usize) {
            let mut trail = Trail::default();
            let place = |step: usize| {
                let distinct = if step < lead { step } else { lead + (step - lead) % round };
                Address::from_bits(distinct as u64 + 1)
            };
            let walked = (0..10_000).take_while(|&step| trail.goes_on(place(step))).count();
            prop_assert!(walked >= lead + round);
            prop_assert!(walked <= 3 * (lead + round) + 2);
        }
    }
}
