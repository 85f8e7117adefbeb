//! A claim with every component there is, made up: for compiling kernels ahead of the first proof, for the self-test and
//! for tests. No trace belongs to it.
//!
//! The claims' types are the library's and have no common constructor, so they are read from one JSON object that has all
//! fields of all of them; each takes its own.

use cairo_air::air::PublicData;
use cairo_air::cairo_components::CairoComponents;
use cairo_air::claims::{CairoClaim, CairoInteractionClaim};
use cairo_air::relations::CommonLookupElements;
use composition::NAMES;
use prover::backend::PreProcessedTraceVariant;
use serde_json::{Map, Value, json};
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo_constraint_framework::preprocessed_columns::PreProcessedColumnId;

use crate::error::{Error, Result};

/// Segments whose start is part of a claim.
const SEGMENTS: &[&str] = &[
    "add_mod_builtin",
    "bitwise_builtin",
    "ec_op_builtin",
    "mul_mod_builtin",
    "pedersen_builtin",
    "poseidon_builtin",
    "range_check96_builtin",
    "range_check_builtin",
];

fn wrong(error: &serde_json::Error) -> Error {
    Error::Input { field: "made-up claim", value: error.to_string(), limit: "the library's fields".to_owned() }
}

/// Columns of all preprocessed traces there are, each once.
fn preprocessed_ids() -> Vec<PreProcessedColumnId> {
    let mut ids: Vec<PreProcessedColumnId> = Vec::new();
    for variant in PreProcessedTraceVariant::ALL_VARIANTS {
        let known: std::collections::HashSet<String> = ids.iter().map(|id| id.id.clone()).collect();
        ids.extend(variant.to_preprocessed_trace().ids().into_iter().filter(|id| !known.contains(&id.id)));
    }
    ids
}

/// All components for tables of 2^`log_size` rows, those of fixed size aside. Lookup elements, claimed sums and segment
/// starts follow from `seed`.
///
/// # Errors
/// [`Error::Input`] when the library's claims have other fields than are known here.
pub fn components(log_size: u32, seed: u32) -> Result<CairoComponents> {
    let channel = &mut Blake2sChannel::default();
    channel.mix_u32s(&[seed]);
    let elements = CommonLookupElements::draw(channel);
    let claimed_sum = json!(channel.draw_secure_felt());
    let mut table = Map::new();
    table.insert("log_size".into(), json!(log_size));
    table.insert("big_log_sizes".into(), json!([log_size]));
    for (number, segment) in (0_u32..).zip(SEGMENTS) {
        // Far from the constants of the constraints: equal values would share a slot, and so need another kernel.
        let start = 1_000_003 + 70_001 * number + seed % 65_536;
        table.insert(format!("{segment}_segment_start"), json!(start));
    }
    let sums = json!({ "claimed_sum": claimed_sum, "big_claimed_sums": [claimed_sum] });
    let of_all = |value: &Value| NAMES.iter().map(|name| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>();
    let mut claim = of_all(&Value::Object(table));
    claim.insert("public_data".into(), serde_json::to_value(PublicData::default()).map_err(|e| wrong(&e))?);
    let claim: CairoClaim = serde_json::from_value(Value::Object(claim)).map_err(|e| wrong(&e))?;
    let sums: CairoInteractionClaim = serde_json::from_value(Value::Object(of_all(&sums))).map_err(|e| wrong(&e))?;
    Ok(CairoComponents::new(&claim, &elements, &sums, &preprocessed_ids()))
}
