//! Evidence of equivocation: once per offence, a share of the stake is burned, and the offender leaves the validator set.
//!
//! It leaves at the usual boundary, two heights later, and only if the set without it still decides when any one of the others is
//! down: four equal validators keep a proven liar, whose offences go on to cost it, rather than halt when the next one fails.
//! The same holds while more than a third of the power would change at once.

use types::evidence::Evidence;
use types::keys::PublicKey;
use types::validator::ValidatorSet;

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::money;
use crate::state::records::{Offence, OffenceKind};
use crate::state::{self, keys};

impl Exec<'_> {
    /// Burns the share of the parameters. Burned credits stay in the total and can't be spent by anyone.
    pub(super) fn punish(&mut self, evidence: &Evidence) -> Result<(), LedgerError> {
        let (offender, height, offence) = (evidence.offender(), evidence.height(), evidence.offence());
        let key = keys::offence(&offence);
        if state::read::<Offence>(&self.st, &key)?.is_some() {
            return Err(TxError::new(
                TxCode::Recorded,
                "offence",
                offence,
                "once per offence",
                "nothing is left to do",
            )
            .into());
        }
        let refuse =
            |value: String, limit: &str| TxError::new(TxCode::Evidence, "evidence", value, limit, "check the messages");
        if height >= self.ctx.height || height.0 == 0 {
            return Err(refuse(format!("height {height}"), "a decided height").into());
        }
        let window = self.ctx.params.evidence_ms;
        let young = state::time_of(&self.st, height)?.is_some_and(|time| self.ctx.time.since(time) <= window);
        if !young {
            let limit = format!("at most {window} ms old");
            return Err(TxError::new(TxCode::EvidenceAge, "height", height, limit, "it comes too late").into());
        }
        let set =
            state::set_unbounded(&self.st, height)?.ok_or(StateError::Missing { record: "validator set record" })?;
        if set.power_of(&offender).is_none() {
            return Err(refuse(format!("offender {offender}"), "a validator of the height").into());
        }
        if !evidence.verify(&self.ctx.genesis) {
            return Err(refuse(
                "no conflict".into(),
                "two conflicting messages in canonical order, signed by the offender",
            )
            .into());
        }
        let mut slashed = types::ids::Amount::ZERO;
        if let Some(mut record) = state::validator(&self.st, &offender)? {
            slashed = money::fraction(record.stake, u64::from(self.ctx.params.slash_permille.min(1_000)), 1_000);
            record.stake = record.stake.saturating_sub(slashed);
            self.st.put(keys::validator(&offender), &record);
            let mut supply = state::supply(&self.st)?;
            let over = || StateError::Credits("burned credits past the range".into());
            supply.burned = supply.burned.checked_add(slashed).ok_or_else(over)?;
            self.st.put(keys::supply(), &supply);
        }
        let kind = match evidence {
            Evidence::Votes(..) => OffenceKind::Votes,
            Evidence::Proposals(..) => OffenceKind::Proposals,
            Evidence::Verdicts(..) => OffenceKind::Verdicts,
        };
        self.expel(&offender)?;
        self.st.put(key, &Offence { kind, offender, height, recorded: self.ctx.height, slashed });
        self.events.push(Event::Slashed { validator: offender, offence, amount: slashed });
        Ok(())
    }

    /// Retires an offender, if the set can spare it.
    fn expel(&mut self, offender: &PublicKey) -> Result<(), LedgerError> {
        let Some(record) = state::validator(&self.st, offender)?.filter(|r| r.unbonds.is_none()) else {
            return Ok(());
        };
        let latest = state::set_unbounded(&self.st, self.ctx.height.next().next())?
            .ok_or(StateError::Missing { record: "validator set record" })?;
        let rest: Vec<_> = latest.validators().iter().filter(|v| v.key != *offender).cloned().collect();
        let Ok(rest) = ValidatorSet::new(rest) else { return Ok(()) };
        let total = rest.power_total();
        let spares = rest.validators().iter().all(|v| rest.is_quorum(total.saturating_sub(v.power)));
        if !spares {
            return Ok(());
        }
        match self.retire(offender, record) {
            Err(LedgerError::Refused(_)) => Ok(()),
            done => done,
        }
    }
}
