//! Records of the database that no other crate defines, and their keys. Each begins with a version.

use bincode::{Decode, Encode};
use types::Wire;
use types::block::DecidedBlock;
use types::evidence::Evidence;
use types::ids::{BlockId, Height, JobId, StateRoot, TimeMs};
use types::keys::PublicKey;
use types::kv::KvWrites;
use types::limits::CONSENSUS_BYTES_MAX;
use types::receipt::SetChange;
use types::verdict::{ProofCertificate, VoteSubject};
use types::vote::{SignedProposal, SignedVote};

/// The newest block whose effects are in the state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Head {
    /// Its height; 0 is the genesis state.
    pub height: Height,
    /// Its id; at height 0 the genesis hash's bytes.
    pub block_id: BlockId,
    /// Root of the state after it.
    pub state_root: StateRoot,
    /// Its time.
    pub time_ms: TimeMs,
}

impl Wire for Head {
    const NAME: &'static str = "head";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 256;
}

/// Where a transaction is in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TxLocation {
    /// Height of the block.
    pub height: Height,
    /// Index within the block.
    pub index: u32,
}

impl Wire for TxLocation {
    const NAME: &'static str = "transaction location";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64;
}

/// Everything that one block changes. Ids are computed from the block, so that no index can disagree with it.
#[derive(Clone, Debug)]
pub struct BlockCommit {
    /// The block and the certificate that decided it.
    pub decided: DecidedBlock,
    /// Writes to state and tree.
    pub writes: KvWrites,
    /// Root of the state after the block.
    pub state_root: StateRoot,
    /// The change of the validator set that this block's header announces, if it does.
    pub set_change: Option<SetChange>,
    /// Certificates of tasks that the block records, kept for receipts.
    pub certificates: Vec<ProofCertificate>,
}

#[derive(Debug, Encode, Decode)]
pub(crate) struct SetChangeRecord(pub(crate) SetChange);

impl Wire for SetChangeRecord {
    const NAME: &'static str = "set change";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 2 * CONSENSUS_BYTES_MAX;
}

#[derive(Debug, Encode, Decode)]
pub(crate) struct EvidenceRecord(pub(crate) Evidence);

impl Wire for EvidenceRecord {
    const NAME: &'static str = "evidence";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 16 << 10;
}

/// What validators signed at one height, each message verified.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct SignedMessages {
    /// Votes.
    pub votes: Vec<SignedVote>,
    /// Proposals.
    pub proposals: Vec<SignedProposal>,
}

impl Wire for SignedMessages {
    const NAME: &'static str = "signed messages";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 2 << 20;
}

pub(crate) const META_HEAD: &[u8] = b"head";
pub(crate) const META_GENESIS: &[u8] = b"genesis";
pub(crate) const META_SCHEMA: &[u8] = b"schema";

/// Key of a job's task; a job's id alone is the prefix of all its tasks.
pub(crate) fn task_key(job: &JobId, task: u32) -> Vec<u8> {
    [job.as_bytes().as_slice(), &task.to_be_bytes()].concat()
}

/// Key of a verdict: its slot and its validator.
pub(crate) fn verdict_key(subject: &VoteSubject, validator: &PublicKey) -> Vec<u8> {
    let (job, task, attempt, height) = subject.slot();
    let numbers = [task.to_be_bytes(), attempt.to_be_bytes()].concat();
    [job.as_bytes().as_slice(), &numbers, &height.0.to_be_bytes(), validator.as_bytes()].concat()
}
