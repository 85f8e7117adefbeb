//! The only writer of blocks: one thread that turns a decided block into one synced batch.
//!
//! Inbox: 16 commits, the sender waits. A failed write ends the thread, and with it the node: after an error nobody knows what
//! is on disk.

use std::sync::Arc;
use std::time::Duration;

use storage::{BlockCommit, Head, RocksStore, Snapshot, Store};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::patience::within;
use super::thread::ThreadWork;
use crate::crossings::{Crossing, Crossings};

/// Commits that may wait.
pub(crate) const WRITER_LANE: usize = 16;
/// Longest wait for a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// A block to store.
#[derive(Debug)]
pub(crate) struct CommitCommand {
    commit: Box<BlockCommit>,
    reply: oneshot::Sender<Result<(Head, Snapshot), String>>,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Arc<RocksStore>,
    crossings: Crossings,
}

impl Writer {
    /// Over an open store.
    pub(crate) fn new(store: Arc<RocksStore>, crossings: Crossings) -> Self {
        Self { store, crossings }
    }
}

impl ThreadWork for Writer {
    type Command = CommitCommand;

    fn run(&mut self, command: CommitCommand) -> Result<(), String> {
        self.crossings.at(Crossing::BatchBegins);
        let stored = self.store.commit_block(&command.commit).map_err(|e| e.to_string());
        if stored.is_ok() {
            self.crossings.at(Crossing::BatchWritten);
        }
        let failed = stored.as_ref().err().cloned();
        // The asker hears the reason, too: whichever of the two is noticed first, the node's last words say it. It may have given
        // up by its own time limit, which stops the node.
        command.reply.send(stored.map(|head| (head, self.store.snapshot()))).ok();
        failed.map_or(Ok(()), Err)
    }
}

/// A block is not stored.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// The write failed.
    #[error("the block is not stored: {0}")]
    Failed(String),
    /// The thread is gone; its actor knows why.
    #[error("the store's writer has ended")]
    Gone,
    /// No answer within the limit.
    #[error("the store did not commit within {} s", COMMIT_LIMIT.as_secs())]
    Slow,
}

/// Address of the writer.
#[derive(Clone, Debug)]
pub(crate) struct WriterHandle(mpsc::Sender<CommitCommand>);

impl WriterHandle {
    /// Wraps the lane.
    pub(crate) fn new(lane: mpsc::Sender<CommitCommand>) -> Self {
        Self(lane)
    }

    /// Stores a decided block; returns the new head and a view of the state after it.
    ///
    /// # Errors
    /// [`WriteError`]: the node stops.
    pub(crate) async fn commit(&self, commit: BlockCommit) -> Result<(Head, Snapshot), WriteError> {
        let (reply, done) = oneshot::channel();
        let command = CommitCommand { commit: Box::new(commit), reply };
        let answer = async {
            self.0.send(command).await.map_err(|_| WriteError::Gone)?;
            done.await.map_err(|_| WriteError::Gone)?.map_err(WriteError::Failed)
        };
        within(COMMIT_LIMIT, answer).await.ok_or(WriteError::Slow)?
    }
}
