//! Accepts connections, as many as there are [`Places`], and serves HTTP/1.1 with upgrades on each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::keep::Holding;
use super::places::{Place, Places};
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
    let places = Arc::new(Places::new(most));
    let open = TaskTracker::new();
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
        let Some(place) = places.take(address.ip()) else {
            // Closing at once is the answer: whoever holds the connections would hold this one, too.
            edge.metrics.connections_refused.inc();
            debug!(%address, most, "connection refused: all that this address may have are in use");
            continue;
        };
        let slot = Slot::new(place, Arc::clone(&places), Arc::clone(&edge), open.token());
        tokio::spawn(connection(stream, slot, ClientAddress(address), router.clone(), stop.clone()));
    }
    open.close();
    open.wait().await;
}

/// A connection's place among those allowed; lives as long as its stream.
struct Slot {
    place: Arc<Place>,
    places: Arc<Places>,
    edge: Arc<Edge>,
    _open: TaskTrackerToken,
}

impl Slot {
    fn new(place: Arc<Place>, places: Arc<Places>, edge: Arc<Edge>, open: TaskTrackerToken) -> Self {
        edge.metrics.connections.inc();
        Self { place, places, edge, _open: open }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.places.leave(&self.place);
        self.edge.metrics.connections.dec();
        if self.place.closed().is_cancelled() {
            self.edge.metrics.connections_replaced.inc();
        }
    }
}

async fn connection(stream: TcpStream, slot: Slot, address: ClientAddress, router: Router, stop: CancellationToken) {
    // Answers are small and awaited; without this the last packet of one may wait for an acknowledgement.
    stream.set_nodelay(true).ok();
    let place = Arc::clone(&slot.place);
    let of_request = Arc::clone(&place);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (router, place) = (router.clone(), Arc::clone(&of_request));
        async move {
            let busy = place.busy();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(address);
            request.extensions_mut().insert(place);
            let response: Result<Response, Infallible> = router.oneshot(request).await;
            response.map(|response| response.map(|body| Holding::new(body, busy)))
        }
    });
    let guarded = StallGuard::new(stream, slot, Some(Arc::clone(&place)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(guarded), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = place.closed().cancelled() => {
            debug!(address = %address.0, "connection closed: its place went to an address that has fewer");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(address = %address.0, %error, "connection ended");
    }
}
