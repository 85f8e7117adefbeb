//! Provers: registration, deposit, leases held, lapses.

use types::ids::TimeMs;
use types::keys::PublicKey;

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::limits::{PROVER_WEIGHT_MAX, PROVERS_MAX};
use crate::state::records::ProverRecord;
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
        let record = ProverRecord {
            weight,
            steps_max,
            deposit,
            lapses: 0,
            ineligible_until: TimeMs(0),
            registered: self.ctx.height,
            exiting: false,
            open: 0,
        };
        self.st.put(keys::prover(sender), &record);
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
        let record = ProverRecord { exiting: true, ..self.registered_prover(sender)? };
        self.st.put(keys::prover(sender), &record);
        self.events.push(Event::ProverChanged { prover: *sender });
        Ok(self.leave_if_free(sender, &record)?)
    }

    /// Returns the deposit of a prover that leaves and holds nothing.
    fn leave_if_free(&mut self, prover: &PublicKey, record: &ProverRecord) -> Result<(), StateError> {
        if !record.exiting || record.open > 0 {
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

    /// A certified claim ends the row of lapses.
    pub(super) fn forgive(&mut self, prover: &PublicKey) -> Result<(), StateError> {
        if let Some(record) = state::prover(&self.st, prover)? {
            self.st.put(keys::prover(prover), &ProverRecord { lapses: 0, ineligible_until: TimeMs(0), ..record });
        }
        Ok(())
    }
}
