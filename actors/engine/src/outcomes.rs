//! What certificates that this node has checked decide, so that a list of a hundred jobs does not cost the signatures of a
//! hundred certificates each time somebody asks for it.
//!
//! By the hash of the whole certificate, signatures included: another one on the same claim is checked for itself. The set
//! that counts is the one of the claim's height, of which there is one, so the outcome of a certificate never changes. Two
//! generations of [`GENERATION`] each: when the younger is full, the older is forgotten, which costs one check each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use types::Wire;
use types::ids::{Digest, GenesisHash};
use types::signing::hash_parts;
use types::validator::ValidatorSet;
use types::verdict::{Outcome, ProofCertificate};

/// Certificates of one generation; both take about 1 MiB.
const GENERATION: usize = 8192;

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Option<Outcome>>,
    old: HashMap<Digest, Option<Outcome>>,
}

/// The memory of one chain.
#[derive(Debug)]
pub(crate) struct Outcomes {
    genesis: GenesisHash,
    seen: Mutex<Generations>,
}

impl Outcomes {
    /// Nothing checked yet on this chain.
    pub(crate) fn new(genesis: GenesisHash) -> Self {
        Self { genesis, seen: Mutex::default() }
    }

    /// What a certificate decides under `set`, the validator set of its claim's height; `None` for nothing, also when it is
    /// not valid.
    pub(crate) fn of(&self, certificate: &ProofCertificate, set: &ValidatorSet) -> Option<Outcome> {
        let digest = Digest::new(hash_parts("proofmesh certificate-outcome v1", &[&certificate.to_bytes()]));
        if let Some(known) = self.known(&digest) {
            return known;
        }
        // Outside the lock: a signature takes tens of microseconds.
        let outcome = certificate.outcome(&self.genesis, set).ok().flatten();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.young.len() >= GENERATION {
            seen.old = std::mem::take(&mut seen.young);
        }
        seen.young.insert(digest, outcome);
        outcome
    }

    fn known(&self, digest: &Digest) -> Option<Option<Outcome>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.young.get(digest).or_else(|| seen.old.get(digest)).copied()
    }

    /// Certificates remembered now.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.young.len() + seen.old.len()
    }
}

#[cfg(test)]
mod tests {
    use storage::Store;
    use types::keys::Signature;
    use types::verdict::{ProofVote, Verdict};

    use super::*;
    use crate::reads;
    use crate::testkit::{TestChain, validator};

    /// A certificate by the first three of four validators on the one claim in voting.
    fn certificate(chain: &TestChain) -> ProofCertificate {
        let subject = reads::voting_subjects(&chain.wiring.view()).unwrap().pop().unwrap();
        let vote = |n: u8| {
            let key = validator(n);
            let vote = ProofVote { subject: subject.clone(), verdict: Verdict::Valid, validator: key.public() };
            (key.public(), Verdict::Valid, vote.sign(&key, &chain.wiring.genesis_hash).signature)
        };
        let mut votes: Vec<_> = (1..=3).map(vote).collect();
        votes.sort_by_key(|(key, _, _)| *key);
        ProofCertificate { subject, votes }
    }

    #[test]
    fn a_listed_certificate_is_checked_once_and_one_with_other_signatures_for_itself() {
        let chain = TestChain::new();
        let (job, height) = chain.claim_in_voting();
        let (view, outcomes) = (chain.wiring.view(), &chain.wiring.outcomes);
        let good = certificate(&chain);
        chain.wiring.store.put_certificate(&good).unwrap();
        for _ in 0..100 {
            assert!(reads::job_view(&chain.wiring, &view, &job).unwrap().is_some());
        }
        assert_eq!(outcomes.len(), 1, "the list has remembered what it checked");
        let set = ledger::validator_set(&view.state, height).unwrap().unwrap();
        assert_eq!(outcomes.of(&good, &set), Some(Outcome::Certified));
        // A set in which nobody has signed: whoever checks again says no.
        let strangers = ValidatorSet::new(vec![types::validator::Validator { key: validator(9).public(), power: 1 }]);
        assert_eq!(outcomes.of(&good, &strangers.unwrap()), Some(Outcome::Certified), "it was checked again");

        let mut forged = good;
        forged.votes[1].2 = Signature::new([7; 64]);
        assert_eq!(outcomes.of(&forged, &set), None);
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn the_memory_is_bounded() {
        let chain = TestChain::new();
        let (_, height) = chain.claim_in_voting();
        let set = ledger::validator_set(&chain.wiring.view().state, height).unwrap().unwrap();
        let mut one = certificate(&chain);
        for n in 0..2 * GENERATION + 100 {
            one.votes.truncate(1);
            // Signatures that fail fast: what counts is that each is another certificate.
            let mut bytes = [0xff; 64];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            one.votes[0].2 = Signature::new(bytes);
            assert_eq!(chain.wiring.outcomes.of(&one, &set), None);
        }
        assert!(chain.wiring.outcomes.len() <= 2 * GENERATION);
    }
}
