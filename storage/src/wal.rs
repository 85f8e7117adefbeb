//! The consensus log: one file per height, written before anything it records becomes visible to others.
//!
//! What the records mean is the consensus adapter's affair. A file is unlinked only after the height's block is in the store.
//! Built on [`crate::log`], which says what is cut off and what stops the node.

use std::collections::BTreeSet;

use types::ids::{GenesisHash, Height};

use crate::disk::LogDir;
use crate::error::{Result, StorageError};
use crate::log::{Decoded, Log, LogHeader, Record, tidy};

const MAGIC: [u8; 8] = *b"PMESHWAL";
const SUFFIX: &str = ".wal";

/// What a height's log held when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    /// Records in the order in which they were appended; empty for a new height.
    pub records: Vec<Record>,
    /// Bytes of an interrupted write that were cut off.
    pub torn_bytes: u64,
}

/// The consensus logs of a node, at most one of them open.
pub struct Wal {
    dir: Box<dyn LogDir>,
    genesis: GenesisHash,
    heights: BTreeSet<Height>,
    current: Option<(Height, Log)>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").field("heights", &self.heights).field("current", &self.current).finish()
    }
}

impl Wal {
    /// Opens the folder of logs; reads none of them yet.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn open(dir: Box<dyn LogDir>, genesis: GenesisHash) -> Result<Self> {
        let names = tidy(dir.as_ref())?;
        let height_of = |name: &String| {
            let digits = name.strip_suffix(SUFFIX)?;
            let height = digits.parse().ok().map(Height)?;
            (file_name(height) == *name).then_some(height)
        };
        let heights = names.iter().filter_map(height_of).collect();
        Ok(Self { dir, genesis, heights, current: None })
    }

    /// Heights that have a log. After a clean start the highest is at most one above the store's head; a higher one means
    /// that the store has lost blocks.
    pub fn heights(&self) -> &BTreeSet<Height> {
        &self.heights
    }

    /// Opens the log of `height` for appending, and makes it if it is missing. Closes the one open before.
    ///
    /// # Errors
    /// [`StorageError::LogCorrupt`], [`StorageError::Corrupt`], [`StorageError::WrongChain`], [`StorageError::Newer`],
    /// [`StorageError::Io`].
    pub fn start(&mut self, height: Height) -> Result<Replay> {
        if let Some((_, mut log)) = self.current.take() {
            log.flush()?;
        }
        let name = file_name(height);
        let header = LogHeader { magic: MAGIC, genesis: self.genesis, number: height.0 };
        let (log, replay) = if self.heights.contains(&height) {
            let (log, Decoded { records, torn_bytes, .. }) = Log::open(self.dir.as_ref(), &name, &header)?;
            (log, Replay { records, torn_bytes })
        } else {
            (Log::create(self.dir.as_ref(), &name, &header, &[])?, Replay { records: vec![], torn_bytes: 0 })
        };
        self.heights.insert(height);
        self.current = Some((height, log));
        Ok(replay)
    }

    /// The height whose log is open.
    pub fn height(&self) -> Option<Height> {
        self.current.as_ref().map(|(height, _)| *height)
    }

    /// Adds a record to the open log. Not durable before [`Wal::flush`].
    ///
    /// # Errors
    /// As [`Log::append`]; [`StorageError::Poisoned`] when no log is open.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.log()?.append(kind, payload)
    }

    /// Returns once every record is on stable storage. Only then may anything that they record leave the node.
    ///
    /// # Errors
    /// As [`Log::flush`]; [`StorageError::Poisoned`] when no log is open.
    pub fn flush(&mut self) -> Result<()> {
        self.log()?.flush()
    }

    /// Removes the logs of heights below `height`, whose blocks must be in the store. The open log stays.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn prune_below(&mut self, height: Height) -> Result<()> {
        let open = self.height();
        let old: Vec<Height> = self.heights.range(..height).copied().filter(|h| Some(*h) != open).collect();
        for height in old {
            let name = file_name(height);
            self.dir.remove(&name).map_err(StorageError::io("remove", &name))?;
            self.heights.remove(&height);
        }
        // Not synced: a removal that a power cut undoes leaves an old log, which the next call removes again.
        Ok(())
    }

    fn log(&mut self) -> Result<&mut Log> {
        let none = || StorageError::Poisoned { file: "of the consensus (none is open)".into() };
        self.current.as_mut().map(|(_, log)| log).ok_or_else(none)
    }
}

fn file_name(height: Height) -> String {
    format!("{:020}{SUFFIX}", height.0)
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
