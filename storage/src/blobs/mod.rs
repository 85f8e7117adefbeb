//! Blobs by content: programs, arguments, proofs, each addressed by its BLAKE3 hash.
//!
//! Files, not database values: a blob is up to 32 MiB, arrives in pieces, and leaves whole. `whole/HASH` is complete;
//! `partial/HASH` is a transfer under way, each chunk verified before it is written at its place; `upload/N` is an upload
//! whose hash is not known yet. The database holds what the bytes don't say: manifests, references of jobs, tombstones.
//!
//! After a crash: a file under `whole` was synced before it got that name, so it is complete. A partial file may hold chunks
//! that never reached the disk, so every chunk is verified again against the manifest at start; those that hold are not
//! fetched again. Uploads are discarded. A reference is synced before [`BlobStore::refer`] returns, so a blob that a job
//! needs is never taken for an unreferenced one. Records of a removal are written before the file goes: an interruption
//! leaves an unreferenced file, which expires.

mod index;
mod transfer;
mod upload;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bincode::{Decode, Encode};
use types::Wire;
use types::blob::{BlobManifest, ManifestBuilder, blob_hash};
use types::ids::{BlobHash, JobId, TimeMs};
use types::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES};

use crate::disk::make_private_dir;
use crate::error::{Result, StorageError};
use crate::space::disk_space;
use crate::store::{Store, decoded};
use crate::table::{Batch, Durability, Table};
use index::{Entry, Index};
pub use upload::BlobWriter;

/// Blobs that no job refers to are dropped this long after their upload or last chunk, milliseconds.
pub const UNREFERENCED_MS: u64 = 10 * 60 * 1000;
/// For this long after its retention a blob's answer is "pruned" rather than "unknown", milliseconds of block time.
const TOMBSTONE_MS: u64 = 90 * 24 * 3600 * 1000;
/// Rows read at a time at start.
const PAGE: usize = 4096;

const KEY_REFERENCE: u8 = b'r';
const KEY_TOMBSTONE: u8 = b't';
const KEY_MANIFEST: u8 = b'm';

/// What is known of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobStatus {
    /// Complete.
    Held {
        /// Length, bytes.
        bytes: u64,
    },
    /// A transfer is under way.
    Partial {
        /// Chunks in all.
        chunks: u32,
        /// Chunks still to come.
        missing: u32,
    },
    /// It was here, and was dropped after the retention of its jobs.
    Pruned,
    /// Not here.
    Unknown,
}

/// What blobs may take, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobLimits {
    /// All blobs together.
    pub budget: u64,
    /// Free space on their disk that they leave alone: when a disk fills up, blocks and votes must be the last to go.
    pub disk_reserve: u64,
}

/// Room taken by blobs, bytes; each counts at least 4,096.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobUsage {
    /// In use, transfers and uploads under way included.
    pub used: u64,
    /// Of that, what no job refers to.
    pub unreferenced: u64,
    /// The limits.
    pub limits: BlobLimits,
    /// Number of blobs, whole and partial.
    pub blobs: usize,
}

/// What a [`BlobStore::sweep`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Unreferenced blobs dropped.
    pub expired: usize,
    /// Blobs dropped after the retention of their jobs.
    pub pruned: usize,
    /// Bytes freed.
    pub freed: u64,
}

/// The blobs of a node. Clones share them. Calls block on the disk; several threads may use it at once.
#[derive(Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    limits: BlobLimits,
    store: Arc<dyn Store>,
    index: Mutex<Index>,
}

impl std::fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStore").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

#[derive(Encode, Decode)]
struct ManifestRecord(BlobManifest);

impl Wire for ManifestRecord {
    const NAME: &'static str = "blob manifest";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 32 + 32 * BLOB_BYTES_MAX.div_ceil(BLOB_CHUNK_BYTES) as usize;
}

#[derive(Encode, Decode)]
struct ReferenceRecord {
    until: Option<TimeMs>,
}

impl Wire for ReferenceRecord {
    const NAME: &'static str = "blob reference";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 32;
}

#[derive(Encode, Decode)]
struct TombstoneRecord {
    at: TimeMs,
}

impl Wire for TombstoneRecord {
    const NAME: &'static str = "blob tombstone";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 32;
}

impl BlobStore {
    /// Opens the blobs in a folder; `store` keeps their records, `now` is the wall clock, from which
    /// unreferenced blobs get their time to live anew.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::Corrupt`] for records; damaged blobs are dropped with a warning.
    pub fn open(root: impl Into<PathBuf>, store: Arc<dyn Store>, limits: BlobLimits, now: TimeMs) -> Result<Self> {
        let root = root.into();
        for dir in ["whole", "partial", "upload"] {
            let path = root.join(dir);
            make_private_dir(&path).map_err(StorageError::io("create", &path))?;
        }
        let index = Index::new(limits.budget);
        let blobs = Self { inner: Arc::new(Inner { root, limits, store, index: Mutex::new(index) }) };
        for (name, path) in blobs.files("upload")? {
            tracing::debug!(upload = name, "discarding an interrupted upload");
            remove(&path)?;
        }
        let manifests = blobs.load_records()?;
        blobs.load_whole(now)?;
        blobs.load_partial(now)?;
        blobs.drop_stale_manifests(&manifests)?;
        Ok(blobs)
    }

    /// What is known of a blob.
    pub fn status(&self, hash: &BlobHash) -> BlobStatus {
        let index = self.index();
        match index.get(hash) {
            Some(Entry { have: None, manifest, .. }) => BlobStatus::Held { bytes: manifest.bytes },
            Some(entry) => {
                let missing = u32::try_from(entry.missing().len()).unwrap_or(u32::MAX);
                BlobStatus::Partial { chunks: entry.manifest.n_chunks(), missing }
            }
            None if index.tombstone(hash).is_some() => BlobStatus::Pruned,
            None => BlobStatus::Unknown,
        }
    }

    /// The bytes of a complete blob, checked against its hash; `None` when it is not complete here.
    ///
    /// # Errors
    /// [`StorageError::DamagedBlob`] (the blob is dropped, so that it can be fetched again), [`StorageError::Io`].
    pub fn read(&self, hash: &BlobHash) -> Result<Option<Vec<u8>>> {
        if self.manifest(hash).is_none() {
            return Ok(None);
        }
        let path = self.path("whole", hash);
        let Some(bytes) = found(fs::read(&path)).map_err(StorageError::io("read", &path))? else { return Ok(None) };
        if blob_hash(&bytes) == *hash {
            return Ok(Some(bytes));
        }
        self.drop_damaged(hash)
    }

    /// The manifest of a complete blob.
    pub fn manifest(&self, hash: &BlobHash) -> Option<Arc<BlobManifest>> {
        let index = self.index();
        index.get(hash).filter(|entry| entry.have.is_none()).map(|entry| Arc::clone(&entry.manifest))
    }

    /// One chunk of a complete blob, verified; `None` when the blob is not complete here or has no such chunk.
    ///
    /// # Errors
    /// As [`BlobStore::read`].
    pub fn chunk(&self, hash: &BlobHash, number: u32) -> Result<Option<Vec<u8>>> {
        let Some(manifest) = self.manifest(hash) else { return Ok(None) };
        let Some(length) = manifest.chunk_bytes(number) else { return Ok(None) };
        let path = self.path("whole", hash);
        let Some(file) = found(File::open(&path)).map_err(StorageError::io("open", &path))? else { return Ok(None) };
        let mut part = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = file.read_exact_at(&mut part, u64::from(number).saturating_mul(BLOB_CHUNK_BYTES));
        match read {
            Ok(()) if manifest.verify_chunk(hash, number, &part) => Ok(Some(part)),
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(StorageError::io("read", &path)(e)),
            _ => self.drop_damaged(hash),
        }
    }

    /// Makes a job refer to blobs, here or yet to come: they are kept until [`BlobStore::release`]. Durable on return.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn refer(&self, job: JobId, hashes: &[BlobHash]) -> Result<()> {
        self.set_refs(job, hashes, None)
    }

    /// Lets a job's blobs go at a block time. Does nothing for a job without references.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn release(&self, job: JobId, until: TimeMs) -> Result<()> {
        let hashes = self.index().refs_of(&job);
        self.set_refs(job, &hashes, Some(until))
    }

    /// Jobs that refer to blobs, and until which block time (`None`: until released). A node compares this with the ledger
    /// when it starts.
    pub fn referring_jobs(&self) -> Vec<(JobId, Option<TimeMs>)> {
        self.index().jobs()
    }

    /// Drops what nobody needs: blobs after the retention of all their jobs (by block time), and unreferenced ones
    /// [`UNREFERENCED_MS`] after they came (by the wall clock). Never drops what a job refers to.
    ///
    /// # Errors
    /// As [`Store::write`]; [`StorageError::Io`].
    pub fn sweep(&self, now: TimeMs, block_time: TimeMs) -> Result<SweepReport> {
        let mut index = self.index();
        let ended = index.ended_refs(block_time);
        let mut batch = Batch::new();
        for (hash, job) in &ended {
            index.remove_ref(hash, job);
            batch.delete(Table::BlobMeta, reference_key(hash, job));
        }
        let mut released: Vec<BlobHash> = ended.iter().map(|(hash, _)| *hash).collect();
        released.dedup();
        released.retain(|hash| !index.is_referenced(hash) && index.get(hash).is_some());
        let expired = |(hash, entry): (&BlobHash, &Entry)| {
            (now.since(entry.touched) >= UNREFERENCED_MS && !index.is_referenced(hash)).then_some(*hash)
        };
        let expired: Vec<BlobHash> = index.entries().filter_map(expired).filter(|h| !released.contains(h)).collect();
        let whole = |hash: &&BlobHash| index.get(hash).is_some_and(|entry| entry.have.is_none());
        let pruned: Vec<BlobHash> = released.iter().filter(whole).copied().collect();
        for hash in &pruned {
            index.bury(*hash, block_time);
            batch.put(Table::BlobMeta, key(KEY_TOMBSTONE, hash), TombstoneRecord { at: block_time }.to_bytes());
        }
        for hash in released.iter().chain(&expired) {
            batch.delete(Table::BlobMeta, key(KEY_MANIFEST, hash));
        }
        for hash in index.forget_tombstones(TimeMs(block_time.0.saturating_sub(TOMBSTONE_MS))) {
            batch.delete(Table::BlobMeta, key(KEY_TOMBSTONE, &hash));
        }
        if !batch.is_empty() {
            self.inner.store.write(batch, Durability::Relaxed)?;
        }
        let mut report = SweepReport { expired: expired.len(), pruned: pruned.len(), freed: 0 };
        for hash in released.iter().chain(&expired) {
            report.freed = report.freed.saturating_add(self.drop_files(&mut index, hash)?);
        }
        Ok(report)
    }

    /// Room taken.
    pub fn usage(&self) -> BlobUsage {
        let index = self.index();
        let (used, unreferenced) = (index.used(), index.staged());
        BlobUsage { used, unreferenced, limits: self.inner.limits, blobs: index.entries().count() }
    }

    /// Free space on the disk of the blobs, bytes.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn disk_free(&self) -> Result<u64> {
        Ok(disk_space(&self.inner.root)?.free)
    }

    /// Takes room for `cost` bytes, or says what has none.
    fn reserve(&self, index: &mut Index, cost: u64, referenced: bool) -> Result<()> {
        let (free, reserve) = (self.disk_free()?, self.inner.limits.disk_reserve);
        if free < reserve.saturating_add(cost) {
            return Err(StorageError::DiskReserve { needed: cost, free, reserve });
        }
        index.reserve(cost, referenced)
    }

    /// Reads every complete blob and returns the hashes of those that are damaged; nothing is dropped.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn verify(&self) -> Result<Vec<BlobHash>> {
        let whole = |(hash, entry): (&BlobHash, &Entry)| entry.have.is_none().then_some(*hash);
        let hashes: Vec<BlobHash> = self.index().entries().filter_map(whole).collect();
        let mut damaged = vec![];
        for hash in hashes {
            let path = self.path("whole", &hash);
            if found(fs::read(&path)).map_err(StorageError::io("read", &path))?.is_none_or(|b| blob_hash(&b) != hash) {
                damaged.push(hash);
            }
        }
        Ok(damaged)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, area: &str, hash: &BlobHash) -> PathBuf {
        self.inner.root.join(area).join(hash.to_string())
    }

    fn set_refs(&self, job: JobId, hashes: &[BlobHash], until: Option<TimeMs>) -> Result<()> {
        let mut batch = Batch::new();
        for hash in hashes {
            batch.put(Table::BlobMeta, reference_key(hash, &job), ReferenceRecord { until }.to_bytes());
        }
        if batch.is_empty() {
            return Ok(());
        }
        // Under the lock, so that no sweep comes between the record and the list.
        let mut index = self.index();
        self.inner.store.write(batch, Durability::Synced)?;
        for hash in hashes {
            index.add_ref(*hash, job, until);
        }
        Ok(())
    }

    fn save_manifest(&self, hash: &BlobHash, manifest: &BlobManifest) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(Table::BlobMeta, key(KEY_MANIFEST, hash), ManifestRecord(manifest.clone()).to_bytes());
        batch.delete(Table::BlobMeta, key(KEY_TOMBSTONE, hash));
        // Not synced: without the record a complete file is hashed again, and a partial one fetched again.
        self.inner.store.write(batch, Durability::Relaxed)
    }

    fn drop_damaged<T>(&self, hash: &BlobHash) -> Result<T> {
        tracing::warn!(blob = %hash, "a blob is damaged on disk and is dropped");
        self.drop_files(&mut self.index(), hash)?;
        Err(StorageError::DamagedBlob(*hash))
    }

    /// Takes a blob off the list and removes its files; returns the bytes it had.
    fn drop_files(&self, index: &mut Index, hash: &BlobHash) -> Result<u64> {
        let bytes = index.remove(hash).map_or(0, |entry| entry.manifest.bytes);
        remove(&self.path("whole", hash))?;
        remove(&self.path("partial", hash))?;
        Ok(bytes)
    }

    /// Files of an area by name.
    fn files(&self, area: &str) -> Result<Vec<(String, PathBuf)>> {
        let path = self.inner.root.join(area);
        let mut files = vec![];
        for entry in fs::read_dir(&path).map_err(StorageError::io("list", &path))? {
            let entry = entry.map_err(StorageError::io("list", &path))?;
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        Ok(files)
    }

    /// Lists references and tombstones; returns the blobs that have a manifest.
    fn load_records(&self) -> Result<Vec<BlobHash>> {
        let mut manifests = vec![];
        let mut index = self.index();
        let mut start: Option<Vec<u8>> = None;
        loop {
            let page = self.inner.store.records(Table::BlobMeta, &[], start.as_deref(), PAGE)?;
            for (key, value) in &page {
                let bad = || StorageError::corrupt("a blob record", "its key");
                let (kind, rest) = key.split_first().ok_or_else(bad)?;
                let (hash, rest) = rest.split_first_chunk::<32>().ok_or_else(bad)?;
                let hash = BlobHash::new(*hash);
                match *kind {
                    KEY_REFERENCE => {
                        let job = JobId::new(rest.try_into().map_err(|_| bad())?);
                        index.add_ref(hash, job, decoded::<ReferenceRecord>(value)?.until);
                    }
                    KEY_TOMBSTONE => index.bury(hash, decoded::<TombstoneRecord>(value)?.at),
                    KEY_MANIFEST => manifests.push(hash),
                    _ => return Err(bad()),
                }
            }
            let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) else { return Ok(manifests) };
            start = Some([last.as_slice(), &[0]].concat());
        }
    }

    /// Removes the manifests of blobs that did not turn up.
    fn drop_stale_manifests(&self, manifests: &[BlobHash]) -> Result<()> {
        let index = self.index();
        let mut batch = Batch::new();
        for hash in manifests.iter().filter(|hash| index.get(hash).is_none()) {
            batch.delete(Table::BlobMeta, key(KEY_MANIFEST, hash));
        }
        if batch.is_empty() { Ok(()) } else { self.inner.store.write(batch, Durability::Relaxed) }
    }

    fn stored_manifest(&self, hash: &BlobHash) -> Result<Option<BlobManifest>> {
        let bytes = self.inner.store.record(Table::BlobMeta, &key(KEY_MANIFEST, hash))?;
        let manifest = bytes.map(|bytes| decoded::<ManifestRecord>(&bytes)).transpose()?.map(|record| record.0);
        Ok(manifest.filter(|manifest| manifest.verify(hash).is_ok()))
    }

    fn load_whole(&self, now: TimeMs) -> Result<()> {
        for (name, path) in self.files("whole")? {
            let Ok(hash) = name.parse::<BlobHash>() else {
                tracing::warn!(file = name, "not a blob's name; left alone");
                continue;
            };
            let length = fs::metadata(&path).map_err(StorageError::io("read the length of", &path))?.len();
            let manifest = match self.stored_manifest(&hash)? {
                Some(manifest) => Some(manifest).filter(|m| m.bytes == length),
                None => manifest_of_file(&path)?.filter(|(found, _)| *found == hash).map(|(_, manifest)| manifest),
            };
            let Some(manifest) = manifest else {
                tracing::warn!(blob = %hash, "a blob is damaged on disk and is dropped");
                remove(&path)?;
                continue;
            };
            self.index().insert(hash, Entry { manifest: Arc::new(manifest), have: None, touched: now });
        }
        Ok(())
    }
}

fn key(kind: u8, hash: &BlobHash) -> Vec<u8> {
    [&[kind], hash.as_bytes().as_slice()].concat()
}

fn reference_key(hash: &BlobHash, job: &JobId) -> Vec<u8> {
    [key(KEY_REFERENCE, hash).as_slice(), job.as_bytes()].concat()
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<()> {
    found(fs::remove_file(path)).map_err(StorageError::io("remove", path)).map(drop)
}

/// `None` for a file that is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Hash and manifest of a file, read chunk by chunk; `None` for one longer than any blob.
fn manifest_of_file(path: &Path) -> Result<Option<(BlobHash, BlobManifest)>> {
    let mut file = File::open(path).map_err(StorageError::io("open", path))?;
    let mut builder = ManifestBuilder::default();
    loop {
        let mut part = vec![];
        let read = (&mut file).take(BLOB_CHUNK_BYTES).read_to_end(&mut part);
        let length = read.map_err(StorageError::io("read", path))?;
        if builder.push(&part).is_err() {
            return Ok(None);
        }
        if (length as u64) < BLOB_CHUNK_BYTES {
            return Ok(Some(builder.finish()));
        }
    }
}

#[cfg(test)]
mod tests;
