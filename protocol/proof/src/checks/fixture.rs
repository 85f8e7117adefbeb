//! A synthetic proof for tests: it satisfies every check but the bootloader's words and the STARK itself, so that each
//! test can break one thing and see that thing named.

use cairo_air::air::{MemorySmallValue, SegmentRange};
use cairo_air::claims::{CairoClaim, CairoInteractionClaim};
use cairo_air::components as air;
use serde::de::DeserializeOwned;
use stwo::core::fields::m31::M31;
use stwo::core::fields::qm31::SecureField;
use stwo::core::fri::FriLayerProof;
use stwo::core::poly::line::LinePoly;
use stwo::core::proof::StarkProof;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::core::vcs_lifted::verifier::MerkleDecommitmentLifted;
use types::felt::Felt;

use crate::envelope::CairoProof;
use crate::felts::to_words;
use crate::policy::{BOOTLOADER_WORDS, PREPROCESSED_ROOT, VARIANT, pcs_config};

/// Largest component of the fixture.
pub(crate) const LOG_SIZE: u32 = 20;
const FINAL_AP: u32 = 100_000;

/// A value whose serde form is all zeros: empty vectors, `None`, zero numbers.
fn zeros<T: DeserializeOwned>() -> T {
    bincode1::deserialize_from(&[0u8; 1 << 16][..]).unwrap()
}

/// A secure field element from one small number.
pub(crate) fn sum(value: u32) -> SecureField {
    SecureField::from_u32_unchecked(value, 0, 0, 0)
}

fn segment(start: u32, stop: u32) -> SegmentRange {
    let pointer = |value| MemorySmallValue { id: 1, value };
    SegmentRange { start_ptr: pointer(start), stop_ptr: pointer(stop) }
}

fn claims(output: &[Felt]) -> (CairoClaim, CairoInteractionClaim) {
    let mut claim: CairoClaim = zeros();
    let mut interaction: CairoInteractionClaim = zeros();
    claim.add_opcode = Some(air::add_opcode::Claim { log_size: 10 });
    interaction.add_opcode = Some(air::add_opcode::InteractionClaim { claimed_sum: sum(1) });
    claim.verify_instruction = Some(air::verify_instruction::Claim { log_size: 8 });
    interaction.verify_instruction = Some(air::verify_instruction::InteractionClaim { claimed_sum: sum(2) });
    claim.memory_address_to_id = Some(air::memory_address_to_id::Claim { log_size: 14 });
    interaction.memory_address_to_id = Some(air::memory_address_to_id::InteractionClaim { claimed_sum: sum(3) });
    claim.memory_id_to_small = Some(air::memory_id_to_small::Claim { log_size: 14 });
    interaction.memory_id_to_small = Some(air::memory_id_to_small::InteractionClaim { claimed_sum: sum(4) });
    claim.memory_id_to_big = Some(air::memory_id_to_big::Claim { big_log_sizes: vec![12, 5] });
    let big_claimed_sums = vec![sum(5), sum(6)];
    interaction.memory_id_to_big =
        Some(air::memory_id_to_big::InteractionClaim { big_claimed_sums, claimed_sum: sum(11) });
    tables(&mut claim, &mut interaction);
    claim.range_check_builtin =
        Some(air::range_check_builtin::Claim { log_size: 6, range_check_builtin_segment_start: 200_000 });
    interaction.range_check_builtin = Some(air::range_check_builtin::InteractionClaim { claimed_sum: sum(8) });
    claim.poseidon_builtin =
        Some(air::poseidon_builtin::Claim { log_size: 4, poseidon_builtin_segment_start: 300_000 });
    interaction.poseidon_builtin = Some(air::poseidon_builtin::InteractionClaim { claimed_sum: sum(9) });
    public_data(&mut claim, output);
    (claim, interaction)
}

/// Claims the tables that every proof has.
fn tables(claim: &mut CairoClaim, interaction: &mut CairoInteractionClaim) {
    macro_rules! tables {
        ($($name:ident)*) => {$(
            claim.$name = Some(air::$name::Claim {});
            interaction.$name = Some(air::$name::InteractionClaim { claimed_sum: sum(7) });
        )*};
    }
    tables! {
        range_check_6 range_check_8 range_check_11 range_check_12 range_check_18 range_check_20 range_check_4_3
        range_check_4_4 range_check_9_9 range_check_7_2_5 range_check_3_6_6_3 range_check_4_4_4_4
        range_check_3_3_3_3_3 verify_bitwise_xor_4 verify_bitwise_xor_7 verify_bitwise_xor_8 verify_bitwise_xor_9
    }
}

fn public_data(claim: &mut CairoClaim, output: &[Felt]) {
    let public = &mut claim.public_data;
    let frame = BOOTLOADER_WORDS as u32 + 3;
    (public.initial_state.pc, public.final_state.pc) = (M31(1), M31(5));
    (public.initial_state.ap, public.initial_state.fp, public.final_state.fp) = (M31(frame), M31(frame), M31(frame));
    public.final_state.ap = M31(FINAL_AP);
    let memory = &mut public.public_memory;
    memory.program = vec![(1, [0; 8]); BOOTLOADER_WORDS];
    memory.output = output.iter().map(|word| (1, to_words(*word))).collect();
    let segments = &mut memory.public_segments;
    segments.output = segment(FINAL_AP, FINAL_AP + output.len() as u32);
    segments.range_check_128 = Some(segment(200_000, 200_050));
    segments.poseidon = Some(segment(300_000, 300_000 + 6 * 16));
    let empty = [
        &mut segments.pedersen,
        &mut segments.ecdsa,
        &mut segments.bitwise,
        &mut segments.ec_op,
        &mut segments.keccak,
        &mut segments.range_check_96,
        &mut segments.add_mod,
        &mut segments.mul_mod,
    ];
    empty.into_iter().for_each(|s| *s = Some(segment(0, 0)));
}

/// A layer of FRI that holds nothing.
pub(crate) fn empty_layer() -> FriLayerProof<Blake2sMerkleHasher> {
    let decommitment = MerkleDecommitmentLifted { hash_witness: vec![] };
    FriLayerProof { fri_witness: vec![], decommitment, commitment: Blake2sHash::default() }
}

/// The fixture with this public output.
pub(crate) fn proof(output: &[Felt]) -> CairoProof {
    let (claim, interaction_claim) = claims(output);
    let mut stark_proof: StarkProof<Blake2sMerkleHasher> = zeros();
    let stark = &mut stark_proof.0;
    stark.config = pcs_config();
    stark.commitments.0 =
        vec![Blake2sHash(PREPROCESSED_ROOT), Blake2sHash::default(), Blake2sHash::default(), Blake2sHash::default()];
    let sizes = claim.log_sizes();
    let columns = [VARIANT.n_columns(), sizes[0].len(), sizes[1].len(), 8];
    stark.sampled_values.0 = columns.iter().map(|n| vec![vec![sum(1)]; *n]).collect();
    stark.queried_values.0 = columns.iter().map(|n| vec![vec![M31(1); 72]; *n]).collect();
    stark.decommitments.0 = vec![MerkleDecommitmentLifted { hash_witness: vec![] }; 4];
    stark.fri_proof.first_layer = empty_layer();
    stark.fri_proof.inner_layers = vec![empty_layer(); 4];
    stark.fri_proof.last_layer_poly = LinePoly::new(vec![sum(1)]);
    CairoProof {
        claim,
        interaction_pow: 0,
        interaction_claim,
        stark_proof,
        channel_salt: 0,
        preprocessed_trace_variant: VARIANT,
    }
}
