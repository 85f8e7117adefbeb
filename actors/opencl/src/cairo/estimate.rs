//! How much device memory a Cairo proof takes, before it starts: an upper bound from the size of its tables.

use prover::memory::{Estimate, SHARED_CELLS};

use crate::prove::estimate::whole_granules;

/// Bytes per table cell: the evaluations on a domain of twice the length, and the coefficients where they are kept. While a
/// tree is made its coefficients are there in any case, so the larger of the two trees counts with them.
const EVALUATION_BYTES: u64 = 8;
const COEFFICIENT_BYTES: u64 = 4;
/// Bytes per row of the largest domain: four trees of hashes (64 each); accumulators, composition polynomial and its halves
/// (64); numerators, weights and quotients (64); FRI's layers, packed leaves and trees (128).
const LIFTED_ROW_BYTES: u64 = 4 * 64 + 64 + 64 + 128;
/// Room for tables of addresses and for the cut of blocks.
const MARGIN_PER_CENT: u64 = 5;

/// Bytes of device memory in use at once at most, shared tables included.
#[must_use]
pub fn device_bytes(estimate: &Estimate, store_coefficients: bool) -> u64 {
    let cells = estimate.cells.saturating_add(estimate.fixed_cells);
    let evaluations = cells.saturating_mul(EVALUATION_BYTES);
    let kept = if store_coefficients { cells } else { cells.div_ceil(2) };
    let coefficients = kept.saturating_mul(COEFFICIENT_BYTES);
    // The preprocessed columns keep their coefficients.
    let preprocessed = SHARED_CELLS * (EVALUATION_BYTES + COEFFICIENT_BYTES);
    // Constraints of degree two take the largest table to twice its rows, which is the committed domain, too.
    let rows = 1_u64.checked_shl(estimate.domain_log.saturating_sub(1)).unwrap_or(u64::MAX);
    let twiddles = rows.saturating_mul(8);
    let sum = [evaluations, coefficients, preprocessed, twiddles, rows.saturating_mul(LIFTED_ROW_BYTES)]
        .into_iter()
        .fold(0, u64::saturating_add);
    whole_granules(sum.saturating_add(sum / 100 * MARGIN_PER_CENT))
}
