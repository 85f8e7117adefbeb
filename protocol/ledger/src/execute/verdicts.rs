//! Certificates of verdicts: payment, rejection.

use types::ids::{Amount, JobId};
use types::job::{JobStatus, Stage};
use types::keys::PublicKey;
use types::validator::ValidatorSet;
use types::verdict::{Check, Claim, Outcome, ProofCertificate, Verdict};

use super::{Event, Exec};
use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::money;
use crate::query::subject_of;
use crate::state::records::{Commit, JobError, JobRecord, Rejection, TaskRecord, TaskState};
use crate::state::{self, keys};

impl Exec<'_> {
    /// Records what the verdicts on the claim in voting decided. Once per claim.
    pub(super) fn certify(&mut self, certificate: &ProofCertificate, certifier: &PublicKey) -> Result<(), LedgerError> {
        let subject = &certificate.subject;
        let (id, index, attempt) = (subject.job, subject.task, subject.attempt);
        let recorded = || {
            TxError::new(
                TxCode::Recorded,
                "subject",
                format_args!("{id}/{index}/{attempt}"),
                "once per claim",
                "nothing is left to do",
            )
        };
        let unknown =
            || TxError::new(TxCode::UnknownJob, "subject.job", id, "a job of this chain", "check the certificate");
        let job = state::job(&self.st, &id)?.ok_or_else(unknown)?;
        let unknown = || {
            TxError::new(
                TxCode::UnknownTask,
                "subject.task",
                index,
                format_args!("below {}", job.tasks),
                "check the certificate",
            )
        };
        let mut task = state::task(&self.st, &id, index)?.ok_or_else(unknown)?;
        let commit = match &task.state {
            TaskState::Certified(_) if task.attempt == attempt => return Err(recorded().into()),
            _ if task.rejections.iter().any(|r| r.attempt == attempt && r.check.is_some()) => {
                return Err(recorded().into());
            }
            TaskState::Voting(commit) if task.attempt == attempt => commit.clone(),
            TaskState::Unseeded
            | TaskState::Open
            | TaskState::Voting(_)
            | TaskState::Certified(_)
            | TaskState::Closed => {
                let value = format!("attempt {attempt}");
                return Err(TxError::new(
                    TxCode::NotInVoting,
                    "subject",
                    value,
                    "the claim in voting",
                    "the time for verdicts is over",
                )
                .into());
            }
        };
        let refuse = |value: String, limit: &str| {
            TxError::new(TxCode::Certificate, "certificate", value, limit, "collect the verdicts again")
        };
        if *subject != subject_of(self.ctx.genesis, &id, &job, index, attempt, &commit) {
            return Err(refuse("other subject".into(), "the claim in voting, field by field").into());
        }
        let set = state::set_unbounded(&self.st, commit.height)?
            .ok_or(StateError::Missing { record: "validator set record" })?;
        let outcome = certificate.outcome(&self.ctx.genesis, &set);
        match outcome.map_err(|e| refuse(e.to_string(), "valid verdicts in rising key order"))? {
            None => Err(refuse("undecided".into(), "more than 2/3 valid or more than 1/3 invalid").into()),
            Some(Outcome::Certified) => {
                let price = self.pay(&job, &commit, certificate, &set, certifier)?;
                let attempt = task.attempt;
                let prover = commit.prover;
                let claim = commit.claim.clone();
                task.state = TaskState::Certified(commit);
                self.st.put(keys::task(&id, index), &task);
                self.events.push(Event::ClaimCertified { job: id, task: index, attempt, prover, price });
                Ok(self.complete(&id, job, price, &claim)?)
            }
            Some(Outcome::Rejected) => {
                let check =
                    certificate.failed_check(&set).ok_or_else(|| refuse("no failed check".into(), "a named check"))?;
                Ok(self.reject(&id, job, index, task, &commit, check)?)
            }
        }
    }

    /// Shares out the price of the executed steps; returns it.
    fn pay(
        &mut self,
        job: &JobRecord,
        commit: &Commit,
        certificate: &ProofCertificate,
        set: &ValidatorSet,
        certifier: &PublicKey,
    ) -> Result<Amount, StateError> {
        let fees = self.ctx.params.fees.clone();
        let (Claim::Proof { steps, .. } | Claim::Failure { steps, .. }) = &commit.claim;
        // Escrow covers the price of the declared limit, and the claim's steps are within it.
        let price = money::price(&fees, *steps).map_or(job.escrow, |p| p.min(job.escrow));
        let shares = money::shares(&fees, price);
        let agreeing: Vec<_> = certificate.votes.iter().filter(|(_, verdict, _)| *verdict == Verdict::Valid).collect();
        let powers: Vec<_> = agreeing.iter().filter_map(|(key, _, _)| Some((*key, set.power_of(key)?))).collect();
        let total = powers.iter().map(|(_, power)| *power).fold(0, u64::saturating_add);
        let mut rest = price.saturating_sub(shares.certifier);
        for (key, power) in powers {
            // A validator whose record is gone already leaves its part to the prover, like every remainder.
            let Some(record) = state::validator(&self.st, &key)? else { continue };
            let part = money::fraction(shares.validators, power, total);
            self.credit(&record.account, part)?;
            rest = rest.saturating_sub(part);
        }
        self.credit(certifier, shares.certifier)?;
        self.credit(&commit.prover, rest)?;
        self.credit_work(&commit.prover)?;
        self.release(&commit.prover)?;
        Ok(price)
    }

    fn complete(&mut self, id: &JobId, mut job: JobRecord, price: Amount, claim: &Claim) -> Result<(), StateError> {
        job.fee_paid = price;
        job.escrow = job.escrow.saturating_sub(price);
        job.stage = Stage::Settle;
        match claim {
            Claim::Proof { .. } => self.end_job(id, job, JobStatus::Completed, None),
            Claim::Failure { reason, steps } => {
                let error = JobError::ProgramFailed { reason: *reason, steps: *steps };
                self.end_job(id, job, JobStatus::Failed, Some(error))
            }
        }
    }

    fn reject(
        &mut self,
        id: &JobId,
        job: JobRecord,
        index: u32,
        mut task: TaskRecord,
        commit: &Commit,
        check: Check,
    ) -> Result<(), StateError> {
        let (attempt, prover) = (task.attempt, commit.prover);
        task.remember(Rejection { attempt, prover, check: Some(check) });
        self.events.push(Event::ClaimRejected { job: *id, task: index, attempt, prover, check });
        // First the lock, then the release: a prover that leaves must not be paid out in between.
        self.bar(&prover)?;
        self.release(&prover)?;
        self.next_attempt(id, job, index, task, false)
    }
}
