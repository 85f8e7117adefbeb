//! What others see of this node's prover: its proofs in work, its places, and why it does what it does.
//!
//! Written to by the actor, by the proofs in work, and by the places themselves when a worker starts, dies or is disabled;
//! the view that readers hold is made anew with every change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prover::Stage;
use prover::fleet::{DEVICE_STATES, Fleet, Place};
use tokio::sync::watch;
use types::ids::JobId;

use crate::api::views::{ProgressView, ProverStatusView, RunningView};
use crate::metrics::Metrics;

/// Shown while nothing else is known.
const NOTHING_OPEN: &str = "no task is open for this prover";

/// The board; cloning gives another handle.
#[derive(Clone)]
pub(super) struct Board {
    fleet: Fleet,
    metrics: Arc<Metrics>,
    status: Arc<watch::Sender<ProverStatusView>>,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Default)]
struct Lines {
    idle: String,
    running: BTreeMap<(JobId, u32), Line>,
}

/// One task in work.
struct Line {
    what: String,
    place: Option<Place>,
    progress: Option<ProgressView>,
}

impl Board {
    pub(super) fn new(fleet: Fleet, metrics: Arc<Metrics>, status: Arc<watch::Sender<ProverStatusView>>) -> Self {
        let board = Self { fleet, metrics, status, lines: Arc::default() };
        board.lock().idle = NOTHING_OPEN.into();
        board.show();
        board
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the places until they are gone; holds none of them.
    pub(super) async fn follow(self) {
        let mut changes = self.fleet.changes();
        let Self { fleet, metrics, status, lines } = self;
        let places = fleet.downgrade();
        drop(fleet);
        while changes.changed().await.is_ok() {
            let Some(fleet) = places.upgrade() else { return };
            let (metrics, status, lines) = (Arc::clone(&metrics), Arc::clone(&status), Arc::clone(&lines));
            Self { fleet, metrics, status, lines }.show();
        }
    }

    /// A task is in work: `what` in words.
    pub(super) fn begin(&self, job: JobId, attempt: u32, what: &str, place: Option<&Place>) {
        let line = Line { what: what.into(), place: place.cloned(), progress: None };
        self.lock().running.insert((job, attempt), line);
        self.show();
    }

    /// A task has got to a stage.
    pub(super) fn stage(&self, job: JobId, attempt: u32, stage: Stage, place: &Place) {
        if let Some(line) = self.lock().running.get_mut(&(job, attempt)) {
            line.what = stage.name().into();
            line.place = Some(place.clone());
            let permille = u32::from(stage.percent_before()).saturating_mul(10);
            line.progress = Some(ProgressView { stage: stage.name().into(), permille });
        }
        self.show();
    }

    /// A task is out of work; `idle` is the reason for doing nothing from now on, if that is all.
    pub(super) fn end(&self, job: JobId, attempt: u32, idle: Option<&str>) {
        let mut lines = self.lock();
        lines.running.remove(&(job, attempt));
        lines.idle = idle.unwrap_or(NOTHING_OPEN).into();
        drop(lines);
        self.show();
    }

    /// Publishes the view.
    fn show(&self) {
        let fleet = self.fleet.status();
        for state in DEVICE_STATES {
            let count = fleet.devices.iter().filter(|device| device.state == state).count();
            self.metrics.prover_devices.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for field in ["prover.devices", "prover.exclude"] {
            let count = fleet.problems.iter().filter(|problem| problem.field == field).count();
            let unmatched = self.metrics.prover_settings_unmatched.with_label_values(&[field]);
            unmatched.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let pid = |place: &Place| self.fleet.pid(place);
        let lines = self.lock();
        let running: Vec<RunningView> = lines
            .running
            .iter()
            .map(|((job, attempt), line)| RunningView {
                job_id: *job,
                attempt: *attempt,
                backend: line.place.as_ref().map(|place| place.backend().into()),
                device: line.place.as_ref().and_then(Place::device).map(Into::into),
                worker_pid: line.place.as_ref().and_then(pid),
                progress: line.progress.clone(),
            })
            .collect();
        let (state, reason) = match lines.running.first_key_value() {
            Some(((job, attempt), line)) => ("proving", format!("job {job}, attempt {attempt}, {}", line.what)),
            None => ("idle", lines.idle.clone()),
        };
        drop(lines);
        let first = running.first();
        let any_pid = || fleet.devices.iter().find_map(|device| device.worker_pid).or(fleet.cpu_pid);
        let view = ProverStatusView {
            state: state.into(),
            reason,
            worker_pid: first.and_then(|line| line.worker_pid).or_else(any_pid),
            job_id: first.map(|line| line.job_id),
            progress: first.and_then(|line| line.progress.clone()),
            backend: fleet.backend.into(),
            backend_reason: fleet.reason,
            problems: fleet.problems,
            capacity: fleet.capacity,
            running,
            devices: fleet.devices,
        };
        self.status.send_replace(view);
    }
}
