//! Blocks: a header that commits to everything, and the transactions.

use bincode::{Decode, Encode};

use crate::codec::{Wire, encode_body};
use crate::ids::{BlockId, Digest, GenesisHash, Height, StateRoot, TimeMs};
use crate::keys::PublicKey;
use crate::limits::{BLOCK_BYTES_MAX, CONSENSUS_BYTES_MAX};
use crate::signing::hash_parts;
use crate::transaction::Transaction;
use crate::vote::CommitCertificate;

/// Version of the header and of the rules that read it.
pub const HEADER_VERSION: u16 = 1;

/// What validators agree on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// [`HEADER_VERSION`].
    pub version: u16,
    /// The chain.
    pub genesis: GenesisHash,
    /// Height, from 1.
    pub height: Height,
    /// Time, strictly above the parent's.
    pub time_ms: TimeMs,
    /// Who built the block.
    pub proposer: PublicKey,
    /// The parent block; at height 1 the genesis hash's bytes.
    pub parent: BlockId,
    /// Digest of the parent's commit certificate; zero at height 1.
    pub last_commit: Digest,
    /// [`transactions_root`] of the body.
    pub transactions: Digest,
    /// State root after the parent block; at height 1 after genesis.
    pub state_root: StateRoot,
    /// [`transactions_root`] of the evidence transactions alone, in their order.
    pub evidence: Digest,
    /// Digest of this height's validator set.
    pub validators: Digest,
    /// Digest of the next height's validator set, as this block's parent state has it.
    pub next_validators: Digest,
    /// Digest of the parameters in force.
    pub params: Digest,
    /// Seed for assignment, [`next_seed`] of the parent's.
    pub seed: Digest,
}

impl Header {
    /// The block's identity.
    pub fn id(&self) -> BlockId {
        BlockId::new(hash_parts("proofmesh header v1", &[&encode_body(self)]))
    }
}

impl Wire for Header {
    const NAME: &'static str = "header";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 1024;
}

/// A block. Its parent's commit certificate travels with it, so that a node which has block h has proof of h - 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Block {
    /// The header.
    pub header: Header,
    /// Certificate of the parent; `None` exactly at height 1.
    pub last_commit: Option<CommitCertificate>,
    /// Transactions in order.
    pub transactions: Vec<Transaction>,
}

impl Wire for Block {
    const NAME: &'static str = "block";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = BLOCK_BYTES_MAX;
}

impl Block {
    /// The block's identity: its header's hash.
    pub fn id(&self) -> BlockId {
        self.header.id()
    }
}

/// A block with the certificate that decided it, as stored and as synced.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DecidedBlock {
    /// The block.
    pub block: Block,
    /// Its commit certificate.
    pub certificate: CommitCertificate,
}

impl Wire for DecidedBlock {
    const NAME: &'static str = "decided block";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = BLOCK_BYTES_MAX + CONSENSUS_BYTES_MAX;
}

/// Hash over the full bytes of transactions in order.
pub fn transactions_root<'a>(transactions: impl Iterator<Item = &'a Transaction>) -> Digest {
    let hashes: Vec<[u8; 32]> =
        transactions.map(|t| hash_parts("proofmesh transaction v1", &[&encode_body(t)])).collect();
    let parts: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    Digest::new(hash_parts("proofmesh transactions v1", &parts))
}

/// The seed of the block after `parent`: what its proposer could not choose alone.
pub fn next_seed(parent_seed: &Digest, parent: &BlockId, last_commit: &Digest) -> Digest {
    Digest::new(hash_parts("proofmesh seed v1", &[parent_seed.as_bytes(), parent.as_bytes(), last_commit.as_bytes()]))
}

/// The seed of height 0.
pub fn genesis_seed(genesis: &GenesisHash) -> Digest {
    Digest::new(hash_parts("proofmesh genesis seed v1", &[genesis.as_bytes()]))
}
