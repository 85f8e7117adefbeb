//! The composed libp2p behaviour. Order matters: what refuses connections comes before what notes them.

use std::sync::Arc;
use std::time::Duration;

use libp2p::metrics::Registry;
use libp2p::request_response::{self as rr, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, identify, identity, memory_connection_limits, ping};
use libp2p_connection_limits as connection_limits;
use types::Wire;
use types::gossip::PresenceList;
use types::ids::GenesisHash;
use types::rpc_sync::{Request, Response};

use crate::codec::{ByteCounters, FrameCodec};
use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::gate::{Gate, GateLimits};
use crate::rules::{self, Gossipsub};

/// Streams of one request protocol on a connection, both directions: room for a peer's requests beside the own ones.
const STREAMS_PER_CONNECTION: usize = 32;

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(crate) struct Protocols {
    pub(crate) gate: Gate,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) memory: memory_connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) gossip: Gossipsub,
    pub(crate) sync: rr::Behaviour<FrameCodec>,
    pub(crate) peers: rr::Behaviour<FrameCodec>,
}

/// Name by which nodes of a chain know each other.
pub(crate) fn protocol_version(genesis: &GenesisHash) -> String {
    format!("/proofmesh/{genesis}/1")
}

fn protocol(name: String) -> Result<StreamProtocol, NetworkError> {
    StreamProtocol::try_from_owned(name).map_err(|e| NetworkError::Config {
        field: "protocol name",
        value: "computed".into(),
        reason: e.to_string(),
    })
}

impl Protocols {
    /// Builds all protocols for a chain.
    pub(crate) fn new(
        config: &NetworkConfig,
        key: &identity::Keypair,
        registry: &mut Registry,
        counters: &Arc<ByteCounters>,
    ) -> Result<Self, NetworkError> {
        let l = &config.limits;
        let gate_limits = GateLimits {
            total: l.connections,
            reserved: l.reserved_for_validators,
            per_ip: l.connections_per_ip,
            loopback_exempt: config.loopback,
        };
        let pending = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(l.pending_in))
            .with_max_pending_outgoing(Some(l.pending_out));
        let memory = usize::try_from(config.memory_budget_bytes / 5 * 4).unwrap_or(usize::MAX);
        let identify = identify::Config::new(protocol_version(&config.genesis), key.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        let streams = rr::Config::default()
            .with_request_timeout(l.request_timeout)
            .with_max_concurrent_streams(STREAMS_PER_CONNECTION);
        let sync = protocol(format!("/proofmesh/{}/sync/1", config.genesis))?;
        let peers = protocol(format!("/proofmesh/{}/peers/1", config.genesis))?;
        let sync_codec = FrameCodec::new(Request::BYTES_MAX, Response::BYTES_MAX, counters.clone());
        // The question for peers has no content.
        let peers_codec = FrameCodec::new(0, PresenceList::BYTES_MAX, counters.clone());
        let few_streams =
            rr::Config::default().with_request_timeout(Duration::from_secs(5)).with_max_concurrent_streams(4);
        Ok(Self {
            gate: Gate::new(gate_limits),
            limits: connection_limits::Behaviour::new(pending),
            memory: memory_connection_limits::Behaviour::with_max_bytes(memory),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(Duration::from_secs(10)).with_timeout(Duration::from_secs(10)),
            ),
            gossip: rules::gossipsub(config, registry)?,
            sync: rr::Behaviour::with_codec(sync_codec, [(sync, ProtocolSupport::Full)], streams),
            peers: rr::Behaviour::with_codec(peers_codec, [(peers, ProtocolSupport::Full)], few_streams),
        })
    }
}
