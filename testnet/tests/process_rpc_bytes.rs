//! A running node under mutants of JSON-RPC calls and of whole HTTP requests: every call gets an answer in its own form, and
//! afterwards the node is the same process, still decides blocks and has nothing to say about a panic.

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

/// One valid call of every method that needs no wait.
fn calls() -> Vec<Vec<u8>> {
    let id = "ab".repeat(32);
    let transaction = samples::records().into_iter().find(|r| r.first() == Some(&3)).unwrap();
    let digits: String = transaction.iter().skip(1).map(|b| format!("{b:02x}")).collect();
    let calls = [
        ("job_status", json!([id])),
        ("job_list", json!({"status": "running", "limit": 5})),
        ("job_receipt", json!({"job_id": id})),
        ("job_explain", json!([id])),
        ("job_estimate", json!([100_000])),
        ("job_submit", json!({"tx": digits, "wait_ms": 0})),
        ("job_cancel", json!([digits, 0])),
        ("chain_head", json!([])),
        ("chain_block", json!([1])),
        ("chain_block", json!([id])),
        ("chain_validators", json!({"height": 1})),
        ("chain_genesis", Value::Null),
        ("net_info", json!([])),
        ("net_peers", json!({})),
        ("account_balance", json!([id])),
        ("account_nonce", json!([id])),
        ("tx_submit", json!([digits, 0])),
        ("tx_status", json!([id])),
        ("prover_list", json!([])),
        ("prover_status", json!([])),
        ("evidence_list", json!([20])),
    ];
    let one = |(method, params): &(&str, Value)| json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let mut all: Vec<_> = calls.iter().map(|call| one(call).to_string().into_bytes()).collect();
    all.push(Value::from(calls.iter().take(4).map(one).collect::<Vec<_>>()).to_string().into_bytes());
    all
}

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

#[test]
fn a_node_answers_mutated_calls_and_stays_up() -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rpc-bytes");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &Options::on_free_ports(1)?)?;
    cluster.start_all()?;
    cluster.wait_height(0, 1, Duration::from_secs(60))?;
    let node = cluster.node(0)?;
    let (pid, address) = (node.pid, node.rpc.trim_start_matches("http://").to_owned());

    let seeds = calls();
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
    let height = cluster.height(0).context("the node still answers")?;
    cluster.wait_height(0, height + 1, Duration::from_secs(60))?;
    ensure!(cluster.node(0)?.pid == pid && cluster.is_running(0), "the node was restarted");
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(!log.contains("panicked"), "the log tells of a panic");
    ensure!(cluster.stop_all()?.iter().all(|(_, code)| *code == 0), "the node did not drain");
    Ok(())
}
