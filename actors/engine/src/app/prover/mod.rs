//! This node's own proofs: one at a time on each place that it has (devices, or the processor), in sandboxed worker
//! processes, from assignment to committed claim.
//!
//! Inbox: 64 messages; a turn that is not taken here comes again with the next block. A device that fails costs nothing: the
//! processor makes the proof in the same attempt. The processor's worker that crashes, hangs or runs out of memory costs one
//! attempt: the turn is declined with the reason, and this prover backs off. Restart: the workers' children die with the
//! actor; the scheduler offers the turns again.

mod board;
mod work;

use std::sync::Arc;
use std::time::Duration;

use prover::fleet::{Fleet, FleetConfig};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use types::ids::{JobId, TimeMs};
use types::job::JobSpec;
use types::keys::SecretKey;
use types::statement::Statement;
use types::transaction::{Action, DeclineReason};
use types::verdict::Claim;

use self::board::Board;
use self::work::Work;
use crate::api::ApiError;
use crate::api::views::ProverStatusView;
use crate::app::blobs;
use crate::app::mempool::MempoolMsg;
use crate::mailbox::{Letter, Sent};
use crate::task::Task;
use crate::wiring::{Wiring, wall_clock};

/// Tasks in work at once, those included whose claim waits for its block.
const TASKS_MAX: usize = 64;
/// First pause after a failure of the worker; doubles up to [`PAUSE_MAX_MS`].
const PAUSE_MS: u64 = 5_000;
/// Longest pause.
const PAUSE_MAX_MS: u64 = 600_000;
/// Longest wait for the mempool's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A claim or decline that is in no block after this long is given up, and the turn may be taken again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Claims kept for a later attempt.
const MADE_MAX: usize = 16;
/// Claims and declines expire after this long, block time.
const TX_LIFE_MS: u64 = 600_000;

/// Messages.
#[derive(Debug)]
pub(crate) enum ProverMsg {
    /// It may be this node's turn: prove, unless all places are taken.
    Turn(Box<Turn>),
    /// These tasks are no longer open for this prover; stop work on any other.
    Keep {
        /// Turns that are still worth their work.
        open: Vec<(JobId, u32)>,
    },
    /// The proof in work ended.
    Ended(Box<Ending>),
    /// Look for devices that have come or gone.
    Look,
    /// The claim should be in a block by now: out of work.
    Settled {
        /// The job.
        job: JobId,
        /// Attempt.
        attempt: u32,
    },
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
    /// Where proofs may be made, and how the workers are bounded.
    pub(crate) fleet: FleetConfig,
    /// Memory a worker may use, bytes.
    pub(crate) memory_bytes: u64,
    /// What others see of it.
    pub(crate) status: Arc<watch::Sender<ProverStatusView>>,
}

/// Its state.
pub(crate) struct ProverState {
    args: ProverArgs,
    fleet: Fleet,
    board: Board,
    /// Follows the places for the board.
    _follower: Task,
    works: Vec<InWork>,
    /// The last claims made here, the oldest first. A proof is as good in a later attempt: when votes were late, or when
    /// somebody else's claim came into the block first, it is committed again instead of being made again.
    made: Vec<(JobId, Claim)>,
    pause_until: TimeMs,
    pause_ms: u64,
}

/// A task in work, from its turn until its claim or decline is in a block.
struct InWork {
    job: JobId,
    attempt: u32,
    /// Dropped, the work ends, and a proof's child with it.
    _task: Task,
}

impl std::fmt::Debug for ProverState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProverState({:?})", self.works.iter().map(|w| (w.job, w.attempt)).collect::<Vec<_>>())
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
        let fleet = Fleet::new(args.fleet.clone());
        args.wiring.mail.prover.attach(myself);
        let board = Board::new(fleet.clone(), Arc::clone(&args.wiring.metrics), Arc::clone(&args.status));
        let follower = Task::spawn(board.clone().follow());
        Ok(ProverState {
            args,
            fleet,
            board,
            _follower: follower,
            works: Vec::new(),
            made: Vec::new(),
            pause_until: TimeMs(0),
            pause_ms: PAUSE_MS,
        })
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
                let closed = state.works.iter().map(|w| (w.job, w.attempt)).filter(|task| !open.contains(task));
                for (job, attempt) in closed.collect::<Vec<_>>() {
                    tracing::debug!(%job, attempt, "task is no longer open here");
                    free(state, job, attempt, None);
                }
            }
            ProverMsg::Ended(ending) => settle(state, *ending),
            ProverMsg::Look => {
                if !state.fleet.look_now() {
                    tracing::info!("prover.backend is cpu: no devices are looked for");
                }
            }
            ProverMsg::Settled { job, attempt } => free(state, job, attempt, None),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut ProverState) -> Result<(), ActorProcessingErr> {
        state.works.clear();
        Ok(())
    }
}

/// Ends the work on a task; `idle` says why nothing is done now, if there is a reason of its own.
fn free(state: &mut ProverState, job: JobId, attempt: u32, idle: Option<&str>) {
    state.works.retain(|w| (w.job, w.attempt) != (job, attempt));
    state.board.end(job, attempt, idle);
}

fn begin(state: &mut ProverState, turn: Turn) {
    let now = wall_clock();
    if now < state.pause_until || state.works.len() >= TASKS_MAX || state.works.iter().any(|w| w.job == turn.job) {
        return;
    }
    let (job, attempt) = (turn.job, turn.attempt);
    let made = state.made.iter().find(|(known, claim)| *known == job && is_kept(&state.args, claim)).cloned();
    let seat = if made.is_none() { state.fleet.take() } else { None };
    if made.is_none() && seat.is_none() {
        return;
    }
    let place = seat.as_ref().map(|seat| seat.place().clone());
    let device = place.as_ref().and_then(|place| place.device()).unwrap_or_default();
    tracing::info!(%job, attempt, again = made.is_some(), device, "our turn: proving");
    state.board.begin(job, attempt, "starting", place.as_ref());
    let args = &state.args;
    let work = Work {
        wiring: args.wiring.clone(),
        key: args.key.clone(),
        memory_bytes: args.memory_bytes,
        board: state.board.clone(),
    };
    let task = Task::spawn(async move {
        let result = match (made, seat) {
            (Some((_, claim)), _) => Ok(claim),
            (None, Some(seat)) => work.prove(seat, &turn).await,
            (None, None) => Err(Failure::Abandoned),
        };
        let _closed = work.wiring.mail.prover.send_owed(ProverMsg::Ended(Box::new(Ending { turn, result })));
    });
    state.works.push(InWork { job, attempt, _task: task });
}

/// Whether what the claim needs is still here.
fn is_kept(args: &ProverArgs, claim: &Claim) -> bool {
    match claim {
        Claim::Proof { hash, .. } => blobs::is_here(&args.wiring.blobs, hash),
        Claim::Failure { .. } => true,
    }
}

fn settle(state: &mut ProverState, ending: Ending) {
    let Ending { turn, result } = ending;
    let (job, task, attempt) = (turn.job, turn.statement.task, turn.attempt);
    if !state.works.iter().any(|w| (w.job, w.attempt) == (job, attempt)) {
        return;
    }
    let action = match result {
        Ok(claim) => {
            state.pause_ms = PAUSE_MS;
            state.made.retain(|(known, _)| *known != job);
            state.made.push((job, claim.clone()));
            if state.made.len() > MADE_MAX {
                state.made.remove(0);
            }
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
            free(state, job, attempt, Some("the last proof was abandoned"));
            return;
        }
    };
    state.board.begin(job, attempt, "waiting for the claim to be in a block", None);
    let args = state.args.clone();
    let handle = Task::spawn(async move {
        if submit(&args, action).await {
            // The block with it ends this wait (see `Keep`); until then the task must not look like a new turn.
            tokio::time::sleep(SETTLE_LIMIT).await;
        }
        let _closed = args.wiring.mail.prover.send_owed(ProverMsg::Settled { job, attempt });
    });
    state.works.retain(|w| (w.job, w.attempt) != (job, attempt));
    state.works.push(InWork { job, attempt, _task: handle });
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
