//! The signer's guard on disk: every slot that was ever signed, appended and synced before the signature leaves.
//!
//! The records' content is the signer's affair; this file keeps a height beside each so that old ones can be dropped.
//! Built on [`crate::log`]. A torn record was never synced, so its signature never left.

use types::ids::{GenesisHash, Height};

use crate::disk::LogDir;
use crate::error::{Result, StorageError};
use crate::log::{Log, LogHeader, Record, tidy};

const MAGIC: [u8; 8] = *b"PMGUARD1";
const FILE: &str = "guard.log";
const KIND: u8 = 1;

/// One signed slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardRecord {
    /// Height the slot belongs to.
    pub height: Height,
    /// The slot, the signed bytes and the signature, in the signer's own encoding.
    pub bytes: Vec<u8>,
}

/// What the file held when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardLoad {
    /// All records in the order in which they were appended.
    pub records: Vec<GuardRecord>,
    /// Bytes of an interrupted write that were cut off.
    pub torn_bytes: u64,
}

/// The open guard file.
pub struct GuardFile {
    dir: Box<dyn LogDir>,
    header: LogHeader,
    log: Log,
}

impl std::fmt::Debug for GuardFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardFile").field("log", &self.log).finish_non_exhaustive()
    }
}

impl GuardFile {
    /// Whether there is no guard file yet. To be asked before [`GuardFile::open`], which makes one: a file made beside a chain on
    /// which this node has signed would pass for its memory at the next start.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn is_missing(dir: &dyn LogDir) -> Result<bool> {
        Ok(!tidy(dir)?.iter().any(|name| name == FILE))
    }

    /// Opens or makes the guard file.
    ///
    /// # Errors
    /// [`StorageError::LogCorrupt`], [`StorageError::Corrupt`], [`StorageError::WrongChain`], [`StorageError::Newer`],
    /// [`StorageError::Io`].
    pub fn open(dir: Box<dyn LogDir>, genesis: GenesisHash) -> Result<(Self, GuardLoad)> {
        let header = LogHeader { magic: MAGIC, genesis, number: 0 };
        if Self::is_missing(dir.as_ref())? {
            let log = Log::create(dir.as_ref(), FILE, &header, &[])?;
            return Ok((Self { dir, header, log }, GuardLoad { records: vec![], torn_bytes: 0 }));
        }
        let (log, decoded) = Log::open(dir.as_ref(), FILE, &header)?;
        let records = decoded.records.iter().map(read_record).collect::<Result<_>>()?;
        Ok((Self { dir, header, log }, GuardLoad { records, torn_bytes: decoded.torn_bytes }))
    }

    /// Adds a record. Not durable before [`GuardFile::flush`].
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append(&mut self, height: Height, bytes: &[u8]) -> Result<()> {
        self.log.append(KIND, &payload(height, bytes))
    }

    /// Returns once every record is on stable storage. Only then may a signature leave.
    ///
    /// # Errors
    /// As [`Log::flush`].
    pub fn flush(&mut self) -> Result<()> {
        self.log.flush()
    }

    /// Length of the file, bytes; a measure of when to compact.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Replaces the file by one that holds exactly `records`, atomically and durably: at any instant either the old file or
    /// the new one is there.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::TooLarge`]; the guard then takes no more records.
    pub fn rewrite<'a>(&mut self, records: impl Iterator<Item = (Height, &'a [u8])>) -> Result<()> {
        let records: Vec<Record> =
            records.map(|(h, bytes)| Record { kind: KIND, payload: payload(h, bytes) }).collect();
        self.log.flush()?;
        // After a failure half-way it is unknown which of the two files the name leads to.
        self.log = Log::create(self.dir.as_ref(), FILE, &self.header, &records).inspect_err(|_| self.log.poison())?;
        Ok(())
    }

    /// Drops the records of heights below `height`, as [`GuardFile::rewrite`] does.
    ///
    /// # Errors
    /// As [`GuardFile::open`] and [`GuardFile::rewrite`].
    pub fn compact(&mut self, height: Height) -> Result<()> {
        self.log.flush()?;
        let (_, decoded) = Log::open(self.dir.as_ref(), FILE, &self.header)?;
        let records = decoded.records.iter().map(read_record).collect::<Result<Vec<_>>>()?;
        self.rewrite(records.iter().filter(|r| r.height >= height).map(|r| (r.height, r.bytes.as_slice())))
    }
}

fn payload(height: Height, bytes: &[u8]) -> Vec<u8> {
    let mut out = height.0.to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn read_record(record: &Record) -> Result<GuardRecord> {
    match record.payload.split_first_chunk::<8>() {
        Some((height, bytes)) if record.kind == KIND => {
            Ok(GuardRecord { height: Height(u64::from_le_bytes(*height)), bytes: bytes.to_vec() })
        }
        _ => Err(StorageError::corrupt("signer guard", "a record of an unknown kind")),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
