//! Evidence of equivocation: two conflicting messages by one key for one slot. A third party re-checks it from the bytes.

use bincode::{Decode, Encode};

use crate::codec::encode_body;
use crate::ids::{Digest, GenesisHash, Height};
use crate::keys::PublicKey;
use crate::signing::hash_parts;
use crate::verdict::SignedProofVote;
use crate::vote::{SignedProposal, SignedVote};

/// Two messages that one honest key never signs.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Evidence {
    /// Two votes of one kind in one (height, round) for different values.
    Votes(SignedVote, SignedVote),
    /// Two proposals in one (height, round).
    Proposals(SignedProposal, SignedProposal),
    /// Two different verdicts, or verdicts on different claims, in one slot.
    Verdicts(Box<SignedProofVote>, Box<SignedProofVote>),
}

impl Evidence {
    /// The evidence with its two messages in canonical order, so that one offence has one form.
    pub fn canonical(self) -> Self {
        match self {
            Self::Votes(a, b) if b < a => Self::Votes(b, a),
            Self::Proposals(a, b) if b < a => Self::Proposals(b, a),
            Self::Verdicts(a, b) if b < a => Self::Verdicts(b, a),
            other => other,
        }
    }

    /// Who did it.
    pub fn offender(&self) -> PublicKey {
        match self {
            Self::Votes(a, _) => a.vote.validator,
            Self::Proposals(a, _) => a.proposal.proposer,
            Self::Verdicts(a, _) => a.vote.validator,
        }
    }

    /// The height whose validator set the offender must be in.
    pub fn height(&self) -> Height {
        match self {
            Self::Votes(a, _) => a.vote.height,
            Self::Proposals(a, _) => a.proposal.height,
            Self::Verdicts(a, _) => a.vote.subject.height,
        }
    }

    /// Identity of the offence: the same whatever two of its messages are shown.
    pub fn offence(&self) -> Digest {
        let slot = match self {
            Self::Votes(a, _) => encode_body(&(0u8, a.vote.kind, a.vote.height, a.vote.round)),
            Self::Proposals(a, _) => encode_body(&(1u8, a.proposal.height, a.proposal.round)),
            Self::Verdicts(a, _) => encode_body(&(2u8, a.vote.subject.slot())),
        };
        Digest::new(hash_parts("proofmesh offence v1", &[&slot, self.offender().as_bytes()]))
    }

    /// Whether the two messages conflict, stand in canonical order, and are both signed by the offender for this chain.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        match self {
            Self::Votes(a, b) => {
                let slot = |v: &SignedVote| (v.vote.kind, v.vote.height, v.vote.round, v.vote.validator);
                a < b && slot(a) == slot(b) && a.vote.value != b.vote.value && a.verify(genesis) && b.verify(genesis)
            }
            Self::Proposals(a, b) => {
                let slot = |p: &SignedProposal| (p.proposal.height, p.proposal.round, p.proposal.proposer);
                a < b && slot(a) == slot(b) && a.proposal != b.proposal && a.verify(genesis) && b.verify(genesis)
            }
            Self::Verdicts(a, b) => {
                let slot = |v: &SignedProofVote| (v.vote.subject.slot(), v.vote.validator);
                a < b && slot(a) == slot(b) && a.vote != b.vote && a.verify(genesis) && b.verify(genesis)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BlockId, Round};
    use crate::keys::SecretKey;
    use crate::vote::{Vote, VoteKind};

    #[test]
    fn only_a_real_conflict_by_one_key_counts() {
        let (key, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let chain = GenesisHash::new([3; 32]);
        let vote = |key: &SecretKey, round: u32, value: u8| {
            let value = Some(BlockId::new([value; 32]));
            let v = Vote {
                kind: VoteKind::Prevote,
                height: Height(4),
                round: Round(round),
                value,
                validator: key.public(),
            };
            v.sign(key, &chain)
        };
        let real = Evidence::Votes(vote(&key, 0, 1), vote(&key, 0, 2)).canonical();
        assert!(real.verify(&chain));
        assert_eq!(real.offender(), key.public());
        let swapped = Evidence::Votes(vote(&key, 0, 2), vote(&key, 0, 1)).canonical();
        assert_eq!(real, swapped);
        let third = Evidence::Votes(vote(&key, 0, 1), vote(&key, 0, 3)).canonical();
        assert_eq!(real.offence(), third.offence());
        assert!(!Evidence::Votes(vote(&key, 0, 1), vote(&key, 1, 2)).canonical().verify(&chain));
        assert!(!Evidence::Votes(vote(&key, 0, 1), vote(&other, 0, 2)).canonical().verify(&chain));
        assert!(!Evidence::Votes(vote(&key, 0, 1), vote(&key, 0, 1)).verify(&chain));
        assert!(!real.verify(&GenesisHash::new([4; 32])));
    }
}
