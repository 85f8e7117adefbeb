//! Tables of the database and batches of writes over them.

use types::kv::Space;

/// An ordered table of byte keys and values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// Schema version, genesis document, head.
    Meta,
    /// The ledger's records.
    State,
    /// The Merkle tree over them.
    Tree,
    /// Height (big-endian u64) -> decided block.
    Blocks,
    /// Block id -> height.
    BlockIds,
    /// Transaction id -> height and index.
    Txs,
    /// Height (big-endian u64) -> change of the validator set.
    SetChanges,
    /// Job id, task (big-endian u32) -> certificate, for receipts.
    JobRecords,
    /// Job, task, attempt, height, validator -> verdict. Not chain data.
    Verdicts,
    /// Offence -> evidence not yet in a block. Not chain data.
    Evidence,
    /// Height (big-endian u64) -> votes and proposals seen for it. Not chain data.
    Signed,
    /// References to blobs, tombstones, manifests.
    BlobMeta,
    /// Peers worth dialling. Not chain data.
    Peers,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 13] = [
        Self::Meta,
        Self::State,
        Self::Tree,
        Self::Blocks,
        Self::BlockIds,
        Self::Txs,
        Self::SetChanges,
        Self::JobRecords,
        Self::Verdicts,
        Self::Evidence,
        Self::Signed,
        Self::BlobMeta,
        Self::Peers,
    ];

    /// Name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::State => "state",
            Self::Tree => "tree",
            Self::Blocks => "blocks",
            Self::BlockIds => "block_ids",
            Self::Txs => "txs",
            Self::SetChanges => "set_changes",
            Self::JobRecords => "job_records",
            Self::Verdicts => "verdicts",
            Self::Evidence => "evidence",
            Self::Signed => "signed",
            Self::BlobMeta => "blob_meta",
            Self::Peers => "peers",
        }
    }
}

impl From<Space> for Table {
    fn from(space: Space) -> Self {
        match space {
            Space::State => Self::State,
            Space::Tree => Self::Tree,
        }
    }
}

/// When a batch must be on stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Before the call returns, with everything written before it.
    Synced,
    /// Some time later: survives the end of the process, not a power cut.
    Relaxed,
}

/// Writes that take effect together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) writes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// No writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), Some(value.into())));
    }

    /// Removes a record, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), None));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}
