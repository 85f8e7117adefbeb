//! A registered prover that cheats: it follows the network's gossip for jobs and other provers' claims, commits what it is
//! told to commit, and decides who gets the bytes.
//!
//! Everything it sends is well formed and signed with its own key: what is wrong is what it claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use network::{Event, Events, FetchOptions, Gossip, GossipMessage, MemorySink, NetworkHandle, Verdict, fetch_blob};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use types::Wire;
use types::blob::{BlobManifest, blob_hash};
use types::gossip::TxMessage;
use types::ids::{BlobHash, Height, JobId};
use types::job::JobSpec;
use types::keys::PublicKey;
use types::limits::BLOB_CHUNK_BYTES;
use types::rpc_sync::{Request, Response};
use types::statement::Statement;
use types::transaction::{Action, SenderTx, SignedTx, Transaction};
use types::verdict::Claim;

use super::identity::{self, Identity, report};
use super::prover_proofs::{Assignment, Made, Workshop};
use crate::rpc::Rpc;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two looks at other provers' claims: a thief must be quick.
const GLANCE: Duration = Duration::from_millis(2);
/// Longest wait for a turn or for what gossip brings.
const PATIENCE: Duration = Duration::from_secs(180);
/// Transactions expire after this long, block time.
const TX_LIFE_MS: u64 = 600_000;
/// Length claimed for bytes that do not exist.
const PHANTOM_BYTES: u64 = 700_000;

/// Settings of the process.
#[derive(Args, Clone, Debug)]
pub struct ProverArgs {
    /// Home folder with keys and genesis document; its node must not run.
    #[arg(long)]
    home: PathBuf,
    /// Peers to connect to, multiaddresses.
    #[arg(long = "peer", required = true)]
    peers: Vec<String>,
    /// RPC address of an honest node, http://IP:PORT.
    #[arg(long)]
    rpc: String,
}

/// What to do in a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cheat {
    /// Commit a proof of this job in which one bit is another.
    ChangedBit,
    /// Commit the valid proof that was made for another job.
    OtherJob {
        /// That job.
        of: JobId,
    },
    /// Commit a proof of the job's program over other arguments.
    OtherInput {
        /// The arguments.
        args: String,
    },
    /// Commit what another prover is about to commit, before it.
    Stolen,
    /// Commit a hash of bytes that do not exist.
    NeverServed,
    /// Commit a valid proof and give its bytes to nobody until told to.
    Withheld,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Cheat in a job.
    Cheat {
        /// The job.
        job: JobId,
        /// How.
        how: Cheat,
    },
    /// Serve the bytes committed for a job.
    Serve {
        /// The job.
        job: JobId,
        /// To these peer ids; to everybody when there are none.
        to: Vec<String>,
    },
}

/// Who gets a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Access {
    Nobody,
    Peers(BTreeSet<String>),
    Everybody,
}

/// A blob held here.
#[derive(Clone, Debug)]
struct Held {
    bytes: Arc<Vec<u8>>,
    access: Access,
}

/// What gossip brought and what was committed.
#[derive(Debug, Default)]
struct Known {
    jobs: BTreeMap<JobId, JobSpec>,
    claims: BTreeMap<(JobId, u32), (PublicKey, Claim)>,
    blobs: BTreeMap<BlobHash, Held>,
    committed: BTreeMap<JobId, BlobHash>,
    asked: BTreeSet<(BlobHash, String)>,
}

/// The adversary.
struct Cheater {
    identity: Identity,
    net: NetworkHandle,
    rpc: Rpc,
    known: Mutex<Known>,
    workshop: Workshop,
    /// One transaction at a time, for the nonce.
    sending: tokio::sync::Mutex<()>,
}

/// Runs until standard input ends.
///
/// # Errors
/// When the home can't be read or the network can't be joined.
pub async fn run(args: ProverArgs) -> Result<()> {
    let identity = Identity::of_home(&args.home)?;
    let (net, events) = identity.join(&args.peers).await?;
    let me = identity.account.public();
    tokio::spawn(identity::announce(net.clone(), identity.chain, Some(me), None, || Height(1)));
    let cheater = Arc::new(Cheater {
        identity,
        rpc: Rpc::at(&args.rpc)?,
        known: Mutex::default(),
        workshop: Workshop::default(),
        sending: tokio::sync::Mutex::default(),
        net,
    });
    tokio::spawn(follow(Arc::clone(&cheater), events));
    report(&json!({ "event": "joined", "peer_id": cheater.net.peer_id().to_string(), "account": me }));
    let mut orders = identity::orders::<Order>();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Cheat { job, how } => {
                let cheater = Arc::clone(&cheater);
                tokio::spawn(async move {
                    if let Err(error) = cheat(&cheater, job, how).await {
                        report(&json!({ "event": "failed", "job": job, "why": format!("{error:#}") }));
                    }
                });
            }
            Order::Serve { job, to } => serve(&cheater, &job, to),
        }
    }
    Ok(())
}

impl Cheater {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn me(&self) -> PublicKey {
        self.identity.account.public()
    }

    /// Asks the honest node.
    async fn ask(self: &Arc<Self>, method: &'static str, params: Value) -> Result<Value> {
        let rpc = self.rpc.clone();
        tokio::task::spawn_blocking(move || rpc.call(method, &params)).await?
    }

    async fn sign(self: &Arc<Self>, action: Action) -> Result<SignedTx> {
        let me = self.me();
        let nonce = self.ask("account_nonce", json!([me])).await?["nonce_pending"].as_u64().context("nonce")?;
        let content = SenderTx {
            genesis: self.identity.chain,
            sender: me,
            nonce,
            expires_ms: identity::wall_clock().plus(TX_LIFE_MS),
            trace: 0,
            action,
        };
        Ok(content.sign(&self.identity.account))
    }

    /// Commits a claim and waits for the block with it; returns its height.
    async fn commit(self: &Arc<Self>, job: JobId, attempt: u32, claim: Claim) -> Result<u64> {
        let _one = self.sending.lock().await;
        let tx = self.sign(Action::CommitClaim { job, task: 0, attempt, claim }).await?;
        let answer = self.ask("tx_submit", json!([hex::encode(tx.to_bytes()), 30_000])).await?;
        answer["height"].as_u64().with_context(|| format!("the claim is in no block: {answer}"))
    }
}

/// Looks again and again, for [`PATIENCE`].
struct Wait {
    what: &'static str,
    every: Duration,
    deadline: tokio::time::Instant,
}

impl Wait {
    fn new(what: &'static str, every: Duration) -> Self {
        Self { what, every, deadline: tokio::time::Instant::now() + PATIENCE }
    }

    /// Pauses before the next look.
    async fn again(&self) -> Result<()> {
        ensure!(tokio::time::Instant::now() < self.deadline, "{}: not within {} s", self.what, PATIENCE.as_secs());
        tokio::time::sleep(self.every).await;
        Ok(())
    }
}

/// Takes in what the network sends; judges nothing, and answers questions about blobs as ordered.
async fn follow(cheater: Arc<Cheater>, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Gossip(Gossip { id, message, .. }) => {
                if let GossipMessage::Tx(message) = message {
                    learn(&cheater, *message);
                }
                cheater.net.report(id, Verdict::Ignore);
            }
            Event::Request(network::Request { peer, request, token }) => {
                let answer = answer(&cheater, &peer.to_string(), &request);
                cheater.net.respond(token, &answer);
            }
            Event::Peer(_) => {}
        }
    }
    report(&json!({ "event": "disconnected" }));
    std::process::exit(1);
}

fn learn(cheater: &Cheater, message: TxMessage) {
    let tx = match &message {
        TxMessage::Offer(tx) => tx,
        TxMessage::Transaction(tx) => match tx.signed() {
            Some(tx) => tx,
            None => return,
        },
        TxMessage::Availability { .. } => return,
    };
    let SenderTx { sender, nonce, action, .. } = &tx.content;
    match action {
        Action::SubmitJob(spec) => {
            let job = spec.job_id(&cheater.identity.chain, sender, *nonce);
            cheater.known().jobs.insert(job, (**spec).clone());
        }
        Action::CommitClaim { job, attempt, claim, .. } if *sender != cheater.me() => {
            cheater.known().claims.entry((*job, *attempt)).or_insert((*sender, claim.clone()));
        }
        _ => {}
    }
}

fn answer(cheater: &Cheater, peer: &str, request: &Request) -> Response {
    let held = |hash: &BlobHash| {
        let mut known = cheater.known();
        let held = known.blobs.get(hash).cloned();
        if known.committed.values().any(|committed| committed == hash) && known.asked.insert((*hash, peer.to_owned())) {
            report(&json!({ "event": "asked", "hash": hash, "peer": peer }));
        }
        held.filter(|held| match &held.access {
            Access::Nobody => false,
            Access::Peers(peers) => peers.contains(peer),
            Access::Everybody => true,
        })
    };
    match request {
        Request::Status => Response::Status { height: Height(0), lowest: Height(1) },
        Request::BlobManifest { hash } => Response::BlobManifest(held(hash).map(|held| BlobManifest::of(&held.bytes))),
        Request::BlobChunk { hash, index } => Response::BlobChunk(held(hash).and_then(|held| {
            let part = held.bytes.chunks(BLOB_CHUNK_BYTES as usize).nth(*index as usize);
            part.map(<[u8]>::to_vec)
        })),
        Request::Verdicts { .. } => Response::Verdicts(vec![]),
        Request::Blocks { .. } => Response::Blocks(vec![]),
        Request::ProposedBlock { .. } => Response::ProposedBlock(None),
        Request::Votes { .. } => Response::Votes { votes: vec![], proposals: vec![] },
        Request::Genesis => Response::Genesis(None),
    }
}

fn serve(cheater: &Cheater, job: &JobId, to: Vec<String>) {
    let mut known = cheater.known();
    let hash = known.committed.get(job).copied();
    let Some(held) = hash.and_then(|hash| known.blobs.get_mut(&hash)) else {
        report(&json!({ "event": "failed", "job": job, "why": "no bytes were committed for this job" }));
        return;
    };
    held.access = if to.is_empty() { Access::Everybody } else { Access::Peers(to.into_iter().collect()) };
    report(&json!({ "event": "serving", "job": job }));
}

async fn cheat(cheater: &Arc<Cheater>, job: JobId, how: Cheat) -> Result<()> {
    match how {
        Cheat::Stolen => return steal(cheater, job).await,
        Cheat::NeverServed => return never_serve(cheater, job).await,
        _ => {}
    }
    let attempt = turn(cheater, job).await?;
    let assignment = open(cheater, job).await?;
    let worker = Arc::clone(cheater);
    let access = if how == Cheat::Withheld { Access::Nobody } else { Access::Everybody };
    let made = tokio::task::spawn_blocking(move || {
        let (workshop, me) = (&worker.workshop, worker.me());
        match how {
            Cheat::ChangedBit => workshop.changed_bit(&assignment, me),
            Cheat::OtherJob { of } => workshop.made_for(&of),
            Cheat::OtherInput { args } => workshop.other_input(&assignment, me, &args),
            Cheat::Withheld => workshop.valid(&assignment, me),
            Cheat::Stolen | Cheat::NeverServed => bail!("this cheat makes no proof"),
        }
    })
    .await??;
    let claim = hold(cheater, job, &made, access);
    let height = cheater.commit(job, attempt, claim.clone()).await?;
    report(&json!({ "event": "committed", "job": job, "attempt": attempt, "claim": claim, "height": height }));
    Ok(())
}

async fn never_serve(cheater: &Arc<Cheater>, job: JobId) -> Result<()> {
    let attempt = turn(cheater, job).await?;
    let hash = blob_hash(&[b"bytes that nobody has, job ".as_slice(), job.as_bytes()].concat());
    let claim = Claim::Proof { hash, bytes: PHANTOM_BYTES, steps: 1 };
    cheater.known().committed.insert(job, hash);
    let height = cheater.commit(job, attempt, claim.clone()).await?;
    report(&json!({ "event": "committed", "job": job, "attempt": attempt, "claim": claim, "height": height }));
    Ok(())
}

/// Puts a blob where peers ask for it; returns the claim to it.
fn hold(cheater: &Cheater, job: JobId, made: &Made, access: Access) -> Claim {
    let (hash, bytes) = (blob_hash(&made.blob), made.blob.len() as u64);
    let mut known = cheater.known();
    known.blobs.insert(hash, Held { bytes: Arc::clone(&made.blob), access });
    known.committed.insert(job, hash);
    Claim::Proof { hash, bytes, steps: made.steps }
}

/// Waits for the exclusive turn at a job; returns the attempt.
async fn turn(cheater: &Arc<Cheater>, job: JobId) -> Result<u32> {
    let (me, wait) = (cheater.me().to_string(), Wait::new("the turn", LOOK));
    loop {
        // The node asked may hear of the job later than whoever gave the order.
        let view = cheater.ask("job_status", json!([job])).await.unwrap_or_default();
        let task = &view["tasks"][0];
        if task["state"] == "assigned" && task["prover"] == me.as_str() {
            return Ok(u32::try_from(task["attempt"].as_u64().context("attempt")?)?);
        }
        wait.again().await?;
    }
}

/// The job's specification from gossip, its input from the peers that hold it.
async fn open(cheater: &Arc<Cheater>, job: JobId) -> Result<Assignment> {
    let wait = Wait::new("the job's submission", LOOK);
    let spec = loop {
        let spec = cheater.known().jobs.get(&job).cloned();
        match spec {
            Some(spec) => break spec,
            None => wait.again().await?,
        }
    };
    let program = fetch(cheater, spec.program.hash).await?;
    let args = match spec.args {
        Some(blob) => Some(fetch(cheater, blob.hash).await?),
        None => None,
    };
    let statement = Statement::of_job(cheater.identity.chain, job, 0, &spec);
    Ok(Assignment { job, spec, statement, program, args })
}

async fn fetch(cheater: &Arc<Cheater>, hash: BlobHash) -> Result<Vec<u8>> {
    let wait = Wait::new("a blob", LOOK);
    loop {
        let peers: Vec<_> = cheater.net.peers().iter().map(|p| p.peer_id).collect();
        let mut sink = MemorySink::default();
        if fetch_blob(&cheater.net, hash, &peers, &mut sink, FetchOptions::default()).await.is_ok() {
            return Ok(sink.into_bytes());
        }
        wait.again().await?;
    }
}

/// Sees another prover's claim on its way into a block and gets the same claim under the own key into the block before it.
/// Then takes the bytes from the network, to serve them as if they were its own.
async fn steal(cheater: &Arc<Cheater>, job: JobId) -> Result<()> {
    let attempt = turn(cheater, job).await?;
    let _one = cheater.sending.lock().await;
    // Everything that takes time is done before the victim shows itself.
    let placeholder = Claim::Proof { hash: BlobHash::new([0; 32]), bytes: 1, steps: 1 };
    let prepared = cheater.sign(Action::CommitClaim { job, task: 0, attempt, claim: placeholder }).await?;
    report(&json!({ "event": "lurking", "job": job, "attempt": attempt }));
    let wait = Wait::new("a claim to steal", GLANCE);
    let (victim, claim) = loop {
        let seen = cheater.known().claims.get(&(job, attempt)).cloned();
        match seen {
            Some(seen) => break seen,
            None => wait.again().await?,
        }
    };
    let action = Action::CommitClaim { job, task: 0, attempt, claim: claim.clone() };
    let tx = SenderTx { action, ..prepared.content }.sign(&cheater.identity.account);
    let message = TxMessage::Transaction(Transaction::Signed(tx.clone()));
    cheater.net.publish(&GossipMessage::Tx(Box::new(message)));
    let Claim::Proof { hash, steps, .. } = claim.clone() else { bail!("the victim reports a failure") };
    cheater.known().committed.insert(job, hash);
    let blob = Arc::new(fetch(cheater, hash).await?);
    hold(cheater, job, &Made { blob: Arc::clone(&blob), steps }, Access::Everybody);
    // One of the two claims gets into a block; the other is refused from then on.
    let wait = Wait::new("a block with a claim", LOOK);
    loop {
        let task = cheater.ask("job_status", json!([job])).await?["tasks"][0].take();
        if task["attempt"] != attempt || ["voting", "certified"].iter().any(|state| task["state"] == *state) {
            break;
        }
        wait.again().await?;
    }
    let status = cheater.ask("tx_status", json!([tx.id()])).await?;
    report(&json!({
        "event": "stolen", "job": job, "attempt": attempt, "victim": victim, "claim": claim,
        "bytes": blob.len(), "decided": status["status"] == "decided",
    }));
    Ok(())
}
