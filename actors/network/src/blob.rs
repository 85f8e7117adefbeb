//! Fetching a blob in verified chunks from several peers at once.
//!
//! Every source is asked for its own manifest first, and is judged by its own manifest only: the chaining values are
//! bound to the blob's hash, but the length of the last chunk is not, so a lying manifest could otherwise make honest
//! chunks look wrong. Sources whose manifests agree work together; the others wait until these fail. What the sink
//! already has is not fetched again, so an interrupted transfer goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use thiserror::Error;
use tokio::time::Instant;
use tracing::debug;
use types::blob::BlobManifest;
use types::ids::BlobHash;
use types::limits::BLOB_CHUNK_BYTES;
use types::rpc_sync::{Request, Response};

use crate::error::RequestError;
use crate::handle::NetworkHandle;
use crate::penalty::Fault;

/// Candidates asked.
const CANDIDATES_MAX: usize = 16;
/// Failures (time-out, broken stream) after which a source is given up, when it has delivered before.
const STRIKES_MAX: u8 = 2;
/// Age of a request after which an idle source is asked for the same chunk.
const SLOW: Duration = Duration::from_millis(800);
/// What a chunk that came adds to the time a transfer may take: sources below 128 KiB a second are not worth a slot.
const CHUNK_LIMIT: Duration = Duration::from_secs(2);
/// The loop looks around at least this often.
const LOOK: Duration = Duration::from_millis(200);

/// A chunk could not be kept.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("blob chunk can't be stored: {0}")]
pub struct SinkError(pub String);

/// Where chunks go. Keeps what it has across attempts, so that a transfer can be resumed.
pub trait ChunkSink: Send {
    /// Told the verified manifest before the first chunk; told again if another source's manifest (another length of
    /// the last chunk) takes its place.
    fn begin(&mut self, hash: &BlobHash, manifest: &BlobManifest)
    -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Whether chunk `index` is kept already, verified by whoever put it there.
    fn have(&self, index: u32) -> bool;

    /// Keeps a verified chunk.
    fn put(&mut self, index: u32, bytes: Vec<u8>) -> impl Future<Output = Result<(), SinkError>> + Send;
}

/// Keeps a blob in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    chunks: BTreeMap<u32, Vec<u8>>,
}

impl MemorySink {
    /// The blob: its chunks in order.
    pub fn into_bytes(self) -> Vec<u8> {
        self.chunks.into_values().flatten().collect()
    }

    /// Number of chunks kept.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl ChunkSink for MemorySink {
    async fn begin(&mut self, _: &BlobHash, manifest: &BlobManifest) -> Result<(), SinkError> {
        self.chunks.retain(|index, bytes| manifest.chunk_bytes(*index) == Some(bytes.len() as u64));
        std::future::ready(Ok(())).await
    }

    fn have(&self, index: u32) -> bool {
        self.chunks.contains_key(&index)
    }

    async fn put(&mut self, index: u32, bytes: Vec<u8>) -> Result<(), SinkError> {
        self.chunks.insert(index, bytes);
        std::future::ready(Ok(())).await
    }
}

/// How hard to try.
#[derive(Clone, Copy, Debug)]
pub struct FetchOptions {
    /// Largest blob accepted, bytes.
    pub bytes_max: u64,
    /// Length that the blob must have, bytes, when who names it says so: sources that say otherwise are asked for the last
    /// chunk at most, which proves the true length.
    pub bytes: Option<u64>,
    /// Chunks asked of one peer at a time.
    pub per_peer: usize,
    /// Chunks asked of all peers at a time; bounds memory to so many chunks.
    pub in_flight: usize,
    /// Time for the whole transfer.
    pub time_limit: Duration,
    /// Time without a chunk after which the transfer is given up; each chunk that came adds two seconds.
    pub idle_limit: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            bytes_max: types::limits::BLOB_BYTES_MAX,
            per_peer: 6,
            in_flight: 24,
            bytes: None,
            time_limit: Duration::from_secs(120),
            idle_limit: Duration::from_secs(8),
        }
    }
}

/// What a finished transfer did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchReport {
    /// Length of the blob, bytes.
    pub bytes: u64,
    /// Chunks that the sink had before.
    pub had: u32,
    /// Chunks delivered by each peer.
    pub delivered: BTreeMap<PeerId, u32>,
    /// Peers that delivered a wrong chunk or manifest, and were penalised.
    pub bad: Vec<PeerId>,
    /// Time taken.
    pub elapsed: Duration,
}

/// Why a blob was not fetched. The sink keeps the chunks that came.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// No candidate holds the blob, or none was reachable.
    #[error("blob {hash}: none of {asked} peers asked has it")]
    NotFound {
        /// The blob.
        hash: BlobHash,
        /// Number of candidates asked.
        asked: usize,
    },
    /// All sources failed on the way.
    #[error("blob {hash}: {missing} of {chunks} chunks missing, no source left")]
    SourcesLost {
        /// The blob.
        hash: BlobHash,
        /// Chunks missing.
        missing: u32,
        /// Chunks of the blob.
        chunks: u32,
    },
    /// The blob is larger than the caller accepts.
    #[error("blob {hash}: {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The blob.
        hash: BlobHash,
        /// Its length.
        bytes: u64,
        /// Largest length accepted.
        limit: u64,
    },
    /// The blob has another length than the caller was told; the last chunk proves it.
    #[error("blob {hash}: {bytes} bytes, {expected} were announced")]
    Length {
        /// The blob.
        hash: BlobHash,
        /// Its length.
        bytes: u64,
        /// Length the caller expected.
        expected: u64,
    },
    /// The sources are silent or too slow.
    #[error("blob {hash}: {came} chunks after {} ms, the sources are silent or too slow", after.as_millis())]
    Stalled {
        /// The blob.
        hash: BlobHash,
        /// Chunks that came.
        came: u32,
        /// Time taken.
        after: Duration,
    },
    /// Time is over.
    #[error("blob {hash}: not complete after {} ms", limit.as_millis())]
    TimeLimit {
        /// The blob.
        hash: BlobHash,
        /// The limit.
        limit: Duration,
    },
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The network has stopped.
    #[error("the network has stopped")]
    Closed,
}

/// A peer that holds the blob.
#[derive(Debug)]
struct Source {
    in_flight: BTreeSet<u32>,
    delivered: u32,
    strikes: u8,
    paused_until: Option<Instant>,
}

impl Source {
    fn new() -> Self {
        Self { in_flight: BTreeSet::new(), delivered: 0, strikes: 0, paused_until: None }
    }
}

enum Asked {
    Manifest,
    Chunk(u32),
    /// The last chunk of a manifest with another length than the expected one.
    Last(BlobManifest),
}

type Answer = (PeerId, Asked, Result<Response, RequestError>);

/// The manifest worked by, and who agrees with it.
struct Plan {
    manifest: BlobManifest,
    sources: BTreeMap<PeerId, Source>,
    missing: VecDeque<u32>,
    /// Chunks asked for, with the time of the last question.
    asked: BTreeMap<u32, Instant>,
    left: BTreeSet<u32>,
}

struct Fetch<'a, S> {
    handle: &'a NetworkHandle,
    hash: BlobHash,
    options: FetchOptions,
    sink: &'a mut S,
    started: Instant,
    candidates: usize,
    to_ask: VecDeque<PeerId>,
    manifests_open: usize,
    plan: Option<Plan>,
    /// Sources of other manifests.
    others: Vec<(PeerId, BlobManifest)>,
    answers: FuturesUnordered<BoxFuture<'a, Answer>>,
    had: u32,
    delivered: BTreeMap<PeerId, u32>,
    bad: Vec<PeerId>,
}

/// Fetches the blob `hash` into `sink` from those of `candidates` (at most 16) that hold it. Wrong chunks and manifests
/// cost their sender points. Dropping the future stops the transfer; the sink keeps what came.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch_blob<S: ChunkSink>(
    handle: &NetworkHandle,
    hash: BlobHash,
    candidates: &[PeerId],
    sink: &mut S,
    options: FetchOptions,
) -> Result<FetchReport, FetchError> {
    let mut distinct = BTreeSet::new();
    let to_ask: VecDeque<PeerId> = candidates
        .iter()
        .filter(|p| **p != handle.peer_id() && distinct.insert(**p))
        .take(CANDIDATES_MAX)
        .copied()
        .collect();
    let mut fetch = Fetch {
        handle,
        hash,
        options,
        sink,
        started: Instant::now(),
        candidates: to_ask.len(),
        to_ask,
        manifests_open: 0,
        plan: None,
        others: vec![],
        answers: FuturesUnordered::new(),
        had: 0,
        delivered: BTreeMap::new(),
        bad: vec![],
    };
    let limit = options.time_limit;
    match tokio::time::timeout(limit, fetch.run()).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::TimeLimit { hash, limit }),
    }
}

impl<'a, S: ChunkSink> Fetch<'a, S> {
    async fn run(&mut self) -> Result<FetchReport, FetchError> {
        while let Some(peer) = self.to_ask.pop_front() {
            self.manifests_open = self.manifests_open.saturating_add(1);
            self.ask(peer, Asked::Manifest);
        }
        loop {
            self.ensure_plan().await?;
            if let Some(plan) = self.plan.as_ref().filter(|p| p.left.is_empty()) {
                return Ok(FetchReport {
                    bytes: plan.manifest.bytes,
                    had: self.had,
                    delivered: std::mem::take(&mut self.delivered),
                    bad: std::mem::take(&mut self.bad),
                    elapsed: self.started.elapsed(),
                });
            }
            self.fill();
            if self.answers.is_empty() {
                // All sources pause; the next look may find one ready.
                tokio::time::sleep(LOOK / 4).await;
                self.check_pace()?;
                continue;
            }
            // On a time-out only the fill above is repeated, for sources that are ready again and for slow chunks.
            if let Ok(Some((peer, asked, result))) = tokio::time::timeout(LOOK, self.answers.next()).await {
                match asked {
                    Asked::Manifest => self.on_manifest(peer, result)?,
                    Asked::Chunk(index) => self.on_chunk(peer, index, result).await?,
                    Asked::Last(manifest) => self.on_last(peer, &manifest, result)?,
                }
            }
            self.check_pace()?;
        }
    }

    /// Gives up on sources that hold the transfer's place without delivering.
    fn check_pace(&self) -> Result<(), FetchError> {
        let came = self.delivered.values().copied().fold(0, u32::saturating_add);
        let allowed = self.options.idle_limit.saturating_add(CHUNK_LIMIT.saturating_mul(came));
        let after = self.started.elapsed();
        if after > allowed { Err(FetchError::Stalled { hash: self.hash, came, after }) } else { Ok(()) }
    }

    fn ask(&self, peer: PeerId, asked: Asked) {
        let request = match &asked {
            Asked::Manifest => Request::BlobManifest { hash: self.hash },
            Asked::Chunk(index) => Request::BlobChunk { hash: self.hash, index: *index },
            Asked::Last(manifest) => {
                Request::BlobChunk { hash: self.hash, index: manifest.n_chunks().saturating_sub(1) }
            }
        };
        let handle = self.handle;
        self.answers.push(Box::pin(async move { (peer, asked, handle.request(peer, request).await) }));
    }

    /// Makes a plan of the manifests at hand when there is none, or when its sources are gone.
    async fn ensure_plan(&mut self) -> Result<(), FetchError> {
        loop {
            let open = self.plan.as_ref().is_some_and(|p| p.left.is_empty() || !p.sources.is_empty());
            if open || (self.manifests_open > 0 && self.others.is_empty()) {
                return Ok(());
            }
            let Some((_, manifest)) = self.others.first() else {
                return Err(match &self.plan {
                    None => FetchError::NotFound { hash: self.hash, asked: self.candidates },
                    Some(p) => FetchError::SourcesLost {
                        hash: self.hash,
                        missing: u32::try_from(p.left.len()).unwrap_or(u32::MAX),
                        chunks: p.manifest.n_chunks(),
                    },
                });
            };
            let manifest = manifest.clone();
            if manifest.bytes > self.options.bytes_max {
                let limit = self.options.bytes_max;
                return Err(FetchError::TooLarge { hash: self.hash, bytes: manifest.bytes, limit });
            }
            self.sink.begin(&self.hash, &manifest).await?;
            let left: BTreeSet<u32> = (0..manifest.n_chunks()).filter(|i| !self.sink.have(*i)).collect();
            self.had = manifest.n_chunks().saturating_sub(u32::try_from(left.len()).unwrap_or(u32::MAX));
            let agree = |m: &BlobManifest| *m == manifest;
            let sources =
                self.others.iter().filter(|(_, m)| agree(m)).map(|(peer, _)| (*peer, Source::new())).collect();
            self.others.retain(|(_, m)| !agree(m));
            let missing = left.iter().copied().collect();
            self.plan = Some(Plan { manifest, sources, missing, asked: BTreeMap::new(), left });
        }
    }

    /// Gives every source that has room something to fetch.
    fn fill(&mut self) {
        let now = Instant::now();
        let (per_peer, total) = (self.options.per_peer.max(1), self.options.in_flight.max(1));
        let Some(plan) = &mut self.plan else { return };
        let mut questions = vec![];
        let mut in_flight: usize = plan.sources.values().map(|s| s.in_flight.len()).sum();
        // Rounds over the sources, so that each gets its share before one is filled up.
        loop {
            let mut any = false;
            for (peer, source) in &mut plan.sources {
                let paused = source.paused_until.is_some_and(|until| until > now);
                if paused || source.in_flight.len() >= per_peer || in_flight >= total {
                    continue;
                }
                let slow = || {
                    let held = &source.in_flight;
                    let late = plan.asked.iter().find(|(i, at)| now.duration_since(**at) > SLOW && !held.contains(*i));
                    late.map(|(index, _)| *index)
                };
                let Some(index) = plan.missing.pop_front().or_else(slow) else { continue };
                source.in_flight.insert(index);
                plan.asked.insert(index, now);
                questions.push((*peer, index));
                in_flight = in_flight.saturating_add(1);
                any = true;
            }
            if !any {
                break;
            }
        }
        for (peer, index) in questions {
            self.ask(peer, Asked::Chunk(index));
        }
    }

    fn on_manifest(&mut self, peer: PeerId, result: Result<Response, RequestError>) -> Result<(), FetchError> {
        let manifest = match result {
            Ok(Response::BlobManifest(Some(manifest))) => manifest,
            Err(RequestError::Busy { retry_ms, .. }) if self.started.elapsed() < self.options.time_limit / 2 => {
                let (handle, request) = (self.handle, Request::BlobManifest { hash: self.hash });
                let wait = Duration::from_millis(u64::from(retry_ms).clamp(10, 5000));
                self.answers.push(Box::pin(async move {
                    tokio::time::sleep(wait).await;
                    (peer, Asked::Manifest, handle.request(peer, request).await)
                }));
                return Ok(());
            }
            Err(RequestError::Closed) => return Err(FetchError::Closed),
            _ => {
                self.manifests_open = self.manifests_open.saturating_sub(1);
                return Ok(());
            }
        };
        self.manifests_open = self.manifests_open.saturating_sub(1);
        if let Err(error) = manifest.verify(&self.hash) {
            debug!(peer = %peer, %error, "bad blob manifest");
            self.blame(peer);
            return Ok(());
        }
        if self.options.bytes.is_some_and(|expected| expected != manifest.bytes) {
            // One of the two lies; the source's last chunk tells which. It counts as an open manifest until then.
            self.manifests_open = self.manifests_open.saturating_add(1);
            self.ask(peer, Asked::Last(manifest));
            return Ok(());
        }
        match &mut self.plan {
            Some(plan) if plan.manifest == manifest => {
                plan.sources.insert(peer, Source::new());
            }
            _ => self.others.push((peer, manifest)),
        }
        Ok(())
    }

    /// The last chunk of a blob with another length than announced: its chaining value binds its place and its length.
    fn on_last(
        &mut self,
        peer: PeerId,
        manifest: &BlobManifest,
        result: Result<Response, RequestError>,
    ) -> Result<(), FetchError> {
        self.manifests_open = self.manifests_open.saturating_sub(1);
        let last = manifest.n_chunks().saturating_sub(1);
        match (result, self.options.bytes) {
            (Ok(Response::BlobChunk(Some(part))), Some(expected)) if manifest.verify_chunk(&self.hash, last, &part) => {
                Err(FetchError::Length { hash: self.hash, bytes: manifest.bytes, expected })
            }
            (Ok(Response::BlobChunk(Some(_))), _) => {
                debug!(peer = %peer, bytes = manifest.bytes, "blob manifest with a false length");
                self.blame(peer);
                Ok(())
            }
            (Err(RequestError::Closed), _) => Err(FetchError::Closed),
            _ => Ok(()),
        }
    }

    async fn on_chunk(
        &mut self,
        peer: PeerId,
        index: u32,
        result: Result<Response, RequestError>,
    ) -> Result<(), FetchError> {
        let hash = self.hash;
        let Some(plan) = &mut self.plan else { return Ok(()) };
        // An answer from a source that was given up, or of an earlier plan, is of no use any more.
        let Some(source) = plan.sources.get_mut(&peer) else { return Ok(()) };
        if !source.in_flight.remove(&index) {
            return Ok(());
        }
        match result {
            Ok(Response::BlobChunk(Some(bytes))) => {
                if !plan.manifest.verify_chunk(&hash, index, &bytes) {
                    debug!(peer = %peer, index, "bad blob chunk");
                    plan.give_up(&peer);
                    plan.put_back(index);
                    self.blame(peer);
                    return Ok(());
                }
                source.delivered = source.delivered.saturating_add(1);
                if plan.left.remove(&index) {
                    plan.asked.remove(&index);
                    let count = self.delivered.entry(peer).or_default();
                    *count = count.saturating_add(1);
                    self.sink.put(index, bytes).await?;
                }
            }
            Err(RequestError::Busy { retry_ms, .. }) => {
                let wait = Duration::from_millis(u64::from(retry_ms).clamp(10, 5000));
                source.paused_until = Some(Instant::now() + wait);
                plan.put_back(index);
            }
            Err(RequestError::Overloaded(_)) => {
                source.paused_until = Some(Instant::now() + LOOK);
                plan.put_back(index);
            }
            Err(RequestError::Closed) => return Err(FetchError::Closed),
            Err(RequestError::Timeout { .. } | RequestError::Broken { .. }) => {
                source.strikes = source.strikes.saturating_add(1);
                if source.delivered == 0 || source.strikes >= STRIKES_MAX {
                    plan.give_up(&peer);
                }
                plan.put_back(index);
            }
            // It does not hold this chunk, is gone, or answers nonsense (penalised by the handle).
            Ok(_) | Err(RequestError::NotConnected(_) | RequestError::Malformed { .. }) => {
                plan.give_up(&peer);
                plan.put_back(index);
            }
        }
        Ok(())
    }

    fn blame(&mut self, peer: PeerId) {
        self.handle.penalise(peer, Fault::BadChunk);
        self.bad.push(peer);
    }
}

impl Plan {
    /// Puts a chunk back into the queue, unless it came or another source is asked for it.
    fn put_back(&mut self, index: u32) {
        let elsewhere = self.sources.values().any(|s| s.in_flight.contains(&index));
        if self.left.contains(&index) && !elsewhere && !self.missing.contains(&index) {
            self.asked.remove(&index);
            self.missing.push_front(index);
        }
    }

    /// Drops a source; what it was asked for goes back.
    fn give_up(&mut self, peer: &PeerId) {
        if let Some(source) = self.sources.remove(peer) {
            for index in source.in_flight {
                self.put_back(index);
            }
        }
    }
}

const _: () = assert!(BLOB_CHUNK_BYTES <= 1 << 20, "a chunk is held in memory per request in flight");
