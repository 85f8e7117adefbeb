//! Executables of the Cairo 1 compiler.

use cairo_lang_casm::assembler::AssembledCairoProgram;
use cairo_lang_executable::executable::{EntryPointKind, ExecutableEntryPoint};
use cairo_lang_runner::build_hints_dict;
use cairo_vm::Felt252;
use cairo_vm::types::program::Program as VmProgram;
use cairo_vm::types::relocatable::MaybeRelocatable;
use serde::Deserialize;
use types::job::ProgramKind;

use super::{Loaded, Program};
use crate::error::ProgramError;
use crate::{hints, limits};

/// An executable file without its debug information.
#[derive(Deserialize)]
struct Executable {
    program: AssembledCairoProgram,
    entrypoints: Vec<ExecutableEntryPoint>,
}

pub(super) fn load(bytes: &[u8]) -> Result<Program, ProgramError> {
    let executable: Executable = serde_json::from_slice(bytes)
        .map_err(|e| ProgramError::malformed("program", format!("Cairo 1 executable: {e}")))?;
    let words = executable.program.bytecode.len();
    if words > limits::PROGRAM_WORDS_MAX {
        return Err(ProgramError::too_large("program.bytecode", limits::PROGRAM_WORDS_MAX, "words"));
    }
    hints::check_cairo1(executable.program.hints.iter().flat_map(|(_, list)| list))?;
    if let Some((at, _)) = executable.program.hints.iter().find(|(at, _)| *at >= words) {
        let detail = format!("a hint is at {at}, the program has {words} words");
        return Err(ProgramError::malformed("program.hints", detail));
    }
    let entry = executable
        .entrypoints
        .iter()
        .find(|entry| entry.kind == EntryPointKind::Bootloader)
        .ok_or_else(|| ProgramError::malformed("entrypoints", "no entry point of kind Bootloader"))?;
    let n_hints = executable.program.hints.iter().map(|(_, list)| list.len()).sum();
    let data = executable.program.bytecode.iter().map(Felt252::from).map(MaybeRelocatable::from).collect();
    let (hints, by_text) = build_hints_dict(&executable.program.hints);
    let program = VmProgram::new(
        entry.builtins.clone(),
        data,
        Some(entry.offset),
        hints,
        Default::default(),
        Default::default(),
        vec![],
        None,
    )
    .map_err(|e| ProgramError::malformed("program", format!("Cairo 1 executable: {e}")))?;
    let stripped = program
        .get_stripped_program()
        .map_err(|e| ProgramError::malformed("program", format!("Cairo 1 executable: {e}")))?;
    Program::new(ProgramKind::Cairo1, stripped, n_hints, Loaded::Cairo1 { program, hints: by_text })
}
