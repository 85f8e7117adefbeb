//! Statements for proofs that belong to no chain: local proving, measurements, tests.

use types::ids::{BlobHash, GenesisHash, JobId};
use types::job::{HINT_PROCESSOR_VERSION, HashFunction, OutputRule, PROOF_SYSTEM_VERSION};
use types::statement::Statement;

use crate::error::ProgramError;
use crate::inspect::inspect;

/// The statement of a program file and its arguments outside of any chain: genesis and job are all zero, and nothing but
/// a PIE's own output is demanded. `hash_function` of `None` means the one that proves fastest.
///
/// # Errors
/// [`ProgramError`] when the program is refused.
pub fn local_statement(
    program: &[u8],
    args: Option<&[u8]>,
    hash_function: Option<HashFunction>,
) -> Result<Statement, ProgramError> {
    let inspection = inspect(program, hash_function)?;
    let hash = |bytes: &[u8]| BlobHash::new(*blake3::hash(bytes).as_bytes());
    Ok(Statement {
        genesis: GenesisHash::new([0; 32]),
        job: JobId::new([0; 32]),
        task: 0,
        kind: inspection.kind,
        program_file: hash(program),
        program_hash: inspection.program_hash,
        hash_function: inspection.hash_function,
        args: args.map(hash),
        output_rule: inspection.pie_output.map_or(OutputRule::Quorum, OutputRule::Exact),
        hint_processor: HINT_PROCESSOR_VERSION,
        proof_system: PROOF_SYSTEM_VERSION,
    })
}
