//! JSON-RPC and blobs of a node, one connection a call: what tests and the adversary ask beside the command line.
//!
//! Speaks HTTP/1.0, so that an answer ends with its connection and needs no framing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest silence of a node within one answer. A submission waits for its block.
const SILENCE: Duration = Duration::from_secs(75);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Largest answer read, bytes: a receipt in hex with its envelope.
const ANSWER_MAX: u64 = 72 << 20;

/// A node's RPC address.
#[derive(Clone, Debug)]
pub struct Rpc {
    address: SocketAddr,
}

/// What a node says to a call that it does not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable name of the reason.
    pub code: String,
    /// The reason in words.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl Rpc {
    /// The node at `http://IP:PORT`.
    ///
    /// # Errors
    /// When the text is no such URL.
    pub fn at(url: &str) -> Result<Self> {
        let text = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        Ok(Self { address: text.parse().with_context(|| format!("'{url}' is not http://IP:PORT"))? })
    }

    /// Calls a method; the inner error is the node's refusal.
    ///
    /// # Errors
    /// When the node can't be reached or answers with something else than JSON-RPC.
    pub fn try_call(&self, method: &str, params: &Value) -> Result<Result<Value, Refusal>> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let (status, answer) = self.exchange("POST", "/", body.as_bytes())?;
        let odd = || format!("{method}: status {status}: {}", String::from_utf8_lossy(&answer));
        let mut answer: Value = serde_json::from_slice(&answer).with_context(odd)?;
        if let Some(error) = answer.get("error") {
            let code = error["data"]["code"].as_str().map_or_else(|| error["code"].to_string(), str::to_owned);
            let message = error["message"].as_str().unwrap_or_default().to_owned();
            return Ok(Err(Refusal { code, message }));
        }
        Ok(Ok(answer.get_mut("result").map(Value::take).with_context(odd)?))
    }

    /// Calls a method; a refusal is an error.
    ///
    /// # Errors
    /// As [`Rpc::try_call`], and the refusal in words.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value> {
        match self.try_call(method, params)? {
            Ok(value) => Ok(value),
            Err(refusal) => bail!("{method}: {refusal}"),
        }
    }

    /// Calls a method that the node must refuse; returns the whole error object.
    ///
    /// # Errors
    /// When the node can't be reached, or carries the call out.
    pub fn refused(&self, method: &str, params: &Value) -> Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let (_, mut answer) = self.send("POST", "/", body.as_bytes())?;
        match answer.get_mut("error").map(Value::take) {
            Some(error) => Ok(error),
            None => bail!("{method} was not refused: {answer}"),
        }
    }

    /// Sends any bytes to a path; returns the status and the answer, which must be JSON.
    ///
    /// # Errors
    /// When the node can't be reached or answers with something else than JSON.
    pub fn send(&self, verb: &str, path: &str, body: &[u8]) -> Result<(u16, Value)> {
        let (status, answer) = self.exchange(verb, path, body)?;
        let odd = || format!("{verb} {path}: status {status}: {}", String::from_utf8_lossy(&answer));
        Ok((status, serde_json::from_slice(&answer).with_context(odd)?))
    }

    /// Reads a page of text.
    ///
    /// # Errors
    /// When the node can't be reached, or has no such page.
    pub fn get(&self, path: &str) -> Result<String> {
        let (status, answer) = self.exchange("GET", path, &[])?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        if status == 200 { Ok(text) } else { bail!("{path}: status {status}: {text}") }
    }

    fn exchange(&self, verb: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let lost = || format!("talking to http://{}", self.address);
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT).with_context(lost)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let head = format!(
            "{verb} {path} HTTP/1.0\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        // A node that refuses a long body may answer and close before all of it is sent; then the answer counts.
        let sent = stream.write_all(&[head.as_bytes(), body].concat());
        let mut answer = Vec::new();
        let read = stream.take(ANSWER_MAX).read_to_end(&mut answer);
        if answer.is_empty() {
            sent.with_context(lost)?;
            read.with_context(lost)?;
        }
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").with_context(lost)?;
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
        let status = head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).with_context(lost)?;
        Ok((status, answer.split_off(end + 4)))
    }
}
