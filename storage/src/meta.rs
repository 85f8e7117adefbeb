//! The database's schema version, its migrations, and the check of everything it holds.

use std::collections::BTreeMap;

use types::block::{DecidedBlock, transactions_root};
use types::genesis::Genesis;
use types::ids::{BlockId, GenesisHash, Height, TimeMs};
use types::validator::ValidatorSet;
use types::verdict::{ProofCertificate, SignedProofVote};

use crate::error::{Result, StorageError};
use crate::records::{Head, META_SCHEMA, SignedMessages, TxLocation};
use crate::store::{Store, StoreRead, decoded};
use crate::table::{Batch, Durability, Table};

/// Schema that this program writes.
pub const SCHEMA_VERSION: u32 = 1;

/// A step from one schema to the next; must give the same result when it is run again after an interruption.
type Migration = fn(&dyn Store) -> Result<()>;

/// Migration `i` leads from schema `i + 1` to `i + 2`. Schema 1 is the first.
const MIGRATIONS: &[Migration] = &[];

const _: () = assert!(MIGRATIONS.len() + 1 == SCHEMA_VERSION as usize);

/// Rows read at a time while checking.
const PAGE: usize = 1024;

/// The schema version of a database; `None` for an empty one.
///
/// # Errors
/// [`StorageError::Corrupt`], [`StorageError::Database`].
pub fn schema(store: &dyn StoreRead) -> Result<Option<u32>> {
    let bytes = store.record(Table::Meta, META_SCHEMA)?;
    let read = |bytes: Vec<u8>| bytes.try_into().map(u32::from_le_bytes);
    bytes.map(|bytes| read(bytes).map_err(|_| StorageError::corrupt("schema version", "not 4 bytes"))).transpose()
}

/// Writes the version into an empty database, migrates an older one, refuses a newer one.
pub(crate) fn check_schema(store: &dyn Store) -> Result<()> {
    let found = match schema(store)? {
        Some(version) => version,
        None if store.head()?.is_some() => {
            return Err(StorageError::corrupt("schema version", "missing beside a chain"));
        }
        None => return write_schema(store, SCHEMA_VERSION),
    };
    if found > SCHEMA_VERSION {
        return Err(StorageError::Newer { what: "database".into(), found, known: SCHEMA_VERSION });
    }
    if found == 0 {
        return Err(StorageError::corrupt("schema version", "0"));
    }
    for (version, migrate) in (1u32..).zip(MIGRATIONS).filter(|(version, _)| *version >= found) {
        tracing::info!(from = version, to = version.saturating_add(1), "migrating the database");
        migrate(store)?;
        write_schema(store, version.saturating_add(1))?;
    }
    Ok(())
}

fn write_schema(store: &dyn Store, version: u32) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(Table::Meta, META_SCHEMA, version.to_le_bytes());
    store.write(batch, Durability::Synced)
}

/// What a check of the database found in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyReport {
    /// Schema version.
    pub schema: u32,
    /// The chain.
    pub genesis: GenesisHash,
    /// Its name.
    pub chain_id: String,
    /// The head; that its root is the root of the stored state is for the ledger to check.
    pub head: Head,
    /// Lowest block held.
    pub lowest: Option<Height>,
    /// Transactions in blocks.
    pub transactions: u64,
    /// Records by table.
    pub records: BTreeMap<&'static str, u64>,
}

/// Reads every record and checks what the records say about each other: heights without gaps, parents, certificates under
/// the validator sets, transactions, indexes, set changes, the head. `progress` hears every height.
///
/// # Errors
/// [`StorageError::Corrupt`] naming the first record that does not fit; [`StorageError::NotInitialised`].
pub fn verify(store: &dyn StoreRead, progress: &mut dyn FnMut(Height)) -> Result<VerifyReport> {
    let schema = schema(store)?.ok_or(StorageError::NotInitialised)?;
    let genesis = store.genesis()?.ok_or(StorageError::NotInitialised)?;
    let head = store.head()?.ok_or_else(|| StorageError::corrupt("head", "missing beside a genesis document"))?;
    let mut walk = Walk::start(store, &genesis)?;
    for height in 1..=head.height.0 {
        walk.step(Height(height))?;
        progress(Height(height));
    }
    if (walk.parent, walk.time_ms) != (head.block_id, head.time_ms) {
        return Err(StorageError::corrupt("head", "it is not the highest block"));
    }
    let (transactions, changes) = (walk.transactions, walk.changes);
    let records = count_records(store)?;
    for (table, expected) in
        [(Table::Blocks, head.height.0), (Table::BlockIds, head.height.0), (Table::SetChanges, changes)]
    {
        let found = records.get(table.name()).copied().unwrap_or(0);
        if found != expected {
            let what = format!("table {}", table.name());
            return Err(StorageError::corrupt(what, format!("{found} records, the chain has {expected}")));
        }
    }
    let lowest = store.lowest_height()?;
    Ok(VerifyReport {
        schema,
        genesis: genesis.hash(),
        chain_id: genesis.chain_id,
        head,
        lowest,
        transactions,
        records,
    })
}

/// A walk along the chain that knows what the next block must say.
struct Walk<'a> {
    store: &'a dyn StoreRead,
    genesis: GenesisHash,
    parent: BlockId,
    time_ms: TimeMs,
    set: ValidatorSet,
    transactions: u64,
    changes: u64,
}

impl<'a> Walk<'a> {
    fn start(store: &'a dyn StoreRead, document: &Genesis) -> Result<Self> {
        let genesis = document.hash();
        let set = document.validator_set().map_err(|e| StorageError::corrupt("genesis document", e))?;
        let parent = BlockId::new(*genesis.as_bytes());
        Ok(Self { store, genesis, parent, time_ms: document.time_ms, set, transactions: 0, changes: 0 })
    }

    fn step(&mut self, height: Height) -> Result<()> {
        let bad = |detail: &str| StorageError::corrupt(format!("block {height}"), detail);
        let DecidedBlock { block, certificate } = self.store.block(height)?.ok_or_else(|| bad("missing"))?;
        let (header, id) = (&block.header, block.id());
        if header.height != height || header.genesis != self.genesis || header.parent != self.parent {
            return Err(bad("it does not follow its parent"));
        }
        if header.time_ms <= self.time_ms {
            return Err(bad("its time is not above its parent's"));
        }
        if header.transactions != transactions_root(block.transactions.iter()) {
            return Err(bad("its transactions are not those of its header"));
        }
        if header.validators != self.set.digest() {
            return Err(bad("its validators are not those of its height"));
        }
        certificate.verify(&self.genesis, &self.set, height, id).map_err(|e| bad(&e.to_string()))?;
        let last = block.last_commit.as_ref();
        if height.0 > 1 && last.is_none_or(|c| c.block != self.parent || c.digest() != header.last_commit) {
            return Err(bad("its certificate of the parent is not that of its header"));
        }
        if self.store.height_of(&id)? != Some(height) {
            return Err(bad("its id is not indexed"));
        }
        for (transaction, index) in block.transactions.iter().zip(0u32..) {
            let found = self.store.tx(&transaction.id())?;
            // What nobody signs may be recorded again without effect; the index then leads to the later place.
            let here = |l: &TxLocation| (l.height, l.index) == (height, index) || transaction.signed().is_none();
            if !found.as_ref().is_some_and(here) {
                return Err(bad(&format!("its transaction {index} is not indexed")));
            }
            self.transactions = self.transactions.saturating_add(1);
        }
        let change = self.store.set_changes(height, height)?.pop();
        match change {
            None if header.next_validators == header.validators => {}
            Some(c) if c.header == *header && c.new_set.digest() == header.next_validators => {
                c.certificate.verify(&self.genesis, &self.set, height, id).map_err(|e| bad(&e.to_string()))?;
                self.set = c.new_set;
                self.changes = self.changes.saturating_add(1);
            }
            _ => return Err(bad("its change of the validator set is missing or another one")),
        }
        self.parent = id;
        self.time_ms = header.time_ms;
        Ok(())
    }
}

/// Reads every record of every table, and decodes those that no block refers to.
fn count_records(store: &dyn StoreRead) -> Result<BTreeMap<&'static str, u64>> {
    let mut counts = BTreeMap::new();
    for table in Table::ALL {
        let mut count = 0u64;
        let mut start: Option<Vec<u8>> = None;
        loop {
            let page = store.records(table, &[], start.as_deref(), PAGE)?;
            for (_, value) in &page {
                if table == Table::JobRecords {
                    decoded::<ProofCertificate>(value)?;
                } else if table == Table::Verdicts {
                    decoded::<SignedProofVote>(value)?;
                } else if table == Table::Signed {
                    decoded::<SignedMessages>(value)?;
                }
            }
            count = count.saturating_add(page.len() as u64);
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { break };
            // The next page begins at the smallest key above the last one.
            start = Some([last.as_slice(), &[0]].concat());
        }
        counts.insert(table.name(), count);
    }
    store.pending_evidence(usize::MAX)?;
    Ok(counts)
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
