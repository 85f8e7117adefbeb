//! A running node under mutants of JSON-RPC calls, of whole HTTP requests and of WebSocket frames: every call gets an answer in
//! its own form, and afterwards the node is the same process, still decides blocks and has nothing to say about a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testnet::fuzz::mutate::Mutator;
use testnet::fuzz::samples;
use testnet::harness::{Cli, Cluster, Options, binary};

/// How long mutants are sent.
const SENDING: Duration = Duration::from_secs(12);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest body.
const BODY_MAX: usize = 64 << 10;

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes and reads until the node closes. `None` when it closed without a word. A request that may ask for more bytes
/// than follow is `ended` by closing the own direction; after a whole one, that would take the question back.
fn exchange(address: &str, bytes: &[u8], ended: bool) -> Result<Option<(u16, String)>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // The node may refuse and close before it has read everything.
    drop(stream.write_all(bytes));
    if ended {
        drop(stream.shutdown(std::net::Shutdown::Write));
    }
    let mut answer = vec![];
    if let Err(e) = stream.read_to_end(&mut answer)
        && e.kind() != std::io::ErrorKind::ConnectionReset
    {
        bail!("no answer within {ANSWER:?}: {e}");
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("a status line")?;
    Ok(Some((status, body.to_owned())))
}

/// Whether a body is an answer, or a list of answers, as JSON-RPC has it; errors carry our own code.
fn is_answer(body: &str) -> bool {
    let one = |value: &Value| match value.get("error") {
        Some(error) => error.get("code").is_some() && error["data"]["code"].is_string(),
        None => value.get("result").is_some(),
    };
    match serde_json::from_str::<Value>(body) {
        Ok(Value::Array(list)) => !list.is_empty() && list.iter().all(one),
        Ok(value) => one(&value),
        Err(_) => false,
    }
}

/// One node.
struct Stage {
    cluster: Cluster,
    pid: Option<u32>,
    address: String,
}

impl Stage {
    fn start(name: &str) -> Result<Self> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &Options::on_free_ports(1)?)?;
        cluster.start_all()?;
        cluster.wait_height(0, 1, Duration::from_secs(60))?;
        let node = cluster.node(0)?;
        let (pid, address) = (node.pid, node.rpc.trim_start_matches("http://").to_owned());
        Ok(Self { cluster, pid, address })
    }

    /// The node is the same process, decides blocks, and ends well.
    fn stayed_up(mut self) -> Result<()> {
        let cluster = &mut self.cluster;
        let height = cluster.height(0).context("the node still answers")?;
        cluster.wait_height(0, height + 1, Duration::from_secs(60))?;
        ensure!(cluster.node(0)?.pid == self.pid && cluster.is_running(0), "the node was restarted");
        let log = std::fs::read_to_string(cluster.log(0))?;
        ensure!(!log.contains("panicked"), "the log tells of a panic");
        ensure!(cluster.stop_all()?.iter().all(|(_, code)| *code == 0), "the node did not drain");
        Ok(())
    }
}

#[test]
fn a_node_answers_mutated_calls_and_stays_up() -> Result<()> {
    let stage = Stage::start("rpc-bytes")?;
    let address = stage.address.clone();

    let seeds = samples::rpc_calls();
    for seed in &seeds {
        let (status, body) = exchange(&address, &request(seed), false)?.context("a valid call gets an answer")?;
        ensure!(status == 200 && is_answer(&body), "{} -> {status} {body}", String::from_utf8_lossy(seed));
    }
    let mut mutator = Mutator::new(11);
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let since = Instant::now();
    while since.elapsed() < SENDING {
        let (seed, other) = (&seeds[mutator.below(seeds.len())], &seeds[mutator.below(seeds.len())]);
        let body = mutator.mutant(seed, other, BODY_MAX);
        if mutator.below(4) == 0 {
            // The request's head bent as well: closing without a word is an answer, too.
            let bytes = mutator.mutant(&request(&body), &request(other), BODY_MAX);
            let seen =
                exchange(&address, &bytes, true)?.map_or("closed".into(), |(status, _)| format!("head {status}"));
            *tally.entry(seen).or_default() += 1;
            continue;
        }
        let Some((status, answer)) = exchange(&address, &request(&body), false)? else {
            bail!("closed without an answer to {}", String::from_utf8_lossy(&body));
        };
        // A notification (a call without id) has no answer.
        let fine = is_answer(&answer) || answer.is_empty();
        ensure!(fine && status < 500, "{} -> {status} {answer}", String::from_utf8_lossy(&body));
        *tally.entry(format!("call {status}")).or_default() += 1;
    }
    println!("{tally:?}");
    ensure!(tally.values().sum::<u64>() > 100, "too few calls: {tally:?}");
    stage.stayed_up()
}

/// A WebSocket after its handshake.
struct Socket(TcpStream);

/// One frame of the node: its kind, and its content as text.
type Frame = (u8, String);

impl Socket {
    fn open(address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        let mut answer = vec![];
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Ok(Self(stream))
    }

    /// The next frame; `None` when the node has closed.
    fn frame(&mut self) -> Result<Option<Frame>> {
        let mut read = |length: usize| -> Result<Option<Vec<u8>>> {
            let mut bytes = vec![0; length];
            match self.0.read_exact(&mut bytes) {
                Ok(()) => Ok(Some(bytes)),
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) =>
                {
                    Ok(None)
                }
                Err(e) => bail!("no frame within {ANSWER:?}: {e}"),
            }
        };
        let Some(head) = read(2)? else { return Ok(None) };
        ensure!(head[1] & 0x80 == 0, "a server's frame is masked");
        let length = match head[1] & 0x7f {
            126 => read(2)?.map(|b| b.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b))),
            127 => read(8)?.map(|b| b.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b))),
            short => Some(usize::from(short)),
        };
        let Some(length) = length else { return Ok(None) };
        Ok(read(length)?.map(|content| (head[0] & 0x0f, String::from_utf8_lossy(&content).into_owned())))
    }

    /// Frames until the node closes or one is the answer to the call with this id; every message must be an answer.
    fn until(&mut self, id: u64) -> Result<(bool, Vec<Frame>)> {
        let mut frames = vec![];
        while let Some((kind, text)) = self.frame()? {
            if kind == 1 {
                // Events of a subscription that a mutant made are no answers.
                let value: Value = serde_json::from_str(&text)?;
                ensure!(is_answer(&text) || value["method"].is_string(), "no answer: {text}");
                if value["id"] == id {
                    return Ok((true, frames));
                }
            }
            let last = kind == 8;
            frames.push((kind, text));
            if last {
                break;
            }
        }
        Ok((false, frames))
    }
}

/// A call in as many parts as there are cuts, with a ping after each.
fn in_parts(mutator: &mut Mutator, call: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    let mut rest = call;
    for first in [0x01, 0x00, 0x00] {
        let (part, after) = rest.split_at(mutator.below(rest.len() + 1));
        bytes.extend(samples::socket_frame(first, part));
        bytes.extend(samples::socket_frame(0x89, b"ping"));
        rest = after;
    }
    bytes.extend(samples::socket_frame(0x80, rest));
    bytes
}

/// One round: what a client sends, and whether the node may close for it.
fn round(mutator: &mut Mutator, seeds: &[Vec<u8>]) -> (&'static str, Vec<u8>) {
    let (seed, other) = (&seeds[mutator.below(seeds.len())], &seeds[mutator.below(seeds.len())]);
    match mutator.below(6) {
        0 => ("in parts", in_parts(mutator, seed)),
        1 => ("bent frame", {
            let frame = samples::socket_frame(0x81, seed);
            mutator.mutant(&frame, &samples::socket_frame(0x01, other), BODY_MAX)
        }),
        2 => ("not masked", {
            let mut frame = samples::socket_frame(0x81, seed);
            frame[1] &= 0x7f;
            frame
        }),
        3 => ("giant", {
            let mut frame = samples::socket_frame(0x81, seed);
            let length = (1u64 << (21 + mutator.below(42))).to_be_bytes();
            frame[2..10].copy_from_slice(&length);
            frame
        }),
        4 => ("binary", samples::socket_frame(0x82, &mutator.mutant(seed, other, BODY_MAX))),
        _ => ("message", samples::socket_frame(0x81, &mutator.mutant(seed, other, BODY_MAX))),
    }
}

#[test]
fn a_node_takes_mutated_websocket_frames_and_stays_up() -> Result<()> {
    let stage = Stage::start("socket-bytes")?;
    let address = stage.address.clone();
    const ID: u64 = 4_242;
    let call = json!({"jsonrpc": "2.0", "id": ID, "method": "chain_head"}).to_string();
    let (seeds, mut mutator) = (samples::rpc_calls(), Mutator::new(12));
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let since = Instant::now();
    while since.elapsed() < SENDING {
        let mut socket = Socket::open(&address)?;
        // Several on one connection, as long as it lives; after each a valid call, which must be answered.
        for _ in 0..8 {
            let (what, bytes) = round(&mut mutator, &seeds);
            // A bent frame may ask for more bytes than follow: the call after it is swallowed, so the own direction ends.
            drop(socket.0.write_all(&[bytes.as_slice(), &samples::socket_frame(0x81, call.as_bytes())].concat()));
            if what == "bent frame" {
                drop(socket.0.shutdown(std::net::Shutdown::Write));
            }
            let (answered, frames) = socket.until(ID).with_context(|| format!("{what}: {bytes:02x?}"))?;
            match what {
                "message" | "binary" | "in parts" => ensure!(answered, "{what}: closed without an answer: {frames:?}"),
                "not masked" => ensure!(!answered, "a frame without a mask was taken"),
                "giant" => {
                    ensure!(!answered, "what follows a giant frame was taken");
                    let told = |(_, text): &Frame| text.contains("\"too_large\"") && text.contains("1048576");
                    ensure!(frames.iter().any(told), "no word of the limit: {frames:?}");
                }
                _ => {}
            }
            if what == "in parts" {
                ensure!(frames.iter().filter(|(kind, text)| *kind == 10 && text == "ping").count() >= 1, "{frames:?}");
            }
            *tally.entry(format!("{what}, {}", if answered { "answered" } else { "closed" })).or_default() += 1;
            if !answered || what == "bent frame" {
                break;
            }
        }
    }
    println!("{tally:?}");
    for what in ["message, answered", "binary, answered", "in parts, answered", "not masked, closed", "giant, closed"] {
        ensure!(tally.get(what).is_some_and(|n| *n >= 5), "too few: {what}: {tally:?}");
    }
    stage.stayed_up()
}
