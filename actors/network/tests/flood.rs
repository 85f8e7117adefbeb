//! Floods over real sockets: gossip at line rate on every topic, frames of every length, answers that nobody reads, and
//! hundreds of idle connections. In each the honest peers go on, and who floods is throttled, then dropped for a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{GENESIS, address, config, hostile, start, vote, wait};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::gossipsub::{self, IdentTopic};
use libp2p::request_response::{self as rr, Codec, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use network::{Event, Events, Multiaddr, NetworkHandle, Verdict};
use types::Wire;
use types::gossip::Topic;
use types::ids::{BlobHash, Height};
use types::rpc_sync::{Request, Response};

const SECONDS: Duration = Duration::from_secs(20);
/// Longest time until a flooder is cut off; the bursts alone take a moment to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most memory that unread answers may cost all nodes in this process together, KiB.
const MEMORY_MAX_KIB: u64 = 400 << 10;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// An honest node that votes twenty times a second, and the target that accepts its votes: the longest gap between two.
struct Pulse {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    gap_ms: Arc<AtomicU64>,
}

impl Pulse {
    fn start(sender: &NetworkHandle, target: &NetworkHandle, mut events: Events) -> Self {
        let (stop, arrived, gap_ms) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let pulse = Self { stop: stop.clone(), arrived, gap_ms };
        let (sender, honest) = (sender.clone(), sender.peer_id());
        tokio::spawn(async move {
            let mut height = 1_000_000;
            while !stop.load(Ordering::Relaxed) {
                height += 1;
                sender.publish(&vote(2, height));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let (target, arrived, gap_ms) = (target.clone(), pulse.arrived.clone(), pulse.gap_ms.clone());
        tokio::spawn(async move {
            let mut last: Option<Instant> = None;
            while let Some(event) = events.next().await {
                match event {
                    Event::Gossip(gossip) => {
                        let ours = gossip.source == honest;
                        target.report(gossip.id, if ours { Verdict::Accept } else { Verdict::Ignore });
                        if ours {
                            arrived.fetch_add(1, Ordering::Relaxed);
                            let gap = last.replace(Instant::now()).map_or(0, |at| at.elapsed().as_millis());
                            gap_ms.fetch_max(u64::try_from(gap).unwrap(), Ordering::Relaxed);
                        }
                    }
                    Event::Request(asked) => {
                        let answer = match asked.request {
                            Request::Status => Response::Status { height: Height(1), lowest: Height(1) },
                            _ => Response::BlobChunk(Some(vec![7; 256 << 10])),
                        };
                        target.respond(asked.token, &answer);
                    }
                    Event::Peer(_) => {}
                }
            }
        });
        pulse
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    async fn beats(&self, what: &str) {
        let before = self.arrived();
        wait(what, SECONDS, || self.arrived() >= before + 20).await;
    }

    fn gap(&self) -> u64 {
        self.gap_ms.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A target, and an honest node in its mesh whose votes arrive.
async fn honest_pair() -> (NetworkHandle, NetworkHandle, Pulse) {
    let (target, events) = start(config(1, &[])).await;
    let (honest, _) = start(config(2, &[address(&target)])).await;
    wait("meshed", SECONDS, || honest.mesh_status().iter().all(|m| m.mesh.len() == 1)).await;
    let pulse = Pulse::start(&honest, &target, events);
    pulse.beats("votes before the flood").await;
    (target, honest, pulse)
}

/// Publishes messages of `bytes` bytes as fast as the connection takes them, until it is cut.
async fn flood(swarm: &mut Swarm<gossipsub::Behaviour>, topic: Topic, bytes: usize) -> u64 {
    let hash = IdentTopic::new(topic.on_chain(&GENESIS));
    let (since, mut sent) = (Instant::now(), 0u64);
    loop {
        assert!(since.elapsed() < PATIENCE, "{topic:?}: not cut off after {sent} messages in {PATIENCE:?}");
        // A version that the node does not know is nobody's fault: what counts here is the flood alone.
        let mut data = vec![9, 9];
        data.extend_from_slice(&sent.to_le_bytes());
        data.resize(bytes, 0);
        let full = match swarm.behaviour_mut().publish(hash.clone(), data) {
            Ok(_) => {
                sent += 1;
                sent.is_multiple_of(64)
            }
            Err(_) => true,
        };
        if !full {
            continue;
        }
        loop {
            match tokio::time::timeout(Duration::from_millis(2), swarm.select_next_some()).await {
                Ok(SwarmEvent::ConnectionClosed { .. }) => return sent,
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gossip_flood_is_throttled_then_cut_off_on_every_topic() {
    let (target, honest, pulse) = honest_pair().await;
    for (topic, bytes) in [
        (Topic::Consensus, 300),
        (Topic::Block, 400 << 10),
        (Topic::Tx, 60 << 10),
        (Topic::Tx, 200),
        (Topic::Verdict, 400),
        (Topic::Presence, 500),
    ] {
        pulse.gap();
        let cut = target.metrics().fault_disconnects_total;
        let mut swarm = hostile(&address(&target), &Topic::ALL).await;
        let since = Instant::now();
        let sent = flood(&mut swarm, topic, bytes).await;
        println!("{topic:?} x {bytes} bytes: cut after {sent} in {:?}, honest gap {} ms", since.elapsed(), pulse.gap());
        wait("dropped for its faults", SECONDS, || target.metrics().fault_disconnects_total > cut).await;
        assert!(target.metrics().topic(topic).over_rate >= 40, "{:?}", target.metrics().topic(topic));
        pulse.beats("votes after the flood").await;
    }
    assert!(target.peers().iter().any(|p| p.peer_id == honest.peer_id() && p.fault_points == 0.0));
    drop(pulse);
    for handle in [target, honest] {
        handle.shutdown().await;
    }
}

/// Writes what it is given as a request, whatever the frame ought to be; reads the answer or leaves it lying.
#[derive(Clone, Copy)]
struct Raw {
    read: bool,
}

impl Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = usize;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
    ) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<usize> {
        if !self.read {
            // The answer stays in the sender's buffers.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        let mut answer = vec![];
        futures::AsyncReadExt::read_to_end(io, &mut answer).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: usize,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

type RawPeer = Swarm<rr::Behaviour<Raw>>;

async fn raw_peer(target: &Multiaddr, protocol: &str, read: bool) -> RawPeer {
    let protocol = StreamProtocol::try_from_owned(format!("/proofmesh/{GENESIS}/{protocol}/1")).unwrap();
    let settings =
        rr::Config::default().with_request_timeout(Duration::from_secs(3600)).with_max_concurrent_streams(256);
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| rr::Behaviour::with_codec(Raw { read }, [(protocol, ProtocolSupport::Outbound)], settings))
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(600)))
        .build();
    swarm.dial(target.clone()).unwrap();
    loop {
        let event = tokio::time::timeout(SECONDS, swarm.select_next_some()).await.expect("connects");
        if matches!(event, SwarmEvent::ConnectionEstablished { .. }) {
            return swarm;
        }
    }
}

fn framed(length: u32, bytes: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), bytes].concat()
}

/// Sends requests one after the other until the connection is cut; the answer to each is waited for a moment.
async fn until_cut(swarm: &mut RawPeer, target: &NetworkHandle, mut request: impl FnMut(u64) -> Vec<u8>) -> u64 {
    let (since, mut sent) = (Instant::now(), 0);
    loop {
        assert!(since.elapsed() < PATIENCE, "not cut off after {sent} requests");
        swarm.behaviour_mut().send_request(&target.peer_id(), request(sent));
        sent += 1;
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(20), swarm.select_next_some()).await {
            match event {
                SwarmEvent::ConnectionClosed { .. } => return sent,
                SwarmEvent::Behaviour(_) => break,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giant_tiny_garbled_and_endless_requests_cost_the_connection() {
    let (target, honest, pulse) = honest_pair().await;
    let status = Request::Status.to_bytes();
    let length = u32::try_from(status.len()).unwrap();
    let cases = [
        ("giant", "sync"),
        ("garbled", "sync"),
        ("endless", "sync"),
        ("broken", "sync"),
        ("newer", "sync"),
        ("giant", "peers"),
        ("empty", "peers"),
    ];
    for (what, protocol) in cases {
        let cut = target.metrics().fault_disconnects_total;
        let mut swarm = raw_peer(&address(&target), protocol, true).await;
        let sent = until_cut(&mut swarm, &target, |n| match what {
            "giant" => framed(u32::MAX, &[0; 64]),
            "broken" => framed(100, &[1, 0]),
            "newer" => framed(4, &[9, 0, 1, 2]),
            "empty" => framed(0, &[]),
            "garbled" => framed(4, &[1, 0, 200, u8::try_from(n % 256).unwrap()]),
            _ => framed(length, &status),
        })
        .await;
        println!("{what} on {protocol}: cut after {sent}, honest gap {} ms", pulse.gap());
        wait("dropped for its faults", SECONDS, || target.metrics().fault_disconnects_total > cut).await;
        pulse.beats("votes after it").await;
    }
    assert!(target.peers().iter().any(|p| p.peer_id == honest.peer_id() && p.fault_points == 0.0));
    drop(pulse);
    for handle in [target, honest] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_leave_room_for_others() {
    let mut small = config(1, &[]);
    // Eight chunks at once for everybody: the share of one peer is one.
    small.limits.response_bytes = 2 << 20;
    let (target, events) = start(small).await;
    let (honest, _) = start(config(2, &[address(&target)])).await;
    wait("meshed", SECONDS, || honest.mesh_status().iter().all(|m| m.mesh.len() == 1)).await;
    let pulse = Pulse::start(&honest, &target, events);
    let chunk = Request::BlobChunk { hash: BlobHash::new([1; 32]), index: 0 }.to_bytes();
    let request = framed(u32::try_from(chunk.len()).unwrap(), &chunk);
    let before = resident_kib();
    let mut lazy = vec![];
    for _ in 0..3 {
        let mut swarm = raw_peer(&address(&target), "sync", false).await;
        for _ in 0..64 {
            swarm.behaviour_mut().send_request(&target.peer_id(), request.clone());
        }
        lazy.push(tokio::spawn(async move { while swarm.next().await.is_some() {} }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        let answer = honest.request(target.peer_id(), Request::Status).await;
        assert!(matches!(answer, Ok(Response::Status { .. })), "{answer:?}");
        pulse.beats("votes beside idle readers").await;
    }
    assert!(target.metrics().response_bytes_in_flight <= 2 << 20, "{:?}", target.metrics());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < MEMORY_MAX_KIB, "{grown} KiB");
    lazy.iter().for_each(tokio::task::JoinHandle::abort);
    drop(pulse);
    for handle in [target, honest] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_connections_do_not_push_honest_peers_out() {
    let (target, honest, pulse) = honest_pair().await;
    let port = address(&target).to_string().rsplit('/').next().unwrap().to_owned();
    let mut idle = vec![];
    for _ in 0..500 {
        // Refused or not: the attacker tries.
        if let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")))
                .await
        {
            idle.push(stream);
        }
    }
    println!("{} connections opened", idle.len());
    pulse.beats("votes beside idle connections").await;
    assert_eq!(target.peers().len(), 1, "none of them is a peer");
    // Half-open connections lapse, and then a new node comes in although the attacker holds on to its ends.
    let (late, _events) = start(config(3, &[address(&target)])).await;
    let took = wait("a late node joins", PATIENCE, || !late.peers().is_empty()).await;
    println!("a node joined {took:?} after the flood, honest gap {} ms", pulse.gap());
    drop((idle, pulse));
    for handle in [target, honest, late] {
        handle.shutdown().await;
    }
}
