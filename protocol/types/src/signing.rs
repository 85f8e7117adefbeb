//! What a signature covers: (domain tag, version, genesis hash, content), length-prefixed so that nothing can slide from one
//! field into the next. No key ever signs bytes of another domain by accident.

use crate::ids::GenesisHash;

/// Version of the signing scheme.
pub const SIGNING_VERSION: u16 = 1;

/// Purpose of a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// A user's, prover's or validator's transaction.
    Transaction,
    /// A consensus prevote or precommit.
    ConsensusVote,
    /// A consensus proposal.
    ConsensusProposal,
    /// A verdict on a committed proof or failure report.
    ProofVote,
    /// "I hold this job's input."
    Availability,
    /// "This validator key is reached at this peer id."
    PeerProof,
    /// A node's presence record, signed by the node's own key.
    Presence,
    /// Proof that the owner of a consensus key asked for its registration.
    KeyPossession,
}

impl Domain {
    /// The tag as signed; fixed for ever.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Transaction => "proofmesh/transaction",
            Self::ConsensusVote => "proofmesh/consensus-vote",
            Self::ConsensusProposal => "proofmesh/consensus-proposal",
            Self::ProofVote => "proofmesh/proof-vote",
            Self::Availability => "proofmesh/availability",
            Self::PeerProof => "proofmesh/peer-proof",
            Self::Presence => "proofmesh/presence",
            Self::KeyPossession => "proofmesh/key-possession",
        }
    }
}

/// The bytes given to ed25519.
pub fn signed_bytes(domain: Domain, genesis: &GenesisHash, content: &[u8]) -> Vec<u8> {
    let tag = domain.tag().as_bytes();
    let mut out = Vec::with_capacity(tag.len() + content.len() + 48);
    out.extend_from_slice(&(tag.len() as u64).to_le_bytes());
    out.extend_from_slice(tag);
    out.extend_from_slice(&SIGNING_VERSION.to_le_bytes());
    out.extend_from_slice(genesis.as_bytes());
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// BLAKE3 in key-derivation mode under a context of our own, over length-prefixed parts.
pub fn hash_parts(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
