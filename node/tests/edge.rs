//! What one address may send to a real node: uploads, subscriptions, calls; the node answers others as before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Node, ok, text};
use serde_json::{Value, json};

/// Longest silence of the node.
const SILENCE: Duration = Duration::from_secs(60);

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.rpc.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream
}

/// Sends a request and returns status and answer; a refusal may come before everything is sent.
fn request(node: &Node, head: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = connect(node);
    let kind = "content-type: application/json";
    let head = format!("{head} HTTP/1.0\r\nhost: x\r\n{kind}\r\ncontent-length: {}\r\n\r\n", body.len());
    let _early = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).expect("JSON"))
}

/// A WebSocket connection that speaks text frames.
struct Socket(TcpStream);

impl Socket {
    fn open(node: &Node) -> Self {
        let mut stream = connect(node);
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Self(stream)
    }

    /// Calls and returns the answer, whatever comes before it.
    fn call(&mut self, id: u64, method: &str, params: &Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        // FIN and text; masked with zeros, the length in 16 bits.
        let head = [0x81, 0x80 | 126];
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        self.0.write_all(&[head.as_slice(), &length, &[0; 4], body.as_bytes()].concat()).unwrap();
        loop {
            let (kind, text) = self.frame();
            if kind == 1 {
                let message: Value = serde_json::from_slice(&text).unwrap();
                if message["id"] == id {
                    return message;
                }
            }
        }
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let length = match head[1] & 0x7f {
            126 => {
                let mut long = [0; 2];
                self.0.read_exact(&mut long).unwrap();
                usize::from(u16::from_be_bytes(long))
            }
            short => usize::from(short),
        };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (head[0] & 0x0f, body)
    }
}

#[test]
fn one_address_has_bounds_and_is_told_them() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    ok(&["init", "--home", text(&home)]);
    // Not a testnet, so that the limits of an address hold on loopback, too.
    let config = home.join("config.toml");
    let text_of = fs::read_to_string(&config).unwrap();
    assert!(text_of.contains("#blob_quota_mib = 256"), "the template changed");
    fs::write(&config, text_of.replace("#blob_quota_mib = 256", "blob_quota_mib = 32")).unwrap();
    let node = Node::start(&home);

    let blob = vec![7u8; 20 << 20];
    assert_eq!(request(&node, "PUT /v1/blobs", &blob).0, 201);
    let (status, refused) = request(&node, "PUT /v1/blobs", &blob);
    let data = &refused["error"]["data"];
    assert_eq!((status, &data["code"], &data["field"]), (429, &json!("quota"), &json!("bytes")), "{refused}");
    assert_eq!(data["limit"], (32u64 << 20).to_string());
    assert!(refused["error"]["message"].as_str().unwrap().contains("go on in"), "{refused}");
    let (status, refused) = request(&node, "PUT /v1/blobs", &vec![7u8; (32 << 20) + 1]);
    let data = &refused["error"]["data"];
    assert_eq!((status, &data["code"], &data["limit"]), (413, &json!("too_large"), &json!("33554432")), "{refused}");
    assert_eq!(data["value"], "33554433");

    let mut socket = Socket::open(&node);
    for (id, method, params, code, field) in [
        (101, "chain_heads", json!([]), "unknown_method", "method"),
        (102, "job_status", json!([5]), "invalid_params", "job_id"),
        (103, "job_status", json!(["ab".repeat(32)]), "unknown_job", "job_id"),
        (104, "job_subscribe", json!(["xyz"]), "invalid_params", "job_id"),
    ] {
        let refused = socket.call(id, method, &params);
        let data = &refused["error"]["data"];
        assert_eq!((&data["code"], &data["field"]), (&json!(code), &json!(field)), "{refused}");
        assert!(data["value"].is_string() && data["limit"].is_string(), "{refused}");
    }
    for id in 1..=32 {
        assert!(!socket.call(id, "chain_subscribeHeads", &json!([]))["result"].is_null(), "subscription {id}");
    }
    let refused = socket.call(33, "job_subscribe", &json!([]));
    let data = &refused["error"]["data"];
    assert_eq!((&data["code"], &data["limit"]), (&json!("too_many_subscriptions"), &json!("32")), "{refused}");
    assert!(socket.call(38, "chain_head", &json!([]))["result"]["height"].is_u64(), "the connection goes on");
    drop(socket);
    // More calls than the bucket of this address holds, as fast as they go.
    let batch: Vec<Value> = (0..10).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "chain_head"})).collect();
    let batch = Value::Array(batch).to_string();
    let limited = (0..400).find_map(|_| {
        let (_, answers) = request(&node, "POST /", batch.as_bytes());
        answers.as_array()?.iter().find(|answer| answer["error"]["data"]["code"] == "rate_limited").cloned()
    });
    let limited = limited.expect("4000 calls in a row are too many");
    assert_eq!(limited["error"]["data"]["limit"], "50", "{limited}");
    std::thread::sleep(Duration::from_secs(1));
    assert!(node.ask(&["status"]).is_some(), "the node answers as before");
    assert_eq!(node.stop(), 0);
}
