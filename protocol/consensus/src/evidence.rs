//! Keeps verified votes, proposals and verdicts for a window of heights and finds two that contradict each other.
//!
//! Relies on its caller for signatures and membership: only verified messages come in. Holds at most [`VOTES_MAX`] votes a
//! validator and height (the lowest rounds give way), two proposals a slot, [`VERDICTS_MAX`] verdicts (the lowest heights
//! give way). One offence is reported once.

use std::collections::{BTreeMap, BTreeSet};

use types::evidence::Evidence;
use types::ids::{Digest, Height, JobId, Round};
use types::keys::PublicKey;
use types::verdict::SignedProofVote;
use types::vote::{SignedProposal, SignedVote, VoteKind};

/// Votes kept for one validator at one height.
pub const VOTES_MAX: usize = 64;
/// Slots of proposals kept for one height, with two proposals each at most.
pub const PROPOSALS_MAX: usize = 128;
/// Verdicts kept.
pub const VERDICTS_MAX: usize = 16_384;

type VoteSlot = (PublicKey, Round, VoteKind);
type VerdictSlot = (Height, JobId, u32, u32, PublicKey);

#[derive(Clone, Debug, Default)]
struct AtHeight {
    votes: BTreeMap<VoteSlot, SignedVote>,
    proposals: BTreeMap<(Round, PublicKey), Vec<SignedProposal>>,
    reported: BTreeSet<Digest>,
}

impl AtHeight {
    /// Slots of a validator's votes, lowest round first.
    fn of_validator(&self, who: PublicKey) -> impl Iterator<Item = VoteSlot> + '_ {
        let slots = (who, Round(0), VoteKind::Prevote)..=(who, Round(u32::MAX), VoteKind::Precommit);
        self.votes.range(slots).map(|(slot, _)| *slot)
    }
}

/// The memory of what validators signed.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    heights: BTreeMap<Height, AtHeight>,
    verdicts: BTreeMap<VerdictSlot, SignedProofVote>,
    verdict_offences: BTreeSet<Digest>,
}

impl Watch {
    /// An empty memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether exactly this vote, signature included, was taken in before: its signature is known to be good.
    pub fn knows_vote(&self, vote: &SignedVote) -> bool {
        let slot = (vote.vote.validator, vote.vote.round, vote.vote.kind);
        self.heights.get(&vote.vote.height).and_then(|h| h.votes.get(&slot)) == Some(vote)
    }

    /// Whether a vote can teach nothing, good signature or not: its content is known, or it repeats an offence that was
    /// reported.
    pub fn nothing_new(&self, vote: &SignedVote) -> bool {
        let Some(at) = self.heights.get(&vote.vote.height) else { return false };
        match at.votes.get(&(vote.vote.validator, vote.vote.round, vote.vote.kind)) {
            Some(known) if known.vote == vote.vote => true,
            Some(known) => at.reported.contains(&Evidence::Votes(known.clone(), vote.clone()).offence()),
            None => false,
        }
    }

    /// Whether exactly this proposal, signature included, was taken in before.
    pub fn knows_proposal(&self, proposal: &SignedProposal) -> bool {
        let p = &proposal.proposal;
        self.heights
            .get(&p.height)
            .and_then(|h| h.proposals.get(&(p.round, p.proposer)))
            .is_some_and(|all| all.contains(proposal))
    }

    /// As [`Watch::vote`] for a decided height: what is known of it gives way to nothing that comes later.
    pub fn late_vote(&mut self, vote: &SignedVote) -> Option<Evidence> {
        let who = vote.vote.validator;
        let slot = (who, vote.vote.round, vote.vote.kind);
        let at = self.heights.get(&vote.vote.height);
        let full = at.is_some_and(|at| !at.votes.contains_key(&slot) && at.of_validator(who).count() >= VOTES_MAX);
        if full { None } else { self.vote(vote) }
    }

    /// Takes in a verified vote; returns evidence if it contradicts one taken in before.
    pub fn vote(&mut self, vote: &SignedVote) -> Option<Evidence> {
        let at = self.heights.entry(vote.vote.height).or_default();
        let who = vote.vote.validator;
        let slot = (who, vote.vote.round, vote.vote.kind);
        if let Some(known) = at.votes.get(&slot) {
            if known.vote == vote.vote {
                return None;
            }
            return report(&mut at.reported, Evidence::Votes(known.clone(), vote.clone()));
        }
        let mut held = at.of_validator(who);
        let lowest = held.next();
        if held.count().saturating_add(1) >= VOTES_MAX
            && let Some(lowest) = lowest
        {
            at.votes.remove(&lowest);
        }
        at.votes.insert(slot, vote.clone());
        None
    }

    /// Takes in a verified proposal; returns evidence if it contradicts one taken in before.
    pub fn proposal(&mut self, proposal: &SignedProposal) -> Option<Evidence> {
        let p = &proposal.proposal;
        let at = self.heights.entry(p.height).or_default();
        if at.proposals.len() >= PROPOSALS_MAX && !at.proposals.contains_key(&(p.round, p.proposer)) {
            at.proposals.pop_first();
        }
        let all = at.proposals.entry((p.round, p.proposer)).or_default();
        if all.iter().any(|known| known.proposal == *p) {
            return None;
        }
        let first = all.first().cloned();
        if all.len() < 2 {
            all.push(proposal.clone());
        }
        first.and_then(|first| report(&mut at.reported, Evidence::Proposals(first, proposal.clone())))
    }

    /// Takes in a verified verdict; returns evidence if it contradicts one taken in before.
    pub fn verdict(&mut self, vote: &SignedProofVote) -> Option<Evidence> {
        let (job, task, attempt, height) = vote.vote.subject.slot();
        let slot = (height, job, task, attempt, vote.vote.validator);
        if let Some(known) = self.verdicts.get(&slot) {
            if known.vote == vote.vote {
                return None;
            }
            if self.verdict_offences.len() >= VERDICTS_MAX {
                self.verdict_offences.pop_first();
            }
            return report(
                &mut self.verdict_offences,
                Evidence::Verdicts(Box::new(known.clone()), Box::new(vote.clone())),
            );
        }
        if self.verdicts.len() >= VERDICTS_MAX {
            self.verdicts.pop_first();
        }
        self.verdicts.insert(slot, vote.clone());
        None
    }

    /// Takes in evidence that someone else found; returns it if the offence is new here.
    pub fn found(&mut self, evidence: Evidence) -> Option<Evidence> {
        let reported = match &evidence {
            Evidence::Verdicts(..) => &mut self.verdict_offences,
            _ => &mut self.heights.entry(evidence.height()).or_default().reported,
        };
        report(reported, evidence)
    }

    /// Votes and proposals known for a height, the highest rounds first, at most `limit` of each.
    pub fn known(&self, height: Height, limit: usize) -> (Vec<SignedVote>, Vec<SignedProposal>) {
        let Some(at) = self.heights.get(&height) else { return (Vec::new(), Vec::new()) };
        let mut votes: Vec<_> = at.votes.values().collect();
        votes.sort_by_key(|v| std::cmp::Reverse((v.vote.round, v.vote.kind)));
        let proposals = at.proposals.values().rev().flatten();
        (votes.into_iter().take(limit).cloned().collect(), proposals.take(limit).cloned().collect())
    }

    /// Number of different proposals known for a round.
    pub fn proposals_in(&self, height: Height, round: Round) -> usize {
        let of_round = (round, PublicKey::new([0; 32]))..=(round, PublicKey::new([255; 32]));
        self.heights.get(&height).map_or(0, |at| at.proposals.range(of_round).map(|(_, all)| all.len()).sum())
    }

    /// Lets go of votes and proposals below `height`.
    pub fn forget_below(&mut self, height: Height) {
        self.heights = self.heights.split_off(&height);
    }
}

fn report(reported: &mut BTreeSet<Digest>, evidence: Evidence) -> Option<Evidence> {
    let evidence = evidence.canonical();
    reported.insert(evidence.offence()).then_some(evidence)
}

#[cfg(test)]
mod tests {
    use types::ids::{BlockId, GenesisHash};
    use types::keys::SecretKey;
    use types::vote::{Proposal, Vote};

    use super::*;

    const CHAIN: GenesisHash = GenesisHash::new([3; 32]);

    fn vote(round: u32, value: u8) -> SignedVote {
        let key = SecretKey::from_seed([1; 32]);
        let value = Some(BlockId::new([value; 32]));
        Vote { kind: VoteKind::Precommit, height: Height(4), round: Round(round), value, validator: key.public() }
            .sign(&key, &CHAIN)
    }

    #[test]
    fn a_conflict_is_found_in_both_orders_and_once() {
        let (mut forward, mut backward) = (Watch::new(), Watch::new());
        assert_eq!(forward.vote(&vote(0, 1)), None);
        assert_eq!(forward.vote(&vote(0, 1)), None);
        let a = forward.vote(&vote(0, 2)).unwrap();
        assert_eq!(backward.vote(&vote(0, 2)), None);
        let b = backward.vote(&vote(0, 1)).unwrap();
        assert_eq!(a, b);
        assert!(a.verify(&CHAIN));
        assert_eq!(forward.vote(&vote(0, 3)), None, "the same offence again");
        assert!(forward.knows_vote(&vote(0, 1)) && !forward.knows_vote(&vote(0, 2)));
        assert_eq!(forward.vote(&vote(1, 2)), None);
        forward.forget_below(Height(5));
        assert!(!forward.knows_vote(&vote(0, 1)));
    }

    #[test]
    fn proposals_conflict_also_by_their_polka_round() {
        let key = SecretKey::from_seed([1; 32]);
        let proposal = |pol_round| {
            let value = BlockId::new([7; 32]);
            Proposal { height: Height(4), round: Round(3), value, pol_round, proposer: key.public() }.sign(&key, &CHAIN)
        };
        let mut watch = Watch::new();
        assert_eq!(watch.proposal(&proposal(None)), None);
        assert!(watch.proposal(&proposal(Some(Round(1)))).unwrap().verify(&CHAIN));
        assert_eq!(watch.proposals_in(Height(4), Round(3)), 2);
        assert_eq!(watch.known(Height(4), 10).1.len(), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut watch = Watch::new();
        for round in 0..200 {
            watch.vote(&vote(round, 1));
        }
        let (votes, _) = watch.known(Height(4), 1000);
        assert_eq!(votes.len(), VOTES_MAX);
        assert_eq!(votes.first().map(|v| v.vote.round), Some(Round(199)));
        assert_eq!(watch.known(Height(4), 5).0.len(), 5);
        // Once decided, late votes push nothing out.
        let (lowest, higher) = (vote(200 - VOTES_MAX as u32, 1), vote(500, 1));
        assert_eq!(watch.late_vote(&higher), None);
        assert!(watch.knows_vote(&lowest) && !watch.knows_vote(&higher));
        assert!(watch.late_vote(&vote(199, 2)).is_some());
    }

    #[test]
    fn a_vote_that_teaches_nothing_is_told_without_its_signature() {
        let mut watch = Watch::new();
        watch.vote(&vote(0, 1));
        let mut resigned = vote(0, 1);
        resigned.signature = types::keys::Signature::new([1; 64]);
        assert!(watch.nothing_new(&resigned) && !watch.knows_vote(&resigned));
        assert!(!watch.nothing_new(&vote(0, 2)) && !watch.nothing_new(&vote(1, 1)));
        watch.vote(&vote(0, 2));
        assert!(watch.nothing_new(&vote(0, 3)), "the offence is reported");
    }
}
