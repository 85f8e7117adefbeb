//! One HTTP/1.1 request over a connection of its own.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::failure::Failure;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    host: String,
    port: u16,
}

/// Status and body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl Target {
    /// Reads `http://HOST:PORT`; the scheme may be left out.
    ///
    /// # Errors
    /// A usage error that says what is accepted.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let bad =
            |why: &str| Failure::usage(format!("rpc: '{url}' {why}")).field("rpc").value(url).limit("http://HOST:PORT");
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return Err(bad("asks for TLS, which the node does not speak")
                    .remedy("reach a remote node through an SSH tunnel, or a proxy that takes plain HTTP here"));
            }
            Some(_) => return Err(bad("has an unknown scheme").remedy("write http://HOST:PORT")),
            None => url,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) =
            rest.rsplit_once(':').ok_or_else(|| bad("names no port").remedy("write http://HOST:PORT"))?;
        let port = port.parse().map_err(|_| bad("has no valid port").remedy("write http://HOST:PORT"))?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(bad("has no valid host").remedy("write http://HOST:PORT"));
        }
        Ok(Self { host: host.to_string(), port })
    }

    /// Sends one request and reads the answer, at most `limit` bytes of it, within `wait`.
    ///
    /// # Errors
    /// `unreachable`, `timeout` or `too_large`, each with what to do.
    pub(super) async fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        wait: Duration,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let work = self.exchange(method, path, content_type, body, limit);
        tokio::time::timeout(wait, work).await.unwrap_or_else(|_| {
            Err(Failure::error("timeout", format!("{self} did not answer within {} s", wait.as_secs()))
                .field("rpc")
                .remedy("ask again; if it stays, look at the node's log and at: proofmesh doctor"))
        })
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, self.port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(self.unreachable(&e.to_string())),
            Err(_) => return Err(self.unreachable("no connection within 5 s")),
        };
        let lost = |e: hyper::Error| {
            Failure::error("connection", format!("talking to {self}: {e}"))
                .field("rpc")
                .value(self)
                .limit("the RPC address of a proofmesh node")
                .remedy("ask again; if it stays, check the port: a node's RPC port is not its peer-to-peer port")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("content-type", content_type)
            .header("connection", "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| Failure::error("internal", format!("building the request: {e}")))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|e| {
            Failure::error("too_large", format!("the answer of {self} can't be read: {e}")).limit(limit)
        })?;
        drop(sender);
        driver.abort();
        Ok(Answer { status, body: body.to_bytes() })
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::error("unreachable", format!("no node at {self}: {why}"))
            .field("rpc")
            .value(self)
            .limit("the RPC address of a running node")
            .remedy("start one by: proofmesh start (or scripts/testnet.sh); or name another node by --rpc URL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, host, port) in [
            ("http://127.0.0.1:7601", "127.0.0.1", 7601),
            ("http://localhost:1/", "localhost", 1),
            ("[::1]:7601", "[::1]", 7601),
        ] {
            assert_eq!(Target::parse(url).unwrap(), Target { host: host.into(), port });
        }
        for url in ["https://a:1", "ftp://a:1", "http://a", "http://a:b", "http://:1", "http://a/b:1", "http://a b:1"] {
            let failure = Target::parse(url).unwrap_err();
            assert_eq!((failure.exit, failure.field.as_deref()), (crate::failure::Exit::Usage, Some("rpc")), "{url}");
        }
    }
}
