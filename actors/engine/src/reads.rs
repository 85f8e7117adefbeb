//! Reads of the applied chain as the actors and the API need them: ledger records joined with what this node holds.

use ledger::query;
use ledger::state::records::JobError;
pub(crate) use ledger::state::records::{JobRecord, TaskRecord, TaskState};
use ledger::{Event, Executed, StateError};
use storage::blobs::BlobStatus;
use storage::{StorageError, StoreRead};
use thiserror::Error;
use types::ids::{Amount, BlobHash, Height, JobId, TimeMs};
use types::job::JobStatus;
use types::limits::SET_CHANGES_MAX;
use types::receipt::Receipt;
use types::statement::Statement;
use types::transaction::DeclineReason;
use types::verdict::{Claim, Outcome, ProofCertificate, VoteSubject};

use crate::api::views::{HeadView, JobView, RejectionView, TaskView, declined_text, failure_text};
use crate::wiring::{ChainView, Wiring};

/// Why a read failed.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// The ledger's records.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why there is no receipt.
#[derive(Debug, Error)]
pub(crate) enum NoReceipt {
    /// No such job in the ledger.
    #[error("job {0} is not in the ledger")]
    UnknownJob(JobId),
    /// Not certified (yet).
    #[error("job {0} has no certified proof")]
    NotCertified(JobId),
    /// Certified, but the proof's bytes are not here yet.
    #[error("the proof of job {0} is certified, but its bytes have not reached this node yet")]
    NotHere(JobId),
    /// The retention time is over.
    #[error("the proof of job {0} was pruned after its retention time")]
    Pruned(JobId),
    /// More changes of the validator set since the height than a receipt holds.
    #[error(
        "the validator set changed more than {SET_CHANGES_MAX} times between height {since} and the job's; name a later \
         height of a change that you trust as `since`, and its block to `verify --checkpoint`"
    )]
    TooManySets {
        /// The height named.
        since: Height,
    },
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Jobs that are not terminal.
///
/// # Errors
/// [`StateError`].
pub(crate) fn live_jobs(view: &ChainView) -> Result<Vec<JobId>, StateError> {
    query::live_jobs(&view.state)
}

/// A job's record.
///
/// # Errors
/// [`StateError`].
pub(crate) fn job(view: &ChainView, job: &JobId) -> Result<Option<JobRecord>, StateError> {
    ledger::state::job(&view.state, job)
}

/// A job's task: jobs of this version have one.
///
/// # Errors
/// [`StateError`].
pub(crate) fn task(view: &ChainView, job: &JobId) -> Result<Option<TaskRecord>, StateError> {
    ledger::state::task(&view.state, job, 0)
}

/// Claims in voting.
///
/// # Errors
/// [`StateError`].
pub(crate) fn voting_subjects(view: &ChainView) -> Result<Vec<VoteSubject>, StateError> {
    query::in_voting(&view.state)
}

/// Whether exactly this claim is in voting.
///
/// # Errors
/// [`StateError`].
pub(crate) fn open_subject(view: &ChainView, subject: &VoteSubject) -> Result<bool, StateError> {
    let in_voting = matches!(ledger::state::task(&view.state, &subject.job, subject.task)?, Some(t) if matches!(t.state, TaskState::Voting(_)));
    Ok(in_voting && query::vote_subject(&view.state, &subject.job, subject.task)?.as_ref() == Some(subject))
}

/// What a job's proof must say.
pub(crate) fn statement(wiring: &Wiring, job: &JobId, record: &JobRecord) -> Statement {
    Statement::of_job(wiring.genesis_hash, *job, 0, &record.spec)
}

/// Jobs that a block changed, each once.
pub(crate) fn changed_jobs(executed: &Executed) -> Vec<JobId> {
    let mut jobs: Vec<JobId> = executed.events.iter().filter_map(job_of).collect();
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

fn job_of(event: &Event) -> Option<JobId> {
    match event {
        Event::JobSubmitted { job, .. }
        | Event::JobRepeated { job, .. }
        | Event::TaskAssigned { job, .. }
        | Event::TaskDeclined { job, .. }
        | Event::LeaseLapsed { job, .. }
        | Event::ClaimRejected { job, .. }
        | Event::AttemptVoided { job, .. }
        | Event::ClaimCertified { job, .. }
        | Event::JobEnded { job, .. }
        | Event::JobPruned { job, .. } => Some(*job),
        Event::ClaimCommitted { subject } => Some(subject.job),
        Event::Transferred { .. }
        | Event::ProverChanged { .. }
        | Event::ValidatorsChanged { .. }
        | Event::Slashed { .. } => None,
    }
}

/// Whether a block certified this claim.
pub(crate) fn certified_in(executed: &Executed, subject: &VoteSubject) -> bool {
    executed.events.iter().any(|event| {
        matches!(event, Event::ClaimCertified { job, task, attempt, .. }
            if (*job, *task, *attempt) == (subject.job, subject.task, subject.attempt))
    })
}

/// The last block for readers.
pub(crate) fn head_view(wiring: &Wiring, view: &ChainView) -> HeadView {
    HeadView {
        chain_id: wiring.genesis.chain_id.clone(),
        genesis_hash: wiring.genesis_hash,
        height: view.head.height,
        hash: view.head.id,
        state_root: view.root,
        time_ms: view.head.time_ms,
    }
}

/// A job for readers.
///
/// # Errors
/// [`ReadError`].
pub(crate) fn job_view(wiring: &Wiring, view: &ChainView, id: &JobId) -> Result<Option<JobView>, ReadError> {
    let Some(job) = query::job(&view.state, id)? else { return Ok(None) };
    let own = wiring.prover_status.borrow().clone();
    let tasks = job.tasks.iter().map(|t| TaskView {
        index: t.index,
        kind: t.kind,
        state: t.state.into(),
        attempt: t.attempt,
        prover: t.prover,
        rank: t.rank,
        deadline_ms: t.deadline_ms,
        proof_hash: t.proof_hash,
        progress: own.running.iter().find(|line| line.job_id == *id).and_then(|line| line.progress.clone()),
        rejections: t
            .rejections
            .iter()
            .map(|r| RejectionView { attempt: r.attempt, prover: r.prover, check: r.check })
            .collect(),
    });
    let error = match job.error.as_ref() {
        Some(JobError::ProgramFailed { reason, steps }) => Some(failure_text(*reason, *steps)),
        Some(JobError::AttemptsUsedUp { attempts }) => {
            let why = unproved_text(task(view, id)?.as_ref());
            Some(format!(
                "{attempts} attempts were declined by every prover, or voided for a prover's second time; {why}"
            ))
        }
        None if job.status == JobStatus::Expired => {
            let why = unproved_text(task(view, id)?.as_ref());
            Some(format!("the deadline passed before a proof was certified; {why}"))
        }
        None => None,
    };
    Ok(Some(JobView {
        job_id: *id,
        status: job.status,
        stage: job.stage,
        sender: job.sender,
        submitted_height: job.submitted_height,
        submitted_ms: job.submitted_ms,
        deadline_ms: job.deadline_ms,
        fee: job.fee,
        escrow: if job.status.is_terminal() { Amount::ZERO } else { job.max_fee },
        tasks: tasks.collect(),
        error,
        receipt_ready: receipt_parts(wiring, view, id).is_ok(),
    }))
}

/// What kept a task from being proved, by its record at the end.
fn unproved_text(task: Option<&TaskRecord>) -> String {
    let Some(task) = task else { return "nothing is known of its task any more".into() };
    let count = |reason: DeclineReason| task.declines.values().filter(|other| **other == reason).count();
    if let Some(reason) = task.declines.values().copied().max_by_key(|reason| count(*reason)) {
        return declined_text(count(reason), reason);
    }
    match task.rejections.last() {
        Some(last) => match last.check {
            Some(check) => {
                format!(
                    "{} proofs got no certificate, the last was voted down by the check {check}",
                    task.rejections.len()
                )
            }
            None => format!("{} proofs got no certificate, the last for want of votes in time", task.rejections.len()),
        },
        None => {
            "no prover committed a proof in time; compare its step limit with those of proofmesh prover list".into()
        }
    }
}

/// The certificate and the proof's hash, when both the certificate and the bytes are here.
fn receipt_parts(wiring: &Wiring, view: &ChainView, id: &JobId) -> Result<(ProofCertificate, BlobHash), NoReceipt> {
    let read = |e: StorageError| NoReceipt::Read(e.into());
    let Some(record) = job(view, id).map_err(ReadError::from)? else { return Err(NoReceipt::UnknownJob(*id)) };
    let found = wiring.store.certificate(id, 0).map_err(read)?;
    let certificate = found.ok_or(NoReceipt::NotCertified(*id))?;
    let set = ledger::validator_set(&view.state, certificate.subject.height).map_err(ReadError::from)?;
    // The store also keeps certificates that reject; only a certified proof makes a receipt. In a block's commit it was
    // checked; one assembled here is checked the first time it is asked for.
    let certified = match set {
        Some(set) => wiring.outcomes.of(&certificate, &set) == Some(Outcome::Certified),
        None => record.status == JobStatus::Completed,
    };
    let Claim::Proof { hash, .. } = &certificate.subject.claim else { return Err(NoReceipt::NotCertified(*id)) };
    if !certified {
        return Err(NoReceipt::NotCertified(*id));
    }
    let hash = *hash;
    match wiring.blobs.status(&hash) {
        BlobStatus::Held { .. } => Ok((certificate, hash)),
        BlobStatus::Pruned => Err(NoReceipt::Pruned(*id)),
        BlobStatus::Partial { .. } | BlobStatus::Unknown => Err(NoReceipt::NotHere(*id)),
    }
}

/// Puts a job's receipt together, with the changes of the validator set announced from height `since` on: all of them, for
/// a reader who trusts genesis, or those from a checkpoint.
///
/// # Errors
/// [`NoReceipt`].
pub(crate) fn receipt(wiring: &Wiring, view: &ChainView, id: &JobId, since: Height) -> Result<Receipt, NoReceipt> {
    let (certificate, hash) = receipt_parts(wiring, view, id)?;
    let read = |e: StorageError| NoReceipt::Read(e.into());
    let Some(record) = job(view, id).map_err(ReadError::from)? else { return Err(NoReceipt::UnknownJob(*id)) };
    let proof = wiring.blobs.read(&hash).map_err(read)?.ok_or(NoReceipt::NotHere(*id))?;
    // A header announces the set of the next height: the last that matters is of the height before the votes'.
    let last = certificate.subject.height.prev().unwrap_or(Height(0));
    let set_changes = wiring.store.set_changes(since, last).map_err(read)?;
    if let Some(end) = set_changes.last().filter(|_| set_changes.len() >= SET_CHANGES_MAX) {
        let more = wiring.store.set_changes(end.header.height.next(), last).map_err(read)?;
        if !more.is_empty() {
            return Err(NoReceipt::TooManySets { since });
        }
    }
    Ok(Receipt {
        genesis: wiring.genesis_hash,
        statement: statement(wiring, id, &record),
        proof,
        certificate,
        set_changes,
    })
}

/// When a job's blobs may go, if it has ended.
pub(crate) fn retained_until(view: &ChainView, record: &JobRecord) -> Option<TimeMs> {
    record.ended.map(|ended| ended.plus(view.params.retention_ms))
}
