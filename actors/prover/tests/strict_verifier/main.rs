//! The strict verifier against real proofs, honest and forged. Where the stock verifier has a hole, the test first shows
//! that it accepts the forgery, and then that ours names the check that refuses it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod forge;
mod receipts;

use std::panic::catch_unwind;
use std::time::Instant;

use ::proof::cairo::{Verified, verify, verify_decoded};
use ::proof::envelope::{self, CairoProof};
use ::proof::{Rejection, policy};
use cairo_air::CairoProofForRustVerifier;
use cairo_air::verifier::verify_cairo;
use cairo_program_runner_lib::compute_program_hash_chain;
use cairo_program_runner_lib::hints::types::HashFunc;
use cairo_vm::types::program::Program;
use forge::{LIE, PROVER, Tamper, bootloader_json, fibonacci_json, header, proof, run, simple_output_json, statement};
use stwo::core::fields::m31::{M31, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::line::LinePoly;
use stwo::core::vcs_lifted::blake2_merkle::{Blake2sM31MerkleChannel, Blake2sM31MerkleHasher, Blake2sMerkleChannel};
use stwo_cairo_prover::witness::preprocessed_trace::generate_preprocessed_commitment_root;
use types::felt::Felt;
use types::job::{HashFunction, OutputRule};
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::Check;

const FUNCTIONS: [(HashFunction, HashFunc); 3] = [
    (HashFunction::Pedersen, HashFunc::Pedersen),
    (HashFunction::Poseidon, HashFunc::Poseidon),
    (HashFunction::Blake, HashFunc::Blake),
];

/// The 100th Fibonacci number of 1, 1, 2, ...: F(101) of the usual count, below the field's prime.
fn fibonacci() -> Felt {
    let (mut a, mut b) = (1u128, 1u128);
    for _ in 0..100 {
        (a, b) = (b, a + b);
    }
    Felt::from_u128(a)
}

/// What cairo-air's own verifier says.
fn stock_accepts(proof: &CairoProof) -> bool {
    let proof = proof.clone();
    catch_unwind(move || verify_cairo::<Blake2sMerkleChannel>(proof).is_ok()).unwrap_or(false)
}

fn strict(proof: &CairoProof) -> Result<Verified, Rejection> {
    let blob = envelope::encode(proof).unwrap();
    verify(&blob, &statement(), &PROVER)
}

fn refused(proof: &CairoProof, check: Check) -> Rejection {
    let rejection = strict(proof).unwrap_err();
    assert_eq!(rejection.check, check, "{rejection}");
    rejection
}

/// The last word of the public output, as a reader of the proof would take it.
fn claimed_number(proof: &CairoProof) -> u32 {
    proof.claim.public_data.public_memory.output.last().unwrap().1[0]
}

#[test]
fn an_honest_proof() {
    let proof = proof(Tamper::None);
    assert!(stock_accepts(&proof));
    let blob = envelope::encode(&proof).unwrap();
    let verified = verify(&blob, &statement(), &PROVER).unwrap();
    assert_eq!(verified.output, [fibonacci()]);
    assert_eq!(verified.program_hash, statement().program_hash);
    assert_eq!(verified.security, policy::figures());
    let steps = run(Tamper::None, HashFunction::Poseidon).vm.get_current_step() as u64;
    assert!(verified.steps_bound >= steps, "{} rows for {steps} steps", verified.steps_bound);
    let times: Vec<_> = (0..9)
        .map(|_| {
            let since = Instant::now();
            verify(&blob, &statement(), &PROVER).unwrap();
            since.elapsed()
        })
        .collect();
    println!("blob {} bytes, strict verification {:?}", blob.len(), times.iter().min().unwrap());
}

#[test]
fn pinned_bootloader_and_hashes() {
    let bootloader = header(&bootloader_json());
    assert_eq!(bootloader.data.len(), policy::BOOTLOADER_WORDS);
    let mut digest = blake3::Hasher::new();
    for word in &bootloader.data {
        let mut bytes = word.to_be_bytes();
        bytes.reverse();
        digest.update(&bytes);
    }
    assert_eq!(*digest.finalize().as_bytes(), policy::BOOTLOADER_DIGEST);
    assert_eq!(bootloader.builtins.len(), policy::BOOTLOADER_SEGMENTS as usize);
    for (ours, library) in FUNCTIONS {
        for json in [bootloader_json(), simple_output_json(), fibonacci_json()] {
            let program = Program::from_bytes(&json, Some("main")).unwrap().get_stripped_program().unwrap();
            let expected = compute_program_hash_chain(&program, 0, library).unwrap();
            assert_eq!(header(&json).hash(ours).to_be_bytes(), expected.to_bytes_be(), "{ours:?}");
        }
        assert_eq!(policy::binding_program_hash(ours), header(&simple_output_json()).hash(ours), "{ours:?}");
    }
}

#[test]
fn the_bootloader_hashes_as_we_do() {
    for (function, _) in FUNCTIONS {
        let mut text = String::new();
        run(Tamper::None, function).vm.write_output(&mut text).unwrap();
        let words: Vec<&str> = text.lines().collect();
        let decimal = |felt: Felt| {
            cairo_vm::math_utils::signed_felt(cairo_vm::Felt252::from_bytes_be(&felt.to_be_bytes())).to_string()
        };
        assert_eq!(words.len(), 8);
        assert_eq!(words[2], decimal(policy::binding_program_hash(function)));
        assert_eq!(words[6], decimal(header(&fibonacci_json()).hash(function)));
        assert_eq!(words[7], decimal(fibonacci()));
    }
}

#[test]
fn pinned_preprocessed_root() {
    let root = generate_preprocessed_commitment_root::<Blake2sMerkleChannel>(
        policy::LOG_BLOWUP,
        policy::VARIANT,
        policy::pcs_config().lifting_log_size,
    );
    assert_eq!(root.0, policy::PREPROCESSED_ROOT, "{root}");
}

#[test]
fn a_claimed_sum_without_a_component() {
    let forged = proof(Tamper::SumWithoutComponent);
    assert_eq!(u128::from(claimed_number(&forged)), LIE);
    assert!(stock_accepts(&forged));
    let rejection = refused(&forged, Check::Claims);
    assert!(rejection.reason.contains("ec_op_builtin is only in the interaction claim"), "{rejection}");
}

#[test]
fn a_total_that_is_not_the_total() {
    let forged = proof(Tamper::SumOfLargeValues);
    assert_eq!(u128::from(claimed_number(&forged)), LIE);
    assert!(stock_accepts(&forged));
    let rejection = refused(&forged, Check::Claims);
    assert!(rejection.reason.contains("not the sum of the tables' sums"), "{rejection}");
}

#[test]
fn an_output_beside_its_segment() {
    let forged = proof(Tamper::OutputBesideSegment);
    assert_eq!(u128::from(claimed_number(&forged)), LIE);
    assert!(stock_accepts(&forged));
    let rejection = refused(&forged, Check::Output);
    assert!(rejection.reason.contains("the output segment begins at"), "{rejection}");
}

#[test]
fn another_cell_in_a_table() {
    let forged = proof(Tamper::TableCell);
    assert!(stock_accepts(&forged));
    refused(&forged, Check::PreprocessedRoot);
}

/// The stock verifier takes the parameters from the proof. Thirteen bits in all; one query with the full proof of work; all
/// queries without proof of work; one query and nothing else.
#[test]
fn a_weak_configuration() {
    let policy = policy::pcs_config();
    for (pow_bits, queries, part) in [
        (0, 13, "pow_bits is 0"),
        (policy.pow_bits, 1, "n_queries is 1"),
        (0, policy.fri_config.n_queries, "pow_bits is 0"),
        (0, 1, "pow_bits is 0"),
    ] {
        let forged = proof(Tamper::Config { pow_bits, queries });
        assert!(stock_accepts(&forged), "{pow_bits} bits, {queries} queries");
        let rejection = refused(&forged, Check::Config);
        assert!(rejection.reason.contains(part), "{rejection}");
    }
}

/// The salt enters the transcript modulo 2^31 - 1, so that one transcript has several salts.
#[test]
fn an_alias_of_the_salt() {
    for salt in [P, 2 * P] {
        let mut alias = proof(Tamper::None);
        alias.channel_salt = salt;
        assert!(stock_accepts(&alias), "{salt}");
        let rejection = refused(&alias, Check::Config);
        assert!(rejection.reason.contains("channel_salt"), "{rejection}");
    }
}

/// A sound proof for the stock verifier of another channel. Its hashes look like ours.
#[test]
fn a_proof_over_another_channel() {
    let blob = forge::blob(Tamper::OtherChannel);
    let theirs: CairoProofForRustVerifier<Blake2sM31MerkleHasher> =
        bincode1::deserialize(&envelope::unpack(&blob).unwrap()).unwrap();
    assert!(verify_cairo::<Blake2sM31MerkleChannel>(theirs).is_ok());
    let mut forged = envelope::decode(&blob).unwrap();
    assert!(!stock_accepts(&forged));
    refused(&forged, Check::PreprocessedRoot);
    // With our tables' root in place of theirs, the transcript is another from its first word on.
    forged.stark_proof.0.commitments[0].0 = policy::PREPROCESSED_ROOT;
    assert!(!stock_accepts(&forged));
    assert!(!refused(&forged, Check::Stark).panicked);
}

#[test]
fn another_bootloader() {
    for (tamper, part) in
        [(Tamper::LongerBootloader, "3170 words"), (Tamper::OtherBootloader, "not those of the pinned")]
    {
        let forged = proof(tamper);
        assert!(stock_accepts(&forged), "{tamper:?}");
        let rejection = refused(&forged, Check::Bootloader);
        assert!(rejection.reason.contains(part), "{rejection}");
    }
}

#[test]
fn a_task_too_few_or_too_many() {
    for (tamper, part) in [(Tamper::OneTask, "0x1 tasks"), (Tamper::ThreeTasks, "0x3 tasks")] {
        let forged = proof(tamper);
        assert!(stock_accepts(&forged), "{tamper:?}");
        let rejection = refused(&forged, Check::Output);
        assert!(rejection.reason.contains(part), "{rejection}");
    }
}

/// A number and the same number plus the modulus enter the transcript alike: two proofs of one transcript.
#[test]
fn unreduced_and_overlong_numbers() {
    let mut unreduced = proof(Tamper::None);
    unreduced.claim.public_data.public_memory.output[3].0 += P;
    assert!(stock_accepts(&unreduced));
    refused(&unreduced, Check::Format);

    let mut unreduced = proof(Tamper::None);
    unreduced.claim.public_data.public_memory.program[100].0 += P;
    assert!(stock_accepts(&unreduced));
    refused(&unreduced, Check::Format);

    // Only 252 bits of a public word are read: the output plus 2^252, or plus seven times that, is not below the prime, and
    // not what the program wrote.
    for multiple in [1, 7] {
        let mut overlong = proof(Tamper::None);
        overlong.claim.public_data.public_memory.output.last_mut().unwrap().1[7] += multiple << 28;
        assert!(stock_accepts(&overlong));
        refused(&overlong, Check::Format);
    }
}

/// The total of the memory's lookups is in no transcript, and the stock verifier only adds it up. An addition takes the modulus
/// off once, so a limb with the modulus on top passes where the other summands don't bring it over that again. The proof is the
/// same every time, and so are the limbs that pass.
#[test]
fn a_total_with_an_unreduced_limb() {
    let honest = proof(Tamper::None);
    let mut passed = vec![];
    for limb in 0..4 {
        let mut unreduced = honest.clone();
        let total = &mut unreduced.interaction_claim.memory_id_to_big.as_mut().unwrap().claimed_sum;
        let mut limbs = total.to_m31_array();
        limbs[limb] = M31(limbs[limb].0 + P);
        *total = SecureField::from_m31_array(limbs);
        if stock_accepts(&unreduced) {
            passed.push(limb);
        }
        let rejection = refused(&unreduced, Check::Format);
        assert!(!rejection.reason.is_empty(), "{rejection}");
    }
    println!("the stock verifier accepts the limbs {passed:?}");
    assert!(!passed.is_empty(), "the stock verifier accepts none of the four: it has no such hole any more");
}

/// The claim's own copy of a builtin's first address enters no transcript, and the stock verifier compares it with the
/// segment only when the segment is used.
#[test]
fn a_builtin_beside_its_segment() {
    let forged = proof(Tamper::StrayBuiltin);
    assert!(stock_accepts(&forged));
    let rejection = refused(&forged, Check::Claims);
    assert!(rejection.reason.contains("component range_check96 begins at"), "{rejection}");
}

/// An unused preprocessed column has no opening; one that is there all the same would be ignored, not checked.
#[test]
fn an_opening_that_no_constraint_reads() {
    let mut longer_opening = proof(Tamper::None);
    let unused = longer_opening.stark_proof.0.sampled_values[0].iter().position(Vec::is_empty).unwrap();
    longer_opening.stark_proof.0.sampled_values.0[0][unused].push(SecureField::from_u32_unchecked(1, 2, 3, 4));
    let rejection = refused(&longer_opening, Check::Format);
    assert!(rejection.reason.contains("not sampled at exactly"), "{rejection}");
}

#[test]
fn registers_and_segments_of_another_program() {
    let change = |part: &str, change: &dyn Fn(&mut CairoProof)| {
        let mut broken = proof(Tamper::None);
        change(&mut broken);
        assert!(!stock_accepts(&broken));
        let rejection = refused(&broken, Check::Bootloader);
        assert!(rejection.reason.contains(part), "{rejection}");
    };
    change("initial pc is 2", &|p| p.claim.public_data.initial_state.pc = M31(2));
    change("initial ap", &|p| p.claim.public_data.initial_state.ap.0 += 1);
    change("initial fp", &|p| p.claim.public_data.initial_state.fp.0 += 1);
    change("final pc is 6", &|p| p.claim.public_data.final_state.pc = M31(6));
    change("final fp", &|p| p.claim.public_data.final_state.fp.0 -= 1);
    change("final ap", &|p| p.claim.public_data.final_state.ap = p.claim.public_data.initial_state.ap);
    change("segment keccak is missing", &|p| p.claim.public_data.public_memory.public_segments.keccak = None);
}

#[test]
fn statements_about_something_else() {
    let honest = proof(Tamper::None);
    let against = |statement: Statement, prover: PublicKey| verify_decoded(honest.clone(), &statement, &prover);
    let check = |statement, prover| against(statement, prover).unwrap_err().check;

    let other_program = header(&simple_output_json()).hash(HashFunction::Poseidon);
    assert_eq!(check(Statement { program_hash: other_program, ..statement() }, PROVER), Check::Program);
    // A statement that differs anywhere has another binding digest, and so has another prover.
    assert_eq!(check(Statement { task: 1, ..statement() }, PROVER), Check::Binding);
    assert_eq!(check(statement(), PublicKey::new([8; 32])), Check::Binding);
    let other_function = Statement { hash_function: HashFunction::Blake, ..statement() };
    assert_eq!(check(other_function, PROVER), Check::Binding);
}

/// The output rule is in the binding digest, so a proof for another rule fails there; the rule itself is reached by a
/// statement and prover whose binding the proof has.
#[test]
fn an_output_that_breaks_its_rule() {
    let rule = OutputRule::Prefix(vec![Felt::from_u128(LIE)]);
    let honest = proof(Tamper::None);
    let asked = Statement { output_rule: rule, ..statement() };
    let mut forged = honest.clone();
    for (word, at) in asked.binding_words(&PROVER).into_iter().zip(3..) {
        let mut bytes = word.to_be_bytes();
        bytes.reverse();
        let words = std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()));
        forged.claim.public_data.public_memory.output[at].1 = words;
    }
    assert!(!stock_accepts(&forged));
    assert_eq!(verify_decoded(forged, &asked, &PROVER).unwrap_err().check, Check::Input);
}

#[test]
fn a_stark_that_does_not_hold() {
    let change = |change: &dyn Fn(&mut CairoProof)| {
        let mut broken = proof(Tamper::None);
        change(&mut broken);
        assert!(!stock_accepts(&broken));
        let rejection = refused(&broken, Check::Stark);
        assert!(!rejection.panicked, "{rejection}");
    };
    change(&|p| p.interaction_pow += 1);
    change(&|p| p.stark_proof.0.commitments[1].0[0] ^= 1);
    change(&|p| p.stark_proof.0.commitments[3].0[0] ^= 1);
    change(&|p| p.stark_proof.0.sampled_values[1][7][0] = SecureField::from_u32_unchecked(1, 2, 3, 4));
    change(&|p| p.stark_proof.0.proof_of_work += 1);
    change(&|p| p.stark_proof.0.queried_values[1][0][0] = M31(p.stark_proof.0.queried_values[1][0][0].0 ^ 1));
    change(&|p| p.stark_proof.0.decommitments[2].hash_witness.truncate(1));
    change(&|p| p.stark_proof.0.fri_proof.inner_layers[0].commitment.0[0] ^= 1);
    change(&|p| {
        p.stark_proof.0.fri_proof.last_layer_poly = LinePoly::new(vec![SecureField::from_u32_unchecked(5, 6, 7, 8)])
    });
    // A public number that every earlier check allows.
    change(&|p| p.claim.public_data.public_memory.output.last_mut().unwrap().1[0] ^= 1);
}

/// Rows that fit no transcript make the stock verifier panic. That is a refusal, but no evidence.
#[test]
fn a_panic_is_told_apart() {
    let mut broken = proof(Tamper::None);
    for column in broken.stark_proof.0.queried_values.iter_mut().flatten() {
        column.pop();
    }
    assert!(refused(&broken, Check::Stark).panicked);
}

/// Any one byte of the proof, changed: never accepted, never a panic that escapes. 400 places from a fixed seed, and every
/// byte of the first 200 and last 64, where the small fields are.
#[test]
fn one_changed_byte() {
    let bytes = envelope::proof_bytes(&proof(Tamper::None)).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut places: Vec<usize> = (0..200).chain(bytes.len() - 64..bytes.len()).collect();
    for _ in 0..400 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        places.push(state as usize % bytes.len());
    }
    let mut checks = std::collections::BTreeMap::new();
    for place in places {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        let blob = envelope::encode_bytes(&changed).unwrap();
        match verify(&blob, &statement(), &PROVER) {
            Ok(_) => panic!("byte {place} can be changed"),
            Err(rejection) => *checks.entry((rejection.check.name(), rejection.panicked)).or_insert(0) += 1,
        }
    }
    println!("{checks:?}");
}
