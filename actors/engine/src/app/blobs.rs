//! Fetches blobs that this node needs from whoever has them, once each, and answers everyone who waits.
//!
//! Inbox: 512 wishes, more are refused. At most four transfers at once, the rest wait in order. A transfer that fails is tried
//! again with back-off until nobody waits for it. Restart: who waits asks again; verified chunks are on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use network::{ChunkSink, FetchOptions, PeerId, SinkError, fetch_blob};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::blobs::{BlobStatus, BlobStore};
use thiserror::Error;
use tokio::sync::oneshot;
use types::blob::BlobManifest;
use types::ids::BlobHash;

use crate::mailbox::{Letter, Sent};
use crate::wiring::{Wiring, wall_clock};

/// Transfers at once.
const TRANSFERS_MAX: usize = 4;
/// Wishes that may wait for one blob.
const WAITERS_MAX: usize = 64;
/// Wait after a failed transfer.
const RETRY: Duration = Duration::from_millis(400);

/// Why a blob is not here.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub(crate) enum BlobError {
    /// Nobody delivered it in time.
    #[error("blob {0} was not delivered by any peer in time")]
    Late(BlobHash),
    /// The store failed.
    #[error("blob store: {0}")]
    Store(String),
}

/// Messages.
#[derive(Debug)]
pub(crate) enum BlobsMsg {
    /// Bring this blob here.
    Want {
        /// The blob.
        hash: BlobHash,
        /// Peer likely to have it.
        hint: Option<PeerId>,
        /// Told when it is here.
        reply: oneshot::Sender<()>,
    },
    /// A transfer ended.
    Ended {
        /// The blob.
        hash: BlobHash,
        /// Whether it is here now.
        here: bool,
    },
    /// Try a blob again.
    Retry {
        /// The blob.
        hash: BlobHash,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Blobs;

#[derive(Debug, Default)]
struct Wish {
    hints: Vec<PeerId>,
    waiters: Vec<oneshot::Sender<()>>,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct BlobsState {
    wiring: Wiring,
    wishes: BTreeMap<BlobHash, Wish>,
    queue: VecDeque<BlobHash>,
    running: usize,
}

impl Actor for Blobs {
    type Msg = Letter<BlobsMsg>;
    type State = BlobsState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<BlobsState, ActorProcessingErr> {
        wiring.mail.blobs.attach(myself);
        Ok(BlobsState { wiring, wishes: BTreeMap::new(), queue: VecDeque::new(), running: 0 })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut BlobsState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            BlobsMsg::Want { hash, hint, reply } => {
                if is_here(&state.wiring.blobs, &hash) {
                    reply.send(()).ok();
                    return Ok(());
                }
                let new = !state.wishes.contains_key(&hash);
                let wish = state.wishes.entry(hash).or_default();
                wish.waiters.retain(|w| !w.is_closed());
                if wish.waiters.len() < WAITERS_MAX {
                    wish.waiters.push(reply);
                }
                wish.hints.extend(hint.filter(|h| !wish.hints.contains(h)));
                if new {
                    state.queue.push_back(hash);
                }
            }
            BlobsMsg::Ended { hash, here } => {
                state.running = state.running.saturating_sub(1);
                if here {
                    for waiter in state.wishes.remove(&hash).unwrap_or_default().waiters {
                        waiter.send(()).ok();
                    }
                } else {
                    let mailbox = state.wiring.mail.blobs.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(RETRY).await;
                        let _closed = mailbox.send_owed(BlobsMsg::Retry { hash });
                    });
                }
            }
            BlobsMsg::Retry { hash } => {
                if let Some(wish) = state.wishes.get_mut(&hash) {
                    wish.waiters.retain(|w| !w.is_closed());
                    if wish.waiters.is_empty() {
                        state.wishes.remove(&hash);
                    } else {
                        state.queue.push_back(hash);
                    }
                }
            }
        }
        start_transfers(state);
        Ok(())
    }
}

fn start_transfers(state: &mut BlobsState) {
    while state.running < TRANSFERS_MAX
        && let Some(hash) = state.queue.pop_front()
    {
        let Some(wish) = state.wishes.get(&hash) else { continue };
        state.running += 1;
        let (wiring, hints) = (state.wiring.clone(), wish.hints.clone());
        tokio::spawn(async move {
            let here = transfer(&wiring, hash, hints).await;
            let _closed = wiring.mail.blobs.send_owed(BlobsMsg::Ended { hash, here });
        });
    }
}

async fn transfer(wiring: &Wiring, hash: BlobHash, hints: Vec<PeerId>) -> bool {
    if is_here(&wiring.blobs, &hash) {
        return true;
    }
    let Some(net) = wiring.net.get() else { return false };
    let mut peers: Vec<PeerId> = hints;
    for peer in net.peers() {
        if !peers.contains(&peer.peer_id) {
            peers.push(peer.peer_id);
        }
    }
    if peers.is_empty() {
        return false;
    }
    let mut sink = StoreSink { store: wiring.blobs.clone(), hash, missing: BTreeSet::new() };
    match fetch_blob(&net, hash, &peers, &mut sink, FetchOptions::default()).await {
        Ok(report) => {
            tracing::debug!(blob = %hash.short(), ?report, "blob fetched");
            true
        }
        Err(error) => {
            tracing::debug!(blob = %hash.short(), %error, "blob not fetched");
            false
        }
    }
}

/// Brings a blob here, and waits until it is or the time is over.
///
/// # Errors
/// [`BlobError`].
pub(crate) async fn ensure(
    wiring: &Wiring,
    hash: BlobHash,
    hint: Option<PeerId>,
    limit: Duration,
) -> Result<Vec<u8>, BlobError> {
    let deadline = tokio::time::Instant::now() + limit;
    while !is_here(&wiring.blobs, &hash) {
        let (reply, done) = oneshot::channel();
        let sent = wiring.mail.blobs.send(BlobsMsg::Want { hash, hint, reply });
        if sent == Sent::Accepted && matches!(tokio::time::timeout_at(deadline, done).await, Ok(Ok(()))) {
            break;
        }
        // Refused, or forgotten by a restart: asked again as long as there is time.
        if tokio::time::Instant::now() + RETRY >= deadline {
            return Err(BlobError::Late(hash));
        }
        tokio::time::sleep(RETRY).await;
    }
    let store = wiring.blobs.clone();
    let read =
        tokio::task::spawn_blocking(move || store.read(&hash)).await.map_err(|e| BlobError::Store(e.to_string()))?;
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(BlobError::Late(hash)),
        Err(error) => Err(BlobError::Store(error.to_string())),
    }
}

/// Writes verified chunks into the store; what is there already is not fetched again.
struct StoreSink {
    store: BlobStore,
    hash: BlobHash,
    missing: BTreeSet<u32>,
}

impl ChunkSink for StoreSink {
    async fn begin(&mut self, hash: &BlobHash, manifest: &BlobManifest) -> Result<(), SinkError> {
        let (store, hash, manifest) = (self.store.clone(), *hash, manifest.clone());
        let begun = tokio::task::spawn_blocking(move || store.begin_transfer(hash, &manifest, wall_clock())).await;
        self.missing = begun.map_err(sink)?.map_err(sink)?.into_iter().collect();
        Ok(())
    }

    fn have(&self, index: u32) -> bool {
        !self.missing.contains(&index)
    }

    async fn put(&mut self, index: u32, bytes: Vec<u8>) -> Result<(), SinkError> {
        let (store, hash) = (self.store.clone(), self.hash);
        let put = tokio::task::spawn_blocking(move || store.put_chunk(&hash, index, &bytes, wall_clock())).await;
        put.map_err(sink)?.map_err(sink)?;
        self.missing.remove(&index);
        Ok(())
    }
}

fn sink(error: impl std::fmt::Display) -> SinkError {
    SinkError(error.to_string())
}

/// Whether a blob is here, whole.
pub(crate) fn is_here(store: &BlobStore, hash: &BlobHash) -> bool {
    matches!(store.status(hash), BlobStatus::Held { .. })
}
