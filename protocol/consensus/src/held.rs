//! Messages for heights to come, kept until their height starts.
//!
//! Bounds: [`WINDOW`] heights ahead; [`VOTES_PER_ROUND`] votes a validator, height and round and [`VOTES_PER_HEIGHT`] a
//! validator and height; two proposals a validator, height and round, [`PROPOSALS_PER_HEIGHT`] a height, and
//! [`BYTES_MAX`] of proposals in all. What is over a bound is dropped: its sender sends again, or it is fetched.

use std::collections::{BTreeMap, BTreeSet};

use types::codec::Wire;
use types::gossip::ProposalMessage;
use types::ids::{Height, Round};
use types::keys::PublicKey;
use types::vote::SignedVote;

/// Heights ahead of the current one from which messages are kept.
pub const WINDOW: u64 = 10;
/// Votes kept of one validator for one height and round.
pub const VOTES_PER_ROUND: usize = 8;
/// Votes kept of one validator for one height.
pub const VOTES_PER_HEIGHT: usize = 32;
/// Proposals kept for one height.
pub const PROPOSALS_PER_HEIGHT: usize = 16;
/// Bytes of proposals kept in all.
pub const BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
struct AtHeight {
    votes: BTreeMap<PublicKey, Vec<SignedVote>>,
    proposals: Vec<(ProposalMessage, usize)>,
}

/// The store.
#[derive(Default)]
pub(crate) struct Held {
    heights: BTreeMap<Height, AtHeight>,
    bytes: usize,
}

impl Held {
    /// Whether a vote would be kept.
    pub(crate) fn room_for_vote(&self, vote: &SignedVote) -> bool {
        let Some(votes) = self.heights.get(&vote.vote.height).and_then(|h| h.votes.get(&vote.vote.validator)) else {
            return true;
        };
        let in_round = votes.iter().filter(|v| v.vote.round == vote.vote.round).count();
        in_round < VOTES_PER_ROUND && votes.len() < VOTES_PER_HEIGHT
    }

    /// Whether exactly this vote is kept: its signature is known to be good.
    pub(crate) fn knows_vote(&self, vote: &SignedVote) -> bool {
        let of_height = self.heights.get(&vote.vote.height);
        of_height.and_then(|h| h.votes.get(&vote.vote.validator)).is_some_and(|votes| votes.contains(vote))
    }

    /// Keeps a verified vote unless it is known or over a bound.
    pub(crate) fn vote(&mut self, vote: SignedVote) {
        if !self.room_for_vote(&vote) {
            return;
        }
        let votes = self.heights.entry(vote.vote.height).or_default().votes.entry(vote.vote.validator).or_default();
        if !votes.contains(&vote) {
            votes.push(vote);
        }
    }

    /// Whether a proposal of this size would be kept.
    pub(crate) fn room_for_proposal(&self, height: Height, round: Round, proposer: PublicKey, bytes: usize) -> bool {
        let Some(at) = self.heights.get(&height) else { return self.bytes.saturating_add(bytes) <= BYTES_MAX };
        let same = at
            .proposals
            .iter()
            .filter(|(m, _)| m.proposal.proposal.round == round && m.proposal.proposal.proposer == proposer);
        same.count() < 2 && at.proposals.len() < PROPOSALS_PER_HEIGHT && self.bytes.saturating_add(bytes) <= BYTES_MAX
    }

    /// Keeps a verified proposal unless it is known or over a bound.
    pub(crate) fn proposal(&mut self, message: ProposalMessage) {
        let p = &message.proposal.proposal;
        let (height, round, proposer) = (p.height, p.round, p.proposer);
        let known = self
            .heights
            .get(&height)
            .is_some_and(|at| at.proposals.iter().any(|(m, _)| m.proposal == message.proposal));
        let bytes = message.to_bytes().len();
        if known || !self.room_for_proposal(height, round, proposer, bytes) {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.heights.entry(height).or_default().proposals.push((message, bytes));
    }

    /// Drops everything below `height` and hands out what is kept for it: proposals first, then votes by validator.
    pub(crate) fn take(&mut self, height: Height) -> (Vec<ProposalMessage>, Vec<SignedVote>) {
        self.heights = self.heights.split_off(&height);
        let at = self.heights.remove(&height).unwrap_or_default();
        let left = self.heights.values().flat_map(|h| h.proposals.iter().map(|(_, bytes)| *bytes));
        self.bytes = left.fold(0, usize::saturating_add);
        (at.proposals.into_iter().map(|(m, _)| m).collect(), at.votes.into_values().flatten().collect())
    }

    /// Votes kept in all.
    #[cfg(test)]
    pub(crate) fn votes_len(&self) -> usize {
        self.heights.values().flat_map(|h| h.votes.values()).map(Vec::len).sum()
    }

    /// Validators with votes kept, in the order of their keys.
    pub(crate) fn voters(&self) -> BTreeSet<PublicKey> {
        self.heights.values().flat_map(|h| h.votes.keys().copied()).collect()
    }
}
