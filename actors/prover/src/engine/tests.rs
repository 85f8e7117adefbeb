//! Real proofs, judged by the strict verifier; the values that its policy pins; refusals.

use std::sync::{Arc, Mutex};

use cairo_vm::types::program::Program as VmProgram;
use proof::policy;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use types::job::HashFunction;

use super::*;
use crate::local::local_statement;
use crate::memory::Estimate;
use crate::program::BOOTLOADER_VERSION;
use crate::{assets, felt, fixtures, hash, sample};

const KEY: PublicKey = PublicKey::new([7; 32]);

fn request(program: &[u8], args: Option<&str>, hash_function: Option<HashFunction>) -> ProveRequest {
    let args = args.map(|text| text.as_bytes().to_vec());
    ProveRequest {
        statement: local_statement(program, args.as_deref(), hash_function).unwrap(),
        prover: KEY,
        program: program.to_vec(),
        args,
        max_steps: 1 << 20,
        memory_limit: None,
    }
}

#[test]
fn the_policy_pins_what_this_prover_uses() {
    let mut engine = Engine::new();
    assert_eq!(
        hex::encode(engine.preprocessed_root().unwrap()),
        hex::encode(policy::PREPROCESSED_ROOT),
        "preprocessed root"
    );
    let assets = assets::assets().unwrap();
    let mut hasher = blake3::Hasher::new();
    for word in assets.bootloader.iter_data() {
        hasher.update(&word.get_int().unwrap().to_bytes_le());
    }
    assert_eq!(assets.bootloader.data_len(), policy::BOOTLOADER_WORDS);
    assert_eq!(*hasher.finalize().as_bytes(), policy::BOOTLOADER_DIGEST, "bootloader words");
    let hash_of = |program: &VmProgram, function| {
        let stripped = program.get_stripped_program().unwrap();
        let hash = cairo_program_runner_lib::hints::compute_program_hash_chain(
            &stripped,
            BOOTLOADER_VERSION,
            hash::to_library(function),
        );
        felt::from_vm(&hash.unwrap())
    };
    for function in [HashFunction::Pedersen, HashFunction::Poseidon, HashFunction::Blake] {
        assert_eq!(hash_of(&assets.simple_output, function), policy::binding_program_hash(function), "{function:?}");
    }
}

#[test]
fn proofs_of_all_kinds_pass_the_strict_verifier() {
    let mut engine = Engine::new();
    let cairo1 = fixtures::cairo1_sum();
    let pie = fixtures::pie_of(&sample::fibonacci(40)).unwrap();
    let fibonacci = felt::from_vm(&sample::fibonacci_number(40));
    let cases = [
        (sample::fibonacci(40), None, HashFunction::Poseidon, vec![fibonacci]),
        (sample::fibonacci(40), None, HashFunction::Blake, vec![fibonacci]),
        (cairo1, Some("[\"0x5\", 7]"), HashFunction::Poseidon, vec![Felt::from_u128(12)]),
        (pie, None, HashFunction::Pedersen, vec![fibonacci]),
    ];
    for (program, args, function, output) in cases {
        let stages = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&stages);
        let request = request(&program, args, Some(function));
        let observer = Box::new(move |stage| sink.lock().unwrap().push(stage));
        let proven = engine.prove(request.clone(), observer).unwrap();
        assert_eq!(proven.output, output);
        let verified = proof::cairo::verify(&proven.blob, &request.statement, &KEY).unwrap();
        assert_eq!(verified.output, output);
        assert!(verified.steps_bound >= proven.steps);
        assert!(proof::cairo::verify(&proven.blob, &request.statement, &PublicKey::new([8; 32])).is_err(), "stolen");
        let stages = stages.lock().unwrap();
        assert!(stages.is_sorted() && stages.last() == Some(&Stage::Verifying), "{stages:?}");
    }
}

#[test]
fn an_exported_proof_is_read_and_accepted_by_the_upstream_verifier() {
    use cairo_air::utils::{ProofFormat, deserialize_proof_from_file};
    use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;

    let proven = Engine::new().prove(request(&sample::fibonacci(9), None, None), Box::new(|_| ())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proof.bin");
    crate::export::stwo_binary(&proven.blob, &std::fs::File::create(&path).unwrap()).unwrap();
    let proof = deserialize_proof_from_file::<Blake2sMerkleHasher>(&path, ProofFormat::Binary).unwrap();
    cairo_air::verifier::verify_cairo::<Blake2sMerkleChannel>(proof).unwrap();
    assert!(crate::export::stwo_binary(b"no proof", &std::fs::File::create(&path).unwrap()).is_err());
}

#[test]
fn what_does_not_belong_to_the_statement_is_refused() {
    let mut engine = Engine::new();
    let good = request(&sample::fibonacci(5), None, None);
    let mut other_file = good.clone();
    other_file.program = sample::fibonacci(6);
    let mut other_args = good.clone();
    other_args.args = Some(b"{}".to_vec());
    let mut other_hash = good.clone();
    other_hash.statement.program_hash = Felt::from_u128(1);
    for bad in [other_file, other_args, other_hash] {
        assert!(matches!(engine.prove(bad, Box::new(|_| ())), Err(ProveError::Input(_))));
    }
    assert!(!engine.is_warm(), "refusals come before any work");
}

/// What the engine will expect of a request.
fn estimate_of(request: &ProveRequest) -> Estimate {
    let (program, args) = open_input(&request.statement, &request.program, request.args.as_deref()).unwrap();
    let run = run(RunRequest {
        program,
        args,
        hash_function: request.statement.hash_function,
        binding: request.statement.binding_words(&request.prover),
        max_steps: request.max_steps,
        output_rule: request.statement.output_rule.clone(),
        trace: true,
    })
    .unwrap();
    let input = adapt(&run.runner).unwrap();
    memory::estimate(&ExecutionResources::from_prover_input(&input), run.total_steps)
}

#[test]
fn a_proof_over_the_memory_limit_is_declined_before_it_is_started() {
    let mut engine = Engine::new();
    let mut request = request(&sample::fibonacci(5), None, None);
    request.memory_limit = Some(64 << 20);
    let declined = engine.prove(request.clone(), Box::new(|_| ()));
    match declined {
        Err(ProveError::Memory { needed, limit }) => assert!(needed > limit && limit == 64 << 20),
        other => panic!("{other:?}"),
    }
    let between = estimate_of(&request);
    request.memory_limit = Some(between.bytes_lean);
    let lean = engine.prove(request.clone(), Box::new(|_| ())).unwrap();
    assert!(between.bytes_lean < between.bytes && lean.estimated_bytes == between.bytes_lean, "without coefficients");
    request.max_steps = 3;
    assert!(matches!(engine.prove(request, Box::new(|_| ())), Err(ProveError::Run(RunError::Failed { .. }))));
}

#[test]
fn a_lack_of_threads_is_no_word_on_the_run() {
    let panic = |text: &'static str| caught::<()>("proving", || std::panic::panic_any(text), unprovable);
    assert!(matches!(
        panic("IOError(Os { code: 11, message: \"Resource temporarily unavailable\" })"),
        Err(ProveError::Run(RunError::Resources { .. }))
    ));
    assert!(matches!(panic("a table is too long"), Err(ProveError::Unprovable { .. })));
}
