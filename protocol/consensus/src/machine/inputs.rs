//! From outside into the core: admission first, then the watch for equivocation, then the core.

use arc_malachitebft_core_consensus::{Input as CoreInput, LocallyProposedValue, PeerId};
use arc_malachitebft_core_types as core;
use core::{Timeout, TimeoutKind, ValueOrigin, ValueResponse};
use std::sync::Arc;
use types::block::{Block, DecidedBlock, HEADER_VERSION};
use types::codec::Wire;
use types::gossip::{ConsensusMessage, ProposalMessage};
use types::ids::{BlockId, Height, Round, TimeMs};
use types::validator::ValidatorSet;
use types::vote::{CertificateError, SignedProposal, SignedVote};

use super::effects::proposed_value;
use super::{CANDIDATES_MAX, Candidate, Fatal, Machine, Output, TimerId, TimerKind, VOTES_OF_MAX};
use crate::admission::{
    Acceptance, Fault, Ignored, Place, ROUNDS_AHEAD, check_block, check_message_form, check_polka_form,
    check_proposal_form, check_resend, check_round_form, power,
};
use crate::context::{BlockValue, Chain, CoreHeight};
use crate::convert;
use crate::evidence::{PROPOSALS_MAX, VOTES_MAX};
use crate::held::WINDOW;
use crate::proposer::proposer;
use crate::wal::Record;

/// What admission of a vote or proposal means for gossip.
pub(super) const fn verdict(place: Place) -> Acceptance {
    match place {
        Place::Now | Place::Future => Acceptance::Accept,
        Place::Past => Acceptance::Ignore(Ignored::OldHeight),
    }
}

/// What admission of a message means for gossip.
pub(super) const fn verdict_on(message: &ConsensusMessage, place: Place) -> Acceptance {
    match (message, place) {
        (ConsensusMessage::Polka { .. } | ConsensusMessage::Round { .. }, Place::Future) => {
            Acceptance::Ignore(Ignored::LaterCertificate)
        }
        (_, place) => verdict(place),
    }
}

fn reject(fault: Fault) -> Acceptance {
    Acceptance::Reject(fault)
}

impl Machine {
    /// Where a height lies, and the set its messages are judged by. The sets of later heights are not known yet; the current
    /// one stands in, and what it does not know is ignored, not rejected.
    fn place(&self, height: Height) -> Result<(Place, &ValidatorSet), Acceptance> {
        let current = self.inner.height;
        let (Some(set), true) = (self.inner.set(), self.core.is_some()) else {
            return Err(Acceptance::Ignore(Ignored::NotStarted));
        };
        if height == current {
            Ok((Place::Now, set))
        } else if height < current {
            self.inner
                .sets
                .get(&height)
                .map(|set| (Place::Past, set.as_ref()))
                .ok_or(Acceptance::Ignore(Ignored::OldHeight))
        } else if height.0.saturating_sub(current.0) > WINDOW {
            Err(Acceptance::Ignore(Ignored::FarHeight))
        } else {
            Ok((Place::Future, set))
        }
    }

    fn round_in_reach(&self, place: Place, round: Round) -> Result<(), Acceptance> {
        let far = place == Place::Now && round.0 > self.round().0.saturating_add(ROUNDS_AHEAD);
        if far { Err(Acceptance::Ignore(Ignored::FarRound)) } else { Ok(()) }
    }

    fn admit_vote(&self, vote: &SignedVote) -> Result<Place, Acceptance> {
        let (place, set) = self.place(vote.vote.height)?;
        self.round_in_reach(place, vote.vote.round)?;
        if set.power_of(&vote.vote.validator).is_none() {
            return Err(if place == Place::Future {
                Acceptance::Ignore(Ignored::UnknownSigner)
            } else {
                reject(Fault::Stranger)
            });
        }
        if place == Place::Future && !self.held.room_for_vote(vote) {
            return Err(Acceptance::Ignore(Ignored::Quota));
        }
        let known = match place {
            Place::Past => self.inner.watch.nothing_new(vote),
            Place::Now => self.inner.watch.knows_vote(vote),
            Place::Future => self.held.knows_vote(vote),
        };
        if known || vote.verify(&self.inner.genesis) { Ok(place) } else { Err(reject(Fault::BadSignature)) }
    }

    fn admit_proposal(&self, proposal: &SignedProposal) -> Result<Place, Acceptance> {
        let p = &proposal.proposal;
        let (place, set) = self.place(p.height)?;
        self.round_in_reach(place, p.round)?;
        check_proposal_form(proposal).map_err(reject)?;
        let member = set.power_of(&p.proposer).is_some();
        let turn = proposer(set, p.height, p.round) == Some(p.proposer);
        match place {
            Place::Past | Place::Now if !member => return Err(reject(Fault::Stranger)),
            Place::Now if !turn => return Err(reject(Fault::NotProposer)),
            Place::Future if !turn => return Err(Acceptance::Ignore(Ignored::UnknownSigner)),
            _ => {}
        }
        if self.inner.watch.knows_proposal(proposal) || proposal.verify(&self.inner.genesis) {
            Ok(place)
        } else {
            Err(reject(Fault::BadSignature))
        }
    }

    pub(super) fn admit_proposal_message(&self, message: &ProposalMessage) -> Result<Place, Acceptance> {
        if message.block.header.version != HEADER_VERSION {
            return Err(Acceptance::Ignore(Ignored::UnknownVersion));
        }
        let place = self.admit_proposal(&message.proposal)?;
        check_message_form(&self.inner.genesis, message).map_err(reject)?;
        let p = &message.proposal.proposal;
        if place == Place::Future
            && !self.held.room_for_proposal(p.height, p.round, p.proposer, message.to_bytes().len())
        {
            return Err(Acceptance::Ignore(Ignored::Quota));
        }
        Ok(place)
    }

    fn admit_polka(&self, votes: &[SignedVote]) -> Result<Place, Acceptance> {
        let (height, round) = check_polka_form(votes).map_err(reject)?;
        let (place, set) = self.place(height)?;
        self.round_in_reach(place, round)?;
        self.admit_certificate(place, set, votes, ValidatorSet::is_quorum)?;
        Ok(place)
    }

    fn admit_round(&self, votes: &[SignedVote], enter: Round, precommits: bool) -> Result<Place, Acceptance> {
        let (height, _) = check_round_form(votes, enter, precommits).map_err(reject)?;
        let (place, set) = self.place(height)?;
        let enough = if precommits { ValidatorSet::is_quorum } else { ValidatorSet::is_honest };
        self.admit_certificate(place, set, votes, enough)?;
        Ok(place)
    }

    /// The votes of a certificate whose form is good: members first, then signatures, none of them twice. Where the set is
    /// known the first thing wrong blames the sender. Of a later height only what would be kept is checked.
    fn admit_certificate(
        &self,
        place: Place,
        set: &ValidatorSet,
        votes: &[SignedVote],
        enough: impl Fn(&ValidatorSet, u64) -> bool,
    ) -> Result<(), Acceptance> {
        let genesis = &self.inner.genesis;
        let signed = match place {
            Place::Now => power(genesis, set, votes, |v| self.inner.watch.knows_vote(v)),
            Place::Past => power(genesis, set, votes, |v| self.inner.watch.nothing_new(v)),
            Place::Future => {
                let mut unknown = votes.iter().filter(|v| self.would_hold(set, v) && !self.held.knows_vote(v));
                return if unknown.all(|v| v.verify(genesis)) { Ok(()) } else { Err(reject(Fault::BadSignature)) };
            }
        };
        let signed = signed.map_err(reject)?;
        if enough(set, signed) {
            return Ok(());
        }
        Err(reject(Fault::Certificate(CertificateError::Power { signed, total: set.power_total() })))
    }

    /// Whether a vote of a later height is kept, if its signature is good.
    fn would_hold(&self, set: &ValidatorSet, vote: &SignedVote) -> bool {
        set.power_of(&vote.vote.validator).is_some() && self.held.room_for_vote(vote)
    }

    pub(super) fn admit_message(&self, message: &ConsensusMessage) -> Result<Place, Acceptance> {
        check_resend(message).map_err(reject)?;
        match message {
            ConsensusMessage::Vote { vote, .. } => self.admit_vote(vote),
            ConsensusMessage::Polka { votes } => self.admit_polka(votes),
            ConsensusMessage::Round { votes, enter, precommits, .. } => self.admit_round(votes, *enter, *precommits),
        }
    }

    pub(super) fn on_message(
        &mut self,
        now: TimeMs,
        from: Option<u64>,
        message: ConsensusMessage,
    ) -> Result<(), Fatal> {
        match self.admit_message(&message) {
            Ok(place) => self.take_message(message, place),
            Err(answer) => {
                tracing::debug!(%now, ?from, ?answer, "consensus message not taken");
                Ok(())
            }
        }
    }

    /// Takes in a message that was admitted.
    pub(super) fn take_message(&mut self, message: ConsensusMessage, place: Place) -> Result<(), Fatal> {
        match (message, place) {
            (ConsensusMessage::Vote { vote, .. }, place) => self.take_vote(vote, place),
            (ConsensusMessage::Polka { votes }, Place::Now) => {
                self.observe(&votes);
                convert::polka(&votes).map_or(Ok(()), |certificate| self.feed(CoreInput::PolkaCertificate(certificate)))
            }
            (ConsensusMessage::Round { votes, precommits, .. }, Place::Now) => {
                self.observe(&votes);
                let certificate = convert::round_certificate(&votes, precommits);
                certificate.map_or(Ok(()), |certificate| self.feed(CoreInput::RoundCertificate(certificate)))
            }
            // Of another height it is worth what its votes are worth.
            (ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. }, place) => {
                votes.into_iter().try_for_each(|vote| self.take_vote(vote, place))
            }
        }
    }

    pub(super) fn on_vote(&mut self, vote: SignedVote) -> Result<(), Fatal> {
        match self.admit_vote(&vote) {
            Ok(place) => self.take_vote(vote, place),
            Err(_) => Ok(()),
        }
    }

    /// Takes in an admitted vote: those of later heights are held, those of decided ones compared.
    fn take_vote(&mut self, vote: SignedVote, place: Place) -> Result<(), Fatal> {
        match place {
            Place::Now => {
                self.observe(std::slice::from_ref(&vote));
                self.feed(CoreInput::Vote(convert::vote(&vote)))
            }
            Place::Past => {
                let found = self.inner.watch.late_vote(&vote);
                self.inner.evidence(found);
                Ok(())
            }
            Place::Future => {
                // Exactly those of a certificate that admission has checked: room only shrinks.
                if self.inner.set().is_some_and(|set| self.would_hold(set, &vote)) {
                    self.held.vote(vote);
                }
                Ok(())
            }
        }
    }

    /// A peer's answer to `Request::Votes` for the running height, up to the first thing that is provably wrong.
    pub(super) fn on_votes_of(
        &mut self,
        height: Height,
        votes: Vec<SignedVote>,
        proposals: Vec<SignedProposal>,
    ) -> Result<Option<Fault>, Fatal> {
        let members = match self.inner.set() {
            Some(set) if height == self.inner.height => set.validators().len(),
            _ => return Ok(None),
        };
        if votes.len() > VOTES_OF_MAX.min(VOTES_MAX.saturating_mul(members)) {
            return Ok(Some(Fault::Malformed("an answer has at most 64 votes a validator, and 2048 in all")));
        }
        if proposals.len() > PROPOSALS_MAX.saturating_mul(2) {
            return Ok(Some(Fault::Malformed("an answer has at most 256 proposals")));
        }
        for vote in votes {
            if vote.vote.height != height {
                return Ok(Some(Fault::Malformed("an answer has votes of the height asked for")));
            }
            match self.admit_vote(&vote) {
                Ok(place) => self.take_vote(vote, place)?,
                Err(Acceptance::Reject(fault)) => return Ok(Some(fault)),
                Err(_) => {}
            }
        }
        for proposal in proposals {
            if proposal.proposal.height != height {
                return Ok(Some(Fault::Malformed("an answer has proposals of the height asked for")));
            }
            match self.admit_proposal(&proposal) {
                Ok(Place::Now) => self.take_proposal(proposal, None)?,
                Err(Acceptance::Reject(fault)) => return Ok(Some(fault)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Remembers verified votes and reports contradictions.
    fn observe(&mut self, votes: &[SignedVote]) {
        for vote in votes {
            let found = self.inner.watch.vote(vote);
            self.inner.evidence(found);
        }
    }

    pub(super) fn on_proposal(&mut self, message: ProposalMessage) -> Result<(), Fatal> {
        match self.admit_proposal_message(&message) {
            Ok(place) => self.take_proposal_message(message, place),
            Err(_) => Ok(()),
        }
    }

    /// Takes in a proposal with its block that was admitted.
    pub(super) fn take_proposal_message(&mut self, message: ProposalMessage, place: Place) -> Result<(), Fatal> {
        match place {
            Place::Now => self.take_proposal(message.proposal, Some(message.block)),
            Place::Past => {
                let found = self.inner.watch.proposal(&message.proposal);
                self.inner.evidence(found);
                Ok(())
            }
            Place::Future => {
                self.held.proposal(message);
                Ok(())
            }
        }
    }

    pub(super) fn on_proposal_only(&mut self, proposal: SignedProposal) -> Result<(), Fatal> {
        match self.admit_proposal(&proposal) {
            Ok(Place::Now) => self.take_proposal(proposal, None),
            Ok(Place::Past) => {
                let found = self.inner.watch.proposal(&proposal);
                self.inner.evidence(found);
                Ok(())
            }
            // Without its block there is nothing to keep for later.
            Ok(Place::Future) | Err(_) => Ok(()),
        }
    }

    /// A verified proposal for the current height, perhaps with its verified block.
    fn take_proposal(&mut self, proposal: SignedProposal, block: Option<Block>) -> Result<(), Fatal> {
        let (height, round, id) = (proposal.proposal.height, proposal.proposal.round, proposal.proposal.value);
        let found = self.inner.watch.proposal(&proposal);
        self.inner.evidence(found);
        let Some(core) = &self.core else { return Ok(()) };
        if core.driver.step_is_commit() || core.exceeds_per_round_cap(CoreHeight(height), convert::round(round), &id) {
            return Ok(());
        }
        if let Some(block) = block {
            self.add_candidate(id, Arc::new(block), round, None);
        }
        self.feed(CoreInput::Proposal(convert::proposal(&proposal)))?;
        self.ask_for(id, round);
        Ok(())
    }

    /// Asks the shell for what is still missing about a proposed block: its bytes, or the ledger's answer.
    pub(super) fn ask_for(&mut self, id: BlockId, round: Round) {
        if self.core.as_ref().is_none_or(|core| core.driver.step_is_commit()) {
            return;
        }
        let height = self.inner.height;
        match self.inner.candidates.get(&id) {
            Some(Candidate { valid: None, block, .. }) => {
                let block = Arc::clone(block);
                self.inner.out.push(Output::CheckBlock { height, round, block, certified: false });
            }
            Some(_) => {}
            None => {
                // One entry a proposal the core took, so bounded by its cap a round and the look-ahead.
                self.inner.wanted.entry(id).or_default().insert(round);
                self.inner.out.push(Output::FetchBlock { height, block: id });
            }
        }
    }

    /// Keeps a block whose body is bound to its header. When full, the block proposed longest ago gives way, but never one
    /// this node is locked on or that is being synced.
    pub(super) fn add_candidate(&mut self, id: BlockId, block: Arc<Block>, round: Round, valid: Option<bool>) {
        self.inner.wanted.remove(&id);
        if let Some(candidate) = self.inner.candidates.get_mut(&id) {
            candidate.round = candidate.round.max(round);
            candidate.valid = candidate.valid.or(valid);
            return;
        }
        if self.inner.candidates.len() >= CANDIDATES_MAX {
            let state = self.core.as_ref().map(|core| core.driver.round_state());
            let locked = state.and_then(|s| s.locked.as_ref()).map(|v| v.value.0);
            let polka = state.and_then(|s| s.valid.as_ref()).map(|v| v.value.0);
            let synced = self.inner.synced.map(|(_, id)| id);
            let bound = |id: &BlockId| [locked, polka, synced].contains(&Some(*id));
            let oldest = self
                .inner
                .candidates
                .iter()
                .filter(|(id, _)| !bound(id))
                .min_by_key(|(_, c)| c.round)
                .map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.inner.candidates.remove(&oldest);
            }
        }
        self.inner.candidates.insert(id, Candidate { block, round, valid });
    }

    pub(super) fn on_block_fetched(&mut self, height: Height, block: Block) {
        let id = block.id();
        if height != self.inner.height || check_block(&self.inner.genesis, height, &block).is_err() {
            return;
        }
        if let Some(certificate) = self.inner.undelivered.take_if(|c| c.block == id) {
            self.inner.decided = Some(DecidedBlock { block, certificate });
            return;
        }
        let Some(rounds) = self.inner.wanted.get(&id).cloned() else { return };
        let round = rounds.last().copied().unwrap_or_default();
        self.add_candidate(id, Arc::new(block), round, None);
        self.ask_for(id, round);
    }

    pub(super) fn on_block_built(&mut self, height: Height, round: Round, block: Block) -> Result<(), Fatal> {
        let due = self.core.as_ref().is_some_and(|core| core.driver.step_is_propose()) && self.round() == round;
        if height != self.inner.height || !due {
            return Ok(());
        }
        if let Err(fault) = check_block(&self.inner.genesis, height, &block) {
            tracing::error!(%height, %round, %fault, "the block built here breaks a rule; not proposed");
            return Ok(());
        }
        let id = block.id();
        self.add_candidate(id, Arc::new(block), round, Some(true));
        self.propose(round, id)
    }

    pub(super) fn propose(&mut self, round: Round, id: BlockId) -> Result<(), Fatal> {
        let height = CoreHeight(self.inner.height);
        self.feed(CoreInput::Propose(LocallyProposedValue::new(height, convert::round(round), BlockValue(id))))
    }

    pub(super) fn on_block_checked(
        &mut self,
        height: Height,
        round: Round,
        id: BlockId,
        valid: bool,
    ) -> Result<(), Fatal> {
        if height != self.inner.height {
            return Ok(());
        }
        let synced = self.inner.synced.filter(|(_, block)| *block == id);
        if synced.is_none() {
            self.inner.waits.ready(round, self.inner.now);
        }
        let Some(candidate) = self.inner.candidates.get_mut(&id) else { return Ok(()) };
        if synced.is_some() && !valid {
            return Err(Fatal::CertifiedInvalid { height, block: id });
        }
        match candidate.valid {
            Some(known) if synced.is_none() => {
                if known != valid {
                    tracing::error!(%height, block = %id, known, answered = valid, "two answers on one block; the first stands");
                }
                return Ok(());
            }
            _ => candidate.valid = Some(valid),
        }
        let (round, origin) = synced.map_or((round, ValueOrigin::Consensus), |(round, _)| (round, ValueOrigin::Sync));
        let Some(proposer) = self.inner.set().and_then(|set| proposer(set, height, round)) else { return Ok(()) };
        self.feed(CoreInput::ProposedValue(proposed_value(height, round, id, proposer, valid), origin))
    }

    pub(super) fn on_timer(&mut self, id: TimerId) -> Result<(), Fatal> {
        if id.height != self.inner.height {
            return Ok(());
        }
        self.feed(CoreInput::TimeoutElapsed(timeout(id.kind, id.round)))
    }

    pub(super) fn on_synced(&mut self, decided: DecidedBlock) -> Result<(), Fatal> {
        if self.inner.undelivered.as_ref().is_some_and(|c| c.block == decided.block.id()) {
            // The core decided this block before its body was let go of: only the bytes were missing.
            self.on_block_fetched(decided.certificate.height, decided.block);
            return Ok(());
        }
        let done = self.core.as_ref().is_none_or(|core| core.driver.step_is_commit());
        if done || decided.certificate.height != self.inner.height {
            return Ok(());
        }
        if let Err(error) = self.check_synced(&decided) {
            tracing::debug!(height = %self.inner.height, %error, "synced block refused");
            return Ok(());
        }
        self.inner.log(&Record::Synced(Box::new(decided.clone())));
        let response = self.take_synced(decided)?;
        self.feed(response)
    }

    /// Keeps a certified block and turns its certificate into an input for the core.
    pub(super) fn take_synced(&mut self, decided: DecidedBlock) -> Result<CoreInput<Chain>, Fatal> {
        let DecidedBlock { block, certificate } = decided;
        let vote_of =
            |(key, signature): &(_, _)| SignedVote { vote: certificate.precommit_of(*key), signature: *signature };
        let votes: Vec<_> = certificate.signatures.iter().map(vote_of).collect();
        self.observe(&votes);
        self.inner.synced = Some((certificate.round, certificate.block));
        self.add_candidate(certificate.block, Arc::new(block), certificate.round, None);
        // The core names the peer in its answers only; an empty identity hash is a valid name.
        let peer = PeerId::from_bytes(&[0, 0]).map_err(|e| Fatal::Core(e.to_string()))?;
        let response = ValueResponse::new(peer, Default::default(), convert::extended_commit(&certificate));
        Ok(CoreInput::SyncValueResponse(response))
    }
}

/// A timer in the core's terms.
pub(super) fn timeout(kind: TimerKind, round: Round) -> Timeout {
    let kind = match kind {
        TimerKind::Propose => TimeoutKind::Propose,
        TimerKind::Prevote => TimeoutKind::Prevote,
        TimerKind::Precommit => TimeoutKind::Precommit,
        TimerKind::Rebroadcast => TimeoutKind::Rebroadcast,
    };
    Timeout::new(convert::round(round), kind)
}
