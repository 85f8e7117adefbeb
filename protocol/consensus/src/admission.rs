//! What may be forwarded and taken in: signatures, membership, bounds and window, decided before the core sees a message.
//!
//! `Reject` is for what is wrong on every node for ever and costs its sender; `Ignore` for what this node can't judge or
//! does not need.

use std::fmt;

use types::block::{Block, HEADER_VERSION, transactions_root};
use types::codec::Wire;
use types::gossip::{ConsensusMessage, ProposalMessage};
use types::ids::{Digest, GenesisHash, Height, Round};
use types::limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX, VALIDATORS_MAX};
use types::validator::ValidatorSet;
use types::vote::{CertificateError, SignedProposal, SignedVote, VoteKind, signed_power};

/// Rounds ahead of the current one from which messages are taken; the core's own look-ahead.
pub const ROUNDS_AHEAD: u32 = 10;
/// Largest resend counter.
pub const RESEND_MAX: u8 = 8;

/// The answer on a message from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Good, and worth forwarding.
    Accept,
    /// Neither forwarded nor punished.
    Ignore(Ignored),
    /// Provably wrong: costs the sender.
    Reject(Fault),
}

/// Why a message is not taken, without blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No height has been started yet.
    NotStarted,
    /// The height is decided.
    OldHeight,
    /// The height is further ahead than the window.
    FarHeight,
    /// The round is further ahead than the look-ahead.
    FarRound,
    /// The signer is not in the current set, and the set of that height is not known yet.
    UnknownSigner,
    /// Certificates of later heights are taken apart and held, not forwarded.
    LaterCertificate,
    /// Enough is kept of this signer.
    Quota,
    /// Its sender has made this node check enough messages beside the running height.
    Credit,
    /// The block's header has a version that this build does not know.
    UnknownVersion,
}

/// What a message provably does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A signature does not verify.
    BadSignature,
    /// The signer is not in the validator set of the height.
    Stranger,
    /// The signer does not propose in that round.
    NotProposer,
    /// A rule on form is broken.
    Malformed(&'static str),
    /// A certificate proves nothing.
    Certificate(CertificateError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSignature => f.write_str("a signature does not verify"),
            Self::Stranger => f.write_str("the signer is not in the validator set"),
            Self::NotProposer => f.write_str("the signer does not propose in this round"),
            Self::Malformed(rule) => f.write_str(rule),
            Self::Certificate(error) => error.fmt(f),
        }
    }
}

/// Where a message's height lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Past,
    Now,
    Future,
}

/// The rules that bind the body of a block to its header, so that a relay can't put other transactions under a good id.
/// What the transactions do is the ledger's to judge.
///
/// # Errors
/// [`Fault::Malformed`] naming the rule.
pub fn check_block(genesis: &GenesisHash, height: Height, block: &Block) -> Result<(), Fault> {
    let h = &block.header;
    let require = |holds: bool, rule| if holds { Ok(()) } else { Err(Fault::Malformed(rule)) };
    require(h.version == HEADER_VERSION, "the header's version is unknown")?;
    require(h.genesis == *genesis, "the header names another chain")?;
    require(h.height == height, "the header names another height")?;
    require(block.transactions.len() <= BLOCK_TXS_MAX, "the block has more than 2048 transactions")?;
    // A proposal's frame holds twice as much; what is larger than a block may be fits no record of the consensus log.
    require(block.to_bytes().len() <= BLOCK_BYTES_MAX, "the block has more than 262144 bytes")?;
    require(
        h.transactions == transactions_root(block.transactions.iter()),
        "the transactions are not those of the header",
    )?;
    let last_commit = block.last_commit.as_ref().map_or(Digest::new([0; 32]), types::vote::CommitCertificate::digest);
    require(h.last_commit == last_commit, "the last commit is not that of the header")?;
    require(block.last_commit.is_none() == (height == Height(1)), "the last commit is there exactly above height 1")
}

/// The form of a polka: prevotes of one height and round for one block, rising keys.
pub(crate) fn check_polka_form(votes: &[SignedVote]) -> Result<(Height, Round), Fault> {
    let first = bounded(votes)?;
    let same = |v: &SignedVote| {
        (v.vote.kind, v.vote.height, v.vote.round, v.vote.value)
            == (VoteKind::Prevote, first.vote.height, first.vote.round, first.vote.value)
    };
    if first.vote.value.is_none() || !votes.iter().all(same) {
        return Err(Fault::Malformed("a polka holds prevotes of one round for one block"));
    }
    Ok((first.vote.height, first.vote.round))
}

/// The form of a round certificate: votes of one height and round, rising keys, that lead to `enter`.
pub(crate) fn check_round_form(votes: &[SignedVote], enter: Round, precommits: bool) -> Result<(Height, Round), Fault> {
    let first = bounded(votes)?;
    let (height, round) = (first.vote.height, first.vote.round);
    let same = |v: &SignedVote| {
        (v.vote.height, v.vote.round) == (height, round) && (!precommits || v.vote.kind == VoteKind::Precommit)
    };
    if !votes.iter().all(same) {
        return Err(Fault::Malformed("a round certificate holds votes of one round, precommits if it says so"));
    }
    let leads_to = if precommits { round.0.checked_add(1).map(Round) } else { Some(round) };
    if leads_to != Some(enter) {
        return Err(Fault::Malformed(
            "a round certificate leads to the round after its precommits, or to that of its votes",
        ));
    }
    Ok((height, round))
}

fn bounded(votes: &[SignedVote]) -> Result<&SignedVote, Fault> {
    let first = votes.first().ok_or(Fault::Malformed("a certificate without votes"))?;
    if votes.len() > VALIDATORS_MAX {
        return Err(Fault::Certificate(CertificateError::TooMany(votes.len())));
    }
    if let Some(pair) =
        votes.windows(2).find(|pair| pair.first().map(|v| v.vote.validator) >= pair.last().map(|v| v.vote.validator))
    {
        return Err(Fault::Certificate(CertificateError::Order(pair.last().unwrap_or(first).vote.validator)));
    }
    Ok(first)
}

/// Power behind the votes of a certificate. `known` says which signatures were checked before.
pub(crate) fn power(
    genesis: &GenesisHash,
    set: &ValidatorSet,
    votes: &[SignedVote],
    known: impl Fn(&SignedVote) -> bool,
) -> Result<u64, Fault> {
    signed_power(set, votes, |v| v.vote.validator, |v| known(v) || v.verify(genesis)).map_err(Fault::Certificate)
}

/// The rules on a proposal that hold at every height.
pub(crate) fn check_proposal_form(p: &SignedProposal) -> Result<(), Fault> {
    if p.proposal.pol_round.is_some_and(|pol| pol >= p.proposal.round) {
        return Err(Fault::Malformed("the polka round of a proposal lies below its round"));
    }
    Ok(())
}

/// The rules on a proposal with its block that hold at every height.
pub(crate) fn check_message_form(genesis: &GenesisHash, message: &ProposalMessage) -> Result<(), Fault> {
    check_proposal_form(&message.proposal)?;
    if message.block.id() != message.proposal.proposal.value {
        return Err(Fault::Malformed("the block is not the proposed one"));
    }
    check_block(genesis, message.proposal.proposal.height, &message.block)
}

/// Resend counters are bounded, so that one vote has few forms on gossip.
pub(crate) fn check_resend(message: &ConsensusMessage) -> Result<(), Fault> {
    match message {
        ConsensusMessage::Vote { resend, .. } | ConsensusMessage::Round { resend, .. } if *resend > RESEND_MAX => {
            Err(Fault::Malformed("a resend counter is at most 8"))
        }
        _ => Ok(()),
    }
}
