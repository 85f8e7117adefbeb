//! The beginning of a block: what is due by its time, and the seed for jobs of the block before.

use types::ids::{Amount, BlobHash, JobId};
use types::job::{JobStatus, Stage};
use types::keys::PublicKey;
use types::kv::{KvRead, Space};
use types::limits::BLOCK_TXS_MAX;
use types::verdict::Claim;

use super::{Context, Event, Exec};
use crate::error::StateError;
use crate::limits::{TIME_GROUP, TIMERS_PER_BLOCK_MAX};
use crate::state::records::{GroupTime, Idempotency, Rejection, TaskState, TimerKind};
use crate::state::{self, Overlay, keys};

/// Writes the time of a group's first height and forgets groups that no evidence can need any more.
pub(super) fn keep_time(st: &mut Overlay<'_>, ctx: &Context) -> Result<(), StateError> {
    if ctx.height.0.checked_rem(TIME_GROUP) != Some(0) {
        return Ok(());
    }
    let groups = st.scan(Space::State, &keys::time_groups(), None, 8)?;
    for pair in groups.windows(2) {
        let [(old, _), (_, next)] = pair else { continue };
        // Every height of the old group is older than the first one of the next.
        if state::decode::<GroupTime>(next)?.time.plus(ctx.params.evidence_ms) < ctx.time {
            st.delete(old.clone());
        }
    }
    st.put(keys::time_group(ctx.height.0.checked_div(TIME_GROUP).unwrap_or(0)), &GroupTime { time: ctx.time });
    Ok(())
}

impl Exec<'_> {
    /// Time-driven transitions, in order of due time; then assignment of the jobs of the block before.
    pub(crate) fn begin(&mut self) -> Result<(), StateError> {
        let rows = self.st.scan(Space::State, &keys::timers(), None, TIMERS_PER_BLOCK_MAX)?;
        for (key, _) in rows {
            let corrupt = || StateError::Missing { record: "timer" };
            let (due, kind) = keys::parse_timer(&key).ok_or_else(corrupt)?;
            if due > self.ctx.time {
                break;
            }
            self.st.delete(key);
            self.due(kind)?;
        }
        let waiting = self.st.scan(Space::State, &keys::all_unseeded(), None, BLOCK_TXS_MAX)?;
        for (key, _) in waiting {
            let Some(id) = keys::trailing_id(&key).map(JobId::new) else { continue };
            self.st.delete(key);
            self.seed(&id)?;
        }
        Ok(())
    }

    fn seed(&mut self, id: &JobId) -> Result<(), StateError> {
        let Some(mut job) = state::job(&self.st, id)? else { return Ok(()) };
        job.seed = Some(self.ctx.seed);
        job.stage = Stage::Prove;
        self.st.put(keys::job(id), &job);
        for index in 0..job.tasks {
            if let Some(task) = state::task(&self.st, id, index)? {
                self.open_attempt(id, &job, index, task)?;
            }
        }
        Ok(())
    }

    fn due(&mut self, kind: TimerKind) -> Result<(), StateError> {
        match kind {
            TimerKind::Deadline(id) => self.deadline(&id),
            TimerKind::Lease(id, index, attempt) => self.lease_ends(&id, index, attempt),
            TimerKind::Voting(id, index, attempt) => self.voting_ends(&id, index, attempt),
            TimerKind::Retry(id, index, attempt) => self.retry(&id, index, attempt),
            TimerKind::Unbond(key) => self.unbond(&key),
            TimerKind::Prune(id) => self.prune(&id),
            TimerKind::Leave(key) => self.leaves(&key),
        }
    }

    fn deadline(&mut self, id: &JobId) -> Result<(), StateError> {
        let Some(job) = state::job(&self.st, id)? else { return Ok(()) };
        if job.status != JobStatus::Running {
            return Ok(());
        }
        for index in 0..job.tasks {
            // A claim in voting freezes expiry until its verdict; what follows the verdict looks at the deadline again.
            if matches!(state::task(&self.st, id, index)?.map(|t| t.state), Some(TaskState::Voting(_))) {
                return Ok(());
            }
        }
        self.end_job(id, job, JobStatus::Expired, None)
    }

    fn lease_ends(&mut self, id: &JobId, index: u32, attempt: u32) -> Result<(), StateError> {
        let Some(mut task) = state::task(&self.st, id, index)? else { return Ok(()) };
        let now = self.ctx.time;
        let Some(lease) = task.lease.filter(|l| task.attempt == attempt && l.until <= now) else { return Ok(()) };
        task.lease = None;
        self.st.put(keys::task(id, index), &task);
        self.lapse(&lease.prover)?;
        self.release(&lease.prover)?;
        self.events.push(Event::LeaseLapsed { job: *id, task: index, attempt, prover: lease.prover });
        Ok(())
    }

    fn voting_ends(&mut self, id: &JobId, index: u32, attempt: u32) -> Result<(), StateError> {
        let Some((job, mut task)) = state::job(&self.st, id)?.zip(state::task(&self.st, id, index)?) else {
            return Ok(());
        };
        let TaskState::Voting(commit) = &task.state else { return Ok(()) };
        if task.attempt != attempt {
            return Ok(());
        }
        let prover = commit.prover;
        self.release(&prover)?;
        // Provers that nobody knows could use up the attempts by claims whose bytes they never serve. One void claim
        // each is free: the second comes only after every other prover had its turn.
        let counts = task.voided(&prover);
        task.remember(Rejection { attempt, prover, check: None });
        self.events.push(Event::AttemptVoided { job: *id, task: index, attempt });
        self.next_attempt(id, job, index, task, counts)
    }

    fn retry(&mut self, id: &JobId, index: u32, attempt: u32) -> Result<(), StateError> {
        let Some((job, task)) = state::job(&self.st, id)?.zip(state::task(&self.st, id, index)?) else { return Ok(()) };
        let due = task.retry_at.is_some_and(|at| at <= self.ctx.time);
        if task.state != TaskState::Open || task.attempt != attempt || !due {
            return Ok(());
        }
        self.events.push(Event::AttemptVoided { job: *id, task: index, attempt });
        self.next_attempt(id, job, index, task, true)
    }

    fn unbond(&mut self, key: &PublicKey) -> Result<(), StateError> {
        let Some(record) = state::validator(&self.st, key)? else { return Ok(()) };
        if record.unbonds.is_none_or(|at| at > self.ctx.time) {
            return Ok(());
        }
        let in_force = state::set_unbounded(&self.st, self.ctx.height)?;
        let next = state::set_unbounded(&self.st, self.ctx.height.next())?;
        if [in_force, next].iter().flatten().any(|set| set.power_of(key).is_some()) {
            // It may still sign; its stake stays.
            self.st.mark(keys::timer(self.ctx.time.plus(1), &TimerKind::Unbond(*key)));
            return Ok(());
        }
        self.credit(&record.account, record.stake)?;
        self.st.delete(keys::validator(key));
        self.st.delete(keys::uptime(key));
        let mut counters = state::counters(&self.st)?;
        counters.validators = counters.validators.saturating_sub(1);
        self.st.put(keys::counters(), &counters);
        Ok(())
    }

    fn prune(&mut self, id: &JobId) -> Result<(), StateError> {
        let Some(job) = state::job(&self.st, id)? else { return Ok(()) };
        if !job.status.is_terminal() || job.escrow != Amount::ZERO {
            return Ok(());
        }
        let mut blobs: Vec<BlobHash> =
            std::iter::once(job.spec.program.hash).chain(job.spec.args.map(|a| a.hash)).collect();
        for index in 0..job.tasks {
            if let Some(TaskState::Certified(commit)) = state::task(&self.st, id, index)?.map(|t| t.state)
                && let Claim::Proof { hash, .. } = commit.claim
            {
                blobs.push(hash);
            }
            self.st.delete(keys::task(id, index));
        }
        self.st.delete(keys::job(id));
        self.st.delete(keys::account_job(&job.sender, job.submitted_height, id));
        self.st.delete(keys::recent_job(job.submitted_height, id));
        if let Some(text) = &job.spec.idempotency_key {
            let key = keys::idempotency(&job.sender, text);
            if state::read::<Idempotency>(&self.st, &key)?.is_some_and(|i| i.job == *id) {
                self.st.delete(key);
            }
        }
        self.events.push(Event::JobPruned { job: *id, blobs });
        Ok(())
    }
}
