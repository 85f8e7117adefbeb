//! The effect handler: what the core asks for becomes an ordered output or an answer on the spot. It never fails into the
//! core: a refusal to sign is answered with a signature that does not verify, which the core then drops by itself.

use arc_malachitebft_core_consensus::{
    Effect, Input as CoreInput, LivenessMsg, MisbehaviorEvidence, Resumable, Resume, SignedConsensusMsg,
    VoteExtensionError,
};
use arc_malachitebft_core_types as core;
use core::{Round as CoreRound, RoundCertificateType, SignedMessage, Timeout, TimeoutKind};
use std::convert::Infallible;
use types::block::DecidedBlock;
use types::codec::Wire;
use types::evidence::Evidence;
use types::gossip::{ConsensusMessage, ProposalMessage};
use types::ids::Round;
use types::keys::Signature;
use types::vote::{SignedProposal, SignedVote, VoteKind};

use super::{Inner, Output, TimerId, TimerKind};
use crate::admission::{RESEND_MAX, power};
use crate::context::{Address, BlockValue, Chain, CoreProposal, CoreVote};
use crate::convert;
use crate::machine::Fatal;
use crate::wal::Record;

/// Stands where a signature was refused. It verifies for no key.
const NO_SIGNATURE: Signature = Signature::new([0; 64]);

type CertificateResult = Result<(), core::CertificateError<Chain>>;

impl Inner {
    pub(super) fn on_effect(&mut self, effect: Effect<Chain>) -> Result<Resume<Chain>, Infallible> {
        Ok(match effect {
            Effect::CancelAllTimeouts(r) => {
                self.out.push(Output::CancelAllTimers);
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                let id = self.timer_id(timeout);
                self.out.extend(id.map(Output::CancelTimer));
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                if let Some(id) = self.timer_id(timeout) {
                    self.out.push(Output::SetTimer { id, after_ms: self.timeout_ms(id) });
                }
                r.resume_with(())
            }
            Effect::StartRound(height, round, proposer, _, r) => {
                self.flush();
                let round = convert::wire_round(round);
                self.waits.entered(round, self.now);
                self.out.push(Output::EnteredRound { height: height.0, round, proposer: proposer.0 });
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.publish(&message);
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                self.publish_liveness(message);
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.republish_vote(convert::wire_signed_vote(&vote));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                let resend = self.next_resend(convert::wire_round(certificate.round), None);
                self.publish_round_certificate(&certificate, resend);
                r.resume_with(())
            }
            Effect::GetValue(_, round, _, r) => {
                self.build_block(convert::wire_round(round));
                r.resume_with(())
            }
            // The block travels in the proposal's own message, which the core publishes next.
            Effect::RestreamProposal(_, _, _, _, _, r) => r.resume_with(()),
            Effect::CertVerifiedSyncValue(value, _, r) => {
                self.check_synced_block(convert::wire_round(value.certificate.round), value.certificate.value_id);
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(_, _, error, r) => {
                // The machine verified the certificate itself before it fed it.
                self.fatal = Some(Fatal::Core(format!("a verified certificate was rejected: {error}")));
                r.resume_with(())
            }
            Effect::Decide(certificate, _, r) => {
                self.decide(&certificate);
                r.resume_with(())
            }
            Effect::Finalize(_, _, evidence, r) => {
                self.core_evidence(evidence);
                r.resume_with(())
            }
            Effect::WalAppend(_, input, r) => {
                self.append(input);
                r.resume_with(())
            }
            Effect::SignVote(vote, r) => {
                let signature = self.sign_vote(&vote);
                r.resume_with(SignedMessage::new(vote, signature))
            }
            Effect::SignProposal(proposal, r) => {
                let signature = self.sign_proposal(&proposal);
                r.resume_with(SignedMessage::new(proposal, signature))
            }
            other => self.on_question(other),
        })
    }

    /// Effects that ask for a verification.
    fn on_question(&self, effect: Effect<Chain>) -> Resume<Chain> {
        use arc_malachitebft_core_consensus::ConsensusMsg;
        match effect {
            Effect::VerifySignature(message, _, r) => {
                let good = match message.message {
                    ConsensusMsg::Vote(vote) => {
                        let signed = SignedVote { vote: convert::wire_vote(&vote), signature: message.signature };
                        self.watch.knows_vote(&signed) || signed.verify(&self.genesis)
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        let signed = SignedProposal {
                            proposal: convert::wire_proposal(&proposal),
                            signature: message.signature,
                        };
                        self.watch.knows_proposal(&signed) || signed.verify(&self.genesis)
                    }
                };
                r.resume_with(good)
            }
            Effect::VerifyCommitCertificate(certificate, set, _, r) => {
                let wire = convert::wire_commit(&certificate);
                r.resume_with(refused(wire.verify(&self.genesis, set.wire(), wire.height, wire.block).is_ok()))
            }
            Effect::VerifyExtendedCommitCertificate(certificate, set, _, _, r) => {
                let wire = convert::wire_commit(&certificate.trim_vote_extensions());
                let bare = certificate.commit_signatures.iter().all(|s| s.extension.is_none());
                r.resume_with(refused(bare && wire.verify(&self.genesis, set.wire(), wire.height, wire.block).is_ok()))
            }
            Effect::VerifyPolkaCertificate(certificate, set, _, r) => {
                let votes = polka_votes(&certificate);
                let signed = power(&self.genesis, set.wire(), &votes, |v| self.watch.knows_vote(v));
                r.resume_with(refused(signed.is_ok_and(|p| set.wire().is_quorum(p))))
            }
            Effect::VerifyRoundCertificate(certificate, set, _, r) => {
                let votes = round_votes(&certificate);
                let signed = power(&self.genesis, set.wire(), &votes, |v| self.watch.knows_vote(v));
                let precommits = certificate.cert_type == RoundCertificateType::Precommit;
                let typed = !precommits || votes.iter().all(|v| v.vote.kind == VoteKind::Precommit);
                let enough = |p| if precommits { set.wire().is_quorum(p) } else { set.wire().is_honest(p) };
                r.resume_with(refused(typed && signed.is_ok_and(enough)))
            }
            Effect::ExtendVote(.., r) => r.resume_with(None),
            Effect::VerifyVoteExtension(.., r) => r.resume_with(Err(VoteExtensionError::InvalidVoteExtension)),
            _ => Resume::Continue,
        }
    }

    fn timer_id(&self, timeout: Timeout) -> Option<TimerId> {
        let kind = match timeout.kind {
            TimeoutKind::Propose => TimerKind::Propose,
            TimeoutKind::Prevote => TimerKind::Prevote,
            TimeoutKind::Precommit => TimerKind::Precommit,
            TimeoutKind::Rebroadcast => TimerKind::Rebroadcast,
            // Heights have no target time, so the core never waits after a decision.
            TimeoutKind::FinalizeHeight(_) => return None,
        };
        Some(TimerId { height: self.height, round: convert::wire_round(timeout.round), kind })
    }

    fn timeout_ms(&self, id: TimerId) -> u64 {
        self.waits.timeout_ms(id.kind, id.round, &self.timeouts)
    }

    /// Writes an input of the core to the log.
    fn append(&mut self, input: CoreInput<Chain>) {
        let record = match input {
            CoreInput::Vote(vote) => Record::Vote(convert::wire_signed_vote(&vote)),
            CoreInput::Proposal(proposal) => Record::Proposal(convert::wire_signed_proposal(&proposal)),
            CoreInput::TimeoutElapsed(timeout) => {
                let Some(id) = self.timer_id(timeout) else { return };
                Record::Timeout { kind: id.kind, round: id.round }
            }
            CoreInput::ProposedValue(value, _) => {
                let Some(candidate) = self.candidates.get(&value.value.0) else {
                    self.fatal = Some(Fatal::MissingBlock { height: self.height, block: value.value.0 });
                    return;
                };
                Record::Value {
                    round: convert::wire_round(value.round),
                    valid: value.validity.is_valid(),
                    block: Box::new(candidate.block.as_ref().clone()),
                }
            }
            CoreInput::PolkaCertificate(certificate) => Record::Polka(polka_votes(&certificate)),
            other => {
                self.fatal = Some(Fatal::Core(format!("an input without a log record was to be logged: {other:?}")));
                return;
            }
        };
        self.log(&record);
    }

    /// Appends a record, unless the log is where it comes from.
    pub(super) fn log(&mut self, record: &Record) {
        if !self.is_validator() {
            return;
        }
        let record = record.to_bytes();
        if self.replayed.as_ref().is_some_and(|known| known.contains(&record)) {
            return;
        }
        self.wal_dirty = true;
        self.out.push(Output::AppendWal { height: self.height, record });
    }

    fn sign_vote(&mut self, vote: &CoreVote) -> Signature {
        if self.refused {
            return NO_SIGNATURE;
        }
        match self.guard.sign_vote(convert::wire_vote(vote)) {
            Ok((signed, record)) => {
                self.guard_pending.extend(record);
                self.watch.vote(&signed);
                signed.signature
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn sign_proposal(&mut self, proposal: &CoreProposal) -> Signature {
        if self.refused {
            return NO_SIGNATURE;
        }
        match self.guard.sign_proposal(convert::wire_proposal(proposal)) {
            Ok((signed, record)) => {
                self.guard_pending.extend(record);
                self.watch.proposal(&signed);
                signed.signature
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    pub(super) fn refuse(&mut self, refusal: crate::guard::Refusal) -> Signature {
        tracing::error!(height = %self.height, %refusal, "the guard refused to sign; observing until the next height");
        self.refused = true;
        NO_SIGNATURE
    }

    fn publish(&mut self, message: &SignedConsensusMsg<Chain>) {
        if self.refused {
            return;
        }
        self.flush();
        match message {
            SignedConsensusMsg::Vote(vote) => {
                let vote = convert::wire_signed_vote(vote);
                self.out.push(Output::Publish(ConsensusMessage::Vote { vote, resend: 0 }));
            }
            SignedConsensusMsg::Proposal(proposal) => {
                let proposal = convert::wire_signed_proposal(proposal);
                let Some(candidate) = self.candidates.get(&proposal.proposal.value) else {
                    tracing::warn!(height = %self.height, block = %proposal.proposal.value, "block given way; its proposal is not sent again");
                    return;
                };
                let block = candidate.block.as_ref().clone();
                self.out.push(Output::PublishProposal(ProposalMessage { proposal, block }));
            }
        }
    }

    fn publish_liveness(&mut self, message: LivenessMsg<Chain>) {
        if self.refused {
            return;
        }
        match message {
            LivenessMsg::Vote(vote) => self.republish_vote(convert::wire_signed_vote(&vote)),
            LivenessMsg::PolkaCertificate(certificate) => {
                self.flush();
                self.out.push(Output::Publish(ConsensusMessage::Polka { votes: polka_votes(&certificate) }));
            }
            LivenessMsg::SkipRoundCertificate(certificate) => self.publish_round_certificate(&certificate, 0),
        }
    }

    fn republish_vote(&mut self, vote: SignedVote) {
        if self.refused {
            return;
        }
        self.flush();
        let resend = self.next_resend(vote.vote.round, Some(vote.vote.kind));
        self.out.push(Output::Publish(ConsensusMessage::Vote { vote, resend }));
    }

    fn publish_round_certificate(&mut self, certificate: &core::RoundCertificate<Chain>, resend: u8) {
        if self.refused {
            return;
        }
        self.flush();
        let precommits = certificate.cert_type == RoundCertificateType::Precommit;
        let enter = if precommits { certificate.round.increment() } else { certificate.round };
        let enter = convert::wire_round(enter);
        self.out.push(Output::Publish(ConsensusMessage::Round {
            votes: round_votes(certificate),
            enter,
            precommits,
            resend,
        }));
    }

    /// Counts 1 to 8 and starts over: gossip forgets the first form long before it comes again.
    fn next_resend(&mut self, round: Round, kind: Option<VoteKind>) -> u8 {
        let counter = self.resends.entry((round, kind)).or_insert(0);
        *counter = if *counter >= RESEND_MAX { 1 } else { counter.saturating_add(1) };
        *counter
    }

    /// Asks for a block, or remembers to ask when the log is replayed: the log may already hold the proposal.
    pub(super) fn build_block(&mut self, round: Round) {
        if self.replayed.is_some() {
            self.build_pending = Some(round);
            return;
        }
        let id = TimerId { height: self.height, round, kind: TimerKind::Propose };
        self.out.push(Output::BuildBlock { height: self.height, round, timeout_ms: self.timeout_ms(id) });
    }

    fn check_synced_block(&mut self, round: Round, block: types::ids::BlockId) {
        match self.candidates.get(&block) {
            Some(candidate) => {
                let block = std::sync::Arc::clone(&candidate.block);
                self.out.push(Output::CheckBlock { height: self.height, round, block, certified: true });
            }
            None => self.fatal = Some(Fatal::MissingBlock { height: self.height, block }),
        }
    }

    fn decide(&mut self, certificate: &core::CommitCertificate<Chain>) {
        let certificate = convert::wire_commit(certificate);
        match self.candidates.get(&certificate.block) {
            Some(candidate) => {
                self.decided = Some(DecidedBlock { block: candidate.block.as_ref().clone(), certificate })
            }
            None => {
                // The block gave way to later ones; the decision stands and waits for the bytes.
                self.out.push(Output::FetchBlock { height: self.height, block: certificate.block });
                self.undelivered = Some(certificate);
            }
        }
    }

    /// The core's own finds are a second source beside [`crate::evidence`].
    fn core_evidence(&mut self, evidence: MisbehaviorEvidence<Chain>) {
        for (_, pairs) in evidence.votes {
            for (a, b) in pairs {
                let found = Evidence::Votes(convert::wire_signed_vote(&a), convert::wire_signed_vote(&b)).canonical();
                let found = found.verify(&self.genesis).then_some(found).and_then(|e| self.watch.found(e));
                self.evidence(found);
            }
        }
        for (_, pairs) in evidence.proposals.iter() {
            for (a, b) in pairs {
                let found =
                    Evidence::Proposals(convert::wire_signed_proposal(a), convert::wire_signed_proposal(b)).canonical();
                let found = found.verify(&self.genesis).then_some(found).and_then(|e| self.watch.found(e));
                self.evidence(found);
            }
        }
    }
}

/// The core only asks whether, not why.
#[allow(clippy::result_large_err, reason = "the error's size is the core's")]
const fn refused(good: bool) -> CertificateResult {
    if good { Ok(()) } else { Err(core::CertificateError::VerificationError(None)) }
}

fn polka_votes(certificate: &core::PolkaCertificate<Chain>) -> Vec<SignedVote> {
    convert::sorted(certificate.votes(&Chain).map(|v| convert::wire_signed_vote(&v)).collect())
}

fn round_votes(certificate: &core::RoundCertificate<Chain>) -> Vec<SignedVote> {
    convert::sorted(certificate.votes(&Chain).map(|v| convert::wire_signed_vote(&v)).collect())
}

/// A block as the core's value, checked in a round.
pub(super) fn proposed_value(
    height: types::ids::Height,
    round: Round,
    block: types::ids::BlockId,
    proposer: types::keys::PublicKey,
    valid: bool,
) -> arc_malachitebft_core_consensus::ProposedValue<Chain> {
    arc_malachitebft_core_consensus::ProposedValue {
        height: crate::context::CoreHeight(height),
        round: convert::round(round),
        valid_round: CoreRound::Nil,
        proposer: Address(proposer),
        value: BlockValue(block),
        validity: core::Validity::from_bool(valid),
    }
}
