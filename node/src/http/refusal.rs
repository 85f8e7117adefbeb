//! The one form of errors at the edge: a JSON-RPC error object with a stable number and `data {code, field, value, limit}`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::api::ApiError;
use jsonrpsee::types::{ErrorObjectOwned, Id, InvalidRequest, Notification, Request};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{BATCH_MAX, BODY_MAX};

/// Seconds after which a client that is refused for the moment may come again.
const RETRY_AFTER_S: &str = "1";

/// Why a request was refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// Stable name and fields.
    pub(crate) error: ApiError,
}

/// `data` of an error object.
#[derive(Serialize)]
struct Data<'a> {
    code: &'a str,
    field: Option<&'a str>,
    value: Option<&'a str>,
    limit: Option<&'a str>,
}

impl Refusal {
    /// A refusal about one field.
    pub(crate) fn field(code: &str, field: &str, value: impl ToString, limit: impl ToString, message: String) -> Self {
        let mut error = ApiError::field(code, field, value, limit, message);
        // A client's own text may come back, but not more of it than says what it was.
        error.value = error.value.map(|value| value.chars().take(200).collect());
        Self { error }
    }

    /// A body that is no JSON.
    pub(crate) fn not_json(error: &serde_json::Error) -> Self {
        let message = format!("the request is no JSON: {error}; send one JSON-RPC 2.0 call or a list of calls");
        Self::field("parse_error", "body", error, "a JSON-RPC 2.0 call or a list of calls", message)
    }

    /// A request that is too long.
    pub(crate) fn too_large() -> Self {
        let message = format!("a request has at most {BODY_MAX} bytes; send programs and arguments to PUT /v1/blobs");
        Self::field("too_large", "body", "over the limit", BODY_MAX, message)
    }

    /// JSON that is no call, with the id that it may have; `None` for a call or a notification.
    pub(crate) fn not_a_call(text: &str) -> Option<(Id<'static>, Self)> {
        let is_call = serde_json::from_str::<Request<'_>>(text).is_ok()
            || serde_json::from_str::<Notification<'_, Option<&RawValue>>>(text).is_ok();
        if is_call {
            return None;
        }
        // A list would be read as a call's fields in order.
        let known = Some(text).filter(|text| text.trim_start().starts_with('{'));
        let known = known.and_then(|text| serde_json::from_str::<InvalidRequest<'_>>(text).ok());
        let id = known.map_or(Id::Null, |known| known.id.into_owned());
        Some((id, Self::invalid_request(text)))
    }

    /// A batch of a length that is not taken.
    pub(crate) fn batch(calls: usize) -> Option<Self> {
        let code = match calls {
            0 => "invalid_request",
            1..=BATCH_MAX => return None,
            _ => "batch_too_large",
        };
        let message = format!("a batch has 1 to {BATCH_MAX} calls; send the rest in further batches");
        Some(Self::field(code, "batch", calls, BATCH_MAX, message))
    }

    /// What was sent in place of a call.
    pub(crate) fn invalid_request(text: &str) -> Self {
        let shown: String = text.chars().take(80).collect();
        let limit = "an object with jsonrpc \"2.0\", id, method, params";
        let message = format!("this is no JSON-RPC 2.0 call; send {limit}");
        Self::field("invalid_request", "body", shown, limit, message)
    }

    /// A refusal without field details.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { error: ApiError::new(code, message) }
    }

    /// Wrong parameters of a call.
    pub(crate) fn params(field: &str, value: impl ToString, limit: impl ToString, message: String) -> Self {
        Self::field("invalid_params", field, value, limit, message)
    }

    /// The JSON-RPC error number: fixed per kind, so that clients can branch on it. From -32020 down, clear of the numbers
    /// that the JSON-RPC library has for itself.
    pub(crate) fn number(&self) -> i32 {
        match self.error.code.as_str() {
            "parse_error" => -32700,
            "invalid_request" => -32600,
            "unknown_method" => -32601,
            "invalid_params" => -32602,
            "internal" => -32603,
            code if code.starts_with("unknown_") || code == "not_found" => -32021,
            "pruned" => -32022,
            "receipt_not_ready" => -32023,
            "timeout" => -32024,
            "rate_limited" | "quota" => -32025,
            "overloaded" | "restarting" | "network_down" => -32026,
            "node_stopping" => -32027,
            "too_large" | "batch_too_large" | "too_many_subscriptions" => -32028,
            _ => -32020,
        }
    }

    /// The HTTP status where the answer is no JSON-RPC result.
    pub(crate) fn status(&self) -> StatusCode {
        match self.error.code.as_str() {
            code if code.starts_with("unknown_") || code == "not_found" => StatusCode::NOT_FOUND,
            "pruned" => StatusCode::GONE,
            "timeout" => StatusCode::REQUEST_TIMEOUT,
            "rate_limited" | "quota" => StatusCode::TOO_MANY_REQUESTS,
            "overloaded" | "restarting" | "network_down" | "node_stopping" | "receipt_not_ready" => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            "disk_budget" | "disk_reserve" => StatusCode::INSUFFICIENT_STORAGE,
            "too_large" | "batch_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn data(&self) -> Data<'_> {
        let ApiError { code, field, value, limit, .. } = &self.error;
        Data { code, field: field.as_deref(), value: value.as_deref(), limit: limit.as_deref() }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error }
    }
}

impl From<Refusal> for ErrorObjectOwned {
    fn from(refusal: Refusal) -> Self {
        Self::owned(refusal.number(), refusal.error.message.clone(), Some(refusal.data()))
    }
}

impl Refusal {
    /// The answer to a call of this id that the JSON-RPC layer does not see.
    pub(crate) fn answer_to(&self, id: &Id<'_>) -> Response {
        let mut response = json_response(self.status(), &self.object(id));
        retry_after(&mut response);
        response
    }

    /// The JSON-RPC answer to a call of this id.
    pub(crate) fn object(&self, id: &Id<'_>) -> Value {
        json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": { "code": self.number(), "message": self.error.message, "data": self.data() },
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.answer_to(&Id::Null)
    }
}

/// Tells a client that is refused for the moment when to come again.
pub(crate) fn retry_after(response: &mut Response) {
    if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}
