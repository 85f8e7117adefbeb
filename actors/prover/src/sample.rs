//! Programs assembled here, for measurements and tests: every step of them is known.

use cairo_lang_casm::casm;
use cairo_lang_casm::instructions::Instruction;
use cairo_vm::Felt252;
use serde_json::{Value, json};

/// The Stark prime, as program files write it.
const PRIME: &str = "0x800000000000011000000000000000000000000000000000000000000000001";
/// Steps of one round of [`fibonacci`].
pub const FIBONACCI_STEPS_PER_ROUND: u64 = 6;

/// The words of assembled instructions.
pub fn assemble(instructions: &[Instruction]) -> Vec<Felt252> {
    instructions.iter().flat_map(|one| one.assemble().encode()).map(Felt252::from).collect()
}

/// A hint of a Cairo 0 program: its offset, its text, and the variables that the text names with their references.
pub struct SampleHint<'a> {
    /// Offset in words.
    pub at: usize,
    /// The text.
    pub code: &'a str,
    /// (name, reference), the latter as the compiler writes it, such as `[cast(fp, felt*)]`.
    pub variables: &'a [(&'a str, &'a str)],
}

/// A compiled Cairo 0 program of these words, its entry point at the first.
pub fn cairo0_json(words: &[Felt252], builtins: &[&str], hints: &[SampleHint<'_>]) -> Vec<u8> {
    let data: Vec<String> = words.iter().map(|word| format!("{word:#x}")).collect();
    let mut references: Vec<Value> = Vec::new();
    let mut by_offset = serde_json::Map::new();
    for hint in hints {
        let mut ids = serde_json::Map::new();
        for (name, value) in hint.variables {
            ids.insert(format!("__main__.main.{name}"), json!(references.len()));
            references.push(json!({"ap_tracking_data": {"group": 0, "offset": 0}, "pc": 0, "value": value}));
        }
        let entry = json!({
            "accessible_scopes": ["__main__", "__main__.main"],
            "code": hint.code,
            "flow_tracking_data": {"ap_tracking": {"group": 0, "offset": 0}, "reference_ids": ids},
        });
        by_offset.insert(hint.at.to_string(), json!([entry]));
    }
    let program = json!({
        "attributes": [],
        "builtins": builtins,
        "data": data,
        "debug_info": null,
        "hints": by_offset,
        "identifiers": {"__main__.main": {"decorators": [], "pc": 0, "type": "function"}},
        "main_scope": "__main__",
        "prime": PRIME,
        "reference_manager": {"references": references},
    });
    program.to_string().into_bytes()
}

/// The words of a program that outputs the Fibonacci number after `rounds` rounds, by a function that calls itself, as a
/// compiler writes it: six steps a round.
pub fn fibonacci_words(rounds: u64) -> Vec<Felt252> {
    let context = casm! {
        [ap] = 0, ap++;
        [ap] = 1, ap++;
        [ap] = rounds, ap++;
        call rel 6;
        [ap - 1] = [[fp - 3]];
        [ap] = [fp - 3] + 1, ap++;
        ret;
        jmp rel 4 if [fp - 3] != 0;
        [ap] = [fp - 4], ap++;
        ret;
        [ap] = [fp - 4], ap++;
        [ap] = [fp - 5] + [fp - 4], ap++;
        [ap] = [fp - 3] + (-1), ap++;
        call rel (-8);
        ret;
    };
    assemble(&context.instructions)
}

/// The Fibonacci program as a Cairo 0 file without hints.
pub fn fibonacci(rounds: u64) -> Vec<u8> {
    cairo0_json(&fibonacci_words(rounds), &["output"], &[])
}

/// The number that [`fibonacci`] outputs.
pub fn fibonacci_number(rounds: u64) -> Felt252 {
    let step = |(a, b): (Felt252, Felt252), _| (b, a + b);
    (0..rounds).fold((Felt252::ZERO, Felt252::ONE), step).1
}
