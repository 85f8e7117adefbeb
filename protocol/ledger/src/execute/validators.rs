//! Validators: registration, power, exit, uptime attestations. A change made at height h counts from h + 2 on, so that
//! the header of h + 1 can name it and every node knows a height's set before the height begins.

use std::collections::BTreeMap;

use types::ids::{Amount, TimeMs};
use types::keys::{PublicKey, Signature};
use types::limits::VALIDATORS_MAX;
use types::signing::Domain;
use types::validator::{Validator, ValidatorSet};

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::limits::{POWER_PAUSE_MS, VALIDATOR_RECORDS_MAX};
use crate::money;
use crate::state::records::{Era, TimerKind, Uptime, ValidatorRecord};
use crate::state::{self, keys};

const MISSING: StateError = StateError::Missing { record: "validator set record" };

/// Power that changes between two sets: the sum of the differences, key by key.
fn moved_power(old: &ValidatorSet, new: &ValidatorSet) -> u64 {
    let mut change: BTreeMap<PublicKey, (u64, u64)> = BTreeMap::new();
    for v in old.validators() {
        change.entry(v.key).or_default().0 = v.power;
    }
    for v in new.validators() {
        change.entry(v.key).or_default().1 = v.power;
    }
    change.values().map(|(a, b)| a.abs_diff(*b)).fold(0, u64::saturating_add)
}

impl Exec<'_> {
    /// The set for the height after next, with the key's power changed; 0 removes it.
    pub(super) fn change_set(&mut self, key: &PublicKey, power: u64) -> Result<(), LedgerError> {
        let from = self.ctx.height.next().next();
        let next = state::set_unbounded(&self.st, self.ctx.height.next())?.ok_or(MISSING)?;
        let latest = state::set_unbounded(&self.st, from)?.ok_or(MISSING)?;
        let refuse =
            |value: String, limit: String, remedy| TxError::new(TxCode::SetChange, "power", value, limit, remedy);
        let mut validators: Vec<_> = latest.validators().iter().filter(|v| v.key != *key).cloned().collect();
        if power > 0 {
            validators.push(Validator { key: *key, power });
        }
        let set = ValidatorSet::new(validators)
            .map_err(|e| refuse(power.to_string(), e.to_string(), "keep the set within its bounds"))?;
        let (moved, total) = (moved_power(&next, &set), next.power_total());
        if u128::from(moved).saturating_mul(3) > u128::from(total) {
            let limit = format!("1/3 of {total} may change in one block");
            return Err(
                refuse(format!("{moved} changed"), limit, "change less at once or wait for the next block").into()
            );
        }
        let mut counters = state::counters(&self.st)?;
        let last = keys::era(counters.eras.saturating_sub(1));
        let pending = state::read::<Era>(&self.st, &last)?.is_some_and(|era| era.from == from);
        match (pending, set == next) {
            (true, true) => {
                // Taken back within the block: no change at all.
                self.st.delete(last);
                counters.eras = counters.eras.saturating_sub(1);
            }
            (true, false) => self.st.put(last, &Era { from, set: set.clone() }),
            (false, true) => {}
            (false, false) => {
                self.st.put(keys::era(counters.eras), &Era { from, set: set.clone() });
                counters.eras = counters.eras.saturating_add(1);
            }
        }
        self.st.put(keys::counters(), &counters);
        self.events.push(Event::ValidatorsChanged { from, set });
        Ok(())
    }

    /// A validator's stake per power is at least that of the latest set, so that power can't be had for nothing.
    fn check_stake(&self, key: &PublicKey, power: u64, stake: Amount) -> Result<(), LedgerError> {
        let latest = state::set_unbounded(&self.st, self.ctx.height.next().next())?.ok_or(MISSING)?;
        let (mut staked, mut powers) = (Amount::ZERO, 0u64);
        for v in latest.validators().iter().filter(|v| v.key != *key) {
            let record = state::validator(&self.st, &v.key)?;
            staked = staked
                .checked_add(record.map_or(Amount::ZERO, |r| r.stake))
                .ok_or(StateError::Credits("sum of stakes".into()))?;
            powers = powers.saturating_add(v.power);
        }
        if staked == Amount::ZERO || !money::product_at_least(stake, powers, staked, power) {
            let limit = match staked {
                Amount::ZERO => "the set has no stake, so it is closed".to_owned(),
                _ => format!("stake per power at least that of the others, {staked} for {powers}"),
            };
            return Err(TxError::new(
                TxCode::Stake,
                "stake",
                format_args!("{stake} for power {power}"),
                limit,
                "lock more stake or ask for less power",
            )
            .into());
        }
        Ok(())
    }

    pub(super) fn register_validator(
        &mut self,
        sender: &PublicKey,
        key: &PublicKey,
        power: u64,
        stake: Amount,
        possession: &Signature,
    ) -> Result<(), LedgerError> {
        if state::validator(&self.st, key)?.is_some() {
            let remedy = "update it, or wait until its stake has returned";
            return Err(TxError::new(TxCode::Registered, "key", key, "a key that is not registered", remedy).into());
        }
        let mut counters = state::counters(&self.st)?;
        if counters.validators >= VALIDATOR_RECORDS_MAX {
            return Err(TxError::new(
                TxCode::Full,
                "validators",
                counters.validators,
                VALIDATOR_RECORDS_MAX,
                "wait until one leaves",
            )
            .into());
        }
        if power == 0 {
            return Err(TxError::new(TxCode::OutOfBounds, "power", 0, "at least 1", "ask for some power").into());
        }
        if !key.verify(Domain::KeyPossession, &self.ctx.genesis, sender.as_bytes(), possession) {
            let remedy = "sign the sender's key with the consensus key";
            return Err(
                TxError::new(TxCode::BadSignature, "possession", key, "the consensus key's signature", remedy).into()
            );
        }
        self.check_stake(key, power, stake)?;
        self.debit("stake", sender, stake)?;
        counters.validators = counters.validators.saturating_add(1);
        self.st.put(keys::counters(), &counters);
        self.st.put(
            keys::validator(key),
            &ValidatorRecord { account: *sender, power, stake, power_set: self.ctx.time, unbonds: None },
        );
        self.change_set(key, power)
    }

    fn own_validator(&self, sender: &PublicKey, key: &PublicKey) -> Result<ValidatorRecord, LedgerError> {
        let missing =
            || TxError::new(TxCode::NotRegistered, "key", key, "a validator that is not leaving", "register it first");
        let record = state::validator(&self.st, key)?.filter(|r| r.unbonds.is_none()).ok_or_else(missing)?;
        if record.account != *sender {
            return Err(TxError::new(
                TxCode::NotOwner,
                "key",
                record.account,
                sender,
                "only its account changes a validator",
            )
            .into());
        }
        Ok(record)
    }

    pub(super) fn update_validator(
        &mut self,
        sender: &PublicKey,
        key: &PublicKey,
        power: u64,
    ) -> Result<(), LedgerError> {
        let record = self.own_validator(sender, key)?;
        if power == 0 {
            return Err(TxError::new(TxCode::OutOfBounds, "power", 0, "at least 1", "exit instead").into());
        }
        if power > record.power {
            self.check_stake(key, power, record.stake)?;
        }
        let now = self.ctx.time;
        let again = record.power_set.plus(POWER_PAUSE_MS);
        // Within one block there is one change of the set at most.
        if record.power_set != TimeMs(0) && record.power_set != now && now < again {
            let limit = format!("once in {POWER_PAUSE_MS} ms, not before {again}");
            return Err(TxError::new(TxCode::TooSoon, "power", now, limit, "change the power less often").into());
        }
        self.st.put(keys::validator(key), &ValidatorRecord { power, power_set: now, ..record });
        self.change_set(key, power)
    }

    pub(super) fn exit_validator(&mut self, sender: &PublicKey, key: &PublicKey) -> Result<(), LedgerError> {
        let record = self.own_validator(sender, key)?;
        self.retire(key, record)
    }

    /// Takes a validator out of the set. Its stake stays as long as evidence about its last height can arrive. If the set can't
    /// change so much, nothing is changed.
    pub(super) fn retire(&mut self, key: &PublicKey, record: ValidatorRecord) -> Result<(), LedgerError> {
        self.change_set(key, 0)?;
        let at = self.ctx.time.plus(self.ctx.params.evidence_ms);
        self.st.put(keys::validator(key), &ValidatorRecord { power: 0, unbonds: Some(at), ..record });
        self.st.mark(keys::timer(at, &TimerKind::Unbond(*key)));
        Ok(())
    }

    pub(super) fn attest(
        &mut self,
        sender: &PublicKey,
        observer: &PublicKey,
        reached: &[PublicKey],
    ) -> Result<(), LedgerError> {
        self.own_validator(sender, observer)?;
        let set = state::set_unbounded(&self.st, self.ctx.height)?.ok_or(MISSING)?;
        let bad =
            |value: String, limit: &str| TxError::new(TxCode::OutOfBounds, "reached", value, limit, "correct the list");
        if reached.len() > VALIDATORS_MAX || !reached.is_sorted_by(|a, b| a < b) {
            return Err(bad(format!("{} keys", reached.len()), "at most 100 keys in rising order").into());
        }
        if let Some(stranger) = reached.iter().find(|k| set.power_of(k).is_none() || *k == observer) {
            return Err(bad(stranger.to_string(), "other validators of the present set").into());
        }
        let now = self.ctx.time;
        let mut own: Uptime = state::read(&self.st, &keys::uptime(observer))?.unwrap_or_default();
        let pause = self.ctx.params.empty_block_ms;
        if own.attested.0 != 0 && now.since(own.attested) < pause {
            let limit = format!("{pause} ms after {}", own.attested);
            return Err(TxError::new(TxCode::TooSoon, "observer", now, limit, "attest less often").into());
        }
        own.attested = now;
        self.st.put(keys::uptime(observer), &own);
        for key in reached {
            let mut seen: Uptime = state::read(&self.st, &keys::uptime(key))?.unwrap_or_default();
            seen.reached = now;
            seen.count = seen.count.saturating_add(1);
            self.st.put(keys::uptime(key), &seen);
        }
        Ok(())
    }
}
