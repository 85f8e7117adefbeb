//! Read models: what RPC and the actors ask the ledger. Amounts are decimal strings, hashes and keys hex, in JSON.

use serde::Serialize;
use types::ids::{Amount, BlobHash, Digest, GenesisHash, Height, JobId, TimeMs};
use types::job::{JobSpec, JobStatus, PROOF_SYSTEM_VERSION, Stage, TaskKind};
use types::keys::PublicKey;
use types::kv::{KvRead, Space};
use types::statement::Statement;
use types::transaction::Action;
use types::transaction::SignedTx;
use types::verdict::{Claim, VoteSubject};

use crate::assign;
use crate::error::StateError;
use crate::execute::content_hash;
use crate::limits::{PAGE_MAX, PAGE_SCAN_MAX, VALIDATOR_RECORDS_MAX};
use crate::money;
use crate::state::records::{
    Account, Commit, Idempotency, JobError, JobRecord, Offence, OffenceKind, Rejection, TaskRecord, TaskState, Uptime,
};
use crate::state::{self, keys};

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// Credits to spend.
    pub balance: Amount,
    /// Nonce of the next transaction.
    pub nonce: u64,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobView {
    /// Its id.
    pub job_id: JobId,
    /// Who pays.
    pub sender: PublicKey,
    /// Status.
    pub status: JobStatus,
    /// Stage.
    pub stage: Stage,
    /// Height of the block with the submission.
    pub submitted_height: Height,
    /// Time of that block.
    pub submitted_ms: TimeMs,
    /// When it expires, block time.
    pub deadline_ms: TimeMs,
    /// When it ended.
    pub ended_ms: Option<TimeMs>,
    /// Most that may be charged.
    pub max_fee: Amount,
    /// What was charged.
    pub fee: Amount,
    /// Its tasks.
    pub tasks: Vec<TaskView>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Whether the ledger has all that a receipt needs.
    pub receipt_ready: bool,
    /// What was asked.
    pub spec: JobSpec,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskView {
    /// Index.
    pub index: u32,
    /// Kind.
    pub kind: TaskKind,
    /// `open`, `assigned`, `voting`, `certified` or `closed`.
    pub state: &'static str,
    /// The attempt, from 0.
    pub attempt: u32,
    /// Who has the turn, or whose claim it is.
    pub prover: Option<PublicKey>,
    /// Rank of that prover.
    pub rank: Option<u32>,
    /// End of the turn or of the voting, block time.
    pub deadline_ms: Option<TimeMs>,
    /// Blob of the committed proof.
    pub proof_hash: Option<BlobHash>,
    /// Length of that blob.
    pub proof_bytes: Option<u64>,
    /// Height of the block with the commit.
    pub commit_height: Option<Height>,
    /// Steps that the claim names.
    pub steps: Option<u64>,
    /// Claims rejected so far.
    pub rejections: Vec<Rejection>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give this to get the next page; `None` at the end.
    pub cursor: Option<String>,
}

/// A prover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProverView {
    /// Its account.
    pub prover: PublicKey,
    /// Weight in the assignment.
    pub weight: u32,
    /// Largest step limit it takes.
    pub steps_max: u64,
    /// Credits locked.
    pub deposit: Amount,
    /// Leases lapsed in a row.
    pub lapses: u32,
    /// Until when it stands behind all others.
    pub ineligible_until_ms: TimeMs,
    /// Claims certified since it registered, or since the last one that was rejected.
    pub certified: u32,
    /// Claims rejected, each before the deposit was free again after the one before.
    pub rejections: u32,
    /// Until when it may commit nothing, after a rejected claim.
    pub barred_until_ms: TimeMs,
    /// Until when its deposit stays, after a rejected claim.
    pub locked_until_ms: TimeMs,
    /// Whether it leaves.
    pub exiting: bool,
    /// Leases held and claims in voting.
    pub open: u32,
}

/// A validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ValidatorView {
    /// Consensus key.
    pub key: PublicKey,
    /// Account that owns it.
    pub account: PublicKey,
    /// Power at the next height; 0 if it is not in that set.
    pub power: u64,
    /// Stake locked.
    pub stake: Amount,
    /// When the stake returns, once it left.
    pub unbonds_ms: Option<TimeMs>,
    /// When it last attested.
    pub attested_ms: TimeMs,
    /// When another validator last said it reached it.
    pub reached_ms: TimeMs,
}

/// A proven offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OffenceView {
    /// Its identity.
    pub offence: Digest,
    /// Kind.
    pub kind: OffenceKind,
    /// Consensus key.
    pub validator: PublicKey,
    /// Height of the two messages.
    pub height: Height,
    /// Height of the block that recorded it.
    pub recorded_height: Height,
    /// Stake burned.
    pub slashed: Amount,
}

/// Where all credits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// In accounts.
    pub balances: Amount,
    /// Held for running jobs.
    pub escrows: Amount,
    /// Locked by validators.
    pub stakes: Amount,
    /// Locked by provers.
    pub deposits: Amount,
    /// Burned.
    pub burned: Amount,
    /// What genesis created.
    pub total: Amount,
    /// Whether the parts make the total.
    pub conserved: bool,
}

/// What validators vote on for a claim.
pub(crate) fn subject_of(
    genesis: GenesisHash,
    id: &JobId,
    job: &JobRecord,
    index: u32,
    attempt: u32,
    commit: &Commit,
) -> VoteSubject {
    VoteSubject {
        job: *id,
        task: index,
        attempt,
        height: commit.height,
        prover: commit.prover,
        statement: Statement::of_job(genesis, *id, index, &job.spec).digest(),
        claim: commit.claim.clone(),
        verifier: PROOF_SYSTEM_VERSION,
    }
}

/// The statement of a task.
///
/// # Errors
/// [`StateError`].
pub fn statement(view: &dyn KvRead, id: &JobId, index: u32) -> Result<Option<Statement>, StateError> {
    let Some(job) = state::job(view, id)?.filter(|job| index < job.tasks) else { return Ok(None) };
    Ok(Some(Statement::of_job(state::chain(view)?.genesis, *id, index, &job.spec)))
}

/// What validators vote on: the claim in voting, or the one that was certified.
///
/// # Errors
/// [`StateError`].
pub fn vote_subject(view: &dyn KvRead, id: &JobId, index: u32) -> Result<Option<VoteSubject>, StateError> {
    let Some((job, task)) = state::job(view, id)?.zip(state::task(view, id, index)?) else { return Ok(None) };
    let (TaskState::Voting(commit) | TaskState::Certified(commit)) = &task.state else { return Ok(None) };
    Ok(Some(subject_of(state::chain(view)?.genesis, id, &job, index, task.attempt, commit)))
}

/// All claims in voting: what a validator that starts has to look at.
///
/// # Errors
/// [`StateError`].
pub fn in_voting(view: &dyn KvRead) -> Result<Vec<VoteSubject>, StateError> {
    let mut out = Vec::new();
    for id in live_jobs(view)? {
        let tasks = state::job(view, &id)?.map_or(0, |job| job.tasks);
        for index in 0..tasks {
            if matches!(state::task(view, &id, index)?.map(|t| t.state), Some(TaskState::Voting(_))) {
                out.extend(vote_subject(view, &id, index)?);
            }
        }
    }
    Ok(out)
}

/// Ids of all jobs that are not terminal; bounded by the parameter `live_jobs_max`.
///
/// # Errors
/// [`StateError`].
pub fn live_jobs(view: &dyn KvRead) -> Result<Vec<JobId>, StateError> {
    let limit = state::params(view)?.live_jobs_max as usize;
    let rows = view.scan(Space::State, &keys::live_jobs(), None, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| keys::trailing_id(key).map(JobId::new)).collect())
}

/// An account.
///
/// # Errors
/// [`StateError`].
pub fn account(view: &dyn KvRead, key: &PublicKey) -> Result<AccountView, StateError> {
    let Account { balance, nonce } = state::account(view, key)?;
    Ok(AccountView { balance, nonce })
}

/// The price of a job of `steps` steps; `None` past the range of amounts.
///
/// # Errors
/// [`StateError`].
pub fn price(view: &dyn KvRead, steps: u64) -> Result<Option<Amount>, StateError> {
    Ok(money::price(&state::params(view)?.fees, steps))
}

/// The job of an earlier submission with the same idempotency key and content, if there is one.
///
/// # Errors
/// [`StateError`].
pub fn repeated(view: &dyn KvRead, tx: &SignedTx) -> Result<Option<JobId>, StateError> {
    let Action::SubmitJob(spec) = &tx.content.action else { return Ok(None) };
    let Some(text) = &spec.idempotency_key else { return Ok(None) };
    let known: Option<Idempotency> = state::read(view, &keys::idempotency(&tx.content.sender, text))?;
    Ok(known.filter(|k| k.content == content_hash(spec)).map(|k| k.job))
}

fn task_view(
    view: &dyn KvRead,
    id: &JobId,
    job: &JobRecord,
    index: u32,
    task: TaskRecord,
) -> Result<TaskView, StateError> {
    let voting_ms = state::params(view)?.voting_ms;
    let mut out = TaskView {
        index,
        kind: task.kind,
        state: "open",
        attempt: task.attempt,
        prover: None,
        rank: None,
        deadline_ms: None,
        proof_hash: None,
        proof_bytes: None,
        commit_height: None,
        steps: None,
        rejections: task.rejections.clone(),
    };
    match &task.state {
        TaskState::Unseeded => {}
        TaskState::Closed => out.state = "closed",
        TaskState::Open => {
            if let Some(lease) = task.lease {
                out.state = "assigned";
                out.prover = Some(lease.prover);
                out.deadline_ms = Some(lease.until);
                let order = assign::order_of(view, id, index, job, &task)?;
                out.rank = order.and_then(|a| a.rank_of(&lease.prover)).and_then(|r| u32::try_from(r).ok());
            }
        }
        TaskState::Voting(commit) | TaskState::Certified(commit) => {
            let voting = matches!(task.state, TaskState::Voting(_));
            out.state = if voting { "voting" } else { "certified" };
            out.prover = Some(commit.prover);
            out.rank = commit.rank;
            out.deadline_ms = voting.then(|| commit.time.plus(voting_ms));
            out.commit_height = Some(commit.height);
            let (Claim::Proof { steps, .. } | Claim::Failure { steps, .. }) = &commit.claim;
            out.steps = Some(*steps);
            if let Claim::Proof { hash, bytes, .. } = &commit.claim {
                out.proof_hash = Some(*hash);
                out.proof_bytes = Some(*bytes);
            }
        }
    }
    Ok(out)
}

/// A job with its tasks.
///
/// # Errors
/// [`StateError`].
pub fn job(view: &dyn KvRead, id: &JobId) -> Result<Option<JobView>, StateError> {
    let Some(job) = state::job(view, id)? else { return Ok(None) };
    let mut tasks = Vec::new();
    for index in 0..job.tasks {
        if let Some(task) = state::task(view, id, index)? {
            tasks.push(task_view(view, id, &job, index, task)?);
        }
    }
    Ok(Some(JobView {
        job_id: *id,
        sender: job.sender,
        status: job.status,
        stage: job.stage,
        submitted_height: job.submitted_height,
        submitted_ms: job.submitted_ms,
        deadline_ms: job.deadline,
        ended_ms: job.ended,
        max_fee: job.spec.max_fee,
        fee: job.fee_paid,
        receipt_ready: job.status == JobStatus::Completed,
        error: job.error,
        tasks,
        spec: job.spec,
    }))
}

/// Whether a text is a cursor of [`list_jobs`] for this account or for all: the key of a row that it could have ended at.
pub fn is_job_cursor(sender: Option<&PublicKey>, cursor: &str) -> bool {
    let last = JobId::new([u8::MAX; 32]);
    let like = match sender {
        Some(account) => keys::account_job(account, Height(0), &last),
        None => keys::recent_job(Height(0), &last),
    };
    let prefix = sender.map_or_else(keys::recent_jobs, keys::account_jobs);
    from_hex(cursor).is_some_and(|key| key.len() == like.len() && key.starts_with(&prefix) && to_hex(&key) == cursor)
}

/// Jobs, newest first; of one account, of one status, or all. At most 100 a page; a page may be short or empty and
/// still have a cursor, because at most 1,000 records are read for it.
///
/// # Errors
/// [`StateError`]; a cursor that is none, see [`is_job_cursor`], starts at the beginning.
pub fn list_jobs(
    view: &dyn KvRead,
    sender: Option<&PublicKey>,
    status: Option<JobStatus>,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page<JobView>, StateError> {
    let prefix = sender.map_or_else(keys::recent_jobs, keys::account_jobs);
    let start = cursor.and_then(from_hex).filter(|key| key.starts_with(&prefix));
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = view.scan(Space::State, &prefix, start.as_deref(), PAGE_SCAN_MAX.saturating_add(1))?;
    let mut items = Vec::new();
    for (read, (key, _)) in rows.iter().enumerate() {
        if items.len() == limit || read == PAGE_SCAN_MAX {
            return Ok(Page { items, cursor: Some(to_hex(key)) });
        }
        let Some(id) = keys::trailing_id(key).map(JobId::new) else { continue };
        items.extend(job(view, &id)?.filter(|j| status.is_none_or(|s| s == j.status)));
    }
    Ok(Page { items, cursor: None })
}

/// All registered provers by key.
///
/// # Errors
/// [`StateError`].
pub fn provers(view: &dyn KvRead) -> Result<Vec<ProverView>, StateError> {
    let all = state::provers(view)?.into_iter().map(|(prover, p)| ProverView {
        prover,
        weight: p.weight,
        steps_max: p.steps_max,
        deposit: p.deposit,
        lapses: p.lapses,
        ineligible_until_ms: p.ineligible_until,
        certified: p.certified,
        rejections: p.rejections,
        barred_until_ms: p.barred_until,
        locked_until_ms: p.locked_until,
        exiting: p.exiting,
        open: p.open,
    });
    Ok(all.collect())
}

/// All validators by key, unbonding ones included, with their power at the next height.
///
/// # Errors
/// [`StateError`].
pub fn validators(view: &dyn KvRead) -> Result<Vec<ValidatorView>, StateError> {
    let set = state::set_at(view, state::head(view)?.height.next())?;
    let mut out = Vec::new();
    for (row, value) in view.scan(Space::State, &keys::validators(), None, VALIDATOR_RECORDS_MAX as usize)? {
        let Some(key) = keys::trailing_id(&row).map(PublicKey::new) else { continue };
        let record: state::records::ValidatorRecord = state::decode(&value)?;
        let uptime: Uptime = state::read(view, &keys::uptime(&key))?.unwrap_or_default();
        out.push(ValidatorView {
            key,
            account: record.account,
            power: set.as_ref().and_then(|s| s.power_of(&key)).unwrap_or(0),
            stake: record.stake,
            unbonds_ms: record.unbonds,
            attested_ms: uptime.attested,
            reached_ms: uptime.reached,
        });
    }
    Ok(out)
}

/// Proven offences in order of their identity, at most 100 a page.
///
/// # Errors
/// [`StateError`]; a cursor that is none starts at the beginning.
pub fn offences(view: &dyn KvRead, cursor: Option<&str>, limit: usize) -> Result<Page<OffenceView>, StateError> {
    let prefix = keys::offences();
    let start = cursor.and_then(from_hex).filter(|key| key.starts_with(&prefix));
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = view.scan(Space::State, &prefix, start.as_deref(), limit.saturating_add(1))?;
    let mut items = Vec::new();
    for (key, value) in &rows {
        if items.len() == limit {
            return Ok(Page { items, cursor: Some(to_hex(key)) });
        }
        let Some(id) = keys::trailing_id(key) else { continue };
        let o: Offence = state::decode(value)?;
        items.push(OffenceView {
            offence: Digest::new(id),
            kind: o.kind,
            validator: o.offender,
            height: o.height,
            recorded_height: o.recorded,
            slashed: o.slashed,
        });
    }
    Ok(Page { items, cursor: None })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 256 {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Adds up every credit of the ledger, reading all accounts.
///
/// # Errors
/// [`StateError`].
pub fn audit(view: &dyn KvRead) -> Result<Audit, StateError> {
    let add = |a: Amount, b: Amount| a.checked_add(b).ok_or_else(|| StateError::Credits("a sum past the range".into()));
    let mut out = Audit::default();
    let mut start: Option<Vec<u8>> = None;
    loop {
        let rows = view.scan(Space::State, &keys::accounts(), start.as_deref(), PAGE_SCAN_MAX)?;
        for (_, value) in &rows {
            out.balances = add(out.balances, state::decode::<Account>(value)?.balance)?;
        }
        match rows.last() {
            // The next key in order is this one with a zero byte behind it.
            Some((key, _)) if rows.len() == PAGE_SCAN_MAX => start = Some([key.as_slice(), &[0]].concat()),
            _ => break,
        }
    }
    for id in live_jobs(view)? {
        out.escrows = add(out.escrows, state::job(view, &id)?.map_or(Amount::ZERO, |job| job.escrow))?;
    }
    for v in validators(view)? {
        out.stakes = add(out.stakes, v.stake)?;
    }
    for (_, p) in state::provers(view)? {
        out.deposits = add(out.deposits, p.deposit)?;
    }
    let supply = state::supply(view)?;
    (out.burned, out.total) = (supply.burned, supply.total);
    let parts = [out.escrows, out.stakes, out.deposits, out.burned].into_iter().try_fold(out.balances, add)?;
    out.conserved = parts == out.total;
    Ok(out)
}
