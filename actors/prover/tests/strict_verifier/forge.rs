//! Makes proofs, honest and forged, from the upstream prover's pieces, and keeps them by content.
//!
//! Every forgery is a complete proof under the transcript that the stock verifier replays; what is wrong with it is what that
//! verifier does not look at.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use cairo_air::CairoProofForRustVerifier;
use cairo_air::cairo_components::CairoComponents;
use cairo_air::claims::{CairoClaim, CairoInteractionClaim, lookup_sum};
use cairo_air::components::ec_op_builtin;
use cairo_air::relations::CommonLookupElements;
use cairo_air::verifier::INTERACTION_POW_BITS;
use cairo_program_runner_lib::hints::types::{HashFunc, RunMode};
use cairo_program_runner_lib::{
    Cairo0Executable, ProgramInput, SimpleBootloaderInput, Task, TaskSpec, cairo_run_program,
};
use cairo_vm::Felt252;
use cairo_vm::types::layout_name::LayoutName;
use cairo_vm::types::program::Program;
use cairo_vm::types::relocatable::Relocatable;
use cairo_vm::vm::runners::cairo_runner::CairoRunner;
use proof::envelope::{self, CairoProof};
use proof::policy;
use proof::program::{ProgramHeader, builtin_felt};
use stwo::core::channel::{Channel, MerkleChannel};
use stwo::core::fields::m31::M31;
use stwo::core::pcs::PcsConfig;
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::proof_of_work::GrindOps;
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs_lifted::blake2_merkle::{Blake2sM31MerkleChannel, Blake2sMerkleChannel};
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::{BackendForChannel, Column};
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::circle::{CircleEvaluation, PolyOps};
use stwo::prover::{CommitmentSchemeProver, CommitmentTreeProver, prove_ex};
use stwo_cairo_adapter::ProverInput;
use stwo_cairo_adapter::adapter::adapt;
use stwo_cairo_adapter::builtins::MemorySegmentAddresses;
use stwo_cairo_prover::utils::cairo_provers;
use stwo_cairo_prover::witness::cairo::create_cairo_claim_generator;
use stwo_cairo_prover::witness::preprocessed_trace::gen_trace;
use types::felt::Felt;
use types::genesis::{Genesis, GenesisValidator};
use types::ids::{Amount, BlobHash, JobId, TimeMs};
use types::job::{HashFunction, OutputRule, ProgramKind};
use types::keys::{PublicKey, SecretKey};
use types::params::Params;
use types::statement::Statement;

/// Who proves.
pub(crate) const PROVER: PublicKey = PublicKey::new([7; 32]);
/// What the forgeries claim the 100th Fibonacci number to be.
pub(crate) const LIE: u128 = 123_456_789;
/// Domains up to 2^22: the preprocessed tables of 2^20 rows at blow-up 2, and one more bit for the composition.
const TWIDDLES_LOG: u32 = 22;

/// What is done to a proof while it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tamper {
    /// Nothing.
    None,
    /// The public output is a lie; a claimed sum without a component makes the lookups balance.
    SumWithoutComponent,
    /// The same; the total of the large-value tables is not the total of its parts.
    SumOfLargeValues,
    /// The public output lies in cells between the stack and the output segment.
    OutputBesideSegment,
    /// One cell of a range-check table is another number.
    TableCell,
    /// The proof's own configuration is another.
    Config {
        /// Bits of proof of work.
        pow_bits: u32,
        /// FRI queries.
        queries: usize,
    },
    /// The bootloader has one more word.
    LongerBootloader,
    /// One word of the bootloader, in code that this run does not reach, is another.
    OtherBootloader,
    /// A builtin that the program never used has a component all the same, over cells that are not its segment's.
    StrayBuiltin,
    /// The binding task is left out.
    OneTask,
    /// The user's task is there twice.
    ThreeTasks,
    /// Transcript and trees hash to words below 2^31 - 1, as another prover of the same library does.
    OtherChannel,
}

fn asset(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)).unwrap()
}

/// The pinned bootloader's file.
pub(crate) fn bootloader_json() -> Vec<u8> {
    asset("simple_bootloader.json")
}

/// The binding task's file.
pub(crate) fn simple_output_json() -> Vec<u8> {
    asset("simple_output.json")
}

/// A program without input that outputs the 100th Fibonacci number (of 1, 1, 2, ...), assembled by hand.
pub(crate) fn fibonacci_json() -> Vec<u8> {
    let minus_one = "0x800000000000011000000000000000000000000000000000000000000000000";
    let minus_eight = "0x800000000000010fffffffffffffffffffffffffffffffffffffffffffffff9";
    let data = [
        // main: [ap] = 1, [ap] = 1, [ap] = 100, call fibonacci, [[fp - 3]] = [ap - 1], [ap] = [fp - 3] + 1, ret
        "0x480680017fff8000",
        "0x1",
        "0x480680017fff8000",
        "0x1",
        "0x480680017fff8000",
        "0x64",
        "0x1104800180018000",
        "0x6",
        "0x400280007ffd7fff",
        "0x482680017ffd8000",
        "0x1",
        "0x208b7fff7fff7ffe",
        // fibonacci: jmp over the return if [fp - 3] != 0
        "0x20780017fff7ffd",
        "0x4",
        "0x480a7ffb7fff8000",
        "0x208b7fff7fff7ffe",
        "0x480a7ffc7fff8000",
        "0x482a7ffc7ffb8000",
        "0x482680017ffd8000",
        minus_one,
        "0x1104800180018000",
        minus_eight,
        "0x208b7fff7fff7ffe",
    ];
    let json = serde_json::json!({
        "prime": "0x800000000000011000000000000000000000000000000000000000000000001",
        "compiler_version": "0.14.0.1",
        "main_scope": "__main__",
        "builtins": ["output"],
        "data": data,
        "hints": {},
        "attributes": [],
        "reference_manager": { "references": [] },
        "identifiers": { "__main__.main": { "decorators": [], "pc": 0, "type": "function" } },
    });
    serde_json::to_vec(&json).unwrap()
}

/// A program file's header, as the verifier hashes it.
pub(crate) fn header(json: &[u8]) -> ProgramHeader {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    ProgramHeader {
        main: value["identifiers"]["__main__.main"]["pc"].as_u64().unwrap(),
        builtins: value["builtins"].as_array().unwrap().iter().map(|b| builtin_felt(&text(b)).unwrap()).collect(),
        data: value["data"].as_array().unwrap().iter().map(|w| text(w).parse().unwrap()).collect(),
    }
}

/// A generation of four validators of equal power, in key order.
pub(crate) fn validators(generation: u8) -> Vec<SecretKey> {
    let mut keys: Vec<_> = (0..4).map(|n| SecretKey::from_seed([10 * generation + n; 32])).collect();
    keys.sort_by_key(SecretKey::public);
    keys
}

/// The chain that all these proofs are for; generation 1 validates from the start.
pub(crate) fn genesis() -> Genesis {
    let validator = |key: &SecretKey| {
        let key = key.public();
        GenesisValidator { key, power: 10, account: key, stake: Amount(1) }
    };
    Genesis {
        chain_id: "strict".into(),
        time_ms: TimeMs(1),
        params: Params::standard(),
        validators: validators(1).iter().map(validator).collect(),
        provers: vec![],
        accounts: vec![],
    }
}

/// The statement that all these proofs are about.
pub(crate) fn statement() -> Statement {
    let program = fibonacci_json();
    Statement {
        genesis: genesis().hash(),
        job: JobId::new([2; 32]),
        task: 0,
        kind: ProgramKind::Cairo0,
        program_file: BlobHash::new(*blake3::hash(&program).as_bytes()),
        program_hash: header(&program).hash(HashFunction::Poseidon),
        hash_function: HashFunction::Poseidon,
        args: None,
        output_rule: OutputRule::Quorum,
        hint_processor: 1,
        proof_system: 1,
    }
}

fn library_hash(function: HashFunction) -> HashFunc {
    match function {
        HashFunction::Pedersen => HashFunc::Pedersen,
        HashFunction::Poseidon => HashFunc::Poseidon,
        HashFunction::Blake => HashFunc::Blake,
    }
}

fn bootloader(tamper: Tamper) -> Program {
    let json = bootloader_json();
    let mut value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let data = value["data"].as_array_mut().unwrap();
    match tamper {
        Tamper::LongerBootloader => data.push("0x0".into()),
        Tamper::OtherBootloader => {
            let program = Program::from_bytes(&json, Some("main")).unwrap();
            let name = "starkware.cairo.common.cairo_keccak.packed_keccak.keccak_round";
            data[program.get_identifier(name).unwrap().pc.unwrap()] = "0x1".into();
        }
        _ => return Program::from_bytes(&json, Some("main")).unwrap(),
    }
    Program::from_bytes(&serde_json::to_vec(&value).unwrap(), Some("main")).unwrap()
}

/// Runs binding task and program through the bootloader.
pub(crate) fn run(tamper: Tamper, function: HashFunction) -> CairoRunner {
    let task = |json: &[u8], program_input: Option<String>| TaskSpec {
        task: Rc::new(Task::Cairo0Program(Cairo0Executable {
            program: Program::from_bytes(json, Some("main")).unwrap(),
            program_input,
        })),
        program_hash_function: library_hash(function),
    };
    let [high, low] = statement().binding_words(&PROVER).map(|w| Felt252::from_bytes_be(&w.to_be_bytes()));
    let mut tasks = vec![
        task(&simple_output_json(), Some(format!("{{\"output\": [{high}, {low}]}}"))),
        task(&fibonacci_json(), None),
    ];
    match tamper {
        Tamper::OneTask => drop(tasks.remove(0)),
        Tamper::ThreeTasks => tasks.push(task(&fibonacci_json(), None)),
        _ => {}
    }
    let input = SimpleBootloaderInput { fact_topologies_path: None, single_page: true, tasks };
    let config = RunMode::Proof {
        layout: LayoutName::stwo_no_ecop,
        dynamic_layout_params: None,
        disable_trace_padding: true,
        relocate_mem: false,
    };
    cairo_run_program(&bootloader(tamper), Some(ProgramInput::from_value(input)), config.create_config(), None).unwrap()
}

/// The output with the lie in place of the number.
fn forged_output() -> Vec<Felt> {
    let s = statement();
    let [high, low] = s.binding_words(&PROVER);
    let number = Felt::from_u128;
    let binding = policy::binding_program_hash(s.hash_function);
    vec![number(2), number(4), binding, high, low, number(3), s.program_hash, number(LIE)]
}

/// Puts the forged output behind the stack, in the way of the output segment, and makes it public instead.
fn output_beside_segment(mut runner: CairoRunner) -> (ProverInput, Vec<(u32, [u32; 8])>) {
    let forged = forged_output();
    let ap = runner.vm.get_ap();
    for (i, word) in forged.iter().enumerate() {
        let cell = Relocatable::from((ap.segment_index, ap.offset + i));
        runner.vm.insert_value(cell, Felt252::from_bytes_be(&word.to_be_bytes())).unwrap();
    }
    let mut input = adapt(&runner).unwrap();
    let (initial_ap, final_ap) = (input.state_transitions.initial_state.ap.0, input.state_transitions.final_state.ap.0);
    let pointer = |address| u32::try_from(input.memory.get(address).as_small()).unwrap();
    let real = pointer(initial_ap)..pointer(final_ap - policy::BOOTLOADER_SEGMENTS);
    assert_eq!(real.start, final_ap + forged.len() as u32);
    let beside = final_ap..real.start;
    input.public_memory_addresses.retain(|address| !real.contains(address));
    input.public_memory_addresses.extend(beside.clone());
    let section =
        beside.map(|address| (input.memory.get_raw_id(address), input.memory.get(address).as_u256())).collect();
    (input, section)
}

fn config(tamper: Tamper) -> PcsConfig {
    let mut config = policy::pcs_config();
    if let Tamper::Config { pow_bits, queries } = tamper {
        config.pow_bits = pow_bits;
        config.fri_config.n_queries = queries;
    }
    config
}

fn tamper_with_claim(claim: &mut CairoClaim, tamper: Tamper, section: Option<Vec<(u32, [u32; 8])>>) {
    let output = &mut claim.public_data.public_memory.output;
    match tamper {
        Tamper::SumWithoutComponent | Tamper::SumOfLargeValues => {
            output.last_mut().unwrap().1 = [LIE as u32, 0, 0, 0, 0, 0, 0, 0];
        }
        Tamper::OutputBesideSegment => *output = section.unwrap(),
        _ => {}
    }
}

fn tamper_with_sums(
    claim: &CairoClaim,
    elements: &CommonLookupElements,
    interaction: &mut CairoInteractionClaim,
    tamper: Tamper,
) {
    let missing = lookup_sum(claim, elements, interaction);
    match tamper {
        Tamper::SumWithoutComponent => {
            interaction.ec_op_builtin = Some(ec_op_builtin::InteractionClaim { claimed_sum: -missing });
        }
        Tamper::SumOfLargeValues => interaction.memory_id_to_big.as_mut().unwrap().claimed_sum -= missing,
        _ => {}
    }
}

/// The prover of stwo-cairo, step by step, with something done to it on the way; the channel is `MC`.
fn prove<MC: MerkleChannel>(tamper: Tamper) -> CairoProofForRustVerifier<MC::H>
where
    SimdBackend: BackendForChannel<MC>,
{
    let runner = run(tamper, statement().hash_function);
    let (mut input, section) = if tamper == Tamper::OutputBesideSegment {
        let (input, section) = output_beside_segment(runner);
        (input, Some(section))
    } else {
        (adapt(&runner).unwrap(), None)
    };
    if tamper == Tamper::StrayBuiltin {
        // Sixteen cells of the stack: pointers and return addresses, all below 2^96.
        let begin_addr = input.state_transitions.initial_state.ap.0 as usize;
        let stray = MemorySegmentAddresses { begin_addr, stop_ptr: begin_addr + 16 };
        assert_eq!(input.builtin_segments.range_check96_builtin.replace(stray), None);
    }
    let config = config(tamper);
    let twiddles = SimdBackend::precompute_twiddles(CanonicCoset::new(TWIDDLES_LOG).circle_domain().half_coset);
    let table = Arc::new(policy::VARIANT.to_preprocessed_trace());
    let mut columns = gen_trace(Arc::clone(&table));
    if tamper == Tamper::TableCell {
        // A row of the 20-bit range check that nothing in this run looks up now stands for 2^20 and more.
        let at = table.ids().iter().position(|id| id.id == "seq_20").unwrap();
        let mut values = columns[at].values.clone();
        let row = (0..values.len()).find(|row| values.at(*row) == M31((1 << 20) - 9)).unwrap();
        values.set(row, M31(2_000_000_000));
        columns[at] = CircleEvaluation::new(columns[at].domain, values);
    }
    let pool = BaseColumnPool::new();
    let tree = CommitmentTreeProver::<SimdBackend, MC>::new(
        SimdBackend::interpolate_columns(columns, &twiddles),
        config.fri_config.log_blowup_factor,
        &twiddles,
        true,
        config.lifting_log_size,
        &pool,
    );
    let channel = &mut MC::C::default();
    channel.mix_felts(&[policy::CHANNEL_SALT.into()]);
    config.mix_into(channel);
    let mut scheme = CommitmentSchemeProver::with_memory_pool(config, &twiddles, &pool);
    scheme.set_store_polynomials_coefficients();
    scheme.commit_tree(MaybeOwned::Owned(tree), channel);

    let (evaluations, mut claim, generator) = create_cairo_claim_generator(input, Arc::clone(&table)).write_trace();
    tamper_with_claim(&mut claim, tamper, section);
    claim.mix_into::<MC>(channel);
    let mut builder = scheme.tree_builder();
    builder.extend_evals(evaluations);
    builder.commit(channel);

    let interaction_pow = SimdBackend::grind(channel, INTERACTION_POW_BITS);
    channel.mix_u64(interaction_pow);
    let elements = CommonLookupElements::draw(channel);
    let (evaluations, mut interaction_claim) = generator.write_interaction_trace(&elements);
    tamper_with_sums(&claim, &elements, &mut interaction_claim, tamper);
    interaction_claim.mix_into(channel);
    let mut builder = scheme.tree_builder();
    builder.extend_evals(evaluations);
    builder.commit(channel);

    let components = CairoComponents::new(&claim, &elements, &interaction_claim, &table.ids());
    let stark = prove_ex::<SimdBackend, MC>(&cairo_provers(&components), channel, scheme, false).unwrap();
    CairoProofForRustVerifier {
        claim,
        interaction_pow,
        interaction_claim,
        stark_proof: stark.proof,
        channel_salt: policy::CHANNEL_SALT,
        preprocessed_trace_variant: policy::VARIANT,
    }
}

fn cache_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("proof-cache");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The bytes of the proof made under `tamper`, in their envelope; made once for given inputs, policy and version of this
/// file.
pub(crate) fn blob(tamper: Tamper) -> Vec<u8> {
    let mut key = blake3::Hasher::new();
    let parameters = format!("{tamper:?} {:?} {:?}", config(tamper), statement());
    for part in
        [include_bytes!("forge.rs").as_slice(), parameters.as_bytes(), &bootloader_json(), &simple_output_json()]
    {
        key.update(blake3::hash(part).as_bytes());
    }
    let folder = cache_folder();
    let path = folder.join(format!("strict-{}.proof", &key.finalize().to_hex()[..32]));
    // One proof at a time on this machine: each takes gigabytes.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if let Ok(blob) = fs::read(&path) {
        return blob;
    }
    let blob = if tamper == Tamper::OtherChannel {
        envelope::encode_bytes(&bincode1::serialize(&prove::<Blake2sM31MerkleChannel>(tamper)).unwrap()).unwrap()
    } else {
        envelope::encode(&prove::<Blake2sMerkleChannel>(tamper)).unwrap()
    };
    let part = path.with_extension("part");
    fs::write(&part, &blob).unwrap();
    fs::rename(&part, &path).unwrap();
    blob
}

/// The proof made under `tamper`.
pub(crate) fn proof(tamper: Tamper) -> CairoProof {
    envelope::decode(&blob(tamper)).unwrap()
}
