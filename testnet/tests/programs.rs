//! The example programs: the compiled files are what their sources give, and each one runs to its documented output.
//!
//! The Cairo 0 files need the Cairo compiler, so `scripts/programs.sh` compares those; this file covers the rest. Runs are
//! without a proof and through the same bootloader and hint processor as a proof.

#![allow(clippy::expect_used, reason = "in a helper of a test, too, a failed expectation is a failed test")]

#[path = "../programs/assemble.rs"]
#[expect(dead_code, reason = "its main function is the example's")]
mod assemble;

use std::path::{Path, PathBuf};

use prover::{ExecuteRequest, Executed, execute, inspect};
use types::felt::Felt;

/// Folder, compiled program, and whether it takes the arguments in `input.json`.
const PROGRAMS: &[(&str, &str, bool)] = &[
    ("fibonacci", "fibonacci.json", true),
    ("merkle", "merkle.json", true),
    ("merkle-pie", "merkle.pie.zip", false),
    ("polynomial", "polynomial.executable.json", true),
];

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(programs().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn run(program: &str, args: Option<Vec<u8>>, max_steps: u64) -> Result<Executed, prover::ProveError> {
    let program = read(program);
    let hash_function = inspect(&program, None).expect("a program").hash_function;
    execute(&ExecuteRequest { program, args, hash_function, max_steps })
}

#[test]
fn every_program_gives_its_documented_output() {
    for (folder, file, has_input) in PROGRAMS {
        let args = has_input.then(|| read(&format!("{folder}/input.json")));
        let executed =
            run(&format!("{folder}/{file}"), args, 100_000).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let expected: Vec<Felt> = serde_json::from_slice(&read(&format!("{folder}/output.json"))).expect("felts");
        assert_eq!(executed.output, expected, "{folder}");
    }
}

#[test]
fn fibonacci_takes_six_steps_for_each_element() {
    let steps = |n: u64| {
        let args = format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#);
        run("fibonacci/fibonacci.json", Some(args.into_bytes()), 2_000_000).expect("a run").steps
    };
    let none = steps(0);
    assert_eq!(steps(1_000) - none, 6_000);
    assert_eq!(steps(20_000) - none, 120_000);
}

#[test]
fn a_wrong_witness_is_no_membership() {
    let input: serde_json::Value = serde_json::from_slice(&read("merkle/input.json")).expect("JSON");
    let run_changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = input.clone();
        change(&mut changed);
        run("merkle/merkle.json", Some(changed.to_string().into_bytes()), 100_000)
    };
    let root = run_changed(&|_| {}).expect("a run").output[0];
    // Another leaf, place or sibling leads to another root; an index beyond the tree leads nowhere.
    for change in [
        (&|input: &mut serde_json::Value| input["leaf"] = "0x2b".into()) as &dyn Fn(&mut serde_json::Value),
        &|input| input["index"] = 10.into(),
        &|input| input["path"][3] = "0x1".into(),
    ] {
        assert_ne!(run_changed(change).expect("a run").output[0], root);
    }
    for change in
        [(&|input: &mut serde_json::Value| input["index"] = 27.into()) as &dyn Fn(&mut serde_json::Value), &|input| {
            input["path"] = vec!["0x1"; 65].into()
        }]
    {
        assert!(run_changed(change).is_err());
    }
}

#[test]
fn a_polynomial_needs_a_point() {
    let at = |args: &str| run("polynomial/polynomial.executable.json", Some(args.into()), 100_000);
    assert!(at("[]").is_err());
    assert_eq!(at("[5]").expect("a run").output, [1_u128, 5, 0].map(Felt::from_u128));
    assert_eq!(at("[10, 1, 2, 3]").expect("a run").output, [4_u128, 10, 1, 2, 3, 123].map(Felt::from_u128));
}

#[test]
fn the_assembled_files_are_what_their_source_gives() {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for folder in ["merkle", "merkle-pie", "polynomial"] {
        std::fs::create_dir(copy.path().join(folder)).expect("a folder");
    }
    for input in ["merkle/merkle.json", "merkle/input.json"] {
        std::fs::write(copy.path().join(input), read(input)).expect("a copy");
    }
    assemble::write_programs(copy.path()).expect("the programs");
    for made in ["polynomial/polynomial.executable.json", "merkle-pie/merkle.pie.zip"] {
        let fresh = std::fs::read(copy.path().join(made)).expect("a program");
        assert!(fresh == read(made), "{made} differs from its source: run scripts/programs.sh --update");
    }
}
