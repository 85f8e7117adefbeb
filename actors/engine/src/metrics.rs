//! The engine's numbers, under the names that operators' dashboards use. Labels are bounded: no job or validator ids.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use prover::fleet::Reason;

/// All metrics of one engine.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Height of the last applied block.
    pub(crate) height: IntGauge,
    /// Round of the running height.
    pub(crate) round: IntGauge,
    /// Highest height a peer claims.
    pub(crate) sync_target: IntGauge,
    /// Transactions applied.
    pub(crate) transactions: IntCounter,
    /// Transactions waiting.
    pub(crate) mempool: IntGauge,
    /// From block to block.
    pub(crate) block_seconds: Histogram,
    /// Applying a decided block: execution (if new), batch, view.
    pub(crate) commit_seconds: Histogram,
    /// One flush of consensus log and guard.
    pub(crate) flush_seconds: Histogram,
    /// Own verdicts by answer.
    pub(crate) votes: IntCounterVec,
    /// Checking one claim, fetching included.
    pub(crate) verify_seconds: Histogram,
    /// Own proofs, from turn to checked proof.
    pub(crate) prove_seconds: Histogram,
    /// Phases of own proofs, by backend and phase.
    pub(crate) prover_phase_seconds: HistogramVec,
    /// Own proofs, by backend.
    pub(crate) prover_proofs: IntCounterVec,
    /// Proofs that a device began and the processor made, by kind of reason.
    pub(crate) prover_fallbacks: IntCounterVec,
    /// OpenCL devices of this machine, by state.
    pub(crate) prover_devices: IntGaugeVec,
    /// Jobs that are not terminal.
    pub(crate) jobs_pending: IntGauge,
    /// Messages refused because a mailbox was full, by actor.
    pub(crate) refused: IntGaugeVec,
    /// Bytes of the database, by part.
    pub(crate) store_bytes: IntGaugeVec,
    /// Free bytes on the disk.
    pub(crate) disk_free: IntGauge,
    /// Seconds since the start.
    pub(crate) uptime: IntGauge,
    /// Offences found, by kind.
    pub(crate) evidence: IntCounterVec,
    /// Restarts of actors since the start, by actor; under two names, as dashboards know both.
    restarts: (IntGaugeVec, IntCounterVec),
    /// Validators of the next height.
    pub(crate) validators: IntGauge,
    /// Validators that joined.
    pub(crate) validators_registered: IntCounter,
    /// Validators that left.
    pub(crate) validators_removed: IntCounter,
    /// Ends of votes on claims, by outcome.
    pub(crate) claims: IntCounterVec,
    /// Rounds above the first of a height, by reason.
    pub(crate) view_changes: IntCounterVec,
    /// Flushes and commits, by operation and status.
    pub(crate) persistence: IntCounterVec,
    /// Claims that this node works on and has not voted on.
    pub(crate) pending_votes: IntGauge,
    /// From submission to the first assignment, block time.
    pub(crate) job_queue_seconds: Histogram,
    /// From submission to the end, block time.
    pub(crate) job_seconds: Histogram,
    /// Checking a proposed block.
    pub(crate) validation_seconds: Histogram,
    /// From a proposed block's time to its arrival, by this machine's clock.
    pub(crate) propagation_seconds: Histogram,
}

/// Shows the values of a counter's only label from the start.
fn shown<const N: usize>(counter: IntCounterVec, values: [&str; N]) -> IntCounterVec {
    for value in values {
        counter.with_label_values(&[value]).inc_by(0);
    }
    counter
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake in this file.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| -> Result<Histogram, prometheus::Error> {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let short = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
        let long = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
        let refused = IntGaugeVec::new(
            Opts::new(
                "proofmesh_mailbox_refused",
                "Messages refused since the start because a mailbox was full, by actor.",
            ),
            &["actor"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        let store_bytes = IntGaugeVec::new(
            Opts::new("proofmesh_store_bytes", "Bytes of the database: files on disk, memory tables, cache in memory."),
            &["part"],
        )?;
        registry.register(Box::new(store_bytes.clone()))?;
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let prover_devices = IntGaugeVec::new(
            Opts::new("proofmesh_prover_devices", "OpenCL devices of this machine, by what the node does with them."),
            &["state"],
        )?;
        registry.register(Box::new(prover_devices.clone()))?;
        let prover_phase_seconds = HistogramVec::new(
            HistogramOpts::new(
                "proofmesh_prover_phase_seconds",
                "Phases of own proofs that were made, by the backend that made them.",
            )
            .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]),
            &["backend", "phase"],
        )?;
        registry.register(Box::new(prover_phase_seconds.clone()))?;
        let restarts = "Restarts of the actor since the start of the node.";
        let restart_gauge = IntGaugeVec::new(Opts::new("service_restart_count", restarts), &["actor"])?;
        registry.register(Box::new(restart_gauge.clone()))?;
        Ok(Self {
            evidence: counters("consensus_fraud_detected_total", "Equivocations found here, by kind.", &["kind"])?,
            restarts: (restart_gauge, counters("service_restart_count_total", restarts, &["actor"])?),
            validators_registered: counter("consensus_validators_registered_total", "Validators that joined the set.")?,
            validators_removed: counter("consensus_validators_removed_total", "Validators that left the set.")?,
            claims: counters("consensus_rounds_total", "Ends of votes on claims, by outcome.", &["outcome"])?,
            view_changes: counters("consensus_view_changes_total", "Rounds after the first of a height.", &["reason"])?,
            persistence: counters(
                "consensus_persistence_operations_total",
                "Flushes of log and guard, and commits of blocks.",
                &["operation", "status"],
            )?,
            pending_votes: gauge("consensus_pending_votes", "Claims in work here that wait for the own vote.")?,
            job_queue_seconds: histogram(
                "job_queue_duration_seconds",
                "From a job's submission to its first assignment, block time.",
                &long,
            )?,
            job_seconds: histogram(
                "job_processing_duration_seconds",
                "From a job's submission to its end, block time.",
                &long,
            )?,
            validation_seconds: histogram("block_validation_duration_seconds", "Checking a proposed block.", &short)?,
            propagation_seconds: histogram(
                "block_propagation_duration_seconds",
                "From a proposed block's time to its arrival here; clocks differ.",
                &short,
            )?,
            validators: gauge("consensus_active_validators", "Validators of the next height.")?,
            height: gauge("block_height", "Height of the last applied block.")?,
            round: gauge("consensus_current_view", "Round of the running height.")?,
            sync_target: gauge("proofmesh_sync_target_height", "Highest height a peer in good standing claims.")?,
            mempool: gauge("proofmesh_mempool_transactions", "Transactions that wait for a block.")?,
            jobs_pending: gauge("jobs_in_queue", "Jobs that are not terminal.")?,
            uptime: gauge("service_uptime_seconds", "Seconds since the engine started.")?,
            block_seconds: histogram(
                "consensus_finalization_duration_seconds",
                "From applied block to applied block.",
                &long,
            )?,
            commit_seconds: histogram("block_processing_duration_seconds", "Applying a decided block.", &short)?,
            flush_seconds: histogram(
                "consensus_persistence_duration_seconds",
                "One flush of consensus log and guard.",
                &short,
            )?,
            verify_seconds: histogram(
                "consensus_vote_duration_seconds",
                "Checking a claim, fetching its bytes included.",
                &long,
            )?,
            prove_seconds: histogram(
                "job_execution_duration_seconds",
                "Own proofs, from turn to checked proof.",
                &long,
            )?,
            prover_phase_seconds,
            prover_proofs: shown(
                counters("proofmesh_prover_proofs_total", "Own proofs that were made, by backend.", &["backend"])?,
                ["cpu", "opencl"],
            ),
            prover_fallbacks: shown(
                counters(
                    "proofmesh_prover_fallbacks_total",
                    "Proofs that a device began and the processor had to make, by kind of reason.",
                    &["reason"],
                )?,
                Reason::ALL.map(Reason::name),
            ),
            prover_devices,
            transactions: counter("proofmesh_transactions_applied_total", "Transactions in applied blocks.")?,
            votes: counters("consensus_votes_total", "Own verdicts on claims, by answer.", &["verdict"])?,
            refused,
            store_bytes,
            disk_free: gauge("proofmesh_disk_free_bytes", "Free bytes on the disk of the home folder.")?,
            registry,
        })
    }

    /// Shows an actor that has not restarted yet, so that its count is there from the start.
    pub(crate) fn watch_restarts(&self, actor: &str) {
        self.restarts.0.with_label_values(&[actor]).set(0);
        self.restarts.1.with_label_values(&[actor]).inc_by(0);
    }

    /// Counts a restart.
    pub(crate) fn restarted(&self, actor: &str) {
        self.restarts.0.with_label_values(&[actor]).inc();
        self.restarts.1.with_label_values(&[actor]).inc();
    }

    /// The registry as Prometheus text.
    ///
    /// # Errors
    /// When encoding fails.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}
