//! Format and writer of append-only logs: the consensus log and the signer's guard are two of them.
//!
//! A file is a header and records. Header: magic (8 bytes), version (u16), genesis hash (32), number (u64: a height, or 0),
//! CRC-32 (u32) over all of it. Record: payload length (u32), sequence number (u32, from 0), number of bytes of the file
//! that were synced when the record was appended (u64), kind (u8), payload, CRC-32 (u32) over all of it, begun with the
//! header's CRC so that a record of another file never fits. Integers are little-endian.
//!
//! Why the synced length: after a power cut the last unsynced bytes may be missing or garbage in any order, which is
//! harmless, since nothing was made visible on their strength. A record that was synced and is unreadable is a different
//! matter. A later readable record whose synced length reaches beyond the unreadable place proves that case; without such a
//! witness the place lies in the last, unacknowledged writes and is cut off.

use types::ids::GenesisHash;

use crate::disk::{LOG_BYTES_MAX, LogDir, LogFile};
use crate::error::{Result, StorageError};

/// Version of the format.
pub const LOG_VERSION: u16 = 1;
/// Largest payload of a record, bytes: a block with its proposal is well below.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Length of a file's header, bytes.
pub const HEADER_BYTES: usize = 54;
/// Bytes of a record around its payload.
pub const OVERHEAD_BYTES: usize = 21;
/// Unflushed bytes held in memory before they are written (not synced).
const BUFFER_BYTES: usize = 1 << 20;

/// What a log file is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// Which kind of log.
    pub magic: [u8; 8],
    /// The chain.
    pub genesis: GenesisHash,
    /// Height of a consensus log, 0 for others.
    pub number: u64,
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Meaning of the payload, chosen by the writer.
    pub kind: u8,
    /// The content.
    pub payload: Vec<u8>,
}

/// A log file as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The intact records in order.
    pub records: Vec<Record>,
    /// Length of header and intact records, bytes.
    pub intact_bytes: u64,
    /// Length of the torn tail after them, bytes; 0 for a clean file.
    pub torn_bytes: u64,
}

/// The header's bytes.
pub fn encode_header(header: &LogHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&header.magic);
    out.extend_from_slice(&LOG_VERSION.to_le_bytes());
    out.extend_from_slice(header.genesis.as_bytes());
    out.extend_from_slice(&header.number.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// Appends a record's bytes to `out`. `seed` is the header's CRC, `synced` the number of bytes of the file known durable.
pub fn encode_record(out: &mut Vec<u8>, seed: u32, sequence: u32, synced: u64, kind: u8, payload: &[u8]) {
    let start = out.len();
    // Callers bound the payload far below 2^32; a longer one would be refused by every reader.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    let crc = record_crc(seed, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Reads a whole log file.
///
/// # Errors
/// [`StorageError::Newer`], [`StorageError::WrongChain`], [`StorageError::Corrupt`] for the header;
/// [`StorageError::LogCorrupt`] for damage before a synced record.
pub fn decode(file: &str, bytes: &[u8], expected: &LogHeader) -> Result<Decoded> {
    let seed = decode_header(file, bytes, expected)?;
    let mut records = vec![];
    let mut at = HEADER_BYTES;
    let mut synced = 0;
    while at < bytes.len() {
        let next = parse_record(bytes, at, seed)
            .filter(|r| r.sequence as usize == records.len() && r.synced >= synced && r.synced <= at as u64);
        let Some(record) = next else {
            if has_witness(bytes, at, seed) {
                return Err(StorageError::LogCorrupt {
                    file: file.into(),
                    offset: at as u64,
                    detail: "unreadable record",
                });
            }
            break;
        };
        synced = record.synced;
        records.push(Record { kind: record.kind, payload: record.payload.to_vec() });
        at = record.end;
    }
    let torn = bytes.len().saturating_sub(at);
    Ok(Decoded { records, intact_bytes: at as u64, torn_bytes: torn as u64 })
}

fn record_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Checks the header and returns its CRC.
fn decode_header(file: &str, bytes: &[u8], expected: &LogHeader) -> Result<u32> {
    let what = || format!("log {file}");
    let damaged = |detail: &str| StorageError::corrupt(what(), detail);
    let header = bytes.get(..HEADER_BYTES).ok_or_else(|| damaged("shorter than its header"))?;
    let (content, crc) = header.split_last_chunk::<4>().ok_or_else(|| damaged("shorter than its header"))?;
    let crc = u32::from_le_bytes(*crc);
    if crc32fast::hash(content) != crc {
        return Err(damaged("checksum of the header"));
    }
    let (magic, rest) = content.split_first_chunk::<8>().ok_or_else(|| damaged("header"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(|| damaged("header"))?;
    let (genesis, number) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("header"))?;
    if *magic != expected.magic {
        return Err(damaged("another kind of file"));
    }
    let version = u16::from_le_bytes(*version);
    if version > LOG_VERSION {
        return Err(StorageError::Newer { what: what(), found: version.into(), known: LOG_VERSION.into() });
    }
    let genesis = GenesisHash::new(*genesis);
    if genesis != expected.genesis {
        return Err(StorageError::WrongChain { what: what(), found: genesis, expected: expected.genesis });
    }
    if version != LOG_VERSION || number != expected.number.to_le_bytes() {
        return Err(damaged("header of another file"));
    }
    Ok(crc)
}

struct Parsed<'a> {
    sequence: u32,
    synced: u64,
    kind: u8,
    payload: &'a [u8],
    end: usize,
}

/// The record at `at`, if its checksum holds.
fn parse_record(bytes: &[u8], at: usize, seed: u32) -> Option<Parsed<'_>> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<4>()?;
    let (synced, rest) = rest.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX)?;
    let payload = rest.get(..length)?;
    let crc = rest.get(length..)?.first_chunk::<4>()?;
    let end = at.checked_add(OVERHEAD_BYTES)?.checked_add(length)?;
    let covered = bytes.get(at..end.checked_sub(4)?)?;
    (record_crc(seed, covered) == u32::from_le_bytes(*crc)).then(|| Parsed {
        sequence: u32::from_le_bytes(*sequence),
        synced: u64::from_le_bytes(*synced),
        kind: *kind,
        payload,
        end,
    })
}

/// Whether a readable record at or after `at` says that the byte at `at` had been synced.
fn has_witness(bytes: &[u8], at: usize, seed: u32) -> bool {
    let last = bytes.len().saturating_sub(OVERHEAD_BYTES);
    (at..=last).any(|place| {
        // Cheap look first: checksums are computed only where the synced length makes sense.
        let synced =
            bytes.get(place.saturating_add(8)..).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        synced.is_some_and(|s| s > at as u64 && s <= LOG_BYTES_MAX) && parse_record(bytes, place, seed).is_some()
    })
}

/// An open log at its end. After a failed write or sync it refuses all further use: what is on disk is then unknown.
pub struct Log {
    name: String,
    file: Box<dyn LogFile>,
    seed: u32,
    sequence: u32,
    /// Bytes of the file, buffer included.
    bytes: u64,
    synced: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("name", &self.name)
            .field("bytes", &self.bytes)
            .field("synced", &self.synced)
            .finish()
    }
}

impl Log {
    /// Makes a log that holds `records`, durable with its name on return. Written aside and renamed, so that a log of this
    /// name is either whole or the one of before.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::TooLarge`].
    pub fn create(dir: &dyn LogDir, name: &str, header: &LogHeader, records: &[Record]) -> Result<Self> {
        let aside = format!("{name}{ASIDE_SUFFIX}");
        let start = encode_header(header);
        let seed = crc32fast::hash(start.get(..start.len().saturating_sub(4)).unwrap_or_default());
        let file = dir.create(&aside).map_err(StorageError::io("create", &aside))?;
        let bytes = start.len() as u64;
        let name = name.to_owned();
        let mut log = Self { name, file, seed, sequence: 0, bytes, synced: 0, buffer: start, poisoned: false };
        for record in records {
            log.append(record.kind, &record.payload)?;
        }
        log.flush()?;
        dir.rename(&aside, &log.name).map_err(StorageError::io("rename", &aside))?;
        dir.sync().map_err(StorageError::io("sync the folder of", &log.name))?;
        Ok(log)
    }

    /// Opens a log, cuts a torn tail off, and returns what it holds. What it returns is durable, also if it had only reached
    /// the system's cache before.
    ///
    /// # Errors
    /// As [`decode`], and [`StorageError::Io`].
    pub fn open(dir: &dyn LogDir, name: &str, header: &LogHeader) -> Result<(Self, Decoded)> {
        let mut file = dir.open(name).map_err(StorageError::io("open", name))?;
        let bytes = file.read_all().map_err(StorageError::io("read", name))?;
        let decoded = decode(name, &bytes, header)?;
        if decoded.torn_bytes > 0 {
            tracing::warn!(file = name, torn_bytes = decoded.torn_bytes, "cut off an interrupted write");
            file.truncate(decoded.intact_bytes).map_err(StorageError::io("truncate", name))?;
        }
        file.sync().map_err(StorageError::io("sync", name))?;
        dir.sync().map_err(StorageError::io("sync the folder of", name))?;
        let start = encode_header(header);
        let seed = crc32fast::hash(start.get(..start.len().saturating_sub(4)).unwrap_or_default());
        let sequence = u32::try_from(decoded.records.len()).unwrap_or(u32::MAX);
        let (bytes, synced) = (decoded.intact_bytes, decoded.intact_bytes);
        let log = Self { name: name.into(), file, seed, sequence, bytes, synced, buffer: vec![], poisoned: false };
        Ok((log, decoded))
    }

    /// Adds a record. Durable only after the next [`Log::flush`].
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] (nothing is added), [`StorageError::Io`], [`StorageError::Poisoned`].
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.usable()?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let (value, limit) = (payload.len() as u64, PAYLOAD_BYTES_MAX as u64);
            return Err(StorageError::TooLarge { what: "log record (bytes)", value, limit });
        }
        let added = (payload.len() as u64).saturating_add(OVERHEAD_BYTES as u64);
        let bytes = self.bytes.saturating_add(added);
        if bytes > LOG_BYTES_MAX || self.sequence == u32::MAX {
            return Err(StorageError::TooLarge { what: "log file (bytes)", value: bytes, limit: LOG_BYTES_MAX });
        }
        encode_record(&mut self.buffer, self.seed, self.sequence, self.synced, kind, payload);
        self.sequence = self.sequence.saturating_add(1);
        self.bytes = bytes;
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Returns once all records are on stable storage; does nothing when they are.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::Poisoned`].
    pub fn flush(&mut self) -> Result<()> {
        self.usable()?;
        if self.synced == self.bytes {
            return Ok(());
        }
        self.write_out()?;
        let synced = self.file.sync();
        self.poison_on(synced, "sync")?;
        self.synced = self.bytes;
        Ok(())
    }

    /// Length of the file with everything appended, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Refuses all further use.
    pub(crate) fn poison(&mut self) {
        self.poisoned = true;
    }

    fn write_out(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.append(&self.buffer);
        self.poison_on(written, "append to")?;
        self.buffer.clear();
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned { Err(StorageError::Poisoned { file: self.name.clone() }) } else { Ok(()) }
    }

    fn poison_on(&mut self, result: std::io::Result<()>, action: &'static str) -> Result<()> {
        result.map_err(|e| {
            self.poisoned = true;
            StorageError::io(action, &self.name)(e)
        })
    }
}

/// Ending of files being written aside; leftovers of an interrupted creation are removed by the next start.
pub(crate) const ASIDE_SUFFIX: &str = ".new";

/// Removes leftovers of interrupted creations, and returns the names of the other files.
pub(crate) fn tidy(dir: &dyn LogDir) -> Result<Vec<String>> {
    let names = dir.list().map_err(StorageError::io("list", "the log folder"))?;
    let (aside, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.ends_with(ASIDE_SUFFIX));
    for name in aside {
        dir.remove(&name).map_err(StorageError::io("remove", &name))?;
    }
    Ok(kept)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
