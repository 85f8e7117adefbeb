//! The consensus log and the signer's guard file on one thread: what must be durable before a message may leave.
//!
//! Both files share the thread so that one flush covers both, in the order of the commands. Inbox: 1,024 commands, a sender
//! waits. A failed write is remembered and answered to every later flush: nothing leaves after it, and the node stops.

use std::time::Duration;

use storage::guard_file::GuardFile;
use storage::wal::{Replay, Wal};
use storage::{ErrorClass, StorageError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use types::ids::Height;

use super::thread::ThreadWork;

/// Longest wait for a flush; a disk slower than this stops the node rather than let it vote blindly.
const FLUSH_LIMIT: Duration = Duration::from_secs(15);
/// Commands that may wait.
pub(crate) const DISK_LANE: usize = 1024;
/// The guard file is first rewritten without old heights when it is longer than this, bytes.
const GUARD_BYTES_MAX: u64 = 8 << 20;

/// Commands to the thread.
#[derive(Debug)]
pub(crate) enum DiskCommand {
    /// Opens the log of a height and answers its records.
    Start {
        /// The height.
        height: Height,
        /// Where the records go.
        reply: oneshot::Sender<Result<Replay, DiskError>>,
    },
    /// Appends to the open log.
    Append {
        /// Record.
        record: Vec<u8>,
    },
    /// Appends to the guard file.
    Guard {
        /// Height of the slot.
        height: Height,
        /// Record.
        record: Vec<u8>,
    },
    /// Makes everything before durable.
    Flush {
        /// Told when it is.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Drops logs and guard records below a height that is stored for good.
    Prune {
        /// Lowest height to keep in the log.
        log_below: Height,
        /// Lowest height to keep in the guard.
        guard_below: Height,
    },
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Disk {
    wal: Wal,
    guard: GuardFile,
    failed: Option<String>,
    compact_at: u64,
}

impl Disk {
    /// Over open files.
    pub(crate) fn new(wal: Wal, guard: GuardFile) -> Self {
        Self { wal, guard, failed: None, compact_at: GUARD_BYTES_MAX }
    }

    fn keep(&mut self, result: Result<(), StorageError>) {
        if let Err(error) = result {
            self.failed.get_or_insert_with(|| error.to_string());
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.failed.is_none() {
            let flushed = if self.wal.height().is_some() { self.wal.flush() } else { Ok(()) };
            self.keep(flushed);
            let flushed = self.guard.flush();
            self.keep(flushed);
        }
        self.failed.clone().map_or(Ok(()), Err)
    }
}

impl ThreadWork for Disk {
    type Command = DiskCommand;

    fn run(&mut self, command: DiskCommand) -> Result<(), String> {
        match command {
            DiskCommand::Start { height, reply } => {
                let answer = match self.flush() {
                    Ok(()) => self.wal.start(height).map_err(DiskError::from),
                    Err(why) => Err(DiskError::Failed(why)),
                };
                // The asker may have given up by its own time limit, which stops the node.
                reply.send(answer).ok();
            }
            DiskCommand::Append { record } => {
                let result = self.wal.append(LOG_RECORD, &record);
                self.keep(result);
            }
            DiskCommand::Guard { height, record } => {
                let result = self.guard.append(height, &record);
                self.keep(result);
            }
            DiskCommand::Flush { reply } => {
                reply.send(self.flush()).ok();
            }
            DiskCommand::Prune { log_below, guard_below } => {
                let result = self.wal.prune_below(log_below);
                self.keep(result);
                if self.guard.bytes() > self.compact_at {
                    let result = self.guard.compact(guard_below);
                    self.keep(result);
                    // What had to stay must not be rewritten at every block: next time at twice its size.
                    self.compact_at = self.guard.bytes().saturating_mul(2).max(GUARD_BYTES_MAX);
                }
            }
        }
        Ok(())
    }
}

/// Kind byte of consensus records in the log; their own codec has the version.
const LOG_RECORD: u8 = 1;

/// The disk did not do what was asked.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    /// The thread is gone.
    #[error("the consensus log's thread has ended")]
    Gone,
    /// The log is damaged, or the log of another chain.
    #[error("the consensus log can't be read: {0}")]
    Corrupt(String),
    /// A write or flush failed.
    #[error("the consensus log can't be written: {0}")]
    Failed(String),
    /// No answer within the limit.
    #[error("the consensus log did not answer within {} s", FLUSH_LIMIT.as_secs())]
    Slow,
}

impl From<String> for DiskError {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<StorageError> for DiskError {
    fn from(error: StorageError) -> Self {
        match error.class() {
            ErrorClass::Corruption => Self::Corrupt(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Address of the disk thread.
#[derive(Clone, Debug)]
pub(crate) struct DiskHandle(mpsc::Sender<DiskCommand>);

impl DiskHandle {
    /// Wraps the lane.
    pub(crate) fn new(lane: mpsc::Sender<DiskCommand>) -> Self {
        Self(lane)
    }

    async fn put(&self, command: DiskCommand) -> Result<(), DiskError> {
        match timeout(FLUSH_LIMIT, self.0.send(command)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(DiskError::Gone),
            Err(_) => Err(DiskError::Slow),
        }
    }

    async fn answer<T, E: Into<DiskError>>(receiver: oneshot::Receiver<Result<T, E>>) -> Result<T, DiskError> {
        match timeout(FLUSH_LIMIT, receiver).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(why))) => Err(why.into()),
            Ok(Err(_)) => Err(DiskError::Gone),
            Err(_) => Err(DiskError::Slow),
        }
    }

    /// Opens a height's log.
    ///
    /// # Errors
    /// [`DiskError`]: the node stops.
    pub(crate) async fn start(&self, height: Height) -> Result<Replay, DiskError> {
        let (reply, receiver) = oneshot::channel();
        self.put(DiskCommand::Start { height, reply }).await?;
        Self::answer(receiver).await
    }

    /// Appends to the open log; durable after the next flush.
    ///
    /// # Errors
    /// [`DiskError`]: the node stops.
    pub(crate) async fn append(&self, record: Vec<u8>) -> Result<(), DiskError> {
        self.put(DiskCommand::Append { record }).await
    }

    /// Appends to the guard; durable after the next flush.
    ///
    /// # Errors
    /// [`DiskError`]: the node stops.
    pub(crate) async fn guard(&self, height: Height, record: Vec<u8>) -> Result<(), DiskError> {
        self.put(DiskCommand::Guard { height, record }).await
    }

    /// Waits until everything before is durable.
    ///
    /// # Errors
    /// [`DiskError`]: the node stops.
    pub(crate) async fn flush(&self) -> Result<(), DiskError> {
        let (reply, receiver) = oneshot::channel();
        self.put(DiskCommand::Flush { reply }).await?;
        Self::answer(receiver).await
    }

    /// Lets go of what is stored for good.
    ///
    /// # Errors
    /// [`DiskError`]: the node stops.
    pub(crate) async fn prune(&self, log_below: Height, guard_below: Height) -> Result<(), DiskError> {
        self.put(DiskCommand::Prune { log_below, guard_below }).await
    }
}
