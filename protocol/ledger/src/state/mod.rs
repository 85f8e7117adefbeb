//! The ledger's records: keys, values, and typed reads. Writing happens through [`Overlay`] alone.

pub mod keys;
pub mod overlay;
pub mod records;

use types::codec::Wire;
use types::ids::{Digest, Height, JobId, TimeMs};
use types::keys::PublicKey;
use types::kv::{KvRead, Space};
use types::params::Params;
use types::validator::ValidatorSet;

pub use overlay::Overlay;
use records::{
    Account, Chain, Counters, Era, GroupTime, Head, JobRecord, ParamsRecord, ProverRecord, Snapshot, Supply,
    TaskRecord, ValidatorRecord,
};

use crate::error::StateError;
use crate::limits::{PROVERS_MAX, TIME_GROUP};

/// Reads and decodes one record.
///
/// # Errors
/// [`StateError::Store`], [`StateError::Corrupt`].
pub fn read<T: Wire>(view: &dyn KvRead, key: &[u8]) -> Result<Option<T>, StateError> {
    let Some(bytes) = view.get(Space::State, key)? else { return Ok(None) };
    T::from_bytes(&bytes).map(Some).map_err(|source| StateError::Corrupt { record: T::NAME, source })
}

fn need<T: Wire>(view: &dyn KvRead, key: &[u8]) -> Result<T, StateError> {
    read(view, key)?.ok_or(StateError::Missing { record: T::NAME })
}

/// Decodes the value of a scanned row.
pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Result<T, StateError> {
    T::from_bytes(bytes).map_err(|source| StateError::Corrupt { record: T::NAME, source })
}

/// The chain's identity.
///
/// # Errors
/// [`StateError`], also when genesis was never written.
pub fn chain(view: &dyn KvRead) -> Result<Chain, StateError> {
    need(view, &keys::chain())
}

/// The parameters in force.
///
/// # Errors
/// [`StateError`].
pub fn params(view: &dyn KvRead) -> Result<Params, StateError> {
    need::<ParamsRecord>(view, &keys::params()).map(|p| p.params)
}

/// The last block.
///
/// # Errors
/// [`StateError`].
pub fn head(view: &dyn KvRead) -> Result<Head, StateError> {
    need(view, &keys::head())
}

/// The sums of credits.
///
/// # Errors
/// [`StateError`].
pub fn supply(view: &dyn KvRead) -> Result<Supply, StateError> {
    need(view, &keys::supply())
}

/// The counters.
///
/// # Errors
/// [`StateError`].
pub fn counters(view: &dyn KvRead) -> Result<Counters, StateError> {
    need(view, &keys::counters())
}

/// An account; one that never had a credit is empty.
///
/// # Errors
/// [`StateError`].
pub fn account(view: &dyn KvRead, account: &PublicKey) -> Result<Account, StateError> {
    Ok(read(view, &keys::account(account))?.unwrap_or_default())
}

/// A job.
///
/// # Errors
/// [`StateError`].
pub fn job(view: &dyn KvRead, job: &JobId) -> Result<Option<JobRecord>, StateError> {
    read(view, &keys::job(job))
}

/// A task.
///
/// # Errors
/// [`StateError`].
pub fn task(view: &dyn KvRead, job: &JobId, index: u32) -> Result<Option<TaskRecord>, StateError> {
    read(view, &keys::task(job, index))
}

/// A prover.
///
/// # Errors
/// [`StateError`].
pub fn prover(view: &dyn KvRead, account: &PublicKey) -> Result<Option<ProverRecord>, StateError> {
    read(view, &keys::prover(account))
}

/// All registered provers by key.
///
/// # Errors
/// [`StateError`].
pub fn provers(view: &dyn KvRead) -> Result<Vec<(PublicKey, ProverRecord)>, StateError> {
    let rows = view.scan(Space::State, &keys::provers(), None, PROVERS_MAX as usize)?;
    rows.iter()
        .filter_map(|(key, value)| Some((PublicKey::new(keys::trailing_id(key)?), value)))
        .map(|(k, v)| Ok((k, decode(v)?)))
        .collect()
}

/// The provers that a job was given.
///
/// # Errors
/// [`StateError`].
pub fn snapshot(view: &dyn KvRead, digest: &Digest) -> Result<Snapshot, StateError> {
    need(view, &keys::snapshot(digest))
}

/// A validator, also while it unbonds.
///
/// # Errors
/// [`StateError`].
pub fn validator(view: &dyn KvRead, consensus: &PublicKey) -> Result<Option<ValidatorRecord>, StateError> {
    read(view, &keys::validator(consensus))
}

/// The validator set in force at `height`; sets are fixed up to two heights past the head. `None` for height 0 and
/// later ones.
///
/// # Errors
/// [`StateError`].
pub fn set_at(view: &dyn KvRead, height: Height) -> Result<Option<ValidatorSet>, StateError> {
    let head = head(view)?.height;
    if height.0 == 0 || height > head.next().next() {
        return Ok(None);
    }
    set_unbounded(view, height)
}

/// As [`set_at`], for use within a block, where the head is still the parent.
pub(crate) fn set_unbounded(view: &dyn KvRead, height: Height) -> Result<Option<ValidatorSet>, StateError> {
    let (mut low, mut high) = (0u32, counters(view)?.eras);
    let mut found: Option<Era> = None;
    while low < high {
        let middle = low.saturating_add(high.saturating_sub(low) / 2);
        let era: Era = need(view, &keys::era(middle))?;
        if era.from <= height {
            low = middle.saturating_add(1);
            found = Some(era);
        } else {
            high = middle;
        }
    }
    Ok(found.map(|era| era.set))
}

/// A time that is not after the time of `height`'s block and at most [`TIME_GROUP`] blocks before it; `None` once
/// forgotten.
///
/// # Errors
/// [`StateError`].
pub fn time_of(view: &dyn KvRead, height: Height) -> Result<Option<TimeMs>, StateError> {
    let group = height.0.checked_div(TIME_GROUP).unwrap_or(0);
    Ok(read::<GroupTime>(view, &keys::time_group(group))?.map(|g| g.time))
}
