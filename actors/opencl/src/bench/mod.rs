//! Benchmarks of whole proofs. Owns what is measured and how it is printed; a figure never stands for less than a
//! proof, and verification is timed apart. Every run has a number in its transcript, so that proofs of work differ.
//!
//! On the device each run is made twice: for the total time, undisturbed; and for its phases, with a wait at the end of each.

mod spans;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use stwo::core::pcs::PcsConfig;
use stwo::prover::backend::simd::SimdBackend;

use crate::OclBackend;
use crate::air::{
    Numbered, Prepared, Rounds, Workload, fixed_root, needed_bytes, parameters_with, proof_bytes, prove_on_device,
    prove_simd, verify,
};
use crate::device::{Counters, Runtime, host_phase, phase, phase_costs, reset_phases, set_exact_phases};
use crate::error::{Error, Result, guarded};
use crate::prove::Proof;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the workload.
    pub air: &'static str,
    /// Logarithm of the number of rows.
    pub log_rows: u32,
    /// Number of columns of the trace.
    pub columns: usize,
    /// Conjectured security, 13 or 96.
    pub security: u32,
    /// How FRI is cut into rounds.
    pub rounds: Rounds,
    /// Measured runs, after one that is not; [`default_runs`] by default.
    pub runs: usize,
    /// Verify the last proof.
    pub verify: bool,
}

/// Enough runs for a median in spite of the proof of work, whose time is geometric and at 96 bits much of the whole.
#[must_use]
pub fn default_runs(security: u32) -> usize {
    if security >= 96 { 20 } else { 7 }
}

/// The outcome, as printed with `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the workload.
    pub air: String,
    /// `opencl` or `simd`.
    pub backend: String,
    /// Device, or the number of host threads.
    pub device: String,
    /// Driver version; empty on the host.
    pub driver: String,
    /// Logarithm of the number of rows.
    pub log_rows: u32,
    /// Number of columns of the trace.
    pub columns: usize,
    /// Security as computed from the proof's parameters.
    pub security_bits: u32,
    /// Measured runs.
    pub runs: usize,
    /// Folds per committed layer of FRI, and the logarithm of the last layer's degree bound.
    pub fri: [u32; 2],
    /// Median time from the start of the trace to the finished proof, in milliseconds.
    pub total_ms: f64,
    /// The same without the time of the proof of work.
    pub without_pow_ms: f64,
    /// Mean time of the proof of work, whose median says little.
    pub pow_mean_ms: f64,
    /// Shortest and longest such time.
    pub range_ms: [f64; 2],
    /// Median time of each phase. On the device these runs wait at the end of each, so their sum is more than the total.
    pub phases_ms: BTreeMap<String, f64>,
    /// What was started and moved in the phases of the last run; empty on the host.
    pub phases_counters: BTreeMap<String, Counters>,
    /// Verification, if asked for; the commitment to the fixed columns is known before.
    pub verify_ms: Option<f64>,
    /// Proofs per second, one after the other.
    pub proofs_per_s: f64,
    /// Permutations per second, for workloads that are about permutations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permutations_per_s: Option<f64>,
    /// The same proof with `SimdBackend` in the same run, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Size of the proof.
    pub proof_bytes: usize,
    /// SHA-256 of the proof.
    pub proof_sha256: String,
    /// Whether stwo's verifier accepted it.
    pub verified: bool,
    /// Most memory that this process has used on the host.
    pub peak_host_bytes: u64,
    /// Most device memory in use at once.
    pub peak_device_bytes: u64,
    /// The estimate before a proof, which is declined where it does not fit.
    pub estimated_device_bytes: u64,
    /// What ran on the device in the last run.
    pub counters: Counters,
}

/// The host's side of a comparison: the same proofs in the same process, alternating with the device's.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Number of host threads, in words.
    pub device: String,
    /// Median time.
    pub total_ms: f64,
    /// The same without the proof of work.
    pub without_pow_ms: f64,
    /// Median time of each phase.
    pub phases_ms: BTreeMap<String, f64>,
    /// How many times longer the host takes.
    pub speed_up: f64,
    /// The same without the proof of work.
    pub speed_up_without_pow: f64,
}

/// One measured run.
struct Run {
    total: Duration,
    pow: Duration,
    phases: BTreeMap<&'static str, Duration>,
    counters: BTreeMap<&'static str, Counters>,
    proof: Proof,
}

/// Runs with each backend.
#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn median(&self, of: impl Fn(&Run) -> Duration) -> Duration {
        let mut times: Vec<Duration> = self.0.iter().map(of).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn phases_ms(&self) -> BTreeMap<String, f64> {
        let names: std::collections::BTreeSet<&str> =
            self.0.iter().flat_map(|run| run.phases.keys().copied()).collect();
        let median = |name: &str| self.median(|run| run.phases.get(name).copied().unwrap_or_default());
        names.into_iter().map(|name| (name.to_owned(), milliseconds(median(name)))).collect()
    }

    fn total(&self) -> Duration {
        self.median(|run| run.total)
    }

    fn without_pow(&self) -> Duration {
        self.median(|run| run.total.saturating_sub(run.pow))
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Most resident memory of this process in bytes; 0 where the system does not say.
fn peak_host_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

const POW: &str = "proof-of-work";

fn report<W: Workload>(
    plan: &Plan,
    workload: &W,
    config: PcsConfig,
    names: [String; 3],
    runs: &Runs,
) -> Result<Report> {
    let Some(last) = runs.0.last() else {
        return Err(Error::Input { field: "runs", value: "0".to_owned(), limit: "1 at least".to_owned() });
    };
    let proof = &last.proof;
    let verify_ms = if plan.verify {
        let workload = Numbered { workload, number: plan.runs as u32 };
        fixed_root(&workload, config)?;
        let start = Instant::now();
        verify(&workload, config, proof)?;
        Some(milliseconds(start.elapsed()))
    } else {
        None
    };
    let bytes = proof_bytes(proof)?;
    let [backend, device, driver] = names;
    let digest = Sha256::digest(&bytes);
    let total = runs.total();
    let totals = runs.0.iter().map(|run| run.total);
    let pow: Duration = runs.0.iter().map(|run| run.pow).sum();
    Ok(Report {
        air: plan.air.to_owned(),
        backend,
        device,
        driver,
        log_rows: plan.log_rows,
        columns: plan.columns,
        security_bits: proof.config.security_bits(),
        runs: runs.0.len(),
        fri: [proof.config.fri_config.fold_step, proof.config.fri_config.log_last_layer_degree_bound],
        total_ms: milliseconds(total),
        without_pow_ms: milliseconds(runs.without_pow()),
        pow_mean_ms: milliseconds(pow / runs.0.len() as u32),
        range_ms: [totals.clone().min(), totals.max()].map(|time| milliseconds(time.unwrap_or_default())),
        phases_ms: runs.phases_ms(),
        phases_counters: last.counters.iter().map(|(name, counters)| ((*name).to_owned(), *counters)).collect(),
        verify_ms,
        proofs_per_s: 1.0 / total.as_secs_f64(),
        permutations_per_s: workload.permutations().map(|count| count as f64 / total.as_secs_f64()),
        comparison: None,
        proof_bytes: bytes.len(),
        proof_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        verified: plan.verify,
        peak_host_bytes: peak_host_bytes(),
        peak_device_bytes: 0,
        estimated_device_bytes: 0,
        counters: Counters::default(),
    })
}

/// A proof on the device, with or without a wait at the end of each phase.
fn device_once<W: Workload>(
    make: &impl Fn() -> Result<W>,
    number: u32,
    config: PcsConfig,
    prepared: &Prepared<OclBackend>,
    exact: bool,
) -> Result<Run> {
    set_exact_phases(exact);
    reset_phases();
    let start = Instant::now();
    let outcome = phase("trace", make)
        .and_then(|workload| prove_on_device(&Numbered { workload: &workload, number }, config, prepared));
    let total = start.elapsed();
    set_exact_phases(true);
    let costs = phase_costs();
    let phases: BTreeMap<_, _> = costs.iter().map(|(name, cost)| (*name, cost.time)).collect();
    let counters = costs.iter().map(|(name, cost)| (*name, cost.counters));
    let counters = counters.filter(|(_, counters)| *counters != Counters::default()).collect();
    Ok(Run { total, pow: phases.get(POW).copied().unwrap_or_default(), phases, counters, proof: outcome? })
}

/// The same proof twice: times of the whole from the first, of the phases from the second.
fn device_run<W: Workload>(
    make: &impl Fn() -> Result<W>,
    number: u32,
    config: PcsConfig,
    prepared: &Prepared<OclBackend>,
) -> Result<Run> {
    let whole = device_once(make, number, config, prepared, false)?;
    let exact = device_once(make, number, config, prepared, true)?;
    // The search begins when the device has nothing else to do, so its time is right either way.
    Ok(Run { phases: exact.phases, counters: exact.counters, ..whole })
}

fn host_run<W: Workload>(
    make: &impl Fn() -> Result<W>,
    number: u32,
    config: PcsConfig,
    prepared: &Prepared<SimdBackend>,
) -> Result<Run> {
    reset_phases();
    let start = Instant::now();
    let (outcome, inner) = spans::follow(|| {
        let workload = host_phase("trace", make)?;
        prove_simd(&Numbered { workload: &workload, number }, config, prepared)
    });
    let total = start.elapsed();
    let mut phases: BTreeMap<&'static str, Duration> =
        phase_costs().into_iter().map(|(name, cost)| (name, cost.time)).collect();
    // What is one call for us is told apart by stwo's spans; its commitments are all in one of them.
    phases.remove("prove");
    phases.extend(inner);
    let pow = phases.get(POW).copied().unwrap_or_default();
    Ok(Run { total, pow, phases, counters: BTreeMap::new(), proof: outcome? })
}

fn threads() -> String {
    format!("{} host threads", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Measures on the device, in strict mode, and with `against_host` stwo's `SimdBackend` on all of the host's threads in turn
/// with it: every proof must be the same.
///
/// # Errors
/// A device failure, a wrong plan, a proof that does not verify, or two that differ.
pub fn on_device_with<W: Workload>(
    plan: &Plan,
    make: impl Fn() -> Result<W>,
    against_host: Option<&dyn Fn() -> Result<W>>,
    runtime: &Runtime,
) -> Result<Report> {
    let workload = make()?;
    let config = parameters_with(&workload, plan.security, plan.rounds)?;
    let prepared = guarded(|| Prepared::new(&workload, config))?;
    let on_host = against_host.map(|make| guarded(|| Prepared::new(&workload, config)).map(|trees| (make, trees)));
    let on_host = on_host.transpose()?;
    let (mut device, mut host, mut counters) = (Runs::default(), Runs::default(), Counters::default());
    runtime.set_strict(true);
    let mut measure = || -> Result<()> {
        device_run(&make, 0, config, &prepared)?;
        if let Some((make, trees)) = &on_host {
            host_run(make, 0, config, trees)?;
        }
        runtime.reset_peak();
        for number in 1..=plan.runs as u32 {
            let before = runtime.counters();
            let run = device_run(&make, number, config, &prepared)?;
            // Two proofs were made.
            counters = runtime.counters().since(&before).halved();
            if let Some((make, trees)) = &on_host {
                let other = host_run(make, number, config, trees)?;
                if proof_bytes(&run.proof)? != proof_bytes(&other.proof)? {
                    return Err(Error::Unverified(format!("the device's proof {number} differs from the host's")));
                }
                host.0.push(other);
            }
            device.0.push(run);
        }
        Ok(())
    };
    let measured = measure();
    runtime.set_strict(false);
    measured?;
    let info = runtime.info();
    let names = ["opencl".to_owned(), info.name.clone(), info.driver.clone()];
    let mut report = report(plan, &workload, config, names, &device)?;
    report.peak_device_bytes = runtime.memory().1;
    report.estimated_device_bytes = needed_bytes(&workload, config, &prepared);
    report.counters = counters;
    if !host.0.is_empty() {
        report.comparison = Some(Comparison {
            device: threads(),
            total_ms: milliseconds(host.total()),
            without_pow_ms: milliseconds(host.without_pow()),
            phases_ms: host.phases_ms(),
            speed_up: host.total().as_secs_f64() / device.total().as_secs_f64(),
            speed_up_without_pow: host.without_pow().as_secs_f64() / device.without_pow().as_secs_f64(),
        });
    }
    Ok(report)
}

/// Measures on the device.
///
/// # Errors
/// As [`on_device_with`].
pub fn on_device<W: Workload + Clone>(plan: &Plan, workload: &W, runtime: &Runtime) -> Result<Report> {
    on_device_with(plan, || Ok(workload.clone()), None, runtime)
}

/// Measures stwo's `SimdBackend` on all of the host's threads.
///
/// # Errors
/// A wrong plan, or a proof that does not verify.
pub fn on_host<W: Workload + Clone>(plan: &Plan, workload: &W) -> Result<Report> {
    on_host_with(plan, || Ok(workload.clone()))
}

/// As [`on_host`], for workloads whose statement has to be computed: `make` does that, as part of the trace.
///
/// # Errors
/// As [`on_host`], and those of `make`.
pub fn on_host_with<W: Workload>(plan: &Plan, make: impl Fn() -> Result<W>) -> Result<Report> {
    let workload = make()?;
    let config = parameters_with(&workload, plan.security, plan.rounds)?;
    let prepared = guarded(|| Prepared::new(&workload, config))?;
    host_run(&make, 0, config, &prepared)?;
    let runs = (1..=plan.runs as u32).map(|number| host_run(&make, number, config, &prepared));
    let runs = Runs(runs.collect::<Result<_>>()?);
    report(plan, &workload, config, ["simd".to_owned(), threads(), String::new()], &runs)
}

fn phase_line(name: &str, time: f64, counters: Option<&Counters>) -> String {
    let moved = counters.map_or_else(String::new, |counters| {
        format!(
            "  {:>5} kernels, {:>5} writes, {:>3} reads, {} bytes up, {} down",
            counters.kernels, counters.writes, counters.reads, counters.bytes_to_device, counters.bytes_to_host
        )
    });
    format!("  {name:<13}{time:>10.3} ms{moved}")
}

/// The report for a reader.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut lines = vec![
        format!(
            "{} 2^{} x {} on {} ({}{}{}), {} bits (conjectured)",
            report.air,
            report.log_rows,
            report.columns,
            report.backend,
            report.device,
            if report.driver.is_empty() { "" } else { ", driver " },
            report.driver,
            report.security_bits
        ),
        format!(
            "  proof        {:>10.3} ms median of {} ({:.3} to {:.3}), {:.2} proofs/s",
            report.total_ms, report.runs, report.range_ms[0], report.range_ms[1], report.proofs_per_s
        ),
    ];
    if let Some(rate) = report.permutations_per_s {
        lines.push(format!("  permutations {rate:>10.0} per second"));
    }
    lines.push(format!(
        "  without PoW  {:>10.3} ms; proof of work {:.3} ms in the mean; fold step {}, last layer 2^{}",
        report.without_pow_ms, report.pow_mean_ms, report.fri[0], report.fri[1]
    ));
    if let Some(host) = &report.comparison {
        lines.push(format!(
            "  SIMD         {:>10.3} ms on {}: {:.2} times; without proof of work {:.3} ms: {:.2} times",
            host.total_ms, host.device, host.speed_up, host.without_pow_ms, host.speed_up_without_pow
        ));
        let shown = |(name, time): (&String, &f64)| format!("    {name:<13}{time:>8.3} ms on the host");
        lines.extend(host.phases_ms.iter().map(shown));
    }
    lines.extend(report.phases_ms.iter().map(|(name, time)| phase_line(name, *time, report.phases_counters.get(name))));
    if let Some(time) = report.verify_ms {
        lines.push(format!("  verification {time:>10.3} ms, accepted by stwo's verifier"));
    }
    lines.push(format!("  proof size   {:>10} bytes, sha256 {}", report.proof_bytes, report.proof_sha256));
    let mib = |bytes: u64| bytes >> 20;
    lines.push(format!(
        "  peak memory  {:>10} MiB host, {} MiB device ({} MiB estimated)",
        mib(report.peak_host_bytes),
        mib(report.peak_device_bytes),
        mib(report.estimated_device_bytes)
    ));
    if report.counters.kernels > 0 {
        let counters = report.counters;
        lines.push(format!(
            "  device       {:>10} kernels, {} bytes up in {} writes, {} bytes down in {} reads",
            counters.kernels, counters.bytes_to_device, counters.writes, counters.bytes_to_host, counters.reads
        ));
    }
    lines.join("\n")
}
