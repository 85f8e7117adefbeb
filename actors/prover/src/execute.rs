//! Runs a program without proving it: for re-execution by validators and readers.

use types::felt::Felt;
use types::job::{HashFunction, OutputRule};

use crate::args::Arguments;
use crate::engine::ProveError;
use crate::program::Program;
use crate::runner::{RunRequest, run};

/// A program to run.
#[derive(Clone, Debug)]
pub struct ExecuteRequest {
    /// The program file.
    pub program: Vec<u8>,
    /// The arguments file.
    pub args: Option<Vec<u8>>,
    /// Function of the program hash.
    pub hash_function: HashFunction,
    /// Steps after which the program has failed.
    pub max_steps: u64,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The program's hash.
    pub program_hash: Felt,
    /// Its output.
    pub output: Vec<Felt>,
    /// Its steps, counted as a proof counts them.
    pub steps: u64,
}

/// Runs a program through the same bootloader and hint processor as a proof does, so that output, steps and failures
/// are the same.
///
/// # Errors
/// [`ProveError::Input`] or [`ProveError::Run`].
pub fn execute(request: &ExecuteRequest) -> Result<Executed, ProveError> {
    let program = Program::load(&request.program)?;
    let args = Arguments::parse(program.kind(), request.args.as_deref())?;
    let run = run(RunRequest {
        program,
        args,
        hash_function: request.hash_function,
        binding: [Felt::ZERO; 2],
        max_steps: request.max_steps,
        // Whoever asks compares the output.
        output_rule: OutputRule::Quorum,
        trace: false,
    })?;
    Ok(Executed { program_hash: run.program_hash, output: run.output, steps: run.steps })
}
