//! Makes the example programs that have no compiler of their own: the Cairo 1 executable and the Cairo PIE.
//!
//! `cargo run --release -p testnet --example assemble -- DIR` writes `polynomial/polynomial.executable.json` and
//! `merkle-pie/merkle.pie.zip` below DIR; `scripts/programs.sh` compares them with the committed ones. The PIE is the run of
//! `DIR/merkle/merkle.json` on `DIR/merkle/input.json`. This file is the source of the polynomial program.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use cairo_lang_casm::assembler::AssembledCairoProgram;
use cairo_lang_casm::builder::CasmBuilder;
use cairo_lang_casm::cell_expression::CellExpression;
use cairo_lang_casm::hints::ExternalHint;
use cairo_lang_casm::instructions::Instruction;
use cairo_lang_casm::operand::{CellRef, Register};
use cairo_lang_casm::{casm, casm_build_extend};
use cairo_lang_executable::executable::{EntryPointKind, Executable, ExecutableEntryPoint};
use cairo_vm::Felt252;
use cairo_vm::cairo_run::{CairoRunConfig, cairo_run};
use cairo_vm::hint_processor::builtin_hint_processor::builtin_hint_processor_definition::{
    BuiltinHintProcessor, HintFunc,
};
use cairo_vm::hint_processor::builtin_hint_processor::hint_utils::{
    get_integer_from_var_name, insert_value_from_var_name,
};
use cairo_vm::types::builtin_name::BuiltinName;
use cairo_vm::types::layout_name::LayoutName;
use cairo_vm::types::relocatable::MaybeRelocatable;
use serde_json::Value;

fn main() -> Result<()> {
    let Some(directory) = std::env::args().nth(1) else {
        bail!("usage: assemble DIR (the folder testnet/programs or a copy of it)");
    };
    write_programs(Path::new(&directory))
}

/// Writes both programs below `directory`, which holds the Merkle program and its input.
pub(crate) fn write_programs(directory: &Path) -> Result<()> {
    let executable = directory.join("polynomial/polynomial.executable.json");
    let mut json = serde_json::to_string_pretty(&polynomial()).context("the executable as JSON")?;
    json.push('\n');
    std::fs::write(&executable, json).with_context(|| format!("writing {}", executable.display()))?;
    write_merkle_pie(directory)
}

/// The value of a polynomial at a point, by Horner's rule, in the field of the Cairo machine.
///
/// User arguments: `point, c_0, ..., c_k` (the coefficient of the highest power first, at least the point).
/// Output: the number of arguments, the arguments, and `c_0 * point^k + ... + c_k`. The arguments come first, so a
/// submitter who names them as the expected output prefix gets a proof about exactly these arguments.
fn polynomial() -> Executable {
    let mut body = CasmBuilder::default();
    // A bootloader calls the entry point with the output pointer as its only argument and wants it back, moved on.
    let output = body.add_var(CellExpression::Deref(CellRef { register: Register::FP, offset: -3 }));
    casm_build_extend! {body,
        const zero = 0;
        const one = 1;
        tempvar start;
        tempvar end;
        hint ExternalHint::WriteRunParam { index: zero } into { dst: start };
        ap += 2;
        // The two pointers are the prover's choice; what is read between them is in the output.
        tempvar count = end - start;
        assert count = *(output++);
        jump HAS_POINT if count != 0;
        fail;

        HAS_POINT:
        tempvar point = *start;
        assert point = *(output++);
        // The loop's five cells, at the end of the frame in this order here and after each turn.
        tempvar base = point;
        tempvar cursor = start + one;
        tempvar place = output;
        tempvar remaining = count - one;
        tempvar value = zero;
        rescope{one = one, base = base, cursor = cursor, place = place, remaining = remaining, value = value};

        NEXT:
        jump HAS_COEFFICIENT if remaining != 0;
        jump DONE;

        HAS_COEFFICIENT:
        tempvar coefficient = *cursor;
        assert coefficient = *place;
        tempvar scaled = value * base;
        tempvar next_base = base;
        tempvar next_cursor = cursor + one;
        tempvar next_place = place + one;
        tempvar next_remaining = remaining - one;
        tempvar next_value = scaled + coefficient;
        rescope{
            one = one, base = next_base, cursor = next_cursor, place = next_place, remaining = next_remaining,
            value = next_value
        };
        // The assembler counts steps for gas; a loop starts anew.
        #{ steps = 0; }
        jump NEXT;

        DONE:
        assert value = *(place++);
        tempvar output_end = place;
        ret;
    };
    let body = body.build([]).instructions;

    // For a run without a bootloader: make room for the builtin pointer, call the body, then loop for ever.
    let header = casm! {
        ap += 1;
        call rel 4;
        jmp rel 0;
    };
    let bootloader_offset = header.current_code_offset;
    let builtins = vec![BuiltinName::output];
    Executable {
        program: assembled(header.instructions.iter().chain(&body)),
        entrypoints: vec![
            ExecutableEntryPoint { builtins: builtins.clone(), offset: 0, kind: EntryPointKind::Standalone },
            ExecutableEntryPoint { builtins, offset: bootloader_offset, kind: EntryPointKind::Bootloader },
        ],
        debug_info: None,
    }
}

fn assembled<'a>(instructions: impl Iterator<Item = &'a Instruction>) -> AssembledCairoProgram {
    let mut program = AssembledCairoProgram { bytecode: Vec::new(), hints: Vec::new() };
    for instruction in instructions {
        if !instruction.hints.is_empty() {
            program.hints.push((program.bytecode.len(), instruction.hints.clone()));
        }
        program.bytecode.extend(instruction.assemble().encode());
    }
    program
}

/// Runs the Merkle program on its example input and writes the run as a PIE.
fn write_merkle_pie(directory: &Path) -> Result<()> {
    let program = std::fs::read(directory.join("merkle/merkle.json")).context("reading merkle/merkle.json")?;
    let input = std::fs::read(directory.join("merkle/input.json")).context("reading merkle/input.json")?;
    let input: Value = serde_json::from_slice(&input).context("merkle/input.json is not JSON")?;
    let leaf = felt(&input["leaf"])?;
    let index = felt(&input["index"])?;
    let path = input["path"].as_array().context("path is not a list")?;
    let path = path.iter().map(felt).collect::<Result<Vec<_>>>()?;

    let mut hints = BuiltinHintProcessor::new_empty();
    hints.add_hint(
        "ids.leaf = program_input['leaf']\nids.index = program_input['index']\n\
         ids.height = len(program_input['path'])\nids.path = segments.gen_arg(program_input['path'])"
            .to_owned(),
        Rc::new(HintFunc(Box::new(move |vm, _, ids, tracking, _| {
            let segment = vm.add_memory_segment();
            let cells: Vec<MaybeRelocatable> = path.iter().map(MaybeRelocatable::from).collect();
            vm.load_data(segment, &cells)?;
            insert_value_from_var_name("leaf", leaf, vm, ids, tracking)?;
            insert_value_from_var_name("index", index, vm, ids, tracking)?;
            insert_value_from_var_name("height", Felt252::from(path.len()), vm, ids, tracking)?;
            insert_value_from_var_name("path", segment, vm, ids, tracking)
        }))),
    );
    hints.add_hint(
        "memory[fp + 0] = to_felt_or_relocatable(ids.index % 2)".to_owned(),
        Rc::new(HintFunc(Box::new(|vm, _, ids, tracking, _| {
            let index = get_integer_from_var_name("index", vm, ids, tracking)?;
            let is_odd = index.to_bits_le()[0];
            vm.insert_value(vm.get_fp(), Felt252::from(u64::from(is_odd))).map_err(Into::into)
        }))),
    );
    let config = CairoRunConfig { layout: LayoutName::small, ..CairoRunConfig::default() };
    let runner = cairo_run(&program, &config, &mut hints).context("running merkle/merkle.json")?;
    let pie = runner.get_cairo_pie().context("making the PIE")?;
    let target = directory.join("merkle-pie/merkle.pie.zip");
    pie.write_zip_file(&target, false).with_context(|| format!("writing {}", target.display()))
}

/// A number of the example input: a JSON integer or 0x-hexadecimal text.
fn felt(value: &Value) -> Result<Felt252> {
    match value {
        Value::Number(number) => Ok(Felt252::from(number.as_u64().context("a number is negative or too large")?)),
        Value::String(text) => Felt252::from_hex(text).with_context(|| format!("{text} is no field element")),
        other => bail!("{other} is no number"),
    }
}
