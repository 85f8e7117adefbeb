//! Settings of the network with their defaults and the reason for each number.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, identity};
use types::ids::GenesisHash;
use types::keys::SecretKey;

use crate::error::NetworkError;

/// Everything [`Network::start`](crate::Network::start) needs.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The chain. Peers of another chain speak other protocol names and are let go.
    pub genesis: GenesisHash,
    /// The node key: identity on the network, never the consensus key.
    pub node_key: SecretKey,
    /// Addresses to listen on; port 0 takes a free port.
    pub listen: Vec<Multiaddr>,
    /// Where to find the network; one reachable address is enough.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses under which others reach this node, when they differ from the ones it listens on (NAT, port
    /// forwarding).
    pub external: Vec<Multiaddr>,
    /// Name and version shown to peers.
    pub agent: String,
    /// Validators expected; chooses the size of the gossip mesh.
    pub expected_validators: usize,
    /// A network on one machine: loopback addresses are dialled and advertised, and don't count against per-address
    /// limits.
    pub loopback: bool,
    /// Resident memory of the process in bytes; new connections are refused above 80 % of it.
    pub memory_budget_bytes: u64,
    /// Bounds.
    pub limits: Limits,
}

impl NetworkConfig {
    /// Defaults: listen on every IPv4 interface at a free port, no bootstrap address.
    pub fn new(genesis: GenesisHash, node_key: SecretKey) -> Self {
        let any = Multiaddr::empty().with(Protocol::Ip4([0, 0, 0, 0].into())).with(Protocol::Tcp(0));
        Self {
            genesis,
            node_key,
            listen: vec![any],
            bootstrap: vec![],
            external: vec![],
            agent: concat!("proofmesh/", env!("CARGO_PKG_VERSION")).to_owned(),
            expected_validators: 4,
            loopback: false,
            memory_budget_bytes: 4 << 30,
            limits: Limits::default(),
        }
    }

    /// Checks that the settings agree with each other.
    ///
    /// # Errors
    /// [`NetworkError::Config`] that names the setting.
    pub fn check(&self) -> Result<(), NetworkError> {
        let bad =
            |field, value: String, reason: &str| Err(NetworkError::Config { field, value, reason: reason.into() });
        if self.listen.is_empty() {
            return bad("listen", "no address".into(), "at least one address");
        }
        let l = &self.limits;
        if l.connections == 0 || l.reserved_for_validators >= l.connections {
            let value = format!("{} of {} connections", l.reserved_for_validators, l.connections);
            return bad("reserved_for_validators", value, "fewer than all connections");
        }
        if l.connections_per_ip == 0 {
            return bad("connections_per_ip", "0".into(), "at least 1");
        }
        if l.streams_per_peer == 0 || l.streams_per_peer > 64 {
            return bad("streams_per_peer", l.streams_per_peer.to_string(), "from 1 to 64");
        }
        if self.agent.len() > 64 {
            return bad("agent", format!("{} bytes", self.agent.len()), "at most 64 bytes");
        }
        if self.external.len() > 4 {
            return bad("external", format!("{} addresses", self.external.len()), "at most 4 addresses");
        }
        Ok(())
    }
}

/// Bounds on peers, connections and messages.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Established connections in all.
    pub connections: usize,
    /// Of these, only for peers that proved a validator key.
    pub reserved_for_validators: usize,
    /// Connections from one IPv4 address or IPv6 /64; loopback is exempt on a loopback network.
    pub connections_per_ip: usize,
    /// Inbound connections in handshake.
    pub pending_in: u32,
    /// Dials in progress.
    pub pending_out: u32,
    /// Peers the dial plan tries to reach.
    pub target_peers: usize,
    /// Own requests in flight to one peer.
    pub streams_per_peer: usize,
    /// Bytes of responses being sent, all peers together; more requests are answered `Busy`.
    pub response_bytes: usize,
    /// Time limit of a request, from queue to answer's last byte.
    pub request_timeout: Duration,
    /// Request rates of one peer.
    pub quotas: Quotas,
    /// Time within which a peer must have subscribed to all topics, else the mesh doctor redials it.
    pub mesh_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            reserved_for_validators: 32,
            connections_per_ip: 5,
            pending_in: 16,
            pending_out: 16,
            target_peers: 24,
            streams_per_peer: 8,
            response_bytes: 64 << 20,
            request_timeout: Duration::from_secs(10),
            quotas: Quotas::default(),
            mesh_patience: Duration::from_secs(10),
        }
    }
}

/// So many requests, refilled evenly over a time.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Requests in one go.
    pub burst: u32,
    /// Time in which an empty bucket fills up.
    pub refill: Duration,
}

impl Quota {
    const fn new(burst: u32, secs: u64) -> Self {
        Self { burst, refill: Duration::from_secs(secs) }
    }
}

/// Request rates of one peer by kind.
#[derive(Clone, Debug)]
pub struct Quotas {
    /// `Status`: peers that follow consensus ask about once a second.
    pub status: Quota,
    /// `Blocks`: up to 64 blocks each.
    pub blocks: Quota,
    /// `ProposedBlock` and `Votes`: catching up within a height.
    pub consensus: Quota,
    /// `BlobManifest`.
    pub manifest: Quota,
    /// `BlobChunk`: 256 of 256 KiB is two of the largest blobs in one go.
    pub chunk: Quota,
    /// `Verdicts`.
    pub verdicts: Quota,
    /// `Genesis`: once, by a node that joins.
    pub genesis: Quota,
    /// Questions for other peers' addresses.
    pub peers: Quota,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            status: Quota::new(30, 15),
            blocks: Quota::new(128, 10),
            consensus: Quota::new(64, 10),
            manifest: Quota::new(64, 10),
            chunk: Quota::new(256, 10),
            verdicts: Quota::new(64, 10),
            genesis: Quota::new(3, 10),
            peers: Quota::new(3, 10),
        }
    }
}

/// The libp2p identity of a node key. The intermediate copy of the seed is wiped by libp2p.
pub(crate) fn identity_of(key: &SecretKey) -> Result<identity::Keypair, NetworkError> {
    identity::Keypair::ed25519_from_bytes(key.to_seed()).map_err(|e| NetworkError::Config {
        field: "node_key",
        value: "(secret)".into(),
        reason: e.to_string(),
    })
}

/// The peer id of a node key; `None` only if libp2p refuses the seed, which it does for no 32-byte seed.
pub fn node_key_peer_id(key: &SecretKey) -> Option<PeerId> {
    identity_of(key).ok().map(|pair| pair.public().to_peer_id())
}

/// Reads an address as people write it, `127.0.0.1:26600` or `[::1]:26600`, or a multiaddr,
/// `/ip4/127.0.0.1/tcp/26600` with or without `/p2p/PEER`.
///
/// # Errors
/// [`NetworkError::Config`] that quotes the text.
pub fn parse_address(text: &str) -> Result<Multiaddr, NetworkError> {
    let bad = |reason: &str| NetworkError::Config {
        field: "p2p address",
        value: format!("'{}'", text.chars().take(128).collect::<String>()),
        reason: reason.into(),
    };
    if text.starts_with('/') {
        let address: Multiaddr = text.parse().map_err(|_| bad("a multiaddr such as /ip4/127.0.0.1/tcp/26600"))?;
        let tcp = address.iter().any(|p| matches!(p, Protocol::Tcp(_)));
        return if tcp { Ok(address) } else { Err(bad("a TCP address")) };
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port())));
    }
    Err(bad("an IP address and port such as 127.0.0.1:26600, or a multiaddr"))
}

/// The IP address of a multiaddr.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// The socket address of a TCP multiaddr with a port of its own choosing, not 0.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let port = address.iter().find_map(|part| if let Protocol::Tcp(port) = part { Some(port) } else { None })?;
    ip_of(address).filter(|_| port != 0).map(|ip| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_both_forms() {
        for (text, expected) in [
            ("127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001"),
            ("[::1]:4001", "/ip6/::1/tcp/4001"),
            ("/ip4/10.0.0.1/tcp/7", "/ip4/10.0.0.1/tcp/7"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected);
        }
        for bad in ["", "127.0.0.1", "127.0.0.1:99999", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "no such:1"] {
            let error = parse_address(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let mut config = NetworkConfig::new(GenesisHash::new([1; 32]), SecretKey::from_seed([2; 32]));
        assert!(config.check().is_ok());
        config.limits.reserved_for_validators = 64;
        assert!(config.check().unwrap_err().to_string().contains("reserved_for_validators"));
        config.limits = Limits { streams_per_peer: 0, ..Limits::default() };
        assert!(config.check().unwrap_err().to_string().contains("streams_per_peer"));
    }

    #[test]
    fn a_peer_id_spells_out_its_node_key() {
        let key = SecretKey::from_seed([9; 32]);
        let peer = node_key_peer_id(&key).unwrap();
        let presence = types::gossip::Presence {
            peer: peer.to_bytes(),
            addresses: vec![],
            height: types::ids::Height(1),
            time_ms: types::ids::TimeMs(1),
            prover: None,
            validator: None,
        };
        assert_eq!(presence.node_key(), Some(key.public()));
    }
}
