//! The largest blob between two nodes on loopback, and the same after a kill in mid-transfer.
//!
//! The source is a node process. The fetching side is a process of its own, too: this program again, which runs the node's
//! swarm, transfer and blob store and nothing else, because a node fetches a blob only for a job. What is verified is on its
//! disk, so a fetch that is killed goes on from there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use network::{ChunkSink, FetchOptions, Network, NetworkConfig, SinkError, fetch_blob};
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage::{BlobLimits, BlobStore, Home, RocksStore, Store};
use types::blob::BlobManifest;
use types::ids::{BlobHash, GenesisHash, TimeMs};
use types::keys::SecretKey;
use types::limits::{BLOB_BYTES_MAX, BLOB_CHUNK_BYTES};

use super::rpc::Rpc;
use super::stats::Samples;
use super::{Entry, Plan, block_on, nodes, report, stop};

/// A fetch, as the command line of the fetching process has it.
#[derive(Clone, Debug, clap::Args)]
pub struct Fetch {
    /// The chain.
    #[arg(long)]
    genesis: String,
    /// Multiaddress of the source.
    #[arg(long)]
    from: String,
    /// The blob.
    #[arg(long)]
    hash: String,
    /// Home of the fetching side.
    #[arg(long)]
    home: std::path::PathBuf,
    /// Milliseconds to wait after each chunk, so that a transfer can be met in the middle.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// What the fetching process says at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Fetched {
    ms: f64,
    bytes: u64,
    had: u32,
    delivered: u32,
}

/// Chunks on disk when the transfer is cut off.
const CUT_AT: usize = 48;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let runs = if plan.quick { 5 } else { 20 };
    let cluster = nodes(plan, 1, 500, 10_000)?;
    let (node, genesis) = (cluster.node(0)?.clone(), cluster.file().genesis_hash.clone());
    let blob: Vec<u8> = noise(BLOB_BYTES_MAX as usize);
    let hash = block_on(async { Rpc::connect(&node.rpc).await?.put_blob(blob).await })?;
    let fetch = |home: &Path, pause_ms: u64| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["blob-fetch", "--genesis", &genesis, "--from", &node.p2p, "--hash", &hash]);
        command.arg("--home").arg(home).args(["--pause-ms", &pause_ms.to_string()]);
        command.stdout(Stdio::piped()).spawn().context("starting the fetching process")
    };
    let mut speed = Samples::default();
    for run in 0..runs {
        let home = plan.dir.join(format!("fetch-{run}"));
        let (_, end) = follow(&mut fetch(&home, 0)?, usize::MAX)?;
        let end = end.context("the fetching process ended without an answer")?;
        ensure!(end.bytes == BLOB_BYTES_MAX && end.had == 0, "not a whole transfer: {end:?}");
        speed.push(end.bytes as f64 / 1e3 / end.ms);
        std::fs::remove_dir_all(&home)?;
    }
    let home = plan.dir.join("fetch-killed");
    let mut child = fetch(&home, 5)?;
    let (verified, _) = follow(&mut child, CUT_AT)?;
    let (_, rest) = follow(&mut fetch(&home, 0)?, usize::MAX)?;
    let rest = rest.context("the resumed transfer ended without an answer")?;
    let chunks = u32::try_from(BLOB_BYTES_MAX.div_ceil(BLOB_CHUNK_BYTES))?;
    ensure!(rest.had as usize >= verified, "{verified} chunks were verified, only {} were still there", rest.had);
    ensure!(rest.had + rest.delivered == chunks, "{} chunks are {chunks}: {rest:?}", rest.had + rest.delivered);
    stop(cluster)?;
    let file_system = report::file_system(&plan.dir)?;
    let params = json!({
        "timed": "first question to last chunk verified and on disk, in another process than the source",
        "bytes": BLOB_BYTES_MAX,
        "chunk_bytes": BLOB_CHUNK_BYTES,
        "file_system": file_system,
        "slowest": speed.quantile(1),
    });
    let resumed = json!({
        "timed": "chunks sent again after the fetching process was killed; those verified before are not among them",
        "chunks": chunks,
        "verified_before_the_kill": verified,
        "found_again": rest.had,
        "sent_after": rest.delivered,
    });
    Ok(vec![
        Entry::of_samples("blob_transfer", "MB/s", &speed, params),
        Entry::of_value("blob_resumed_sent_twice", "chunks", f64::from(rest.had + rest.delivered - chunks), resumed),
    ])
}

/// Reads what the fetching process says, until its end or until so many chunks are kept; then it is killed. Returns the
/// chunks kept and, if it came to its end, its answer.
fn follow(child: &mut Child, cut_at: usize) -> Result<(usize, Option<Fetched>)> {
    let lines = BufReader::new(child.stdout.take().context("the output of the fetching process")?).lines();
    let (mut kept, mut answer) = (0, None);
    for line in lines {
        let line = line?;
        if line == "kept" {
            kept += 1;
        } else {
            answer = Some(serde_json::from_str(&line).with_context(|| format!("not understood: {line}"))?);
        }
        if kept >= cut_at {
            child.kill()?;
            child.wait()?;
            return Ok((kept, None));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the fetching process failed: {status}");
    }
    Ok((kept, answer))
}

/// Bytes that do not compress; the same every time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The fetching process: prints `kept` for each chunk on disk when asked to pause, and at the end what it did.
///
/// # Errors
/// When the source can't be reached or the blob does not come.
pub fn fetch(fetch: &Fetch) -> Result<()> {
    let hash: BlobHash = fetch.hash.parse().context("--hash")?;
    let genesis: GenesisHash = fetch.genesis.parse().context("--genesis")?;
    let home = Home::open(&fetch.home)?;
    let layout = home.layout();
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&layout.db())?);
    let blobs = BlobStore::open(layout.blobs(), store, BlobLimits { budget: 1 << 30, disk_reserve: 0 }, wall_clock()?)?;
    // A new identity each time: the source grants each peer two such blobs in ten seconds.
    let mut seed = [0u8; 32];
    seed[..4].copy_from_slice(&std::process::id().to_le_bytes());
    seed[4..12].copy_from_slice(&wall_clock()?.0.to_le_bytes());
    let mut config = NetworkConfig::new(genesis, SecretKey::from_seed(seed));
    config.listen = vec![network::parse_address("/ip4/127.0.0.1/tcp/0")?];
    config.bootstrap = vec![network::parse_address(&fetch.from)?];
    config.loopback = true;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let fetched = runtime.block_on(async {
        let (network, _events) = Network::start(config).await?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while network.peers().is_empty() {
            ensure!(Instant::now() < deadline, "no connection to the source within 20 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let peers: Vec<_> = network.peers().iter().map(|p| p.peer_id).collect();
        let pause = Duration::from_millis(fetch.pause_ms);
        let mut sink = Keep { blobs: blobs.clone(), hash, missing: BTreeSet::new(), pause };
        let since = Instant::now();
        let report = fetch_blob(&network, hash, &peers, &mut sink, FetchOptions::default()).await?;
        let ms = since.elapsed().as_secs_f64() * 1000.0;
        network.shutdown().await;
        Ok(Fetched { ms, bytes: report.bytes, had: report.had, delivered: report.delivered.values().sum() })
    })?;
    ensure!(blobs.read(&hash)?.is_some(), "the blob is not whole after its transfer");
    println!("{}", serde_json::to_string(&fetched)?);
    Ok(())
}

fn wall_clock() -> Result<TimeMs> {
    Ok(TimeMs(u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?))
}

/// Keeps chunks as a node does.
struct Keep {
    blobs: BlobStore,
    hash: BlobHash,
    missing: BTreeSet<u32>,
    pause: Duration,
}

impl ChunkSink for Keep {
    async fn begin(&mut self, hash: &BlobHash, manifest: &BlobManifest) -> Result<(), SinkError> {
        let (blobs, hash, manifest) = (self.blobs.clone(), *hash, manifest.clone());
        let now = wall_clock().map_err(sink)?;
        let begun = tokio::task::spawn_blocking(move || blobs.begin_transfer(hash, &manifest, now)).await;
        self.missing = begun.map_err(sink)?.map_err(sink)?.into_iter().collect();
        Ok(())
    }

    fn have(&self, index: u32) -> bool {
        !self.missing.contains(&index)
    }

    async fn put(&mut self, index: u32, bytes: Vec<u8>) -> Result<(), SinkError> {
        let (blobs, hash) = (self.blobs.clone(), self.hash);
        let now = wall_clock().map_err(sink)?;
        let put = tokio::task::spawn_blocking(move || blobs.put_chunk(&hash, index, &bytes, now)).await;
        put.map_err(sink)?.map_err(sink)?;
        self.missing.remove(&index);
        if !self.pause.is_zero() {
            println!("kept");
            tokio::time::sleep(self.pause).await;
        }
        Ok(())
    }
}

fn sink(error: impl std::fmt::Display) -> SinkError {
    SinkError(error.to_string())
}
