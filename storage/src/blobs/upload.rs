//! Blobs whose hash is known only at the end: uploads, and proofs of this node.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use types::blob::{ManifestBuilder, blob_hash};
use types::ids::{BlobHash, TimeMs};
use types::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES};

use super::index::{COST_MIN, Entry};
use super::{BlobStore, remove};
use crate::disk::sync_dir;
use crate::error::{Result, StorageError};

impl BlobStore {
    /// Stores bytes at hand. Durable on return. What a job refers to already takes none of the room of uploads.
    ///
    /// # Errors
    /// As [`BlobWriter::write`] and [`BlobWriter::finish`].
    pub fn put(&self, bytes: &[u8], now: TimeMs) -> Result<BlobHash> {
        let referenced = self.index().is_referenced(&blob_hash(bytes));
        let mut writer = self.writer_into(referenced)?;
        writer.write(bytes)?;
        writer.finish(now).map(|(hash, _)| hash)
    }

    /// Begins an upload. Dropping the writer takes it back.
    ///
    /// # Errors
    /// [`StorageError::BudgetExceeded`], [`StorageError::DiskReserve`], [`StorageError::Io`].
    pub fn writer(&self) -> Result<BlobWriter> {
        self.writer_into(false)
    }

    /// A writer whose bytes count as `referenced`, or not, while they come.
    fn writer_into(&self, referenced: bool) -> Result<BlobWriter> {
        let number = {
            let mut index = self.index();
            self.reserve(&mut index, COST_MIN, referenced)?;
            index.next_upload()
        };
        let path = self.inner.root.join("upload").join(number.to_string());
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file =
            file.map_err(StorageError::io("create", &path)).inspect_err(|_| self.index().free(COST_MIN, referenced))?;
        let (builder, buffer) = (ManifestBuilder::default(), Vec::new());
        Ok(BlobWriter { blobs: self.clone(), path, file, builder, buffer, bytes: 0, reserved: COST_MIN, referenced })
    }
}

/// An upload under way: holds one chunk in memory, and room in the budget for what came so far.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: BlobStore,
    path: PathBuf,
    file: File,
    builder: ManifestBuilder,
    buffer: Vec<u8>,
    bytes: u64,
    reserved: u64,
    /// Whether `reserved` is outside the share of blobs that no job refers to.
    referenced: bool,
}

impl BlobWriter {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] beyond 32 MiB in all, [`StorageError::BudgetExceeded`], [`StorageError::DiskReserve`],
    /// [`StorageError::Io`]. The upload is to be dropped then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let total = self.bytes.saturating_add(bytes.len() as u64);
        if total > BLOB_BYTES_MAX {
            return Err(StorageError::TooLarge { what: "blob (bytes)", value: total, limit: BLOB_BYTES_MAX });
        }
        let more = total.saturating_sub(self.reserved);
        if more > 0 {
            self.blobs.reserve(&mut self.blobs.index(), more, self.referenced)?;
            self.reserved = total;
        }
        self.bytes = total;
        while !bytes.is_empty() {
            let chunk = usize::try_from(BLOB_CHUNK_BYTES).unwrap_or(usize::MAX);
            let room = chunk.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == chunk {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Ends the upload: the blob is complete and durable on return. Returns its hash and its length in bytes.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn finish(mut self, now: TimeMs) -> Result<(BlobHash, u64)> {
        self.write_chunk()?;
        self.file.sync_all().map_err(StorageError::io("sync", &self.path))?;
        let (hash, manifest) = std::mem::take(&mut self.builder).finish();
        let blobs = self.blobs.clone();
        blobs.save_manifest(&hash, &manifest)?;
        let mut index = blobs.index();
        let to = blobs.path("whole", &hash);
        fs::rename(&self.path, &to).map_err(StorageError::io("rename", &self.path))?;
        let dir = blobs.inner.root.join("whole");
        sync_dir(&dir).map_err(StorageError::io("sync", &dir))?;
        // A transfer of the same blob has become needless.
        remove(&blobs.path("partial", &hash))?;
        index.free(std::mem::take(&mut self.reserved), self.referenced);
        let bytes = manifest.bytes;
        index.insert(hash, Entry { manifest: Arc::new(manifest), have: None, touched: now });
        Ok((hash, bytes))
    }

    fn write_chunk(&mut self) -> Result<()> {
        let too_large = |_| StorageError::TooLarge { what: "blob (bytes)", value: self.bytes, limit: BLOB_BYTES_MAX };
        self.builder.push(&self.buffer).map_err(too_large)?;
        self.file.write_all(&self.buffer).map_err(StorageError::io("write", &self.path))?;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.reserved > 0 {
            self.blobs.index().free(self.reserved, self.referenced);
            if let Err(error) = remove(&self.path) {
                tracing::warn!(%error, "an unfinished upload could not be removed");
            }
        }
    }
}
