//! What a program file is, without running it.

use serde::Serialize;
use types::felt::Felt;
use types::job::{HashFunction, ProgramKind};

use crate::error::ProgramError;
use crate::hash::choose_hash;
use crate::program::Program;

/// A program file at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Kind of file.
    pub kind: ProgramKind,
    /// Builtins it declares.
    pub builtins: Vec<String>,
    /// Offset of its entry point, in words.
    pub main: usize,
    /// Its length, in words.
    pub words: usize,
    /// How many hints it has.
    pub hints: usize,
    /// Function of `program_hash`: the one asked for, or the one that proves fastest.
    pub hash_function: HashFunction,
    /// Its hash.
    pub program_hash: Felt,
    /// The output of a PIE.
    pub pie_output: Option<Vec<Felt>>,
}

/// Loads a program file and describes it. `hash_function` of `None` means the one that proves fastest.
///
/// # Errors
/// [`ProgramError`], as [`Program::load`].
pub fn inspect(bytes: &[u8], hash_function: Option<HashFunction>) -> Result<Inspection, ProgramError> {
    let program = Program::load(bytes)?;
    let hash_function = hash_function.unwrap_or_else(|| choose_hash(&program));
    Ok(Inspection {
        kind: program.kind(),
        builtins: program.builtins().into_iter().map(str::to_owned).collect(),
        main: program.main(),
        words: program.words().len(),
        hints: program.n_hints(),
        hash_function,
        program_hash: program.hash(hash_function)?,
        pie_output: program.pie_output()?,
    })
}
