//! The command line's side of JSON-RPC: one call a connection, bounded in time and size, errors in words.

mod http;

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use types::ids::BlobHash;

use crate::cli::ClientArgs;
use crate::config::layers;
use crate::failure::Failure;
use crate::home::Home;
use http::{Answer, Target};

/// Longest wait for an ordinary call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for a submission: the node itself answers `pending` before.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for an upload.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Largest answer read, bytes: a receipt in hex with its envelope.
const ANSWER_MAX: usize = 72 << 20;

/// A node's RPC address.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    target: Target,
}

/// A JSON-RPC answer.
#[derive(Deserialize)]
struct Response {
    result: Option<Value>,
    error: Option<RpcError>,
}

/// The error of a JSON-RPC answer.
#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

/// Runs a client's work on a runtime of its own.
///
/// # Errors
/// What the work returns, or that no runtime can be made.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::error("io", format!("starting the client: {e}")))?;
    runtime.block_on(work)
}

impl Client {
    /// The node named by the flag, else by the home's configuration.
    ///
    /// # Errors
    /// A usage error for a URL that is none, a configuration error for a broken configuration.
    pub(crate) fn of(home: &Home, args: &ClientArgs) -> Result<Self, Failure> {
        if let Some(url) = &args.rpc {
            return Ok(Self { target: Target::parse(url)? });
        }
        // Another node than the one of the home that was named must not be asked in its place.
        home.require_named()?;
        let mut address = layers::load(home, vec![])?.config.rpc_listen()?;
        // A node that listens on every address is asked on this machine's own.
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Ok(Self { target: Target::parse(&format!("http://{address}"))? })
    }

    /// The node at a URL.
    ///
    /// # Errors
    /// A usage error for a URL that is none.
    pub(crate) fn at(url: &str) -> Result<Self, Failure> {
        Ok(Self { target: Target::parse(url)? })
    }

    /// The flag that names this node, for commands that are printed to be copied.
    pub(crate) fn flag(&self) -> String {
        format!("--rpc {}", self.target)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The node's refusal with its own code and fields, or that it can't be reached.
    pub(crate) async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, Failure> {
        self.call_within(CALL_TIMEOUT, method, params).await
    }

    /// Calls a method that waits for a block.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) async fn call_slow<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, Failure> {
        self.call_within(SUBMIT_TIMEOUT, method, params).await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
        method: &str,
        params: Value,
    ) -> Result<T, Failure> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let answer = self.target.request("POST", "/", "application/json", body.into_bytes(), wait, ANSWER_MAX).await?;
        let Ok(response) = serde_json::from_slice::<Response>(&answer.body) else {
            return Err(self.odd(&answer));
        };
        if let Some(error) = response.error {
            return Err(refusal(method, error));
        }
        let result = response.result.unwrap_or(Value::Null);
        serde_json::from_value(result).map_err(|e| {
            Failure::error("bad_answer", format!("{method}: the answer of {} is not understood: {e}", self.target))
                .remedy("use the command line of the same version as the node; see: proofmesh version")
        })
    }

    /// Uploads a blob; returns its hash.
    ///
    /// # Errors
    /// The node's refusal, or that it can't be reached.
    pub(crate) async fn put_blob(&self, bytes: Vec<u8>) -> Result<BlobHash, Failure> {
        #[derive(Deserialize)]
        struct Stored {
            hash: BlobHash,
        }
        let kind = "application/octet-stream";
        let answer = self.target.request("PUT", "/v1/blobs", kind, bytes, UPLOAD_TIMEOUT, 1 << 20).await?;
        if answer.status == 201
            && let Ok(stored) = serde_json::from_slice::<Stored>(&answer.body)
        {
            return Ok(stored.hash);
        }
        Err(self.odd(&answer))
    }

    /// Reads a path by GET.
    ///
    /// # Errors
    /// That the node can't be reached, or its refusal for another status than 200 and 503.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value), Failure> {
        let answer = self.target.request("GET", path, "application/json", vec![], CALL_TIMEOUT, 1 << 20).await?;
        match serde_json::from_slice(&answer.body) {
            Ok(value) if matches!(answer.status, 200 | 503) => Ok((answer.status, value)),
            _ => Err(self.odd(&answer)),
        }
    }

    /// An answer that is not what was asked for: our own error body, or anything else.
    fn odd(&self, answer: &Answer) -> Failure {
        #[derive(Deserialize)]
        struct Body {
            error: RpcError,
        }
        if let Ok(body) = serde_json::from_slice::<Body>(&answer.body) {
            return refusal("request", body.error);
        }
        let text: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
        Failure::error("bad_answer", format!("{} answered with HTTP status {}: {text}", self.target, answer.status))
            .field("rpc")
            .value(&self.target)
            .limit("the RPC address of a proofmesh node")
            .remedy("check host and port: another program may listen there")
    }
}

/// A node's refusal as a failure: its code and fields are kept.
fn refusal(what: &str, error: RpcError) -> Failure {
    let text = |name: &str| {
        let value = error.data.as_ref().and_then(|data| data.get(name));
        value.and_then(Value::as_str).map(str::to_string)
    };
    let code = text("code").unwrap_or_else(|| format!("rpc_{}", error.code));
    let mut failure = Failure::error(code, format!("{what}: {}", error.message));
    failure.field = text("field");
    failure.value = text("value");
    failure.limit = text("limit");
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_code_and_fields() {
        let data = json!({"code": "bad_nonce", "field": "nonce", "value": "5", "limit": "3"});
        let failure = refusal("tx_submit", RpcError { code: -32010, message: "too high".into(), data: Some(data) });
        assert_eq!((failure.code.as_str(), failure.field.as_deref()), ("bad_nonce", Some("nonce")));
        assert_eq!((failure.value.as_deref(), failure.limit.as_deref()), (Some("5"), Some("3")));
        let plain = refusal("x", RpcError { code: -32601, message: "Method not found".into(), data: None });
        assert_eq!(plain.code, "rpc_-32601");
    }

    #[test]
    fn a_node_that_is_not_there_is_named_with_the_remedy() {
        // Bound and dropped: nobody listens there now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::at(&format!("http://127.0.0.1:{port}")).unwrap();
        let failure = block_on(client.call::<Value>("chain_head", json!([]))).unwrap_err();
        assert_eq!(failure.code, "unreachable");
        assert!(failure.to_string().contains("proofmesh start"), "{failure}");
    }
}
