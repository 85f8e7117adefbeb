//! Request and response between two peers: status, decided blocks, blobs in verified chunks, receipts' parts.

use bincode::{Decode, Encode};

use crate::blob::BlobManifest;
use crate::block::{Block, DecidedBlock};
use crate::codec::Wire;
use crate::genesis::Genesis;
use crate::ids::{BlobHash, BlockId, Height, JobId};
use crate::limits::{BLOB_CHUNK_BYTES, SYNC_BYTES_MAX};
use crate::verdict::SignedProofVote;
use crate::vote::{SignedProposal, SignedVote};

/// A question to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// How far are you?
    Status,
    /// Decided blocks from `from` on, at most `count` (at most 64), as many as fit the response.
    Blocks {
        /// First height.
        from: Height,
        /// Number of heights.
        count: u16,
    },
    /// An undecided proposal's block by id: its bytes did not come by gossip.
    ProposedBlock {
        /// Height it is proposed for.
        height: Height,
        /// The block.
        block: BlockId,
    },
    /// Own and known votes and proposals of an undecided height, for a peer that missed some.
    Votes {
        /// The height.
        height: Height,
    },
    /// Have you got this blob, and what are its chunks?
    BlobManifest {
        /// The blob.
        hash: BlobHash,
    },
    /// One chunk of a blob.
    BlobChunk {
        /// The blob.
        hash: BlobHash,
        /// Index of the chunk.
        index: u32,
    },
    /// Verdicts on a job's claims, for a peer that missed some.
    Verdicts {
        /// The job.
        job: JobId,
    },
    /// The genesis document, for one who knows its hash and is about to join.
    Genesis,
}

impl Wire for Request {
    const NAME: &'static str = "request";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 256;
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Response {
    /// Last decided height, and the lowest height whose block is still held.
    Status {
        /// Last decided height.
        height: Height,
        /// Lowest height still held.
        lowest: Height,
    },
    /// Decided blocks in rising order without gaps; empty when the first asked for is not held.
    Blocks(Vec<DecidedBlock>),
    /// The proposed block.
    ProposedBlock(Option<Box<Block>>),
    /// Votes and proposals.
    Votes {
        /// Votes known.
        votes: Vec<SignedVote>,
        /// Proposals known.
        proposals: Vec<SignedProposal>,
    },
    /// The blob's chunks, or that it is not held here.
    BlobManifest(Option<BlobManifest>),
    /// The chunk's bytes, or that it is not held here.
    BlobChunk(Option<Vec<u8>>),
    /// Verdicts.
    Verdicts(Vec<SignedProofVote>),
    /// The genesis document; none when it does not fit an answer and has to come by another way.
    Genesis(Option<Box<Genesis>>),
    /// Too many requests; try again after so many milliseconds.
    Busy {
        /// Milliseconds.
        retry_ms: u32,
    },
}

impl Wire for Response {
    const NAME: &'static str = "response";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = SYNC_BYTES_MAX;
}

const _: () = assert!(BLOB_CHUNK_BYTES as usize + 64 < SYNC_BYTES_MAX);
