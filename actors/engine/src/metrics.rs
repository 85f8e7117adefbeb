//! The engine's numbers, under the names that operators' dashboards use. Labels are bounded: no job or validator ids.

use prometheus::core::Collector;
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
    pub(crate) mempool_dropped: IntCounter,
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
    /// Settings that name no device of this machine.
    pub(crate) prover_settings_unmatched: IntGaugeVec,
    /// Device memory of the last proof on a device, estimated and at its peak.
    pub(crate) prover_device_memory: IntGaugeVec,
    /// OpenCL devices of this machine, by state.
    pub(crate) prover_devices: IntGaugeVec,
    /// Jobs that are not terminal.
    pub(crate) jobs_pending: IntGauge,
    /// Messages refused because a mailbox was full, by actor.
    pub(crate) refused: IntCounterVec,
    /// Turns given away, by reason.
    pub(crate) declines: IntCounterVec,
    /// Bytes of blobs: used, unreferenced, budget.
    pub(crate) blob_bytes: IntGaugeVec,
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

/// Seconds of steps inside a block.
const SHORT: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Seconds of jobs and of the pace of blocks.
const LONG: [f64; 9] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Seconds of a proof's phases, on any backend.
const PHASES: [f64; 14] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> prometheus::Result<M> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &[label]))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake in this file.
    #[allow(clippy::too_many_lines, reason = "a list with an entry for each metric")]
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let restarts = "Restarts of the actor since the start of the node.";
        Ok(Self {
            evidence: shown(
                make.counters("consensus_fraud_detected_total", "Equivocations found here, by kind.", &["kind"])?,
                ["votes", "proposals", "verdicts"],
            ),
            restarts: (
                make.gauges("service_restart_count", restarts, "actor")?,
                make.counters("service_restart_count_total", restarts, &["actor"])?,
            ),
            validators_registered: make
                .counter("consensus_validators_registered_total", "Validators that joined the set.")?,
            validators_removed: make.counter("consensus_validators_removed_total", "Validators that left the set.")?,
            claims: make.counters("consensus_rounds_total", "Ends of votes on claims, by outcome.", &["outcome"])?,
            view_changes: make.counters(
                "consensus_view_changes_total",
                "Rounds after the first of a height.",
                &["reason"],
            )?,
            persistence: make.counters(
                "consensus_persistence_operations_total",
                "Flushes of log and guard, and commits of blocks.",
                &["operation", "status"],
            )?,
            pending_votes: make.gauge("consensus_pending_votes", "Claims in work here that wait for the own vote.")?,
            job_queue_seconds: make.histogram(
                "job_queue_duration_seconds",
                "From a job's submission to its first assignment, block time.",
                &LONG,
            )?,
            job_seconds: make.histogram(
                "job_processing_duration_seconds",
                "From a job's submission to its end, block time.",
                &LONG,
            )?,
            validation_seconds: make.histogram(
                "block_validation_duration_seconds",
                "Checking a proposed block.",
                &SHORT,
            )?,
            propagation_seconds: make.histogram(
                "block_propagation_duration_seconds",
                "From a proposed block's time to its arrival here; clocks differ.",
                &SHORT,
            )?,
            validators: make.gauge("consensus_active_validators", "Validators of the next height.")?,
            height: make.gauge("block_height", "Height of the last applied block.")?,
            round: make.gauge("consensus_current_view", "Round of the running height.")?,
            sync_target: make.gauge(
                "proofmesh_sync_target_height",
                "Height the network has reached, as far as validators, most peers or a certificate vouch for it.",
            )?,
            mempool: make.gauge("proofmesh_mempool_transactions", "Transactions that wait for a block.")?,
            mempool_dropped: make.counter(
                "proofmesh_mempool_dropped_total",
                "Gossiped transactions dropped unseen, because their sender's were mostly useless or too many.",
            )?,
            jobs_pending: make.gauge("jobs_in_queue", "Jobs that are not terminal.")?,
            uptime: make.gauge("service_uptime_seconds", "Seconds since the engine started.")?,
            block_seconds: make.histogram(
                "consensus_finalization_duration_seconds",
                "From applied block to applied block.",
                &LONG,
            )?,
            commit_seconds: make.histogram("block_processing_duration_seconds", "Applying a decided block.", &SHORT)?,
            flush_seconds: make.histogram(
                "consensus_persistence_duration_seconds",
                "One flush of consensus log and guard.",
                &SHORT,
            )?,
            verify_seconds: make.histogram(
                "consensus_vote_duration_seconds",
                "Checking a claim, fetching its bytes included.",
                &LONG,
            )?,
            prove_seconds: make.histogram(
                "job_execution_duration_seconds",
                "Own proofs, from turn to checked proof.",
                &LONG,
            )?,
            prover_phase_seconds: make.histograms(
                "proofmesh_prover_phase_seconds",
                "Phases of own proofs that were made, by the backend that made them.",
                &["backend", "phase"],
                &PHASES,
            )?,
            prover_proofs: shown(
                make.counters("proofmesh_prover_proofs_total", "Own proofs that were made, by backend.", &["backend"])?,
                ["cpu", "opencl"],
            ),
            prover_fallbacks: shown(
                make.counters(
                    "proofmesh_prover_fallbacks_total",
                    "Proofs that a device began and the processor had to make, by kind of reason.",
                    &["reason"],
                )?,
                Reason::ALL.map(Reason::name),
            ),
            prover_settings_unmatched: make.gauges(
                "proofmesh_prover_settings_unmatched",
                "Entries of prover.devices and prover.exclude that name no device of this machine.",
                "setting",
            )?,
            prover_device_memory: make.gauges(
                "proofmesh_prover_device_memory_bytes",
                "Device memory of the last own proof on a device: the estimate before it, and the most in use at once.",
                "kind",
            )?,
            prover_devices: make.gauges(
                "proofmesh_prover_devices",
                "OpenCL devices of this machine, by what the node does with them.",
                "state",
            )?,
            transactions: make.counter("proofmesh_transactions_applied_total", "Transactions in applied blocks.")?,
            votes: make.counters("consensus_votes_total", "Own verdicts on claims, by answer.", &["verdict"])?,
            refused: make.counters(
                "proofmesh_mailbox_refused_total",
                "Messages refused since the start because a mailbox was full, by actor.",
                &["actor"],
            )?,
            declines: shown(
                make.counters(
                    "proofmesh_prover_declines_total",
                    "Turns that any prover gave away in applied blocks, by reason.",
                    &["reason"],
                )?,
                ["memory", "busy", "input", "worker", "unprovable"],
            ),
            blob_bytes: make.gauges(
                "proofmesh_blob_bytes",
                "Bytes of programs and proofs: used, of that needed by no job yet, and the budget.",
                "part",
            )?,
            store_bytes: make.gauges(
                "proofmesh_store_bytes",
                "Bytes of the database: files on disk, memory tables, cache in memory.",
                "part",
            )?,
            disk_free: make.gauge("proofmesh_disk_free_bytes", "Free bytes on the disk of the home folder.")?,
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
