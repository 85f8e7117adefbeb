//! Floods against whole nodes: hostile peers at line rate with messages that cost work, hundreds of idle connections to both
//! doors, callers without end. The chain keeps its pace, the flooded node too, which is neither left behind nor kept from
//! filling its blocks; its memory stays bounded, and who floods is dropped with the fault's name in the log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use network::{Event, GossipMessage, Network, NetworkConfig, NetworkHandle, PeerId, Verdict};
use serde_json::json;
use testnet::harness::{Cli, Cluster, Options, binary};
use testnet::rpc::Rpc;
use testnet::sender::{Sender, hex_of};
use types::gossip::{ConsensusMessage, TxMessage};
use types::ids::{Amount, BlobHash, BlockId, GenesisHash, Height, JobId, Round, StatementDigest, TimeMs, TxId};
use types::keys::{PublicKey, SecretKey, Signature};
use types::rpc_sync::{Request, Response};
use types::transaction::{Action, AvailabilitySig, SenderTx, Transaction};
use types::verdict::{Claim, ProofVote, Verdict as Word, VoteSubject};
use types::vote::{SignedVote, Vote, VoteKind};

/// Time over which the pace is taken.
const WATCH: Duration = Duration::from_secs(15);
/// Time between two looks at a node's height; a peer may ask twice a second.
const LOOK: Duration = Duration::from_millis(600);
/// Blocks that the flooded node may be behind another one at a look: 2 s.
const LAG_MAX: u64 = 8;
/// Time between two transfers of the customer.
const TRANSFER_EVERY: Duration = Duration::from_millis(100);
/// Most memory of the flooded node, MiB: a quiet one has some 50.
const MEMORY_MAX_MIB: u64 = 400;
/// Questions of one peer at once.
const AT_ONCE: usize = 8;
const MINUTE: Duration = Duration::from_secs(60);

/// What a hostile peer sends. None of them holds a validator's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flood {
    /// Votes and availability signatures, forged and of strangers.
    Votes,
    /// Certificates of decided heights and of heights to come that name the validators, all signatures forged.
    Certificates,
    /// True certificates of decided heights, in all forms that are still true.
    StaleCertificates,
    /// Well signed transfers of accounts that have nothing.
    Transfers,
    /// Well signed verdicts of strangers, on claims that nobody made.
    Verdicts,
    /// Questions for status and blocks.
    Requests,
}

impl Flood {
    const ALL: [Self; 6] =
        [Self::Votes, Self::Certificates, Self::StaleCertificates, Self::Transfers, Self::Verdicts, Self::Requests];

    /// The fault for which it is dropped. What is true and of no use is no fault, but to send more of it than anybody forwards
    /// is one; whether this machine manages that many is another question.
    const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Votes | Self::Certificates => Some("InvalidGossip"),
            Self::Requests => Some("RequestFlood"),
            Self::StaleCertificates | Self::Transfers | Self::Verdicts => None,
        }
    }
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? >> 10)
}

/// What a hostile peer works with.
struct Flooder {
    flood: Flood,
    chain: GenesisHash,
    key: SecretKey,
    validators: Vec<PublicKey>,
    handle: NetworkHandle,
    /// Precommits of decided blocks, as far as they were fetched.
    precommits: Vec<Vec<SignedVote>>,
    head: Height,
}

impl Flooder {
    fn forged(&self, height: u64, n: u64) -> ConsensusMessage {
        let mut noise = [7; 64];
        noise[..8].copy_from_slice(&n.to_le_bytes());
        let value = Some(BlockId::new([5; 32]));
        let vote = |validator: &PublicKey| SignedVote {
            vote: Vote {
                kind: VoteKind::Precommit,
                height: Height(height),
                round: Round(0),
                value,
                validator: *validator,
            },
            signature: Signature::new(noise),
        };
        let votes = self.validators.iter().map(vote).collect();
        ConsensusMessage::Round { votes, enter: Round(1), precommits: true, resend: 0 }
    }

    /// A true certificate of some height, whole or without one of four signers.
    fn piece(&self, n: u64) -> Option<ConsensusMessage> {
        let whole = self.precommits.get(usize::try_from(n / 45).ok()? % self.precommits.len().max(1))?;
        let left_out = usize::try_from(n % 5).ok()?;
        let mut votes = whole.clone();
        if votes.len() == 4 && left_out < 4 {
            votes.remove(left_out);
        }
        let (resend, enter) = (u8::try_from(n / 5 % 9).ok()?, Round(votes.first()?.vote.round.0 + 1));
        Some(ConsensusMessage::Round { votes, enter, precommits: true, resend })
    }

    fn message(&self, n: u64) -> Option<GossipMessage> {
        let mut id = [9; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let (key, chain) = (&self.key, &self.chain);
        let consensus = |message| GossipMessage::Consensus(Box::new(message));
        Some(match self.flood {
            Flood::Votes if n.is_multiple_of(3) => {
                let signature = AvailabilitySig::sign(&TxId::new(id), key, chain);
                GossipMessage::Tx(Box::new(TxMessage::Availability { tx: TxId::new(id), signature }))
            }
            Flood::Votes => {
                let value = Some(BlockId::new(id));
                let vote = Vote {
                    kind: VoteKind::Prevote,
                    height: Height(n),
                    round: Round(0),
                    value,
                    validator: key.public(),
                };
                let mut vote = vote.sign(key, chain);
                vote.vote.round = Round(1);
                consensus(ConsensusMessage::Vote { vote, resend: 0 })
            }
            Flood::Certificates if n.is_multiple_of(2) => consensus(self.forged(1 + n % self.head.0.max(1), n)),
            Flood::Certificates => consensus(self.forged(self.head.0 + 2 + n % 6, n)),
            Flood::StaleCertificates => consensus(self.piece(n)?),
            Flood::Transfers => {
                let action = Action::Transfer { to: key.public(), amount: Amount(1) };
                let expires_ms = TimeMs(wall_ms() + 600_000);
                // Each of an account of its own, else the second would only wait for the first.
                let mut seed = id;
                seed[31] = key.to_seed()[0];
                let stranger = SecretKey::from_seed(seed);
                let content =
                    SenderTx { genesis: *chain, sender: stranger.public(), nonce: 0, expires_ms, trace: 0, action };
                let tx = Transaction::Signed(content.sign(&stranger));
                GossipMessage::Tx(Box::new(TxMessage::Transaction(tx)))
            }
            Flood::Verdicts => {
                let subject = VoteSubject {
                    job: JobId::new(id),
                    task: 0,
                    attempt: 0,
                    height: Height(1 + n % self.head.0.max(1)),
                    prover: key.public(),
                    statement: StatementDigest::new(id),
                    claim: Claim::Proof { hash: BlobHash::new(id), bytes: 700_000, steps: 9_000 },
                    verifier: 1,
                };
                let vote = ProofVote { subject, verdict: Word::Valid, validator: key.public() };
                GossipMessage::Verdict(Box::new(vote.sign(key, chain)))
            }
            Flood::Requests => return None,
        })
    }

    /// Fetches what new certificates there are, to send them back in pieces.
    async fn learn(&mut self, target: PeerId) {
        let from = self.head.next();
        let Ok(Response::Blocks(blocks)) = self.handle.request(target, Request::Blocks { from, count: 64 }).await
        else {
            return;
        };
        for decided in blocks {
            let c = decided.certificate;
            self.head = c.height;
            let vote = |(key, signature): &(PublicKey, Signature)| SignedVote {
                vote: c.precommit_of(*key),
                signature: *signature,
            };
            self.precommits.push(c.signatures.iter().map(vote).collect());
        }
    }

    /// Asks without end, whatever the answers are.
    async fn ask(&self, target: PeerId, stop: &AtomicBool) -> u64 {
        let (mut asked, mut waiting) = (0u64, tokio::task::JoinSet::new());
        while !stop.load(Ordering::Relaxed) {
            while waiting.len() < AT_ONCE {
                let handle = self.handle.clone();
                // One kind at a time: an answer of either kind ends the row of refusals.
                let request = match asked / 4_096 % 2 {
                    0 => Request::Status,
                    _ => Request::Blocks { from: Height(1), count: 64 },
                };
                waiting.spawn(async move { handle.request(target, request).await.is_ok() });
                asked += 1;
            }
            waiting.join_next().await;
            if !connected(&self.handle, &target) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        asked
    }
}

fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn connected(handle: &NetworkHandle, peer: &PeerId) -> bool {
    handle.peers().iter().any(|p| p.peer_id == *peer)
}

/// A swarm of its own that knows `targets`.
async fn swarm(seed: u8, chain: GenesisHash, targets: &[String]) -> Result<NetworkHandle> {
    let mut config = NetworkConfig::new(chain, SecretKey::from_seed([seed; 32]));
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.bootstrap = targets.iter().map(|t| t.parse()).collect::<Result<Vec<network::Multiaddr>, _>>()?;
    config.loopback = true;
    let (handle, mut events): (NetworkHandle, _) = Network::start(config).await?;
    let listener = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Gossip(gossip) = event {
                listener.report(gossip.id, Verdict::Ignore);
            }
        }
    });
    Ok(handle)
}

/// Sends as fast as its swarm takes it, until told to stop; how many messages it got rid of.
async fn run(mut flooder: Flooder, target: PeerId, started: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Result<u64> {
    while !connected(&flooder.handle, &target) && !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    flooder.learn(target).await;
    started.fetch_add(1, Ordering::Relaxed);
    let mut sent = 0;
    if flooder.flood == Flood::Requests {
        sent = flooder.ask(target, &stop).await;
    } else {
        let (mut n, mut learnt) = (0u64, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if learnt.elapsed() > Duration::from_secs(2) {
                flooder.learn(target).await;
                learnt = Instant::now();
            }
            n += 1;
            let message = flooder.message(n);
            if message.is_some_and(|message| flooder.handle.publish(&message).accepted()) {
                sent += 1;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    flooder.handle.shutdown().await;
    Ok(sent)
}

/// What was seen of the chain in [`WATCH`].
#[derive(Debug)]
struct Seen {
    /// Blocks that the flooded node applied.
    flooded: u64,
    /// Blocks that another node applied.
    other: u64,
    /// Blocks that the flooded one was behind at most.
    lag: u64,
    /// Heights decided meanwhile.
    heights: std::ops::Range<u64>,
}

/// Looks at both nodes as any peer can, so that callers of their RPC are not in the way.
async fn watch(observer: &NetworkHandle, flooded: PeerId, other: PeerId) -> Result<Seen> {
    let height = async |peer| match observer.request(peer, Request::Status).await {
        Ok(Response::Status { height, .. }) => Some(height.0),
        _ => None,
    };
    let (mut first, mut last, mut lag) = (None, (0, 0), 0);
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        let (Some(theirs), Some(its)) = tokio::join!(height(other), height(flooded)) else { continue };
        first.get_or_insert((its, theirs));
        last = (its, theirs);
        lag = lag.max(theirs.saturating_sub(its));
    }
    let first = first.context("the nodes tell nobody their heights")?;
    Ok(Seen { flooded: last.0 - first.0, other: last.1 - first.1, lag, heights: first.1 + 1..last.1 + 1 })
}

/// Blocks of `proposer`, and transfers in all of them, and the same of all others.
fn proposed(cluster: &Cluster, heights: &std::ops::Range<u64>, proposer: &PublicKey) -> Result<[(u64, u64); 2]> {
    let rpc = Rpc::at(&cluster.node(2)?.rpc)?;
    let mut found = [(0, 0); 2];
    for height in heights.clone() {
        let block = rpc.call("chain_block", &json!([height]))?;
        let transactions = block["transactions"].as_array().context("transactions")?;
        let transfers = transactions.iter().filter(|tx| tx["kind"] == "transfer").count() as u64;
        let whose = usize::from(block["proposer"] != json!(proposer));
        found[whose].0 += 1;
        found[whose].1 += transfers;
        // Callers of one address are held to a rate.
        std::thread::sleep(Duration::from_millis(25));
    }
    Ok(found)
}

/// Sends transfers to a node that is not flooded, until told to stop; how many it took.
fn customer(cluster: &Cluster, stop: Arc<AtomicBool>) -> Result<std::thread::JoinHandle<Result<u64>>> {
    let sender = Sender::open(&cluster.file().user_key, &cluster.file().genesis_hash)?;
    let node = Rpc::at(&cluster.node(2)?.rpc)?;
    let mut nonce = sender.nonce(&node)?;
    Ok(std::thread::spawn(move || {
        let first = nonce;
        while !stop.load(Ordering::Relaxed) {
            let to = SecretKey::from_seed([7; 32]).public();
            let tx = sender.content(nonce, Action::Transfer { to, amount: Amount(1) })?.sign(sender.key());
            node.call("tx_submit", &json!({ "tx": hex_of(&tx), "wait_ms": 0 }))?;
            nonce += 1;
            std::thread::sleep(TRANSFER_EVERY);
        }
        Ok(nonce - first)
    }))
}

/// Idle connections to both doors of a node.
fn idle(p2p: &str, rpc: &str) -> Result<Vec<TcpStream>> {
    let port = p2p.split("/tcp/").nth(1).and_then(|rest| rest.split('/').next()).context("a port")?;
    let mut idle: Vec<TcpStream> =
        (0..500).filter_map(|_| TcpStream::connect(format!("127.0.0.1:{port}")).ok()).collect();
    idle.extend((0..200).filter_map(|_| {
        let mut stream = TcpStream::connect(rpc.trim_start_matches("http://")).ok()?;
        // Half a request, and never the rest.
        stream.write_all(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\n{").ok()?;
        Some(stream)
    }));
    Ok(idle)
}

/// Two callers without a pause, until told to stop; how many calls each made.
fn callers(rpc: &str, stop: &Arc<AtomicBool>) -> Result<Vec<std::thread::JoinHandle<u64>>> {
    let caller = |_| {
        let (stop, rpc) = (stop.clone(), Rpc::at(rpc)?);
        Ok(std::thread::spawn(move || {
            let mut calls = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Refused or answered: what counts is what it does to the chain.
                drop(rpc.try_call("chain_head", &json!([])));
                calls += 1;
            }
            calls
        }))
    };
    (0..2).map(caller).collect()
}

#[test]
fn a_flooded_node_keeps_pace_and_memory_and_drops_the_flooders() -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("flood");
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
    let (node, other) = (cluster.node(0)?.clone(), cluster.node(2)?.clone());
    let (target, reference): (PeerId, PeerId) = (node.peer_id.parse()?, other.peer_id.parse()?);
    let chain: GenesisHash = cluster.file().genesis_hash.parse()?;
    let validators = cluster.genesis()?.validators;
    let proposer = validators.first().context("a validator")?.key;
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let observer = runtime.block_on(swarm(99, chain, &[node.p2p.clone(), other.p2p.clone()]))?;
    cluster.wait("the observer is connected", MINUTE, |_| {
        (connected(&observer, &target) && connected(&observer, &reference)).then_some(())
    })?;
    let shopper = customer(&cluster, stop.clone())?;
    let quiet = runtime.block_on(watch(&observer, target, reference))?;

    let started = Arc::new(AtomicU64::new(0));
    let mut keys: Vec<PublicKey> = validators.iter().map(|v| v.key).collect();
    keys.sort_unstable();
    let mut floods = Vec::new();
    for (flood, seed) in Flood::ALL.into_iter().zip(101u8..) {
        let handle = runtime.block_on(swarm(seed, chain, std::slice::from_ref(&node.p2p)))?;
        let peer = handle.peer_id();
        let flooder = Flooder {
            flood,
            chain,
            key: SecretKey::from_seed([seed; 32]),
            validators: keys.clone(),
            handle,
            precommits: vec![],
            head: Height(0),
        };
        floods.push((flood, peer, runtime.spawn(run(flooder, target, started.clone(), stop.clone()))));
    }
    // The idle connections would keep the flooders out, too.
    let all = floods.len() as u64;
    cluster.wait("the flooders are connected", MINUTE, |_| (started.load(Ordering::Relaxed) == all).then_some(()))?;
    let idle = idle(&node.p2p, &node.rpc)?;
    let callers = callers(&node.rpc, &stop)?;
    let flooded = runtime.block_on(watch(&observer, target, reference))?;
    let log = cluster.log(0);
    for (flood, peer, _) in &floods {
        let Some(fault) = flood.fault() else { continue };
        let peer = peer.to_string();
        let texts = ["disconnected for its faults", fault, &peer];
        cluster.wait(&format!("{flood:?}: {texts:?} in {}", log.display()), MINUTE, |_| {
            let log = std::fs::read_to_string(&log).ok()?;
            log.lines().any(|line| texts.iter().all(|text| line.contains(text))).then_some(())
        })?;
    }
    stop.store(true, Ordering::Relaxed);
    let calls: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    let transfers = shopper.join().unwrap()?;
    let text = std::fs::read_to_string(&log)?;
    for (flood, peer, task) in floods {
        let (sent, peer) = (runtime.block_on(task)??, peer.to_string());
        let dropped = text.lines().filter(|l| l.contains("disconnected for its faults") && l.contains(&peer)).count();
        println!("{flood:?}: {sent} messages, dropped {dropped} times");
        // Whoever is dropped for anything is dropped for what it did: nobody here is without fault but by its rate.
        let allowed = [flood.fault().unwrap_or("GossipFlood"), "Flood", "Graylisted"];
        for line in text.lines().filter(|l| l.contains("disconnected for its faults") && l.contains(&peer)) {
            ensure!(allowed.iter().any(|fault| line.contains(fault)), "{flood:?}: {line}");
        }
    }
    runtime.block_on(observer.shutdown());
    let memory = resident_mib(node.pid.context("its process id")?)?;
    let idle_now = idle.len();
    drop(idle);
    let [own, others] = proposed(&cluster, &flooded.heights, &proposer)?;
    println!(
        "quiet {quiet:?}; under {idle_now} idle connections, {calls} calls and the floods {flooded:?}; {transfers} transfers; \
         blocks and transfers in them: of the flooded node {own:?}, of the others {others:?}; it took at most {memory} MiB"
    );
    ensure!(flooded.other * 10 >= quiet.other * 8, "{} blocks beside {}", flooded.other, quiet.other);
    ensure!(flooded.flooded * 10 >= quiet.flooded * 8, "flooded: {} blocks beside {}", flooded.flooded, quiet.flooded);
    ensure!(flooded.lag <= LAG_MAX, "the flooded node was {} blocks behind", flooded.lag);
    // A quarter of the turns is its own, and its blocks hold what customers of other nodes want, as those of the others do.
    ensure!(own.0 * 8 >= own.0 + others.0, "the flooded node proposed {} of {} blocks", own.0, own.0 + others.0);
    ensure!(own.1 * others.0 * 2 >= others.1 * own.0, "transfers in blocks: its {own:?}, the others' {others:?}");
    ensure!(memory <= MEMORY_MAX_MIB, "{memory} MiB");
    ensure!(!text.contains("panicked"), "the log tells of a panic");
    let height = cluster.height(0).context("node 0 answers")?;
    cluster.wait_height(0, height + 2, MINUTE)?;
    ensure!(cluster.stop_all()?.iter().all(|(_, code)| *code == 0), "a node did not drain");
    Ok(())
}
