//! Who proposes: a pure function of (validator set, height, round), so that every node and every reader of the chain agrees
//! without keeping priorities between heights.
//!
//! Heights and rounds count up one line of slots. Each slot names a unit of voting power by stepping through all units with
//! a stride coprime to their number: over one full cycle every validator proposes in exact proportion to its power, and the
//! stride of about 0.618 of the cycle keeps two neighbouring slots with different validators unless one holds more than a
//! third of the power. So one crashed proposer costs one round.

use types::ids::{Height, Round};
use types::keys::PublicKey;
use types::validator::ValidatorSet;

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Index into `set.validators()` of the proposer of (height, round).
pub(crate) fn proposer_index(set: &ValidatorSet, height: Height, round: u32) -> usize {
    let validators = set.validators();
    // A common factor of all powers says nothing about proportions, but would make one validator propose many slots in a row.
    let unit = validators.iter().fold(0, |acc, v| gcd(acc, v.power)).max(1);
    let total = (set.power_total() / unit).max(1);
    let mut stride = u64::try_from(u128::from(total) * 618 / 1000).unwrap_or(total).max(1);
    while gcd(stride, total) != 1 {
        stride = stride.saturating_add(1);
    }
    let slot = u128::from(height.0).saturating_add(u128::from(round));
    let position = (slot % u128::from(total)) * u128::from(stride) % u128::from(total);
    let mut end = 0u128;
    for (index, validator) in validators.iter().enumerate() {
        end = end.saturating_add(u128::from(validator.power / unit));
        if position < end {
            return index;
        }
    }
    0
}

/// The proposer of (height, round) under `set`.
pub fn proposer(set: &ValidatorSet, height: Height, round: Round) -> Option<PublicKey> {
    set.validators().get(proposer_index(set, height, round.0)).map(|v| v.key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::validator::Validator;

    use super::*;

    fn set(powers: &[u64]) -> ValidatorSet {
        let validator = |(n, power): (usize, &u64)| Validator { key: PublicKey::new([n as u8 + 1; 32]), power: *power };
        ValidatorSet::new(powers.iter().enumerate().map(validator).collect()).unwrap()
    }

    fn counts(set: &ValidatorSet, slots: u64) -> BTreeMap<usize, u64> {
        let mut counts = BTreeMap::new();
        for slot in 0..slots {
            *counts.entry(proposer_index(set, Height(slot), 0)).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn turns_are_proportional_to_power() {
        let equal = counts(&set(&[25, 25, 25, 25]), 400);
        assert!(equal.len() == 4 && equal.values().all(|n| *n == 100));
        let mixed = counts(&set(&[5, 3, 2]), 1000);
        assert_eq!(mixed, BTreeMap::from([(0, 500), (1, 300), (2, 200)]));
        assert_eq!(counts(&set(&[1 << 53]), 10), BTreeMap::from([(0, 10)]));
    }

    #[test]
    fn the_next_round_and_the_next_height_have_another_proposer() {
        for set in [set(&[1, 1, 1, 1]), set(&[100, 100, 100, 100]), set(&[1, 1, 1, 1, 1, 1, 1]), set(&[7, 7, 7, 6, 6])]
        {
            for height in 1..200 {
                let of = |h, r| proposer_index(&set, Height(h), r);
                assert_ne!(of(height, 0), of(height, 1));
                assert_ne!(of(height, 0), of(height + 1, 0));
            }
        }
    }
}
