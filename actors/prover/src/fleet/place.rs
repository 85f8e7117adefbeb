//! One proof at a place: what a device can't do is done by the processor in the same attempt, and failures are counted
//! against the device that they are a fault of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fall::{Fallback, Reason};
use super::seats::Inner;
use crate::engine::{ProveRequest, Proven};
use crate::stages::Stage;
use crate::worker::{JobError, Worker};

/// Where a proof is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The processor.
    Cpu,
    /// A device.
    Device {
        /// The fleet's own number for it, which no other device gets later.
        id: u64,
        /// Number in the listing.
        index: usize,
        /// Name.
        name: String,
    },
}

impl Place {
    /// The backend's name in reports and metrics.
    pub const fn backend(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Device { .. } => "opencl",
        }
    }

    /// The device's name.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Cpu => None,
            Self::Device { name, .. } => Some(name),
        }
    }
}

/// How a proof ended.
#[derive(Debug)]
pub struct Attempt {
    /// The proof, or why there is none.
    pub result: Result<Proven, JobError>,
    /// Where it was made, or given up.
    pub place: Place,
    /// Why it was not made on the device on which it was begun.
    pub fallback: Option<Fallback>,
}

/// A place held for one proof; dropped, it is free again.
pub struct Seat {
    inner: Arc<Inner>,
    place: Place,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({:?})", self.place)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        match &self.place {
            Place::Cpu => self.inner.change(|state| state.cpu_busy = false),
            Place::Device { id, .. } => {
                self.inner.device(*id, |device| device.busy = false);
            }
        }
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn work(
    worker: &Worker,
    request: ProveRequest,
    limit: Duration,
    on_stage: impl FnMut(Stage),
) -> Result<Proven, JobError> {
    worker.prove(request, limit).await?.wait(on_stage).await
}

impl Seat {
    /// Takes a place that was marked as taken.
    pub(super) fn new(inner: Arc<Inner>, place: Place) -> Self {
        Self { inner, place }
    }

    /// The place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Process id of the worker at `place`.
    pub fn pid(&self, place: &Place) -> Option<u32> {
        self.inner.pid(place)
    }

    /// Makes a proof within `limit`; what a device can't do is done by the processor in the time that is left. `on_stage`
    /// is told each stage and where it is. Dropping the future ends the work.
    pub async fn prove(
        &self,
        request: ProveRequest,
        limit: Duration,
        mut on_stage: impl FnMut(Stage, &Place),
    ) -> Attempt {
        let Place::Device { id, name, .. } = &self.place else {
            let result = work(&self.inner.cpu, request, limit, |stage| on_stage(stage, &Place::Cpu)).await;
            return Attempt { result, place: Place::Cpu, fallback: None };
        };
        let started = Instant::now();
        let worker = self.inner.device(*id, |device| device.worker.clone()).flatten();
        let result = match &worker {
            Some(worker) => work(worker, request.clone(), limit, |stage| on_stage(stage, &self.place)).await,
            None => Err(JobError::Start { detail: "it has no worker".into() }),
        };
        let error = match result {
            Ok(proven) => {
                self.inner.device(*id, |device| {
                    device.health.succeeded();
                    device.proofs = device.proofs.saturating_add(1);
                    device.last_proof_ms = Some(in_ms(started.elapsed()));
                });
                return Attempt { result: Ok(proven), place: self.place.clone(), fallback: None };
            }
            Err(error) => error,
        };
        let left = limit.saturating_sub(started.elapsed());
        let Some(reason) = Reason::of(&error).filter(|_| !left.is_zero()) else {
            return Attempt { result: Err(error), place: self.place.clone(), fallback: None };
        };
        let fallback = Fallback { reason, detail: error.to_string(), device: name.clone() };
        tracing::warn!(device = %name, reason = reason.name(), detail = %fallback.detail, "the processor makes the proof");
        let result = work(&self.inner.cpu, request, left, |stage| on_stage(stage, &Place::Cpu)).await;
        if reason.counts(result.is_ok()) {
            let detail = format!("{}: {}", reason.name(), fallback.detail);
            self.inner.device(*id, |device| {
                device.health.failed(Instant::now(), &detail, reason == Reason::Start);
                if device.health.disabled(Instant::now()).is_some() {
                    tracing::warn!(device = %name, %detail, "the device is disabled for a while");
                }
            });
        }
        Attempt { result, place: Place::Cpu, fallback: Some(fallback) }
    }
}
