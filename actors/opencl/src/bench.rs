//! Benchmarks of whole proofs. Owns what is measured and how it is printed; a figure never stands for less than a
//! proof, and verification is timed apart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};
use stwo::core::pcs::PcsConfig;

use crate::air::{
    Prepared, Workload, fixed_root, needed_bytes, parameters, proof_bytes, prove_on_device, prove_simd, verify,
};
use crate::device::{Counters, Runtime, host_phase, phase, phase_costs, reset_phases};
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
    /// Measured runs, after one that is not.
    pub runs: usize,
    /// Verify the last proof.
    pub verify: bool,
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
    /// Median time from the start of the trace to the finished proof, in milliseconds.
    pub total_ms: f64,
    /// Shortest and longest such time.
    pub range_ms: [f64; 2],
    /// Phases of the median run.
    pub phases_ms: BTreeMap<String, f64>,
    /// What was started and moved in the phases of the median run; empty on the host.
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

/// The host's side of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Number of host threads, in words.
    pub device: String,
    /// Median time.
    pub total_ms: f64,
    /// How many times longer the host takes.
    pub speed_up: f64,
}

/// One measured run.
struct Run {
    total: Duration,
    phases: BTreeMap<String, f64>,
    counters: BTreeMap<String, Counters>,
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

/// Runs `once` as often as the plan says, after one run that warms up, and keeps the last proof.
fn measure(plan: &Plan, mut once: impl FnMut() -> Result<Proof>) -> Result<(Vec<Run>, Proof)> {
    let mut proof = once()?;
    let mut runs = Vec::with_capacity(plan.runs);
    for _ in 0..plan.runs {
        reset_phases();
        let start = Instant::now();
        proof = once()?;
        let total = start.elapsed();
        let costs = phase_costs();
        let phases = costs.iter().map(|(name, cost)| ((*name).to_owned(), milliseconds(cost.time))).collect();
        let counters = costs.into_iter().filter(|(_, cost)| cost.counters != Counters::default());
        let counters = counters.map(|(name, cost)| (name.to_owned(), cost.counters)).collect();
        runs.push(Run { total, phases, counters });
    }
    runs.sort_by_key(|run| run.total);
    Ok((runs, proof))
}

fn report<W: Workload>(
    plan: &Plan,
    workload: &W,
    config: PcsConfig,
    names: [String; 3],
    (runs, proof): (Vec<Run>, Proof),
) -> Result<Report> {
    let (Some(first), Some(last), Some(median)) = (runs.first(), runs.last(), runs.get(runs.len() / 2)) else {
        return Err(Error::Input { field: "runs", value: "0".to_owned(), limit: "1 at least".to_owned() });
    };
    let verify_ms = if plan.verify {
        fixed_root(workload, config)?;
        let start = Instant::now();
        verify(workload, config, &proof)?;
        Some(milliseconds(start.elapsed()))
    } else {
        None
    };
    let bytes = proof_bytes(&proof)?;
    let [backend, device, driver] = names;
    let digest = Sha256::digest(&bytes);
    Ok(Report {
        air: plan.air.to_owned(),
        backend,
        device,
        driver,
        log_rows: plan.log_rows,
        columns: plan.columns,
        security_bits: proof.config.security_bits(),
        runs: runs.len(),
        total_ms: milliseconds(median.total),
        range_ms: [milliseconds(first.total), milliseconds(last.total)],
        phases_ms: median.phases.clone(),
        phases_counters: median.counters.clone(),
        verify_ms,
        proofs_per_s: 1.0 / median.total.as_secs_f64(),
        permutations_per_s: workload.permutations().map(|count| count as f64 / median.total.as_secs_f64()),
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

/// Measures on the device, in strict mode.
///
/// # Errors
/// A device failure, a wrong plan, or a proof that does not verify.
pub fn on_device<W: Workload + Clone>(plan: &Plan, workload: &W, runtime: &Runtime) -> Result<Report> {
    on_device_with(plan, || Ok(workload.clone()), runtime)
}

/// As [`on_device`], for workloads whose statement has to be computed: `make` does that, as part of the trace.
///
/// # Errors
/// As [`on_device`], and those of `make`.
pub fn on_device_with<W: Workload>(plan: &Plan, make: impl Fn() -> Result<W>, runtime: &Runtime) -> Result<Report> {
    let workload = make()?;
    let config = parameters(&workload, plan.security)?;
    let prepared = guarded(|| Prepared::new(&workload, config))?;
    runtime.reset_peak();
    runtime.set_strict(true);
    let mut before = runtime.counters();
    let measured = measure(plan, || {
        before = runtime.counters();
        let workload = phase("trace", &make)?;
        prove_on_device(&workload, config, &prepared)
    });
    runtime.set_strict(false);
    let counters = runtime.counters().since(&before);
    let info = runtime.info();
    let names = ["opencl".to_owned(), info.name.clone(), info.driver.clone()];
    let mut report = report(plan, &workload, config, names, measured?)?;
    report.peak_device_bytes = runtime.memory().1;
    report.estimated_device_bytes = needed_bytes(&workload, config, &prepared);
    report.counters = counters;
    Ok(report)
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
    let config = parameters(&workload, plan.security)?;
    let prepared = guarded(|| Prepared::new(&workload, config))?;
    let measured = measure(plan, || {
        let workload = host_phase("trace", &make)?;
        prove_simd(&workload, config, &prepared)
    })?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    report(plan, &workload, config, ["simd".to_owned(), format!("{threads} host threads"), String::new()], measured)
}

/// Adds what the host took for the same proof in the same run.
///
/// # Errors
/// [`Error::Unverified`] if the two proofs differ.
pub fn compare(report: &mut Report, host: Report) -> Result<()> {
    if report.proof_sha256 != host.proof_sha256 {
        return Err(Error::Unverified(format!("the device's proof differs from the one of {}", host.device)));
    }
    let speed_up = host.total_ms / report.total_ms;
    report.comparison = Some(Comparison { device: host.device, total_ms: host.total_ms, speed_up });
    Ok(())
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
    if let Some(host) = &report.comparison {
        lines.push(format!("  SIMD         {:>10.3} ms on {}: {:.2} times", host.total_ms, host.device, host.speed_up));
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
