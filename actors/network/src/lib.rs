//! The node's side of the peer-to-peer network: a libp2p swarm on a thread of its own, and the bounded channels to it.
//!
//! Owns connections, gossip with verdicts and peer scores, request and response, the address book and dial plan, bans,
//! the binding of validator keys to peer ids, the mesh doctor and blob transfer. Relies on `types` for every record
//! that crosses the wire; knows nothing of consensus rules, storage or actors.
//!
//! Every intake is bounded, and says what happens when it is full:
//!
//! | intake | bound | when full |
//! |---|---|---|
//! | gossip from a peer | rates of messages and bytes per peer | message ignored; a peer that goes on is at fault |
//! | the same | credits of unjudged messages per peer and topic | message ignored (no penalty) |
//! | gossip to the node | one lane per topic ([`Events`]) | message ignored (no penalty) |
//! | requests from a peer | token bucket per peer and kind, open streams per peer, bytes being sent | answered `Busy` |
//! | requests to the node | one lane | answered `Busy` |
//! | peer events | one lane | event dropped; [`NetworkHandle::peers`] is the truth |
//! | publish, verdict, answer, control from the node | a channel each | caller gets [`Delivery::Dropped`] |
//! | requests from the node | a queue per peer | caller gets [`RequestError::Overloaded`] |

mod behaviour;
mod blob;
mod book;
mod codec;
mod config;
mod driver;
mod error;
mod event;
mod gate;
mod gossip;
mod handle;
mod metrics;
mod penalty;
mod quota;
mod rates;
mod requests;
mod rules;
mod shared;

pub use libp2p::{Multiaddr, PeerId};

pub use blob::{ChunkSink, FetchError, FetchOptions, FetchReport, MemorySink, SinkError, fetch_blob};
pub use codec::frames_of;
pub use config::{Limits, NetworkConfig, Quota, Quotas, node_key_peer_id, parse_address};
pub use error::{NetworkError, RequestError};
pub use event::{Delivery, Event, Events, Gossip, GossipMessage, MessageId, PeerEvent, ReplyToken, Request, Verdict};
pub use handle::{NetworkHandle, PresenceInput};
pub use metrics::{NetworkMetrics, TopicCounters};
pub use penalty::Fault;
pub use shared::{PeerInfo, TopicMesh};

/// Entry point.
#[derive(Debug)]
pub struct Network;

impl Network {
    /// Starts the swarm on its own thread and returns when it listens.
    ///
    /// # Errors
    /// [`NetworkError::Config`] for settings that contradict each other, [`NetworkError::Listen`] when an address can't
    /// be listened on, [`NetworkError::Thread`] when the thread or its runtime can't be started.
    pub async fn start(config: NetworkConfig) -> Result<(NetworkHandle, Events), NetworkError> {
        driver::start(config).await
    }
}
