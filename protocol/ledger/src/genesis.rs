//! The state of height 0 from the genesis document.

use std::collections::BTreeMap;

use thiserror::Error;
use types::genesis::Genesis;
use types::ids::{Amount, BlockId, Height, StateRoot, TimeMs};
use types::keys::PublicKey;
use types::kv::{KvWrites, MemoryKv};
use types::{TypeError, block::genesis_seed};

use crate::error::StateError;
use crate::limits::{PROVER_WEIGHT_MAX, PROVERS_MAX};
use crate::state::records::{
    Account, Chain, Counters, Era, GroupTime, Head, ParamsRecord, ProverRecord, Supply, ValidatorRecord,
};
use crate::state::{Overlay, keys};
use crate::tree;

/// Why no chain can start from a document.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum GenesisError {
    /// A field is wrong.
    #[error(transparent)]
    Document(#[from] TypeError),
    /// The state could not be built.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The state of height 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisState {
    /// All its records and tree nodes, for an empty store.
    pub writes: KvWrites,
    /// Its root, which the header of height 1 names.
    pub root: StateRoot,
}

fn too_many(field: &'static str, value: usize, limit: impl ToString) -> GenesisError {
    TypeError::OutOfBounds { field, value: value.to_string(), limit: limit.to_string() }.into()
}

/// Builds the state of height 0.
///
/// # Errors
/// [`GenesisError::Document`] naming the field that is out of bounds.
pub fn build(genesis: &Genesis) -> Result<GenesisState, GenesisError> {
    genesis.check()?;
    if genesis.provers.len() > PROVERS_MAX as usize {
        return Err(too_many("provers", genesis.provers.len(), PROVERS_MAX));
    }
    if let Some(p) = genesis.provers.iter().find(|p| p.weight > PROVER_WEIGHT_MAX || p.steps_max == 0) {
        return Err(too_many("provers.steps_max", usize::try_from(p.steps_max).unwrap_or(usize::MAX), "at least 1"));
    }
    let empty = MemoryKv::default();
    let mut state = Overlay::new(&empty);
    let hash = genesis.hash();
    let mut accounts: BTreeMap<PublicKey, Account> = BTreeMap::new();
    let mut total = Amount::ZERO;
    let mut count = |amount: Amount| {
        // The document's check bounds the sum below 2^120.
        total = Amount(total.0.saturating_add(amount.0));
    };
    for a in &genesis.accounts {
        accounts.insert(a.account, Account { balance: a.balance, nonce: 0 });
        count(a.balance);
    }
    for v in &genesis.validators {
        let record =
            ValidatorRecord { account: v.account, power: v.power, stake: v.stake, power_set: TimeMs(0), unbonds: None };
        state.put(keys::validator(&v.key), &record);
        count(v.stake);
    }
    for p in &genesis.provers {
        let record = ProverRecord {
            weight: p.weight,
            steps_max: p.steps_max,
            deposit: p.deposit,
            lapses: 0,
            ineligible_until: types::ids::TimeMs(0),
            registered: Height(0),
            exiting: false,
            open: 0,
        };
        state.put(keys::prover(&p.account), &record);
        count(p.deposit);
    }
    for (key, account) in &accounts {
        state.put(keys::account(key), account);
    }
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let counters = Counters {
        live_jobs: 0,
        provers: number(genesis.provers.len()),
        validators: number(genesis.validators.len()),
        eras: 1,
    };
    state.put(keys::counters(), &counters);
    state.put(keys::supply(), &Supply { total, burned: Amount::ZERO });
    state.put(keys::chain(), &Chain { genesis: hash, chain_id: genesis.chain_id.clone() });
    state.put(keys::params(), &ParamsRecord { params: genesis.params.clone() });
    state.put(keys::era(0), &Era { from: Height(1), set: genesis.validator_set()? });
    state.put(keys::time_group(0), &GroupTime { time: genesis.time_ms });
    let id = BlockId::new(*hash.as_bytes());
    state.put(
        keys::head(),
        &Head { height: Height(0), id, time_ms: genesis.time_ms, seed: genesis_seed(&hash), changed: true },
    );
    let mut writes = state.into_writes();
    let root = tree::update(&empty, Height(0), &mut writes)?;
    Ok(GenesisState { writes, root })
}
