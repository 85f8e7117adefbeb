//! Accepts connections, a bounded number of them, and serves HTTP/1.1 with upgrades on each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::stall::StallGuard;
use super::{ClientAddress, Edge};

/// Longest wait for a request's head, also between requests of one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause after a failed accept: the usual cause is that file descriptors are used up for the moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop, then lets every connection finish its request.
pub(super) async fn run(listener: TcpListener, router: Router, edge: Arc<Edge>, most: usize, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(most));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            // Closing at once is the answer: whoever holds the connections would hold this one, too.
            edge.metrics.connections_refused.inc();
            debug!(%address, most, "connection refused: all are in use");
            continue;
        };
        let slot = Slot::new(permit, Arc::clone(&edge));
        tokio::spawn(connection(stream, slot, ClientAddress(address), router.clone(), stop.clone()));
    }
    // All permits are back when all connections have ended.
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    permits.acquire_many(all).await.map(|permit| permit.forget()).ok();
}

/// A connection's place among those allowed; lives as long as its stream.
struct Slot {
    edge: Arc<Edge>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit, edge: Arc<Edge>) -> Self {
        edge.metrics.connections.inc();
        Self { edge, _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.edge.metrics.connections.dec();
    }
}

async fn connection(stream: TcpStream, slot: Slot, address: ClientAddress, router: Router, stop: CancellationToken) {
    // Answers are small and awaited; without this the last packet of one may wait for an acknowledgement.
    stream.set_nodelay(true).ok();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(address);
            let response: Result<_, Infallible> = router.oneshot(request).await;
            response
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(StallGuard::new(stream, slot)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(address = %address.0, %error, "connection ended");
    }
}
