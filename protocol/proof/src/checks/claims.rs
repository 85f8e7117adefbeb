//! *claims*: claim and interaction claim speak of the same components, and public memory, segments and builtins agree.
//!
//! The stock verifier adds up the interaction claim's sums while its constraints use those of the claimed components. A sum
//! without a component, or a total that is not the total of its parts, is bound by no constraint: with it any lookup
//! balances, and so any output can be "proven". The same goes for a builtin whose claim and segment lie apart.

use std::collections::BTreeMap;

use cairo_air::air::{RelationUsesDict, SegmentRange};
use cairo_air::claims::CairoClaim;
use stwo::core::fields::m31::P;
use stwo::core::fields::qm31::SecureField;
use stwo_cairo_common::builtins as cells;
use types::verdict::Check;

use super::segments;
use crate::Rejection;
use crate::components;
use crate::envelope::CairoProof;
use crate::policy::{ADDRESS_BOUND, OPCODE_USES_MAX};

/// Components that every run of the upstream prover has; the model verifier in Cairo insists on them, too.
const ALWAYS: [&str; 20] = [
    "verify_instruction",
    "memory_address_to_id",
    "memory_id_to_small",
    "range_check_6",
    "range_check_8",
    "range_check_11",
    "range_check_12",
    "range_check_18",
    "range_check_20",
    "range_check_4_3",
    "range_check_4_4",
    "range_check_9_9",
    "range_check_7_2_5",
    "range_check_3_6_6_3",
    "range_check_4_4_4_4",
    "range_check_3_3_3_3_3",
    "verify_bitwise_xor_4",
    "verify_bitwise_xor_7",
    "verify_bitwise_xor_8",
    "verify_bitwise_xor_9",
];

fn refuse<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Rejection::because(Check::Claims, reason)
}

/// Every check of this module.
pub(crate) fn check(proof: &CairoProof) -> Result<(), Rejection> {
    presence(proof)?;
    big_tables(proof)?;
    builtins(&proof.claim)?;
    addresses(&proof.claim)?;
    relations(&proof.claim)
}

/// Each component is in both claims or in neither; none that the policy's tables lack.
pub(crate) fn presence(proof: &CairoProof) -> Result<(), Rejection> {
    for component in components::list(&proof.claim, &proof.interaction_claim) {
        let name = component.name;
        if component.log_size.is_some() != component.claimed_sum.is_some() {
            let side = if component.claimed_sum.is_some() { "interaction claim" } else { "claim" };
            return refuse(format!("{name} is only in the {side}: its lookup sum would be free"));
        }
        if !component.size_allowed() {
            return refuse(format!("{name} is claimed, which the preprocessed tables of this policy do not allow"));
        }
        if component.log_size.is_none() && ALWAYS.contains(&name) {
            return refuse(format!("{name} is missing"));
        }
    }
    Ok(())
}

/// One claimed sum per table of large values, and their total as claimed.
pub(crate) fn big_tables(proof: &CairoProof) -> Result<(), Rejection> {
    let (Some(claim), Some(interaction)) = (&proof.claim.memory_id_to_big, &proof.interaction_claim.memory_id_to_big)
    else {
        return refuse("memory_id_to_big is missing in claim or interaction claim");
    };
    let (tables, sums) = (claim.big_log_sizes.len(), interaction.big_claimed_sums.len());
    if tables != sums {
        return refuse(format!("memory_id_to_big: {tables} tables, but {sums} claimed sums"));
    }
    let total: SecureField = interaction.big_claimed_sums.iter().sum();
    if total != interaction.claimed_sum {
        return refuse("memory_id_to_big: the claimed sum is not the sum of the tables' sums");
    }
    Ok(())
}

/// What a builtin's component says about itself, with its segment.
struct Builtin {
    name: &'static str,
    /// (first address, log2 of instances) when the component is claimed.
    claimed: Option<(u32, u32)>,
    segment: Option<SegmentRange>,
    cells: usize,
}

fn builtin_list(claim: &CairoClaim) -> Vec<Builtin> {
    let segments = &claim.public_data.public_memory.public_segments;
    macro_rules! builtin {
        ($name:literal, $component:ident, $start:ident, $segment:ident, $cells:ident) => {
            Builtin {
                name: $name,
                claimed: claim.$component.as_ref().map(|c| (c.$start, c.log_size)),
                segment: segments.$segment,
                cells: cells::$cells,
            }
        };
    }
    vec![
        builtin!(
            "range_check",
            range_check_builtin,
            range_check_builtin_segment_start,
            range_check_128,
            RANGE_CHECK_BUILTIN_MEMORY_CELLS
        ),
        builtin!(
            "range_check96",
            range_check96_builtin,
            range_check96_builtin_segment_start,
            range_check_96,
            RANGE_CHECK_96_BUILTIN_MEMORY_CELLS
        ),
        builtin!(
            "pedersen",
            pedersen_builtin_narrow_windows,
            pedersen_builtin_segment_start,
            pedersen,
            PEDERSEN_BUILTIN_NARROW_WINDOWS_MEMORY_CELLS
        ),
        builtin!("bitwise", bitwise_builtin, bitwise_builtin_segment_start, bitwise, BITWISE_BUILTIN_MEMORY_CELLS),
        builtin!("add_mod", add_mod_builtin, add_mod_builtin_segment_start, add_mod, ADD_MOD_BUILTIN_MEMORY_CELLS),
        builtin!("mul_mod", mul_mod_builtin, mul_mod_builtin_segment_start, mul_mod, MUL_MOD_BUILTIN_MEMORY_CELLS),
        builtin!("poseidon", poseidon_builtin, poseidon_builtin_segment_start, poseidon, POSEIDON_BUILTIN_MEMORY_CELLS),
        // Never claimed under this policy: these segments must be empty.
        Builtin { name: "ec_op", claimed: None, segment: segments.ec_op, cells: cells::EC_OP_BUILTIN_MEMORY_CELLS },
        Builtin { name: "ecdsa", claimed: None, segment: segments.ecdsa, cells: cells::ECDSA_MEMORY_CELLS },
        Builtin { name: "keccak", claimed: None, segment: segments.keccak, cells: cells::KECCAK_MEMORY_CELLS },
    ]
}

/// Each used builtin segment is whole instances inside the address range that its component checks, and a component's
/// first address is its segment's, also when the program used none of it: the claim's own copy enters no transcript.
pub(crate) fn builtins(claim: &CairoClaim) -> Result<(), Rejection> {
    for Builtin { name, claimed, segment, cells } in builtin_list(claim) {
        let Some((first, log_size)) = claimed else {
            if segment.is_some_and(|s| !s.is_empty()) {
                return refuse(format!("segment {name} is used, but no component checks it"));
            }
            continue;
        };
        let Some(segment) = segment else { return refuse(format!("component {name} has no segment")) };
        let (start, stop) = (segment.start_ptr.value, segment.stop_ptr.value);
        if first != start {
            return refuse(format!("component {name} begins at {first}, its segment at {start}"));
        }
        let end = 1u64
            .checked_shl(log_size)
            .and_then(|n| n.checked_mul(cells as u64))
            .and_then(|n| n.checked_add(u64::from(start)));
        let Some(end) = end.filter(|end| *end <= u64::from(ADDRESS_BOUND)) else {
            return refuse(format!("component {name} reaches past address 2^29"));
        };
        let Some(used) = stop.checked_sub(start) else {
            return refuse(format!("segment {name} ends before it begins"));
        };
        if !(used as usize).is_multiple_of(cells) {
            return refuse(format!("segment {name}: {used} cells are not whole instances of {cells}"));
        }
        if u64::from(stop) > end {
            return refuse(format!("segment {name} ends at {stop}, past the component's end {end}"));
        }
    }
    Ok(())
}

/// Registers and segment pointers stay in the address space of 2^29 cells.
pub(crate) fn addresses(claim: &CairoClaim) -> Result<(), Rejection> {
    let public = &claim.public_data;
    for (name, ap) in [("initial", public.initial_state.ap), ("final", public.final_state.ap)] {
        if ap.0 >= ADDRESS_BOUND {
            return refuse(format!("{name} ap {} is not below 2^29", ap.0));
        }
    }
    for (name, segment) in segments(&public.public_memory.public_segments) {
        let Some(segment) = segment else { continue };
        if segment.start_ptr.value >= ADDRESS_BOUND || segment.stop_ptr.value >= ADDRESS_BOUND {
            return refuse(format!("segment {name} has a pointer that is not below 2^29"));
        }
    }
    Ok(())
}

/// Uses of each lookup relation by the claimed rows, sorted so that every node names the same one first. Sizes must have
/// been bounded before.
pub(crate) fn relation_uses(claim: &CairoClaim) -> BTreeMap<&'static str, u64> {
    let mut uses = RelationUsesDict::default();
    claim.accumulate_relation_uses(&mut uses);
    uses.into_iter().collect()
}

/// The relation that each executed instruction uses once.
pub(crate) const STEPS: &str = "Opcodes";

/// At most 2^29 steps, so that registers cannot wrap around the field, and under 2^31 - 1 uses of any lookup.
pub(crate) fn relations(claim: &CairoClaim) -> Result<(), Rejection> {
    for (relation, uses) in relation_uses(claim) {
        let max = if relation == STEPS { OPCODE_USES_MAX } else { u64::from(P).saturating_sub(1) };
        if uses > max {
            return refuse(format!("relation {relation}: {uses} uses, at most {max} are allowed"));
        }
    }
    Ok(())
}
