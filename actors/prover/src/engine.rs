//! Proves a statement: run, adapt, estimate memory, prove, check, pack. Keeps the tables that all proofs share.
//!
//! Owns the proving settings (which the verifier's policy fixes) and the warm data. Relies on `proof` for the verdict on
//! its own proofs: what the strict verifier refuses never leaves this module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use proof::policy;
use stwo::core::pcs::PcsConfig;
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::prover::CommitmentTreeProver;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::circle::PolyOps;
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo_cairo_adapter::adapter::adapt;
use stwo_cairo_adapter::{ExecutionResources, ProverInput};
use stwo_cairo_common::preprocessed_columns::preprocessed_trace::PreProcessedTrace;
use stwo_cairo_prover::prover::{ChannelHash, ProverParameters};
use stwo_cairo_prover::witness::preprocessed_trace::gen_trace;
use thiserror::Error;
use types::felt::Felt;
use types::job::HashFunction;
use types::keys::PublicKey;
use types::statement::Statement;

use crate::args::Arguments;
use crate::error::ProgramError;
use crate::flow;
use crate::memory::{self, Estimate};
use crate::program::Program;
use crate::runner::{RunError, RunRequest, panic_text, run};
use crate::stages::{Clock, Observer, PhasesMs, Stage};
use crate::worker;

/// Smallest domain that twiddles are made for, as a power of two: the preprocessed columns need it.
const TWIDDLES_LOG_MIN: u32 = 22;
/// Column buffers kept for the next proof are dropped when a proof that needed more than this has used them, in bytes.
const POOL_BYTES_KEPT: u64 = 4 << 30;
/// Before a proof that is expected to take more than this, memory is handed back that smaller pieces keep in parts: for
/// smaller proofs that costs more time than it is worth.
const TRIM_FROM_BYTES: u64 = 3 << 30;

/// A proof to make.
#[derive(Clone, Debug)]
pub struct ProveRequest {
    /// What it shall say.
    pub statement: Statement,
    /// Under whose key; enters the binding digest.
    pub prover: PublicKey,
    /// The program file.
    pub program: Vec<u8>,
    /// The arguments file.
    pub args: Option<Vec<u8>>,
    /// Steps after which the program has failed.
    pub max_steps: u64,
    /// Memory that the proof may take, in bytes; `None` for no limit.
    pub memory_limit: Option<u64>,
}

/// A run to prove as it is, under binding words of the caller's choice.
#[derive(Clone, Debug)]
pub struct BoundRun {
    /// The program file.
    pub program: Vec<u8>,
    /// The arguments file.
    pub args: Option<Vec<u8>>,
    /// Function of the program hash.
    pub hash_function: HashFunction,
    /// The two words that the binding task outputs.
    pub binding: [Felt; 2],
    /// Steps after which the program has failed.
    pub max_steps: u64,
}

/// A proof that nobody has checked, of a run that was compared with no statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// The proof in its envelope.
    pub blob: Vec<u8>,
    /// The program's output.
    pub output: Vec<Felt>,
    /// Steps of the program.
    pub steps: u64,
}

/// A proof that the strict verifier accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The proof in its envelope (`proof::envelope`).
    pub blob: Vec<u8>,
    /// The program's output.
    pub output: Vec<Felt>,
    /// Steps of the program.
    pub steps: u64,
    /// Steps of the whole run, bootloader included.
    pub total_steps: u64,
    /// Length of the proof before compression, in bytes.
    pub proof_bytes: u64,
    /// Time of the strict verification, in microseconds.
    pub verify_us: u64,
    /// Milliseconds per stage.
    pub phases_ms: PhasesMs,
    /// Bytes that the memory model expected.
    pub estimated_bytes: u64,
}

/// Why there is no proof.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProveError {
    /// The statement, the program and the arguments do not belong together, or one of them is refused.
    #[error("input refused: {0}")]
    Input(#[from] ProgramError),
    /// The run did not end well.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The proof would need more memory than it may take.
    #[error("declined: the proof needs about {needed} bytes of memory, the limit is {limit}")]
    Memory {
        /// Expected peak, in bytes.
        needed: u64,
        /// What it may take, in bytes.
        limit: u64,
    },
    /// The run is correct, but there is no proof of it that the strict verifier accepts.
    #[error("unprovable: {detail}")]
    Unprovable {
        /// What was met.
        detail: String,
    },
}

/// The tables that all proofs share.
pub(crate) struct Warm {
    pub(crate) twiddles: TwiddleTree<SimdBackend>,
    twiddles_log: u32,
    pub(crate) trace: Arc<PreProcessedTrace>,
    pub(crate) tree: CommitmentTreeProver<SimdBackend, Blake2sMerkleChannel>,
    pub(crate) pool: BaseColumnPool<SimdBackend>,
}

/// The prover's settings: the policy's, with coefficients stored. The last is a matter of time and memory alone, and the
/// engine goes without where memory is short.
pub(crate) const fn parameters() -> ProverParameters {
    ProverParameters {
        channel_hash: ChannelHash::Blake2s,
        channel_salt: policy::CHANNEL_SALT,
        pcs_config: policy::pcs_config(),
        preprocessed_trace: policy::VARIANT,
        store_polynomials_coefficients: true,
        include_all_preprocessed_columns: policy::INCLUDE_ALL_PREPROCESSED_COLUMNS,
    }
}

fn twiddles(log: u32) -> TwiddleTree<SimdBackend> {
    SimdBackend::precompute_twiddles(CanonicCoset::new(log).circle_domain().half_coset)
}

impl Warm {
    fn new(twiddles_log: u32) -> Self {
        let twiddles = twiddles(twiddles_log);
        let PcsConfig { fri_config, lifting_log_size, .. } = policy::pcs_config();
        let trace = Arc::new(policy::VARIANT.to_preprocessed_trace());
        let polynomials = SimdBackend::interpolate_columns(gen_trace(Arc::clone(&trace)), &twiddles);
        let pool = BaseColumnPool::new();
        let tree = CommitmentTreeProver::new(
            polynomials,
            fri_config.log_blowup_factor,
            &twiddles,
            parameters().store_polynomials_coefficients,
            lifting_log_size,
            &pool,
        );
        Self { twiddles, twiddles_log, trace, tree, pool }
    }
}

/// Makes proofs, one at a time.
#[derive(Default)]
pub struct Engine {
    pub(crate) warm: Option<Warm>,
}

impl Engine {
    /// An engine without warm data.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the tables that all proofs share, if they are not there.
    pub fn warm_up(&mut self) {
        if self.warm.is_none() {
            self.warm = Some(Warm::new(TWIDDLES_LOG_MIN));
            // A third of what is held now is left over from making the tables.
            worker::give_memory_back();
        }
    }

    /// Frees the shared tables; the next proof makes them again.
    pub fn drop_warm(&mut self) {
        self.warm = None;
    }

    /// Whether the shared tables are there.
    pub fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    /// Root of the preprocessed tree: the value that the verifier's policy pins.
    pub fn preprocessed_root(&mut self) -> [u8; 32] {
        self.warm_up();
        self.warm.as_ref().map_or([0; 32], |warm| warm.tree.commitment.root().0)
    }

    /// Makes a proof and checks it with the strict verifier. `observer` is told each stage when it begins.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(&mut self, request: ProveRequest, observer: Observer) -> Result<Proven, ProveError> {
        let clock = Clock::new(observer);
        let ProveRequest { statement, prover, program, args, max_steps, memory_limit } = request;
        let (program, args) = open_input(&statement, &program, args.as_deref())?;
        let (hash_function, binding) = (statement.hash_function, statement.binding_words(&prover));
        let run = RunRequest { program, args, hash_function, binding, max_steps, trace: true };
        let Made { proof, output, steps, total_steps, estimated_bytes } = self.make(run, memory_limit, &clock)?;
        clock.enter(Stage::Verifying);
        let bytes = proof::envelope::proof_bytes(&proof).map_err(unprovable)?;
        drop(proof);
        let blob = proof::envelope::encode_bytes(&bytes).map_err(unprovable)?;
        let since = Instant::now();
        let verified = proof::cairo::verify(&blob, &statement, &prover)
            .map_err(|rejection| unprovable(format!("the strict verifier refuses the proof: {rejection}")))?;
        let verify_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if verified.output != output {
            return Err(unprovable("the proof's output is not the run's"));
        }
        Ok(Proven {
            proof_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            blob,
            output,
            steps,
            total_steps,
            verify_us,
            phases_ms: clock.finish(),
            estimated_bytes,
        })
    }

    /// Makes a proof of one run and leaves it at that: no statement is compared with the input, and no verifier sees the
    /// proof. What [`Engine::prove`] does between the two; by itself good for measuring, and for testing verifiers.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove_unchecked(&mut self, run: BoundRun, observer: Observer) -> Result<Unchecked, ProveError> {
        let clock = Clock::new(observer);
        let program = Program::load(&run.program)?;
        let args = Arguments::parse(program.kind(), run.args.as_deref())?;
        let BoundRun { hash_function, binding, max_steps, .. } = run;
        let run = RunRequest { program, args, hash_function, binding, max_steps, trace: true };
        let made = self.make(run, None, &clock)?;
        let blob = proof::envelope::encode(&made.proof).map_err(unprovable)?;
        Ok(Unchecked { blob, output: made.output, steps: made.steps })
    }

    /// Runs and proves.
    fn make(&mut self, request: RunRequest, memory_limit: Option<u64>, clock: &Clock) -> Result<Made, ProveError> {
        if self.warm.is_none() {
            clock.enter(Stage::Warming);
            self.warm_up();
        }
        clock.enter(Stage::Running);
        let run = run(request)?;
        let (output, steps, total_steps) = (run.output, run.steps, run.total_steps);
        clock.enter(Stage::Adapting);
        let input = guarded("adapting the run", || adapt(&run.runner).map_err(|e| e.to_string()))?;
        drop(run.runner);
        let estimate = memory::estimate(&ExecutionResources::from_prover_input(&input), total_steps);
        if let Some(limit) = memory_limit.filter(|limit| estimate.bytes_lean > *limit) {
            return Err(ProveError::Memory { needed: estimate.bytes_lean, limit });
        }
        if estimate.bytes > TRIM_FROM_BYTES {
            worker::give_memory_back();
        }
        let store_coefficients = memory_limit.is_none_or(|limit| estimate.bytes <= limit);
        let proof = self.prove_input(input, &estimate, store_coefficients, clock)?;
        let estimated_bytes = if store_coefficients { estimate.bytes } else { estimate.bytes_lean };
        Ok(Made { proof, output, steps, total_steps, estimated_bytes })
    }

    fn prove_input(
        &mut self,
        input: ProverInput,
        estimate: &Estimate,
        store_polynomials_coefficients: bool,
        clock: &Clock,
    ) -> Result<proof::envelope::CairoProof, ProveError> {
        self.warm_up();
        let warm = self.warm.as_mut().ok_or_else(|| ProveError::Unprovable { detail: "no warm tables".into() })?;
        if estimate.domain_log > warm.twiddles_log {
            warm.twiddles = twiddles(estimate.domain_log);
            warm.twiddles_log = estimate.domain_log;
        }
        let warm = &*warm;
        let parameters = ProverParameters { store_polynomials_coefficients, ..parameters() };
        let result = guarded("proving", || flow::prove(warm, input, parameters, clock));
        if (result.is_err() || estimate.bytes > POOL_BYTES_KEPT)
            && let Some(warm) = self.warm.as_mut()
        {
            warm.pool = BaseColumnPool::new();
        }
        result
    }
}

/// A run and its proof.
struct Made {
    proof: proof::envelope::CairoProof,
    output: Vec<Felt>,
    steps: u64,
    total_steps: u64,
    estimated_bytes: u64,
}

fn unprovable(detail: impl std::fmt::Display) -> ProveError {
    ProveError::Unprovable { detail: detail.to_string() }
}

/// Loads program and arguments and compares them with the statement.
fn open_input(
    statement: &Statement,
    program: &[u8],
    args: Option<&[u8]>,
) -> Result<(Program, Arguments), ProgramError> {
    if blake3::hash(program).as_bytes() != statement.program_file.as_bytes() {
        return Err(ProgramError::malformed("program", "the file is not the one that the statement names"));
    }
    if args.map(|bytes| *blake3::hash(bytes).as_bytes()) != statement.args.map(|hash| *hash.as_bytes()) {
        return Err(ProgramError::args("the file is not the one that the statement names"));
    }
    let loaded = Program::load(program)?;
    if loaded.kind() != statement.kind {
        let detail = format!("the file is {:?}, the statement says {:?}", loaded.kind(), statement.kind);
        return Err(ProgramError::malformed("program", detail));
    }
    let hash = loaded.hash(statement.hash_function)?;
    if hash != statement.program_hash {
        let detail = format!("its hash is {hash}, the statement says {}", statement.program_hash);
        return Err(ProgramError::malformed("program", detail));
    }
    let args = Arguments::parse(loaded.kind(), args)?;
    Ok((loaded, args))
}

/// Words of the system for a lack of memory or of threads, which the libraries panic with.
const SHORTAGE: [&str; 2] = ["Resource temporarily unavailable", "Cannot allocate memory"];

/// Runs library code; an error or a panic in it means that there is no proof, unless the system was short of something:
/// that says nothing about the run.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, ProveError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(detail)) => Err(ProveError::Unprovable { detail: format!("{what}: {detail}") }),
        Err(panic) => {
            let text = panic_text(&panic);
            if SHORTAGE.iter().any(|words| text.contains(words)) {
                let detail = format!("{what}: no memory or no thread left: {text}");
                return Err(RunError::Resources { detail, steps: 0 }.into());
            }
            Err(ProveError::Unprovable { detail: format!("{what}: {text}") })
        }
    }
}

#[cfg(test)]
mod tests;
