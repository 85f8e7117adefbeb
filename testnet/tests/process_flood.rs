//! Floods against whole nodes: hostile peers at line rate, hundreds of idle connections to both doors, callers without end.
//! The chain keeps its pace, the flooded node its memory, and who floods is dropped with the reason in the log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use network::{Event, GossipMessage, Network, NetworkConfig, NetworkHandle, Verdict};
use serde_json::json;
use testnet::harness::{Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;
use types::gossip::{ConsensusMessage, TxMessage};
use types::ids::{GenesisHash, Height, Round, TxId};
use types::keys::SecretKey;
use types::transaction::AvailabilitySig;
use types::vote::{Vote, VoteKind};

/// Time over which the pace is taken.
const WATCH: Duration = Duration::from_secs(15);
/// Most memory of the flooded node, MiB: a quiet one has some 50.
const MEMORY_MAX_MIB: u64 = 400;
const MINUTE: Duration = Duration::from_secs(60);

fn resident_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? >> 10)
}

/// Blocks in [`WATCH`], on the node that is not flooded.
fn pace(cluster: &Cluster) -> Result<u64> {
    let height = || cluster.height(2).context("node 2 answers");
    let first = height()?;
    std::thread::sleep(WATCH);
    Ok(height()? - first)
}

/// A stranger's messages: every third is signed as it says and useless, the others are forged.
fn junk(n: u64, chain: &GenesisHash, key: &SecretKey) -> GossipMessage {
    let mut id = [9; 32];
    id[..8].copy_from_slice(&n.to_le_bytes());
    match n % 3 {
        0 => {
            let signature = AvailabilitySig::sign(&TxId::new(id), key, chain);
            GossipMessage::Tx(Box::new(TxMessage::Availability { tx: TxId::new(id), signature }))
        }
        kind => {
            let kind = if kind == 1 { VoteKind::Prevote } else { VoteKind::Precommit };
            let vote = Vote { kind, height: Height(n), round: Round(0), value: None, validator: key.public() };
            let mut vote = vote.sign(key, chain);
            vote.vote.round = Round(1);
            GossipMessage::Consensus(Box::new(ConsensusMessage::Vote { vote, resend: 0 }))
        }
    }
}

/// A peer that publishes as fast as its swarm takes it, until told to stop; how many messages it got rid of.
async fn flooder(
    seed: u8,
    chain: GenesisHash,
    target: String,
    connected: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let key = SecretKey::from_seed([seed; 32]);
    let mut config = NetworkConfig::new(chain, key.clone());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.bootstrap = vec![target.parse()?];
    config.loopback = true;
    let (handle, mut events): (NetworkHandle, _) = Network::start(config).await?;
    let listener = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Gossip(gossip) = event {
                listener.report(gossip.id, Verdict::Ignore);
            }
        }
    });
    while handle.peers().is_empty() && !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connected.fetch_add(1, Ordering::Relaxed);
    let mut sent = 0;
    let mut n = u64::from(seed) << 32;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        if handle.publish(&junk(n, &chain, &key)).accepted() {
            sent += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    handle.shutdown().await;
    Ok(sent)
}

#[test]
fn a_flooded_node_keeps_pace_and_memory_and_drops_the_flooders() -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("flood");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut options = Options::on_free_ports(4)?;
    (options.block_ms, options.empty_block_ms) = (Some(250), Some(250));
    let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
    cluster.start_all()?;
    for index in 0..4 {
        cluster.wait_height(index, 4, MINUTE)?;
    }
    let quiet = pace(&cluster)?;

    let node = cluster.node(0)?.clone();
    let chain: GenesisHash = cluster.file().genesis_hash.parse()?;
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let connected = Arc::new(AtomicU64::new(0));
    let peers: Vec<_> = (1..=3)
        .map(|seed| runtime.spawn(flooder(100 + seed, chain, node.p2p.clone(), connected.clone(), stop.clone())))
        .collect();
    // The idle connections would keep the flooders out, too.
    cluster.wait("the flooders are connected", MINUTE, |_| (connected.load(Ordering::Relaxed) == 3).then_some(()))?;
    let port = node.p2p.split("/tcp/").nth(1).and_then(|rest| rest.split('/').next()).context("a port")?.to_owned();
    let rpc = node.rpc.trim_start_matches("http://").to_owned();
    let mut idle: Vec<TcpStream> =
        (0..500).filter_map(|_| TcpStream::connect(format!("127.0.0.1:{port}")).ok()).collect();
    idle.extend((0..200).filter_map(|_| {
        let mut stream = TcpStream::connect(&rpc).ok()?;
        // Half a request, and never the rest.
        stream.write_all(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n{").ok()?;
        Some(stream)
    }));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (stop, rpc) = (stop.clone(), Rpc::at(&node.rpc).unwrap());
            std::thread::spawn(move || {
                let mut calls = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // Refused or answered: what counts is what it does to the chain.
                    drop(rpc.try_call("chain_head", &json!([])));
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let since = Instant::now();
    let flooded = pace(&cluster)?;
    stop.store(true, Ordering::Relaxed);
    let calls: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    let mut sent = 0;
    for peer in peers {
        sent += runtime.block_on(peer)??;
    }
    let memory = resident_mib(node.pid.context("its process id")?)?;
    println!(
        "blocks in {WATCH:?}: {quiet} quiet, {flooded} flooded by {sent} messages, {} idle connections and {calls} calls in \
         {:?}; node 0 took at most {memory} MiB",
        idle.len(),
        since.elapsed()
    );
    drop(idle);
    ensure!(flooded * 10 >= quiet * 8, "{flooded} blocks beside {quiet}");
    ensure!(memory <= MEMORY_MAX_MIB, "{memory} MiB");
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(log.contains("disconnected for its faults"), "no flooder was dropped");
    ensure!(!log.contains("panicked"), "the log tells of a panic");
    let height = cluster.height(0).context("node 0 answers")?;
    cluster.wait_height(0, height + 2, MINUTE)?;
    ensure!(cluster.stop_all()?.iter().all(|(_, code)| *code == 0), "a node did not drain");
    Ok(())
}
