//! Errors of starting the network and of asking a peer.

use std::io;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use types::TypeError;

/// Why the network did not start.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A setting is wrong.
    #[error("{field}: {value} is not possible: {reason}")]
    Config {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        reason: String,
    },
    /// An address can't be listened on.
    #[error("p2p: can't listen on {address}: {reason}; is another node running on this port?")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// The swarm's thread or runtime could not be started, or it ended before it listened.
    #[error("network thread: {0}")]
    Thread(#[from] io::Error),
    /// No listener came up in time.
    #[error("p2p: not listening after {} ms", waited.as_millis())]
    ListenTimeout {
        /// Time waited.
        waited: Duration,
    },
}

/// Why a request has no response.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// The peer is not connected.
    #[error("peer {0} is not connected")]
    NotConnected(PeerId),
    /// Too many own requests wait for this peer, or for all peers.
    #[error("too many requests wait for peer {0}")]
    Overloaded(PeerId),
    /// No answer within the time limit.
    #[error("peer {peer} did not answer within {} ms", limit.as_millis())]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The limit.
        limit: Duration,
    },
    /// The connection or stream broke.
    #[error("connection to peer {peer} broke: {reason}")]
    Broken {
        /// The peer.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// The answer is no response of this protocol; the peer has been penalised.
    #[error("peer {peer} sent a malformed response: {error}")]
    Malformed {
        /// The peer.
        peer: PeerId,
        /// What is wrong.
        error: TypeError,
    },
    /// The peer asks for patience.
    #[error("peer {peer} is busy, retry in {retry_ms} ms")]
    Busy {
        /// The peer.
        peer: PeerId,
        /// Milliseconds to wait.
        retry_ms: u32,
    },
    /// The network has stopped.
    #[error("the network has stopped")]
    Closed,
}
