//! Consensus messages (Tendermint, arXiv 1807.04938): prevotes, precommits, proposals, and certificates made of them.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::codec::{Wire, encode_body};
use crate::ids::{BlockId, Digest, GenesisHash, Height, Round};
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::limits::{CONSENSUS_BYTES_MAX, VALIDATORS_MAX};
use crate::signing::{Domain, hash_parts};
use crate::validator::ValidatorSet;

/// Kind of vote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub enum VoteKind {
    /// First step: "this proposal is acceptable", or nil.
    Prevote,
    /// Second step: "I commit to this value", or nil.
    Precommit,
}

/// The content of a vote, as signed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// Height voted on.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// Block voted for; `None` is nil.
    pub value: Option<BlockId>,
    /// Who votes.
    pub validator: PublicKey,
}

/// A vote with its signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct SignedVote {
    /// The content.
    pub vote: Vote,
    /// Signature of `vote.validator`.
    pub signature: Signature,
}

impl Vote {
    /// Signs the vote.
    pub fn sign(self, key: &SecretKey, genesis: &GenesisHash) -> SignedVote {
        let signature = key.sign(Domain::ConsensusVote, genesis, &encode_body(&self));
        SignedVote { vote: self, signature }
    }
}

impl SignedVote {
    /// Whether the named validator signed it for this chain.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        self.vote.validator.verify(Domain::ConsensusVote, genesis, &encode_body(&self.vote), &self.signature)
    }
}

/// The content of a proposal, as signed. The block travels beside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Proposal {
    /// Height proposed for.
    pub height: Height,
    /// Round proposed in.
    pub round: Round,
    /// The block.
    pub value: BlockId,
    /// Round in which the value had a polka, if it is proposed again.
    pub pol_round: Option<Round>,
    /// Who proposes.
    pub proposer: PublicKey,
}

/// A proposal with its signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct SignedProposal {
    /// The content.
    pub proposal: Proposal,
    /// Signature of `proposal.proposer`.
    pub signature: Signature,
}

impl Proposal {
    /// Signs the proposal.
    pub fn sign(self, key: &SecretKey, genesis: &GenesisHash) -> SignedProposal {
        let signature = key.sign(Domain::ConsensusProposal, genesis, &encode_body(&self));
        SignedProposal { proposal: self, signature }
    }
}

impl SignedProposal {
    /// Whether the named proposer signed it for this chain.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        self.proposal.proposer.verify(Domain::ConsensusProposal, genesis, &encode_body(&self.proposal), &self.signature)
    }
}

/// More than two thirds of the power precommitted a block: the block is decided.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct CommitCertificate {
    /// Height decided.
    pub height: Height,
    /// Round of the precommits.
    pub round: Round,
    /// The block.
    pub block: BlockId,
    /// Signers in rising key order, each once.
    pub signatures: Vec<(PublicKey, Signature)>,
}

impl Wire for CommitCertificate {
    const NAME: &'static str = "commit certificate";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = CONSENSUS_BYTES_MAX;
}

/// Why a certificate proves nothing.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CertificateError {
    /// Other height than asked about.
    #[error("certificate is for height {found}, not {expected}")]
    Height {
        /// Height in the certificate.
        found: Height,
        /// Height asked about.
        expected: Height,
    },
    /// Other block than asked about.
    #[error("certificate is for block {found}, not {expected}")]
    Block {
        /// Block in the certificate.
        found: BlockId,
        /// Block asked about.
        expected: BlockId,
    },
    /// More signatures than validators there can be.
    #[error("{0} signatures, the limit is 100")]
    TooMany(usize),
    /// Signers not in rising order, or one twice.
    #[error("signer {0} is out of order or there twice")]
    Order(PublicKey),
    /// A signer is not in the set.
    #[error("signer {0} is not in the validator set of the height")]
    Stranger(PublicKey),
    /// A signature does not verify.
    #[error("signature of {0} does not verify")]
    Signature(PublicKey),
    /// Not more than two thirds.
    #[error("signed by power {signed} of {total}, more than two thirds is needed")]
    Power {
        /// Power that signed.
        signed: u64,
        /// Power of the set.
        total: u64,
    },
}

/// Checks order and membership of all, then each signature by `verify`, and returns the power that signed. Signatures come last
/// because they cost most: one entry of a stranger's spares them all.
///
/// # Errors
/// [`CertificateError`] except for `Height`, `Block` and `Power`, which the caller decides.
pub fn signed_power<T>(
    set: &ValidatorSet,
    entries: &[T],
    key_of: impl Fn(&T) -> PublicKey,
    verify: impl Fn(&T) -> bool,
) -> Result<u64, CertificateError> {
    if entries.len() > VALIDATORS_MAX {
        return Err(CertificateError::TooMany(entries.len()));
    }
    let mut seen = BTreeSet::new();
    let mut power = 0u64;
    let mut last: Option<PublicKey> = None;
    for entry in entries {
        let key = key_of(entry);
        if last.is_some_and(|l| l >= key) || !seen.insert(key) {
            return Err(CertificateError::Order(key));
        }
        last = Some(key);
        power = power.saturating_add(set.power_of(&key).ok_or(CertificateError::Stranger(key))?);
    }
    match entries.iter().find(|entry| !verify(entry)) {
        Some(forged) => Err(CertificateError::Signature(key_of(forged))),
        None => Ok(power),
    }
}

impl CommitCertificate {
    /// The precommit that `validator` signed for this certificate.
    pub fn precommit_of(&self, validator: PublicKey) -> Vote {
        Vote { kind: VoteKind::Precommit, height: self.height, round: self.round, value: Some(self.block), validator }
    }

    /// Checks that more than two thirds of `set`'s power precommitted `block` at `height`; returns (signed, total) power.
    ///
    /// # Errors
    /// The first [`CertificateError`] met.
    pub fn verify(
        &self,
        genesis: &GenesisHash,
        set: &ValidatorSet,
        height: Height,
        block: BlockId,
    ) -> Result<(u64, u64), CertificateError> {
        if self.height != height {
            return Err(CertificateError::Height { found: self.height, expected: height });
        }
        if self.block != block {
            return Err(CertificateError::Block { found: self.block, expected: block });
        }
        let signed = signed_power(
            set,
            &self.signatures,
            |(key, _)| *key,
            |(key, signature)| {
                key.verify(Domain::ConsensusVote, genesis, &encode_body(&self.precommit_of(*key)), signature)
            },
        )?;
        let total = set.power_total();
        if set.is_quorum(signed) { Ok((signed, total)) } else { Err(CertificateError::Power { signed, total }) }
    }

    /// Digest in the next header.
    pub fn digest(&self) -> Digest {
        Digest::new(hash_parts("proofmesh commit-certificate v1", &[&encode_body(self)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validator::Validator;

    fn keys() -> Vec<SecretKey> {
        let mut keys: Vec<_> = (1..=6u8).map(|n| SecretKey::from_seed([n; 32])).collect();
        keys.sort_by_key(SecretKey::public);
        keys
    }

    fn certificate(keys: &[SecretKey], genesis: &GenesisHash) -> CommitCertificate {
        let mut c =
            CommitCertificate { height: Height(5), round: Round(1), block: BlockId::new([9; 32]), signatures: vec![] };
        for key in keys {
            let vote = c.precommit_of(key.public()).sign(key, genesis);
            c.signatures.push((key.public(), vote.signature));
        }
        c
    }

    #[test]
    fn only_more_than_two_thirds_of_the_set_decides() {
        let keys = keys();
        let set =
            ValidatorSet::new(keys[..6].iter().map(|k| Validator { key: k.public(), power: 1 }).collect()).unwrap();
        let small =
            ValidatorSet::new(keys[..3].iter().map(|k| Validator { key: k.public(), power: 1 }).collect()).unwrap();
        let chain = GenesisHash::new([3; 32]);
        let good = certificate(&keys[..5], &chain);
        let (h, b) = (good.height, good.block);
        assert_eq!(good.verify(&chain, &set, h, b), Ok((5, 6)));
        assert!(matches!(
            certificate(&keys[..4], &chain).verify(&chain, &set, h, b),
            Err(CertificateError::Power { signed: 4, total: 6 })
        ));
        assert!(matches!(
            certificate(&keys[..2], &chain).verify(&chain, &small, h, b),
            Err(CertificateError::Power { signed: 2, .. })
        ));
        assert!(matches!(good.verify(&chain, &small, h, b), Err(CertificateError::Stranger(_))));
        assert!(matches!(good.verify(&GenesisHash::new([4; 32]), &set, h, b), Err(CertificateError::Signature(_))));
        assert!(matches!(good.verify(&chain, &set, Height(6), b), Err(CertificateError::Height { .. })));
        assert!(matches!(good.verify(&chain, &set, h, BlockId::new([8; 32])), Err(CertificateError::Block { .. })));
        let mut twice = good.clone();
        twice.signatures[1] = twice.signatures[0];
        assert!(matches!(twice.verify(&chain, &set, h, b), Err(CertificateError::Order(_))));
        let mut prevotes = good.clone();
        for (i, key) in keys[..5].iter().enumerate() {
            let mut vote = good.precommit_of(key.public());
            vote.kind = VoteKind::Prevote;
            prevotes.signatures[i].1 = vote.sign(key, &chain).signature;
        }
        assert!(matches!(prevotes.verify(&chain, &set, h, b), Err(CertificateError::Signature(_))));
    }
}
