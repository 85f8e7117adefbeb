//! The genesis document: what a chain starts from, and whose hash is its identity.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::{Wire, encode_body};
use crate::error::TypeError;
use crate::ids::{Amount, GenesisHash, TimeMs};
use crate::keys::PublicKey;
use crate::limits::CHAIN_ID_MAX;
use crate::params::Params;
use crate::signing::hash_parts;
use crate::validator::{Validator, ValidatorSet};

/// The start of a chain. JSON for people, [`Wire`] for hashing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Name of the chain: 1 to 32 of `a-z`, `0-9`, `-`.
    pub chain_id: String,
    /// Time of height 0.
    pub time_ms: TimeMs,
    /// Parameters in force from height 1.
    pub params: Params,
    /// Validators of height 1.
    pub validators: Vec<GenesisValidator>,
    /// Provers registered from the start.
    pub provers: Vec<GenesisProver>,
    /// Accounts and their credits.
    pub accounts: Vec<GenesisAccount>,
}

/// A validator at genesis.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisValidator {
    /// Consensus key.
    pub key: PublicKey,
    /// Voting power.
    pub power: u64,
    /// Account that is paid, and that may update or retire the validator.
    pub account: PublicKey,
    /// Stake locked, on top of the account's balance.
    pub stake: Amount,
}

/// A prover at genesis.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisProver {
    /// Account that proves, signs and is paid.
    pub account: PublicKey,
    /// Weight in the assignment, 1 to 1,000.
    pub weight: u32,
    /// Largest step limit it takes.
    pub steps_max: u64,
    /// Deposit locked, on top of the account's balance.
    pub deposit: Amount,
}

/// An account at genesis.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// The key that owns it.
    pub account: PublicKey,
    /// Credits.
    pub balance: Amount,
}

impl Wire for Genesis {
    const NAME: &'static str = "genesis";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 4 << 20;
}

impl Genesis {
    /// The chain's identity.
    pub fn hash(&self) -> GenesisHash {
        GenesisHash::new(hash_parts("proofmesh genesis v1", &[&encode_body(self)]))
    }

    /// The validator set of height 1.
    ///
    /// # Errors
    /// As [`ValidatorSet::new`].
    pub fn validator_set(&self) -> Result<ValidatorSet, TypeError> {
        ValidatorSet::new(self.validators.iter().map(|v| Validator { key: v.key, power: v.power }).collect())
    }

    /// Refuses a document that no chain can start from.
    ///
    /// # Errors
    /// [`TypeError`] naming the field.
    pub fn check(&self) -> Result<(), TypeError> {
        let id = &self.chain_id;
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if id.is_empty() || id.len() > CHAIN_ID_MAX || !id.bytes().all(letter) {
            return Err(TypeError::BadText {
                field: "chain_id",
                value: id.chars().take(80).collect(),
                expected: "name of 1 to 32 characters a-z, 0-9, -",
            });
        }
        self.params.check()?;
        self.validator_set()?;
        let mut provers = BTreeSet::new();
        if let Some(double) = self.provers.iter().find(|p| !provers.insert(p.account)) {
            return Err(TypeError::OutOfBounds {
                field: "provers.account",
                value: double.account.to_string(),
                limit: "each once".into(),
            });
        }
        if let Some(p) = self.provers.iter().find(|p| p.weight == 0 || p.weight > 1_000) {
            return Err(TypeError::OutOfBounds {
                field: "provers.weight",
                value: p.weight.to_string(),
                limit: "1 to 1000".into(),
            });
        }
        let mut accounts = BTreeSet::new();
        if let Some(double) = self.accounts.iter().find(|a| !accounts.insert(a.account)) {
            return Err(TypeError::OutOfBounds {
                field: "accounts.account",
                value: double.account.to_string(),
                limit: "each once".into(),
            });
        }
        let mut sum = Some(Amount::ZERO);
        let amounts = self.accounts.iter().map(|a| a.balance);
        for amount in
            amounts.chain(self.validators.iter().map(|v| v.stake)).chain(self.provers.iter().map(|p| p.deposit))
        {
            sum = sum.and_then(|s| s.checked_add(amount)).filter(|s| s.0 < 1 << 120);
        }
        if sum.is_none() {
            return Err(TypeError::OutOfBounds {
                field: "accounts (sum of credits)",
                value: "2^120 or more".into(),
                limit: "below 2^120".into(),
            });
        }
        Ok(())
    }
}
