//! The edge over real sockets, before a node of one validator.

mod floods;
mod forms;
mod owner;
mod sockets;

use std::net::SocketAddr;

use engine::api::EngineHandle;
use engine::{EngineConfig, ExecutorConfig};
use serde_json::{Value, json};
use storage::BlobLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use types::blob::blob_hash;
use types::genesis::{Genesis, GenesisAccount, GenesisValidator};
use types::ids::{Amount, TimeMs};
use types::keys::SecretKey;
use types::params::Params;

use super::{Server, listen, serve};
use crate::client::Client;
use crate::config::Config;

/// A node with its edge.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    server: Server,
    engine: EngineHandle,
    _home: tempfile::TempDir,
}

impl Node {
    pub(super) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (consensus, account) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let account_key = account.clone();
        let account = account.public();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut params = Params::standard();
        (params.block_ms, params.empty_block_ms) = (100, 200);
        let genesis = Genesis {
            chain_id: "edge-test".into(),
            time_ms: TimeMs(now.as_millis() as u64),
            params,
            validators: vec![GenesisValidator { key: consensus.public(), power: 1, account, stake: Amount(1) }],
            provers: vec![],
            accounts: vec![GenesisAccount { account, balance: Amount(1_000_000) }],
        };
        let worker_exe = std::env::current_exe().unwrap();
        let engine = engine::start(EngineConfig {
            home: home.path().to_path_buf(),
            genesis,
            node_key_seed: [3; 32],
            consensus_key: Some(consensus),
            account: account_key,
            uptime_ms: 0,
            prover: None,
            executor: ExecutorConfig { worker_exe, memory_bytes: 1 << 30, seconds_max: 10 },
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            external: vec![],
            bootstrap: vec![],
            testnet: true,
            blobs: BlobLimits { budget: 1 << 30, disk_reserve: 0 },
            crossings: engine::Crossings::default(),
        })
        .await
        .unwrap();
        let mut config = Config::default();
        config.node.testnet = true;
        change(&mut config);
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve(listener, engine.clone(), &config).unwrap();
        Self { address, server, engine, _home: home }
    }

    pub(super) async fn stop(self) {
        self.server.shutdown().await;
        self.engine.shutdown().await;
    }

    /// Sends raw bytes, reads until the end; returns status, head and body.
    async fn raw(&self, parts: &[&[u8]]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for part in parts {
            // A refusal may come before everything is sent.
            if stream.write_all(part).await.is_err() {
                break;
            }
        }
        let mut answer = vec![];
        // A connection that is reset after the answer still has given it.
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    pub(super) async fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body]).await
    }

    pub(super) async fn json(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, _, body) = self.request(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body))))
    }

    pub(super) async fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        self.json("POST", "/", body.as_bytes()).await.1
    }
}

fn batch(n: usize) -> String {
    let calls: Vec<Value> = (0..n).map(|i| json!({"jsonrpc": "2.0", "id": i, "method": "chain_head"})).collect();
    Value::Array(calls).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_batches_and_their_limits() {
    let node = Node::start(|_| ()).await;
    let head = node.call("chain_head", json!([])).await;
    assert_eq!(head["result"]["chain_id"], "edge-test");
    for field in ["height", "hash", "state_root", "time_ms"] {
        assert!(!head["result"][field].is_null(), "{field}");
    }
    let genesis = node.call("chain_genesis", json!([])).await;
    assert_eq!(genesis["result"]["genesis_hash"], node.engine.genesis_hash().to_string());

    let (status, ten) = node.json("POST", "/", batch(10).as_bytes()).await;
    assert_eq!((status, ten.as_array().map(Vec::len)), (200, Some(10)));
    let (status, eleven) = node.json("POST", "/", batch(11).as_bytes()).await;
    assert_eq!(status, 413);
    let expected = json!({"code": "batch_too_large", "field": "batch", "value": "11", "limit": "10"});
    assert_eq!(eleven["error"]["data"], expected);

    let long = vec![b' '; super::BODY_MAX + 1];
    let (status, refused) = node.json("POST", "/", &long).await;
    assert_eq!((status, &refused["error"]["data"]["code"]), (413, &json!("too_large")));
    assert_eq!(refused["error"]["data"]["limit"], super::BODY_MAX.to_string());

    let unknown = node.call("chain_nothing", json!([])).await;
    assert_eq!(unknown["error"]["code"], -32601);
    assert_eq!(unknown["error"]["data"]["value"], "chain_nothing");
    let no_socket = node.call("job_subscribe", json!([])).await;
    assert_eq!(no_socket["error"]["data"]["code"], "websocket_only");
    let wrong = node.call("job_status", json!(["xyz"])).await;
    assert_eq!(wrong["error"]["code"], -32602);
    let expected =
        json!({"code": "invalid_params", "field": "job_id", "value": "xyz", "limit": "64 lower-case hex digits"});
    assert_eq!(wrong["error"]["data"], expected);
    let absent = node.call("job_status", json!(["ab".repeat(32)])).await;
    assert_eq!((&absent["error"]["code"], &absent["error"]["data"]["code"]), (&json!(-32021), &json!("unknown_job")));
    let not_hex = node.call("tx_submit", json!({"tx": "zz"})).await;
    assert_eq!(not_hex["error"]["data"]["field"], "tx");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_there() {
    let node = Node::start(|_| ()).await;
    let key = SecretKey::from_seed([2; 32]).public();
    let id = "ab".repeat(32);
    let calls = [
        ("job_submit", json!([])),
        ("job_status", json!([id])),
        ("job_list", json!([])),
        ("job_cancel", json!([])),
        ("job_receipt", json!([id])),
        ("job_explain", json!([id])),
        ("job_estimate", json!([1000])),
        ("chain_head", json!([])),
        ("chain_block", json!([1])),
        ("chain_validators", json!([])),
        ("net_info", json!([])),
        ("net_peers", json!([])),
        ("account_balance", json!([key])),
        ("account_nonce", json!([key])),
        ("prover_list", json!([])),
        ("prover_status", json!([])),
        ("tx_submit", json!([])),
        ("tx_status", json!([id])),
        ("evidence_list", json!([])),
    ];
    for (method, params) in calls {
        let answer = node.call(method, params).await;
        assert_ne!(answer["error"]["code"], -32601, "{method} is missing");
        if !answer["error"].is_null() {
            assert!(answer["error"]["data"]["code"].is_string(), "{method}: {answer}");
        }
    }
    let balance = node.call("account_balance", json!([key])).await;
    assert!(balance["result"]["balance"].is_string(), "amounts are decimal strings: {balance}");
    let status = node.call("prover_status", json!([])).await;
    assert!(status["result"]["reason"].is_string() && status["result"]["worker_pid"].is_null());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_in_and_come_out() {
    let node = Node::start(|_| ()).await;
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let (status, stored) = node.json("PUT", "/v1/blobs", &bytes).await;
    assert_eq!((status, &stored), (201, &json!({"hash": blob_hash(&bytes), "bytes": bytes.len()})));
    let (status, head, body) = node.request("GET", &format!("/v1/blobs/{}", blob_hash(&bytes)), b"").await;
    assert_eq!((status, body == bytes), (200, true));
    assert!(head.contains("application/octet-stream"));

    let (status, refused) = node.json("GET", &format!("/v1/blobs/{}", "ab".repeat(32)), b"").await;
    assert_eq!((status, &refused["error"]["data"]["code"]), (404, &json!("unknown_blob")));
    let (status, refused) = node.json("GET", "/v1/blobs/xyz", b"").await;
    assert_eq!((status, &refused["error"]["data"]["field"]), (400, &json!("hash")));
    let (status, refused) = node.json("PUT", "/v1/blobs", b"").await;
    assert_eq!((status, &refused["error"]["data"]["field"]), (400, &json!("bytes")));

    // Told in the head, and found out while it comes.
    let head =
        format!("PUT /v1/blobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", (32 << 20) + 1);
    let (status, _, body) = node.raw(&[head.as_bytes()]).await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &refused["error"]["data"]["limit"]), (413, &json!("33554432")));
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![7u8; 1 << 20], b"\r\n"].concat();
    let head = b"PUT /v1/blobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut parts: Vec<&[u8]> = vec![head];
    parts.extend(std::iter::repeat_n(chunk.as_slice(), 32));
    parts.push(b"1\r\nx\r\n");
    let (status, _, _) = node.raw(&parts).await;
    assert_eq!(status, 413);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_calls_of_an_address_are_bounded() {
    let node = Node::start(|config| {
        config.node.testnet = false;
        config.rpc.blob_quota_mib = 1;
        config.rpc.rate_per_s = 1;
        config.rpc.rate_burst = 4;
    })
    .await;
    let blob = vec![1u8; 700 << 10];
    assert_eq!(node.json("PUT", "/v1/blobs", &blob).await.0, 201);
    let (status, refused) = node.json("PUT", "/v1/blobs", &blob).await;
    assert_eq!((status, &refused["error"]["data"]["code"]), (429, &json!("quota")));
    // Two tokens are left, and one may have come back.
    let mut codes = vec![];
    for _ in 0..6 {
        codes.push(node.call("chain_head", json!([])).await["error"]["data"]["code"].clone());
    }
    assert_eq!(codes[0], Value::Null);
    assert!(codes.contains(&json!("rate_limited")), "{codes:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_have_their_form() {
    let node = Node::start(|_| ()).await;
    assert_eq!(node.json("GET", "/health/live", b"").await, (200, json!({"alive": true})));
    let (status, ready) = node.json("GET", "/health/ready", b"").await;
    assert_eq!((status, &ready["ready"]), (503, &json!(false)), "not within the first five seconds");
    assert!(ready["reason"].is_string());
    let (_, health) = node.json("GET", "/health", b"").await;
    for field in ["status", "timestamp", "version", "uptime_seconds", "components", "metrics"] {
        assert!(!health[field].is_null(), "{field}");
    }
    for field in ["name", "status", "message", "response_time_ms", "last_check"] {
        assert!(!health["components"][0][field].is_null(), "component {field}");
    }
    let metrics = [
        "memory_used_mb",
        "memory_total_mb",
        "memory_usage_percent",
        "active_workers",
        "pending_jobs",
        "completed_jobs_1h",
    ];
    for field in metrics {
        assert!(!health["metrics"][field].is_null(), "metric {field}");
    }
    node.call("chain_head", json!([])).await;
    let (status, head, body) = node.request("GET", "/metrics", b"").await;
    let text = String::from_utf8(body).unwrap();
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"));
    assert!(text.contains("rpc_requests_total{method=\"chain_head\",outcome=\"ok\"} 1"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("service_uptime_seconds ")));
    let declared: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let unique: std::collections::BTreeSet<_> = declared.iter().collect();
    assert_eq!(declared.len(), unique.len(), "a family is declared twice");
    assert!(!declared.contains(&"up"), "up belongs to the scraper");

    assert_eq!(node.json("GET", "/nothing", b"").await.0, 404);
    assert_eq!(node.json("DELETE", "/v1/blobs", b"").await.0, 405);
    let (status, refused) = node.json("GET", "/", b"").await;
    assert_eq!((status, &refused["error"]["data"]["field"]), (400, &json!("method")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_client_talks_to_it() {
    let node = Node::start(|_| ()).await;
    let client = Client::at(&format!("http://{}", node.address)).unwrap();
    let head: Value = client.call("chain_head", json!([])).await.unwrap();
    assert_eq!(head["chain_id"], "edge-test");
    let refused = client.call::<Value>("job_status", json!(["xyz"])).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.field.as_deref()), ("invalid_params", Some("job_id")));
    let hash = client.put_blob(b"some bytes".to_vec()).await.unwrap();
    assert_eq!(hash, blob_hash(b"some bytes"));
    let refused = client.put_blob(vec![]).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("bytes"));
    let (status, live) = client.get("/health/live").await.unwrap();
    assert_eq!((status, live), (200, json!({"alive": true})));
    node.stop().await;
}
