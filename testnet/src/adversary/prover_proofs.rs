//! Proofs of a cheating prover: real ones, made by the product's own prover, and what is done to them afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use prover::{BoundRun, Engine, ProveRequest};
use types::ids::JobId;
use types::job::JobSpec;
use types::keys::PublicKey;
use types::statement::Statement;

/// A job as its submission describes it.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// The job.
    pub(super) job: JobId,
    /// Its specification.
    pub(super) spec: JobSpec,
    /// What a proof must say.
    pub(super) statement: Statement,
    /// Program file.
    pub(super) program: Vec<u8>,
    /// Arguments file.
    pub(super) args: Option<Vec<u8>>,
}

/// A blob to commit to and the steps to claim.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// The proof's bytes.
    pub(super) blob: Arc<Vec<u8>>,
    /// Steps of the program.
    pub(super) steps: u64,
}

/// Makes proofs, one at a time, and keeps the valid ones.
#[derive(Default)]
pub(super) struct Workshop {
    engine: Mutex<Engine>,
    valid: Mutex<BTreeMap<JobId, Made>>,
}

impl Workshop {
    fn engine(&self) -> std::sync::MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A valid proof of the job under the adversary's own key.
    pub(super) fn valid(&self, of: &Assignment, prover: PublicKey) -> Result<Made> {
        let request = ProveRequest {
            statement: of.statement.clone(),
            prover,
            program: of.program.clone(),
            args: of.args.clone(),
            max_steps: of.spec.max_steps,
            memory_limit: None,
        };
        let proven = self.engine().prove(request, Box::new(|_| {}))?;
        let made = Made { blob: Arc::new(proven.blob), steps: proven.steps };
        self.valid.lock().unwrap_or_else(PoisonError::into_inner).insert(of.job, made.clone());
        Ok(made)
    }

    /// The valid proof made for a job before.
    pub(super) fn made_for(&self, job: &JobId) -> Result<Made> {
        let made = self.valid.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned();
        made.with_context(|| format!("no valid proof of job {job} was made before"))
    }

    /// A valid proof in which one bit is another: the lowest one of the commitment to the trace.
    pub(super) fn changed_bit(&self, of: &Assignment, prover: PublicKey) -> Result<Made> {
        let valid = self.valid(of, prover)?;
        let mut decoded = proof::envelope::decode(&valid.blob)?;
        let root = decoded.stark_proof.0.commitments.0.get_mut(1).context("the proof has no trace commitment")?;
        if let Some(byte) = root.0.first_mut() {
            *byte ^= 1;
        }
        Ok(Made { blob: Arc::new(proof::envelope::encode(&decoded)?), steps: valid.steps })
    }

    /// A proof of the job's program, bound to the job and to the adversary's key, over other arguments.
    pub(super) fn other_input(&self, of: &Assignment, prover: PublicKey, args: &str) -> Result<Made> {
        let run = BoundRun {
            program: of.program.clone(),
            args: Some(args.as_bytes().to_vec()),
            hash_function: of.statement.hash_function,
            binding: of.statement.binding_words(&prover),
            max_steps: of.spec.max_steps,
        };
        let proven = self.engine().prove_unchecked(run, Box::new(|_| {}))?;
        Ok(Made { blob: Arc::new(proven.blob), steps: proven.steps })
    }
}
