//! Measurements of the Cairo path, and a comparison with the plain library calls under the same settings.
//!
//! Runs in the calling process, without a sandbox: the programs are our own. The allocator is set as in a worker, and
//! tables are warm before the first run. Every run has another prover key, so another proof of work: its time is geometric,
//! so the median over many runs is what counts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cairo_air::CairoProofForRustVerifier;
use cairo_air::verifier::verify_cairo_ex;
use cairo_program_runner_lib::hints::types::RunMode;
use cairo_program_runner_lib::hints::{Cairo0Executable, SimpleBootloaderInput, Task, TaskSpec};
use cairo_program_runner_lib::{ProgramInput, cairo_run_program};
use cairo_vm::types::layout_name::LayoutName;
use cairo_vm::types::program::Program as VmProgram;
use serde::Serialize;
use sha2::{Digest, Sha256};
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo_cairo_adapter::adapter::adapt;
use stwo_cairo_prover::prover::prove_cairo_with_precompute;
use thiserror::Error;
use types::keys::PublicKey;
use types::statement::Statement;

use crate::assets::assets;
use crate::backend::{Backend, parameters};
use crate::engine::{Engine, ProveError, ProveRequest, Proven};
use crate::local::local_statement;
use crate::simd::Simd;
use crate::stages::Stage;
use crate::{hash, limits, sample, worker};

/// A program to measure with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The program file.
    pub program: Vec<u8>,
    /// The arguments file.
    pub args: Option<Vec<u8>>,
}

impl Subject {
    /// Our own program of about this many steps, bootloader included.
    pub fn of_steps(steps: u64) -> Self {
        let rounds = steps.saturating_sub(BOOTLOADER_STEPS) / sample::FIBONACCI_STEPS_PER_ROUND;
        Self { program: sample::fibonacci(rounds), args: None }
    }
}

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// One case each.
    pub subjects: Vec<Subject>,
    /// Runs of each case, at least one.
    pub runs: usize,
    /// Whether to alternate with the plain library calls.
    pub against_stock: bool,
}

/// One case's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// Steps of the whole run.
    pub steps: u64,
    /// Which code computes.
    pub backend: &'static str,
    /// SHA-256 of the last proof in its envelope: the same for all backends after the same number of runs.
    pub proof_sha256: String,
    /// Security of the parameters under the conjecture, in bits.
    pub security_bits: f64,
    /// Runs measured, each with an input of its own.
    pub inputs: usize,
    /// Median time from request to checked proof, in milliseconds.
    pub total_ms: f64,
    /// Time that 99 of 100 runs stay within, in milliseconds; the longest of fewer.
    pub p99_ms: f64,
    /// Median time without the proof of work before the queries, in milliseconds: comparable over few runs.
    pub without_pow_ms: f64,
    /// Median time of each stage, in milliseconds.
    pub phases_ms: Vec<(Stage, u64)>,
    /// Proof before compression, median, in bytes.
    pub proof_bytes: u64,
    /// Proof in its envelope, median, in bytes.
    pub proof_bytes_zstd: u64,
    /// Median time of the strict verification, in milliseconds.
    pub verify_ms: f64,
    /// Whether every proof was accepted by the strict verifier.
    pub verified: bool,
    /// Largest resident memory during the case, in bytes.
    pub peak_rss_bytes: u64,
    /// What the memory model expected, in bytes.
    pub estimated_bytes: u64,
    /// Device memory that the last proof was expected to take at most, in bytes; on a device only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_device_bytes: Option<u64>,
    /// Median time of the plain library calls, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock_ms: Option<f64>,
}

/// Why a measurement broke off.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A proof failed.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// A plain library call failed.
    #[error("plain calls: {0}")]
    Stock(String),
}

/// Sets the allocator as it is in a worker. Call it before any thread is started.
pub fn prepare() {
    worker::keep_memory();
}

/// Runs the measurements on the processor. `progress` is told (case, run) before each.
///
/// # Errors
/// [`BenchError`] at the first proof that fails.
pub fn cairo(options: &BenchOptions, progress: impl FnMut(usize, usize)) -> Result<Vec<Case>, BenchError> {
    let stock: &Stock<Simd> = &|engine, subject, statement, run| {
        let since = Instant::now();
        plain(engine, &subject.program, statement, run)?;
        Ok(since.elapsed().as_secs_f64() * 1000.0)
    };
    prepare();
    measure(options, Engine::new, options.against_stock.then_some(stock), progress)
}

/// Runs the measurements with the engines that `make` gives, one per case, after [`prepare`]. `progress` is told
/// (case, run) before each run.
///
/// # Errors
/// [`BenchError`] at the first proof that fails.
pub fn cairo_with<B: Backend>(
    options: &BenchOptions,
    make: impl FnMut() -> Engine<B>,
    progress: impl FnMut(usize, usize),
) -> Result<Vec<Case>, BenchError> {
    measure(options, make, None::<&Stock<B>>, progress)
}

/// The plain library calls for one run, and their milliseconds.
type Stock<B> = dyn Fn(&Engine<B>, &Subject, &Statement, usize) -> Result<f64, BenchError>;

fn measure<B: Backend>(
    options: &BenchOptions,
    mut make: impl FnMut() -> Engine<B>,
    stock: Option<&Stock<B>>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Case>, BenchError> {
    let cases = options.subjects.iter().enumerate();
    cases.map(|(i, subject)| case(subject, options.runs, make(), stock, |run| progress(i, run))).collect()
}

fn case<B: Backend>(
    subject: &Subject,
    runs: usize,
    mut engine: Engine<B>,
    stock: Option<&Stock<B>>,
    mut progress: impl FnMut(usize),
) -> Result<Case, BenchError> {
    let statement = local_statement(&subject.program, subject.args.as_deref(), None).map_err(ProveError::from)?;
    engine.warm_up()?;
    // The first proof fills the pool of column buffers, or compiles kernels.
    prove(&mut engine, &statement, subject, 0)?;
    reset_peak();
    let (mut ours, mut without_pow, mut stock_ms, mut verify, mut proofs) = (vec![], vec![], vec![], vec![], vec![]);
    for run in 0..runs.max(1) {
        progress(run);
        let since = Instant::now();
        let proven = prove(&mut engine, &statement, subject, run.saturating_add(1))?;
        let total = since.elapsed().as_secs_f64() * 1000.0;
        let pow = proven.phases_ms.iter().find(|(stage, _)| *stage == Stage::ProofOfWork).map_or(0, |(_, ms)| *ms);
        ours.push(total);
        without_pow.push(total - f64::from(u32::try_from(pow).unwrap_or(u32::MAX)));
        verify.push(f64::from(u32::try_from(proven.verify_us).unwrap_or(u32::MAX)) / 1000.0);
        if let Some(stock) = stock {
            stock_ms.push(stock(&engine, subject, &statement, run)?);
        }
        proofs.push(proven);
    }
    let peak_rss_bytes = peak();
    let last = proofs.last().ok_or_else(|| BenchError::Stock("no run".into()))?;
    Ok(Case {
        steps: last.total_steps,
        backend: engine.backend().name(),
        proof_sha256: Sha256::digest(&last.blob).iter().map(|byte| format!("{byte:02x}")).collect(),
        security_bits: proof::policy::figures().query_bits,
        inputs: ours.len(),
        without_pow_ms: quantile(&mut without_pow, 50),
        p99_ms: quantile(&mut ours, 99),
        total_ms: quantile(&mut ours, 50),
        phases_ms: phases(&proofs),
        proof_bytes: middle(proofs.iter().map(|proof| proof.proof_bytes)),
        proof_bytes_zstd: middle(proofs.iter().map(|proof| u64::try_from(proof.blob.len()).unwrap_or(u64::MAX))),
        verify_ms: quantile(&mut verify, 50),
        verified: true,
        peak_rss_bytes,
        estimated_bytes: last.estimated_bytes,
        estimated_device_bytes: last.device_memory.map(|memory| memory.estimated_bytes),
        stock_ms: (!stock_ms.is_empty()).then(|| quantile(&mut stock_ms, 50)),
    })
}

/// Steps of the bootloader, the binding task and the hash of a short program, roughly.
const BOOTLOADER_STEPS: u64 = 2_400;

fn prove<B: Backend>(
    engine: &mut Engine<B>,
    statement: &Statement,
    subject: &Subject,
    run: usize,
) -> Result<Proven, ProveError> {
    let mut key = [1u8; 32];
    key[..8].copy_from_slice(&u64::try_from(run).unwrap_or(u64::MAX).to_le_bytes());
    let request = ProveRequest {
        statement: statement.clone(),
        prover: PublicKey::new(key),
        program: subject.program.clone(),
        args: subject.args.clone(),
        max_steps: limits::STEPS_MAX,
        memory_limit: None,
    };
    engine.prove(request, Box::new(|_| ()))
}

/// The library calls one after the other: run, adapt, prove, serialize, compress, verify. No check of ours is in it.
fn plain(engine: &Engine, program: &[u8], statement: &Statement, run: usize) -> Result<(), BenchError> {
    let text = |e: &dyn std::fmt::Display| BenchError::Stock(e.to_string());
    let assets = assets().map_err(|e| text(&e))?;
    let warm = engine.backend.warm.as_ref().ok_or_else(|| text(&"no warm tables"))?;
    let hash_function = hash::to_library(statement.hash_function);
    let spec = |program: VmProgram, program_input: Option<String>| TaskSpec {
        task: Rc::new(Task::Cairo0Program(Cairo0Executable { program, program_input })),
        program_hash_function: hash_function,
    };
    let user = VmProgram::from_bytes(program, Some("main")).map_err(|e| text(&e))?;
    let tasks = SimpleBootloaderInput {
        fact_topologies_path: None,
        single_page: true,
        tasks: vec![spec(assets.simple_output.clone(), Some(format!("{{\"output\": [1, {run}]}}"))), spec(user, None)],
    };
    let config = RunMode::Proof {
        layout: LayoutName::stwo_no_ecop,
        dynamic_layout_params: None,
        disable_trace_padding: true,
        relocate_mem: false,
    };
    let work = || {
        let runner =
            cairo_run_program(&assets.bootloader, Some(ProgramInput::from_value(tasks)), config.create_config(), None)
                .map_err(|e| text(&e))?;
        let input = adapt(&runner).map_err(|e| text(&e))?;
        drop(runner);
        let proof = prove_cairo_with_precompute::<Blake2sMerkleChannel>(
            &warm.pool,
            &warm.twiddles,
            Arc::clone(&warm.trace),
            MaybeOwned::Borrowed(&warm.tree),
            input,
            parameters(),
        )
        .map_err(|e| text(&e))?;
        let proof = CairoProofForRustVerifier::from(proof);
        let bytes = bincode1::serialize(&proof).map_err(|e| text(&e))?;
        zstd::encode_all(bytes.as_slice(), 3).map_err(|e| text(&e))?;
        verify_cairo_ex::<Blake2sMerkleChannel>(proof, false).map_err(|e| text(&e))
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(text(&"panic")))
}

/// The value that `percent` of all stay within; zero for none.
fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len().saturating_mul(percent) / 100;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn middle(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn phases(proofs: &[Proven]) -> Vec<(Stage, u64)> {
    let of = |stage: Stage| {
        let mut times: Vec<u64> = proofs
            .iter()
            .filter_map(|proof| proof.phases_ms.iter().find(|(known, _)| *known == stage).map(|(_, ms)| *ms))
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    Stage::ALL.into_iter().filter_map(|stage| of(stage).map(|ms| (stage, ms))).collect()
}

/// Sets the kernel's record of the peak back to what is resident now.
fn reset_peak() {
    // Without it (an old kernel) the figure is the peak since the start of the process: too high, never too low.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_sorted_values() {
        let mut values: Vec<f64> = (0..200).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 50), quantile(&mut values, 99)), (100.0, 198.0));
        assert_eq!((quantile(&mut [3.0], 99), quantile(&mut [], 50)), (3.0, 0.0));
        assert_eq!((middle([5, 1, 9].into_iter()), middle(std::iter::empty())), (5, 0));
    }

    #[test]
    fn a_case_has_all_its_figures() {
        let options = BenchOptions { subjects: vec![Subject::of_steps(4_000)], runs: 1, against_stock: true };
        let cases = cairo(&options, |_, _| ()).unwrap();
        let [case] = cases.as_slice() else { panic!("{cases:?}") };
        assert!(case.verified && case.inputs == 1 && case.stock_ms.is_some_and(|ms| ms > 0.0));
        assert!(case.without_pow_ms > 0.0 && case.total_ms >= case.without_pow_ms && case.p99_ms >= case.total_ms);
        // The bootloader's own steps depend on the hash function of the program.
        assert!((3_900..4_300).contains(&case.steps), "{case:?}");
        assert!(case.proof_bytes_zstd < case.proof_bytes && case.verify_ms > 0.0 && case.peak_rss_bytes > 100 << 20);
        assert!(case.phases_ms.iter().any(|(stage, _)| *stage == Stage::Composition), "{case:?}");
        assert!(case.estimated_bytes > case.peak_rss_bytes / 2, "{case:?}");
    }
}
