//! Programs that want too much, assembled here.

use std::io::{Read, Write};
use std::path::Path;

use cairo_lang_casm::assembler::AssembledCairoProgram;
use cairo_lang_casm::casm;
use cairo_lang_casm::hints::Hint;
use cairo_lang_casm::instructions::Instruction;
use cairo_lang_executable::executable::{EntryPointKind, Executable, ExecutableEntryPoint};
use cairo_vm::types::builtin_name::BuiltinName;
use prover::sample::{self, SampleHint};
use serde_json::json;
use zip::write::SimpleFileOptions;

fn program(instructions: &[Instruction], hints: &[SampleHint<'_>]) -> Vec<u8> {
    sample::cairo0_json(&sample::assemble(instructions), &["output"], hints)
}

/// Jumps to itself.
pub(crate) fn endless() -> Vec<u8> {
    program(&casm! { jmp rel 0; }.instructions, &[])
}

/// Writes one cell so many cells behind the output pointer.
pub(crate) fn store_at(offset: u64) -> Vec<u8> {
    let context = casm! { [ap] = [fp - 3] + offset, ap++; [ap] = 1, ap++; [ap - 1] = [[ap - 2]]; ret; };
    program(&context.instructions, &[])
}

/// Asks for a new segment in every round.
pub(crate) fn endless_segments() -> Vec<u8> {
    let hint = SampleHint { at: 0, code: "memory[ap] = segments.add()", variables: &[] };
    program(&casm! { ap += 1; jmp rel (-2); }.instructions, &[hint])
}

/// Calls itself, so that its stack grows.
pub(crate) fn endless_calls() -> Vec<u8> {
    program(&casm! { call rel 0; }.instructions, &[])
}

/// A Cairo 0 file with so many words.
pub(crate) fn many_words(words: usize) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(&sample::fibonacci(1)).unwrap();
    value["data"] = json!(vec!["0x1"; words]);
    value.to_string().into_bytes()
}

/// A Cairo 1 executable that returns at once, with these hints before its first instruction.
pub(crate) fn cairo1(hints: &[Hint]) -> Vec<u8> {
    let body = casm! { [ap] = [fp - 3], ap++; ret; };
    let bytecode = body.instructions.iter().flat_map(|one| one.assemble().encode()).collect();
    let entry = |kind| ExecutableEntryPoint { builtins: vec![BuiltinName::output], offset: 0, kind };
    let executable = Executable {
        program: AssembledCairoProgram { bytecode, hints: vec![(0, hints.to_vec())] },
        entrypoints: vec![entry(EntryPointKind::Standalone), entry(EntryPointKind::Bootloader)],
        debug_info: None,
    };
    serde_json::to_vec(&executable).unwrap()
}

/// A real PIE, one file of which unpacks to more than `limit` bytes.
pub(crate) fn bomb(name: &str, limit: usize) -> Vec<u8> {
    let pie = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testnet/programs/merkle-pie/merkle.pie.zip");
    let mut archive = zip::ZipArchive::new(std::fs::File::open(pie).unwrap()).unwrap();
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let names: Vec<String> = archive.file_names().map(str::to_owned).collect();
    assert!(names.iter().any(|known| known == name), "{names:?}");
    for known in names {
        writer.start_file(known.as_str(), SimpleFileOptions::default()).unwrap();
        if known == name {
            let block = vec![b' '; 1 << 20];
            (0..=limit >> 20).for_each(|_| writer.write_all(&block).unwrap());
        } else {
            let mut content = Vec::new();
            archive.by_name(&known).unwrap().read_to_end(&mut content).unwrap();
            writer.write_all(&content).unwrap();
        }
    }
    let bytes = writer.finish().unwrap().into_inner();
    assert!(bytes.len() < 1 << 20, "small on the way: {} bytes", bytes.len());
    bytes
}
