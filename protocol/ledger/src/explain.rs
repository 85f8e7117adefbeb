//! Why a job waits, who may prove it and until when, why a prover is idle: the assignment in fields and words for
//! people.

use serde::Serialize;
use types::ids::{JobId, TimeMs};
use types::job::{JobStatus, Stage};
use types::keys::PublicKey;
use types::kv::KvRead;
use types::transaction::DeclineReason;
use types::verdict::Check;

use crate::assign::{self, Assignment};
use crate::error::StateError;
use crate::query;
use crate::state;
use crate::state::records::{JobRecord, ProverRecord, TaskRecord, TaskState};

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "code")]
pub enum Waiting {
    /// Nothing: the job ended.
    Ended {
        /// How.
        status: JobStatus,
    },
    /// The next block, whose seed fixes the order.
    Seed,
    /// The prover that has the exclusive turn.
    Turn {
        /// Who.
        prover: PublicKey,
        /// Until when.
        until_ms: TimeMs,
    },
    /// A claim from any prover that may commit now.
    Claim {
        /// How many may.
        eligible: usize,
        /// When more may; `None`: everyone may already.
        next_window_ms: Option<TimeMs>,
    },
    /// Verdicts on a claim.
    Verdicts {
        /// Whose claim.
        prover: PublicKey,
        /// When the attempt is void.
        until_ms: TimeMs,
    },
    /// Everyone declined; the next attempt begins then.
    Retry {
        /// When.
        at_ms: TimeMs,
    },
    /// The end of a bar: every prover that takes the steps had a claim rejected shortly before.
    Barred {
        /// When the first of them may commit.
        until_ms: TimeMs,
    },
    /// A prover that takes the steps: none is registered.
    NoProver {
        /// Declared steps.
        max_steps: u64,
    },
}

/// What one prover may do about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "code")]
pub enum Standing {
    /// It may commit a claim now.
    May,
    /// It may from then on.
    From {
        /// When.
        at_ms: TimeMs,
    },
    /// It gave this attempt away.
    Declined {
        /// Why.
        reason: DeclineReason,
    },
    /// Its claim for this task was rejected.
    Rejected {
        /// The check that failed.
        check: Check,
    },
    /// A claim of it for another task was rejected: it may commit from then on.
    Barred {
        /// When.
        until_ms: TimeMs,
    },
    /// It takes fewer steps than declared.
    Steps {
        /// What it takes.
        steps_max: u64,
    },
    /// It leaves.
    Leaving,
    /// It is not registered.
    NotRegistered,
}

/// A prover's place in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Who.
    pub prover: PublicKey,
    /// Rank, if it was registered at the submission.
    pub rank: Option<usize>,
    /// What it may do.
    pub standing: Standing,
}

/// Why a task stands where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskExplained {
    /// Index.
    pub index: u32,
    /// Attempt.
    pub attempt: u32,
    /// Ended attempts that count: declined by everyone, or voided for a prover's second time.
    pub attempts_counted: u32,
    /// Number of those after which the job fails.
    pub attempts_max: u32,
    /// Whether so many claims got no certificate that provers with certified work come first.
    pub contested: bool,
    /// What it waits for.
    pub waiting: Waiting,
    /// The registered provers and those that had a part, ranks first.
    pub candidates: Vec<Candidate>,
    /// The same in a sentence.
    pub text: String,
}

/// Why a job stands where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobExplained {
    /// The job.
    pub job_id: JobId,
    /// Status.
    pub status: JobStatus,
    /// Stage.
    pub stage: Stage,
    /// When it expires, block time.
    pub deadline_ms: TimeMs,
    /// The time the answer is for.
    pub now_ms: TimeMs,
    /// Its tasks.
    pub tasks: Vec<TaskExplained>,
}

/// Why a prover has nothing to do, or what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProverExplained {
    /// Who.
    pub prover: PublicKey,
    /// `not_registered`, `leaving`, `barred`, `no_jobs`, `waiting` or `eligible`.
    pub state: &'static str,
    /// Until when lapsed leases put it behind all others.
    pub behind_until_ms: Option<TimeMs>,
    /// Until when it may commit nothing, after a rejected claim.
    pub barred_until_ms: Option<TimeMs>,
    /// Until when its deposit stays, after a rejected claim.
    pub locked_until_ms: Option<TimeMs>,
    /// Tasks of running jobs and what it may do about each.
    pub tasks: Vec<ProverTask>,
    /// The same in a sentence.
    pub text: String,
}

/// A running task as one prover sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProverTask {
    /// The job.
    pub job_id: JobId,
    /// Index of the task.
    pub index: u32,
    /// Attempt.
    pub attempt: u32,
    /// Rank, if it was registered at the submission.
    pub rank: Option<usize>,
    /// What it may do; `None` while a claim is in voting or the seed is not known.
    pub standing: Option<Standing>,
}

fn standing(
    view: &dyn KvRead,
    prover: &PublicKey,
    job: &JobRecord,
    task: &TaskRecord,
    a: &Assignment,
    now: TimeMs,
) -> Result<Standing, StateError> {
    if let Some(check) = task.rejections.iter().filter(|r| r.prover == *prover).find_map(|r| r.check) {
        return Ok(Standing::Rejected { check });
    }
    if let Some(reason) = task.declines.get(prover) {
        return Ok(Standing::Declined { reason: *reason });
    }
    Ok(match (a.starts_at(prover), state::prover(view, prover)?) {
        (Some(from), _) if from <= now => Standing::May,
        (Some(from), _) if a.barred.get(prover) == Some(&from) => Standing::Barred { until_ms: from },
        (Some(at_ms), _) => Standing::From { at_ms },
        (None, None) => Standing::NotRegistered,
        (None, Some(p)) if p.steps_max < job.spec.max_steps => Standing::Steps { steps_max: p.steps_max },
        (None, Some(p)) if p.exiting => Standing::Leaving,
        // It took fewer steps at the submission, or was leaving then: the snapshot counts.
        (None, Some(p)) => Standing::Steps { steps_max: p.steps_max },
    })
}

fn waiting(
    view: &dyn KvRead,
    job: &JobRecord,
    task: &TaskRecord,
    a: Option<&Assignment>,
    now: TimeMs,
) -> Result<Waiting, StateError> {
    if job.status.is_terminal() {
        return Ok(Waiting::Ended { status: job.status });
    }
    if let TaskState::Voting(commit) = &task.state {
        let until_ms = commit.time.plus(state::params(view)?.voting_ms);
        return Ok(Waiting::Verdicts { prover: commit.prover, until_ms });
    }
    let Some(a) = a else { return Ok(Waiting::Seed) };
    if let Some(at_ms) = task.retry_at {
        return Ok(Waiting::Retry { at_ms });
    }
    // Who was barred for another task in the meantime has no turn here any more.
    if let Some(lease) = task.lease.filter(|l| l.until > now && a.may_prove(&l.prover, now)) {
        return Ok(Waiting::Turn { prover: lease.prover, until_ms: lease.until });
    }
    if a.order.is_empty() && a.latecomers.is_empty() {
        return Ok(Waiting::NoProver { max_steps: job.spec.max_steps });
    }
    let first = a.latecomers.iter().filter_map(|p| a.starts_at(p)).min();
    if let Some(until_ms) = first.filter(|from| a.order.is_empty() && *from > now) {
        return Ok(Waiting::Barred { until_ms });
    }
    Ok(Waiting::Claim { eligible: a.eligible_at(now).len(), next_window_ms: a.window_at(now).ends })
}

fn sentence(waiting: &Waiting, now: TimeMs) -> String {
    let seconds = |at: &TimeMs| at.since(now).div_ceil(1_000);
    match waiting {
        Waiting::Ended { status } => format!("the job is {}", format!("{status:?}").to_lowercase()),
        Waiting::Seed => "waits for the next block, whose seed fixes the order of provers".into(),
        Waiting::Turn { prover, until_ms } => {
            format!("prover {} has the turn for {} s more", prover.short(), seconds(until_ms))
        }
        Waiting::Claim { eligible, next_window_ms: Some(at) } => {
            format!("{eligible} provers may commit a claim, more in {} s", seconds(at))
        }
        Waiting::Claim { eligible, next_window_ms: None } => {
            format!("every prover that takes it may commit a claim: {eligible}")
        }
        Waiting::Verdicts { prover, until_ms } => {
            format!("validators check the claim of prover {}, {} s left", prover.short(), seconds(until_ms))
        }
        Waiting::Retry { at_ms } => format!("every prover declined; the next attempt begins in {} s", seconds(at_ms)),
        Waiting::Barred { until_ms } => {
            format!("claims of every prover that takes it were rejected; the first may try in {} s", seconds(until_ms))
        }
        Waiting::NoProver { max_steps } => {
            format!("no registered prover takes {max_steps} steps; lower max_steps or wait for one")
        }
    }
}

/// Why the job stands where it stands at `now` (block time). `None` for an unknown job.
///
/// # Errors
/// [`StateError`].
pub fn job(view: &dyn KvRead, id: &JobId, now: TimeMs) -> Result<Option<JobExplained>, StateError> {
    let Some(job) = state::job(view, id)? else { return Ok(None) };
    let attempts_max = state::params(view)?.assignment.attempts_max;
    let mut tasks = Vec::new();
    for index in 0..job.tasks {
        let Some(task) = state::task(view, id, index)? else { continue };
        let order = assign::order_of(view, id, index, &job, &task)?;
        let mut candidates = Vec::new();
        if let Some(a) = &order {
            let others = state::provers(view)?.into_iter().map(|(key, _)| key).chain(a.out.iter().copied());
            let mut keys: Vec<_> = a.order.clone();
            for key in others {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            for prover in keys {
                candidates.push(Candidate {
                    prover,
                    rank: a.rank_of(&prover),
                    standing: standing(view, &prover, &job, &task, a, now)?,
                });
            }
        }
        let waiting = waiting(view, &job, &task, order.as_ref(), now)?;
        let contested = task.contested() && !job.status.is_terminal();
        let mut text = sentence(&waiting, now);
        if contested {
            let claims = task.rejections.len();
            text.push_str(&format!("; {claims} claims got no certificate, so provers with certified work come first"));
        }
        tasks.push(TaskExplained {
            index,
            attempt: task.attempt,
            attempts_counted: task.counted,
            attempts_max,
            contested,
            waiting,
            candidates,
            text,
        });
    }
    Ok(Some(JobExplained {
        job_id: *id,
        status: job.status,
        stage: job.stage,
        deadline_ms: job.deadline,
        now_ms: now,
        tasks,
    }))
}

/// What the prover may do at `now` (block time), and why nothing if it is nothing.
///
/// # Errors
/// [`StateError`].
pub fn prover(view: &dyn KvRead, prover: &PublicKey, now: TimeMs) -> Result<ProverExplained, StateError> {
    let record = state::prover(view, prover)?;
    let ahead = |until: fn(&ProverRecord) -> TimeMs| record.as_ref().map(until).filter(|until| *until > now);
    let behind_until_ms = ahead(|p| p.ineligible_until);
    let (barred_until_ms, locked_until_ms) = (ahead(|p| p.barred_until), ahead(|p| p.locked_until));
    let mut tasks = Vec::new();
    for id in query::live_jobs(view)? {
        let Some(job) = state::job(view, &id)? else { continue };
        for index in 0..job.tasks {
            let Some(task) = state::task(view, &id, index)? else { continue };
            let order = match task.state {
                TaskState::Open => assign::order_of(view, &id, index, &job, &task)?,
                TaskState::Unseeded | TaskState::Voting(_) | TaskState::Certified(_) | TaskState::Closed => None,
            };
            let standing = order.as_ref().map(|a| standing(view, prover, &job, &task, a, now)).transpose()?;
            let rank = order.and_then(|a| a.rank_of(prover));
            tasks.push(ProverTask { job_id: id, index, attempt: task.attempt, rank, standing });
        }
    }
    let may = tasks.iter().filter(|t| t.standing == Some(Standing::May)).count();
    let (state, text) = match record {
        None => ("not_registered", "not registered as a prover: send a registration".to_owned()),
        Some(p) if p.exiting => ("leaving", "leaving: gets no new work".to_owned()),
        Some(p) if may == 0 && barred_until_ms.is_some() => {
            let (n, until, free) = (p.rejections, p.barred_until, p.locked_until);
            let text = format!(
                "{n} of its claims were rejected: it may commit none before block time {until}, and its deposit is free \
                 at {free}; find out what makes the proofs bad before then"
            );
            ("barred", text)
        }
        Some(_) if may > 0 => ("eligible", format!("may prove {may} tasks now")),
        Some(_) if tasks.is_empty() => ("no_jobs", "no job is running".to_owned()),
        Some(_) => (
            "waiting",
            format!("{} tasks are running; others have the turn, or they are not for this prover", tasks.len()),
        ),
    };
    Ok(ProverExplained { prover: *prover, state, behind_until_ms, barred_until_ms, locked_until_ms, tasks, text })
}
