//! This node's own proofs: one job at a time, in a sandboxed worker process, from assignment to committed claim.
//!
//! Inbox: 64 messages; a turn that is not taken here comes again with the next block. A worker that crashes, hangs or runs out
//! of memory costs one attempt: the turn is declined with the reason, and this prover backs off. Restart: the worker's child
//! dies with the actor; the scheduler offers the turn again.

use std::sync::Arc;
use std::time::Duration;

use prover::worker::{Event as WorkerEvent, Job, JobError, Worker, WorkerConfig};
use prover::{ProveRequest, Proven};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use types::blob::blob_hash;
use types::ids::{BlobHash, JobId, TimeMs};
use types::job::JobSpec;
use types::keys::SecretKey;
use types::statement::Statement;
use types::transaction::{Action, DeclineReason};
use types::verdict::Claim;

use crate::api::ApiError;
use crate::api::views::{ProgressView, ProverStatusView};
use crate::app::mempool::MempoolMsg;
use crate::app::{blobs, scheduler};
use crate::mailbox::{Letter, Sent};
use crate::task::Task;
use crate::wiring::{Wiring, wall_clock};

/// Time to bring a job's input here.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// Longest proof.
const PROVE_LIMIT: Duration = Duration::from_secs(3600);
/// First pause after a failure of the worker; doubles up to [`PAUSE_MAX_MS`].
const PAUSE_MS: u64 = 5_000;
/// Longest pause.
const PAUSE_MAX_MS: u64 = 600_000;
/// Longest wait for the mempool's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A claim or decline that is in no block after this long is given up, and the turn may be taken again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Claims and declines expire after this long, block time.
const TX_LIFE_MS: u64 = 600_000;

/// Messages.
#[derive(Debug)]
pub(crate) enum ProverMsg {
    /// It may be this node's turn: prove, unless busy.
    Turn(Box<Turn>),
    /// These tasks are no longer open for this prover; stop work on any other.
    Keep {
        /// Turns that are still worth their work.
        open: Vec<(JobId, u32)>,
    },
    /// The proof in work ended.
    Ended(Box<Ending>),
    /// The claim is on its way into a block; free for the next.
    Settled,
}

/// A turn to prove.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    /// The job.
    pub(crate) job: JobId,
    /// Attempt.
    pub(crate) attempt: u32,
    /// What the proof must say.
    pub(crate) statement: Statement,
    /// The job's specification.
    pub(crate) spec: JobSpec,
}

/// How a proof ended.
#[derive(Debug)]
pub(crate) struct Ending {
    turn: Turn,
    result: Result<Claim, Failure>,
}

#[derive(Debug)]
enum Failure {
    Decline { reason: DeclineReason, detail: String, pause: bool },
    Abandoned,
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Prover;

/// What it is started with.
#[derive(Clone, Debug)]
pub(crate) struct ProverArgs {
    /// Where everything is.
    pub(crate) wiring: Wiring,
    /// Signs claims.
    pub(crate) key: SecretKey,
    /// How the worker is bounded.
    pub(crate) worker: WorkerConfig,
    /// Memory the worker may use, bytes.
    pub(crate) memory_bytes: u64,
    /// What others see of it.
    pub(crate) status: Arc<watch::Sender<ProverStatusView>>,
}

/// Its state.
pub(crate) struct ProverState {
    args: ProverArgs,
    worker: Worker,
    /// Dropped, it ends, and the worker's child with it.
    work: Option<(JobId, u32, Task)>,
    pause_until: TimeMs,
    pause_ms: u64,
}

impl std::fmt::Debug for ProverState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProverState({:?})", self.work.as_ref().map(|(job, attempt, _)| (job, attempt)))
    }
}

impl Actor for Prover {
    type Msg = Letter<ProverMsg>;
    type State = ProverState;
    type Arguments = ProverArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: ProverArgs,
    ) -> Result<ProverState, ActorProcessingErr> {
        let worker = Worker::new(args.worker.clone());
        args.wiring.mail.prover.attach(myself);
        publish(&args, "idle", "no task is open for this prover".into(), None, None, worker.pid());
        Ok(ProverState { args, worker, work: None, pause_until: TimeMs(0), pause_ms: PAUSE_MS })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut ProverState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            ProverMsg::Turn(turn) => begin(state, *turn),
            ProverMsg::Keep { open } => {
                if let Some((job, attempt, _)) = &state.work
                    && !open.contains(&(*job, *attempt))
                {
                    tracing::debug!(%job, attempt, "task is no longer open here");
                    free(state, "no task is open for this prover".into());
                }
            }
            ProverMsg::Ended(ending) => settle(state, *ending),
            ProverMsg::Settled => free(state, "no task is open for this prover".into()),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut ProverState) -> Result<(), ActorProcessingErr> {
        state.work = None;
        Ok(())
    }
}

fn publish(
    args: &ProverArgs,
    state: &str,
    reason: String,
    job: Option<JobId>,
    progress: Option<ProgressView>,
    pid: Option<u32>,
) {
    args.status.send_replace(ProverStatusView { state: state.into(), reason, worker_pid: pid, job_id: job, progress });
}

fn free(state: &mut ProverState, reason: String) {
    state.work = None;
    publish(&state.args, "idle", reason, None, None, state.worker.pid());
}

fn begin(state: &mut ProverState, turn: Turn) {
    if state.work.is_some() {
        return;
    }
    let now = wall_clock();
    if now < state.pause_until {
        return;
    }
    tracing::info!(job = %turn.job, attempt = turn.attempt, "our turn: proving");
    let (args, worker) = (state.args.clone(), state.worker.clone());
    let (job, attempt) = (turn.job, turn.attempt);
    publish(&args, "proving", format!("job {job}, attempt {attempt}"), Some(job), None, worker.pid());
    let task = Task::spawn(async move {
        let result = prove(&args, &worker, &turn).await;
        let _closed = args.wiring.mail.prover.send_owed(ProverMsg::Ended(Box::new(Ending { turn, result })));
    });
    state.work = Some((job, attempt, task));
}

async fn prove(args: &ProverArgs, worker: &Worker, turn: &Turn) -> Result<Claim, Failure> {
    let input =
        |e: blobs::BlobError| Failure::Decline { reason: DeclineReason::Input, detail: e.to_string(), pause: false };
    let program = blobs::ensure(&args.wiring, turn.spec.program, None, FETCH_LIMIT).await.map_err(input)?;
    let arguments = match turn.spec.args {
        Some(blob) => Some(blobs::ensure(&args.wiring, blob, None, FETCH_LIMIT).await.map_err(input)?),
        None => None,
    };
    let request = ProveRequest {
        statement: turn.statement.clone(),
        prover: args.key.public(),
        program,
        args: arguments,
        max_steps: turn.spec.max_steps,
        memory_limit: Some(args.memory_bytes),
    };
    let started = std::time::Instant::now();
    let job = worker.prove(request, PROVE_LIMIT).await.map_err(of_worker)?;
    match follow(args, worker, turn, job).await {
        Ok(proven) => {
            args.wiring.metrics.prove_seconds.observe(started.elapsed().as_secs_f64());
            let (bytes, steps) = (proven.blob.len() as u64, proven.steps);
            let hash = keep(args, turn, proven).await?;
            tracing::info!(job = %turn.job, %hash, bytes, steps, seconds = started.elapsed().as_secs_f64(), "proved");
            Ok(Claim::Proof { hash, bytes, steps })
        }
        Err(JobError::Failed { reason, detail, steps }) => {
            tracing::info!(job = %turn.job, ?reason, %detail, steps, "the program fails; reporting it");
            Ok(Claim::Failure { reason, steps })
        }
        Err(error) => Err(of_worker(error)),
    }
}

/// Follows the worker's stages until the end.
async fn follow(args: &ProverArgs, worker: &Worker, turn: &Turn, mut job: Job) -> Result<Proven, JobError> {
    while let Some(event) = job.next().await {
        match event {
            WorkerEvent::Stage(stage) => {
                let progress = ProgressView {
                    stage: stage.name().into(),
                    permille: u32::from(stage.percent_before()).saturating_mul(10),
                };
                let reason = format!("job {}, attempt {}, {}", turn.job, turn.attempt, stage.name());
                publish(args, "proving", reason, Some(turn.job), Some(progress), worker.pid());
                scheduler::announce_job(&args.wiring, &args.wiring.view(), &turn.job);
            }
            WorkerEvent::Done(result) => return *result,
        }
    }
    Err(JobError::Cancelled)
}

/// Stores the proof where peers can fetch it, before it is committed.
async fn keep(args: &ProverArgs, turn: &Turn, proven: Proven) -> Result<BlobHash, Failure> {
    let failed = |detail: String| Failure::Decline { reason: DeclineReason::Busy, detail, pause: true };
    let hash = blob_hash(&proven.blob);
    let (store, job) = (args.wiring.blobs.clone(), turn.job);
    let stored = tokio::task::spawn_blocking(move || {
        // Referred to first: then it does not share the room of uploads that no job needs yet.
        store.refer(job, &[hash])?;
        store.put(&proven.blob, wall_clock()).map(|_| ())
    })
    .await;
    match stored {
        Ok(Ok(())) => Ok(hash),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn of_worker(error: JobError) -> Failure {
    let (reason, pause) = match &error {
        JobError::Memory { .. } | JobError::Resources { .. } => (DeclineReason::Memory, false),
        JobError::Input { .. } => (DeclineReason::Input, false),
        JobError::Unprovable { .. } => (DeclineReason::Unprovable, false),
        JobError::Cancelled => return Failure::Abandoned,
        _ => (DeclineReason::Worker, true),
    };
    Failure::Decline { reason, detail: error.to_string(), pause }
}

fn settle(state: &mut ProverState, ending: Ending) {
    let Ending { turn, result } = ending;
    if state.work.as_ref().is_none_or(|(job, attempt, _)| (*job, *attempt) != (turn.job, turn.attempt)) {
        return;
    }
    let (job, task, attempt) = (turn.job, turn.statement.task, turn.attempt);
    let action = match result {
        Ok(claim) => {
            state.pause_ms = PAUSE_MS;
            Action::CommitClaim { job, task, attempt, claim }
        }
        Err(Failure::Decline { reason, detail, pause }) => {
            tracing::warn!(%job, attempt, ?reason, %detail, "declined");
            if pause {
                state.pause_until = wall_clock().plus(state.pause_ms);
                state.pause_ms = state.pause_ms.saturating_mul(2).min(PAUSE_MAX_MS);
            }
            Action::Decline { job, task, attempt, reason }
        }
        Err(Failure::Abandoned) => {
            free(state, "the last proof was abandoned".into());
            return;
        }
    };
    let args = state.args.clone();
    let pid = state.worker.pid();
    publish(&args, "proving", format!("job {job}: waiting for the claim to be in a block"), Some(job), None, pid);
    let handle = Task::spawn(async move {
        if submit(&args, action).await {
            // The block with it ends this wait (see `Keep`); until then the task must not look like a new turn.
            tokio::time::sleep(SETTLE_LIMIT).await;
        }
        let _closed = args.wiring.mail.prover.send_owed(ProverMsg::Settled);
    });
    state.work = Some((job, attempt, handle));
}

/// Hands an own action to the mempool, which signs it with the next free nonce. Whether it was taken.
async fn submit(args: &ProverArgs, action: Action) -> bool {
    let (reply, done) = oneshot::channel();
    let expires_ms = args.wiring.view().head.time_ms.plus(TX_LIFE_MS);
    let message = MempoolMsg::Sign { action: Box::new(action), key: Box::new(args.key.clone()), expires_ms, reply };
    if args.wiring.mail.mempool.send(message) != Sent::Accepted {
        tracing::warn!("mempool is full: the turn is lost");
        return false;
    }
    match tokio::time::timeout(ANSWER_LIMIT, done).await.unwrap_or(Ok(Err(ApiError::new("late", "no answer in time"))))
    {
        Ok(Ok(id)) => {
            tracing::debug!(tx = %id, "claim or decline submitted");
            true
        }
        Ok(Err(error)) => {
            tracing::info!(%error, "claim or decline refused");
            false
        }
        Err(_) => {
            tracing::warn!("mempool restarted: the turn is lost");
            false
        }
    }
}
