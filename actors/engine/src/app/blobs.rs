//! Fetches blobs that this node needs from whoever has them, once each, and answers everyone who waits.
//!
//! Every wish names the length that the specification or the claim announced; a blob of another length is refused after the one
//! chunk that proves it. Inbox: 512 wishes, more are refused. At most four transfers at once, the rest wait in order; a transfer
//! whose sources are silent gives its place away. One that fails is tried again with back-off until nobody waits for it.
//! Restart: transfers end with the actor, who waits asks again; verified chunks are on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use network::{ChunkSink, FetchError, FetchOptions, PeerId, SinkError, fetch_blob};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::blobs::{BlobStatus, BlobStore};
use thiserror::Error;
use tokio::sync::oneshot;
use types::blob::BlobManifest;
use types::ids::BlobHash;
use types::job::BlobRef;

use crate::mailbox::{Letter, Sent};
use crate::task::Task;
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
    /// It is proven to have another length than announced.
    #[error("blob {}: it has {found} bytes, {} were announced", blob.hash, blob.bytes)]
    Length {
        /// The blob as announced.
        blob: BlobRef,
        /// Its length, bytes.
        found: u64,
    },
    /// The store failed.
    #[error("blob store: {0}")]
    Store(String),
}

type Answer = Result<(), BlobError>;

/// Messages.
#[derive(Debug)]
pub(crate) enum BlobsMsg {
    /// Bring this blob here.
    Want {
        /// The blob, with the length it must have.
        blob: BlobRef,
        /// Peer likely to have it.
        hint: Option<PeerId>,
        /// Told when it is here, or that it can't be what was announced.
        reply: oneshot::Sender<Answer>,
    },
    /// A transfer ended.
    Ended {
        /// The blob.
        blob: BlobRef,
        /// `None` to try again.
        answer: Option<Answer>,
    },
    /// Try a blob again.
    Retry {
        /// The blob.
        blob: BlobRef,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Blobs;

#[derive(Debug, Default)]
struct Wish {
    hints: Vec<PeerId>,
    waiters: Vec<oneshot::Sender<Answer>>,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct BlobsState {
    wiring: Wiring,
    wishes: BTreeMap<BlobRef, Wish>,
    queue: VecDeque<BlobRef>,
    running: BTreeMap<BlobRef, Task>,
}

impl Actor for Blobs {
    type Msg = Letter<BlobsMsg>;
    type State = BlobsState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<BlobsState, ActorProcessingErr> {
        wiring.mail.blobs.attach(myself);
        Ok(BlobsState { wiring, wishes: BTreeMap::new(), queue: VecDeque::new(), running: BTreeMap::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut BlobsState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            BlobsMsg::Want { blob, hint, reply } => {
                if let Some(answer) = here(&state.wiring.blobs, &blob) {
                    reply.send(answer).ok();
                    return Ok(());
                }
                let new = !state.wishes.contains_key(&blob);
                let wish = state.wishes.entry(blob).or_default();
                wish.waiters.retain(|w| !w.is_closed());
                if wish.waiters.len() < WAITERS_MAX {
                    wish.waiters.push(reply);
                }
                wish.hints.extend(hint.filter(|h| !wish.hints.contains(h)));
                if new {
                    state.queue.push_back(blob);
                }
            }
            BlobsMsg::Ended { blob, answer } => {
                state.running.remove(&blob);
                match answer {
                    Some(answer) => {
                        for waiter in state.wishes.remove(&blob).unwrap_or_default().waiters {
                            waiter.send(answer.clone()).ok();
                        }
                    }
                    None => {
                        let mailbox = state.wiring.mail.blobs.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(RETRY).await;
                            let _closed = mailbox.send_owed(BlobsMsg::Retry { blob });
                        });
                    }
                }
            }
            BlobsMsg::Retry { blob } => {
                if let Some(wish) = state.wishes.get_mut(&blob) {
                    wish.waiters.retain(|w| !w.is_closed());
                    if wish.waiters.is_empty() {
                        state.wishes.remove(&blob);
                    } else {
                        state.queue.push_back(blob);
                    }
                }
            }
        }
        start_transfers(state);
        Ok(())
    }
}

fn start_transfers(state: &mut BlobsState) {
    while state.running.len() < TRANSFERS_MAX
        && let Some(blob) = state.queue.pop_front()
    {
        let Some(wish) = state.wishes.get_mut(&blob) else { continue };
        wish.waiters.retain(|w| !w.is_closed());
        if wish.waiters.is_empty() {
            state.wishes.remove(&blob);
            continue;
        }
        let (wiring, hints) = (state.wiring.clone(), wish.hints.clone());
        let task = Task::spawn(async move {
            let answer = transfer(&wiring, blob, hints).await;
            let _closed = wiring.mail.blobs.send_owed(BlobsMsg::Ended { blob, answer });
        });
        state.running.insert(blob, task);
    }
}

/// One try; `None` when another may do better.
async fn transfer(wiring: &Wiring, blob: BlobRef, hints: Vec<PeerId>) -> Option<Answer> {
    if let Some(answer) = here(&wiring.blobs, &blob) {
        return Some(answer);
    }
    let net = wiring.net.get()?;
    let mut peers: Vec<PeerId> = hints;
    for peer in net.peers() {
        if !peers.contains(&peer.peer_id) {
            peers.push(peer.peer_id);
        }
    }
    if peers.is_empty() {
        return None;
    }
    let hash = blob.hash;
    let options = FetchOptions { bytes_max: blob.bytes, bytes: Some(blob.bytes), ..FetchOptions::default() };
    let mut sink = StoreSink { store: wiring.blobs.clone(), hash, missing: BTreeSet::new() };
    match fetch_blob(&net, hash, &peers, &mut sink, options).await {
        Ok(report) => {
            tracing::debug!(blob = %hash.short(), ?report, "blob fetched");
            Some(Ok(()))
        }
        Err(FetchError::Length { bytes, .. }) => Some(Err(BlobError::Length { blob, found: bytes })),
        Err(error) => {
            tracing::debug!(blob = %hash.short(), %error, "blob not fetched");
            None
        }
    }
}

/// Brings a blob here, and waits until it is or the time is over.
///
/// # Errors
/// [`BlobError`].
pub(crate) async fn bring(wiring: &Wiring, blob: BlobRef, hint: Option<PeerId>, limit: Duration) -> Answer {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(answer) = here(&wiring.blobs, &blob) {
            return answer;
        }
        let (reply, done) = oneshot::channel();
        let sent = wiring.mail.blobs.send(BlobsMsg::Want { blob, hint, reply });
        if sent == Sent::Accepted
            && let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, done).await
        {
            return answer;
        }
        // Refused, or forgotten by a restart: asked again as long as there is time.
        if tokio::time::Instant::now() + RETRY >= deadline {
            return Err(BlobError::Late(blob.hash));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The bytes of a blob that is here.
///
/// # Errors
/// [`BlobError`].
pub(crate) async fn read(wiring: &Wiring, hash: BlobHash) -> Result<Vec<u8>, BlobError> {
    let store = wiring.blobs.clone();
    let read =
        tokio::task::spawn_blocking(move || store.read(&hash)).await.map_err(|e| BlobError::Store(e.to_string()))?;
    match read {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(BlobError::Late(hash)),
        Err(error) => Err(BlobError::Store(error.to_string())),
    }
}

/// [`bring`], then [`read`].
///
/// # Errors
/// [`BlobError`].
pub(crate) async fn ensure(
    wiring: &Wiring,
    blob: BlobRef,
    hint: Option<PeerId>,
    limit: Duration,
) -> Result<Vec<u8>, BlobError> {
    bring(wiring, blob, hint, limit).await?;
    read(wiring, blob.hash).await
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

/// Whether a blob is here, whole; an error if what is here has another length than announced.
fn here(store: &BlobStore, blob: &BlobRef) -> Option<Answer> {
    match store.status(&blob.hash) {
        BlobStatus::Held { bytes } if bytes == blob.bytes => Some(Ok(())),
        BlobStatus::Held { bytes } => Some(Err(BlobError::Length { blob: *blob, found: bytes })),
        _ => None,
    }
}

/// Whether a blob is here, whole.
pub(crate) fn is_here(store: &BlobStore, hash: &BlobHash) -> bool {
    matches!(store.status(hash), BlobStatus::Held { .. })
}
