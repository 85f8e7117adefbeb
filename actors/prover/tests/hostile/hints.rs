//! Every hint that the libraries know, against the allow-list: by name, in real children, and run on hostile values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cairo_lang_casm::casm;
use cairo_lang_casm::hints::{CoreHint, Hint, StarknetHint};
use cairo_lang_casm::operand::{CellRef, Register, ResOperand};
use cairo_lang_utils::bigint::BigIntAsHex;
use cairo_vm::Felt252;
use prover::ProgramError;
use prover::program::Program;
use prover::sample::{self, SampleHint};
use prover::worker::{JobError, Worker};

use crate::codes::{self, Codes};
use crate::folder::Guarded;
use crate::{LONG, config, fault, programs, proof, request, run};

/// Hints of the virtual machine that are left out: randomness, one application's own, an example.
const MACHINE_REFUSED: &[&str] =
    &["CHAINED_EC_OP_RANDOM_EC_POINT", "EXAMPLE_BLAKE2S_COMPRESS", "EXCESS_BALANCE", "RANDOM_EC_POINT"];
/// Hints of the runner library whose text is also one of ours: they assign a number, one of the program's own input, or a
/// new segment.
/// Ours are parsed and run by our own code, never by the library's.
const RUNNER_ALLOWED: &[&str] = &[
    "BUILTIN_USAGE_5_TO_AP",
    "BUILTIN_USAGE_ADD_OTHER_SEGMENT",
    "FIBONACCI_LOAD_CLAIM_IDX",
    "FIBONACCI_LOAD_SECOND_ELEMENT",
    "PEDERSEN_MERKLE_IDX_PARITY_TO_AP",
    "SIMPLE_BOOTLOADER_DIVIDE_NUM_BY_2",
];

/// A program with this hint and a failing assertion behind it. The variables lie in four cells that hold `value`.
fn program_with(code: &str, names: &[&str], value: Felt252) -> Vec<u8> {
    let cells = casm! { [ap] = 7, ap++; [ap] = 7, ap++; [ap] = 7, ap++; [ap] = 7, ap++; };
    let mut words = sample::assemble(&cells.instructions);
    // Behind each instruction is its number.
    words.iter_mut().skip(1).step_by(2).for_each(|word| *word = value);
    let at = words.len();
    let end = casm! { [ap + 8] = 1; [ap + 8] = 2; ret; };
    words.extend(sample::assemble(&end.instructions));
    let places: Vec<String> = (0..names.len()).map(|i| format!("[cast(fp + {}, felt*)]", i % 4)).collect();
    let variables: Vec<(&str, &str)> = names.iter().zip(&places).map(|(name, place)| (*name, place.as_str())).collect();
    sample::cairo0_json(&words, &["output"], &[SampleHint { at, code, variables: &variables }])
}

/// As [`program_with`], the variables being small.
pub(crate) fn program(code: &str, names: &[&str]) -> Vec<u8> {
    program_with(code, names, Felt252::THREE)
}

/// The variables that a hint names.
fn variables(code: &str) -> Vec<&str> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names: BTreeSet<&str> = code.split("ids.").skip(1).filter_map(|rest| rest.split(ends).next()).collect();
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

fn is_allowed(code: &str) -> bool {
    match Program::load(&program(code, &[])) {
        Ok(_) => true,
        Err(ProgramError::Hint { hint }) => {
            assert!(code.starts_with(hint.as_str()), "{hint} is not the beginning of {code}");
            false
        }
        Err(other) => panic!("{code}: {other}"),
    }
}

fn refused_of(codes: &Codes) -> BTreeSet<&str> {
    codes.iter().filter(|(_, code)| !is_allowed(code)).map(|(name, _)| name.as_str()).collect()
}

fn embedded_programs() -> Vec<Codes> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    ["simple_bootloader.json", "simple_output.json"].map(|name| codes::of_program(&assets.join(name))).into()
}

#[test]
fn every_hint_of_the_libraries_is_allowed_by_name_or_refused() {
    let (machine, runner) = (codes::of_machine(), codes::of_runner_library());
    assert!(machine.len() > 150 && runner.len() > 80, "{} and {}", machine.len(), runner.len());
    assert_eq!(refused_of(&machine), MACHINE_REFUSED.iter().copied().collect());
    let refused = refused_of(&runner);
    let allowed: BTreeSet<&str> = runner.keys().map(String::as_str).filter(|name| !refused.contains(name)).collect();
    assert_eq!(allowed, RUNNER_ALLOWED.iter().copied().collect());
    // What the bootloaders' own programs contain is nothing else.
    let known: BTreeSet<&str> = machine.values().chain(runner.values()).map(String::as_str).collect();
    for program in embedded_programs() {
        assert!(program.len() > 2);
        for (place, code) in &program {
            assert!(known.contains(code.as_str()) || !is_allowed(code), "{place}: {code} is allowed and of no library");
        }
    }
}

#[tokio::test]
async fn every_refused_hint_is_refused_by_the_child_before_anything_runs() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    let all = [codes::of_machine(), codes::of_runner_library()];
    let mut seen = 0;
    for codes in &all {
        for name in refused_of(codes) {
            let code = &codes[name];
            let args = serde_json::json!({"path": guarded.canary()}).to_string();
            let fault = fault(run(&config, &request(program(code, &variables(code)), Some(args), 1_000)).await);
            assert_eq!(fault.field, "hints", "{name}: {fault:?}");
            assert!(code.starts_with(fault.value.as_deref().unwrap()), "{name}: {fault:?}");
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen}");
    assert_eq!(guarded.state(), before);
}

/// A hint that is allowed runs the library's code on values that its author never thought of.
#[tokio::test]
async fn every_allowed_hint_is_contained_whatever_its_variables_hold() {
    let guarded = Guarded::new();
    let mut config = config(&guarded);
    config.memory_bytes = 4 << 30;
    let before = guarded.state();
    let worker = Worker::new(config);
    let (machine, mut ends) = (codes::of_machine(), BTreeMap::<&str, usize>::new());
    let values = [Felt252::ZERO, Felt252::THREE, Felt252::from(1u64 << 40), Felt252::from(-1)];
    for (name, code) in machine.iter().filter(|(name, _)| !MACHINE_REFUSED.contains(&name.as_str())) {
        for value in values {
            let program = program_with(code, &variables(code), value);
            let job = worker.prove(proof(program, 100_000), LONG).await.unwrap();
            let end = match job.wait(|_| ()).await.unwrap_err() {
                JobError::Failed { .. } => "failed",
                JobError::Resources { detail } => {
                    println!("{name} with {value}: {detail}");
                    "resources"
                }
                JobError::OutOfMemory { .. } => "memory",
                other => panic!("{name} with {value}: {other:?}"),
            };
            *ends.entry(end).or_default() += 1;
        }
    }
    println!("{ends:?}, {} children", worker.status().starts);
    assert!(ends["failed"] > 600, "{ends:?}");
    assert_eq!(guarded.state(), before);
}

#[tokio::test]
async fn cairo1_hints_that_reach_outside_are_refused() {
    let guarded = Guarded::new();
    let (config, before) = (config(&guarded), guarded.state());
    let cell = CellRef { register: Register::AP, offset: 0 };
    let operand = || ResOperand::Deref(cell);
    let bad: [(Hint, &str); 4] = [
        (StarknetHint::SystemCall { system: operand() }.into(), "systemcall"),
        (
            StarknetHint::Cheatcode {
                selector: BigIntAsHex::from(7),
                input_start: operand(),
                input_end: operand(),
                output_start: cell,
                output_end: cell,
            }
            .into(),
            "cheatcode",
        ),
        (CoreHint::DebugPrint { start: operand(), end: operand() }.into(), "debugprint"),
        (CoreHint::RandomEcPoint { x: cell, y: cell }.into(), "randomecpoint"),
    ];
    for (hint, word) in bad {
        let fault = fault(run(&config, &request(programs::cairo1(&[hint]), None, 1_000)).await);
        assert_eq!(fault.field, "hints", "{fault:?}");
        let shown = fault.value.unwrap().to_lowercase();
        assert!(shown.contains(word), "{shown}");
    }
    assert_eq!(guarded.state(), before);
}
