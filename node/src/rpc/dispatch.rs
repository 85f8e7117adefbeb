//! From bytes to an answer, the same over HTTP and WebSocket: what is no call is refused here, calls go through the
//! guard. [`Session`] is a WebSocket connection's way to the methods, subscriptions included.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonrpsee::core::middleware::{Batch, BatchEntry, BatchEntryErr, Notification, Request, RpcServiceT};
use jsonrpsee::server::{
    BoundedSubscriptions, ConnectionId, MethodCallback, MethodResponse, MethodSink, Methods, RandomIntegerIdProvider,
    SubscriptionState,
};
use jsonrpsee::types::error::{ErrorCode, reject_too_many_subscriptions};
use jsonrpsee::types::{ErrorObject, ErrorObjectOwned, Extensions, Id, Params};
use serde_json::value::RawValue;

use crate::http::SUBSCRIPTIONS_MAX;
use crate::http::refusal::Refusal;
use crate::rpc::ids::{self, Admitted};

/// Largest answer, bytes: a receipt in hex with its envelope.
pub(crate) const ANSWER_MAX: u32 = 72 << 20;

/// Bytes that are no call and no batch of the right length. Calls inside a batch are looked at one by one later.
pub(crate) fn malformed(bytes: &[u8]) -> Option<(Id<'static>, Refusal)> {
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

/// The answer to a WebSocket message. One that is to be sent is a call's or a batch's; see [`MethodResponse`]. Its ids are
/// those of [`ids`], which must still be restored.
pub(crate) async fn answer<S>(service: &S, bytes: &[u8], extensions: &Extensions) -> (MethodResponse, Option<Admitted>)
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Send
        + Sync,
{
    if let Some((id, refusal)) = malformed(bytes) {
        return (MethodResponse::error(id, ErrorObjectOwned::from(refusal)), None);
    }
    let text = String::from_utf8_lossy(bytes);
    let Ok(admitted) = ids::admit(&text) else {
        let refusal = ErrorObjectOwned::from(Refusal::invalid_request(&text));
        return (MethodResponse::error(Id::Null, refusal), None);
    };
    let response = admitted_answer(service, admitted.text.as_deref().unwrap_or(&text), extensions).await;
    (response, Some(admitted))
}

/// The answer to a text whose ids the library knows.
async fn admitted_answer<S>(service: &S, text: &str, extensions: &Extensions) -> MethodResponse
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Send
        + Sync,
{
    let calls = match text.trim_ascii_start().as_bytes().first() {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text).map(|calls| (calls, true)),
        _ => serde_json::from_str::<&RawValue>(text).map(|call| (vec![call], false)),
    };
    let (calls, is_batch) = match calls {
        Ok(calls) => calls,
        Err(error) => return MethodResponse::error(Id::Null, ErrorObjectOwned::from(Refusal::not_json(&error))),
    };
    let mut entries: Vec<_> = calls.iter().map(|call| entry(call.get(), extensions)).collect();
    if is_batch {
        return service.batch(Batch::from(entries)).await;
    }
    match entries.pop() {
        Some(Ok(BatchEntry::Call(call))) => service.call(call).await,
        Some(Ok(BatchEntry::Notification(notification))) => service.notification(notification).await,
        Some(Err(error)) => {
            let (error, id) = error.into_parts();
            MethodResponse::error(id, error)
        }
        None => MethodResponse::notification(),
    }
}

pub(super) fn entry<'a>(text: &'a str, extensions: &Extensions) -> Result<BatchEntry<'a>, BatchEntryErr<'a>> {
    if let Ok(mut call) = serde_json::from_str::<Request<'a>>(text) {
        *call.extensions_mut() = extensions.clone();
        return Ok(BatchEntry::Call(call));
    }
    if let Ok(mut notification) = serde_json::from_str::<Notification<'a>>(text) {
        *notification.extensions_mut() = extensions.clone();
        return Ok(BatchEntry::Notification(notification));
    }
    let (id, refusal) = Refusal::not_a_call(text).unwrap_or((Id::Null, Refusal::invalid_request(text)));
    Err(BatchEntryErr::new(id, ErrorObjectOwned::from(refusal)))
}

/// A WebSocket connection's way to the methods.
#[derive(Clone)]
pub(crate) struct Session {
    methods: Methods,
    /// Which connection a subscription belongs to.
    connection: ConnectionId,
    /// Where subscriptions put what they have to say.
    sink: MethodSink,
    places: BoundedSubscriptions,
}

impl Session {
    /// A new connection, which sends what comes into `sink`.
    pub(crate) fn new(methods: Methods, sink: MethodSink) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self {
            methods,
            connection: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            sink,
            places: BoundedSubscriptions::new(SUBSCRIPTIONS_MAX),
        }
    }
}

impl RpcServiceT for Session {
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let Self { methods, connection, sink, places } = self.clone();
        async move {
            let Some(callback) = methods.method(request.method_name()).cloned() else {
                return MethodResponse::error(request.id, ErrorObject::from(ErrorCode::MethodNotFound));
            };
            let Request { id, params, extensions, .. } = request;
            let params = Params::new(params.as_ref().map(|params| params.get()));
            let bytes_max = usize::try_from(ANSWER_MAX).unwrap_or(usize::MAX);
            match callback {
                MethodCallback::Sync(run) => run(id, params, bytes_max, extensions),
                MethodCallback::Async(run) => {
                    run(id.into_owned(), params.into_owned(), connection, bytes_max, extensions).await
                }
                MethodCallback::Unsubscription(run) => run(id, params, connection, bytes_max, extensions),
                MethodCallback::Subscription(run) => match places.acquire() {
                    None => MethodResponse::error(id, reject_too_many_subscriptions(places.max())),
                    Some(subscription_permit) => {
                        let id_provider = &RandomIntegerIdProvider;
                        let state = SubscriptionState { conn_id: connection, id_provider, subscription_permit };
                        run(id, params, sink, state, extensions).await
                    }
                },
            }
        }
    }

    /// The guard takes batches apart.
    fn batch<'a>(&self, _: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        ready(MethodResponse::error(Id::Null, ErrorObject::from(ErrorCode::InternalError)))
    }

    fn notification<'a>(&self, _: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        ready(MethodResponse::notification())
    }
}
