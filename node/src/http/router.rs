//! Which path leads where, and JSON-RPC's way through over HTTP: body read under limits here, calls by the module's tower
//! service. WebSocket connections go to [`socket`].

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Extension, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jsonrpsee::server::middleware::rpc::RpcServiceBuilder;
use jsonrpsee::server::{BatchRequestConfig, Server, ServerConfig, ServerHandle, TowerServiceBuilder, stop_channel};
use tokio::time::timeout;
use tower::Service;

use super::keep::{Holding, Keep, Pieces};
use super::refusal::{Refusal, retry_after};
use super::socket::{self, Sessions};
use super::{BODY_MAX, BODY_TIMEOUT, ClientAddress, Edge, blobs, health, metrics};
use crate::rpc;
use crate::rpc::dispatch::{ANSWER_MAX, malformed};
use crate::rpc::guard::GuardLayer;
use crate::rpc::ids;

/// JSON-RPC as a service.
#[derive(Clone)]
struct RpcState {
    builder: TowerServiceBuilder<
        tower::layer::util::Stack<GuardLayer, tower::layer::util::Identity>,
        tower::layer::util::Identity,
    >,
    sessions: Sessions,
}

/// All routes; the handle ends WebSocket sessions.
///
/// # Errors
/// When a method is registered twice.
pub(super) fn router(edge: Arc<Edge>, connections: u32) -> Result<(Router, ServerHandle), rpc::RegisterError> {
    let methods = rpc::module(Arc::clone(&edge))?.into();
    let (stop, handle) = stop_channel();
    let config = ServerConfig::builder()
        .max_request_body_size(u32::try_from(BODY_MAX).unwrap_or(u32::MAX))
        .max_response_body_size(ANSWER_MAX)
        .max_connections(connections)
        .http_only()
        // Bounded by the body, and by the guard, whose refusal says more than the library's.
        .set_batch_request_config(BatchRequestConfig::Unlimited)
        .build();
    let guard = GuardLayer::new(Arc::clone(&edge));
    let middleware = RpcServiceBuilder::new().layer(guard.clone());
    let builder = Server::builder().set_config(config).set_rpc_middleware(middleware).to_service_builder();
    let state = RpcState { builder, sessions: Sessions { methods, guard, stop } };
    let pages = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/health", get(health::health))
        .route("/health/ready", get(health::ready))
        .route("/health/live", get(health::live))
        .route_layer(from_fn_with_state(Arc::clone(&edge), as_a_call));
    let router = Router::new()
        .route("/", get(upgrade).post(call).with_state(state))
        .route("/v1/blobs", put(blobs::put))
        .route("/v1/blobs/{hash}", get(blobs::get))
        .merge(pages)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(edge);
    Ok((router, handle))
}

/// Pages cost work as calls do, and count as calls of their client address.
async fn as_a_call(
    State(edge): State<Arc<Edge>>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match edge.addresses.call(address.ip(), Instant::now()) {
        Ok(permit) => next.run(request).await.map(|body| Body::new(Holding::new(body, permit))),
        Err(refusal) => refusal.into_response(),
    }
}

async fn no_such_path(uri: Uri) -> Response {
    let paths = "/, /v1/blobs, /v1/blobs/HASH, /metrics, /health, /health/ready, /health/live";
    Refusal::field(
        "not_found",
        "path",
        uri.path(),
        paths,
        format!("there is nothing under this path; use one of: {paths}"),
    )
    .into_response()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}; use a method that it takes", uri.path());
    let mut response =
        Refusal::field("invalid_method", "method", method, "see the path's methods", message).into_response();
    *response.status_mut() = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// `POST /`: a call or a batch.
async fn call(State(state): State<RpcState>, request: Request<Body>) -> Response {
    let (mut parts, body) = request.into_parts();
    let bytes = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Err(_) => {
            let limit = BODY_TIMEOUT.as_secs();
            let message = format!("the request's body did not come within {limit} s; send it again");
            return Refusal::field("timeout", "body", "unfinished", limit, message).into_response();
        }
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => return Refusal::too_large().into_response(),
        Ok(Err(e)) => {
            return Refusal::new("invalid_body", format!("the body can't be read: {e}; send it again")).into_response();
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    if let Some((id, refusal)) = malformed(&bytes) {
        return refusal.answer_to(&id);
    }
    // What is malformed is no text either.
    let text = String::from_utf8_lossy(&bytes);
    let Ok(admitted) = ids::admit(&text) else { return Refusal::invalid_request(&text).into_response() };
    // The library gives up looking for the beginning after so much white space.
    let call = admitted.text.clone().map_or_else(|| bytes.slice_ref(bytes.trim_ascii_start()), Bytes::from);
    let (is_batch, keep) = (call.starts_with(b"["), Keep::default());
    // The body's length may be another now.
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut request = Request::from_parts(parts, Body::from(call));
    request.extensions_mut().insert(keep.clone());
    let (mut parts, body) = serve(state, request).await.into_parts();
    // The library hands them on from the request; what is held goes with the body.
    parts.extensions.remove::<Keep>();
    let mut bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(e) => return Refusal::new("internal", format!("the answer broke off: {e}")).into_response(),
    };
    if !admitted.is_answered() && parts.status.is_success() {
        return StatusCode::NO_CONTENT.into_response();
    }
    if admitted.restores() {
        parts.headers.remove(header::CONTENT_LENGTH);
        bytes = Bytes::from(admitted.restored(&String::from_utf8_lossy(&bytes)));
    }
    let refused = keep.status().filter(|_| !is_batch);
    let mut response = Response::from_parts(parts, Body::new(Holding::new(Pieces(bytes), keep)));
    if let Some(status) = refused {
        *response.status_mut() = status;
        retry_after(&mut response);
    }
    response
}

/// `GET /` with an upgrade: WebSocket.
async fn upgrade(State(state): State<RpcState>, request: Request<Body>) -> Response {
    if !jsonrpsee::server::ws::is_upgrade_request(&request) {
        let limit = "POST with JSON-RPC, or GET with Upgrade: websocket";
        return Refusal::field(
            "invalid_method",
            "method",
            "GET",
            limit,
            format!("this is a JSON-RPC address; send {limit}"),
        )
        .into_response();
    }
    socket::upgrade(state.sessions, request)
}

async fn serve(state: RpcState, request: Request<Body>) -> Response {
    let mut service = state.builder.build(state.sessions.methods, state.sessions.stop);
    match service.call(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => Refusal::new("internal", format!("the call broke off: {error}")).into_response(),
    }
}
