//! Identities of an adversary in the network. Peer ids cost nothing, so it takes as many as it likes: one that looks like a
//! node, others that know a single victim, or that answer questions with forgeries.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use network::{Event, Events, Multiaddr, Network, NetworkConfig, NetworkHandle, PeerId, Verdict};
use serde::Deserialize;
use types::blob::BlobManifest;
use types::ids::{GenesisHash, Height};
use types::keys::SecretKey;
use types::limits::BLOB_CHUNK_BYTES;
use types::rpc_sync::{Request, Response};

use super::validator::Validator;
use super::validator_forge::{Forgery, forge};

/// Longest wait for a first connection.
const CONNECT: Duration = Duration::from_secs(30);

/// What an identity tells peers that ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answers {
    /// The truth.
    #[default]
    Honest,
    /// Nothing at all: every question runs into its time limit.
    Silent,
    /// Decided blocks that are forged.
    Forged(Forgery),
}

/// Starts an identity. With `single` it holds one connection only and refuses every other.
pub(super) async fn start(
    genesis: GenesisHash,
    node_key: SecretKey,
    bootstrap: Vec<Multiaddr>,
    single: bool,
) -> Result<(NetworkHandle, Events)> {
    let mut config = NetworkConfig::new(genesis, node_key);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.bootstrap = bootstrap;
    config.loopback = true;
    config.agent = "byzantine".into();
    if single {
        config.limits.connections = 1;
        config.limits.reserved_for_validators = 0;
        config.limits.target_peers = 1;
    }
    Ok(Network::start(config).await?)
}

/// Waits until `count` peers are connected and take gossip.
pub(super) async fn connected(net: &NetworkHandle, count: usize) -> Result<()> {
    let deadline = tokio::time::Instant::now() + CONNECT;
    loop {
        let ready = net.peers().iter().filter(|p| p.topics.len() >= 5).count();
        if ready >= count {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{ready} of {count} peers within {} s", CONNECT.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the peer that an address ends with is connected and takes gossip.
pub(super) async fn connected_to(net: &NetworkHandle, address: &str) -> Result<()> {
    let peer: PeerId =
        address.rsplit('/').next().unwrap_or_default().parse().with_context(|| format!("peer of {address}"))?;
    let deadline = tokio::time::Instant::now() + CONNECT;
    while !net.peers().iter().any(|p| p.peer_id == peer && p.topics.len() >= 5) {
        ensure!(tokio::time::Instant::now() < deadline, "{peer} is not connected within {} s", CONNECT.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Dials an address.
pub(super) fn dial(net: &NetworkHandle, address: &str) -> Result<()> {
    let address: Multiaddr = address.parse().with_context(|| format!("address {address}"))?;
    ensure!(net.dial(address).accepted(), "the network takes no dial");
    Ok(())
}

/// The address of an identity, with its peer id.
pub(super) fn address(net: &NetworkHandle) -> Result<String> {
    let address = net.addresses().first().cloned().context("the identity does not listen")?;
    let peer: PeerId = net.peer_id();
    Ok(format!("{address}/p2p/{peer}"))
}

/// Serves one identity until its network ends: hears what is said, and answers as told.
pub(super) async fn serve(who: &Validator, name: &str, net: &NetworkHandle, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Gossip(gossip) => {
                who.chain().hear(&gossip.message);
                net.report(gossip.id, Verdict::Accept);
            }
            Event::Request(request) => {
                if let Some(response) = answer(who, who.answers(name), &request.request) {
                    net.respond(request.token, &response);
                }
            }
            Event::Peer(_) => {}
        }
    }
}

fn answer(who: &Validator, answers: Answers, request: &Request) -> Option<Response> {
    if answers == Answers::Silent {
        return None;
    }
    Some(match request {
        Request::Status => Response::Status { height: who.chain().head().ok()?.height, lowest: Height(1) },
        Request::Blocks { from, count } => {
            let blocks = who.chain().blocks(*from, usize::from(*count).min(64));
            match answers {
                Answers::Forged(forgery) => Response::Blocks(forge(who, forgery, blocks)),
                Answers::Honest | Answers::Silent => Response::Blocks(blocks),
            }
        }
        Request::ProposedBlock { .. } => Response::ProposedBlock(None),
        Request::Votes { .. } => Response::Votes { votes: vec![], proposals: vec![] },
        Request::BlobManifest { hash } => Response::BlobManifest(who.blob(hash).map(|b| BlobManifest::of(&b))),
        Request::BlobChunk { hash, index } => Response::BlobChunk(who.blob(hash).and_then(|bytes| {
            let chunk = usize::try_from(BLOB_CHUNK_BYTES).ok()?;
            bytes.chunks(chunk).nth(usize::try_from(*index).ok()?).map(<[u8]>::to_vec)
        })),
        Request::Verdicts { .. } => Response::Verdicts(vec![]),
        Request::Genesis => Response::Genesis(None),
    })
}
