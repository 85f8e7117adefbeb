//! Follows decided blocks: offers this node's turns to its prover, claims in voting to its verifier, and keeps the blobs of
//! live and certified jobs here.
//!
//! Decides nothing: who may prove is [`ledger::assign`]'s answer, the same on every node. Inbox: one notice a block. Restart:
//! the next block brings everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use network::PeerId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::Store;
use types::ids::{BlobHash, Height, JobId, TimeMs};
use types::job::JobStatus;
use types::keys::PublicKey;
use types::verdict::Claim;

use crate::api::views::Event;
use crate::app::blobs;
use crate::app::prover::{ProverMsg, Turn};
use crate::app::verifier::{ClaimToCheck, VerifierMsg};
use crate::mailbox::Letter;
use crate::reads::{self, TaskRecord, TaskState};
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Time to bring a blob of a job here; a failure is tried again with the next block that touches the job.
const KEEP_LIMIT: Duration = Duration::from_secs(120);
/// Blobs being brought here at once.
const KEEPING_MAX: usize = 64;
/// Blocks between two sweeps of blobs whose retention ended.
const SWEEP_BLOCKS: u64 = 64;

/// Messages.
#[derive(Debug)]
pub(crate) enum SchedulerMsg {
    /// A block was applied.
    Head {
        /// The chain after it.
        view: Arc<ChainView>,
        /// Jobs that it changed.
        changed: Vec<JobId>,
    },
    /// A blob is here, or was given up.
    Kept {
        /// The blob.
        hash: BlobHash,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Scheduler;

/// Its state.
#[derive(Debug)]
pub(crate) struct SchedulerState {
    wiring: Wiring,
    /// Claims handed to the verifier, so that each is checked once while this actor runs.
    handed: BTreeSet<(Height, JobId, u32)>,
    keeping: BTreeSet<BlobHash>,
}

impl Actor for Scheduler {
    type Msg = Letter<SchedulerMsg>;
    type State = SchedulerState;
    type Arguments = Wiring;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        wiring: Wiring,
    ) -> Result<SchedulerState, ActorProcessingErr> {
        wiring.mail.scheduler.attach(myself);
        let view = wiring.view();
        let mut state = SchedulerState { wiring, handed: BTreeSet::new(), keeping: BTreeSet::new() };
        follow(&mut state, &view)?;
        keep_all(&mut state, &view)?;
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut SchedulerState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            SchedulerMsg::Head { view, changed } => {
                // A later notice is waiting or being applied: this one still names changed jobs.
                let now = state.wiring.view();
                for job in &changed {
                    announce_job(&state.wiring, &now, job);
                    keep_job(state, &now, job)?;
                }
                if view.head.height == now.head.height {
                    follow(state, &now)?;
                }
                if view.head.height.0.is_multiple_of(SWEEP_BLOCKS) {
                    sweep(state, &now)?;
                }
            }
            SchedulerMsg::Kept { hash } => {
                state.keeping.remove(&hash);
            }
        }
        Ok(())
    }
}

/// Publishes a job's present view to readers.
pub(crate) fn announce_job(wiring: &Wiring, view: &ChainView, job: &JobId) {
    match reads::job_view(wiring, view, job) {
        Ok(Some(job)) => {
            // A full ring loses the event; readers see the gap.
            let _full = wiring.mail.events.send(Event::Job(Box::new(job)));
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%job, %error, "job can't be read"),
    }
}

fn follow(state: &mut SchedulerState, view: &Arc<ChainView>) -> Result<(), ActorProcessingErr> {
    let mut open = Vec::new();
    let mut turns: BTreeMap<TimeMs, Turn> = BTreeMap::new();
    let mut live = BTreeSet::new();
    for job in reads::live_jobs(view)? {
        let (Some(record), Some(task)) = (reads::job(view, &job)?, reads::task(view, &job)?) else { continue };
        match &task.state {
            TaskState::Open => {
                if let Some(turn) = own_turn(state, view, &job, &record, &task)? {
                    open.push((job, task.attempt));
                    turns.entry(record.submitted_ms).or_insert(turn);
                }
            }
            TaskState::Voting(commit) => {
                live.insert((commit.height, job, task.attempt));
                hand_to_verifier(state, view, &job, &record, &task)?;
            }
            _ => {}
        }
    }
    state.handed.retain(|slot| live.contains(slot));
    if state.wiring.prover.is_some() {
        let _closed = state.wiring.mail.prover.send_owed(ProverMsg::Keep { open });
        // The oldest job first; the prover takes it if it is free.
        if let Some((_, turn)) = turns.pop_first() {
            let _full = state.wiring.mail.prover.send(ProverMsg::Turn(Box::new(turn)));
        }
    }
    state.wiring.metrics.jobs_pending.set(i64::try_from(reads::live_jobs(view)?.len()).unwrap_or(i64::MAX));
    Ok(())
}

/// This node's turn at an open task, if it is.
fn own_turn(
    state: &SchedulerState,
    view: &ChainView,
    job: &JobId,
    record: &reads::JobRecord,
    task: &TaskRecord,
) -> Result<Option<Turn>, ActorProcessingErr> {
    let Some(me) = state.wiring.prover else { return Ok(None) };
    let Some(assignment) = ledger::assign(&view.state, job, 0)? else { return Ok(None) };
    if !assignment.may_prove(&me, view.head.time_ms) {
        return Ok(None);
    }
    let statement = reads::statement(&state.wiring, job, record);
    Ok(Some(Turn { job: *job, attempt: task.attempt, statement, spec: record.spec.clone() }))
}

fn hand_to_verifier(
    state: &mut SchedulerState,
    view: &ChainView,
    job: &JobId,
    record: &reads::JobRecord,
    task: &TaskRecord,
) -> Result<(), ActorProcessingErr> {
    let TaskState::Voting(commit) = &task.state else { return Ok(()) };
    let set = ledger::validator_set(&view.state, commit.height)?;
    let votes = state.wiring.validator.is_some_and(|key| set.is_some_and(|s| s.power_of(&key).is_some()));
    if !votes || !state.handed.insert((commit.height, *job, task.attempt)) {
        return Ok(());
    }
    let statement = reads::statement(&state.wiring, job, record);
    let Some(subject) = ledger::query::vote_subject(&view.state, job, 0)? else { return Ok(()) };
    let claim = ClaimToCheck {
        subject,
        hint: peer_of(state, &commit.prover),
        statement,
        spec: record.spec.clone(),
        voting_ms: view.params.voting_ms,
    };
    let sent = state.wiring.mail.verifier.send(VerifierMsg::Check(Box::new(claim)));
    if sent != crate::mailbox::Sent::Accepted {
        state.handed.remove(&(commit.height, *job, task.attempt));
    }
    Ok(())
}

/// The connected peer that announced a prover key.
fn peer_of(state: &SchedulerState, prover: &PublicKey) -> Option<PeerId> {
    let net = state.wiring.net.get()?;
    net.peers().into_iter().find(|p| p.prover == Some(*prover)).map(|p| p.peer_id)
}

/// Keeps what a job needs: its input while it lives, its proof once it is certified, both for the retention time.
fn keep_job(state: &mut SchedulerState, view: &ChainView, job: &JobId) -> Result<(), ActorProcessingErr> {
    let (Some(record), Some(task)) = (reads::job(view, job)?, reads::task(view, job)?) else {
        // The ledger has dropped the job: its retention is over.
        state.wiring.blobs.release(*job, view.head.time_ms)?;
        state.wiring.store.drop_verdicts(job)?;
        return Ok(());
    };
    let until = reads::retained_until(view, &record);
    if until.is_some_and(|until| until <= view.head.time_ms) {
        state.wiring.blobs.release(*job, view.head.time_ms)?;
        return Ok(());
    }
    let mut wanted = vec![(record.spec.program.hash, None)];
    wanted.extend(record.spec.args.map(|a| (a.hash, None)));
    let inputs = wanted.len();
    if let TaskState::Voting(commit) = &task.state
        && let Claim::Proof { hash, .. } = &commit.claim
    {
        wanted.push((*hash, peer_of(state, &commit.prover)));
    }
    if let TaskState::Certified(commit) = &task.state
        && let Claim::Proof { hash, .. } = &commit.claim
    {
        wanted.push((*hash, peer_of(state, &commit.prover)));
    }
    let hashes: Vec<BlobHash> = wanted.iter().map(|(hash, _)| *hash).collect();
    state.wiring.blobs.refer(*job, &hashes)?;
    if let Some(until) = until {
        state.wiring.blobs.release(*job, until)?;
    }
    // A job that has ended needs its proof to be served, its input no more.
    let skip = if record.status == JobStatus::Running { 0 } else { inputs };
    for (hash, hint) in wanted.into_iter().skip(skip) {
        if state.keeping.len() < KEEPING_MAX
            && !blobs::is_here(&state.wiring.blobs, &hash)
            && state.keeping.insert(hash)
        {
            bring(state.wiring.clone(), *job, hash, hint);
        }
    }
    Ok(())
}

fn bring(wiring: Wiring, job: JobId, hash: BlobHash, hint: Option<PeerId>) {
    tokio::spawn(async move {
        match blobs::ensure(&wiring, hash, hint, KEEP_LIMIT).await {
            // The receipt may be ready now.
            Ok(_) => announce_job(&wiring, &wiring.view(), &job),
            Err(error) => tracing::warn!(%job, %error, "blob of a job is not here yet"),
        }
        let _closed = wiring.mail.scheduler.send_owed(SchedulerMsg::Kept { hash });
    });
}

fn sweep(state: &mut SchedulerState, view: &ChainView) -> Result<(), ActorProcessingErr> {
    let (store, block_time) = (state.wiring.blobs.clone(), view.head.time_ms);
    tokio::task::spawn_blocking(move || match store.sweep(wall_clock(), block_time) {
        Ok(report) => tracing::debug!(?report, "blobs swept"),
        Err(error) => tracing::warn!(%error, "blobs can't be swept"),
    });
    keep_all(state, view)
}

/// Live jobs, and ended ones whose blobs are still kept here.
fn keep_all(state: &mut SchedulerState, view: &ChainView) -> Result<(), ActorProcessingErr> {
    let mut jobs: BTreeSet<JobId> = reads::live_jobs(view)?.into_iter().collect();
    jobs.extend(state.wiring.blobs.referring_jobs().into_iter().map(|(job, _)| job));
    for job in jobs {
        keep_job(state, view, &job)?;
    }
    Ok(())
}
