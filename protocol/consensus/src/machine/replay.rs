//! Beginning a height, and coming back to one after a crash: the log's inputs go through the core again in order, own
//! signatures are taken from the log, and the core stops the node if it would now say something else.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_malachitebft_core_consensus::Input as CoreInput;
use arc_malachitebft_core_types::{ValueOrigin, VoteExtensionPolicy};
use types::TypeError;
use types::codec::Wire;
use types::ids::{BlockId, Height, Round};
use types::params::Timeouts;
use types::validator::ValidatorSet;

use super::effects::proposed_value;
use super::inputs::timeout;
use super::{DECIDED_WINDOW, Fatal, Machine, Output, TimerId};
use crate::context::{Chain, CoreHeight, CoreSet};
use crate::convert;
use crate::guard::GuardRecord;
use crate::proposer::proposer;
use crate::wal::Record;

impl Machine {
    pub(super) fn start_height(
        &mut self,
        height: Height,
        set: ValidatorSet,
        timeouts: Timeouts,
        wal: &[Vec<u8>],
    ) -> Result<(), Fatal> {
        if height <= self.inner.height {
            return Err(Fatal::HeightOrder { asked: height, current: self.inner.height });
        }
        let records = decode(height, wal)?;
        let set = Arc::new(set);
        let core_set = CoreSet::new(Arc::clone(&set));
        self.reset(height, set, timeouts);
        self.core = Some(self.new_core(height, core_set.clone()));
        let start = CoreInput::StartHeight(CoreHeight(height), core_set, false, None, VoteExtensionPolicy::Disabled);
        if self.inner.is_validator() && !records.is_empty() {
            self.replay(height, start, wal, &records)?;
        } else {
            self.feed(start)?;
        }
        let (proposals, votes) = self.held.take(height);
        proposals.into_iter().try_for_each(|message| self.on_proposal(message))?;
        votes.into_iter().try_for_each(|vote| self.on_vote(vote))
    }

    fn reset(&mut self, height: Height, set: Arc<ValidatorSet>, timeouts: Timeouts) {
        let inner = &mut self.inner;
        inner.height = height;
        inner.timeouts = timeouts;
        inner.waits.new_height();
        let watched = Height(height.0.saturating_sub(DECIDED_WINDOW));
        inner.sets.insert(height, set);
        inner.sets = inner.sets.split_off(&watched);
        inner.watch.forget_below(watched);
        // The block below is committed: nothing will ever be signed there again.
        inner.guard.forget_below(height);
        inner.candidates.clear();
        inner.wanted.clear();
        inner.synced = None;
        inner.undelivered = None;
        inner.resends.clear();
        inner.decided = None;
        inner.wal_dirty = false;
        inner.guard_pending.clear();
        inner.replayed = None;
        inner.build_pending = None;
        inner.refused = false;
    }

    fn replay(
        &mut self,
        height: Height,
        start: CoreInput<Chain>,
        wal: &[Vec<u8>],
        records: &[Record],
    ) -> Result<(), Fatal> {
        tracing::info!(%height, records = records.len(), "replaying the consensus log");
        let inputs: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(index, record)| self.input_of(height, index, record))
            .collect::<Result<_, _>>()?;
        self.take_own_messages(records);
        self.inner.replayed = Some(wal.iter().cloned().collect::<BTreeSet<_>>());
        self.feed(start)?;
        if let Some(core) = self.core.as_mut() {
            core.index_wal_entries(&inputs);
        }
        for (record, input) in records.iter().zip(inputs) {
            self.remember(record);
            self.feed(input)?;
            if let Record::Timeout { kind, round } = record {
                self.inner.out.push(Output::CancelTimer(TimerId { height, round: *round, kind: *kind }));
            }
        }
        if let Some(core) = self.core.as_mut() {
            core.reset_entries_index();
        }
        self.inner.replayed = None;
        self.resume_proposal(records)?;
        let unchecked: Vec<_> = records.iter().filter_map(proposed).collect();
        for (id, round) in unchecked {
            if !self.inner.candidates.contains_key(&id) {
                self.ask_for(id, round);
            }
        }
        Ok(())
    }

    /// What the log shows as signed is entered in the guard, should the crash have come between the two.
    fn take_own_messages(&mut self, records: &[Record]) {
        let own = self.inner.guard.public();
        for record in records {
            let signed = match record {
                Record::Vote(vote) if Some(vote.vote.validator) == own => GuardRecord::Vote(vote.clone()),
                Record::Proposal(proposal) if Some(proposal.proposal.proposer) == own => {
                    GuardRecord::Proposal(proposal.clone())
                }
                _ => continue,
            };
            match self.inner.guard.note(signed) {
                Ok(new) => self.inner.guard_pending.extend(new),
                Err(refusal) => {
                    self.inner.refuse(refusal);
                }
            }
        }
    }

    /// Brings back what lives beside the core: blocks, and verified messages for the watch.
    fn remember(&mut self, record: &Record) {
        let genesis = self.inner.genesis;
        match record {
            Record::Value { round, valid, block } => {
                self.add_candidate(block.id(), Arc::new(block.as_ref().clone()), *round, Some(*valid))
            }
            Record::Vote(vote) if vote.verify(&genesis) => {
                let found = self.inner.watch.vote(vote);
                self.inner.evidence(found);
            }
            Record::Proposal(proposal) if proposal.verify(&genesis) => {
                let found = self.inner.watch.proposal(proposal);
                self.inner.evidence(found);
            }
            _ => {}
        }
    }

    /// After replay this node may still owe a proposal: the block it had built and logged, or a new one.
    fn resume_proposal(&mut self, records: &[Record]) -> Result<(), Fatal> {
        let Some(round) = self.inner.build_pending.take() else { return Ok(()) };
        let due = self.core.as_ref().is_some_and(|core| core.driver.step_is_propose()) && self.round() == round;
        if !due || self.inner.refused {
            return Ok(());
        }
        let own = self.inner.guard.public();
        let built = records.iter().rev().find_map(|record| match record {
            Record::Value { round: r, valid: true, block } if *r == round && Some(block.header.proposer) == own => {
                Some(block.id())
            }
            _ => None,
        });
        match built {
            Some(id) => self.propose(round, id),
            None => {
                self.inner.build_block(round);
                Ok(())
            }
        }
    }

    fn input_of(&mut self, height: Height, index: usize, record: &Record) -> Result<CoreInput<Chain>, Fatal> {
        let corrupt = |rule: &str| {
            let error = TypeError::Malformed { record: Record::NAME, detail: rule.into() };
            Fatal::WalRecord { height, index, error }
        };
        Ok(match record {
            Record::Vote(vote) => CoreInput::Vote(convert::vote(vote)),
            Record::Proposal(proposal) => CoreInput::Proposal(convert::proposal(proposal)),
            Record::Timeout { kind, round } => CoreInput::TimeoutElapsed(timeout(*kind, *round)),
            Record::Value { round, valid, block } => {
                let proposer = self.inner.set().and_then(|set| proposer(set, height, *round));
                let proposer = proposer.ok_or_else(|| corrupt("a block without a validator set"))?;
                CoreInput::ProposedValue(
                    proposed_value(height, *round, block.id(), proposer, *valid),
                    ValueOrigin::Consensus,
                )
            }
            Record::Polka(votes) => {
                let certificate = convert::polka(votes).ok_or_else(|| corrupt("a polka without votes for a block"))?;
                CoreInput::PolkaCertificate(certificate)
            }
            Record::Synced(decided) => {
                self.check_synced(decided).map_err(|error| corrupt(&error.to_string()))?;
                self.take_synced(decided.as_ref().clone())?
            }
        })
    }
}

fn proposed(record: &Record) -> Option<(BlockId, Round)> {
    match record {
        Record::Proposal(p) => Some((p.proposal.value, p.proposal.round)),
        _ => None,
    }
}

fn decode(height: Height, wal: &[Vec<u8>]) -> Result<Vec<Record>, Fatal> {
    let mut records = Vec::with_capacity(wal.len());
    for (index, bytes) in wal.iter().enumerate() {
        let record = Record::from_bytes(bytes).map_err(|error| Fatal::WalRecord { height, index, error })?;
        let found = match &record {
            Record::Vote(vote) => vote.vote.height,
            Record::Proposal(proposal) => proposal.proposal.height,
            Record::Timeout { .. } => height,
            Record::Value { block, .. } => block.header.height,
            Record::Polka(votes) => votes.first().map_or(height, |v| v.vote.height),
            Record::Synced(decided) => decided.certificate.height,
        };
        if found != height {
            return Err(Fatal::WalHeight { height, index, found });
        }
        records.push(record);
    }
    Ok(records)
}
