//! WebSocket connections, by a client that writes its frames itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::super::BODY_MAX;
use super::super::frames::tests::frame;
use super::{Node, batch};

pub(super) const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const LONG: Duration = Duration::from_secs(20);

/// Kind and payload of the next frame; nothing when the node ended the connection.
pub(super) async fn next_frame(read: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let frame = async {
        let kind = read.read_u8().await.ok()? & 0x0f;
        let length = match read.read_u8().await.ok()? & 0x7f {
            126 => usize::from(read.read_u16().await.ok()?),
            127 => usize::try_from(read.read_u64().await.ok()?).unwrap(),
            short => usize::from(short),
        };
        let mut body = vec![0; length];
        read.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    };
    timeout(LONG, frame).await.expect("a frame in time")
}

pub(super) struct Socket {
    pub(super) read: OwnedReadHalf,
    pub(super) write: OwnedWriteHalf,
}

impl Socket {
    pub(super) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(super) async fn over(mut stream: TcpStream) -> Self {
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![];
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        // The answer to this key in RFC 6455.
        assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
        let (read, write) = stream.into_split();
        Self { read, write }
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, value: &Value) {
        self.bytes(&frame(TEXT, value.to_string().as_bytes())).await;
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        next_frame(&mut self.read).await
    }

    pub(super) async fn receive(&mut self) -> Value {
        loop {
            let (kind, body) = self.frame().await.expect("an open connection");
            if kind == 1 {
                return serde_json::from_slice(&body).unwrap();
            }
        }
    }

    /// The close frame's number, after which the connection is over.
    async fn closed(&mut self) -> u16 {
        let (kind, body) = self.frame().await.expect("a close frame");
        assert_eq!((kind, body.len()), (8, 2), "{body:?}");
        assert_eq!(self.frame().await, None, "nothing comes after it");
        u16::from_be_bytes([body[0], body[1]])
    }

    /// Calls and returns the answer, whatever else arrives before it.
    pub(super) async fn call(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        loop {
            let message = self.receive().await;
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Subscribes to jobs once there is a place: one is free when what held it has seen its end.
    async fn subscribed(&mut self, from_id: u64, params: Value) -> Value {
        for id in from_id..from_id + 100 {
            let answer = self.call(id, "job_subscribe", params.clone()).await;
            if answer["error"]["code"] != -32028 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no place became free in five seconds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_get_the_same_answer_as_over_http() {
    let node = Node::start(|_| ()).await;
    let id = "ab".repeat(32);
    let cases: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"hello".to_vec(),
        br#"{"jsonrpc": "2.0", "id": 1, "method":"#.to_vec(),
        br#"[{"jsonrpc": "2.0", "id": 1, "method": "chain_genesis"}"#.to_vec(),
        br#"{"jsonrpc": "2.0", "id": 1, "method": "chain_genesis"} and more"#.to_vec(),
        br#"{"jsonrpc": "1.0", "id": 7, "method": "chain_genesis"}"#.to_vec(),
        br#"{"id": "seven", "method": "chain_genesis"}"#.to_vec(),
        br#"{"jsonrpc": "2.0", "id": 7}"#.to_vec(),
        b"5".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"[5]".to_vec(),
        br#"[{"jsonrpc": "2.0", "id": 3, "method": "chain_genesis"}, {"id": 4}]"#.to_vec(),
        batch(11).into_bytes(),
        b"\xff\xfe{}".to_vec(),
        b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"\xff\"}".to_vec(),
        [b'['; 5_000].to_vec(),
        br#"{"jsonrpc": "2.0", "id": 1, "method": "chain_nothing"}"#.to_vec(),
        br#"{"jsonrpc": "2.0", "id": 1, "method": "job_status", "params": ["xyz"]}"#.to_vec(),
        format!(r#"{{"jsonrpc": "2.0", "id": 1, "method": "job_status", "params": ["{id}"]}}"#).into_bytes(),
        [&[b' '; 500][..], br#"{"jsonrpc": "2.0", "id": 1, "method": "chain_genesis"}"#].concat(),
    ];
    let mut socket = Socket::open(node.address).await;
    for case in &cases {
        let shown = String::from_utf8_lossy(&case[..case.len().min(80)]).into_owned();
        let (_, over_http) = node.json("POST", "/", case).await;
        for kind in [TEXT, BINARY] {
            socket.bytes(&frame(kind, case)).await;
            assert_eq!(socket.receive().await, over_http, "{shown}");
        }
        let errors = over_http.as_array().cloned().unwrap_or_else(|| vec![over_http.clone()]);
        for error in errors.iter().filter(|answer| answer["result"].is_null()).map(|answer| &answer["error"]) {
            for field in ["code", "field", "value", "limit"] {
                assert!(error["data"][field].is_string(), "{shown}: {error}");
            }
        }
    }
    let (_, unfinished) = node.json("POST", "/", &cases[2]).await;
    assert_eq!(
        (&unfinished["error"]["code"], &unfinished["error"]["data"]["code"]),
        (&json!(-32700), &json!("parse_error"))
    );
    let (_, version) = node.json("POST", "/", &cases[5]).await;
    assert_eq!((&version["id"], &version["error"]["data"]["code"]), (&json!(7), &json!("invalid_request")));
    // None of them ended the connection.
    assert_eq!(socket.call(9, "chain_head", json!([])).await["result"]["chain_id"], "edge-test");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_in_words_and_ends_the_connection() {
    let node = Node::start(|_| ()).await;
    let long = vec![b' '; BODY_MAX + 1];
    let (status, over_http) = node.json("POST", "/", &long).await;
    assert_eq!((status, &over_http["error"]["data"]["limit"]), (413, &json!(BODY_MAX.to_string())));
    let half = vec![b' '; 600 << 10];
    let announced = [&[TEXT, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let cases = [
        frame(TEXT, &long),
        frame(BINARY, &long),
        [frame(0x01, &half), frame(0x80, &half)].concat(),
        frame(TEXT, &vec![b'['; 5 << 20]),
        announced,
    ];
    for bytes in cases {
        let mut socket = Socket::open(node.address).await;
        // A call before it is answered still.
        socket.bytes(&[frame(TEXT, batch(1).as_bytes()), bytes].concat()).await;
        let answers = [socket.receive().await, socket.receive().await];
        assert!(answers.iter().any(|answer| answer[0]["result"]["chain_id"] == "edge-test"), "{answers:?}");
        assert!(answers.contains(&over_http), "{answers:?}");
        assert_eq!(socket.closed().await, 1009);
    }
    // The longest one that is allowed.
    let mut socket = Socket::open(node.address).await;
    let call = br#"{"jsonrpc": "2.0", "id": 1, "method": "chain_head"}"#;
    let padded = [vec![b' '; BODY_MAX - call.len()].as_slice(), call].concat();
    socket.bytes(&frame(TEXT, &padded)).await;
    assert_eq!(socket.receive().await["result"]["chain_id"], "edge-test");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_taken_as_the_standard_says() {
    let node = Node::start(|_| ()).await;
    let mut socket = Socket::open(node.address).await;
    let call = br#"{"jsonrpc": "2.0", "id": 1, "method": "chain_head"}"#;
    let parts = [frame(0x01, &call[..10]), frame(0x89, b"are you there"), frame(0x80, &call[10..])].concat();
    socket.bytes(&parts).await;
    let (first, second) = (socket.frame().await.unwrap(), socket.frame().await.unwrap());
    let frames = [&first, &second];
    assert!(frames.contains(&&(0x0a, b"are you there".to_vec())), "{frames:?}");
    assert!(frames.iter().any(|(kind, body)| *kind == 1 && body.windows(9).any(|w| w == b"edge-test")), "{frames:?}");
    // A notification has no answer; the next call has.
    socket.send(&json!({"jsonrpc": "2.0", "method": "chain_head"})).await;
    assert_eq!(socket.call(2, "chain_head", json!([])).await["id"], 2);
    socket.bytes(&frame(0x88, &1_000u16.to_be_bytes())).await;
    assert_eq!(socket.closed().await, 1000);

    let mut unmasked = Socket::open(node.address).await;
    unmasked.bytes(&[TEXT, 2, b'{', b'}']).await;
    assert_eq!(unmasked.closed().await, 1002);

    // A handshake that lacks something is refused in words.
    let head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close, Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 12\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (status, _, body) = node.raw(&[head]).await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &refused["error"]["data"]["field"]), (400, &json!("headers")));

    // A node that stops says so.
    let mut open = Socket::open(node.address).await;
    assert!(open.call(1, "chain_subscribeHeads", json!([])).await["error"].is_null());
    node.stop().await;
    let end = loop {
        match open.frame().await.expect("a close frame") {
            (8, body) => break u16::from_be_bytes([body[0], body[1]]),
            (kind, _) => assert_eq!(kind, 1),
        }
    };
    assert_eq!(end, 1001);
}

/// A client that asks and does not read is not asked for memory: the node reads no more until it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_is_waited_for() {
    const CALLS: usize = 40_000;
    let node = Node::start(|_| ()).await;
    let Socket { mut read, mut write } = Socket::open(node.address).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = tokio::spawn(async move {
        for id in 0..CALLS {
            let call = json!({"jsonrpc": "2.0", "id": id, "method": "chain_genesis"}).to_string();
            // Long enough that buffers on the way do not hold them all.
            write.write_all(&frame(TEXT, format!("{call:4000}").as_bytes())).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
        write
    });
    let mut before = usize::MAX;
    while sent.load(Ordering::Relaxed) != before {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(before < CALLS / 2, "{before} of {CALLS} calls were taken although no answer was");
    // Once it reads, every call is answered.
    let mut answered = vec![false; CALLS];
    let all = async {
        while answered.iter().any(|done| !done) {
            let (kind, body) = next_frame(&mut read).await.expect("an open connection");
            if kind == 1 {
                let answer: Value = serde_json::from_slice(&body).unwrap();
                let id = usize::try_from(answer["id"].as_u64().unwrap()).unwrap();
                assert!(!std::mem::replace(&mut answered[id], true), "{id} is answered once");
            }
        }
    };
    timeout(Duration::from_secs(120), all).await.expect("all answers");
    drop(sender.await.unwrap());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_bring_heads_and_are_bounded() {
    let node = Node::start(|_| ()).await;
    let mut socket = Socket::open(node.address).await;
    assert_eq!(socket.call(1, "chain_head", json!([])).await["result"]["chain_id"], "edge-test");
    let first = socket.call(2, "chain_subscribeHeads", json!([])).await;
    let subscription = first["result"].clone();
    assert!(!subscription.is_null(), "{first}");
    let mut heights = vec![];
    while heights.len() < 2 {
        let message = socket.receive().await;
        if message["method"] == "chain_head" {
            assert_eq!(message["params"]["subscription"], subscription);
            heights.push(message["params"]["result"]["height"].as_u64().unwrap());
        }
    }
    assert!(heights[0] < heights[1]);
    for id in 3..34 {
        let made = socket.call(id, "job_subscribe", json!([])).await;
        assert!(made["error"].is_null(), "{made}");
    }
    let one_more = socket.call(99, "job_subscribe", json!([])).await;
    assert_eq!(one_more["error"]["code"], -32028, "{one_more}");
    assert_eq!(one_more["error"]["data"]["limit"], "32");
    let mut other = Socket::open(node.address).await;
    // A subscription ends for the connection that has it, and nobody else.
    let foreign = other.call(1, "chain_unsubscribeHeads", json!([subscription])).await;
    assert_eq!(foreign["result"], false);
    let ended = socket.call(101, "chain_unsubscribeHeads", json!([subscription])).await;
    assert_eq!(ended["result"], true);
    let wrong = socket.subscribed(200, json!(["xyz"])).await;
    assert_eq!(wrong["error"]["data"]["field"], "job_id", "{wrong}");
    let another = socket.subscribed(400, json!([])).await;
    assert!(another["error"].is_null(), "there is a place again: {another}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let node = Node::start(|config| config.rpc.connections_max = 2).await;
    let mut one = Socket::open(node.address).await;
    let two = Socket::open(node.address).await;
    let mut third = TcpStream::connect(node.address).await.unwrap();
    let mut answer = vec![];
    let read = timeout(LONG, third.read_to_end(&mut answer)).await;
    assert!(read.is_ok() && answer.is_empty(), "the third connection is closed at once");
    // A place is free again once a connection has ended.
    one.bytes(&frame(0x88, &1_000u16.to_be_bytes())).await;
    assert_eq!(one.closed().await, 1000);
    let mut again = Socket::open(node.address).await;
    assert_eq!(again.call(1, "chain_head", json!([])).await["result"]["chain_id"], "edge-test");
    drop(two);
    node.stop().await;
}
