//! The database on disk: RocksDB with one column family per table.
//!
//! Settings favour little memory and certain recovery over throughput: a block every half second is a small load. A synced
//! batch is on stable storage when the call returns; RocksDB's log is replayed up to the last whole batch after a crash.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction,
    ErrorKind, IteratorMode, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use types::kv::KvPair;

use crate::error::{Result, StorageError};
use crate::meta;
use crate::store::{Snapshot, Store, StoreRead};
use crate::table::{Batch, Durability, Table};

/// All memory tables together, bytes.
const MEMTABLES_BYTES: usize = 24 << 20;
/// One memory table, bytes.
const MEMTABLE_BYTES: usize = 4 << 20;
/// Cache of blocks, indexes and filters, shared by all tables, bytes.
const CACHE_BYTES: usize = 32 << 20;
/// RocksDB's own log is flushed beyond this, bytes.
const LOG_BYTES: u64 = 64 << 20;
/// Open files, of which there are few: tables are compacted to tens of megabytes each.
const OPEN_FILES: i32 = 512;
/// Decided blocks from this length on lie outside the sorted files and are never rewritten by compaction, bytes.
const BLOCK_FILE_FROM: u64 = 4 << 10;

/// The database. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct RocksStore {
    db: Arc<DB>,
    /// The tables' common cache.
    cache: Cache,
}

/// What a database takes by RocksDB's own account, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreUsage {
    /// Sorted files.
    pub files: u64,
    /// Files of large values.
    pub blob_files: u64,
    /// Memory tables.
    pub memory_tables: u64,
    /// Cache of blocks, indexes and filters, in memory.
    pub cache: u64,
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.db.path()).finish()
    }
}

impl RocksStore {
    /// Opens the database in a folder, makes it if there is none, and brings an older schema up to date.
    ///
    /// # Errors
    /// [`StorageError::Newer`] for a schema of a newer program (nothing is changed), [`StorageError::Corrupt`],
    /// [`StorageError::Database`].
    pub fn open(path: &Path) -> Result<Self> {
        let options = db_options();
        // A database must be opened with all its column families, also with those of a newer schema, to read its version.
        let there = if exists(path)? { DB::list_cf(&options, path).map_err(wrap_open)? } else { vec![] };
        let ours = |name: &str| Table::ALL.iter().find(|t| t.name() == name).copied();
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let mut families: Vec<_> =
            Table::ALL.iter().map(|t| ColumnFamilyDescriptor::new(t.name(), table_options(Some(*t), &cache))).collect();
        let foreign = there.iter().filter(|name| ours(name).is_none());
        families.extend(foreign.map(|name| ColumnFamilyDescriptor::new(name, table_options(None, &cache))));
        let db = DB::open_cf_descriptors(&options, path, families);
        let db = db.map_err(if there.is_empty() { wrap } else { wrap_open })?;
        let store = Self { db: Arc::new(db), cache };
        meta::check_schema(&store)?;
        Ok(store)
    }

    /// What the database takes now.
    pub fn usage(&self) -> StoreUsage {
        let sum = |name: &str| {
            let of = |t: &Table| self.db.property_int_value_cf(family(&self.db, *t).ok()?, name).ok().flatten();
            Table::ALL.iter().filter_map(of).fold(0, u64::saturating_add)
        };
        StoreUsage {
            files: sum("rocksdb.total-sst-files-size"),
            blob_files: sum("rocksdb.total-blob-file-size"),
            memory_tables: sum("rocksdb.cur-size-all-mem-tables"),
            // Not asked of the database: its own answer is that of a table of RocksDB's that is not ours.
            cache: self.cache.get_usage() as u64,
        }
    }
}

impl StoreRead for RocksStore {
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(family(&self.db, table)?, key).map_err(wrap)
    }

    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>> {
        scan(&self.db, table, ReadOptions::default(), prefix, start, limit)
    }
}

impl Store for RocksStore {
    fn write(&self, batch: Batch, durability: Durability) -> Result<()> {
        let mut writes = WriteBatch::default();
        for (table, key, value) in batch.writes {
            let family = family(&self.db, table)?;
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(writes, &options).map_err(wrap)
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::new(View::new(Arc::clone(&self.db))))
    }
}

/// A snapshot that keeps its database open.
struct View {
    // Declared before `db`, so dropped before it.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    db: Arc<DB>,
}

impl View {
    #[allow(unsafe_code, reason = "rocksdb's snapshot borrows the database; this struct owns both")]
    fn new(db: Arc<DB>) -> Self {
        // SAFETY: the reference points into the allocation of the `Arc`, whose address does not change when the `Arc` moves.
        // This struct keeps that `Arc` and never hands the snapshot out; fields drop in order of declaration, so the snapshot
        // is released while the database is alive. Nothing takes `&mut DB`: it is only ever behind an `Arc`.
        let lasting: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        Self { snapshot: lasting.snapshot(), db }
    }
}

impl StoreRead for View {
    fn record(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.snapshot.get_cf(family(&self.db, table)?, key).map_err(wrap)
    }

    fn records(&self, table: Table, prefix: &[u8], start: Option<&[u8]>, limit: usize) -> Result<Vec<KvPair>> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        scan(&self.db, table, options, prefix, start, limit)
    }
}

fn family(db: &DB, table: Table) -> Result<&ColumnFamily> {
    db.cf_handle(table.name()).ok_or_else(|| StorageError::corrupt("database", format!("no table {}", table.name())))
}

fn scan(
    db: &DB,
    table: Table,
    mut options: ReadOptions,
    prefix: &[u8],
    start: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<KvPair>> {
    if let Some(end) = past(prefix) {
        options.set_iterate_upper_bound(end);
    }
    let from = start.filter(|s| *s > prefix).unwrap_or(prefix);
    if !from.starts_with(prefix) {
        return Ok(vec![]);
    }
    let rows = db.iterator_cf_opt(family(db, table)?, options, IteratorMode::From(from, Direction::Forward));
    rows.take(limit).map(|row| row.map(|(key, value)| (key.into(), value.into())).map_err(wrap)).collect()
}

/// The first key above all keys that begin with `prefix`; `None` when there is none.
fn past(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// Whether there is a database in a folder. One whose entry point is gone is damaged: RocksDB would make an empty one in its
/// place, and the chain would begin anew.
fn exists(path: &Path) -> Result<bool> {
    if path.join("CURRENT").exists() {
        return Ok(true);
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StorageError::io("read the folder", path)(error)),
    };
    for entry in entries {
        let name = entry.map_err(StorageError::io("read the folder", path))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("MANIFEST-") || [".sst", ".blob", ".log"].iter().any(|ending| name.ends_with(ending)) {
            return Err(StorageError::corrupt("database", format!("the file CURRENT is missing beside {name}")));
        }
    }
    Ok(false)
}

/// An error while an existing database is opened: a file that it names and that is not there is damage.
fn wrap_open(error: rocksdb::Error) -> StorageError {
    let missing = error.kind() == ErrorKind::IOError && error.as_ref().contains("No such file");
    if missing { StorageError::corrupt("database", error) } else { wrap(error) }
}

fn wrap(error: rocksdb::Error) -> StorageError {
    match error.kind() {
        ErrorKind::Corruption => StorageError::corrupt("database", error),
        _ => StorageError::Database(error.into_string()),
    }
}

fn db_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(LOG_BYTES);
    options.set_db_write_buffer_size(MEMTABLES_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

fn table_options(table: Option<Table>, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_paranoid_checks(true);
    if table == Some(Table::Blocks) {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOCK_FILE_FROM);
        options.set_blob_compression_type(DBCompressionType::Lz4);
    }
    options
}

#[cfg(test)]
#[path = "rocks_tests.rs"]
mod tests;
