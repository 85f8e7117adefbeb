//! The one listener: JSON-RPC over HTTP and WebSocket, blobs, metrics and health.
//!
//! Bounds on what comes from outside: connections at once, in all and per client address; time for a request's head and body;
//! the rate at which answers must be read, and their bytes until they are, in all and per client address; bytes of a body or
//! a WebSocket message, calls in a batch, calls a second and at once per client address (pages for probes and scrapers count
//! as calls), subscriptions per connection, uploaded bytes per client address. Errors have one form everywhere, and the same
//! bytes get the same one over HTTP and WebSocket; see [`refusal`].

mod accept;
mod blobs;
mod frames;
mod health;
pub(crate) mod keep;
pub(crate) mod metrics;
mod node_metrics;
mod openmetrics;
mod places;
pub(crate) mod rate;
pub(crate) mod refusal;
mod router;
mod socket;
mod stall;
pub(crate) mod unsent;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::api::EngineHandle;
use jsonrpsee::server::ServerHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::failure::Failure;
use metrics::EdgeMetrics;
use rate::{Addresses, Limits};
use unsent::{UNSENT_MAX, Unsent};

/// Largest body outside blobs, and largest WebSocket message, bytes.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// Calls in a batch.
pub(crate) const BATCH_MAX: usize = 10;
/// Subscriptions of a connection.
pub(crate) const SUBSCRIPTIONS_MAX: u32 = 32;
/// Calls of a client address that may be under way at once, those included whose answer has not been sent.
pub(crate) const IN_FLIGHT_MAX: u32 = 64;
/// Longest wait for a request's body outside blobs.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for open connections to end when the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// The messages in what a WebSocket client sends, until it ends or breaks the protocol, and how it did.
pub(crate) async fn frames_in(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut reader, mut messages) = (frames::Reader::new(bytes, BODY_MAX), vec![]);
    loop {
        match reader.next().await {
            Ok(frames::Incoming::Message(message)) => messages.push(message),
            Ok(frames::Incoming::Close) => return (messages, None),
            Ok(_) => {}
            Err(frames::Broken::Gone(_)) => return (messages, None),
            Err(fault) => return (messages, Some(format!("{fault:?}"))),
        }
    }
}

/// What every request handler sees.
pub(crate) struct Edge {
    /// The node.
    pub(crate) engine: EngineHandle,
    /// What the edge itself counts.
    pub(crate) metrics: EdgeMetrics,
    /// Rates, quotas and calls under way by client address.
    pub(crate) addresses: Addresses,
    /// Room for answers.
    pub(crate) unsent: Unsent,
    /// When the edge started.
    pub(crate) started: Instant,
}

/// Address of the client, put into every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// A running edge.
pub(crate) struct Server {
    stop: CancellationToken,
    rpc_stop: ServerHandle,
    task: tokio::task::JoinHandle<()>,
}

/// Listens on the configured address.
///
/// # Errors
/// When the address is taken or not this machine's.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        Failure::error("listen", format!("rpc.listen: can't listen on {address}: {e}"))
            .field("rpc.listen")
            .value(address)
            .limit("a free port on an address of this machine")
            .remedy("stop the process that uses the port, or choose another by --rpc ADDR or rpc.listen")
    })
}

/// Starts to serve.
///
/// # Errors
/// When a metric or method is registered twice, which no configuration brings about.
pub(crate) fn serve(listener: TcpListener, engine: EngineHandle, config: &Config) -> Result<Server, Failure> {
    let internal = |e: String| Failure::error("internal", e);
    let limits = Limits {
        rate_per_s: config.rpc.rate_per_s,
        burst: config.rpc.rate_burst,
        in_flight: IN_FLIGHT_MAX,
        upload_bytes: u64::from(config.rpc.blob_quota_mib) << 20,
        loopback_exempt: config.node.testnet,
    };
    let metrics = EdgeMetrics::new().map_err(|e| internal(e.to_string()))?;
    let started = Instant::now();
    let edge =
        Arc::new(Edge { engine, metrics, addresses: Addresses::new(limits), unsent: Unsent::new(UNSENT_MAX), started });
    let stop = CancellationToken::new();
    let (router, rpc_stop) =
        router::router(Arc::clone(&edge), config.rpc.connections_max).map_err(|e| internal(e.to_string()))?;
    let connections = usize::try_from(config.rpc.connections_max).unwrap_or(usize::MAX);
    let token = stop.clone();
    // Ends with the engine's events.
    tokio::spawn(crate::rpc::count_jobs(Arc::clone(&edge)));
    let task = tokio::spawn(accept::run(listener, router, edge, connections, token));
    Ok(Server { stop, rpc_stop, task })
}

impl Server {
    /// Takes no new connections and waits a little for open ones.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        // Ends WebSocket sessions; fails only when there can be none any more.
        self.rpc_stop.stop().ok();
        // Connections that are still open after this are cut when the runtime ends.
        tokio::time::timeout(DRAIN, self.task).await.ok();
    }
}
