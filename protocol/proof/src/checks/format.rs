//! *format*: what a decoded proof must look like before any of its numbers is used to compute with.
//!
//! Serde reads any 32-bit number as a field element, any number as the logarithm of a size, and vectors of any shape. Here
//! every limb is reduced, every size bounded, and every vector has the length that the claim implies, so that nothing
//! later can overflow, shift out of range, allocate without bound, or drop values in an unequal zip.

use cairo_air::air::PublicData;
use cairo_air::cairo_components::CairoComponents;
use cairo_air::claims::{CairoClaim, CairoInteractionClaim};
use cairo_air::relations::CommonLookupElements;
use stwo::core::air::Components;
use stwo::core::circle::SECURE_FIELD_CIRCLE_GEN;
use stwo::core::fields::m31::{M31, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::fri::FriLayerProof;
use stwo::core::poly::line::LinePoly;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use types::verdict::Check;

use super::segments;
use crate::Rejection;
use crate::components;
use crate::envelope::CairoProof;
use crate::felts;
use crate::policy::{
    BIG_TABLES_MAX, FOLD_STEP, INCLUDE_ALL_PREPROCESSED_COLUMNS, LOG_LAST_LAYER_DEGREE_BOUND, LOG_SIZE_MAX,
    LOG_SIZE_MIN, LOG_SIZE_SEQUENCE_MAX, QUERIES, VARIANT,
};

/// Trees: preprocessed, trace, interaction, composition.
const TREES: usize = 4;
/// The composition polynomial is committed as two halves of four coordinates each.
const COMPOSITION_COLUMNS: usize = 8;
const LAST_LAYER_COEFFICIENTS: usize = 1 << LOG_LAST_LAYER_DEGREE_BOUND;

fn refuse<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Rejection::because(Check::Format, reason)
}

/// Every check of this module but [`masks`], which needs the claims to match first.
pub(crate) fn check(proof: &CairoProof) -> Result<(), Rejection> {
    limbs(proof)?;
    public_words(&proof.claim.public_data)?;
    let log_size = sizes(&proof.claim, &proof.interaction_claim)?;
    shape(proof, log_size)
}

fn reduced(limb: M31) -> bool {
    limb.0 < P
}

fn all_reduced<'a>(mut values: impl Iterator<Item = &'a SecureField>) -> bool {
    values.all(|v| v.to_m31_array().into_iter().all(reduced))
}

/// Every field element in the proof is below 2^31 - 1.
pub(crate) fn limbs(proof: &CairoProof) -> Result<(), Rejection> {
    let public = &proof.claim.public_data;
    let states = [public.initial_state, public.final_state];
    if !states.iter().flat_map(|s| s.values()).all(reduced) {
        return refuse("a register of the initial or final state is not below 2^31 - 1");
    }
    let listed = components::list(&proof.claim, &proof.interaction_claim);
    let big = proof.interaction_claim.memory_id_to_big.as_ref();
    let big_sums = big.map(|b| b.big_claimed_sums.as_slice()).unwrap_or_default();
    let sums = listed.iter().filter_map(|c| c.claimed_sum.as_ref()).chain(big_sums).chain(big.map(|b| &b.claimed_sum));
    if !all_reduced(sums) {
        return refuse("a limb of a claimed lookup sum is not below 2^31 - 1");
    }
    let stark = &proof.stark_proof.0;
    if !all_reduced(stark.sampled_values.iter().flatten().flatten()) {
        return refuse("a limb of a sampled value is not below 2^31 - 1");
    }
    if !stark.queried_values.iter().flatten().flatten().all(|v| reduced(*v)) {
        return refuse("a queried value is not below 2^31 - 1");
    }
    let layers = std::iter::once(&stark.fri_proof.first_layer).chain(&stark.fri_proof.inner_layers);
    let witness = layers.flat_map(|layer: &FriLayerProof<Blake2sMerkleHasher>| &layer.fri_witness);
    if !all_reduced(witness.chain(stark.fri_proof.last_layer_poly.iter())) {
        return refuse("a limb of a FRI value is not below 2^31 - 1");
    }
    Ok(())
}

/// Every public 8-word value is below the Stark prime, every memory id and pointer below 2^31 - 1. Larger ones would be
/// cut or reduced on their way into the transcript, so that two claims share one transcript.
pub(crate) fn public_words(public: &PublicData) -> Result<(), Rejection> {
    let memory = &public.public_memory;
    for (name, section) in [("program", &memory.program), ("output", &memory.output)] {
        for (at, (id, words)) in section.iter().enumerate() {
            if *id >= P {
                return refuse(format!("{name}[{at}]: memory id {id} is not below 2^31 - 1"));
            }
            if felts::from_words(words).is_none() {
                return refuse(format!("{name}[{at}]: the value is not below the Stark prime"));
            }
        }
    }
    if memory.safe_call_ids.iter().any(|id| *id >= P) {
        return refuse("a memory id of the safe call area is not below 2^31 - 1");
    }
    for (name, segment) in segments(&memory.public_segments) {
        let Some(segment) = segment else { continue };
        for pointer in [segment.start_ptr, segment.stop_ptr] {
            if pointer.id >= P || pointer.value >= P {
                return refuse(format!("segment {name}: a pointer's id or value is not below 2^31 - 1"));
            }
        }
    }
    Ok(())
}

/// Every claimed size is within bounds, and the memory tables are there. Returns the largest log size.
pub(crate) fn sizes(claim: &CairoClaim, interaction: &CairoInteractionClaim) -> Result<u32, Rejection> {
    let mut largest = 0;
    for component in components::list(claim, interaction) {
        let Some(size) = component.log_size else { continue };
        let max = component.log_size_max().unwrap_or(LOG_SIZE_MAX);
        if !(LOG_SIZE_MIN..=max).contains(&size) {
            return refuse(format!("{}: log size {size} is outside {LOG_SIZE_MIN} to {max}", component.name));
        }
        largest = largest.max(size);
    }
    let Some(big) = &claim.memory_id_to_big else { return refuse("memory_id_to_big is missing") };
    if big.big_log_sizes.is_empty() || big.big_log_sizes.len() > BIG_TABLES_MAX {
        return refuse(format!(
            "memory_id_to_big: {} tables, allowed are 1 to {BIG_TABLES_MAX}",
            big.big_log_sizes.len()
        ));
    }
    for size in &big.big_log_sizes {
        if !(LOG_SIZE_MIN..=LOG_SIZE_SEQUENCE_MAX).contains(size) {
            return refuse(format!(
                "memory_id_to_big: log size {size} is outside {LOG_SIZE_MIN} to {LOG_SIZE_SEQUENCE_MAX}"
            ));
        }
        largest = largest.max(*size);
    }
    Ok(largest)
}

/// Every vector of the STARK proof has the length that the claim and the policy imply.
pub(crate) fn shape(proof: &CairoProof, log_size: u32) -> Result<(), Rejection> {
    let stark = &proof.stark_proof.0;
    let trees = [
        ("commitments", stark.commitments.len()),
        ("sampled_values", stark.sampled_values.len()),
        ("decommitments", stark.decommitments.len()),
        ("queried_values", stark.queried_values.len()),
    ];
    for (name, found) in trees {
        if found != TREES {
            return refuse(format!("{name}: {found} trees, must be {TREES}"));
        }
    }
    let claimed = proof.claim.log_sizes();
    let [trace, interaction] = claimed.as_slice() else { return refuse("the claim does not describe two trees") };
    if trace.iter().max() != interaction.iter().max() {
        return refuse("trace and interaction trees differ in height");
    }
    let columns = [VARIANT.n_columns(), trace.len(), interaction.len(), COMPOSITION_COLUMNS];
    let rows = stark.queried_values.iter().flatten().map(Vec::len).next().unwrap_or(0);
    if rows == 0 || rows > QUERIES as usize {
        return refuse(format!("{rows} queried rows, must be 1 to {QUERIES}"));
    }
    for (tree, expected) in columns.into_iter().enumerate() {
        let sampled = stark.sampled_values.get(tree).map_or(0, Vec::len);
        let queried = stark.queried_values.get(tree).map_or(0, Vec::len);
        if sampled != expected || queried != expected {
            return refuse(format!("tree {tree}: {sampled} sampled and {queried} queried columns, must be {expected}"));
        }
    }
    if stark.queried_values.iter().flatten().any(|column| column.len() != rows) {
        return refuse("queried columns differ in length");
    }
    fri_shape(proof, log_size)
}

fn fri_shape(proof: &CairoProof, log_size: u32) -> Result<(), Rejection> {
    let fri = &proof.stark_proof.0.fri_proof;
    let Some(to_fold) = log_size.checked_sub(FOLD_STEP + LOG_LAST_LAYER_DEGREE_BOUND) else {
        return refuse(format!("log size {log_size} is too small for a first fold by {FOLD_STEP}"));
    };
    let expected = to_fold.div_ceil(FOLD_STEP) as usize;
    if fri.inner_layers.len() != expected {
        return refuse(format!("{} inner FRI layers, must be {expected}", fri.inner_layers.len()));
    }
    // The polynomial states its size a second time, in a private field that its `len` and its evaluation believe: count
    // the coefficients themselves, and compare with a polynomial made of them.
    let last: &[SecureField] = &fri.last_layer_poly;
    if last.len() != LAST_LAYER_COEFFICIENTS || fri.last_layer_poly != LinePoly::new(last.to_vec()) {
        return refuse(format!("last FRI layer: must be exactly {LAST_LAYER_COEFFICIENTS} coefficients"));
    }
    Ok(())
}

/// Every column is opened at exactly the points its constraints read, and unused preprocessed columns at none. Building
/// the components panics for claims that do not match; the checks of `claims` come first.
pub(crate) fn masks(proof: &CairoProof, log_size: u32) -> Result<(), Rejection> {
    let table = VARIANT.to_preprocessed_trace();
    let built =
        CairoComponents::new(&proof.claim, &CommonLookupElements::dummy(), &proof.interaction_claim, &table.ids());
    let components = Components { components: built.components(), n_preprocessed_columns: table.columns.len() };
    if components.composition_log_degree_bound() != log_size.saturating_add(1) {
        return refuse("a constraint's degree does not match the largest component");
    }
    let mut points = components.mask_points(SECURE_FIELD_CIRCLE_GEN, log_size, INCLUDE_ALL_PREPROCESSED_COLUMNS);
    points.push(vec![vec![SECURE_FIELD_CIRCLE_GEN]; COMPOSITION_COLUMNS]);
    for (tree, (points, values)) in points.iter().zip(proof.stark_proof.0.sampled_values.iter()).enumerate() {
        if points.len() != values.len() {
            return refuse(format!("tree {tree}: {} sampled columns, must be {}", values.len(), points.len()));
        }
        if let Some(column) = points.iter().zip(values).position(|(points, values)| points.len() != values.len()) {
            return refuse(format!(
                "tree {tree}, column {column}: not sampled at exactly the points its constraints read"
            ));
        }
    }
    Ok(())
}
