//! Programs for tests, of the kinds that `sample` does not make.

use cairo_lang_casm::assembler::AssembledCairoProgram;
use cairo_lang_casm::casm;
use cairo_lang_casm::hints::{ExternalHint, Hint};
use cairo_lang_casm::operand::{CellRef, Register, ResOperand};
use cairo_lang_executable::executable::{EntryPointKind, Executable, ExecutableEntryPoint};
use cairo_lang_utils::bigint::BigIntAsHex;
use cairo_vm::cairo_run::{CairoRunConfig, cairo_run};
use cairo_vm::hint_processor::builtin_hint_processor::builtin_hint_processor_definition::BuiltinHintProcessor;
use cairo_vm::types::builtin_name::BuiltinName;
use cairo_vm::types::layout_name::LayoutName;

/// A Cairo 1 executable that outputs the sum of its first two arguments.
pub(crate) fn cairo1_sum() -> Vec<u8> {
    let argument = Hint::External(ExternalHint::WriteRunParam {
        index: ResOperand::Immediate(BigIntAsHex::from(0)),
        dst: CellRef { register: Register::AP, offset: 0 },
    });
    // Two entry points: one that never returns, for running alone, and one for the bootloader.
    let standalone = casm! { ap += 1; call rel 4; jmp rel 0; };
    let body = casm! {
        ap += 2;
        [ap] = [[ap - 2]], ap++;
        [ap] = [[ap - 3] + 1], ap++;
        [ap] = [ap - 2] + [ap - 1], ap++;
        [ap - 1] = [[fp - 3]];
        [ap] = [fp - 3] + 1, ap++;
        ret;
    };
    let bytecode: Vec<_> =
        standalone.instructions.iter().chain(&body.instructions).flat_map(|one| one.assemble().encode()).collect();
    let start = bytecode.len().saturating_sub(body.current_code_offset);
    let entry = |offset, kind| ExecutableEntryPoint { builtins: vec![BuiltinName::output], offset, kind };
    let executable = Executable {
        program: AssembledCairoProgram { bytecode, hints: vec![(start, vec![argument])] },
        entrypoints: vec![entry(0, EntryPointKind::Standalone), entry(start, EntryPointKind::Bootloader)],
        debug_info: None,
    };
    serde_json::to_vec(&executable).unwrap_or_default()
}

/// The Cairo PIE of a run of a Cairo 0 program without hints; `None` when it does not run.
pub(crate) fn pie_of(program: &[u8]) -> Option<Vec<u8>> {
    let config = CairoRunConfig { layout: LayoutName::all_cairo_stwo, ..CairoRunConfig::default() };
    let runner = cairo_run(program, &config, &mut BuiltinHintProcessor::new_empty()).ok()?;
    let pie = runner.get_cairo_pie().ok()?;
    let folder = tempfile::tempdir().ok()?;
    let path = folder.path().join("pie.zip");
    pie.write_zip_file(&path, false).ok()?;
    std::fs::read(path).ok()
}
