//! Between the core's types and the wire's: the only place where both appear side by side.

use arc_malachitebft_core_types as core;
use core::{NilOrVal, Round as CoreRound, SignedMessage, VoteType};
use types::ids::Round;
use types::vote::{CommitCertificate, Proposal, SignedProposal, SignedVote, Vote, VoteKind};

use crate::context::{Address, BlockValue, Chain, CoreHeight, CoreProposal, CoreVote};

pub(crate) fn round(round: Round) -> CoreRound {
    CoreRound::new(round.0)
}

/// The core's nil round has no wire form; it is never signed, and 0 is where every height starts.
pub(crate) fn wire_round(round: CoreRound) -> Round {
    Round(round.as_u32().unwrap_or(0))
}

fn kind(kind: VoteKind) -> VoteType {
    match kind {
        VoteKind::Prevote => VoteType::Prevote,
        VoteKind::Precommit => VoteType::Precommit,
    }
}

fn wire_kind(kind: VoteType) -> VoteKind {
    match kind {
        VoteType::Prevote => VoteKind::Prevote,
        VoteType::Precommit => VoteKind::Precommit,
    }
}

pub(crate) fn wire_vote(vote: &CoreVote) -> Vote {
    Vote {
        kind: wire_kind(vote.kind),
        height: vote.height.0,
        round: wire_round(vote.round),
        value: match vote.value {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(id),
        },
        validator: vote.voter.0,
    }
}

pub(crate) fn vote(signed: &SignedVote) -> core::SignedVote<Chain> {
    let v = &signed.vote;
    let message = CoreVote {
        kind: kind(v.kind),
        height: CoreHeight(v.height),
        round: round(v.round),
        value: v.value.map_or(NilOrVal::Nil, NilOrVal::Val),
        voter: Address(v.validator),
    };
    SignedMessage::new(message, signed.signature)
}

pub(crate) fn wire_signed_vote(signed: &core::SignedVote<Chain>) -> SignedVote {
    SignedVote { vote: wire_vote(&signed.message), signature: signed.signature }
}

pub(crate) fn wire_proposal(proposal: &CoreProposal) -> Proposal {
    Proposal {
        height: proposal.height.0,
        round: wire_round(proposal.round),
        value: proposal.value.0,
        pol_round: proposal.pol_round.as_u32().map(Round),
        proposer: proposal.proposer.0,
    }
}

pub(crate) fn proposal(signed: &SignedProposal) -> core::SignedProposal<Chain> {
    let p = &signed.proposal;
    let message = CoreProposal {
        height: CoreHeight(p.height),
        round: round(p.round),
        value: BlockValue(p.value),
        pol_round: p.pol_round.map_or(CoreRound::Nil, round),
        proposer: Address(p.proposer),
    };
    SignedMessage::new(message, signed.signature)
}

pub(crate) fn wire_signed_proposal(signed: &core::SignedProposal<Chain>) -> SignedProposal {
    SignedProposal { proposal: wire_proposal(&signed.message), signature: signed.signature }
}

pub(crate) fn wire_commit(certificate: &core::CommitCertificate<Chain>) -> CommitCertificate {
    let mut signatures: Vec<_> = certificate.commit_signatures.iter().map(|s| (s.address.0, s.signature)).collect();
    signatures.sort_by_key(|(key, _)| *key);
    CommitCertificate {
        height: certificate.height.0,
        round: wire_round(certificate.round),
        block: certificate.value_id,
        signatures,
    }
}

pub(crate) fn extended_commit(certificate: &CommitCertificate) -> core::ExtendedCommitCertificate<Chain> {
    let signature = |(key, signature): &(_, _)| core::ExtendedCommitSignature::new(Address(*key), *signature, None);
    core::ExtendedCommitCertificate {
        height: CoreHeight(certificate.height),
        round: round(certificate.round),
        value_id: certificate.block,
        commit_signatures: certificate.signatures.iter().map(signature).collect(),
    }
}

/// The core's certificate as votes in rising key order, each key's prevote before its precommit.
pub(crate) fn sorted(mut votes: Vec<SignedVote>) -> Vec<SignedVote> {
    votes.sort_by_key(|v| (v.vote.validator, v.vote.kind));
    votes
}

pub(crate) fn polka(votes: &[SignedVote]) -> Option<core::PolkaCertificate<Chain>> {
    let first = &votes.first()?.vote;
    let signature = |v: &SignedVote| core::PolkaSignature::new(Address(v.vote.validator), v.signature);
    Some(core::PolkaCertificate {
        height: CoreHeight(first.height),
        round: round(first.round),
        value_id: first.value?,
        polka_signatures: votes.iter().map(signature).collect(),
    })
}

pub(crate) fn round_certificate(votes: &[SignedVote], precommits: bool) -> Option<core::RoundCertificate<Chain>> {
    let first = &votes.first()?.vote;
    let cert_type = if precommits { core::RoundCertificateType::Precommit } else { core::RoundCertificateType::Skip };
    Some(core::RoundCertificate::new_from_votes(
        CoreHeight(first.height),
        round(first.round),
        cert_type,
        votes.iter().map(vote).collect(),
    ))
}
