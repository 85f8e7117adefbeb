//! A registered prover that cheats: it follows the network's gossip for jobs and other provers' claims, commits what it is
//! told to commit, and decides who gets the bytes.
//!
//! Everything it sends is well formed and signed with its own key: what is wrong is what it claims.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use network::{FetchOptions, GossipMessage, MemorySink, fetch_blob};
use serde::{Deserialize, Serialize};
use serde_json::json;
use types::blob::blob_hash;
use types::gossip::TxMessage;
use types::ids::{BlobHash, Height, JobId};
use types::statement::Statement;
use types::transaction::{Action, SenderTx, Transaction};
use types::verdict::Claim;

use super::identity::{self, Identity, report};
use super::prover_peer::{Access, Cheater, follow, hold, serve};
use super::prover_proofs::{Assignment, Made, Workshop};
use crate::rpc::Rpc;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two looks at other provers' claims: a thief must be quick.
const GLANCE: Duration = Duration::from_millis(2);
/// Longest wait for a turn or for what gossip brings.
const PATIENCE: Duration = Duration::from_secs(180);
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
