//! Validator sets and the arithmetic of voting power.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::encode_body;
use crate::error::TypeError;
use crate::ids::Digest;
use crate::keys::PublicKey;
use crate::limits::{POWER_TOTAL_MAX, VALIDATORS_MAX};
use crate::signing::hash_parts;

/// One validator: the key it votes with and its voting power.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Validator {
    /// Consensus key, at the same time the validator's identity.
    pub key: PublicKey,
    /// Voting power, above 0.
    pub power: u64,
}

/// A validator set: sorted by power (falling), then key (rising); unique keys; total power bounded.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ValidatorSet {
    validators: Vec<Validator>,
}

impl ValidatorSet {
    /// Builds a set in canonical order.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`] for an empty or too large set, a zero power, a double key, too much total power.
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, TypeError> {
        validators.sort_by(|a, b| b.power.cmp(&a.power).then(a.key.cmp(&b.key)));
        let set = Self { validators };
        set.check()?;
        Ok(set)
    }

    /// Checks order, uniqueness and bounds; for sets that came from outside.
    ///
    /// # Errors
    /// As [`ValidatorSet::new`], and for a wrong order.
    pub fn check(&self) -> Result<(), TypeError> {
        let bad = |field, value: String, limit: &str| Err(TypeError::OutOfBounds { field, value, limit: limit.into() });
        let n = self.validators.len();
        if n == 0 || n > VALIDATORS_MAX {
            return bad("validators", n.to_string(), "between 1 and 100 validators");
        }
        if !self.validators.is_sorted_by(|a, b| (b.power, a.key) <= (a.power, b.key)) {
            return bad("validators", "unsorted".into(), "sorted by falling power, then key");
        }
        let mut keys = BTreeSet::new();
        if let Some(double) = self.validators.iter().find(|v| !keys.insert(v.key)) {
            return bad("validators.key", double.key.to_string(), "each key once");
        }
        let mut total = 0u64;
        for v in &self.validators {
            if v.power == 0 || v.power > POWER_TOTAL_MAX {
                return bad("validators.power", v.power.to_string(), "between 1 and 2^53");
            }
            total = total.saturating_add(v.power);
        }
        if total > POWER_TOTAL_MAX {
            return bad("validators.power (sum)", total.to_string(), "at most 2^53");
        }
        Ok(())
    }

    /// The validators in canonical order.
    pub fn validators(&self) -> &[Validator] {
        &self.validators
    }

    /// Voting power of a key, if it is in the set.
    pub fn power_of(&self, key: &PublicKey) -> Option<u64> {
        self.validators.iter().find(|v| v.key == *key).map(|v| v.power)
    }

    /// Sum of all voting power.
    pub fn power_total(&self) -> u64 {
        self.validators.iter().map(|v| v.power).fold(0, u64::saturating_add)
    }

    /// Whether `power` is strictly more than two thirds of the total.
    pub fn is_quorum(&self, power: u64) -> bool {
        u128::from(power) * 3 > u128::from(self.power_total()) * 2
    }

    /// Whether `power` is strictly more than one third of the total: at least one honest validator.
    pub fn is_honest(&self, power: u64) -> bool {
        u128::from(power) * 3 > u128::from(self.power_total())
    }

    /// Digest in headers.
    pub fn digest(&self) -> Digest {
        Digest::new(hash_parts("proofmesh validator-set v1", &[&encode_body(self)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator(n: u8, power: u64) -> Validator {
        Validator { key: PublicKey::new([n; 32]), power }
    }

    #[test]
    fn thresholds_are_strict() {
        let set = ValidatorSet::new((0..3).map(|n| validator(n, 1)).collect()).unwrap();
        assert!(!set.is_quorum(2) && set.is_quorum(3));
        assert!(!set.is_honest(1) && set.is_honest(2));
    }

    #[test]
    fn sets_are_canonical() {
        let a = ValidatorSet::new(vec![validator(1, 5), validator(2, 9), validator(3, 5)]).unwrap();
        let b = ValidatorSet::new(vec![validator(3, 5), validator(1, 5), validator(2, 9)]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.digest(), b.digest());
        assert_eq!(a.validators()[0].power, 9);
        assert!(ValidatorSet::new(vec![]).is_err());
        assert!(ValidatorSet::new(vec![validator(1, 0)]).is_err());
        assert!(ValidatorSet::new(vec![validator(1, 1), validator(1, 2)]).is_err());
        assert!(ValidatorSet::new(vec![validator(1, POWER_TOTAL_MAX), validator(2, 1)]).is_err());
        let unsorted = ValidatorSet { validators: vec![validator(1, 1), validator(2, 2)] };
        assert!(unsorted.check().is_err());
    }
}
