//! Running programs on this machine for the command line: always in a sandboxed child, because a program file may come
//! from anywhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use prover::worker::{JobError, Worker, WorkerConfig};
use prover::{ExecuteRequest, Executed, Fault, Inspection, ProveRequest, Proven, Stage};
use types::job::{HashFunction, ProgramKind};
use types::limits::{ARGS_BYTES_MAX, PROGRAM_BYTES_MAX};

use crate::failure::{Exit, Failure};
use crate::files;

/// Longest look at a program file.
const INSPECT_LIMIT: Duration = Duration::from_secs(60);
/// Memory of a child that only runs or inspects, bytes.
const EXECUTE_MEMORY: u64 = 4 << 30;
/// Memory taken for a proof when the machine does not say how much is free, bytes.
const PROVE_MEMORY: u64 = 8 << 30;

/// What arguments may be, and how to write them.
const ARGS_LIMIT: &str = "a JSON object (Cairo 0) or a JSON list of felts (Cairo 1)";
const ARGS_REMEDY: &str = "write for example: --args '{\"n\": 100}' or --args '[100]' or --args FILE";

/// A program with its arguments, as a job names them.
pub(crate) struct Input {
    /// The program file.
    pub(crate) program: Vec<u8>,
    /// The arguments file, JSON text.
    pub(crate) args: Option<Vec<u8>>,
}

impl Input {
    /// Reads a program file, and arguments that are JSON text or the name of a file with JSON text. Only this command
    /// ever opens the file: what goes on from here is its content.
    ///
    /// # Errors
    /// When a file can't be read or is too long, or the arguments are no JSON object or list.
    pub(crate) fn read(program: &Path, args: Option<&str>) -> Result<Self, Failure> {
        let program = files::read_bounded(program, "program", PROGRAM_BYTES_MAX).map_err(as_usage)?;
        let args = match args {
            None => None,
            Some(text) if text.trim_start().starts_with(['{', '[']) => Some(text.trim().as_bytes().to_vec()),
            Some(path) => {
                let read = files::read_bounded(Path::new(path), "args", ARGS_BYTES_MAX);
                Some(read.map_err(|failure| as_usage(failure).limit(ARGS_LIMIT).remedy(ARGS_REMEDY))?)
            }
        };
        if let Some(bytes) = &args {
            let form = serde_json::from_slice::<serde_json::Value>(bytes);
            if !matches!(form, Ok(serde_json::Value::Object(_) | serde_json::Value::Array(_))) {
                let why = form.err().map_or_else(|| "it is another JSON value".to_string(), |e| e.to_string());
                return Err(Failure::usage(format!("args: no JSON object or list: {why}"))
                    .field("args")
                    .value(shown(bytes))
                    .limit(ARGS_LIMIT)
                    .remedy(ARGS_REMEDY));
            }
            crate::unique::check(bytes).map_err(|e| {
                Failure::usage(format!("args: {e}"))
                    .field("args")
                    .value(shown(bytes))
                    .limit("every key once in its object")
                    .remedy("keep the one that is meant")
            })?;
        }
        Ok(Self { program, args })
    }
}

/// The beginning of the arguments, as they were given on the command line; of a file, nothing: it may be the wrong one.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.trim_start().starts_with(['{', '[']) {
        true => text.chars().take(80).collect(),
        false => format!("{} bytes of other text", bytes.len()),
    }
}

fn as_usage(mut failure: Failure) -> Failure {
    failure.exit = Exit::Usage;
    failure
}

/// A folder for children, removed with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let mut tag = [0u8; 8];
        getrandom::fill(&mut tag).map_err(|e| Failure::error("random", e.to_string()))?;
        let path = std::env::temp_dir().join(format!("proofmesh-{}", hex::encode(tag)));
        files::create_private_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Empty by design: a child can't write. What is left behind harms nobody.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What the program file is; also checks that the arguments have the form that its kind takes.
///
/// # Errors
/// A usage error that says what is wrong with the file.
pub(crate) async fn inspect(input: &Input, hash: Option<HashFunction>) -> Result<Inspection, Failure> {
    let scratch = Scratch::new()?;
    let config = WorkerConfig::new(scratch.0.clone(), EXECUTE_MEMORY);
    let found = prover::worker::inspect(&config, input.program.clone(), hash, INSPECT_LIMIT).await.map_err(failure)?;
    prover::args::Arguments::parse(found.kind, input.args.as_deref()).map_err(|e| of_fault(e.fault()))?;
    Ok(found)
}

/// Runs the program.
///
/// # Errors
/// See [`failure`].
pub(crate) async fn execute(
    input: &Input,
    hash_function: HashFunction,
    max_steps: u64,
    limit: Duration,
) -> Result<Executed, Failure> {
    let scratch = Scratch::new()?;
    let config = WorkerConfig::new(scratch.0.clone(), EXECUTE_MEMORY);
    let (program, args) = (input.program.clone(), input.args.clone());
    let request = ExecuteRequest { program, args, hash_function, max_steps };
    prover::worker::execute(&config, &request, limit).await.map_err(failure)
}

/// Proves, with the memory and the threads that this machine has.
///
/// # Errors
/// See [`failure`].
pub(crate) async fn prove(
    request: ProveRequest,
    limit: Duration,
    on_stage: impl FnMut(Stage),
) -> Result<Proven, Failure> {
    let scratch = Scratch::new()?;
    let memory = prover::memory::available_bytes().unwrap_or(PROVE_MEMORY);
    let mut config = WorkerConfig::new(scratch.0.clone(), memory);
    config.nice = 0;
    let worker = Worker::new(config);
    let job = worker.prove(request, limit).await.map_err(failure)?;
    job.wait(on_stage).await.map_err(failure)
}

/// What is wrong with a program or its arguments as a usage error.
fn of_fault(fault: Fault) -> Failure {
    let mut failure = Failure::usage(fault.detail).field(fault.field).remedy(fault.remedy);
    (failure.value, failure.limit) = (fault.value, fault.limit);
    failure
}

/// A child's answer as a failure of the command.
fn failure(error: JobError) -> Failure {
    let message = error.to_string();
    match error {
        JobError::Input(fault) => of_fault(*fault),
        JobError::Failed { steps, .. } => Failure::error("program_failed", message)
            .field("steps")
            .value(steps)
            .remedy("correct the program or its arguments; if the step limit was reached, raise --max-steps"),
        JobError::Memory { needed, limit } => Failure::error("memory", message)
            .field("memory")
            .value(needed)
            .limit(limit)
            .remedy("free memory, or use a machine with more"),
        JobError::Resources { .. } | JobError::OutOfMemory { .. } => {
            Failure::error("resources", message).remedy("free memory, or use a machine with more")
        }
        JobError::Unprovable { .. } => Failure::error("unprovable", message),
        JobError::CpuLimit | JobError::TimedOut { .. } | JobError::Hung { .. } => Failure::error("timeout", message),
        JobError::Internal { .. }
        | JobError::Device { .. }
        | JobError::Start { .. }
        | JobError::Crashed { .. }
        | JobError::Cancelled
        | JobError::Protocol { .. } => Failure::error("worker", message),
    }
}

/// The name of a kind of program for people.
pub(crate) const fn kind_name(kind: ProgramKind) -> &'static str {
    match kind {
        ProgramKind::Cairo0 => "Cairo 0 program",
        ProgramKind::Cairo1 => "Cairo 1 executable",
        ProgramKind::Pie => "Cairo PIE",
    }
}
