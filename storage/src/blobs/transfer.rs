//! Blobs that come in verified chunks, in any order, from anyone, across restarts.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use types::blob::BlobManifest;
use types::ids::{BlobHash, TimeMs};
use types::limits::BLOB_CHUNK_BYTES;

use super::index::{COST_MIN, Entry, Index};
use super::{BlobStore, found, remove};
use crate::disk::sync_dir;
use crate::error::{Result, StorageError};

impl BlobStore {
    /// Begins or resumes the transfer of a blob; returns the chunks still missing, none when it is complete. Room for the whole
    /// blob is taken at once.
    ///
    /// A blob's hash covers its length only with the last chunk, so a manifest with a false length may pass for a while: another
    /// manifest replaces it until the last chunk is here, and verified chunks stay. Who knows the length from elsewhere (a job's
    /// specification, a claim) compares it first.
    ///
    /// # Errors
    /// [`StorageError::BadManifest`], [`StorageError::BudgetExceeded`], [`StorageError::DiskReserve`], [`StorageError::Io`].
    pub fn begin_transfer(&self, hash: BlobHash, manifest: &BlobManifest, now: TimeMs) -> Result<Vec<u32>> {
        manifest.verify(&hash).map_err(|e| StorageError::BadManifest { hash, detail: e.to_string() })?;
        let mut index = self.index();
        let mut have = vec![false; manifest.n_chunks() as usize];
        if let Some(entry) = index.get(&hash) {
            if *entry.manifest == *manifest {
                return Ok(entry.missing());
            }
            if entry.have.as_ref().is_none_or(|have| have.last() == Some(&true)) {
                let detail = format!("{} bytes, the blob has {}", manifest.bytes, entry.manifest.bytes);
                return Err(StorageError::BadManifest { hash, detail });
            }
            if let Some(there) = entry.have.as_ref().filter(|_| entry.manifest.chunks == manifest.chunks) {
                have.clone_from(there);
            }
        }
        let old = index.remove(&hash);
        if let Err(error) = self.list_transfer(&mut index, hash, manifest, have, now) {
            if let Some(old) = old {
                index.insert(hash, old);
            }
            return Err(error);
        }
        Ok(index.get(&hash).map(Entry::missing).unwrap_or_default())
    }

    /// Takes room for a transfer, makes its file, and lists it.
    fn list_transfer(
        &self,
        index: &mut Index,
        hash: BlobHash,
        manifest: &BlobManifest,
        have: Vec<bool>,
        now: TimeMs,
    ) -> Result<()> {
        let cost = manifest.bytes.max(COST_MIN);
        let referenced = index.is_referenced(&hash);
        self.reserve(index, cost, referenced)?;
        // The entry takes the room itself.
        index.free(cost, referenced);
        self.save_manifest(&hash, manifest)?;
        let path = self.path("partial", &hash);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.and_then(|file| file.set_len(manifest.bytes)).map_err(StorageError::io("create", &path))?;
        index.insert(hash, Entry { manifest: Arc::new(manifest.clone()), have: Some(have), touched: now });
        Ok(())
    }

    /// Verifies and stores a chunk; returns how many are missing after it. With the last one the blob is complete and durable.
    /// A chunk that is here already changes nothing.
    ///
    /// # Errors
    /// [`StorageError::BadChunk`] when it is no part of the blob (nothing is stored), [`StorageError::NoTransfer`],
    /// [`StorageError::Io`].
    pub fn put_chunk(&self, hash: &BlobHash, number: u32, part: &[u8], now: TimeMs) -> Result<u32> {
        let manifest = {
            let index = self.index();
            let entry = index.get(hash).ok_or(StorageError::NoTransfer(*hash))?;
            Arc::clone(&entry.manifest)
        };
        if !manifest.verify_chunk(hash, number, part) {
            return Err(StorageError::BadChunk { hash: *hash, index: number });
        }
        let path = self.path("partial", hash);
        let opened = found(OpenOptions::new().write(true).open(&path)).map_err(StorageError::io("open", &path))?;
        if let Some(file) = opened {
            let offset = u64::from(number).saturating_mul(BLOB_CHUNK_BYTES);
            file.write_all_at(part, offset).map_err(StorageError::io("write", &path))?;
        }
        let missing = {
            let mut index = self.index();
            // The transfer may have expired and begun anew while the chunk went to the old file.
            let same =
                index.get_mut(hash).filter(|entry| Arc::ptr_eq(&entry.manifest, &manifest) || entry.have.is_none());
            let entry = same.ok_or(StorageError::NoTransfer(*hash))?;
            let Some(place) = entry.have.as_mut().and_then(|have| have.get_mut(number as usize)) else { return Ok(0) };
            let new = !std::mem::replace(place, true);
            entry.touched = now;
            let missing = u32::try_from(entry.missing().len()).unwrap_or(u32::MAX);
            if missing > 0 || !new {
                return Ok(missing);
            }
            missing
        };
        self.complete(hash).inspect_err(|_| {
            // What of it reached the disk is unknown: fetch it again rather than trust it.
            let dropped = self.drop_files(&mut self.index(), hash);
            if let Err(error) = dropped {
                tracing::warn!(blob = %hash, %error, "an incomplete blob could not be removed");
            }
        })?;
        Ok(missing)
    }

    /// Gives a partial file with all chunks its final name, durably.
    fn complete(&self, hash: &BlobHash) -> Result<()> {
        let (from, to) = (self.path("partial", hash), self.path("whole", hash));
        File::open(&from).and_then(|file| file.sync_all()).map_err(StorageError::io("sync", &from))?;
        let mut index = self.index();
        fs::rename(&from, &to).map_err(StorageError::io("rename", &from))?;
        let dir = self.inner.root.join("whole");
        sync_dir(&dir).map_err(StorageError::io("sync", &dir))?;
        if let Some(entry) = index.get_mut(hash) {
            entry.have = None;
        }
        Ok(())
    }

    /// Takes up the transfers of before the start: chunks that verify are not fetched again.
    pub(super) fn load_partial(&self, now: TimeMs) -> Result<()> {
        for (name, path) in self.files("partial")? {
            let hash = name.parse::<BlobHash>().ok();
            let hash = hash.filter(|hash| self.index().get(hash).is_none());
            let manifest = match &hash {
                Some(hash) => self.stored_manifest(hash)?,
                None => None,
            };
            let (Some(hash), Some(manifest)) = (hash, manifest) else {
                remove(&path)?;
                continue;
            };
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(StorageError::io("open", &path))?;
            file.set_len(manifest.bytes).map_err(StorageError::io("set the length of", &path))?;
            let have: Vec<bool> =
                (0..manifest.n_chunks()).map(|number| chunk_holds(&file, &hash, &manifest, number)).collect();
            let complete = have.iter().all(|have| *have);
            self.index().insert(hash, Entry { manifest: Arc::new(manifest), have: Some(have), touched: now });
            if complete {
                self.complete(&hash)?;
            }
        }
        Ok(())
    }
}

fn chunk_holds(file: &File, hash: &BlobHash, manifest: &BlobManifest, number: u32) -> bool {
    let length = manifest.chunk_bytes(number).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut part = vec![0; length];
    let read = file.read_exact_at(&mut part, u64::from(number).saturating_mul(BLOB_CHUNK_BYTES));
    read.is_ok() && manifest.verify_chunk(hash, number, &part)
}
