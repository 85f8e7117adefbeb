//! Clients that take more than they should, over real sockets: slow readers, holders of connections, senders who don't read.
//! Another address (127.0.0.2) is served meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use types::blob::blob_hash;

use super::super::frames::tests::frame;
use super::super::unsent::UNSENT_MAX;
use super::Node;
use super::sockets::{Socket, TEXT, next_frame};

/// Longest wait for an answer that somebody else's flood must not delay.
const SOON: Duration = Duration::from_secs(5);

/// A connection from another address of this machine.
async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a request and reads the answer to its end.
async fn ask(mut stream: TcpStream, method: &str, path: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

const HEAD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"chain_head"}"#;

/// Asks for the head from an address; whether the answer came in time.
async fn served(source: &str, node: &Node) -> bool {
    let asked = async { ask(from(source, node.address).await, "POST", "/", HEAD).await };
    let answer = tokio::time::timeout(SOON, asked).await;
    answer.is_ok_and(|answer| String::from_utf8_lossy(&answer).contains("\"chain_id\":\"edge-test\""))
}

async fn gauge(node: &Node, name: &str) -> u64 {
    let (_, _, body) = node.request("GET", "/metrics", b"").await;
    let text = String::from_utf8(body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the metric");
    line.trim().parse().unwrap()
}

/// Resident memory of this process, MiB: the node is part of it.
fn resident_mib() -> u64 {
    crate::system::memory().used_mb
}

/// Asks for a blob and reads nothing of it.
async fn hold(source: &str, node: &Node, path: &str) -> TcpStream {
    let mut stream = from(source, node.address).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_a_large_blob_take_their_share_of_memory_and_no_more() {
    let node = Node::start(|_| ()).await;
    let bytes: Vec<u8> = (0..32u32 << 20).map(|i| (i % 251) as u8).collect();
    assert_eq!(node.json("PUT", "/v1/blobs", &bytes).await.0, 201);
    let path = format!("/v1/blobs/{}", blob_hash(&bytes));
    let before = resident_mib();
    let mut held = vec![];
    // A quarter of all room is one address' share, half a megabyte a download.
    let share = UNSENT_MAX / 4 / (512 << 10);
    for _ in 0..share {
        held.push(hold("127.0.0.1", &node, &path).await);
    }
    let deadline = Instant::now() + SOON;
    while gauge(&node, "rpc_unsent_bytes").await < (UNSENT_MAX / 4) as u64 {
        assert!(Instant::now() < deadline, "{} bytes wait", gauge(&node, "rpc_unsent_bytes").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One more from there is told so; from elsewhere the blob comes whole.
    let (status, head, body) = node.request("GET", &path, b"").await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 503, "{refused}");
    assert!(head.contains("retry-after: 1"), "{head}");
    let limit = (UNSENT_MAX / 4).to_string();
    let expected = json!({"code": "overloaded", "field": "unsent_bytes", "value": limit, "limit": limit});
    assert_eq!(refused["error"]["data"], expected);
    assert!(refused["error"]["message"].as_str().unwrap().contains("; read them, then ask again"), "{refused}");
    let other = ask(from("127.0.0.2", node.address).await, "GET", &path, "").await;
    assert!(other.ends_with(&bytes), "{} bytes came", other.len());
    let grown = resident_mib().saturating_sub(before);
    println!("{share} slow readers of 32 MiB: {grown} MiB more");
    assert!(grown < 160, "{grown} MiB");
    // What they hold comes back with their end.
    drop(held);
    let deadline = Instant::now() + SOON;
    while gauge(&node, "rpc_unsent_bytes").await > 0 {
        assert!(Instant::now() < deadline, "room is lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_any_length_comes_whole_in_its_chunks() {
    let node = Node::start(|_| ()).await;
    for length in [1usize, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20, 1_500_001] {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 241) as u8).collect();
        assert_eq!(node.json("PUT", "/v1/blobs", &bytes).await.0, 201);
        let (status, head, body) = node.request("GET", &format!("/v1/blobs/{}", blob_hash(&bytes)), b"").await;
        assert_eq!((status, body == bytes), (200, true), "{length}");
        assert!(head.contains(&format!("content-length: {length}")), "{head}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_all_connections_gives_one_up_to_an_address_that_has_none() {
    let node = Node::start(|config| config.rpc.connections_max = 16).await;
    let mut held = vec![];
    for _ in 0..16 {
        held.push(Socket::open(node.address).await);
    }
    // One address gets no more; another is served at once, again and again.
    let mut late = TcpStream::connect(node.address).await.unwrap();
    assert!(matches!(late.read(&mut [0; 1]).await, Ok(0) | Err(_)), "the seventeenth is closed");
    for _ in 0..5 {
        assert!(served("127.0.0.2", &node).await);
    }
    // The one that had been silent for longest made room, and the others go on.
    let ended = tokio::time::timeout(SOON, async {
        let mut rest = vec![];
        held[0].read.read_to_end(&mut rest).await
    });
    assert!(ended.await.is_ok(), "the oldest connection is still open");
    let last = held.last_mut().unwrap();
    assert_eq!(last.call(1, "chain_head", json!([])).await["result"]["chain_id"], "edge-test");
    assert!(gauge(&node, "rpc_connections_replaced_total").await >= 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_do_not_keep_others_out() {
    let node = Node::start(|config| config.rpc.connections_max = 16).await;
    let mut held = vec![];
    for _ in 0..16 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{").await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(served("127.0.0.2", &node).await);
    assert!(served("127.0.0.3", &node).await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_count_as_calls() {
    let node = Node::start(|config| {
        config.node.testnet = false;
        (config.rpc.rate_per_s, config.rpc.rate_burst) = (1, 4);
    })
    .await;
    for path in ["/metrics", "/health", "/health/ready", "/health/live"] {
        assert_ne!(node.request("GET", path, b"").await.0, 429, "{path}");
    }
    let mut refused = vec![];
    for path in ["/metrics", "/health", "/health/ready", "/health/live"] {
        let (status, head, body) = node.request("GET", path, b"").await;
        if status == 429 {
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer["error"]["data"]["code"], "rate_limited", "{answer}");
            assert!(head.contains("retry-after: 1"), "{head}");
            refused.push(path);
        }
    }
    assert!(refused.len() >= 3, "{refused:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_length_costs_nothing_before_its_bytes_come() {
    let node = Node::start(|_| ()).await;
    let before = resident_mib();
    let mut open = vec![];
    // Below the longest answer: a bound that holds for both ways would wait for all of it.
    for declared in [2u64 << 20, 64 << 20, 1 << 40, u64::MAX] {
        for _ in 0..16 {
            let mut socket = Socket::open(node.address).await;
            socket.bytes(&[&[TEXT, 0xff][..], &declared.to_be_bytes(), &[0; 4], b"{"].concat()).await;
            let answer = tokio::time::timeout(SOON, socket.receive()).await.expect("an answer at once");
            assert_eq!(answer["error"]["data"]["code"], "too_large", "{answer}");
            open.push(socket);
        }
    }
    // And one that is allowed, of which nothing more comes.
    for _ in 0..64 {
        let mut socket = Socket::open(node.address).await;
        socket.bytes(&[&[TEXT, 0xff][..], &(1u64 << 20).to_be_bytes(), &[0; 4], b"{"].concat()).await;
        open.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = resident_mib().saturating_sub(before);
    println!("128 connections with lengths declared: {grown} MiB more");
    assert!(grown < 48, "{grown} MiB");
    assert!(served("127.0.0.2", &node).await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_reads_nothing_has_few_calls_under_way_and_all_are_answered_when_it_reads() {
    const MESSAGES: u64 = 2_000;
    let node = Node::start(|_| ()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let Socket { mut read, mut write } = Socket::over(socket.connect(node.address).await.unwrap()).await;
    let sender = tokio::spawn(async move {
        for id in 0..MESSAGES {
            let call = json!({"jsonrpc": "2.0", "id": id, "method": "chain_genesis"});
            let text = Value::Array(vec![call; 10]).to_string();
            if write.write_all(&frame(TEXT, text.as_bytes())).await.is_err() {
                break;
            }
        }
        write
    });
    // While nothing is read, calls stop at what is under way and what the sockets hold.
    let count = "rpc_requests_total{method=\"chain_genesis\",outcome=\"ok\"}";
    let mut most = 0;
    let mut done = (0, 0);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(gauge(&node, "rpc_unsent_bytes").await);
        done = (done.1, gauge(&node, count).await);
    }
    println!("{} calls carried out for a client that reads nothing, {most} bytes at most for it", done.1);
    assert_eq!(done.0, done.1, "calls go on though nobody reads their answers");
    assert!(done.1 < 10 * MESSAGES, "all calls were carried out");
    // Thirty-two messages: of each one answer being made, the others at their length.
    assert!(most <= 32 * (512 << 10), "{most} bytes");
    assert!(served("127.0.0.2", &node).await);
    let mut seen = 0;
    while seen < MESSAGES {
        let (kind, body) = next_frame(&mut read).await.expect("an open connection");
        if kind == 1 {
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer.as_array().map(Vec::len), Some(10), "{answer}");
            seen += 1;
        }
    }
    drop((sender.await.unwrap(), read));
    node.stop().await;
}
