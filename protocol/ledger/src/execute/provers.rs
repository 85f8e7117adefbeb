//! Provers: registration, deposit, leases held, what lapses and rejected claims cost.

use types::ids::TimeMs;
use types::keys::PublicKey;

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::limits::{PROVER_WEIGHT_MAX, PROVERS_MAX};
use crate::state::records::{ProverRecord, TimerKind};
use crate::state::{self, keys};

fn check_offer(weight: u32, steps_max: u64) -> Result<(), TxError> {
    if weight == 0 || weight > PROVER_WEIGHT_MAX {
        return Err(TxError::new(
            TxCode::OutOfBounds,
            "weight",
            weight,
            format_args!("1 to {PROVER_WEIGHT_MAX}"),
            "choose a weight within it",
        ));
    }
    if steps_max == 0 {
        return Err(TxError::new(TxCode::OutOfBounds, "steps_max", 0, "at least 1", "offer at least one step"));
    }
    Ok(())
}

impl Exec<'_> {
    pub(super) fn register_prover(
        &mut self,
        sender: &PublicKey,
        weight: u32,
        steps_max: u64,
    ) -> Result<(), LedgerError> {
        check_offer(weight, steps_max)?;
        if let Some(old) = state::prover(&self.st, sender)? {
            let value = if old.exiting { "leaving" } else { "registered" };
            let remedy = "update it, or wait until it has left";
            return Err(TxError::new(TxCode::Registered, "sender", value, "not registered", remedy).into());
        }
        let mut counters = state::counters(&self.st)?;
        if counters.provers >= PROVERS_MAX {
            return Err(
                TxError::new(TxCode::Full, "provers", counters.provers, PROVERS_MAX, "wait until one leaves").into()
            );
        }
        let deposit = self.ctx.params.assignment.prover_deposit;
        self.debit("deposit", sender, deposit)?;
        counters.provers = counters.provers.saturating_add(1);
        self.st.put(keys::counters(), &counters);
        self.st.put(keys::prover(sender), &ProverRecord::new(weight, steps_max, deposit, self.ctx.height));
        self.events.push(Event::ProverChanged { prover: *sender });
        Ok(())
    }

    fn registered_prover(&self, sender: &PublicKey) -> Result<ProverRecord, LedgerError> {
        let missing = || {
            TxError::new(
                TxCode::NotRegistered,
                "sender",
                sender,
                "a registered prover that is not leaving",
                "register first",
            )
        };
        Ok(state::prover(&self.st, sender)?.filter(|p| !p.exiting).ok_or_else(missing)?)
    }

    pub(super) fn update_prover(&mut self, sender: &PublicKey, weight: u32, steps_max: u64) -> Result<(), LedgerError> {
        check_offer(weight, steps_max)?;
        let record = self.registered_prover(sender)?;
        self.st.put(keys::prover(sender), &ProverRecord { weight, steps_max, ..record });
        self.events.push(Event::ProverChanged { prover: *sender });
        Ok(())
    }

    pub(super) fn exit_prover(&mut self, sender: &PublicKey) -> Result<(), LedgerError> {
        let record = self.registered_prover(sender)?;
        if record.locked_until > self.ctx.time {
            return Err(TxError::new(
                TxCode::DepositLocked,
                "deposit",
                format_args!("locked after {} rejected claims", record.rejections),
                format_args!("an exit from block time {} on", record.locked_until),
                "wait until then; the whole deposit returns",
            )
            .into());
        }
        let record = ProverRecord { exiting: true, ..record };
        self.st.put(keys::prover(sender), &record);
        self.events.push(Event::ProverChanged { prover: *sender });
        Ok(self.leave_if_free(sender, &record)?)
    }

    /// Returns the deposit of a prover that leaves and holds nothing, once it is free.
    fn leave_if_free(&mut self, prover: &PublicKey, record: &ProverRecord) -> Result<(), StateError> {
        if !record.exiting || record.open > 0 {
            return Ok(());
        }
        if record.locked_until > self.ctx.time {
            // It was leaving already when its claim was rejected.
            self.st.mark(keys::timer(record.locked_until, &TimerKind::Leave(*prover)));
            return Ok(());
        }
        self.credit(prover, record.deposit)?;
        self.st.delete(keys::prover(prover));
        let mut counters = state::counters(&self.st)?;
        counters.provers = counters.provers.saturating_sub(1);
        self.st.put(keys::counters(), &counters);
        self.events.push(Event::ProverChanged { prover: *prover });
        Ok(())
    }

    /// Counts a lease or a claim in voting.
    pub(super) fn hold(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(mut record) = state::prover(&self.st, prover)? {
            record.open = record.open.saturating_add(1);
            self.st.put(keys::prover(prover), &record);
        }
        Ok(())
    }

    /// Ends what [`Self::hold`] counted.
    pub(super) fn release(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(mut record) = state::prover(&self.st, prover)? {
            record.open = record.open.saturating_sub(1);
            self.st.put(keys::prover(prover), &record);
            self.leave_if_free(prover, &record)?;
        }
        Ok(())
    }

    /// The deposit of a prover that was leaving may be free.
    pub(super) fn leaves(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        match state::prover(&self.st, prover)? {
            Some(record) => self.leave_if_free(prover, &record),
            None => Ok(()),
        }
    }

    /// A lapsed lease: behind all others for a time that doubles with each lapse in a row. Never costs credits.
    pub(super) fn lapse(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(mut record) = state::prover(&self.st, prover)? {
            let p = &self.ctx.params.assignment;
            let doubled = p.lapse_ms.saturating_mul(1u64.checked_shl(record.lapses.min(40)).unwrap_or(u64::MAX));
            record.lapses = record.lapses.saturating_add(1);
            record.ineligible_until = self.ctx.time.plus(doubled.min(p.lapse_ms_max));
            self.st.put(keys::prover(prover), &record);
        }
        Ok(())
    }

    /// A rejected claim: the prover may commit nothing for a time that doubles with each, its certified work counts no
    /// more, and its deposit stays for longer than any of that. Since it can't leave before, registering again is no
    /// way out; once the deposit is free, what was is forgotten, as it would be for a new key. Never costs credits.
    pub(super) fn bar(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(mut record) = state::prover(&self.st, prover)? {
            let (p, now) = (&self.ctx.params.assignment, self.ctx.time);
            if record.locked_until <= now {
                record.rejections = 0;
            }
            let doubled = p.reject_ms.saturating_mul(1u64.checked_shl(record.rejections.min(40)).unwrap_or(u64::MAX));
            record.rejections = record.rejections.saturating_add(1);
            record.certified = 0;
            // A rejection of an older claim must not shorten what a younger one began.
            record.barred_until = record.barred_until.max(now.plus(doubled.min(p.reject_ms_max)));
            record.locked_until = record.locked_until.max(now.plus(p.lock_ms));
            self.st.put(keys::prover(prover), &record);
        }
        Ok(())
    }

    /// A certified claim ends the row of lapses, and is work to lose.
    pub(super) fn credit_work(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(record) = state::prover(&self.st, prover)? {
            let certified = record.certified.saturating_add(1);
            let record = ProverRecord { lapses: 0, ineligible_until: TimeMs(0), certified, ..record };
            self.st.put(keys::prover(prover), &record);
        }
        Ok(())
    }
}
