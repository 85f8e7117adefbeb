//! The chain's database as its users see it: typed reads over one consistent view, and one synced batch per block.
//!
//! Backends provide ordered tables, batches and snapshots ([`StoreRead::record`], [`StoreRead::records`], [`Store::write`],
//! [`Store::snapshot`]); everything else is built on these here, so that memory and disk can't differ. There is one writer of
//! blocks at a time: a commit reads the head before it writes.

use std::fmt;
use std::sync::Arc;

use types::Wire;
use types::block::{Block, DecidedBlock};
use types::evidence::Evidence;
use types::genesis::Genesis;
use types::ids::{BlockId, Digest, Height, JobId, StateRoot, TxId};
use types::kv::{KvError, KvPair, KvRead, KvWrites, Space};
use types::limits::SET_CHANGES_MAX;
use types::receipt::SetChange;
use types::transaction::Transaction;
use types::verdict::{ProofCertificate, SignedProofVote};

use crate::error::{Result, StorageError};
use crate::records::{
    BlockCommit, EvidenceRecord, Head, META_GENESIS, META_HEAD, SetChangeRecord, SignedMessages, TxLocation, task_key,
    verdict_key,
};
use crate::table::{Batch, Durability, Table};

/// Verdicts returned for one job: every validator on a few attempts.
const VERDICTS_MAX: usize = 4096;
/// Tasks of one job whose certificates are returned.
const TASKS_MAX: usize = 1024;
/// Key of a peer record, bytes.
const PEER_KEY_MAX: u64 = 64;
/// Value of a peer record, bytes.
const PEER_VALUE_MAX: u64 = 4096;

/// Reads of the database. On a [`Snapshot`] all of them see the same moment.
///
/// Every method fails with [`StorageError::Corrupt`] when a record can't be decoded, and with [`StorageError::Database`] when
/// the database fails; "not there" is `None`, never an error.
pub trait StoreRead: Send + Sync {
    /// The value at a key.
    ///
    /// # Errors
    /// See the trait.
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Up to `limit` records whose keys begin with `prefix`, in rising key order, from `start` (inclusive) on.
    ///
    /// # Errors
    /// See the trait.
    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>>;

    /// The genesis document this database was started with.
    ///
    /// # Errors
    /// See the trait.
    fn genesis(&self) -> Result<Option<Genesis>> {
        typed(self.record(Table::Meta, META_GENESIS)?)
    }

    /// The newest block whose effects are stored; `None` before the genesis state is.
    ///
    /// # Errors
    /// See the trait.
    fn head(&self) -> Result<Option<Head>> {
        typed(self.record(Table::Meta, META_HEAD)?)
    }

    /// The canonical bytes of the decided block at a height.
    ///
    /// # Errors
    /// See the trait.
    fn block_bytes(&self, height: Height) -> Result<Option<Vec<u8>>> {
        self.record(Table::Blocks, &height.0.to_be_bytes())
    }

    /// The decided block at a height.
    ///
    /// # Errors
    /// See the trait.
    fn block(&self, height: Height) -> Result<Option<DecidedBlock>> {
        typed(self.block_bytes(height)?)
    }

    /// Decided blocks from `from` on without gaps: at most `count`, and no more than fit `bytes_max` together, except that the
    /// first always fits.
    ///
    /// # Errors
    /// See the trait.
    fn blocks(&self, from: Height, count: usize, bytes_max: usize) -> Result<Vec<DecidedBlock>> {
        let (mut found, mut height, mut bytes) = (vec![], from, 0usize);
        while found.len() < count {
            let Some(block) = self.block_bytes(height)? else { break };
            bytes = bytes.saturating_add(block.len());
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(decoded(&block)?);
            height = height.next();
        }
        Ok(found)
    }

    /// The lowest height whose block is held; `None` without any block.
    ///
    /// # Errors
    /// See the trait.
    fn lowest_height(&self) -> Result<Option<Height>> {
        let first = self.records(Table::Blocks, &[], None, 1)?;
        first.first().map(|(key, _)| read_height(key)).transpose()
    }

    /// Height of a block by id.
    ///
    /// # Errors
    /// See the trait.
    fn height_of(&self, block: &BlockId) -> Result<Option<Height>> {
        let key = self.record(Table::BlockIds, block.as_bytes())?;
        key.map(|key| read_height(&key)).transpose()
    }

    /// Where a transaction is in the chain.
    ///
    /// # Errors
    /// See the trait.
    fn tx(&self, id: &TxId) -> Result<Option<TxLocation>> {
        typed(self.record(Table::Txs, id.as_bytes())?)
    }

    /// A transaction of the chain with its place.
    ///
    /// # Errors
    /// See the trait.
    fn transaction(&self, id: &TxId) -> Result<Option<(TxLocation, Transaction)>> {
        let Some(location) = self.tx(id)? else { return Ok(None) };
        let missing = || StorageError::corrupt(format!("transaction {id}"), "its block does not hold it");
        let block: Block = self.block(location.height)?.ok_or_else(missing)?.block;
        let transaction = block.transactions.into_iter().nth(location.index as usize).ok_or_else(missing)?;
        Ok(Some((location, transaction)))
    }

    /// Changes of the validator set announced by headers of heights `from` to `to` (inclusive), rising; at most
    /// [`SET_CHANGES_MAX`].
    ///
    /// # Errors
    /// See the trait.
    fn set_changes(&self, from: Height, to: Height) -> Result<Vec<SetChange>> {
        let rows = self.records(Table::SetChanges, &[], Some(&from.0.to_be_bytes()), SET_CHANGES_MAX)?;
        let mut changes = vec![];
        for (key, value) in rows {
            if read_height(&key)? > to {
                break;
            }
            changes.push(decoded::<SetChangeRecord>(&value)?.0);
        }
        Ok(changes)
    }

    /// The certificate of a job's task.
    ///
    /// # Errors
    /// See the trait.
    fn certificate(&self, job: &JobId, task: u32) -> Result<Option<ProofCertificate>> {
        typed(self.record(Table::JobRecords, &task_key(job, task))?)
    }

    /// The certificates of all of a job's tasks, by rising task.
    ///
    /// # Errors
    /// See the trait.
    fn certificates(&self, job: &JobId) -> Result<Vec<ProofCertificate>> {
        let rows = self.records(Table::JobRecords, job.as_bytes(), None, TASKS_MAX)?;
        rows.iter().map(|(_, value)| decoded(value)).collect()
    }

    /// Known verdicts on a job's claims; at most 4,096.
    ///
    /// # Errors
    /// See the trait.
    fn verdicts(&self, job: &JobId) -> Result<Vec<SignedProofVote>> {
        let rows = self.records(Table::Verdicts, job.as_bytes(), None, VERDICTS_MAX)?;
        rows.iter().map(|(_, value)| decoded(value)).collect()
    }

    /// Evidence that waits for a block; at most `limit`.
    ///
    /// # Errors
    /// See the trait.
    fn pending_evidence(&self, limit: usize) -> Result<Vec<Evidence>> {
        let rows = self.records(Table::Evidence, &[], None, limit)?;
        rows.iter().map(|(_, value)| Ok(decoded::<EvidenceRecord>(value)?.0)).collect()
    }

    /// Votes and proposals seen for a height, while they are kept.
    ///
    /// # Errors
    /// See the trait.
    fn signed(&self, height: Height) -> Result<Option<SignedMessages>> {
        typed(self.record(Table::Signed, &height.0.to_be_bytes())?)
    }

    /// Remembered peers, by key; at most `limit`.
    ///
    /// # Errors
    /// See the trait.
    fn peers(&self, limit: usize) -> Result<Vec<KvPair>> {
        self.records(Table::Peers, &[], None, limit)
    }
}

/// A database that can be written.
pub trait Store: StoreRead {
    /// Applies a batch as a whole.
    ///
    /// # Errors
    /// [`StorageError::Database`], [`StorageError::Corrupt`]; after an error of a synced batch the node must stop.
    fn write(&self, batch: Batch, durability: Durability) -> Result<()>;

    /// A view of this moment that later writes don't change.
    fn snapshot(&self) -> Snapshot;

    /// Stores the genesis document and its state as height 0, synced. Does nothing when the same chain is there already.
    ///
    /// # Errors
    /// [`StorageError::WrongChain`] when another chain is there.
    fn init(&self, genesis: &Genesis, writes: &KvWrites, state_root: StateRoot) -> Result<()> {
        let expected = genesis.hash();
        if let Some(found) = self.genesis()? {
            let found = found.hash();
            if found == expected {
                return Ok(());
            }
            return Err(StorageError::WrongChain { what: "database".into(), found, expected });
        }
        let block_id = BlockId::new(*expected.as_bytes());
        let head = Head { height: Height(0), block_id, state_root, time_ms: genesis.time_ms };
        let mut batch = Batch::new();
        batch.put(Table::Meta, META_GENESIS, genesis.to_bytes());
        batch.put(Table::Meta, META_HEAD, head.to_bytes());
        put_writes(&mut batch, writes);
        self.write(batch, Durability::Synced)
    }

    /// Stores a decided block with everything it changes, in one synced batch: after any interruption either all of it is
    /// there or nothing. Returns the new head.
    ///
    /// # Errors
    /// [`StorageError::NotInitialised`], [`StorageError::NotNext`], [`StorageError::BlockMismatch`] before anything is written;
    /// and as [`Store::write`].
    fn commit_block(&self, commit: &BlockCommit) -> Result<Head> {
        let old = self.head()?.ok_or(StorageError::NotInitialised)?;
        let header = &commit.decided.block.header;
        let block_id = header.id();
        check_commit(commit, &old, block_id)?;
        let key = header.height.0.to_be_bytes();
        let mut batch = Batch::new();
        batch.put(Table::Blocks, key, commit.decided.to_bytes());
        batch.put(Table::BlockIds, *block_id.as_bytes(), key);
        for (transaction, index) in commit.decided.block.transactions.iter().zip(0u32..) {
            let location = TxLocation { height: header.height, index };
            batch.put(Table::Txs, *transaction.id().as_bytes(), location.to_bytes());
        }
        if let Some(change) = &commit.set_change {
            batch.put(Table::SetChanges, key, SetChangeRecord(change.clone()).to_bytes());
        }
        for certificate in &commit.certificates {
            let subject = &certificate.subject;
            batch.put(Table::JobRecords, task_key(&subject.job, subject.task), certificate.to_bytes());
        }
        put_writes(&mut batch, &commit.writes);
        let head = Head { height: header.height, block_id, state_root: commit.state_root, time_ms: header.time_ms };
        batch.put(Table::Meta, META_HEAD, head.to_bytes());
        self.write(batch, Durability::Synced)?;
        Ok(head)
    }

    /// Keeps a verdict; not synced, it can be fetched again from peers.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put_verdict(&self, verdict: &SignedProofVote) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::Verdicts, verdict_key(&verdict.vote.subject, &verdict.vote.validator), verdict.to_bytes());
        self.write(batch, Durability::Relaxed)
    }

    /// Keeps the certificate of a task that the chain has not recorded yet; not synced, the votes it is made of are kept.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put_certificate(&self, certificate: &ProofCertificate) -> Result<()> {
        let mut batch = Batch::new();
        let subject = &certificate.subject;
        batch.put(Table::JobRecords, task_key(&subject.job, subject.task), certificate.to_bytes());
        self.write(batch, Durability::Relaxed)
    }

    /// Drops all verdicts on a job's claims.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn drop_verdicts(&self, job: &JobId) -> Result<()> {
        loop {
            let rows = self.records(Table::Verdicts, job.as_bytes(), None, VERDICTS_MAX)?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            rows.into_iter().for_each(|(key, _)| batch.delete(Table::Verdicts, key));
            self.write(batch, Durability::Relaxed)?;
        }
    }

    /// Keeps evidence until it is in a block, one per offence; synced, because the messages it is made of are not kept.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put_evidence(&self, evidence: &Evidence) -> Result<()> {
        let mut batch = Batch::new();
        let key = *evidence.offence().as_bytes();
        batch.put(Table::Evidence, key, EvidenceRecord(evidence.clone()).to_bytes());
        self.write(batch, Durability::Synced)
    }

    /// Drops evidence that is in a block or too old.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn drop_evidence(&self, offence: &Digest) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(Table::Evidence, *offence.as_bytes());
        self.write(batch, Durability::Relaxed)
    }

    /// Keeps what validators signed at a height, in the place of what was kept for it; not synced: a power cut may cost the last
    /// heights, whose blocks' certificates remain.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn put_signed(&self, height: Height, messages: &SignedMessages) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::Signed, height.0.to_be_bytes(), messages.to_bytes());
        self.write(batch, Durability::Relaxed)
    }

    /// Drops what is kept of heights below `height`, at most `limit` heights at a time.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn prune_signed(&self, height: Height, limit: usize) -> Result<()> {
        let mut batch = Batch::new();
        for (key, _) in self.records(Table::Signed, &[], None, limit)? {
            if read_height(&key)? >= height {
                break;
            }
            batch.delete(Table::Signed, key);
        }
        if batch.is_empty() { Ok(()) } else { self.write(batch, Durability::Relaxed) }
    }

    /// Remembers a peer under a key of at most 64 bytes with a value of at most 4,096; not synced.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], and as [`Store::write`].
    fn put_peer(&self, key: &[u8], value: &[u8]) -> Result<()> {
        for (what, value, limit) in [
            ("peer key (bytes)", key.len() as u64, PEER_KEY_MAX),
            ("peer record (bytes)", value.len() as u64, PEER_VALUE_MAX),
        ] {
            if value > limit {
                return Err(StorageError::TooLarge { what, value, limit });
            }
        }
        let mut batch = Batch::new();
        batch.put(Table::Peers, key, value);
        self.write(batch, Durability::Relaxed)
    }

    /// Forgets a peer.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn drop_peer(&self, key: &[u8]) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(Table::Peers, key);
        self.write(batch, Durability::Relaxed)
    }
}

/// One moment of a database, cheap to clone and to hand to another thread. Holding it for long keeps old data on disk.
#[derive(Clone)]
pub struct Snapshot(Arc<dyn StoreRead>);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Snapshot {
    pub(crate) fn new(view: Arc<dyn StoreRead>) -> Self {
        Self(view)
    }
}

impl StoreRead for Snapshot {
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.record(table, key)
    }

    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>> {
        self.0.records(table, prefix, start, limit)
    }
}

impl KvRead for Snapshot {
    fn get(&self, space: Space, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, KvError> {
        self.record(space.into(), key).map_err(|e| KvError(e.to_string()))
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        start: Option<&[u8]>,
        limit: usize,
    ) -> std::result::Result<Vec<KvPair>, KvError> {
        self.records(space.into(), prefix, start, limit).map_err(|e| KvError(e.to_string()))
    }
}

/// Refuses a block that does not continue the chain: a mistake of the caller must not become a damaged database.
fn check_commit(commit: &BlockCommit, old: &Head, block_id: BlockId) -> Result<()> {
    let DecidedBlock { block, certificate } = &commit.decided;
    let height = block.header.height;
    if height != old.height.next() {
        return Err(StorageError::NotNext { found: height, head: old.height });
    }
    let wrong = |detail| Err(StorageError::BlockMismatch { height, detail });
    if block.header.parent != old.block_id {
        return wrong("its parent is not the stored head");
    }
    if block.header.state_root != old.state_root {
        return wrong("it was built on another state than the stored one");
    }
    if certificate.height != height || certificate.block != block_id {
        return wrong("its certificate is for another block");
    }
    if commit
        .set_change
        .as_ref()
        .is_some_and(|c| c.header != block.header || c.new_set.digest() != c.header.next_validators)
    {
        return wrong("the change of the validator set is not the one its header announces");
    }
    if commit.set_change.is_none() && block.header.validators != block.header.next_validators {
        return wrong("its header announces a change of the validator set that is missing");
    }
    Ok(())
}

fn put_writes(batch: &mut Batch, writes: &KvWrites) {
    for ((space, key), value) in writes {
        batch.writes.push(((*space).into(), key.clone(), value.clone()));
    }
}

pub(crate) fn decoded<T: Wire>(bytes: &[u8]) -> Result<T> {
    T::from_bytes(bytes).map_err(|e| StorageError::corrupt(format!("record '{}'", T::NAME), e))
}

fn typed<T: Wire>(bytes: Option<Vec<u8>>) -> Result<Option<T>> {
    bytes.map(|bytes| decoded(&bytes)).transpose()
}

pub(crate) fn read_height(key: &[u8]) -> Result<Height> {
    let bytes = key.try_into().map_err(|_| StorageError::corrupt("a height in the database", "not 8 bytes"))?;
    Ok(Height(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
