//! Which path leads where, and JSON-RPC's way through: body read under limits here, calls by the module's tower service.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jsonrpsee::server::middleware::rpc::RpcServiceBuilder;
use jsonrpsee::server::{
    BatchRequestConfig, Methods, PingConfig, Server, ServerConfig, ServerHandle, StopHandle, TowerServiceBuilder,
    stop_channel,
};
use jsonrpsee::types::Id;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tower::Service;

use super::refusal::Refusal;
use super::{BODY_MAX, BODY_TIMEOUT, Edge, SUBSCRIPTIONS_MAX, blobs, health, metrics};
use crate::rpc;
use crate::rpc::guard::GuardLayer;
use crate::rpc::ids;

/// Largest answer, bytes: a receipt in hex with its envelope.
const ANSWER_MAX: u32 = 72 << 20;
/// Messages of a WebSocket connection that wait to be sent; then its calls wait.
const WS_BUFFER: u32 = 64;

/// JSON-RPC as a service.
#[derive(Clone)]
struct RpcState {
    builder: TowerServiceBuilder<
        tower::layer::util::Stack<GuardLayer, tower::layer::util::Identity>,
        tower::layer::util::Identity,
    >,
    methods: Methods,
    stop: StopHandle,
}

/// All routes; the handle ends WebSocket sessions.
///
/// # Errors
/// When a method is registered twice.
pub(super) fn router(edge: Arc<Edge>, connections: u32) -> Result<(Router, ServerHandle), rpc::RegisterError> {
    let methods: Methods = rpc::module(Arc::clone(&edge))?.into();
    let (stop, handle) = stop_channel();
    let config = ServerConfig::builder()
        .max_request_body_size(u32::try_from(BODY_MAX).unwrap_or(u32::MAX))
        .max_response_body_size(ANSWER_MAX)
        .max_connections(connections)
        .max_subscriptions_per_connection(SUBSCRIPTIONS_MAX)
        // Bounded by the body, and by the guard, whose refusal says more than the library's.
        .set_batch_request_config(BatchRequestConfig::Unlimited)
        .set_message_buffer_capacity(WS_BUFFER)
        .enable_ws_ping(PingConfig::new())
        .build();
    let guard = RpcServiceBuilder::new().layer(GuardLayer::new(Arc::clone(&edge)));
    let builder = Server::builder().set_config(config).set_rpc_middleware(guard).to_service_builder();
    let state = RpcState { builder, methods, stop };
    let router = Router::new()
        .route("/", get(upgrade).post(call).with_state(state))
        .route("/v1/blobs", put(blobs::put))
        .route("/v1/blobs/{hash}", get(blobs::get))
        .route("/metrics", get(metrics::metrics))
        .route("/health", get(health::health))
        .route("/health/ready", get(health::ready))
        .route("/health/live", get(health::live))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(edge);
    Ok((router, handle))
}

async fn no_such_path(uri: Uri) -> Response {
    let paths = "/, /v1/blobs, /v1/blobs/HASH, /metrics, /health, /health/ready, /health/live";
    Refusal::field("not_found", "path", uri.path(), paths, "there is nothing under this path".into()).into_response()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    let mut response =
        Refusal::field("invalid_method", "method", method, "see the path's methods", message).into_response();
    *response.status_mut() = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// `POST /`: a call or a batch.
async fn call(State(state): State<RpcState>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Err(_) => {
            let limit = BODY_TIMEOUT.as_secs();
            let message = format!("the request's body did not come within {limit} s");
            return Refusal::field("timeout", "body", "unfinished", limit, message).into_response();
        }
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => {
            let message = format!("a request has at most {BODY_MAX} bytes; programs and arguments go to PUT /v1/blobs");
            return Refusal::field("too_large", "body", "over the limit", BODY_MAX, message).into_response();
        }
        Ok(Err(e)) => return Refusal::new("invalid_body", format!("the body can't be read: {e}")).into_response(),
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    if let Some((id, refusal)) = malformed(&bytes) {
        return refusal.answer_to(&id);
    }
    admitted(state, parts, bytes).await
}

/// Serves a body that is JSON, see [`ids`]; what has no answer gets an empty one.
async fn admitted(state: RpcState, mut parts: Parts, bytes: Bytes) -> Response {
    let text = String::from_utf8_lossy(&bytes);
    let Ok(admitted) = ids::admit(&text) else { return Refusal::invalid_request(&text).into_response() };
    let body = admitted.text.clone().map_or_else(|| bytes.clone(), Bytes::from);
    // The body's length may be another now.
    parts.headers.remove(header::CONTENT_LENGTH);
    let answer = serve(state, Request::from_parts(parts, Body::from(body))).await;
    if !admitted.is_answered() && answer.status().is_success() {
        return StatusCode::NO_CONTENT.into_response();
    }
    if !admitted.restores() {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    match body.collect().await {
        Ok(body) => {
            let restored = admitted.restored(&String::from_utf8_lossy(&body.to_bytes()));
            Response::from_parts(head, Body::from(restored))
        }
        Err(error) => Refusal::new("internal", format!("the answer broke off: {error}")).into_response(),
    }
}

/// A body that is no call and no batch of the right length. Calls inside a batch are looked at one by one later.
fn malformed(bytes: &Bytes) -> Option<(Id<'static>, Refusal)> {
    let nameless = |refusal| (Id::Null, refusal);
    match bytes.trim_ascii_start().first() {
        Some(b'[') => match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
            Ok(calls) => Refusal::batch(calls.len()).map(nameless),
            Err(error) => Some(nameless(Refusal::not_json(&error))),
        },
        _ => match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(call) => Refusal::not_a_call(call.get()),
            Err(error) => Some(nameless(Refusal::not_json(&error))),
        },
    }
}

/// `GET /` with an upgrade: WebSocket.
async fn upgrade(State(state): State<RpcState>, request: Request<Body>) -> Response {
    if !jsonrpsee::server::ws::is_upgrade_request(&request) {
        let limit = "POST with JSON-RPC, or GET with Upgrade: websocket";
        return Refusal::field("invalid_method", "method", "GET", limit, "this is a JSON-RPC address".into())
            .into_response();
    }
    serve(state, request).await
}

async fn serve(state: RpcState, request: Request<Body>) -> Response {
    let mut service = state.builder.build(state.methods, state.stop);
    match service.call(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => Refusal::new("internal", format!("the call broke off: {error}")).into_response(),
    }
}
