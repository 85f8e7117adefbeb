//! The signer's guard: for every slot in which this node may sign once, the signed content and its signature.
//!
//! Pure bookkeeping. The caller makes each [`GuardRecord`] durable before the signature leaves the node. The same content
//! gives the same signature again; other content for a signed slot is refused, and the node then follows that height without
//! signing. The key lives here and nowhere else, so nothing can be signed past the guard.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use thiserror::Error;
use types::codec::Wire;
use types::ids::{GenesisHash, Height, JobId, Round};
use types::keys::{PublicKey, SecretKey};
use types::limits::VERDICT_HEIGHTS_KEPT;
use types::verdict::{ProofVote, SignedProofVote};
use types::vote::{Proposal, SignedProposal, SignedVote, Vote, VoteKind};

/// What may be signed once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Slot {
    /// A prevote or precommit.
    Vote {
        /// Height voted on.
        height: Height,
        /// Round voted in.
        round: Round,
        /// Which step.
        kind: VoteKind,
    },
    /// A proposal.
    Proposal {
        /// Height proposed for.
        height: Height,
        /// Round proposed in.
        round: Round,
    },
    /// A verdict on a claim.
    Verdict {
        /// Height of the block with the commit.
        height: Height,
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// Attempt of the task.
        attempt: u32,
    },
}

impl Slot {
    /// The height the slot belongs to.
    pub const fn height(&self) -> Height {
        match self {
            Self::Vote { height, .. } | Self::Proposal { height, .. } | Self::Verdict { height, .. } => *height,
        }
    }
}

/// One signed slot, as kept in the guard file.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum GuardRecord {
    /// A signed prevote or precommit.
    Vote(SignedVote),
    /// A signed proposal.
    Proposal(SignedProposal),
    /// A signed verdict.
    Verdict(SignedProofVote),
}

impl Wire for GuardRecord {
    const NAME: &'static str = "guard record";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 2 << 10;
}

impl GuardRecord {
    /// The slot that the record fills.
    pub const fn slot(&self) -> Slot {
        match self {
            Self::Vote(v) => Slot::Vote { height: v.vote.height, round: v.vote.round, kind: v.vote.kind },
            Self::Proposal(p) => Slot::Proposal { height: p.proposal.height, round: p.proposal.round },
            Self::Verdict(v) => {
                let s = &v.vote.subject;
                Slot::Verdict { height: s.height, job: s.job, task: s.task, attempt: s.attempt }
            }
        }
    }

    /// Who signed.
    pub const fn signer(&self) -> PublicKey {
        match self {
            Self::Vote(v) => v.vote.validator,
            Self::Proposal(p) => p.proposal.proposer,
            Self::Verdict(v) => v.vote.validator,
        }
    }

    fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vote(a), Self::Vote(b)) => a.vote == b.vote,
            (Self::Proposal(a), Self::Proposal(b)) => a.proposal == b.proposal,
            (Self::Verdict(a), Self::Verdict(b)) => a.vote == b.vote,
            _ => false,
        }
    }
}

/// Why the guard did not sign.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node has no key.
    #[error("this node has no signing key")]
    NoKey,
    /// The message names another signer.
    #[error("the message names signer {named}, the key is {key}")]
    OtherSigner {
        /// Signer named in the message.
        named: PublicKey,
        /// Our key.
        key: PublicKey,
    },
    /// The slot is signed with other content.
    #[error("slot {0:?} is already signed with other content")]
    Conflict(Slot),
    /// The slot lies below what the guard still remembers.
    #[error("slot {slot:?} lies below height {floor}, which the guard has let go")]
    Forgotten {
        /// The slot asked for.
        slot: Slot,
        /// Lowest height remembered.
        floor: Height,
    },
}

/// The guard file holds two different signed messages for one slot.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("the guard holds two signed contents for slot {0:?}")]
pub struct GuardCorrupt(pub Slot);

/// The guard with the key it watches over.
#[derive(Clone, Debug)]
pub struct Guard {
    genesis: GenesisHash,
    key: Option<SecretKey>,
    signed: BTreeMap<Slot, GuardRecord>,
    consensus_floor: Height,
    verdict_floor: Height,
}

impl Guard {
    /// A guard that remembers nothing, for a chain and a key; without a key it refuses everything.
    pub const fn new(genesis: GenesisHash, key: Option<SecretKey>) -> Self {
        Self { genesis, key, signed: BTreeMap::new(), consensus_floor: Height(0), verdict_floor: Height(0) }
    }

    /// A guard that remembers `records`, in the order of the file. Records of another key are kept out: the file may have
    /// served an earlier key.
    ///
    /// # Errors
    /// [`GuardCorrupt`] when two records fill one slot with different content.
    pub fn restore(
        genesis: GenesisHash,
        key: Option<SecretKey>,
        records: impl IntoIterator<Item = GuardRecord>,
    ) -> Result<Self, GuardCorrupt> {
        let mut guard = Self::new(genesis, key);
        let own = guard.public();
        for record in records {
            if Some(record.signer()) != own {
                continue;
            }
            let slot = record.slot();
            match guard.signed.get(&slot) {
                Some(known) if !known.same_content(&record) => return Err(GuardCorrupt(slot)),
                Some(_) => {}
                None => {
                    guard.signed.insert(slot, record);
                }
            }
        }
        Ok(guard)
    }

    /// The public key, if there is a key.
    pub fn public(&self) -> Option<PublicKey> {
        self.key.as_ref().map(SecretKey::public)
    }

    /// The chain that it signs for.
    pub const fn genesis(&self) -> &GenesisHash {
        &self.genesis
    }

    /// Everything remembered, by slot: what a compacted guard file holds.
    pub fn records(&self) -> impl Iterator<Item = &GuardRecord> {
        self.signed.values()
    }

    /// Number of slots remembered.
    pub fn len(&self) -> usize {
        self.signed.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.signed.is_empty()
    }

    /// What is signed in a slot.
    pub fn signed(&self, slot: &Slot) -> Option<&GuardRecord> {
        self.signed.get(slot)
    }

    /// Signs a vote. The record is `None` when the slot already held this content, and must otherwise be durable before the
    /// vote leaves.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn sign_vote(&mut self, vote: Vote) -> Result<(SignedVote, Option<GuardRecord>), Refusal> {
        let slot = Slot::Vote { height: vote.height, round: vote.round, kind: vote.kind };
        let key = self.allow(slot, vote.validator)?;
        match self.signed.get(&slot) {
            Some(GuardRecord::Vote(known)) if known.vote == vote => Ok((known.clone(), None)),
            Some(_) => Err(Refusal::Conflict(slot)),
            None => {
                let signed = vote.sign(&key, &self.genesis);
                Ok((signed.clone(), Some(self.enter(slot, GuardRecord::Vote(signed)))))
            }
        }
    }

    /// Signs a proposal; as [`Guard::sign_vote`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn sign_proposal(&mut self, proposal: Proposal) -> Result<(SignedProposal, Option<GuardRecord>), Refusal> {
        let slot = Slot::Proposal { height: proposal.height, round: proposal.round };
        let key = self.allow(slot, proposal.proposer)?;
        match self.signed.get(&slot) {
            Some(GuardRecord::Proposal(known)) if known.proposal == proposal => Ok((known.clone(), None)),
            Some(_) => Err(Refusal::Conflict(slot)),
            None => {
                let signed = proposal.sign(&key, &self.genesis);
                Ok((signed.clone(), Some(self.enter(slot, GuardRecord::Proposal(signed)))))
            }
        }
    }

    /// Signs a verdict; as [`Guard::sign_vote`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn sign_proof_vote(&mut self, vote: ProofVote) -> Result<(SignedProofVote, Option<GuardRecord>), Refusal> {
        let (job, task, attempt, height) = vote.subject.slot();
        let slot = Slot::Verdict { height, job, task, attempt };
        let key = self.allow(slot, vote.validator)?;
        match self.signed.get(&slot) {
            Some(GuardRecord::Verdict(known)) if known.vote == vote => Ok((known.clone(), None)),
            Some(_) => Err(Refusal::Conflict(slot)),
            None => {
                let signed = vote.sign(&key, &self.genesis);
                Ok((signed.clone(), Some(self.enter(slot, GuardRecord::Verdict(signed)))))
            }
        }
    }

    /// Takes up an own message that the consensus log proves was signed. Returns the record to be made durable if it is new.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] when the slot holds other content.
    pub fn note(&mut self, record: GuardRecord) -> Result<Option<GuardRecord>, Refusal> {
        let slot = record.slot();
        match self.signed.get(&slot) {
            Some(known) if known.same_content(&record) => Ok(None),
            Some(_) => Err(Refusal::Conflict(slot)),
            None => Ok(Some(self.enter(slot, record))),
        }
    }

    /// For a start on a chain whose head is at `head`: nothing is signed again at decided heights, nor a verdict so far below
    /// that the file may have been rewritten without it.
    pub fn resume_after(&mut self, head: Height) {
        self.forget_below(head.next());
        self.forget_verdicts_below(Self::verdicts_from(head));
    }

    /// The lowest height whose verdicts are remembered when `head` is decided.
    pub const fn verdicts_from(head: Height) -> Height {
        Height(head.0.saturating_sub(VERDICT_HEIGHTS_KEPT))
    }

    /// Lets go of votes and proposals below `height`, and refuses to sign there ever again. To be called only when the block
    /// below `height` is durably committed.
    pub fn forget_below(&mut self, height: Height) {
        self.consensus_floor = self.consensus_floor.max(height);
        let floor = self.consensus_floor;
        self.signed.retain(|slot, _| matches!(slot, Slot::Verdict { .. }) || slot.height() >= floor);
    }

    /// Lets go of verdicts on commits below `height`, and refuses to sign there ever again. To be called when no claim of an
    /// earlier block can still be voted on.
    pub fn forget_verdicts_below(&mut self, height: Height) {
        self.verdict_floor = self.verdict_floor.max(height);
        let floor = self.verdict_floor;
        self.signed.retain(|slot, _| !matches!(slot, Slot::Verdict { .. }) || slot.height() >= floor);
    }

    fn allow(&self, slot: Slot, named: PublicKey) -> Result<SecretKey, Refusal> {
        let secret = self.key.clone().ok_or(Refusal::NoKey)?;
        let key = secret.public();
        if named != key {
            return Err(Refusal::OtherSigner { named, key });
        }
        let floor = if matches!(slot, Slot::Verdict { .. }) { self.verdict_floor } else { self.consensus_floor };
        if slot.height() < floor {
            return Err(Refusal::Forgotten { slot, floor });
        }
        Ok(secret)
    }

    fn enter(&mut self, slot: Slot, record: GuardRecord) -> GuardRecord {
        self.signed.insert(slot, record.clone());
        record
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::ids::{BlobHash, BlockId, StatementDigest};
    use types::verdict::{Check, Claim, Verdict, VoteSubject};

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed([5; 32])
    }

    fn vote(height: u64, round: u32, kind: VoteKind, value: u8) -> Vote {
        let value = (value > 0).then(|| BlockId::new([value; 32]));
        Vote { kind, height: Height(height), round: Round(round), value, validator: key().public() }
    }

    fn guard() -> Guard {
        Guard::new(GenesisHash::new([1; 32]), Some(key()))
    }

    #[test]
    fn one_content_a_slot_and_the_same_signature_again() {
        let mut guard = guard();
        let (first, record) = guard.sign_vote(vote(3, 0, VoteKind::Prevote, 7)).unwrap();
        let record = record.unwrap();
        assert!(first.verify(guard.genesis()));
        assert_eq!(GuardRecord::from_bytes(&record.to_bytes()).unwrap(), record);
        assert_eq!(guard.sign_vote(vote(3, 0, VoteKind::Prevote, 7)).unwrap(), (first.clone(), None));
        let slot = Slot::Vote { height: Height(3), round: Round(0), kind: VoteKind::Prevote };
        assert_eq!(guard.sign_vote(vote(3, 0, VoteKind::Prevote, 0)), Err(Refusal::Conflict(slot)));
        assert!(guard.sign_vote(vote(3, 0, VoteKind::Precommit, 0)).is_ok());
        assert!(guard.sign_vote(vote(3, 1, VoteKind::Prevote, 0)).is_ok());
        let mut restored = Guard::restore(*guard.genesis(), Some(key()), guard.records().cloned()).unwrap();
        assert_eq!(restored.len(), 3);
        assert_eq!(restored.sign_vote(vote(3, 0, VoteKind::Prevote, 7)).unwrap(), (first, None));
        assert_eq!(restored.sign_vote(vote(3, 0, VoteKind::Prevote, 8)), Err(Refusal::Conflict(slot)));
    }

    #[test]
    fn proposals_verdicts_and_floors_are_guarded_too() {
        let mut guard = guard();
        let proposal = |value: u8| Proposal {
            height: Height(4),
            round: Round(1),
            value: BlockId::new([value; 32]),
            pol_round: None,
            proposer: key().public(),
        };
        guard.sign_proposal(proposal(1)).unwrap();
        assert!(matches!(guard.sign_proposal(proposal(2)), Err(Refusal::Conflict(_))));
        let verdict = |verdict| ProofVote {
            subject: VoteSubject {
                job: JobId::new([1; 32]),
                task: 0,
                attempt: 1,
                height: Height(2),
                prover: PublicKey::new([2; 32]),
                statement: StatementDigest::new([3; 32]),
                claim: Claim::Proof { hash: BlobHash::new([4; 32]), bytes: 5, steps: 6 },
                verifier: 1,
            },
            verdict,
            validator: key().public(),
        };
        guard.sign_proof_vote(verdict(Verdict::Valid)).unwrap();
        assert!(matches!(guard.sign_proof_vote(verdict(Verdict::Invalid(Check::Stark))), Err(Refusal::Conflict(_))));
        guard.forget_below(Height(5));
        assert_eq!(guard.len(), 1);
        assert!(matches!(guard.sign_proposal(proposal(1)), Err(Refusal::Forgotten { .. })));
        assert!(guard.sign_proof_vote(verdict(Verdict::Valid)).unwrap().1.is_none());
        guard.forget_verdicts_below(Height(3));
        assert!(guard.is_empty());
        assert!(matches!(guard.sign_proof_vote(verdict(Verdict::Valid)), Err(Refusal::Forgotten { .. })));
    }

    #[test]
    fn a_restart_forgets_no_floor() {
        let verdict = |height: u64| ProofVote {
            subject: VoteSubject {
                job: JobId::new([1; 32]),
                task: 0,
                attempt: 1,
                height: Height(height),
                prover: PublicKey::new([2; 32]),
                statement: StatementDigest::new([3; 32]),
                claim: Claim::Proof { hash: BlobHash::new([4; 32]), bytes: 5, steps: 6 },
                verifier: 1,
            },
            verdict: Verdict::Valid,
            validator: key().public(),
        };
        let head = Height(VERDICT_HEIGHTS_KEPT + 7);
        // The file was rewritten without the slot of height 6, in which this key may have signed.
        let mut restored = Guard::restore(*guard().genesis(), Some(key()), []).unwrap();
        restored.resume_after(head);
        let old = Slot::Verdict { height: Height(6), job: JobId::new([1; 32]), task: 0, attempt: 1 };
        let forgotten = Refusal::Forgotten { slot: old, floor: Height(7) };
        assert_eq!(restored.sign_proof_vote(verdict(6)), Err(forgotten));
        assert!(restored.sign_proof_vote(verdict(7)).is_ok());
        let late = restored.sign_vote(vote(head.0, 0, VoteKind::Precommit, 1));
        assert!(matches!(late, Err(Refusal::Forgotten { .. })), "its height is decided");
        assert!(restored.sign_vote(vote(head.0 + 1, 0, VoteKind::Prevote, 1)).is_ok());
    }

    #[test]
    fn strangers_missing_keys_and_corrupt_files_are_refused() {
        let other = SecretKey::from_seed([6; 32]);
        let chain = GenesisHash::new([1; 32]);
        assert!(matches!(Guard::new(chain, None).sign_vote(vote(1, 0, VoteKind::Prevote, 1)), Err(Refusal::NoKey)));
        let mut stranger = Guard::new(chain, Some(other));
        assert!(matches!(stranger.sign_vote(vote(1, 0, VoteKind::Prevote, 1)), Err(Refusal::OtherSigner { .. })));
        let record = |value| GuardRecord::Vote(vote(1, 0, VoteKind::Prevote, value).sign(&key(), &chain));
        assert!(Guard::restore(chain, Some(key()), [record(1), record(1)]).is_ok());
        assert!(Guard::restore(chain, Some(key()), [record(1), record(2)]).is_err());
        assert!(Guard::restore(chain, Some(SecretKey::from_seed([9; 32])), [record(1), record(2)]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_order_of_requests_and_restarts_signs_a_slot_twice(
            steps in proptest::collection::vec((1u64..4, 0u32..3, any::<bool>(), 0u8..3, any::<bool>()), 1..60)
        ) {
            let mut guard = guard();
            let mut durable: Vec<GuardRecord> = Vec::new();
            let mut seen: BTreeMap<(u64, u32, bool), SignedVote> = BTreeMap::new();
            for (height, round, precommit, value, restart) in steps {
                let kind = if precommit { VoteKind::Precommit } else { VoteKind::Prevote };
                if let Ok((signed, record)) = guard.sign_vote(vote(height, round, kind, value)) {
                    durable.extend(record);
                    let first = seen.entry((height, round, precommit)).or_insert_with(|| signed.clone());
                    prop_assert_eq!(&*first, &signed);
                }
                if restart {
                    guard = Guard::restore(*guard.genesis(), Some(key()), durable.clone()).unwrap();
                }
            }
        }
    }
}
