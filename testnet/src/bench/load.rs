//! Transfers at a rate that the nodes set: many senders, each with a key of its own, a connection that stays open, batches
//! of ten, and as many transactions under way as its window allows.
//!
//! Transactions are signed before the clock starts; what is measured is the network, not the client's signatures. A sender
//! goes on when a decided block takes in what it sent; what a node refuses as too much is sent again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use types::Wire;
use types::ids::{Amount, GenesisHash, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::transaction::{Action, SenderTx};

use super::rpc::Rpc;
use super::stats::Samples;
use super::{Memory, memory_of};
use crate::harness::Cluster;

/// Transactions in one request: the most that a node takes.
const BATCH: usize = 10;
/// Transactions of one sender under way; a node holds 64 of one sender.
const WINDOW: u64 = 50;
/// Pause after a refusal.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Credits that each sender gets: fees and amounts of more transfers than any run makes.
const ENDOWMENT: u128 = 10_000_000;
/// Time between two looks at the nodes' heights.
const LOOK: Duration = Duration::from_millis(25);

/// Senders with signed transactions.
pub(super) struct Load {
    senders: Vec<Sender>,
    /// Length of one transaction in a block, bytes.
    pub(super) tx_bytes: usize,
}

struct Sender {
    key: PublicKey,
    /// JSON parameters of `tx_submit`, by nonce.
    ready: Arc<Vec<String>>,
}

/// What came of it.
pub(super) struct Outcome {
    /// Transfers applied on all nodes within the time.
    pub(super) applied: u64,
    /// Blocks they are in.
    pub(super) blocks: u64,
    /// From the request that carried a transaction to its block being applied on all nodes, ms.
    pub(super) latency: Samples,
    /// Submissions refused, by code; each was sent again.
    pub(super) refused: BTreeMap<String, u64>,
    /// Memory of each node, every second.
    pub(super) memory: Vec<Vec<Memory>>,
}

/// What the senders and the watcher share.
#[derive(Default)]
struct Shared {
    /// When each (sender, nonce) was sent last.
    sent: Vec<Vec<Instant>>,
    refused: BTreeMap<String, u64>,
}

impl Load {
    /// Makes `count` senders, pays them from the testnet's user, and signs `each` transfers of every one.
    ///
    /// # Errors
    /// When the endowment does not arrive.
    pub(super) async fn prepare(cluster: &Cluster, count: usize, each: u64) -> Result<Self> {
        let genesis: GenesisHash = cluster.file().genesis_hash.parse().context("genesis hash")?;
        let text = std::fs::read_to_string(&cluster.file().user_key).context("the user's key")?;
        let seed: [u8; 32] = hex::decode(text.trim())?.try_into().ok().context("a key of 32 bytes")?;
        let user = SecretKey::from_seed(seed);
        let keys: Vec<SecretKey> = (0..count).map(sender_key).collect();
        let expires = TimeMs(u64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis())? + 6 * 3_600_000);
        let transfer = |from: &SecretKey, nonce: u64, to: PublicKey, amount: u128| {
            let action = Action::Transfer { to, amount: Amount(amount) };
            SenderTx { genesis, sender: from.public(), nonce, expires_ms: expires, trace: 0, action }.sign(from)
        };
        let mut node = Rpc::connect(&cluster.node(0)?.rpc).await?;
        let publics: Vec<PublicKey> = keys.iter().map(SecretKey::public).collect();
        for (wave, part) in publics.chunks(WINDOW as usize).enumerate() {
            let first = wave as u64 * WINDOW;
            let gifts = part.iter().zip(first..).map(|(to, nonce)| transfer(&user, nonce, *to, ENDOWMENT));
            let params: Vec<String> = gifts.map(|tx| submission(&tx.to_bytes())).collect();
            for batch in params.chunks(BATCH) {
                for answer in node.batch("tx_submit", batch).await? {
                    answer.map_err(|r| anyhow::anyhow!("paying the senders: {} ({})", r.message, r.code))?;
                }
            }
            wait_nonce(&mut node, &user.public(), first + part.len() as u64).await?;
        }
        let mut tx_bytes = 0;
        let mut senders = vec![];
        for (number, key) in keys.iter().enumerate() {
            let ready: Vec<String> = (0..each)
                .map(|nonce| {
                    // Each pays all others in turn, so that a block touches many accounts.
                    let to = publics[(number + 1 + nonce as usize % (count - 1)) % count];
                    let bytes = transfer(key, nonce, to, 1).to_bytes();
                    tx_bytes = bytes.len();
                    submission(&bytes)
                })
                .collect();
            senders.push(Sender { key: key.public(), ready: Arc::new(ready) });
        }
        Ok(Self { senders, tx_bytes })
    }

    /// Sends for `time`, as fast as the nodes take it or `rate` a second in all, then waits until everything sent is applied
    /// on all nodes and checks that all agree.
    ///
    /// # Errors
    /// When a node fails, disagrees, or the senders run out of transactions.
    pub(super) async fn run(&self, cluster: &Cluster, time: Duration, rate: Option<u64>) -> Result<Outcome> {
        let nodes: Vec<String> = cluster.file().nodes.iter().map(|n| n.rpc.clone()).collect();
        let start = Instant::now();
        let shared = Arc::new(Mutex::new(Shared {
            sent: self.senders.iter().map(|s| vec![start; s.ready.len()]).collect(),
            refused: BTreeMap::new(),
        }));
        let (progress, decided) = watch::channel(vec![0u64; self.senders.len()]);
        let end = start + time;
        let mut tasks = JoinSet::new();
        for (number, sender) in self.senders.iter().enumerate() {
            let url = nodes[number % nodes.len()].clone();
            let pace = rate.map(|rate| Duration::from_secs_f64(self.senders.len() as f64 * BATCH as f64 / rate as f64));
            let way = Way { number, ready: Arc::clone(&sender.ready), url, end, pace };
            tasks.spawn(send(way, decided.clone(), Arc::clone(&shared)));
        }
        let keys: Vec<PublicKey> = self.senders.iter().map(|s| s.key).collect();
        let mut watcher = Watcher::new(cluster, &nodes, &keys, start).await?;
        while Instant::now() < end {
            watcher.look(&shared, &progress).await?;
            while let Some(done) = tasks.try_join_next() {
                done??;
            }
            tokio::time::sleep(LOOK).await;
        }
        let (applied, blocks) = watcher.applied_everywhere();
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        watcher.settle(&shared, &progress).await?;
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Watcher { latency, memory, .. } = watcher;
        Ok(Outcome { applied, blocks, latency, refused: shared.refused.clone(), memory })
    }
}

/// Any 32 bytes are a key; these belong to nobody.
fn sender_key(number: usize) -> SecretKey {
    let mut seed = [0x5e; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

fn submission(tx: &[u8]) -> String {
    format!(r#"{{"tx":"{}","wait_ms":0}}"#, hex::encode(tx))
}

async fn nonce(node: &mut Rpc, account: &PublicKey) -> Result<u64> {
    let answer = node.call("account_nonce", json!([account])).await?;
    answer["nonce"].as_u64().with_context(|| format!("no nonce in {answer}"))
}

async fn wait_nonce(node: &mut Rpc, account: &PublicKey, at_least: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while nonce(node, account).await? < at_least {
        ensure!(Instant::now() < deadline, "the senders' endowment was not decided within a minute");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What one sender does.
struct Way {
    number: usize,
    ready: Arc<Vec<String>>,
    url: String,
    end: Instant,
    /// Least time between two of its batches.
    pace: Option<Duration>,
}

async fn send(way: Way, mut decided: watch::Receiver<Vec<u64>>, shared: Arc<Mutex<Shared>>) -> Result<()> {
    let Way { number, ready, url, end, pace } = way;
    let mut node = Rpc::connect(&url).await?;
    let mut next = 0u64;
    let mut ticks = tokio::time::interval(pace.unwrap_or(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < end {
        if pace.is_some() {
            ticks.tick().await;
        }
        let done = decided.borrow_and_update()[number];
        next = next.max(done);
        let room = (done + WINDOW).saturating_sub(next).min(BATCH as u64);
        if room < BATCH as u64 {
            let left = end.saturating_duration_since(Instant::now());
            tokio::time::timeout(left, decided.changed()).await.ok();
            continue;
        }
        let (from, to) = (next as usize, (next + room) as usize);
        let Some(batch) = ready.get(from..to) else { bail!("sender {number} has no transactions left") };
        // Before the request: under load a block may hold a transaction before its answer is here.
        if let Some(sent) = shared.lock().unwrap_or_else(PoisonError::into_inner).sent[number].get_mut(from..to) {
            sent.fill(Instant::now());
        }
        let answers = node.batch("tx_submit", batch).await?;
        let mut refused = None;
        {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, answer) in (from..).zip(&answers) {
                match answer {
                    Ok(_) => next = index as u64 + 1,
                    Err(refusal) => {
                        *shared.refused.entry(refusal.code.clone()).or_default() += 1;
                        refused = Some(refusal.clone());
                        break;
                    }
                }
            }
        }
        match refused {
            None => {}
            Some(r) if ["overloaded", "nonce_gap", "nonce_used"].contains(&r.code.as_str()) => {
                tokio::time::sleep(BACK_OFF).await;
            }
            Some(r) => bail!("sender {number}: {} ({})", r.message, r.code),
        }
    }
    Ok(())
}

/// Follows the blocks through one node and the heights of all.
struct Watcher {
    nodes: Vec<Rpc>,
    pids: Vec<u32>,
    numbers: BTreeMap<PublicKey, usize>,
    heights: Vec<u64>,
    /// Next block to read.
    next: u64,
    /// Read blocks: height and the transfers of ours in them, as (sender, nonce).
    blocks: BTreeMap<u64, Vec<(usize, u64)>>,
    decided: Vec<u64>,
    /// Everything up to here is counted as applied everywhere.
    counted: u64,
    applied: u64,
    blocks_with_ours: u64,
    latency: Samples,
    memory: Vec<Vec<Memory>>,
    looked: Instant,
}

impl Watcher {
    async fn new(cluster: &Cluster, urls: &[String], keys: &[PublicKey], now: Instant) -> Result<Self> {
        let mut nodes = vec![];
        for url in urls {
            nodes.push(Rpc::connect(url).await?);
        }
        let mut heights = vec![];
        for node in &mut nodes {
            heights.push(node.height().await?);
        }
        let pids = cluster.file().nodes.iter().filter_map(|n| n.pid).collect();
        let next = heights.iter().min().copied().unwrap_or(0) + 1;
        let numbers = keys.iter().enumerate().map(|(number, key)| (*key, number)).collect();
        let memory = vec![vec![]; urls.len()];
        Ok(Self {
            nodes,
            pids,
            numbers,
            heights,
            next,
            blocks: BTreeMap::new(),
            decided: vec![0; keys.len()],
            counted: next - 1,
            applied: 0,
            blocks_with_ours: 0,
            latency: Samples::default(),
            memory,
            looked: now,
        })
    }

    /// Reads new blocks and heights, and tells the senders.
    async fn look(&mut self, shared: &Mutex<Shared>, progress: &watch::Sender<Vec<u64>>) -> Result<()> {
        for (height, node) in self.heights.iter_mut().zip(&mut self.nodes) {
            *height = node.height().await?;
        }
        let reader = self.heights.iter().enumerate().max_by_key(|(_, height)| **height).map_or(0, |(i, _)| i);
        while self.next <= self.heights[reader] {
            let block = self.nodes[reader].call("chain_block", json!([self.next])).await?;
            let transfers = self.ours(&block)?;
            for (sender, nonce) in &transfers {
                self.decided[*sender] = self.decided[*sender].max(nonce + 1);
            }
            self.blocks.insert(self.next, transfers);
            self.next += 1;
            progress.send_replace(self.decided.clone());
        }
        let (everywhere, now) = (self.heights.iter().min().copied().unwrap_or(0), Instant::now());
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        while self.counted < everywhere {
            let Some(transfers) = self.blocks.remove(&(self.counted + 1)) else { break };
            self.counted += 1;
            self.applied += transfers.len() as u64;
            self.blocks_with_ours += u64::from(!transfers.is_empty());
            for (sender, nonce) in transfers {
                let sent = shared.sent[sender][nonce as usize];
                self.latency.push(now.saturating_duration_since(sent).as_secs_f64() * 1000.0);
            }
        }
        drop(shared);
        if now.saturating_duration_since(self.looked) >= Duration::from_secs(1) {
            self.looked = now;
            self.weigh()?;
        }
        Ok(())
    }

    fn ours(&self, block: &Value) -> Result<Vec<(usize, u64)>> {
        let list = block["transactions"].as_array().with_context(|| format!("no transactions in {block}"))?;
        let read = |tx: &Value| -> Option<(usize, u64)> {
            let sender: PublicKey = tx["sender"].as_str()?.parse().ok()?;
            Some((*self.numbers.get(&sender)?, tx["nonce"].as_u64()?))
        };
        Ok(list.iter().filter_map(read).collect())
    }

    fn weigh(&mut self) -> Result<()> {
        for (memory, pid) in self.memory.iter_mut().zip(&self.pids) {
            memory.push(memory_of(*pid)?);
        }
        Ok(())
    }

    /// Transfers, and blocks with any, that all nodes have applied.
    fn applied_everywhere(&self) -> (u64, u64) {
        (self.applied, self.blocks_with_ours)
    }

    /// Waits until nothing is under way, then compares the nodes: same block, same nonces of all senders.
    async fn settle(&mut self, shared: &Mutex<Shared>, progress: &watch::Sender<Vec<u64>>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut quiet = (self.decided.clone(), Instant::now());
        while Instant::now() < quiet.1 + Duration::from_secs(3) {
            ensure!(Instant::now() < deadline, "transfers were still being decided a minute after the last was sent");
            self.look(shared, progress).await?;
            if self.decided != quiet.0 {
                quiet = (self.decided.clone(), Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
        let height = self.heights.iter().min().copied().unwrap_or(0);
        let mut hashes = vec![];
        for node in &mut self.nodes {
            hashes.push(node.call("chain_block", json!([height])).await?["hash"].clone());
        }
        ensure!(
            hashes.windows(2).all(|w| w[0] == w[1]),
            "the nodes hold different blocks at height {height}: {hashes:?}"
        );
        for (key, number) in &self.numbers {
            for (index, node) in self.nodes.iter_mut().enumerate() {
                let (found, expected) = (nonce(node, key).await?, self.decided[*number]);
                ensure!(
                    found == expected,
                    "node {index} has applied {found} transfers of sender {number}, the blocks hold {expected}"
                );
            }
        }
        Ok(())
    }
}
