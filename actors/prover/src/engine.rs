//! Proves a statement: run, adapt, estimate memory, prove, check, pack.
//!
//! The proving step is a [`Backend`]'s: the processor's ([`Simd`]) unless another is given. All else is the same for every
//! backend. Relies on `proof` for the verdict on its own proofs: what the strict verifier refuses never leaves this module.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cairo_vm::vm::runners::cairo_runner::CairoRunner;
use stwo_cairo_adapter::adapter::adapt;
use stwo_cairo_adapter::{ExecutionResources, ProverInput};
use thiserror::Error;
use types::felt::Felt;
use types::job::{HashFunction, OutputRule};
use types::keys::PublicKey;
use types::statement::Statement;

use crate::args::Arguments;
use crate::backend::{Backend, DeviceMemory, Plan};
use crate::error::{DeviceFault, ProgramError};
use crate::memory::{self, Estimate};
use crate::program::Program;
use crate::runner::{RunError, RunRequest, panic_text, run};
use crate::simd::Simd;
use crate::stages::{Clock, Observer, PhasesMs, Stage};

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
    /// Memory of the device, if it was made on one.
    pub device_memory: Option<DeviceMemory>,
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
    /// The device that the backend computes on gave no proof, or one that the strict verifier refuses.
    #[error("the device gave no proof: {0}")]
    Device(DeviceFault),
}

/// Makes proofs, one at a time.
#[derive(Debug, Default)]
pub struct Engine<B = Simd> {
    pub(crate) backend: B,
}

impl Engine {
    /// An engine that proves on the processor, without warm data.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<B: Backend> Engine<B> {
    /// An engine that proves with `backend`.
    pub fn with(backend: B) -> Self {
        Self { backend }
    }

    /// What makes the proofs.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Makes the tables that all proofs share, if they are not there.
    ///
    /// # Errors
    /// [`ProveError::Device`] when the device of the backend can't hold or make them.
    pub fn warm_up(&mut self) -> Result<(), ProveError> {
        if self.backend.is_warm() { Ok(()) } else { self.backend.warm_up() }
    }

    /// Frees the shared tables; the next proof makes them again.
    pub fn drop_warm(&mut self) {
        self.backend.drop_warm();
    }

    /// Whether the shared tables are there.
    pub fn is_warm(&self) -> bool {
        self.backend.is_warm()
    }

    /// Root of the preprocessed tree: the value that the verifier's policy pins.
    ///
    /// # Errors
    /// As [`Engine::warm_up`].
    pub fn preprocessed_root(&mut self) -> Result<[u8; 32], ProveError> {
        self.warm_up()?;
        self.backend.preprocessed_root()
    }

    /// Makes a proof and checks it with the strict verifier. `observer` is told each stage when it begins.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn prove(&mut self, request: ProveRequest, observer: Observer) -> Result<Proven, ProveError> {
        let clock = Clock::new(observer);
        let (statement, prover, memory_limit) = (request.statement.clone(), request.prover, request.memory_limit);
        let run = opened(request)?;
        self.make_warm(&clock)?;
        let traced = traced(run, &clock)?;
        self.prove_traced(&statement, &prover, traced, memory_limit, &clock)
    }

    /// Makes the shared tables as a stage of a proof, if they are not there.
    pub(crate) fn make_warm(&mut self, clock: &Clock) -> Result<(), ProveError> {
        if !self.backend.is_warm() {
            clock.enter(Stage::Warming);
            self.backend.warm_up()?;
        }
        Ok(())
    }

    /// Proves a run, wherever it ran, and checks the proof with the strict verifier.
    pub(crate) fn prove_traced(
        &mut self,
        statement: &Statement,
        prover: &PublicKey,
        traced: Traced,
        memory_limit: Option<u64>,
        clock: &Clock,
    ) -> Result<Proven, ProveError> {
        let Made { proof, output, steps, total_steps, estimated_bytes } = self.make(traced, memory_limit, clock)?;
        clock.enter(Stage::Verifying);
        let bytes = proof::envelope::proof_bytes(&proof).map_err(unprovable)?;
        drop(proof);
        let blob = proof::envelope::encode_bytes(&bytes).map_err(unprovable)?;
        let since = Instant::now();
        let verified = proof::cairo::verify(&blob, statement, prover)
            .map_err(|rejection| B::failed(format!("the strict verifier refuses the proof: {rejection}")))?;
        let verify_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if verified.output != output {
            return Err(B::failed("the proof's output is not the run's".into()));
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
            device_memory: self.backend.device_memory(),
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
        let output_rule = OutputRule::Quorum;
        let run = RunRequest { program, args, hash_function, binding, max_steps, output_rule, trace: true };
        self.make_warm(&clock)?;
        let made = self.make(traced(run, &clock)?, None, &clock)?;
        let blob = proof::envelope::encode(&made.proof).map_err(unprovable)?;
        Ok(Unchecked { blob, output: made.output, steps: made.steps })
    }

    /// Proves a run.
    fn make(&mut self, traced: Traced, memory_limit: Option<u64>, clock: &Clock) -> Result<Made, ProveError> {
        let estimate = traced.estimate();
        let Traced { input, output, steps, total_steps } = traced;
        let plan = self.backend.plan(estimate, memory_limit)?;
        let proof = self.prove_input(input, &plan, clock)?;
        Ok(Made { proof, output, steps, total_steps, estimated_bytes: plan.bytes })
    }

    /// Proves an adapted run; a panic on the way is what the backend says it is.
    fn prove_input(
        &mut self,
        input: ProverInput,
        plan: &Plan,
        clock: &Clock,
    ) -> Result<proof::envelope::CairoProof, ProveError> {
        let result = caught("proving", || self.backend.prove(input, plan, clock), B::failed);
        if result.is_err() {
            self.backend.recover();
        }
        result
    }
}

/// A run, brought into the prover's form: all that a proof needs of it.
pub(crate) struct Traced {
    pub(crate) input: ProverInput,
    pub(crate) output: Vec<Felt>,
    pub(crate) steps: u64,
    pub(crate) total_steps: u64,
}

impl Traced {
    fn estimate(&self) -> Estimate {
        memory::estimate(&ExecutionResources::from_prover_input(&self.input), self.total_steps)
    }

    /// Cells of all tables of the proof.
    pub(crate) fn cells(&self) -> u64 {
        let Estimate { cells, fixed_cells, .. } = self.estimate();
        cells.saturating_add(fixed_cells)
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

/// The run that a request asks for, once its files are loaded and compared with its statement.
pub(crate) fn opened(request: ProveRequest) -> Result<RunRequest, ProgramError> {
    let ProveRequest { statement, prover, program, args, max_steps, .. } = request;
    let (program, args) = open_input(&statement, &program, args.as_deref())?;
    let (hash_function, binding) = (statement.hash_function, statement.binding_words(&prover));
    Ok(RunRequest { program, args, hash_function, binding, max_steps, output_rule: statement.output_rule, trace: true })
}

/// Runs a program and brings the run into the prover's form. The only part of a proof that touches hostile code.
pub(crate) fn traced(request: RunRequest, clock: &Clock) -> Result<Traced, ProveError> {
    clock.enter(Stage::Running);
    let run = run(request)?;
    let (output, steps, total_steps) = (run.output, run.steps, run.total_steps);
    clock.enter(Stage::Adapting);
    let input = adapted(&run.runner)?;
    Ok(Traced { input, output, steps, total_steps })
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

/// Brings a run into the prover's form.
fn adapted(runner: &CairoRunner) -> Result<ProverInput, ProveError> {
    caught("adapting the run", || adapt(runner).map_err(|e| unprovable(format!("adapting the run: {e}"))), unprovable)
}

/// Runs library code; a panic in it is what `meaning` says, unless the system was short of something: that says nothing
/// about the run.
fn caught<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, ProveError>,
    meaning: impl FnOnce(String) -> ProveError,
) -> Result<T, ProveError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic_text(&panic);
        if SHORTAGE.iter().any(|words| text.contains(words)) {
            let detail = format!("{what}: no memory or no thread left: {text}");
            return Err(RunError::Resources { detail, steps: 0 }.into());
        }
        Err(meaning(format!("{what}: {text}")))
    })
}

#[cfg(test)]
mod tests;
