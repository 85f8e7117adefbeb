//! Each check is reached by a proof that is good but for one thing.

use cairo_air::air::SegmentRange;
use cairo_air::components as air;
use stwo::core::fields::m31::{M31, P};
use stwo::core::poly::line::LinePoly;
use stwo_cairo_common::preprocessed_columns::preprocessed_trace::PreProcessedTraceVariant;
use types::felt::Felt;
use types::ids::{BlobHash, GenesisHash, JobId};
use types::job::{HashFunction, OutputRule, ProgramKind};
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::Check;

use super::fixture::{LOG_SIZE, empty_layer, proof, sum};
use super::{claims, config, format, public, tasks};
use crate::Rejection;
use crate::cairo::verify_decoded;
use crate::envelope::{self, CairoProof};
use crate::policy::{BOOTLOADER_WORDS, binding_program_hash};

const PROVER: PublicKey = PublicKey::new([5; 32]);

fn statement() -> Statement {
    Statement {
        genesis: GenesisHash::new([1; 32]),
        job: JobId::new([2; 32]),
        task: 0,
        kind: ProgramKind::Cairo0,
        program_file: BlobHash::new([3; 32]),
        program_hash: Felt::from_u128(4),
        hash_function: HashFunction::Poseidon,
        args: None,
        output_rule: OutputRule::Prefix(vec![Felt::from_u128(70), Felt::from_u128(71)]),
        hint_processor: 1,
        proof_system: 1,
    }
}

fn felts(values: &[u128]) -> Vec<Felt> {
    values.iter().copied().map(Felt::from_u128).collect()
}

fn output_words() -> Vec<Felt> {
    let s = statement();
    let [high, low] = s.binding_words(&PROVER);
    let mut words = felts(&[2, 4]);
    words.extend([binding_program_hash(s.hash_function), high, low]);
    words.extend(felts(&[5, 4, 70, 71, 72]));
    words
}

fn good() -> CairoProof {
    proof(&output_words())
}

fn refused(result: Result<impl std::fmt::Debug, Rejection>, check: Check, part: &str) {
    let rejection = result.unwrap_err();
    assert_eq!(rejection.check, check, "{rejection}");
    assert!(rejection.reason.contains(part), "{rejection} does not mention '{part}'");
    assert!(!rejection.panicked);
}

/// Breaks the fixture and expects `format` to name it, also through the whole verifier and the envelope.
fn format_refuses(part: &str, change: impl Fn(&mut CairoProof)) {
    let mut broken = good();
    change(&mut broken);
    refused(format::check(&broken), Check::Format, part);
    let blob = envelope::encode(&broken).unwrap();
    refused(crate::verify(&blob, &statement(), &PROVER), Check::Format, part);
}

fn claims_refuse(part: &str, change: impl Fn(&mut CairoProof)) {
    let mut broken = good();
    change(&mut broken);
    format::check(&broken).unwrap();
    refused(claims::check(&broken), Check::Claims, part);
}

#[test]
fn the_fixture_passes_up_to_the_bootloader() {
    let proof = good();
    format::check(&proof).unwrap();
    config::config(&proof).unwrap();
    config::preprocessed_root(&proof).unwrap();
    claims::check(&proof).unwrap();
    let tasks = public::output(&proof.claim.public_data).unwrap();
    let task = tasks::program(&tasks, &statement()).unwrap();
    tasks::binding(&tasks, &statement(), &PROVER).unwrap();
    tasks::input(task, &statement()).unwrap();
    assert_eq!(task.output, felts(&[70, 71, 72]));
    refused(verify_decoded(proof, &statement(), &PROVER), Check::Bootloader, "words");
}

#[test]
fn unreduced_limbs() {
    format_refuses("register", |p| p.claim.public_data.final_state.ap = M31(P));
    format_refuses("lookup sum", |p| p.interaction_claim.add_opcode.as_mut().unwrap().claimed_sum = sum(P + 1));
    format_refuses("lookup sum", |p| p.interaction_claim.memory_id_to_big.as_mut().unwrap().claimed_sum.1.1 = M31(P));
    format_refuses("lookup sum", |p| {
        p.interaction_claim.memory_id_to_big.as_mut().unwrap().big_claimed_sums[1] = sum(P)
    });
    format_refuses("sampled", |p| p.stark_proof.0.sampled_values[2][3][0].0.1 = M31(u32::MAX));
    format_refuses("queried", |p| p.stark_proof.0.queried_values[0][155][71] = M31(P));
    format_refuses("FRI", |p| p.stark_proof.0.fri_proof.first_layer.fri_witness = vec![sum(P)]);
    format_refuses("FRI", |p| p.stark_proof.0.fri_proof.inner_layers[3].fri_witness = vec![sum(P)]);
    format_refuses("FRI", |p| p.stark_proof.0.fri_proof.last_layer_poly = LinePoly::new(vec![sum(P)]));
}

#[test]
fn public_numbers_out_of_range() {
    let prime = [1, 0, 0, 0, 0, 0, 17, 0x0800_0000];
    format_refuses("program[7]", |p| p.claim.public_data.public_memory.program[7].1 = prime);
    format_refuses("output[1]", |p| p.claim.public_data.public_memory.output[1].1 = [u32::MAX; 8]);
    format_refuses("output[0]: memory id", |p| p.claim.public_data.public_memory.output[0].0 = P);
    format_refuses("safe call", |p| p.claim.public_data.public_memory.safe_call_ids[1] = P);
    format_refuses("segment output", |p| p.claim.public_data.public_memory.public_segments.output.start_ptr.value = P);
    format_refuses("segment poseidon", |p| {
        p.claim.public_data.public_memory.public_segments.poseidon.as_mut().unwrap().stop_ptr.id = P;
    });
}

#[test]
fn sizes_out_of_bounds() {
    for size in [0, 3, 25, 31, 32, u32::MAX] {
        format_refuses("add_opcode", |p| p.claim.add_opcode.as_mut().unwrap().log_size = size);
    }
    for size in [3, 21, 64] {
        format_refuses("memory_address_to_id", |p| p.claim.memory_address_to_id.as_mut().unwrap().log_size = size);
        format_refuses("memory_id_to_big", |p| p.claim.memory_id_to_big.as_mut().unwrap().big_log_sizes[1] = size);
    }
    format_refuses("missing", |p| p.claim.memory_id_to_big = None);
    format_refuses("0 tables", |p| p.claim.memory_id_to_big.as_mut().unwrap().big_log_sizes.clear());
    format_refuses("17 tables", |p| p.claim.memory_id_to_big.as_mut().unwrap().big_log_sizes = vec![4; 17]);
}

#[test]
fn vectors_of_the_wrong_length() {
    format_refuses("commitments: 5", |p| p.stark_proof.0.commitments.0.push(Default::default()));
    format_refuses("commitments: 0", |p| p.stark_proof.0.commitments.0.clear());
    format_refuses("sampled_values: 3", |p| drop(p.stark_proof.0.sampled_values.0.pop()));
    format_refuses("decommitments: 3", |p| drop(p.stark_proof.0.decommitments.0.pop()));
    format_refuses("queried_values: 3", |p| drop(p.stark_proof.0.queried_values.0.pop()));
    format_refuses("tree 0", |p| drop(p.stark_proof.0.sampled_values.0[0].pop()));
    format_refuses("tree 1", |p| p.stark_proof.0.queried_values.0[1].push(vec![M31(0); 72]));
    format_refuses("tree 3", |p| p.stark_proof.0.sampled_values.0[3].push(vec![]));
    format_refuses("0 queried rows", |p| p.stark_proof.0.queried_values.0[0][0].clear());
    format_refuses("73 queried rows", |p| p.stark_proof.0.queried_values.0[0][0] = vec![M31(0); 73]);
    format_refuses("differ in length", |p| p.stark_proof.0.queried_values.0[2][9].truncate(71));
    format_refuses("5 inner FRI layers", |p| p.stark_proof.0.fri_proof.inner_layers.push(empty_layer()));
    format_refuses("last FRI layer", |p| {
        p.stark_proof.0.fri_proof.last_layer_poly = LinePoly::new(vec![sum(1), sum(2)])
    });
}

/// The stock verifier doubles a point `log_size` times, a number that the proof states beside the coefficients.
#[test]
fn a_polynomial_that_lies_about_its_size() {
    let honest = LinePoly::new(vec![sum(1)]);
    let mut bytes = bincode1::serialize(&honest).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    let lying: LinePoly = bincode1::deserialize(&bytes).unwrap();
    // That this panics rather than wraps shows that stwo itself is built with overflow checks, in every profile.
    assert!(std::panic::catch_unwind(|| lying.len()).is_err());
    format_refuses("last FRI layer", |p| p.stark_proof.0.fri_proof.last_layer_poly = lying.clone());
}

#[test]
fn openings_that_no_constraint_reads() {
    // The fixture opens every column once; constraints read cumulative sums twice and unused tables never.
    refused(format::masks(&good(), LOG_SIZE), Check::Format, "not sampled at exactly");
}

#[test]
fn every_field_of_the_configuration() {
    let refuse = |part: &str, change: &dyn Fn(&mut CairoProof)| {
        let mut broken = good();
        change(&mut broken);
        refused(config::config(&broken), Check::Config, part);
        refused(verify_decoded(broken, &statement(), &PROVER), Check::Config, part);
    };
    refuse("pow_bits is 25", &|p| p.stark_proof.0.config.pow_bits = 25);
    refuse("pow_bits is 27", &|p| p.stark_proof.0.config.pow_bits = 27);
    refuse("n_queries is 71", &|p| p.stark_proof.0.config.fri_config.n_queries = 71);
    refuse("log_blowup_factor", &|p| p.stark_proof.0.config.fri_config.log_blowup_factor = 2);
    refuse("fold_step", &|p| p.stark_proof.0.config.fri_config.fold_step = 1);
    refuse("log_last_layer", &|p| p.stark_proof.0.config.fri_config.log_last_layer_degree_bound = 1);
    refuse("lifting_log_size", &|p| p.stark_proof.0.config.lifting_log_size = Some(22));
    refuse("channel_salt", &|p| p.channel_salt = 1);
    refuse("preprocessed trace", &|p| p.preprocessed_trace_variant = PreProcessedTraceVariant::Canonical);
    let mut other = statement();
    other.proof_system = 2;
    refused(verify_decoded(good(), &other, &PROVER), Check::Config, "proof system 2");
}

#[test]
fn another_preprocessed_root() {
    let mut broken = good();
    broken.stark_proof.0.commitments[0].0[31] ^= 1;
    refused(verify_decoded(broken, &statement(), &PROVER), Check::PreprocessedRoot, "commitment 0");
}

#[test]
fn a_component_in_one_claim_only() {
    claims_refuse("ret_opcode is only in the interaction claim", |p| {
        p.interaction_claim.ret_opcode = Some(air::ret_opcode::InteractionClaim { claimed_sum: sum(1) });
    });
    claims_refuse("verify_bitwise_xor_12 is only in the interaction claim", |p| {
        p.interaction_claim.verify_bitwise_xor_12 =
            Some(air::verify_bitwise_xor_12::InteractionClaim { claimed_sum: sum(0) });
    });
    claims_refuse("add_opcode is only in the claim", |p| p.interaction_claim.add_opcode = None);
    claims_refuse("memory_id_to_big is missing", |p| p.interaction_claim.memory_id_to_big = None);
}

#[test]
fn components_that_must_or_must_not_be_there() {
    claims_refuse("ec_op_builtin is claimed", |p| {
        p.claim.ec_op_builtin = Some(air::ec_op_builtin::Claim { log_size: 4, ec_op_builtin_segment_start: 0 });
        p.interaction_claim.ec_op_builtin = Some(air::ec_op_builtin::InteractionClaim { claimed_sum: sum(0) });
        fit_columns(p);
    });
    claims_refuse("pedersen_builtin is claimed", |p| {
        p.claim.pedersen_builtin =
            Some(air::pedersen_builtin::Claim { log_size: 4, pedersen_builtin_segment_start: 0 });
        p.interaction_claim.pedersen_builtin = Some(air::pedersen_builtin::InteractionClaim { claimed_sum: sum(0) });
        fit_columns(p);
    });
    claims_refuse("range_check_9_9 is missing", |p| {
        p.claim.range_check_9_9 = None;
        p.interaction_claim.range_check_9_9 = None;
        fit_columns(p);
    });
    claims_refuse("memory_id_to_small is missing", |p| {
        p.claim.memory_id_to_small = None;
        p.interaction_claim.memory_id_to_small = None;
        fit_columns(p);
    });
}

/// Gives the STARK part the columns of a changed claim.
fn fit_columns(p: &mut CairoProof) {
    for (tree, sizes) in p.claim.log_sizes().iter().enumerate() {
        p.stark_proof.0.sampled_values[tree + 1].resize(sizes.len(), vec![sum(1)]);
        p.stark_proof.0.queried_values[tree + 1].resize(sizes.len(), vec![M31(1); 72]);
    }
}

#[test]
fn sums_of_the_large_value_tables() {
    claims_refuse("2 tables, but 3 claimed sums", |p| {
        p.interaction_claim.memory_id_to_big.as_mut().unwrap().big_claimed_sums.push(sum(0));
    });
    claims_refuse("2 tables, but 1 claimed sums", |p| {
        let big = p.interaction_claim.memory_id_to_big.as_mut().unwrap();
        big.big_claimed_sums.pop();
        big.claimed_sum = sum(5);
    });
    claims_refuse("not the sum", |p| p.interaction_claim.memory_id_to_big.as_mut().unwrap().claimed_sum = sum(12));
    claims_refuse("not the sum", |p| {
        p.interaction_claim.memory_id_to_big.as_mut().unwrap().big_claimed_sums[0] = sum(6)
    });
}

fn segment_of(p: &mut CairoProof) -> &mut SegmentRange {
    p.claim.public_data.public_memory.public_segments.poseidon.as_mut().unwrap()
}

#[test]
fn builtins_and_their_segments() {
    claims_refuse("poseidon begins at 300000, its segment at 300006", |p| segment_of(p).start_ptr.value = 300_006);
    // Also when the program used none of it: the stock verifier looks no further then.
    claims_refuse("poseidon begins at 300000, its segment at 0", |p| {
        segment_of(p).start_ptr.value = 0;
        segment_of(p).stop_ptr.value = 0;
    });
    claims_refuse("component poseidon has no segment", |p| {
        p.claim.public_data.public_memory.public_segments.poseidon = None
    });
    claims_refuse("not whole instances of 6", |p| segment_of(p).stop_ptr.value -= 1);
    claims_refuse("past the component's end", |p| segment_of(p).stop_ptr.value += 6);
    claims_refuse("ends before it begins", |p| segment_of(p).stop_ptr.value = 299_999);
    claims_refuse("range_check reaches past address", |p| {
        let start = (1 << 29) - 20;
        p.claim.range_check_builtin.as_mut().unwrap().range_check_builtin_segment_start = start;
        let segment = p.claim.public_data.public_memory.public_segments.range_check_128.as_mut().unwrap();
        (segment.start_ptr.value, segment.stop_ptr.value) = (start, start);
    });
    for name in ["bitwise", "ec_op", "ecdsa", "keccak"] {
        claims_refuse(&format!("segment {name} is used"), |p| {
            let segments = &mut p.claim.public_data.public_memory.public_segments;
            let segment = match name {
                "bitwise" => &mut segments.bitwise,
                "ec_op" => &mut segments.ec_op,
                "ecdsa" => &mut segments.ecdsa,
                _ => &mut segments.keccak,
            };
            segment.as_mut().unwrap().stop_ptr.value = 80;
        });
    }
}

#[test]
fn addresses_and_steps_are_bounded() {
    claims_refuse("final ap", |p| p.claim.public_data.final_state.ap = M31(1 << 29));
    claims_refuse("segment output", |p| {
        p.claim.public_data.public_memory.public_segments.output.stop_ptr.value = 1 << 29
    });
    // 20 opcode tables of 2^24 rows stay below 2^29 steps; the bound is reached only past the size limit.
    let mut many = good().claim;
    many.add_opcode.as_mut().unwrap().log_size = 29;
    claims::relations(&many).unwrap();
    many.ret_opcode = Some(air::ret_opcode::Claim { log_size: 4 });
    refused(claims::relations(&many), Check::Claims, "relation Opcodes");
    let mut lookups = good().claim;
    lookups.memory_id_to_small.as_mut().unwrap().log_size = 31;
    refused(claims::relations(&lookups), Check::Claims, "RangeCheck_9_9");
}

#[test]
fn another_program_than_the_bootloader() {
    let refuse = |part: &str, change: &dyn Fn(&mut CairoProof)| {
        let mut broken = good();
        change(&mut broken);
        refused(public::bootloader(&broken.claim.public_data), Check::Bootloader, part);
    };
    refuse("3168 words", &|p| p.claim.public_data.public_memory.program.truncate(BOOTLOADER_WORDS - 1));
    refuse("3170 words", &|p| p.claim.public_data.public_memory.program.push((1, [0; 8])));
    refuse("not those of the pinned", &|_| ());
}

#[test]
fn output_that_is_not_the_output_segments() {
    let refuse = |part: &str, change: &dyn Fn(&mut CairoProof)| {
        let mut broken = good();
        change(&mut broken);
        refused(public::output(&broken.claim.public_data), Check::Output, part);
    };
    refuse("begins at 99999", &|p| {
        let output = &mut p.claim.public_data.public_memory.public_segments.output;
        output.start_ptr.value -= 1;
        output.stop_ptr.value -= 1;
    });
    refuse("has 10 words", &|p| p.claim.public_data.public_memory.public_segments.output.stop_ptr.value += 1);
    refuse("has 9 words", &|p| p.claim.public_data.public_memory.output.truncate(9));
    refuse("at most", &|p| p.claim.public_data.public_memory.output = vec![(1, [0; 8]); 70_000]);
}

#[test]
fn task_lists() {
    let parse = |values: &[u128]| tasks::parse(&felts(values));
    assert_eq!(parse(&[2, 2, 10, 3, 11, 7]).unwrap().len(), 2);
    refused(parse(&[]), Check::Output, "empty");
    refused(parse(&[1, 2, 10]), Check::Output, "0x1 tasks");
    refused(parse(&[3, 2, 10, 2, 11, 2, 12]), Check::Output, "0x3 tasks");
    refused(parse(&[u128::MAX, 2, 10, 2, 11]), Check::Output, "tasks");
    refused(parse(&[2, 2, 10, 2]), Check::Output, "task 1: the output ends");
    refused(parse(&[2, 1, 10, 2, 11]), Check::Output, "task 0: size 0x1");
    refused(parse(&[2, 2, 10, 4, 11, 7]), Check::Output, "task 1: size");
    refused(parse(&[2, u64::MAX as u128, 10, 2, 11]), Check::Output, "task 0: size");
    refused(parse(&[2, u128::MAX, 10, 2, 11]), Check::Output, "task 0: size");
    refused(parse(&[2, 2, 10, 2, 11, 7]), Check::Output, "1 words after");
}

#[test]
fn program_binding_and_input() {
    let parsed = tasks::parse(&output_words()).unwrap();
    let mut other_program = statement();
    other_program.program_hash = Felt::from_u128(5);
    refused(tasks::program(&parsed, &other_program), Check::Program, "0x4");

    refused(tasks::binding(&parsed, &statement(), &PublicKey::new([6; 32])), Check::Binding, "not the binding digest");
    let mut other_job = statement();
    other_job.job = JobId::new([9; 32]);
    refused(tasks::binding(&parsed, &other_job, &PROVER), Check::Binding, "not the binding digest");
    let mut swapped = parsed.clone();
    swapped.swap(0, 1);
    refused(tasks::binding(&swapped, &statement(), &PROVER), Check::Binding, "not the binding program");
    let mut longer = parsed.clone();
    longer[0].output.push(Felt::ZERO);
    refused(tasks::binding(&longer, &statement(), &PROVER), Check::Binding, "not the binding digest");

    let with = |output_rule| Statement { output_rule, ..statement() };
    let task = &parsed[1];
    for rule in [OutputRule::Quorum, OutputRule::Exact(felts(&[70, 71, 72])), OutputRule::Prefix(felts(&[70, 71, 72]))]
    {
        tasks::input(task, &with(rule)).unwrap();
    }
    refused(tasks::input(task, &with(OutputRule::Prefix(felts(&[70, 72])))), Check::Input, "at word 1");
    refused(tasks::input(task, &with(OutputRule::Prefix(felts(&[70, 71, 72, 73])))), Check::Input, "at word 3");
    refused(tasks::input(task, &with(OutputRule::Exact(felts(&[70, 71])))), Check::Input, "3 words");
    refused(tasks::input(task, &with(OutputRule::Exact(felts(&[70, 71, 72, 0])))), Check::Input, "4 words");
}
