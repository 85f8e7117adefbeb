//! Peers in the swarm's thread: connections, the dial plan, faults, the binding of validators, the mesh doctor, the
//! snapshot.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, identify, ping};
use tracing::{debug, info, warn};
use types::gossip::Topic;
use types::ids::TimeMs;
use types::keys::PublicKey;

use super::{Driver, Peer, wall_clock};
use crate::behaviour::protocol_version;
use crate::book::Dial;
use crate::config::ip_of;
use crate::event::PeerEvent;
use crate::gate::Refused;
use crate::metrics::count;
use crate::penalty::{Fault, Sanction};
use crate::rules::{GRAYLIST, SCORE_BOOTSTRAP, SCORE_FAULT_POINT, SCORE_VALIDATOR, topic_hash};
use crate::shared::{PeerInfo, Snapshot, TopicMesh};

/// How long a peer of another chain is refused.
const STRANGER: Duration = Duration::from_secs(60);
/// Next dial of a peer that was disconnected for its faults.
const FAULT_PAUSE: Duration = Duration::from_secs(10);
/// Pings lost in a row before a connection counts as dead.
const PINGS_LOST: u8 = 2;
/// Time between questions for more peers, while there are fewer than wanted.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// First pause of the mesh doctor for one peer; doubles up to ten minutes.
const DOCTOR_PAUSE: Duration = Duration::from_secs(20);
/// Bound on the small tables about peers that may no longer be connected.
const NOTES_MAX: usize = 1024;

impl Driver {
    pub(super) fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let (address, outbound) = (endpoint.get_remote_address().clone(), endpoint.is_dialer());
        count(&mut self.metrics.connected_total);
        self.dials.remove(&connection);
        self.book.connected(peer, outbound.then_some(&address), now);
        debug!(peer = %peer, %address, outbound, "connected");
        let entry = Peer {
            connection,
            address: address.clone(),
            outbound,
            since: now,
            agent: String::new(),
            rtt: None,
            ping_failures: 0,
        };
        self.peers.insert(peer, entry);
        self.apply_score(&peer, now);
        if self.lanes.peers.try_send(PeerEvent::Connected { peer, address, outbound }).is_err() {
            debug!(peer = %peer, "peer event dropped");
        }
        self.publish_snapshot();
    }

    pub(super) fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.peers.get(&peer).is_none_or(|p| p.connection != connection) {
            return;
        }
        self.peers.remove(&peer);
        count(&mut self.metrics.disconnected_total);
        self.book.disconnected(&peer, Instant::now());
        self.outbound.disconnected(&peer);
        self.presence_rates.remove(&peer);
        self.gossip_rates.remove(&peer);
        if self.lanes.peers.try_send(PeerEvent::Disconnected { peer }).is_err() {
            debug!(peer = %peer, "peer event dropped");
        }
        self.publish_snapshot();
    }

    /// Starts a dial; a failure to start counts like a failed dial.
    pub(super) fn dial(&mut self, dial: Dial) {
        let options = match (dial.peer, dial.addresses.first()) {
            (Some(peer), _) => {
                let options = DialOpts::peer_id(peer).addresses(dial.addresses.clone());
                options.condition(PeerCondition::DisconnectedAndNotDialing).build()
            }
            (None, Some(address)) => DialOpts::unknown_peer_id().address(address.clone()).build(),
            (None, None) => return,
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(id, dial);
            }
            Err(error) => {
                debug!(peer = ?dial.peer, %error, "dial not started");
                self.book.dial_failed(dial.peer, &dial.addresses, Instant::now());
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let now = Instant::now();
        let Some(dial) = self.dials.remove(&connection) else { return };
        match error {
            DialError::LocalPeerId { address } => self.book.is_own(address),
            DialError::Denied { cause } => {
                count(&mut self.metrics.refused_total);
                let connected = peer.filter(|p| self.peers.contains_key(p));
                match (connected, cause.downcast_ref::<Refused>()) {
                    // The address leads to a peer that is connected already: learn that, and be content.
                    (Some(peer), Some(Refused::Duplicate)) => self.book.connected(peer, dial.addresses.first(), now),
                    _ => self.book.dial_failed(dial.peer, &dial.addresses, now),
                }
            }
            error => {
                debug!(peer = ?dial.peer, %error, "dial failed");
                count(&mut self.metrics.dial_failures_total);
                self.book.dial_failed(dial.peer, &dial.addresses, now);
            }
        }
    }

    /// Starts the dials that are due, while fewer peers are connected than wanted.
    pub(super) fn dial_plan(&mut self, now: Instant) {
        let limits = &self.config.limits;
        let busy = self.peers.len().saturating_add(self.dials.len());
        let pending = usize::try_from(limits.pending_out).unwrap_or(usize::MAX).saturating_sub(self.dials.len());
        let room = limits.target_peers.saturating_sub(busy).min(pending);
        if room == 0 {
            return;
        }
        let (peers, ledger, strangers) = (&self.peers, &self.ledger, &self.strangers);
        let skip = |p: &PeerId| peers.contains_key(p) || ledger.is_banned(p) || strangers.contains_key(p);
        for dial in self.book.due(room, now, skip) {
            self.dial(dial);
        }
        let asked = now.saturating_duration_since(self.peers_asked);
        if asked >= ASK_AGAIN {
            // Rotates through the peers with the ticks.
            let nth = usize::try_from(self.ticks).unwrap_or(0).checked_rem(self.peers.len()).unwrap_or(0);
            if let Some(peer) = self.peers.keys().nth(nth).copied() {
                self.ask_for_peers(&peer);
            }
        }
    }

    pub(super) fn disconnect(&mut self, peer: PeerId) {
        if self.swarm.disconnect_peer_id(peer).is_err() {
            debug!(peer = %peer, "was not connected");
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id: peer, info, .. } = event else { return };
        let now = Instant::now();
        if info.protocol_version != protocol_version(&self.config.genesis) {
            info!(peer = %peer, theirs = %info.protocol_version, "peer is of another chain");
            if self.strangers.len() < NOTES_MAX {
                self.strangers.insert(peer, now + STRANGER);
                self.swarm.behaviour_mut().gate.ban(peer);
            }
            self.disconnect(peer);
            self.book.put_off(&peer, STRANGER, now);
            self.book.forget(&peer);
            return;
        }
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let first = entry.agent.is_empty();
        entry.agent = info.agent_version.chars().take(64).collect();
        // Loopback addresses of a peer on another machine lead nowhere.
        let local = ip_of(&entry.address).is_some_and(|ip| ip.is_loopback());
        let reachable = |a: &Multiaddr| ip_of(a).is_some_and(|ip| local || !ip.is_loopback());
        self.book.note_identified(peer, info.listen_addrs.into_iter().take(16).filter(reachable).collect(), now);
        if first {
            self.ask_for_peers(&peer);
        }
    }

    pub(super) fn on_ping(&mut self, event: ping::Event) {
        let Some(entry) = self.peers.get_mut(&event.peer) else { return };
        match event.result {
            Ok(rtt) => {
                entry.rtt = Some(rtt);
                entry.ping_failures = 0;
            }
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                entry.ping_failures = entry.ping_failures.saturating_add(1);
                if entry.ping_failures >= PINGS_LOST {
                    debug!(peer = %event.peer, %error, "peer does not answer");
                    self.disconnect(event.peer);
                }
            }
        }
    }

    /// Whether a key of the current validator set vouched for the peer.
    fn is_proven(&self, peer: &PeerId) -> bool {
        let record = self.book.presence(peer);
        let fresh = record.filter(|m| wall_clock().since(m.presence.time_ms) < crate::book::RECORD_LIFE_MS);
        let key = fresh.and_then(|m| m.presence.validator);
        key.is_some_and(|key| self.shared.current_validators().contains(&key))
    }

    /// Books a fault and carries out what follows from it.
    pub(super) fn penalise(&mut self, peer: PeerId, fault: Fault) {
        let now = Instant::now();
        let proven = self.is_proven(&peer);
        count(&mut self.metrics.faults_total);
        let sanction = self.ledger.book(peer, fault, proven, now);
        self.apply_score(&peer, now);
        match sanction {
            Sanction::None => return,
            Sanction::Disconnect => {
                self.book.put_off(&peer, FAULT_PAUSE, now);
            }
            Sanction::Ban => {
                count(&mut self.metrics.bans_total);
                self.swarm.behaviour_mut().gate.ban(peer);
            }
        }
        if self.peers.contains_key(&peer) {
            let points = self.ledger.points(&peer, now);
            warn!(peer = %peer, ?fault, ?sanction, points, "disconnected for its faults");
            count(&mut self.metrics.fault_disconnects_total);
            self.disconnect(peer);
            self.book.put_off(&peer, FAULT_PAUSE, now);
        }
    }

    /// The application's part of a peer's gossip score.
    fn apply_score(&mut self, peer: &PeerId, now: Instant) {
        let mut score = SCORE_FAULT_POINT * self.ledger.points(peer, now);
        if self.is_proven(peer) {
            score += SCORE_VALIDATOR;
        }
        if self.book.is_bootstrap(peer) {
            score += SCORE_BOOTSTRAP;
        }
        self.swarm.behaviour_mut().gossip.set_application_score(peer, score);
    }

    /// Once a second: bindings and scores, bans that end, the gray list, the mesh doctor.
    pub(super) fn inspect_peers(&mut self, now: Instant) {
        let wall = wall_clock();
        self.book.set_current(self.shared.current_validators().clone());
        let peers = &self.peers;
        self.book.expire(now, |peer| peers.contains_key(peer));
        let proven: HashSet<PeerId> = {
            let current = self.shared.current_validators();
            let bound = self.book.validators(wall);
            bound.iter().filter(|(_, (key, _))| current.contains(key)).map(|(peer, _)| *peer).collect()
        };
        for peer in &proven {
            if self.ledger.pardon(peer) {
                self.swarm.behaviour_mut().gate.unban(peer);
            }
        }
        self.swarm.behaviour_mut().gate.set_proven(proven);
        for peer in self.ledger.settle(now) {
            self.swarm.behaviour_mut().gate.unban(&peer);
        }
        let back: Vec<PeerId> = self.strangers.iter().filter(|(_, until)| **until <= now).map(|(p, _)| *p).collect();
        for peer in back {
            self.strangers.remove(&peer);
            if !self.ledger.is_banned(&peer) {
                self.swarm.behaviour_mut().gate.unban(&peer);
            }
        }
        let connected: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in connected {
            self.apply_score(&peer, now);
            if self.swarm.behaviour().gossip.peer_score(&peer).is_some_and(|score| score < GRAYLIST) {
                self.penalise(peer, Fault::Graylisted);
            }
        }
        self.mesh_doctor(now);
    }

    fn subscriptions(&self) -> HashMap<PeerId, BTreeSet<Topic>> {
        let known = self.swarm.behaviour().gossip.all_peers();
        let topics = |hashes: Vec<_>| hashes.into_iter().filter_map(|hash| self.topics.get(hash).copied()).collect();
        known.map(|(peer, hashes)| (*peer, topics(hashes))).collect()
    }

    /// Disconnects peers that have long been connected without subscribing to everything: their side or ours has lost
    /// the greeting (rust-libp2p issue 5097). The dial plan, or the peer, connects anew at once; rarer and rarer if it
    /// does not help.
    fn mesh_doctor(&mut self, now: Instant) {
        let subscriptions = self.subscriptions();
        let patience = self.config.limits.mesh_patience;
        let lacking = |peer: &PeerId| subscriptions.get(peer).is_none_or(|topics| topics.len() < Topic::ALL.len());
        let overdue = self.peers.iter().filter(|(_, p)| now.saturating_duration_since(p.since) > patience);
        let patients: Vec<PeerId> = overdue.filter(|(peer, _)| lacking(peer)).map(|(peer, _)| *peer).collect();
        self.bounces.retain(|_, (_, last)| now.saturating_duration_since(*last) < Duration::from_secs(3600));
        for peer in patients {
            let (times, last) = self.bounces.get(&peer).copied().unwrap_or((0, now));
            let pause = DOCTOR_PAUSE.saturating_mul(1 << times.min(5)).min(Duration::from_secs(600));
            let full = self.bounces.len() >= NOTES_MAX && times == 0;
            if full || (times > 0 && now.saturating_duration_since(last) < pause) {
                continue;
            }
            info!(peer = %peer, times, "mesh doctor: peer lacks subscriptions, connecting anew");
            self.bounces.insert(peer, (times.saturating_add(1), now));
            count(&mut self.metrics.doctor_bounces_total);
            self.disconnect(peer);
        }
    }

    /// Copies the state out for the handles.
    pub(super) fn publish_snapshot(&mut self) {
        let (now, wall) = (Instant::now(), wall_clock());
        let validators = self.book.validators(wall);
        let peers = self.peer_infos(now, &validators);
        let mesh = self.topic_meshes(&peers);
        for status in &mesh {
            self.topic_metrics.entry(status.topic.name()).or_default().mesh_peers = status.mesh.len() as u64;
        }
        let proven = {
            let current = self.shared.current_validators();
            peers.iter().filter(|p| p.validator.is_some_and(|key| current.contains(&key))).count()
        };
        let (read, written) = self.frame_bytes();
        self.metrics.peers = peers.len() as u64;
        self.metrics.validators = proven as u64;
        self.metrics.outbound = peers.iter().filter(|p| p.outbound).count() as u64;
        self.metrics.known_peers = self.book.len() as u64;
        self.metrics.banned = self.ledger.banned() as u64;
        self.metrics.request_bytes_in_total = read;
        self.metrics.request_bytes_out_total = written;
        self.metrics.response_bytes_in_flight = self.inbound.bytes() as u64;
        self.metrics.topics.clone_from(&self.topic_metrics);
        self.shared.set_snapshot(Snapshot { peers, mesh, metrics: self.metrics.clone(), validators });
    }

    fn peer_infos(&self, now: Instant, validators: &HashMap<PeerId, (PublicKey, TimeMs)>) -> Vec<PeerInfo> {
        let mut subscriptions = self.subscriptions();
        let info = |(peer_id, peer): (&PeerId, &Peer)| {
            let presence = self.book.presence(peer_id).map(|m| &m.presence);
            PeerInfo {
                peer_id: *peer_id,
                address: peer.address.clone(),
                outbound: peer.outbound,
                validator: validators.get(peer_id).map(|(key, _)| *key),
                prover: presence.and_then(|p| p.prover),
                height: presence.map(|p| p.height),
                topics: subscriptions.remove(peer_id).unwrap_or_default().into_iter().collect(),
                score: self.swarm.behaviour().gossip.peer_score(peer_id).unwrap_or(0.0),
                fault_points: self.ledger.points(peer_id, now),
                rtt: peer.rtt,
                agent: peer.agent.clone(),
                connected_for: now.saturating_duration_since(peer.since),
            }
        };
        self.peers.iter().map(info).collect()
    }

    fn topic_meshes(&self, peers: &[PeerInfo]) -> Vec<TopicMesh> {
        let status = |topic: &Topic| TopicMesh {
            topic: *topic,
            mesh: self
                .swarm
                .behaviour()
                .gossip
                .mesh_peers(&topic_hash(*topic, &self.config.genesis))
                .copied()
                .collect(),
            subscribed: peers.iter().filter(|p| p.topics.contains(topic)).count(),
        };
        Topic::ALL.iter().map(status).collect()
    }
}
