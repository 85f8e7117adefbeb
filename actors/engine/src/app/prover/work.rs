//! One proof: input fetched, proof made at a place, stored where peers can fetch it. Ends in a claim or in the reason why
//! there is none.

use std::time::Duration;

use prover::ProveRequest;
use prover::Proven;
use prover::backend::DeviceMemory;
use prover::fleet::{Attempt, Seat};
use prover::worker::JobError;
use types::blob::blob_hash;
use types::ids::BlobHash;
use types::keys::SecretKey;
use types::transaction::DeclineReason;
use types::verdict::Claim;

use super::board::Board;
use super::{Failure, Turn};
use crate::app::{blobs, scheduler};
use crate::crossings::Crossing;
use crate::wiring::{Wiring, wall_clock};

/// Time to bring a job's input here.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// Longest proof, what a device spent on it before it failed included.
const PROVE_LIMIT: Duration = Duration::from_secs(3600);

/// What a proof needs beside its turn.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) wiring: Wiring,
    pub(super) key: SecretKey,
    pub(super) memory_bytes: u64,
    pub(super) board: Board,
}

impl Work {
    /// Proves a turn at a place, which is free again when this ends.
    pub(super) async fn prove(&self, seat: Seat, turn: &Turn) -> Result<Claim, Failure> {
        let request = self.request(turn).await?;
        let started = std::time::Instant::now();
        let Attempt { result, place, fallback } = seat
            .prove(request, PROVE_LIMIT, |stage, place| {
                self.wiring.crossings.at(Crossing::Proving);
                self.board.stage(turn.job, turn.attempt, stage, place);
                scheduler::announce_job(&self.wiring, &self.wiring.view(), &turn.job);
            })
            .await;
        drop(seat);
        let metrics = &self.wiring.metrics;
        if let Some(fallback) = &fallback {
            metrics.prover_fallbacks.with_label_values(&[fallback.reason.name()]).inc();
        }
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(proven) => {
                let backend = place.backend();
                metrics.prove_seconds.observe(seconds);
                metrics.prover_proofs.with_label_values(&[backend]).inc();
                for (stage, ms) in &proven.phases_ms {
                    let phase = metrics.prover_phase_seconds.with_label_values(&[backend, stage.name()]);
                    phase.observe(Duration::from_millis(*ms).as_secs_f64());
                }
                if let Some(DeviceMemory { estimated_bytes, peak_bytes }) = proven.device_memory {
                    for (kind, bytes) in [("estimated", estimated_bytes), ("peak", peak_bytes)] {
                        let gauge = metrics.prover_device_memory.with_label_values(&[kind]);
                        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                    }
                    tracing::info!(job = %turn.job, estimated_bytes, peak_bytes, "device memory of the proof");
                }
                let (bytes, steps) = (proven.blob.len() as u64, proven.steps);
                let hash = self.keep(turn, proven).await?;
                self.wiring.crossings.at(Crossing::Proved);
                let device = place.device().unwrap_or_default();
                tracing::info!(job = %turn.job, %hash, bytes, steps, seconds, backend, device, "proved");
                Ok(Claim::Proof { hash, bytes, steps })
            }
            Err(JobError::Failed { reason, detail, steps }) => {
                tracing::info!(job = %turn.job, ?reason, %detail, steps, "the program fails; reporting it");
                Ok(Claim::Failure { reason, steps })
            }
            Err(error) => Err(of_worker(error)),
        }
    }

    /// The proof to make, its input brought here.
    async fn request(&self, turn: &Turn) -> Result<ProveRequest, Failure> {
        let input = |e: blobs::BlobError| Failure::Decline {
            reason: DeclineReason::Input,
            detail: e.to_string(),
            pause: false,
        };
        let program = blobs::ensure(&self.wiring, turn.spec.program, None, FETCH_LIMIT).await.map_err(input)?;
        let args = match turn.spec.args {
            Some(blob) => Some(blobs::ensure(&self.wiring, blob, None, FETCH_LIMIT).await.map_err(input)?),
            None => None,
        };
        Ok(ProveRequest {
            statement: turn.statement.clone(),
            prover: self.key.public(),
            program,
            args,
            max_steps: turn.spec.max_steps,
            memory_limit: Some(self.memory_bytes),
        })
    }

    /// Stores the proof where peers can fetch it, before it is committed.
    async fn keep(&self, turn: &Turn, proven: Proven) -> Result<BlobHash, Failure> {
        let failed = |detail: String| Failure::Decline { reason: DeclineReason::Busy, detail, pause: true };
        let hash = blob_hash(&proven.blob);
        let (store, job) = (self.wiring.blobs.clone(), turn.job);
        let stored = tokio::task::spawn_blocking(move || {
            // Referred to first: then it does not share the room of uploads that no job needs yet.
            store.refer(job, &[hash])?;
            store.put(&proven.blob, wall_clock()).map(|_| ())
        })
        .await;
        match stored {
            Ok(Ok(())) => Ok(hash),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn of_worker(error: JobError) -> Failure {
    let (reason, pause) = match &error {
        // The job asks for more than there is, so the child is gone; the next job is another matter, and a program that
        // could make provers pause could keep all of them from working.
        JobError::Memory { .. } | JobError::Resources { .. } | JobError::OutOfMemory { .. } => {
            (DeclineReason::Memory, false)
        }
        JobError::Input { .. } => (DeclineReason::Input, false),
        JobError::Unprovable { .. } => (DeclineReason::Unprovable, false),
        JobError::Cancelled => return Failure::Abandoned,
        _ => (DeclineReason::Worker, true),
    };
    Failure::Decline { reason, detail: error.to_string(), pause }
}
