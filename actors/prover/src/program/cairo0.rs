//! Compiled Cairo 0 programs.

use cairo_vm::types::program::Program as VmProgram;
use types::job::ProgramKind;

use super::{Loaded, Program};
use crate::error::ProgramError;
use crate::hints;

pub(super) fn load(bytes: &[u8]) -> Result<Program, ProgramError> {
    let program = VmProgram::from_bytes(bytes, Some("main"))
        .map_err(|e| ProgramError::malformed("program", format!("Cairo 0: {e}")))?;
    if program.get_identifier("__main__.__start__").is_some() {
        let detail = "compiled with --proof_mode; compile without it, the bootloader calls main itself";
        return Err(ProgramError::malformed("program", detail));
    }
    let all = &program.shared_program_data.hints_collection.hints;
    hints::check_cairo0(all.iter().map(|hint| hint.code.as_str()))?;
    let n_hints = all.len();
    let stripped = program
        .get_stripped_program()
        .map_err(|e| ProgramError::malformed("identifiers", format!("__main__.main: {e}")))?;
    Program::new(ProgramKind::Cairo0, stripped, n_hints, Loaded::Cairo0(program))
}
