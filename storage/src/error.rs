//! Everything that can go wrong with stored data, and which of it must stop the node for good.

use std::io;
use std::path::Path;

use thiserror::Error;
use types::ids::{BlobHash, GenesisHash, Height};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, StorageError>;

/// What a caller does about an error; the command line turns it into an exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// Another process uses the home folder (exit code 4).
    Locked,
    /// Stored data are damaged (exit code 5).
    Corruption,
    /// The request breaks a rule or a limit; nothing was changed.
    Refused,
    /// The disk or the operating system failed; for durable data a reason to stop (exit code 6).
    Failure,
}

/// Errors of home, store, logs and blobs.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Another process holds the home folder.
    #[error("home {path} is in use{}; stop that process or name another folder with --home", by_pid(*pid))]
    HomeLocked {
        /// The home folder.
        path: String,
        /// Process that holds it, as far as the lock file tells.
        pid: Option<u32>,
    },
    /// A call to the operating system failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// File or folder.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The database refused or failed for a reason other than damage.
    #[error("database: {0}")]
    Database(String),
    /// Stored bytes are not what was stored.
    #[error("{what} is damaged: {detail}; restore it from a backup, or move the folder away and sync again from peers")]
    Corrupt {
        /// The record, table or file.
        what: String,
        /// What does not fit.
        detail: String,
    },
    /// A log is damaged before its last synced record.
    #[error(
        "log {file} is damaged at byte {offset}: {detail}; a synced record follows, so this is no interrupted write"
    )]
    LogCorrupt {
        /// Name of the file.
        file: String,
        /// Where the first unreadable record begins.
        offset: u64,
        /// What is wrong there.
        detail: &'static str,
    },
    /// Data of another chain.
    #[error("{what} belongs to the chain {found}, this node runs {expected}; use another --home")]
    WrongChain {
        /// The file or database.
        what: String,
        /// Chain found.
        found: GenesisHash,
        /// Chain expected.
        expected: GenesisHash,
    },
    /// Data written by a newer program.
    #[error("{what} has format version {found}, this program reads up to {known}; use a newer program")]
    Newer {
        /// The file or database.
        what: String,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// An earlier write or sync failed, so what is on disk is unknown.
    #[error("log {file} failed before and takes no more records; restart the node")]
    Poisoned {
        /// Name of the file.
        file: String,
    },
    /// A value is above its limit.
    #[error("{what}: {value} is above the limit {limit}")]
    TooLarge {
        /// The value's name and unit.
        what: &'static str,
        /// The value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// The database has no chain yet.
    #[error("the database holds no genesis state yet")]
    NotInitialised,
    /// A block that does not follow the head.
    #[error("block {found} does not follow the stored head {head}")]
    NotNext {
        /// Height of the block.
        found: Height,
        /// Height of the head.
        head: Height,
    },
    /// A block whose parts disagree.
    #[error("block {height} is not stored: {detail}")]
    BlockMismatch {
        /// Height of the block.
        height: Height,
        /// What does not fit.
        detail: &'static str,
    },
    /// No room for a blob within the configured budget.
    #[error(
        "no room for {needed} bytes: {used} of {budget} bytes of {area} are used; raise the budget, or retry later"
    )]
    BudgetExceeded {
        /// Which budget: all blobs, or those no job refers to yet.
        area: &'static str,
        /// Bytes asked for.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// The budget, bytes.
        budget: u64,
    },
    /// No room for a blob beside what is kept free for the chain.
    #[error(
        "no room for {needed} bytes: {free} bytes are free on the disk, of which {reserve} are kept for blocks and votes; \
         free space, or lower storage.disk_reserve_mib"
    )]
    DiskReserve {
        /// Bytes asked for.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Bytes kept free.
        reserve: u64,
    },
    /// A chunk is not part of the blob.
    #[error("chunk {index} is no part of blob {hash}")]
    BadChunk {
        /// The blob.
        hash: BlobHash,
        /// Index of the chunk.
        index: u32,
    },
    /// A manifest is not that of the blob.
    #[error("manifest of blob {hash}: {detail}")]
    BadManifest {
        /// The blob.
        hash: BlobHash,
        /// What does not fit.
        detail: String,
    },
    /// Chunks of a blob whose transfer was not begun or has expired.
    #[error("no transfer of blob {0} is open; begin it with the manifest")]
    NoTransfer(BlobHash),
    /// A stored blob no longer has its hash; it was removed and may be fetched again.
    #[error("blob {0} was damaged on disk and has been removed; it can be fetched again")]
    DamagedBlob(BlobHash),
}

impl StorageError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::HomeLocked { .. } => ErrorClass::Locked,
            Self::Corrupt { .. } | Self::LogCorrupt { .. } => ErrorClass::Corruption,
            Self::Io { .. } | Self::Database(_) | Self::Poisoned { .. } => ErrorClass::Failure,
            _ => ErrorClass::Refused,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.to_string() }
    }
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}
