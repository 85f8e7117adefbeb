//! A job from submission to its one terminal state.

use types::codec::encode_body;
use types::ids::{Amount, Digest, JobId};
use types::job::{JobSpec, JobStatus, Stage, TaskKind};
use types::keys::PublicKey;
use types::signing::hash_parts;
use types::transaction::{Action, AvailabilitySig, SignedTx};
use types::vote::signed_power;

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::money;
use crate::state::records::{
    Idempotency, JobError, JobRecord, Snapshot, SnapshotEntry, SnapshotRefs, TaskRecord, TaskState, TimerKind,
};
use crate::state::{self, keys};

/// Hash of a specification, for the idempotency key.
pub(crate) fn content_hash(spec: &JobSpec) -> Digest {
    Digest::new(hash_parts("proofmesh job content v1", &[&encode_body(spec)]))
}

impl Exec<'_> {
    /// More than one third of the power in force signed that they hold the input.
    pub(super) fn availability(&self, tx: &SignedTx, signatures: &[AvailabilitySig]) -> Result<(), LedgerError> {
        let remedy = "collect signatures of more validators of the present set";
        let refuse =
            |value: String, limit: String| TxError::new(TxCode::Availability, "availability", value, limit, remedy);
        let set = state::set_unbounded(&self.st, self.ctx.height)?
            .ok_or(StateError::Missing { record: "validator set record" })?;
        let id = tx.id();
        let power = signed_power(&set, signatures, |s| s.validator, |s| s.verify(&id, &self.ctx.genesis))
            .map_err(|e| refuse(e.to_string(), "valid signatures in rising key order".into()))?;
        if !set.is_honest(power) {
            return Err(refuse(format!("power {power}"), format!("more than 1/3 of {}", set.power_total())).into());
        }
        Ok(())
    }

    /// Accepts a job, or points to the one that the same idempotency key made.
    pub(crate) fn submit(&mut self, tx: &SignedTx) -> Result<(), LedgerError> {
        let (sender, nonce) = (tx.content.sender, tx.content.nonce);
        let Action::SubmitJob(spec) = &tx.content.action else {
            return Err(TxError::new(
                TxCode::OutOfBounds,
                "action",
                "no submission",
                "submit job",
                "send it without availability",
            )
            .into());
        };
        spec.check().map_err(TxError::from)?;
        let id = spec.job_id(&self.ctx.genesis, &sender, nonce);
        if let Some(text) = &spec.idempotency_key {
            let (key, content) = (keys::idempotency(&sender, text), content_hash(spec));
            match state::read::<Idempotency>(&self.st, &key)? {
                Some(known) if known.content == content => {
                    self.events.push(Event::JobRepeated { job: known.job, tx: tx.id() });
                    return Ok(());
                }
                Some(known) => {
                    let limit = format!("content of job {}", known.job);
                    let remedy = "use another key for another job";
                    return Err(
                        TxError::new(TxCode::IdempotencyConflict, "idempotency_key", text, limit, remedy).into()
                    );
                }
                None => self.st.put(key, &Idempotency { job: id, content }),
            }
        }
        self.check_bounds(spec)?;
        self.debit("max_fee", &sender, spec.max_fee)?;
        let now = self.ctx.time;
        let job = JobRecord {
            spec: (**spec).clone(),
            sender,
            trace: tx.content.trace,
            submitted_height: self.ctx.height,
            submitted_ms: now,
            deadline: now.plus(spec.deadline_ms),
            status: JobStatus::Running,
            stage: Stage::Init,
            escrow: spec.max_fee,
            fee_paid: Amount::ZERO,
            seed: None,
            snapshot: self.take_snapshot()?,
            tasks: 1,
            ended: None,
            error: None,
        };
        let task = TaskRecord {
            kind: TaskKind::Prove,
            attempt: 0,
            counted: 0,
            state: TaskState::Unseeded,
            window_start: now,
            lease: None,
            declines: Default::default(),
            rejections: Vec::new(),
            retry_at: None,
        };
        self.st.put(keys::job(&id), &job);
        self.st.put(keys::task(&id, 0), &task);
        for marker in [
            keys::live_job(&id),
            keys::unseeded(&id),
            keys::account_job(&sender, self.ctx.height, &id),
            keys::recent_job(self.ctx.height, &id),
            keys::timer(job.deadline, &TimerKind::Deadline(id)),
        ] {
            self.st.mark(marker);
        }
        let mut counters = state::counters(&self.st)?;
        counters.live_jobs = counters.live_jobs.saturating_add(1);
        self.st.put(keys::counters(), &counters);
        self.events.push(Event::JobSubmitted { job: id, sender, tx: tx.id(), trace: tx.content.trace });
        Ok(())
    }

    fn check_bounds(&self, spec: &JobSpec) -> Result<(), LedgerError> {
        let p = &self.ctx.params;
        let over =
            |field, value: u64, limit: u64, remedy| TxError::new(TxCode::OutOfBounds, field, value, limit, remedy);
        if spec.max_steps > p.steps_max {
            return Err(over("max_steps", spec.max_steps, p.steps_max, "declare fewer steps").into());
        }
        if spec.deadline_ms > p.deadline_ms_max {
            return Err(over("deadline_ms", spec.deadline_ms, p.deadline_ms_max, "choose a nearer deadline").into());
        }
        let price = money::price(&p.fees, spec.max_steps);
        if price.is_none_or(|price| spec.max_fee < price) {
            let limit = price
                .map_or_else(|| "no amount is enough".to_owned(), |p| format!("at least {p}, the price of max_steps"));
            let remedy = "raise max_fee or lower max_steps; what is not used returns";
            return Err(TxError::new(TxCode::FeeTooLow, "max_fee", spec.max_fee, limit, remedy).into());
        }
        let live = state::counters(&self.st)?.live_jobs;
        if live >= p.live_jobs_max {
            return Err(
                TxError::new(TxCode::Full, "live_jobs", live, p.live_jobs_max, "wait until other jobs end").into()
            );
        }
        Ok(())
    }

    fn take_snapshot(&mut self) -> Result<Digest, StateError> {
        let mut entries = Vec::new();
        for (prover, p) in state::provers(&self.st)? {
            if !p.exiting {
                let lapsed = p.ineligible_until > self.ctx.time;
                let (weight, steps_max, grade) = (p.weight, p.steps_max, p.grade());
                entries.push(SnapshotEntry { prover, weight, steps_max, lapsed, grade });
            }
        }
        let snapshot = Snapshot { entries };
        let digest = Digest::new(hash_parts("proofmesh prover snapshot v1", &[&encode_body(&snapshot)]));
        let key = keys::snapshot_refs(&digest);
        let refs = state::read::<SnapshotRefs>(&self.st, &key)?.map_or(0, |r| r.refs);
        if refs == 0 {
            self.st.put(keys::snapshot(&digest), &snapshot);
        }
        self.st.put(key, &SnapshotRefs { refs: refs.saturating_add(1) });
        Ok(digest)
    }

    fn drop_snapshot(&mut self, digest: &Digest) -> Result<(), StateError> {
        let key = keys::snapshot_refs(digest);
        match state::read::<SnapshotRefs>(&self.st, &key)?.map_or(0, |r| r.refs) {
            0 | 1 => {
                self.st.delete(keys::snapshot(digest));
                self.st.delete(key);
            }
            refs => self.st.put(key, &SnapshotRefs { refs: refs.saturating_sub(1) }),
        }
        Ok(())
    }

    /// A running job, or why it can't be changed.
    pub(super) fn running(&self, id: &JobId) -> Result<JobRecord, LedgerError> {
        let unknown = || {
            TxError::new(
                TxCode::UnknownJob,
                "job",
                id,
                "a job of this chain",
                "check the id; ended jobs are dropped in time",
            )
        };
        let job = state::job(&self.st, id)?.ok_or_else(unknown)?;
        if job.status.is_terminal() {
            let value = format!("{:?}", job.status).to_lowercase();
            return Err(TxError::new(TxCode::JobEnded, "job", value, "a running job", "nothing is left to do").into());
        }
        Ok(job)
    }

    pub(super) fn cancel(&mut self, sender: &PublicKey, id: &JobId) -> Result<(), LedgerError> {
        let job = self.running(id)?;
        if job.sender != *sender {
            return Err(
                TxError::new(TxCode::NotOwner, "job", job.sender, sender, "only its sender cancels a job").into()
            );
        }
        for index in 0..job.tasks {
            if matches!(state::task(&self.st, id, index)?.map(|t| t.state), Some(TaskState::Voting(_))) {
                let remedy = "wait for the verdict";
                return Err(TxError::new(
                    TxCode::InVoting,
                    "job",
                    format_args!("task {index} in voting"),
                    "no claim in voting",
                    remedy,
                )
                .into());
            }
        }
        Ok(self.end_job(id, job, JobStatus::Cancelled, None)?)
    }

    /// The one place where a job becomes terminal: whatever is still in escrow returns to the sender.
    pub(super) fn end_job(
        &mut self,
        id: &JobId,
        mut job: JobRecord,
        status: JobStatus,
        error: Option<JobError>,
    ) -> Result<(), StateError> {
        for index in 0..job.tasks {
            let Some(mut task) = state::task(&self.st, id, index)? else { continue };
            let lease = task.lease.take();
            task.retry_at = None;
            let voter = match &task.state {
                TaskState::Voting(commit) => Some(commit.prover),
                TaskState::Unseeded | TaskState::Open | TaskState::Certified(_) | TaskState::Closed => None,
            };
            if !matches!(task.state, TaskState::Certified(_)) {
                task.state = TaskState::Closed;
            }
            self.st.put(keys::task(id, index), &task);
            for prover in lease.map(|l| l.prover).into_iter().chain(voter) {
                self.release(&prover)?;
            }
        }
        self.credit(&job.sender, job.escrow)?;
        job.escrow = Amount::ZERO;
        job.status = status;
        job.ended = Some(self.ctx.time);
        job.error = error;
        self.drop_snapshot(&job.snapshot)?;
        self.st.put(keys::job(id), &job);
        self.st.delete(keys::live_job(id));
        self.st.delete(keys::unseeded(id));
        let mut counters = state::counters(&self.st)?;
        counters.live_jobs = counters.live_jobs.saturating_sub(1);
        self.st.put(keys::counters(), &counters);
        self.st.mark(keys::timer(self.ctx.time.plus(self.ctx.params.retention_ms), &TimerKind::Prune(*id)));
        self.events.push(Event::JobEnded { job: *id, status });
        Ok(())
    }
}
