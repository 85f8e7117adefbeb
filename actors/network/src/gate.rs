//! The gate: which connections may be made. Sits before all other behaviours, because a behaviour that has already
//! noted a connection which a later one refuses would keep a ghost of it.
//!
//! One connection a peer; a second one is refused. A peer that insists has restarted while its old connection still
//! looks alive here: at its second attempt the old connection is closed, and the attempt after that finds clean state
//! everywhere. A single attempt proves nothing, because a peer that dials an address without knowing whose it is may be
//! connected already. Accepting the new one beside the old would leave gossip half-joined, because gossipsub greets a
//! peer only on its first connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, FromSwarm};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::config::ip_of;

/// A connection younger than this is no leftover of an earlier life: both ends dialled at once.
const SIMULTANEOUS: Duration = Duration::from_secs(3);
/// How long after a refused second connection another one counts as insisting.
const INSISTING: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(30);

/// Why a connection was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Banned,
    Draining,
    PerAddress,
    Full,
    Duplicate,
    Replaced,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Banned => "peer is banned",
            Self::Draining => "node is shutting down",
            Self::PerAddress => "too many connections from this address",
            Self::Full => "all connection slots are taken",
            Self::Duplicate => "peer is connected already",
            Self::Replaced => "old connection of the peer is being closed first",
        })
    }
}

impl std::error::Error for Refused {}

#[derive(Clone, Debug)]
struct Connection {
    id: ConnectionId,
    since: Instant,
    /// When a second inbound connection was first refused.
    doubted: Option<Instant>,
}

/// Bounds the gate enforces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateLimits {
    pub(crate) total: usize,
    pub(crate) reserved: usize,
    pub(crate) per_ip: usize,
    pub(crate) loopback_exempt: bool,
}

/// The behaviour.
pub(crate) struct Gate {
    limits: GateLimits,
    connections: HashMap<PeerId, Connection>,
    /// Every established connection, also the few moments of a second one to a peer.
    groups: HashMap<ConnectionId, IpAddr>,
    banned: HashSet<PeerId>,
    proven: HashSet<PeerId>,
    draining: bool,
    close: VecDeque<(PeerId, ConnectionId)>,
}

impl Gate {
    pub(crate) fn new(limits: GateLimits) -> Self {
        Self {
            limits,
            connections: HashMap::new(),
            groups: HashMap::new(),
            banned: HashSet::new(),
            proven: HashSet::new(),
            draining: false,
            close: VecDeque::new(),
        }
    }

    pub(crate) fn ban(&mut self, peer: PeerId) {
        self.banned.insert(peer);
    }

    pub(crate) fn unban(&mut self, peer: &PeerId) {
        self.banned.remove(peer);
    }

    /// Peers with a proven key of a current validator: they may use the reserved slots.
    pub(crate) fn set_proven(&mut self, peers: HashSet<PeerId>) {
        self.proven = peers;
    }

    /// Refuses everything from now on.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Addresses that count together: an IPv4 address, an IPv6 /64; `None` for exempt ones.
    fn group(&self, address: &Multiaddr) -> Option<IpAddr> {
        match ip_of(address)? {
            ip if ip.is_loopback() && self.limits.loopback_exempt => None,
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Some(IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            ip => Some(ip),
        }
    }

    fn check_address(&self, address: &Multiaddr) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let Some(group) = self.group(address) else { return Ok(()) };
        let used = self.groups.values().filter(|g| **g == group).count();
        if used >= self.limits.per_ip { Err(Refused::PerAddress) } else { Ok(()) }
    }

    fn admit(&mut self, peer: PeerId, outbound: bool, now: Instant) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        if self.banned.contains(&peer) {
            return Err(Refused::Banned);
        }
        if let Some(old) = self.connections.get_mut(&peer) {
            if outbound || now.saturating_duration_since(old.since) < SIMULTANEOUS {
                return Err(Refused::Duplicate);
            }
            let doubted = old.doubted.map(|at| now.saturating_duration_since(at));
            if !doubted.is_some_and(|age| INSISTING.contains(&age)) {
                // Attempts in quick succession are one; a long forgotten one is none.
                if doubted.is_none_or(|age| age > *INSISTING.end()) {
                    old.doubted = Some(now);
                }
                return Err(Refused::Duplicate);
            }
            self.close.push_back((peer, old.id));
            return Err(Refused::Replaced);
        }
        let proven = self.proven.contains(&peer);
        let unproven = self.connections.keys().filter(|p| !self.proven.contains(p)).count();
        let open = self.limits.total.saturating_sub(self.limits.reserved);
        if self.connections.len() >= self.limits.total || (!proven && unproven >= open) {
            return Err(Refused::Full);
        }
        Ok(())
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check_address(remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_address(remote).map_err(ConnectionDenied::new)?;
        self.admit(peer, false, Instant::now()).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.draining {
            return Err(ConnectionDenied::new(Refused::Draining));
        }
        if peer.is_some_and(|p| self.banned.contains(&p)) {
            return Err(ConnectionDenied::new(Refused::Banned));
        }
        Ok(vec![])
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer, true, Instant::now()).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                if let Some(group) = self.group(endpoint.get_remote_address()) {
                    self.groups.insert(connection_id, group);
                }
                let connection = Connection { id: connection_id, since: Instant::now(), doubted: None };
                self.connections.insert(peer_id, connection);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.groups.remove(&connection_id);
                if self.connections.get(&peer_id).is_some_and(|c| c.id == connection_id) {
                    self.connections.remove(&peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        libp2p::core::util::unreachable(event)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Woken by the swarm: only its calls above fill the queue.
        match self.close.pop_front() {
            Some((peer_id, id)) => {
                Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) })
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(total: usize, reserved: usize, per_ip: usize) -> Gate {
        let limits = GateLimits { total, reserved, per_ip, loopback_exempt: true };
        Gate::new(limits)
    }

    fn connect(gate: &mut Gate, peer: PeerId, since: Instant, group: Option<IpAddr>) {
        let id = ConnectionId::new_unchecked(gate.connections.len());
        if let Some(group) = group {
            gate.groups.insert(id, group);
        }
        gate.connections.insert(peer, Connection { id, since, doubted: None });
    }

    #[test]
    fn slots_are_reserved_for_proven_validators() {
        let (mut gate, now) = (gate(4, 2, 99), Instant::now());
        for _ in 0..2 {
            let peer = PeerId::random();
            assert!(gate.admit(peer, false, now).is_ok());
            connect(&mut gate, peer, now, None);
        }
        assert_eq!(gate.admit(PeerId::random(), false, now), Err(Refused::Full));
        let validators: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        gate.set_proven(validators.iter().copied().collect());
        for peer in &validators[..2] {
            assert!(gate.admit(*peer, false, now).is_ok());
            connect(&mut gate, *peer, now, None);
        }
        assert_eq!(gate.admit(validators[2], false, now), Err(Refused::Full));
    }

    #[test]
    fn a_peer_that_insists_replaces_its_old_connection_and_a_stray_dial_does_not() {
        let (mut gate, peer, start) = (gate(9, 0, 99), PeerId::random(), Instant::now());
        connect(&mut gate, peer, start, None);
        let at = |ms: u64| start + Duration::from_millis(ms);
        // Both dialled at once, however often.
        assert_eq!(gate.admit(peer, false, at(100)), Err(Refused::Duplicate));
        assert_eq!(gate.admit(peer, false, at(900)), Err(Refused::Duplicate));
        // One stray attempt, and long after it another.
        assert_eq!(gate.admit(peer, false, at(5_000)), Err(Refused::Duplicate));
        assert_eq!(gate.admit(peer, false, at(90_000)), Err(Refused::Duplicate));
        // Twice on two addresses at the same moment.
        assert_eq!(gate.admit(peer, false, at(90_010)), Err(Refused::Duplicate));
        // Own dials never replace anything.
        assert_eq!(gate.admit(peer, true, at(90_500)), Err(Refused::Duplicate));
        assert!(gate.close.is_empty());
        assert_eq!(gate.admit(peer, false, at(90_600)), Err(Refused::Replaced));
        assert_eq!(gate.close.len(), 1);
    }

    #[test]
    fn one_address_gets_few_connections_and_loopback_is_exempt() {
        let (mut gate, now) = (gate(9, 0, 2), Instant::now());
        let address: Multiaddr = "/ip6/2001:db8::1/tcp/1".parse().unwrap();
        let neighbour: Multiaddr = "/ip6/2001:db8::2/tcp/1".parse().unwrap();
        let stranger: Multiaddr = "/ip6/2001:db8:0:1::2/tcp/1".parse().unwrap();
        for _ in 0..2 {
            assert!(gate.check_address(&address).is_ok());
            let group = gate.group(&address);
            connect(&mut gate, PeerId::random(), now, group);
        }
        assert_eq!(gate.check_address(&neighbour), Err(Refused::PerAddress));
        assert!(gate.check_address(&stranger).is_ok());
        assert!(gate.check_address(&"/ip4/127.0.0.1/tcp/1".parse().unwrap()).is_ok());
        gate.limits.loopback_exempt = false;
        for _ in 0..2 {
            let group = gate.group(&"/ip4/127.0.0.1/tcp/1".parse().unwrap());
            connect(&mut gate, PeerId::random(), now, group);
        }
        assert_eq!(gate.check_address(&"/ip4/127.0.0.1/tcp/2".parse().unwrap()), Err(Refused::PerAddress));
    }

    #[test]
    fn banned_and_draining_refuse() {
        let (mut gate, peer, now) = (gate(9, 0, 9), PeerId::random(), Instant::now());
        gate.ban(peer);
        assert_eq!(gate.admit(peer, false, now), Err(Refused::Banned));
        gate.unban(&peer);
        assert!(gate.admit(peer, false, now).is_ok());
        gate.drain();
        assert_eq!(gate.admit(peer, false, now), Err(Refused::Draining));
    }
}
