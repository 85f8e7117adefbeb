//! Counting verdicts: which votes are new, which convict their signer, and when they decide a claim.
//!
//! Pure and bounded: a slot holds at most one verdict a validator, slots are bounded in number, the oldest commit
//! height leaves first. Anyone who holds the votes assembles the same certificate, so no node is needed for it.

use std::collections::BTreeMap;

use types::evidence::Evidence;
use types::ids::{GenesisHash, Height, JobId};
use types::keys::PublicKey;
use types::validator::ValidatorSet;
use types::verdict::{ProofCertificate, SignedProofVote, Verdict, VoteSubject};

/// Slots remembered; a slot is one claim of one attempt.
const SLOTS_MAX: usize = 4096;

/// Commit height first, so that the oldest slot is the first in order.
type Slot = (Height, JobId, u32, u32);

/// What became of a vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Added {
    /// Counted; the certificate if it decides its subject now or did before.
    Counted(Option<Box<ProofCertificate>>),
    /// Known already.
    Duplicate,
    /// The same key signed something else for this slot: provable.
    Conflict(Box<Evidence>),
    /// The signer is not in the validator set of the slot's height.
    Stranger,
    /// The signature does not verify.
    BadSignature,
    /// Older than everything that is still counted.
    TooOld,
}

/// Verdicts by slot.
#[derive(Clone, Debug)]
pub struct Tally {
    genesis: GenesisHash,
    slots: BTreeMap<Slot, BTreeMap<PublicKey, SignedProofVote>>,
}

impl Tally {
    /// An empty tally of a chain.
    pub fn new(genesis: GenesisHash) -> Self {
        Self { genesis, slots: BTreeMap::new() }
    }

    /// Counts a vote under `set`, the validator set of its commit height.
    pub fn add(&mut self, vote: SignedProofVote, set: &ValidatorSet) -> Added {
        let slot = slot_of(&vote.vote.subject);
        let validator = vote.vote.validator;
        if set.power_of(&validator).is_none() {
            return Added::Stranger;
        }
        if let Some(known) = self.slots.get(&slot).and_then(|votes| votes.get(&validator)) {
            if known.vote == vote.vote {
                return Added::Duplicate;
            }
            if !vote.verify(&self.genesis) {
                return Added::BadSignature;
            }
            return Added::Conflict(Box::new(Evidence::Verdicts(Box::new(known.clone()), Box::new(vote)).canonical()));
        }
        if !vote.verify(&self.genesis) {
            return Added::BadSignature;
        }
        if self.slots.len() >= SLOTS_MAX && !self.slots.contains_key(&slot) {
            match self.slots.first_key_value().map(|(oldest, _)| *oldest) {
                Some(oldest) if oldest < slot => self.slots.remove(&oldest),
                _ => return Added::TooOld,
            };
        }
        let subject = vote.vote.subject.clone();
        self.slots.entry(slot).or_default().insert(validator, vote);
        Added::Counted(self.certificate(&subject, set).map(Box::new))
    }

    /// The certificate on `subject`, once its votes decide it under `set`.
    pub fn certificate(&self, subject: &VoteSubject, set: &ValidatorSet) -> Option<ProofCertificate> {
        let votes = self.slots.get(&slot_of(subject))?;
        let on_subject = votes.values().filter(|v| v.vote.subject == *subject && v.vote.verdict != Verdict::Abstain);
        let entries: Vec<_> = on_subject.map(|v| (v.vote.validator, v.vote.verdict, v.signature)).collect();
        let power = |of: fn(&Verdict) -> bool| {
            let keys = entries.iter().filter(|(_, verdict, _)| of(verdict)).map(|(key, _, _)| key);
            keys.filter_map(|key| set.power_of(key)).fold(0, u64::saturating_add)
        };
        let decided = set.is_quorum(power(|v| *v == Verdict::Valid))
            || set.is_honest(power(|v| matches!(v, Verdict::Invalid(_))));
        // Each vote was verified when it came in; whoever receives the certificate verifies them again.
        decided.then(|| ProofCertificate { subject: subject.clone(), votes: entries })
    }

    /// Whether any verdict is held in the slot of `subject`.
    pub fn has_slot(&self, subject: &VoteSubject) -> bool {
        self.slots.contains_key(&slot_of(subject))
    }

    /// Number of verdicts of `validator` held on commits above `height`.
    pub fn ahead_of(&self, validator: &PublicKey, height: Height) -> usize {
        let above = self.slots.range((height.next(), JobId::new([0; 32]), 0, 0)..);
        above.filter(|(_, votes)| votes.contains_key(validator)).count()
    }

    /// Every verdict held on claims of `job`.
    pub fn of_job(&self, job: &JobId) -> Vec<SignedProofVote> {
        let slots = self.slots.iter().filter(|((_, j, _, _), _)| j == job);
        slots.flat_map(|(_, votes)| votes.values().cloned()).collect()
    }

    /// Forgets slots of commits below `height`.
    pub fn forget_below(&mut self, height: Height) {
        self.slots = self.slots.split_off(&(height, JobId::new([0; 32]), 0, 0));
    }
}

fn slot_of(subject: &VoteSubject) -> Slot {
    (subject.height, subject.job, subject.task, subject.attempt)
}

#[cfg(test)]
mod tests {
    use types::ids::{BlobHash, StatementDigest};
    use types::keys::SecretKey;
    use types::validator::Validator;
    use types::verdict::{Check, Claim, Outcome, ProofVote};

    use super::*;

    fn subject(height: u64) -> VoteSubject {
        VoteSubject {
            job: JobId::new([1; 32]),
            task: 0,
            attempt: 0,
            height: Height(height),
            prover: PublicKey::new([2; 32]),
            statement: StatementDigest::new([3; 32]),
            claim: Claim::Proof { hash: BlobHash::new([4; 32]), bytes: 5, steps: 6 },
            verifier: 1,
        }
    }

    fn setup() -> (Vec<SecretKey>, ValidatorSet, GenesisHash) {
        let keys: Vec<_> = (1..=4u8).map(|n| SecretKey::from_seed([n; 32])).collect();
        let set = ValidatorSet::new(keys.iter().map(|k| Validator { key: k.public(), power: 1 }).collect()).unwrap();
        (keys, set, GenesisHash::new([7; 32]))
    }

    #[test]
    fn a_vote_counts_once_and_three_of_four_certify() {
        let (keys, set, chain) = setup();
        let mut tally = Tally::new(chain);
        let vote = |key: &SecretKey, verdict| {
            ProofVote { subject: subject(5), verdict, validator: key.public() }.sign(key, &chain)
        };
        assert_eq!(tally.add(vote(&keys[0], Verdict::Valid), &set), Added::Counted(None));
        for _ in 0..3 {
            assert_eq!(tally.add(vote(&keys[0], Verdict::Valid), &set), Added::Duplicate);
        }
        assert_eq!(tally.add(vote(&keys[1], Verdict::Abstain), &set), Added::Counted(None));
        assert_eq!(tally.add(vote(&keys[2], Verdict::Valid), &set), Added::Counted(None));
        let Added::Counted(Some(certificate)) = tally.add(vote(&keys[3], Verdict::Valid), &set) else {
            panic!("decided")
        };
        assert_eq!(certificate.outcome(&chain, &set), Ok(Some(Outcome::Certified)));
        assert_eq!(certificate.votes.len(), 3);
    }

    #[test]
    fn a_second_verdict_convicts_and_strangers_do_not_count() {
        let (keys, set, chain) = setup();
        let mut tally = Tally::new(chain);
        let vote = |key: &SecretKey, verdict| {
            ProofVote { subject: subject(5), verdict, validator: key.public() }.sign(key, &chain)
        };
        assert_eq!(tally.add(vote(&keys[0], Verdict::Valid), &set), Added::Counted(None));
        let Added::Conflict(evidence) = tally.add(vote(&keys[0], Verdict::Invalid(Check::Stark)), &set) else {
            panic!("conflict")
        };
        assert!(evidence.verify(&chain));
        let stranger = SecretKey::from_seed([9; 32]);
        assert_eq!(tally.add(vote(&stranger, Verdict::Valid), &set), Added::Stranger);
        let mut forged = vote(&keys[1], Verdict::Valid);
        forged.vote.verdict = Verdict::Abstain;
        assert_eq!(tally.add(forged, &set), Added::BadSignature);
        assert_eq!(tally.of_job(&JobId::new([1; 32])).len(), 1);
        assert!(tally.has_slot(&subject(5)) && !tally.has_slot(&subject(6)));
        assert_eq!([4, 5].map(|height| tally.ahead_of(&keys[0].public(), Height(height))), [1, 0]);
        tally.forget_below(Height(6));
        assert!(tally.of_job(&JobId::new([1; 32])).is_empty());
    }

    #[test]
    fn slots_are_bounded_and_the_oldest_goes_first() {
        let (keys, set, chain) = setup();
        let mut tally = Tally::new(chain);
        for height in 10..10 + SLOTS_MAX as u64 + 5 {
            let vote = ProofVote { subject: subject(height), verdict: Verdict::Valid, validator: keys[0].public() };
            assert_eq!(tally.add(vote.sign(&keys[0], &chain), &set), Added::Counted(None));
        }
        assert_eq!(tally.slots.len(), SLOTS_MAX);
        let old = ProofVote { subject: subject(1), verdict: Verdict::Valid, validator: keys[0].public() };
        assert_eq!(tally.add(old.sign(&keys[0], &chain), &set), Added::TooOld);
    }
}
