//! Nodes on real loopback sockets for the tests: start, wait with a limit, sample messages, a raw gossip peer for
//! attacks.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several test programs; tests may panic"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder, noise, tcp, yamux};
use network::{Event, Events, GossipMessage, Multiaddr, Network, NetworkConfig, NetworkHandle, PresenceInput, Verdict};
use tokio::task::JoinHandle;
use types::block::{Block, HEADER_VERSION, Header};
use types::gossip::{ConsensusMessage, ProposalMessage, Topic, TxMessage};
use types::ids::{BlockId, Digest, GenesisHash, Height, JobId, Round, StateRoot, StatementDigest, TimeMs, TxId};
use types::keys::SecretKey;
use types::transaction::AvailabilitySig;
use types::verdict::{Claim, FailureReason, ProofVote, Verdict as ProofVerdict, VoteSubject};
use types::vote::{Proposal, Vote, VoteKind};

pub(crate) const GENESIS: GenesisHash = GenesisHash::new([7; 32]);

/// The node key and the validator key of node `n`.
pub(crate) fn keys(n: u8) -> (SecretKey, SecretKey) {
    (SecretKey::from_seed([n; 32]), SecretKey::from_seed([n ^ 0x80; 32]))
}

/// Settings of node `n` on a free loopback port.
pub(crate) fn config(n: u8, bootstrap: &[Multiaddr]) -> NetworkConfig {
    let mut config = NetworkConfig::new(GENESIS, keys(n).0);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.bootstrap = bootstrap.to_vec();
    config.loopback = true;
    config.agent = format!("test-{n}");
    config
}

pub(crate) async fn start(config: NetworkConfig) -> (NetworkHandle, Events) {
    Network::start(config).await.unwrap()
}

/// The address of a node, without its peer id.
pub(crate) fn address(handle: &NetworkHandle) -> Multiaddr {
    handle.addresses().first().unwrap().clone()
}

pub(crate) fn wall_clock() -> TimeMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    TimeMs(u64::try_from(since.as_millis()).unwrap())
}

/// Announces a node now, signed by its validator key.
pub(crate) fn announce(handle: &NetworkHandle, n: u8) {
    let validator = keys(n).1;
    let input =
        PresenceInput { height: Height(1), time_ms: wall_clock(), prover: None, validator: Some(validator.public()) };
    let presence = handle.presence(input);
    let signature = presence.validator_signature(&validator, &GENESIS);
    handle.announce(presence, Some(signature));
}

/// Announces a node every half second until stopped.
pub(crate) struct Announcer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Announcer {
    pub(crate) fn start(handle: &NetworkHandle, n: u8) -> Self {
        let (stop, handle) = (Arc::new(AtomicBool::new(false)), handle.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                announce(&handle, n);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Waits until a condition holds; fails the test when it does not in time.
pub(crate) async fn wait(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

/// The next gossip message within a limit; other events are passed over.
pub(crate) async fn next_gossip(events: &mut Events, limit: Duration) -> Option<network::Gossip> {
    tokio::time::timeout(limit, async {
        loop {
            match events.next().await? {
                Event::Gossip(gossip) => return Some(gossip),
                Event::Request(_) | Event::Peer(_) => {}
            }
        }
    })
    .await
    .ok()
    .flatten()
}

/// Accepts everything and collects it.
pub(crate) fn accept_all(handle: &NetworkHandle, mut events: Events) -> tokio::sync::mpsc::Receiver<network::Gossip> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4096);
    let handle = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Gossip(gossip) = event {
                handle.report(gossip.id, Verdict::Accept);
                sender.send(gossip).await.unwrap();
            }
        }
    });
    receiver
}

pub(crate) fn vote(n: u8, height: u64) -> GossipMessage {
    let key = keys(n).1;
    let vote =
        Vote { kind: VoteKind::Prevote, height: Height(height), round: Round(0), value: None, validator: key.public() };
    GossipMessage::Consensus(Box::new(ConsensusMessage::Vote { vote: vote.sign(&key, &GENESIS), resend: 0 }))
}

pub(crate) fn block(n: u8, height: u64) -> GossipMessage {
    let key = keys(n).1;
    let zero = Digest::new([0; 32]);
    let header = Header {
        version: HEADER_VERSION,
        genesis: GENESIS,
        height: Height(height),
        time_ms: TimeMs(1),
        proposer: key.public(),
        parent: BlockId::new([0; 32]),
        last_commit: zero,
        transactions: zero,
        state_root: StateRoot::new([0; 32]),
        evidence: zero,
        validators: zero,
        next_validators: zero,
        params: zero,
        seed: zero,
    };
    let block = Block { header, last_commit: None, transactions: vec![] };
    let proposal = Proposal {
        height: Height(height),
        round: Round(0),
        value: block.id(),
        pol_round: None,
        proposer: key.public(),
    };
    GossipMessage::Proposal(Box::new(ProposalMessage { proposal: proposal.sign(&key, &GENESIS), block }))
}

pub(crate) fn tx(n: u8, height: u64) -> GossipMessage {
    let key = keys(n).1;
    let signature = key.sign(types::signing::Domain::Availability, &GENESIS, &height.to_le_bytes());
    let signature = AvailabilitySig { validator: key.public(), signature };
    let mut id = [0; 32];
    id[..8].copy_from_slice(&height.to_le_bytes());
    GossipMessage::Tx(Box::new(TxMessage::Availability { tx: TxId::new(id), signature }))
}

pub(crate) fn verdict(n: u8, height: u64) -> GossipMessage {
    let key = keys(n).1;
    let subject = VoteSubject {
        job: JobId::new([1; 32]),
        task: 0,
        attempt: 0,
        height: Height(height),
        prover: key.public(),
        statement: StatementDigest::new([2; 32]),
        claim: Claim::Failure { reason: FailureReason::Hint, steps: 1 },
        verifier: 1,
    };
    let vote = ProofVote { subject, verdict: ProofVerdict::Valid, validator: key.public() };
    GossipMessage::Verdict(Box::new(vote.sign(&key, &GENESIS)))
}

/// One message of each topic that the node judges.
pub(crate) fn one_of_each(n: u8, height: u64) -> [GossipMessage; 4] {
    [vote(n, height), block(n, height), tx(n, height), verdict(n, height)]
}

/// A gossipsub peer that sends what it likes.
pub(crate) async fn hostile(target: &Multiaddr, topics: &[Topic]) -> Swarm<gossipsub::Behaviour> {
    let settings = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/proofmesh/{GENESIS}/meshsub"))
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(Duration::from_millis(250))
        .max_transmit_size(4 << 20)
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(|m| MessageId::new(&m.data))
        .build()
        .unwrap();
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, settings).unwrap())
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    swarm.behaviour_mut().subscribe(&IdentTopic::new("/elsewhere/1")).unwrap();
    for topic in topics {
        swarm.behaviour_mut().subscribe(&IdentTopic::new(topic.on_chain(&GENESIS))).unwrap();
    }
    swarm.dial(target.clone()).unwrap();
    let mut subscribed = 0;
    while subscribed < Topic::ALL.len() {
        let event =
            tokio::time::timeout(Duration::from_secs(10), swarm.select_next_some()).await.expect("target subscribes");
        if let SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }) = event {
            subscribed += 1;
        }
    }
    swarm
}
