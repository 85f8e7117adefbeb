//! Follows decided blocks: offers this node's turns to its prover, claims in voting to its verifier, and keeps the blobs of
//! live and certified jobs here.
//!
//! Decides nothing: who may prove is [`ledger::assign`]'s answer, the same on every node. Remembers nothing about claims either:
//! all that are in voting are handed over with every block, so whatever the verifier lost comes again. Inbox: one notice a
//! block. Restart: the next block brings everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use network::PeerId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::Store;
use types::ids::{BlobHash, JobId, TimeMs};
use types::job::{BlobRef, JobStatus};
use types::keys::PublicKey;
use types::verdict::Claim;

use crate::api::views::Event;
use crate::app::blobs;
use crate::app::prover::{ProverMsg, Turn};
use crate::app::verifier::{ClaimToCheck, VerifierMsg};
use crate::mailbox::Letter;
use crate::reads::{self, TaskRecord, TaskState};
use crate::task::Task;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Time to bring a blob of a job here; a failure is tried again with the next block that touches the job.
const KEEP_LIMIT: Duration = Duration::from_secs(120);
/// Blobs being brought here at once.
const KEEPING_MAX: usize = 64;
/// Turns offered to the prover with one block: more than it has places, since its older tasks are offered again.
const TURNS_MAX: usize = 32;
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
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Scheduler;

/// Its state.
#[derive(Debug)]
pub(crate) struct SchedulerState {
    wiring: Wiring,
    /// Blobs being brought here.
    keeping: BTreeMap<BlobHash, Task>,
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
        let mut state = SchedulerState { wiring, keeping: BTreeMap::new() };
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
        let SchedulerMsg::Head { view, changed } = letter.message;
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
    let mut turns: BTreeMap<(TimeMs, JobId), Turn> = BTreeMap::new();
    let mut claims = Vec::new();
    for job in reads::live_jobs(view)? {
        let (Some(record), Some(task)) = (reads::job(view, &job)?, reads::task(view, &job)?) else { continue };
        match &task.state {
            TaskState::Open => {
                if let Some(turn) = own_turn(state, view, &job, &record, &task)? {
                    open.push((job, task.attempt));
                    turns.insert((record.submitted_ms, job), turn);
                }
            }
            TaskState::Voting(_) => claims.extend(claim_to_check(state, view, &job, &record, &task)?),
            _ => {}
        }
    }
    if state.wiring.validator.is_some() {
        // The oldest first: their time for verdicts ends first.
        claims.sort_by_key(|claim| (claim.subject.height, claim.subject.job));
        let _closed = state.wiring.mail.verifier.send_owed(VerifierMsg::Open(claims));
    }
    if state.wiring.prover.is_some() {
        let _closed = state.wiring.mail.prover.send_owed(ProverMsg::Keep { open });
        // The oldest jobs first; the prover takes as many as it has free places.
        for turn in turns.into_values().take(TURNS_MAX) {
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

/// A claim in voting, if this node has a vote on it.
fn claim_to_check(
    state: &SchedulerState,
    view: &ChainView,
    job: &JobId,
    record: &reads::JobRecord,
    task: &TaskRecord,
) -> Result<Option<ClaimToCheck>, ActorProcessingErr> {
    let (TaskState::Voting(commit), Some(own)) = (&task.state, state.wiring.validator) else { return Ok(None) };
    let set = ledger::validator_set(&view.state, commit.height)?;
    if set.is_none_or(|set| set.power_of(&own).is_none()) {
        return Ok(None);
    }
    let Some(subject) = ledger::query::vote_subject(&view.state, job, 0)? else { return Ok(None) };
    Ok(Some(ClaimToCheck {
        subject,
        hint: peer_of(state, &commit.prover),
        statement: reads::statement(&state.wiring, job, record),
        spec: record.spec.clone(),
        voting_ms: view.params.voting_ms,
    }))
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
    let mut wanted = vec![(record.spec.program, None)];
    wanted.extend(record.spec.args.map(|args| (args, None)));
    let inputs = wanted.len();
    if let TaskState::Voting(commit) | TaskState::Certified(commit) = &task.state
        && let Claim::Proof { hash, bytes, .. } = &commit.claim
    {
        wanted.push((BlobRef { hash: *hash, bytes: *bytes }, peer_of(state, &commit.prover)));
    }
    let hashes: Vec<BlobHash> = wanted.iter().map(|(blob, _)| blob.hash).collect();
    state.wiring.blobs.refer(*job, &hashes)?;
    if let Some(until) = until {
        state.wiring.blobs.release(*job, until)?;
    }
    // A job that has ended needs its proof to be served, its input no more.
    let skip = if record.status == JobStatus::Running { 0 } else { inputs };
    state.keeping.retain(|_, task| !task.is_finished());
    for (blob, hint) in wanted.into_iter().skip(skip) {
        if state.keeping.len() < KEEPING_MAX
            && !blobs::is_here(&state.wiring.blobs, &blob.hash)
            && !state.keeping.contains_key(&blob.hash)
        {
            state.keeping.insert(blob.hash, bring(state.wiring.clone(), *job, blob, hint));
        }
    }
    Ok(())
}

fn bring(wiring: Wiring, job: JobId, blob: BlobRef, hint: Option<PeerId>) -> Task {
    Task::spawn(async move {
        match blobs::bring(&wiring, blob, hint, KEEP_LIMIT).await {
            // The receipt may be ready now.
            Ok(()) => announce_job(&wiring, &wiring.view(), &job),
            Err(error) => tracing::warn!(%job, %error, "blob of a job is not here yet"),
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{TestChain, listen, next};

    #[tokio::test]
    async fn every_block_hands_over_every_open_claim() {
        let chain = TestChain::new();
        let (job, height) = chain.claim_in_voting();
        let mut verifier = listen(&chain.wiring.mail.verifier).await;
        let (actor, _) = Actor::spawn(None, Scheduler, chain.wiring.clone()).await.unwrap();
        for _ in 0..3 {
            // What the verifier did with the notice before does not matter.
            let VerifierMsg::Open(claims) = next(&mut verifier).await;
            assert_eq!(claims.len(), 1);
            let subject = &claims[0].subject;
            assert_eq!((subject.job, subject.height, subject.attempt), (job, height, 0));
            let view = chain.block(&[]);
            let sent = chain.wiring.mail.scheduler.send_owed(SchedulerMsg::Head { view, changed: vec![] });
            assert_eq!(sent, crate::mailbox::Sent::Accepted);
        }
        actor.stop(None);
    }
}
