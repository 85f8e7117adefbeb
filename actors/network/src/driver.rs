//! The swarm's thread: its start, its loop, its clean end. What each kind of event does is in the submodules.
//!
//! Nothing here blocks or works for long; records are encoded and decoded elsewhere, except the small ones that decide
//! about forwarding.

mod gossip;
mod peers;
mod sync;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use libp2p::gossipsub::TopicHash;
use libp2p::metrics::{Metrics, Recorder, Registry};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use types::gossip::Topic;
use types::ids::TimeMs;

use crate::behaviour::{Protocols, ProtocolsEvent};
use crate::book::{Book, Dial};
use crate::codec::ByteCounters;
use crate::config::{NetworkConfig, identity_of, ip_of, socket_of};
use crate::error::NetworkError;
use crate::event::{Events, Lanes, MessageId, Verdict};
use crate::gossip::Pending;
use crate::handle::{Command, Fixed, Inputs, NetworkHandle, OutgoingRequest, Publication};
use crate::metrics::NetworkMetrics;
use crate::penalty::Ledger;
use crate::requests::{Inbound, Outbound};
use crate::rules::{HEARTBEAT, topic_hash};
use crate::shared::Shared;

/// Time for listeners to come up.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);
/// Time at the end for queued messages to leave, and then for connections to close.
const DRAIN: Duration = Duration::from_millis(150);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Receiving ends of [`Inputs`].
struct Intake {
    publications: mpsc::Receiver<Publication>,
    verdicts: mpsc::Receiver<(MessageId, Verdict)>,
    requests: mpsc::Receiver<OutgoingRequest>,
    responses: mpsc::Receiver<(u64, Vec<u8>)>,
    commands: mpsc::Receiver<Command>,
}

/// Queue lengths: see the methods of [`NetworkHandle`].
fn inputs() -> (Inputs, Intake) {
    let (publications, publications_out) = mpsc::channel(1024);
    let (verdicts, verdicts_out) = mpsc::channel(8192);
    let (requests, requests_out) = mpsc::channel(256);
    let (responses, responses_out) = mpsc::channel(256);
    let (commands, commands_out) = mpsc::channel(256);
    let intake = Intake {
        publications: publications_out,
        verdicts: verdicts_out,
        requests: requests_out,
        responses: responses_out,
        commands: commands_out,
    };
    (Inputs { publications, verdicts, requests, responses, commands }, intake)
}

/// A connected peer.
struct Peer {
    connection: ConnectionId,
    address: Multiaddr,
    outbound: bool,
    since: Instant,
    agent: String,
    rtt: Option<Duration>,
    ping_failures: u8,
}

/// An own message that had no subscriber yet.
struct Retry {
    at: Instant,
    attempt: u32,
    publication: Publication,
}

/// Everything the thread owns.
struct Driver {
    swarm: Swarm<Protocols>,
    config: NetworkConfig,
    local: PeerId,
    shared: Arc<Shared>,
    lanes: Lanes,
    intake: Intake,
    bytes: Arc<ByteCounters>,
    libp2p_metrics: Metrics,
    metrics: NetworkMetrics,
    topics: HashMap<TopicHash, Topic>,
    topic_metrics: BTreeMap<&'static str, crate::metrics::TopicCounters>,
    pending: Pending,
    retries: VecDeque<Retry>,
    presence_rates: HashMap<PeerId, crate::quota::Bucket>,
    gossip_rates: HashMap<PeerId, crate::rates::Rates>,
    outbound: Outbound,
    inbound: Inbound,
    book: Book,
    ledger: Ledger,
    peers: BTreeMap<PeerId, Peer>,
    dials: HashMap<ConnectionId, Dial>,
    /// Peers of another chain, refused until then.
    strangers: HashMap<PeerId, Instant>,
    bounces: HashMap<PeerId, (u32, Instant)>,
    peers_asked: Instant,
    ticks: u64,
}

/// What the thread says when it listens.
struct Started {
    peer_id: PeerId,
    registry: Registry,
}

/// Starts the thread and waits until it listens.
pub(crate) async fn start(config: NetworkConfig) -> Result<(NetworkHandle, Events), NetworkError> {
    config.check()?;
    let (inputs, intake) = inputs();
    let (lanes, events) = Events::channels();
    let shared = Arc::new(Shared::default());
    let (started, ready) = oneshot::channel();
    let (genesis, node_key) = (config.genesis, config.node_key.clone());
    let request_timeout = config.limits.request_timeout.saturating_add(Duration::from_secs(1));
    let for_thread = shared.clone();
    let thread = thread::Builder::new().name("network".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The starter may have given up; then nobody wants the error.
                let _ = started.send(Err(NetworkError::Thread(error)));
                return;
            }
        };
        runtime.block_on(serve(config, for_thread, lanes, intake, started));
    })?;
    let ended = || NetworkError::Thread(std::io::Error::other("the network thread ended before it listened"));
    let Started { peer_id, registry } = ready.await.map_err(|_| ended())??;
    let thread = Mutex::new(Some(thread));
    let fixed = Arc::new(Fixed { peer_id, genesis, node_key, request_timeout, registry, thread });
    Ok((NetworkHandle { inputs, shared, fixed }, events))
}

/// The thread's life.
async fn serve(
    config: NetworkConfig,
    shared: Arc<Shared>,
    lanes: Lanes,
    intake: Intake,
    started: oneshot::Sender<Result<Started, NetworkError>>,
) {
    let mut registry = Registry::default();
    let mut driver = match Driver::new(config, shared, lanes, intake, &mut registry) {
        Ok(driver) => driver,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    if let Err(error) = driver.listen().await {
        let _ = started.send(Err(error));
        return;
    }
    driver.publish_snapshot();
    if started.send(Ok(Started { peer_id: driver.local, registry })).is_err() {
        return;
    }
    let done = driver.run().await;
    driver.close().await;
    driver.publish_snapshot();
    if let Some(done) = done {
        let _ = done.send(());
    }
}

impl Driver {
    fn new(
        config: NetworkConfig,
        shared: Arc<Shared>,
        lanes: Lanes,
        intake: Intake,
        registry: &mut Registry,
    ) -> Result<Self, NetworkError> {
        let key = identity_of(&config.node_key)?;
        let local = key.public().to_peer_id();
        let bytes = Arc::new(ByteCounters::default());
        let libp2p_metrics = Metrics::new(registry);
        let protocols = Protocols::new(&config, &key, registry, &bytes)?;
        let secure = |e: noise::Error| NetworkError::Config {
            field: "node_key",
            value: "(secret)".into(),
            reason: e.to_string(),
        };
        let swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, multiplexer)
            .map_err(secure)?
            .with_bandwidth_metrics(registry)
            .with_behaviour(|_| protocols)
            .map_err(|never: Infallible| -> NetworkError { match never {} })?
            // Connections are closed by rules of our own, never for being quiet.
            .with_swarm_config(|c| {
                c.with_idle_connection_timeout(Duration::from_secs(365 * 24 * 3600))
                    .with_max_negotiating_inbound_streams(32)
            })
            .with_connection_timeout(Duration::from_secs(10))
            .build();
        let now = Instant::now();
        let topics = Topic::ALL.iter().map(|t| (topic_hash(*t, &config.genesis), *t)).collect();
        Ok(Self {
            swarm,
            local,
            shared,
            lanes,
            intake,
            bytes,
            libp2p_metrics,
            metrics: NetworkMetrics::default(),
            topics,
            topic_metrics: Topic::ALL.iter().map(|t| (t.name(), Default::default())).collect(),
            pending: Pending::default(),
            retries: VecDeque::new(),
            presence_rates: HashMap::new(),
            gossip_rates: HashMap::new(),
            outbound: Outbound::new(&config.limits),
            inbound: Inbound::new(&config.limits),
            book: Book::new(local, config.loopback, &config.bootstrap, now),
            ledger: Ledger::default(),
            peers: BTreeMap::new(),
            dials: HashMap::new(),
            strangers: HashMap::new(),
            bounces: HashMap::new(),
            peers_asked: now,
            ticks: 0,
            config,
        })
    }

    /// Listens on all configured addresses; returns when each is up.
    async fn listen(&mut self) -> Result<(), NetworkError> {
        let mut waiting = HashMap::new();
        for address in self.config.listen.clone() {
            let failed = |reason: String| NetworkError::Listen { address: address.clone(), reason };
            // libp2p listens with SO_REUSEPORT, so that two nodes on one port would each get half of the connections.
            if let Some(socket) = socket_of(&address) {
                try_port(socket).map_err(|e| failed(e.to_string()))?;
            }
            let id = self.swarm.listen_on(address.clone()).map_err(|e| failed(format!("{e:?}")))?;
            waiting.insert(id, address);
        }
        for address in self.config.external.clone() {
            self.swarm.add_external_address(address);
        }
        let deadline = tokio::time::Instant::now() + LISTEN_LIMIT;
        while !waiting.is_empty() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some());
            match event.await.map_err(|_| NetworkError::ListenTimeout { waited: LISTEN_LIMIT })? {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.remove(&listener_id);
                    self.refresh_addresses();
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    if let Some(address) = waiting.remove(&listener_id) {
                        let reason = reason.err().map_or_else(|| "closed".to_owned(), |e| e.to_string());
                        return Err(NetworkError::Listen { address, reason });
                    }
                }
                other => self.on_swarm_event(other),
            }
        }
        Ok(())
    }

    /// The loop. Ends with a shutdown command or when all handles are gone.
    async fn run(&mut self) -> Option<oneshot::Sender<()>> {
        let mut tick = tokio::time::interval(HEARTBEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some((id, verdict)) = self.intake.verdicts.recv() => self.judge(id, verdict),
                Some(publication) = self.intake.publications.recv() => self.publish(publication, 0),
                Some(request) = self.intake.requests.recv() => self.send_request(request),
                Some((token, bytes)) = self.intake.responses.recv() => self.send_response(token, bytes),
                _ = tick.tick() => self.tick(),
                command = self.intake.commands.recv() => match command {
                    None => return None,
                    Some(Command::Shutdown(done)) => return Some(done),
                    Some(Command::Penalise(peer, fault)) => self.penalise(peer, fault),
                    Some(Command::Dial(address)) => self.dial(Dial { peer: None, addresses: vec![address] }),
                    Some(Command::Disconnect(peer)) => self.disconnect(peer),
                },
            }
        }
    }

    /// Lets queued messages leave, then closes all connections.
    async fn close(&mut self) {
        while let Ok(publication) = self.intake.publications.try_recv() {
            self.publish(publication, 0);
        }
        self.swarm.behaviour_mut().gate.drain();
        let flushed = tokio::time::Instant::now() + DRAIN;
        while let Ok(event) = tokio::time::timeout_at(flushed, self.swarm.select_next_some()).await {
            self.on_swarm_event(event);
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            self.disconnect(peer);
        }
        let deadline = tokio::time::Instant::now() + CLOSE_LIMIT;
        while self.swarm.connected_peers().next().is_some() {
            match tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await {
                Ok(event) => self.on_swarm_event(event),
                Err(_) => return,
            }
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<ProtocolsEvent>) {
        self.libp2p_metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(ProtocolsEvent::Gossip(event)) => {
                self.libp2p_metrics.record(&event);
                self.on_gossip(event);
            }
            SwarmEvent::Behaviour(ProtocolsEvent::Sync(event)) => self.on_sync(event),
            SwarmEvent::Behaviour(ProtocolsEvent::Peers(event)) => self.on_peer_list(event),
            SwarmEvent::Behaviour(ProtocolsEvent::Identify(event)) => {
                self.libp2p_metrics.record(&event);
                self.on_identify(event);
            }
            SwarmEvent::Behaviour(ProtocolsEvent::Ping(event)) => {
                self.libp2p_metrics.record(&event);
                self.on_ping(event);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_disconnected(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, peer_id, .. } => {
                debug!(?peer_id, %error, "incoming connection refused");
                crate::metrics::count(&mut self.metrics.refused_total);
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.refresh_addresses(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                warn!(?addresses, ?reason, "listener closed");
                self.refresh_addresses();
            }
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "listener"),
            _ => {}
        }
    }

    /// Addresses to tell others: the configured external ones, else those listened on that others may reach.
    fn refresh_addresses(&self) {
        let mut addresses = self.config.external.clone();
        if addresses.is_empty() {
            let reachable = |a: &&Multiaddr| ip_of(a).is_some_and(|ip| self.config.loopback || !ip.is_loopback());
            addresses = self.swarm.listeners().filter(reachable).cloned().collect();
            addresses.sort_by_key(|a| (ip_of(a).is_none_or(|ip| !ip.is_loopback()), a.to_string()));
        }
        *self.shared.addresses_mut() = addresses;
    }

    /// Every heartbeat: what has expired, whom to dial, what to show.
    fn tick(&mut self) {
        let now = Instant::now();
        self.ticks = self.ticks.wrapping_add(1);
        self.expire_messages(now);
        self.retry_publications(now);
        self.dial_plan(now);
        if self.ticks.is_multiple_of(4) {
            self.inspect_peers(now);
            let peers = &self.peers;
            self.inbound.settle(now, |peer| peers.contains_key(peer));
        }
        self.publish_snapshot();
    }
}

/// Each stream of a peer may hold 256 KiB unread before it proves to be of use; so many are 24 MiB a connection.
fn multiplexer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(96);
    config
}

/// The machine's clock, for the age of presence records only.
fn wall_clock() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether nobody listens on a port. Binds and does not listen: a child process that is being made at this moment holds a copy of
/// the socket for a while, and a copy that listened would be in the way of libp2p's.
fn try_port(address: SocketAddr) -> std::io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier run that are closing are no obstacle; one that listens still is.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}
