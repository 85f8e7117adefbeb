//! Floods of a node's RPC door, over real sockets from one address: more connections than there are, half requests, readers
//! who don't read, calls that cost work, WebSockets that ask and don't listen. Another address (127.0.0.2) is served
//! meanwhile, the node keeps its memory, and the chain its pace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testnet::fuzz::samples::socket_frame;
use testnet::harness::{Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;

/// Time over which the pace is taken.
const WATCH: Duration = Duration::from_secs(15);
/// Most memory of the flooded node, MiB: a quiet one has some 50; answers that wait may have 128, and twice while they are
/// made.
const MEMORY_MAX_MIB: u64 = 400;
/// Longest wait of the other address for an answer.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Blob that slow readers ask for, bytes.
const BLOB: usize = 32 << 20;
const MINUTE: Duration = Duration::from_secs(60);

fn peak_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? >> 10)
}

/// Blocks in [`WATCH`], on the node that is not flooded.
fn pace(cluster: &Cluster) -> Result<u64> {
    let height = || cluster.height(2).context("node 2 answers");
    let first = height()?;
    std::thread::sleep(WATCH);
    Ok(height()? - first)
}

/// A thread that goes on until told to stop; what it counts is its own matter.
fn until(stop: &Arc<AtomicBool>, mut round: impl FnMut() -> u64 + Send + 'static) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut sum = 0;
        while !stop.load(Ordering::Relaxed) {
            sum += round();
        }
        sum
    })
}

/// Asks from 127.0.0.2, again and again: the longest that an answer took, ms, how often it asked, and how often in vain.
struct Other {
    worst_ms: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
}

impl Other {
    fn new() -> Self {
        Self { worst_ms: Arc::default(), asked: Arc::default(), lost: Arc::default() }
    }

    fn run(&self, address: SocketAddr, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
        let (worst, asked, lost) = (self.worst_ms.clone(), self.asked.clone(), self.lost.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        until(stop, move || {
            let since = Instant::now();
            let answered =
                runtime.block_on(async { tokio::time::timeout(SERVED_WITHIN, head_from_elsewhere(address)).await });
            asked.fetch_add(1, Ordering::Relaxed);
            match answered {
                Ok(Ok(answer)) if answer["result"]["height"].is_u64() => {
                    let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    worst.fetch_max(ms, Ordering::Relaxed);
                }
                other => {
                    println!("127.0.0.2 was not served: {other:?}");
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(100));
            1
        })
    }
}

async fn head_from_elsewhere(address: SocketAddr) -> Result<Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.2:0".parse()?)?;
    let mut stream = socket.connect(address).await?;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "chain_head"}).to_string();
    let head = format!(
        "POST / HTTP/1.0\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (_, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text}"))?;
    Ok(serde_json::from_str(body)?)
}

/// A WebSocket, after its handshake.
fn socket(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(200))).ok()?;
    let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut first = [0; 12];
    stream.read_exact(&mut first).ok()?;
    (&first == b"HTTP/1.1 101").then_some(stream)
}

/// The floods, each a thread; all from 127.0.0.1.
fn floods(address: SocketAddr, rpc: &Rpc, blob: &str, stop: &Arc<AtomicBool>) -> Vec<(&'static str, JoinHandle<u64>)> {
    let get = format!("GET /v1/blobs/{blob} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut slow: Vec<TcpStream> = vec![];
    let slow_readers = until(stop, move || {
        // Forty at once, renewed when the node lets them go; each takes a few bytes a second, so that there is always progress.
        while slow.len() < 40 {
            let Ok(mut stream) = TcpStream::connect(address) else { break };
            if stream.write_all(get.as_bytes()).is_err()
                || stream.set_read_timeout(Some(Duration::from_millis(5))).is_err()
            {
                break;
            }
            slow.push(stream);
        }
        slow.retain_mut(|stream| !matches!(stream.read(&mut [0; 64]), Ok(0)));
        std::thread::sleep(Duration::from_millis(200));
        slow.len() as u64
    });
    let caller = rpc.clone();
    let costly = until(stop, move || {
        // Refused or answered: what counts is what it does to the others.
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "job_list", "params": {"limit": 100}});
        let block = json!({"jsonrpc": "2.0", "id": 2, "method": "chain_block", "params": [1]});
        let genesis = json!({"jsonrpc": "2.0", "id": 3, "method": "chain_genesis"});
        let batch: Vec<_> = [list, block, genesis].into_iter().cycle().take(10).collect();
        let answered = caller.send("POST", "/", Value::Array(batch).to_string().as_bytes()).is_ok();
        let pages = ["/metrics", "/health"].iter().filter(|page| caller.get(page).is_ok()).count();
        std::thread::sleep(Duration::from_millis(5));
        10 * u64::from(answered) + pages as u64
    });
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "chain_genesis"});
    let message = socket_frame(0x81, Value::Array(vec![call; 10]).to_string().as_bytes());
    let mut open: Vec<TcpStream> = vec![];
    let deaf_sockets = until(stop, move || {
        while open.len() < 20 {
            let Some(stream) = socket(address) else { break };
            open.push(stream);
        }
        // A write that timed out leaves half a frame: that connection is of no more use, but it is held.
        let sent: u64 = open.iter_mut().map(|stream| u64::from(stream.write_all(&message).is_ok())).sum();
        if sent == 0 {
            open.clear();
            std::thread::sleep(Duration::from_millis(500));
        }
        sent
    });
    let (since, mut held): (Instant, Vec<TcpStream>) = (Instant::now(), vec![]);
    let holders = until(stop, move || {
        // Half a request, and never the rest: first beside the other floods, then more of them than there are places.
        let most = if since.elapsed() < WATCH / 2 { 120 } else { 300 };
        let mut made = 0;
        while held.len() < most {
            let Ok(mut stream) = TcpStream::connect(address) else { break };
            if stream.write_all(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n{").is_err() {
                break;
            }
            held.push(stream);
            made += 1;
        }
        std::thread::sleep(Duration::from_millis(500));
        held.drain(..held.len().min(50));
        made
    });
    vec![
        ("slow readers", slow_readers),
        ("half requests", holders),
        ("calls", costly),
        ("WebSocket batches", deaf_sockets),
    ]
}

#[test]
fn a_node_whose_rpc_is_flooded_serves_others_and_keeps_memory_and_pace() -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("flood-rpc");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut options = Options::on_free_ports(4)?;
    (options.block_ms, options.empty_block_ms) = (Some(250), Some(250));
    let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
    cluster.start_all()?;
    for index in 0..4 {
        cluster.wait_height(index, 4, MINUTE)?;
    }
    let node = cluster.node(0)?.clone();
    let (pid, rpc) = (node.pid.context("its process id")?, Rpc::at(&node.rpc)?);
    let address: SocketAddr = node.rpc.trim_start_matches("http://").parse()?;
    let bytes: Vec<u8> = (0..BLOB).map(|i| (i % 251) as u8).collect();
    let (status, stored) = rpc.send("PUT", "/v1/blobs", &bytes)?;
    ensure!(status == 201, "{stored}");
    let blob = stored["hash"].as_str().context("hash")?.to_owned();
    let quiet = pace(&cluster)?;

    let stop = Arc::new(AtomicBool::new(false));
    let floods = floods(address, &rpc, &blob, &stop);
    let other = Other::new();
    std::thread::sleep(Duration::from_secs(2));
    let asking = other.run(address, &stop);
    let flooded = pace(&cluster);
    stop.store(true, Ordering::Relaxed);
    let counts: Vec<_> = floods.into_iter().map(|(name, flood)| (name, flood.join().unwrap())).collect();
    asking.join().unwrap();
    let flooded = flooded?;
    let memory = peak_mib(pid)?;
    let [asked, lost, worst] = [&other.asked, &other.lost, &other.worst_ms].map(|n| n.load(Ordering::Relaxed));
    println!(
        "blocks in {WATCH:?}: {quiet} quiet, {flooded} flooded by {counts:?}; 127.0.0.2 asked {asked} times, not served \
         {lost} times, at worst after {worst} ms; node 0 took at most {memory} MiB"
    );
    ensure!(counts.iter().all(|(_, count)| *count > 0), "a flood did not come about: {counts:?}");
    ensure!(flooded * 10 >= quiet * 8, "{flooded} blocks beside {quiet}");
    ensure!(memory <= MEMORY_MAX_MIB, "{memory} MiB");
    ensure!(asked >= 5 && lost == 0, "127.0.0.2 was not served {lost} times of {asked}");
    // The flood over, everybody is served, and nothing of it is left.
    cluster.wait("the node's memory of the flood is gone", MINUTE, |_| {
        let text = rpc.get("/metrics").ok()?;
        text.lines().any(|line| line == "rpc_unsent_bytes 0").then_some(())
    })?;
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(!log.contains("panicked"), "the log tells of a panic");
    let height = cluster.height(0).context("node 0 answers")?;
    cluster.wait_height(0, height + 2, MINUTE)?;
    ensure!(cluster.stop_all()?.iter().all(|(_, code)| *code == 0), "a node did not drain");
    Ok(())
}
