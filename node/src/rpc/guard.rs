//! What every call passes on its way in, over HTTP and WebSocket alike: the rate of its client address, the count of calls
//! under way, room for its answer, and the edge's metrics. What it takes it holds until the answer has been sent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use jsonrpsee::server::middleware::rpc::{Batch, BatchEntry, Notification, Request, RpcServiceT};
use jsonrpsee::server::{BatchResponseBuilder, MethodResponse};
use jsonrpsee::types::error::{INTERNAL_ERROR_CODE, METHOD_NOT_FOUND_CODE, TOO_MANY_SUBSCRIPTIONS_CODE};
use jsonrpsee::types::{ErrorObjectOwned, Id};
use types::limits::{BLOCK_BYTES_MAX, PROOF_BYTES_MAX};

use super::methods::NAMES;
use crate::http::keep::Keep;
use crate::http::refusal::Refusal;
use crate::http::{ClientAddress, Edge, SUBSCRIPTIONS_MAX};

/// Largest answer to a batch, bytes.
const BATCH_ANSWER_MAX: usize = 72 << 20;
/// Room for an answer that no other bound is known of, bytes: a page of a list.
const ANSWER_ROOM: usize = 256 << 10;
/// Room for a block as JSON, with its transactions in hex and in fields.
const BLOCK_ROOM: usize = 6 * BLOCK_BYTES_MAX;
/// Room for a receipt in hex: its proof, and a megabyte for the rest.
const RECEIPT_ROOM: usize = 2 * (PROOF_BYTES_MAX as usize + (1 << 20));

/// The most that the answer to a method has, but for odd cases; the room is fitted to it once it is made.
fn room_of(method: &str) -> usize {
    match method {
        "job_receipt" => RECEIPT_ROOM,
        "chain_block" => BLOCK_ROOM,
        _ => ANSWER_ROOM,
    }
}

/// Puts a [`Guard`] around the module's service.
#[derive(Clone)]
pub(crate) struct GuardLayer {
    edge: Arc<Edge>,
}

impl GuardLayer {
    /// A layer for this edge.
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }
}

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, edge: Arc::clone(&self.edge) }
    }
}

/// The module's service behind the limits.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    edge: Arc<Edge>,
}

impl<S> RpcServiceT for Guard<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let Self { inner, edge } = self.clone();
        async move {
            let method = NAMES.iter().copied().find(|name| *name == request.method_name()).unwrap_or("other");
            // Every request carries the address; one that did not would share the limits of "nobody".
            let address = request.extensions().get::<ClientAddress>().map_or(IpAddr::from([0, 0, 0, 0]), |a| a.0.ip());
            let keep = request.extensions().get::<Keep>().cloned().unwrap_or_default();
            let taken = async {
                let permit = edge.addresses.call(address, Instant::now())?;
                Ok::<_, Refusal>((permit, edge.unsent.take(address, room_of(method)).await?))
            };
            let (permit, mut room) = match taken.await {
                Ok(taken) => taken,
                Err(refusal) => {
                    edge.metrics.calls.with_label_values(&[method, "limited"]).inc();
                    keep.refused(&refusal);
                    return MethodResponse::error(request.id, ErrorObjectOwned::from(refusal));
                }
            };
            let since = Instant::now();
            let (id, name) = (request.id.clone().into_owned(), request.method_name().to_string());
            let mut response = inner.call(request).await;
            if let Some(refusal) = response.as_error_code().and_then(|code| in_our_form(code, &name)) {
                response = MethodResponse::error(id, ErrorObjectOwned::from(refusal));
            }
            room.fit(response.as_json().get().len());
            keep.hold(permit, room);
            let outcome = if response.is_success() { "ok" } else { "error" };
            edge.metrics.calls.with_label_values(&[method, outcome]).inc();
            let seconds = since.elapsed().as_secs_f64();
            edge.metrics.call_seconds.with_label_values(&[method]).observe(seconds);
            if method == "job_submit" {
                edge.metrics.submission_seconds.observe(seconds);
            }
            response
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let guard = self.clone();
        async move {
            let entries: Vec<_> = batch.into_iter().collect();
            if let Some(refusal) = Refusal::batch(entries.len()) {
                return MethodResponse::error(Id::Null, ErrorObjectOwned::from(refusal));
            }
            let mut answers = BatchResponseBuilder::new_with_limit(BATCH_ANSWER_MAX);
            let mut notified = false;
            for entry in entries {
                let answer = match entry {
                    Ok(BatchEntry::Call(request)) => guard.call(request).await,
                    Ok(BatchEntry::Notification(notification)) => {
                        notified = true;
                        guard.notification(notification).await;
                        continue;
                    }
                    Err(error) => {
                        let (_, id) = error.into_parts();
                        MethodResponse::error(
                            id,
                            ErrorObjectOwned::from(Refusal::invalid_request("an entry of the batch")),
                        )
                    }
                };
                if let Err(over_limit) = answers.append(answer) {
                    return over_limit;
                }
            }
            if answers.is_empty() && notified {
                MethodResponse::notification()
            } else {
                MethodResponse::from_batch(answers.finish())
            }
        }
    }

    fn notification<'a>(&self, notification: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        self.inner.notification(notification)
    }
}

/// The library's own errors in the form of ours; `None` for those that have it already.
fn in_our_form(code: i32, method: &str) -> Option<Refusal> {
    let shown: String = method.chars().take(80).collect();
    match code {
        METHOD_NOT_FOUND_CODE if !NAMES.contains(&method) => {
            let message = format!("there is no method {shown}; check its spelling, and the node's version");
            Some(Refusal::field("unknown_method", "method", shown, "the methods of this version", message))
        }
        TOO_MANY_SUBSCRIPTIONS_CODE => {
            let message = format!(
                "a connection has at most {SUBSCRIPTIONS_MAX} subscriptions; end one, or open another connection"
            );
            Some(Refusal::field(
                "too_many_subscriptions",
                "subscriptions",
                "over the limit",
                SUBSCRIPTIONS_MAX,
                message,
            ))
        }
        INTERNAL_ERROR_CODE if method.contains("ubscribe") => {
            let message = format!("{shown} needs a WebSocket connection; open one by GET / with Upgrade: websocket");
            Some(Refusal::field("websocket_only", "method", shown, "GET / with Upgrade: websocket", message))
        }
        _ => None,
    }
}
