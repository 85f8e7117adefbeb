//! A task's attempts: opening, leases, claims, declines.

use types::ids::JobId;
use types::job::JobStatus;
use types::keys::PublicKey;
use types::limits::PROOF_BYTES_MAX;
use types::transaction::DeclineReason;
use types::verdict::Claim;

use super::{Event, Exec};
use crate::assign::{self, Assignment};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::limits::DECLINES_MAX;
use crate::query::subject_of;
use crate::state::records::{Commit, JobError, JobRecord, Lease, TaskRecord, TaskState, TimerKind};
use crate::state::{self, keys};

impl Exec<'_> {
    /// Opens the task's attempt now and gives rank 0 its turn.
    pub(super) fn open_attempt(
        &mut self,
        id: &JobId,
        job: &JobRecord,
        index: u32,
        mut task: TaskRecord,
    ) -> Result<(), StateError> {
        task.state = TaskState::Open;
        task.declines.clear();
        task.retry_at = None;
        task.lease = None;
        self.start_windows(id, job, index, task)
    }

    /// Begins the first window now: rank 0 of the order gets the exclusive turn.
    fn start_windows(
        &mut self,
        id: &JobId,
        job: &JobRecord,
        index: u32,
        mut task: TaskRecord,
    ) -> Result<(), StateError> {
        let now = self.ctx.time;
        task.window_start = now;
        let order = assign::order_of(&self.st, id, index, job, &task)?;
        let first = order.and_then(|a| Some((*a.order.first()?, a.window_ms)));
        task.lease = first.map(|(prover, window_ms)| Lease { prover, until: now.plus(window_ms) });
        let attempt = task.attempt;
        self.st.put(keys::task(id, index), &task);
        if let Some(lease) = task.lease {
            self.hold(&lease.prover)?;
            self.st.mark(keys::timer(lease.until, &TimerKind::Lease(*id, index, attempt)));
        }
        let until = task.lease.map_or(now, |l| l.until);
        self.events.push(Event::TaskAssigned {
            job: *id,
            task: index,
            attempt,
            prover: task.lease.map(|l| l.prover),
            until,
        });
        Ok(())
    }

    /// After an attempt that decided nothing: the next one, or the job's end. `counts`: against `attempts_max`.
    pub(super) fn next_attempt(
        &mut self,
        id: &JobId,
        job: JobRecord,
        index: u32,
        mut task: TaskRecord,
        counts: bool,
    ) -> Result<(), StateError> {
        task.attempt = task.attempt.saturating_add(1);
        task.counted = task.counted.saturating_add(u32::from(counts));
        task.state = TaskState::Open;
        self.st.put(keys::task(id, index), &task);
        if task.counted >= self.ctx.params.assignment.attempts_max {
            return self.end_job(id, job, JobStatus::Failed, Some(JobError::AttemptsUsedUp { attempts: task.counted }));
        }
        if job.deadline <= self.ctx.time {
            return self.end_job(id, job, JobStatus::Expired, None);
        }
        self.open_attempt(id, &job, index, task)
    }

    /// The job, the task and its assignment, if the attempt is the present one and open.
    fn open_task(
        &self,
        id: &JobId,
        index: u32,
        attempt: u32,
    ) -> Result<(JobRecord, TaskRecord, Assignment), LedgerError> {
        let job = self.running(id)?;
        let unknown =
            || TxError::new(TxCode::UnknownTask, "task", index, format_args!("below {}", job.tasks), "check the index");
        let task = state::task(&self.st, id, index)?.ok_or_else(unknown)?;
        let refuse = |code, value: &str, remedy| Err(TxError::new(code, "task", value, "an open task", remedy).into());
        match &task.state {
            TaskState::Open => {}
            TaskState::Unseeded => {
                return refuse(TxCode::NotEligible, "waiting for the next block's seed", "wait for the next block");
            }
            TaskState::Voting(_) => return refuse(TxCode::InVoting, "in voting", "wait for the verdict"),
            TaskState::Certified(_) | TaskState::Closed => {
                return refuse(TxCode::JobEnded, "closed", "nothing is left to do");
            }
        }
        if task.attempt != attempt {
            return Err(TxError::new(
                TxCode::WrongAttempt,
                "attempt",
                attempt,
                task.attempt,
                "use the present attempt",
            )
            .into());
        }
        let order = assign::order_of(&self.st, id, index, &job, &task)?
            .ok_or(StateError::Missing { record: "prover snapshot" })?;
        Ok((job, task, order))
    }

    pub(super) fn commit_claim(
        &mut self,
        sender: &PublicKey,
        id: &JobId,
        index: u32,
        attempt: u32,
        claim: &Claim,
    ) -> Result<(), LedgerError> {
        let (job, mut task, order) = self.open_task(id, index, attempt)?;
        let now = self.ctx.time;
        if job.deadline <= now {
            return Err(
                TxError::new(TxCode::JobEnded, "deadline_ms", now, job.deadline, "nothing is left to do").into()
            );
        }
        if !order.may_prove(sender, now) {
            let limit = match order.starts_at(sender) {
                Some(from) if order.barred.contains_key(sender) => {
                    format!("from {from} on, because a claim of this prover was rejected")
                }
                Some(from) => format!("from {from} on"),
                None => {
                    "a registered prover that takes the steps and has neither declined nor been rejected".to_owned()
                }
            };
            return Err(TxError::new(TxCode::NotEligible, "sender", sender, limit, "wait for the turn").into());
        }
        check_claim(claim, &job)?;
        let rank = order.rank_of(sender).and_then(|r| u32::try_from(r).ok());
        // First hold, then release: a prover that leaves must not be paid out in between.
        self.hold(sender)?;
        if let Some(lease) = task.lease.take() {
            self.release(&lease.prover)?;
        }
        let commit = Commit { prover: *sender, claim: claim.clone(), height: self.ctx.height, time: now, rank };
        task.retry_at = None;
        task.state = TaskState::Voting(commit.clone());
        self.st.put(keys::task(id, index), &task);
        self.st.mark(keys::timer(now.plus(self.ctx.params.voting_ms), &TimerKind::Voting(*id, index, attempt)));
        let subject = subject_of(self.ctx.genesis, id, &job, index, attempt, &commit);
        self.events.push(Event::ClaimCommitted { subject });
        Ok(())
    }

    pub(super) fn decline(
        &mut self,
        sender: &PublicKey,
        id: &JobId,
        index: u32,
        attempt: u32,
        reason: DeclineReason,
    ) -> Result<(), LedgerError> {
        let (job, mut task, order) = self.open_task(id, index, attempt)?;
        if order.starts_at(sender).is_none() {
            let limit = "a prover that has a turn in this attempt";
            return Err(TxError::new(TxCode::NotEligible, "sender", sender, limit, "nothing to decline").into());
        }
        if task.declines.len() >= DECLINES_MAX {
            let remedy = "let the turn pass";
            return Err(TxError::new(TxCode::Full, "declines", task.declines.len(), DECLINES_MAX, remedy).into());
        }
        let now = self.ctx.time;
        task.declines.insert(*sender, reason);
        let had_turn = task.lease.filter(|l| l.prover == *sender);
        if had_turn.is_some() {
            task.lease = None;
            self.release(sender)?;
        }
        self.events.push(Event::TaskDeclined { job: *id, task: index, attempt, prover: *sender, reason });
        let left = assign::order_of(&self.st, id, index, &job, &task)?
            .ok_or(StateError::Missing { record: "prover snapshot" })?;
        if left.order.is_empty() && left.latecomers.iter().all(|p| left.barred.contains_key(p)) {
            // Nobody is left: pause for a window, then draw again with the attempt counted.
            let at = now.plus(left.window_ms);
            task.retry_at = Some(at);
            self.st.mark(keys::timer(at, &TimerKind::Retry(*id, index, attempt)));
        } else if had_turn.is_some() && !left.order.is_empty() {
            return Ok(self.start_windows(id, &job, index, task)?);
        }
        self.st.put(keys::task(id, index), &task);
        Ok(())
    }
}

fn check_claim(claim: &Claim, job: &JobRecord) -> Result<(), TxError> {
    let bad = |field, value: u64, limit: String| {
        Err(TxError::new(TxCode::OutOfBounds, field, value, limit, "correct the claim"))
    };
    let max_steps = job.spec.max_steps;
    match claim {
        Claim::Proof { bytes, .. } if *bytes == 0 || *bytes > PROOF_BYTES_MAX => {
            bad("claim.bytes", *bytes, format!("1 to {PROOF_BYTES_MAX}"))
        }
        Claim::Proof { steps, .. } if *steps == 0 || *steps > max_steps => {
            bad("claim.steps", *steps, format!("1 to {max_steps}"))
        }
        Claim::Failure { steps, .. } if *steps > max_steps => {
            bad("claim.steps", *steps, format!("at most {max_steps}"))
        }
        Claim::Proof { .. } | Claim::Failure { .. } => Ok(()),
    }
}
