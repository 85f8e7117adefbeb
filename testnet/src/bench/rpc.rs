//! JSON-RPC over one HTTP connection that stays open: what a program that sends much would use.

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// A connection to a node's RPC address. One request at a time.
pub(super) struct Rpc {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

/// The answer to one call: its result, or code and message of its refusal.
pub(super) type Answer = std::result::Result<Value, Refusal>;

/// A refused call.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The node's code, such as `overloaded`.
    pub(super) code: String,
    /// Its message.
    pub(super) message: String,
}

impl Rpc {
    /// Connects to `http://HOST:PORT`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let host = url.strip_prefix("http://").context("an address http://HOST:PORT")?.to_owned();
        let stream = TcpStream::connect(&host).await.with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; an error shows at the next request.
        tokio::spawn(connection);
        Ok(Self { host, sender })
    }

    async fn request(&mut self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{} answered {status}: {}", self.host, String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The node's refusal, or a broken connection.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let call = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
        let body = self.request("POST", "/", call.to_string().into_bytes()).await?;
        let answer: Value = serde_json::from_slice(&body)?;
        answer_of(&answer).map_err(|refusal| anyhow!("{method}: {} ({})", refusal.message, refusal.code))
    }

    /// Calls a method with each of the parameters, in one batch; the answers come in the same order. `params` are JSON texts,
    /// so that a load generator need not build a tree for each.
    ///
    /// # Errors
    /// A broken connection, or an answer that is none to this batch.
    pub(super) async fn batch(&mut self, method: &str, params: &[String]) -> Result<Vec<Answer>> {
        let call = |(id, params): (usize, &String)| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
        };
        let calls: Vec<String> = params.iter().enumerate().map(call).collect();
        let body = self.request("POST", "/", format!("[{}]", calls.join(",")).into_bytes()).await?;
        let list: Vec<Value> = serde_json::from_slice(&body).context("the answer to a batch is a list")?;
        let mut answers: Vec<Option<Answer>> = vec![None; params.len()];
        for answer in &list {
            let id = answer["id"].as_u64().and_then(|id| usize::try_from(id).ok());
            let slot =
                id.and_then(|id| answers.get_mut(id)).with_context(|| format!("no call has this id: {answer}"))?;
            *slot = Some(answer_of(answer));
        }
        answers.into_iter().collect::<Option<Vec<_>>>().context("a call of the batch was not answered")
    }

    /// Uploads a blob; returns its hash.
    ///
    /// # Errors
    /// A broken connection, or the node's refusal.
    pub(super) async fn put_blob(&mut self, bytes: Vec<u8>) -> Result<String> {
        let body = self.request("PUT", "/v1/blobs", bytes).await?;
        let answer: Value = serde_json::from_slice(&body)?;
        Ok(answer["hash"].as_str().with_context(|| format!("no hash in {answer}"))?.to_owned())
    }

    /// Reads a path.
    ///
    /// # Errors
    /// A broken connection, or another status than success.
    pub(super) async fn get(&mut self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.request("GET", path, vec![]).await?).into_owned())
    }

    /// The height of the last applied block.
    ///
    /// # Errors
    /// As [`Rpc::call`].
    pub(super) async fn height(&mut self) -> Result<u64> {
        let head = self.call("chain_head", json!([])).await?;
        head["height"].as_u64().with_context(|| format!("no height in {head}"))
    }
}

fn answer_of(answer: &Value) -> Answer {
    match answer.get("error") {
        None => Ok(answer["result"].clone()),
        Some(error) => Err(Refusal {
            code: error["data"]["code"].as_str().unwrap_or("unknown").to_owned(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}

/// The value of the metric whose line in `text` begins with `name`, labels and the blank included.
pub(super) fn metric(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no {name} in /metrics"))
}
