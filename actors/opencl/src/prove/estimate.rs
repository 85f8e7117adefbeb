//! How much device memory a proof takes, before it starts. Owns the count of what lives at once; an upper bound, so that
//! a job that does not fit is declined instead of failing half way.

use stwo::core::pcs::PcsConfig;
use stwo::core::vcs_lifted::verifier::LOG_PACKED_LEAF_SIZE;

use crate::backend::parts;
use crate::device::GRANULE_WORDS;

/// What determines the size of a proof of one component.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Logarithm of the number of rows.
    pub log_rows: u32,
    /// Columns of all traces.
    pub columns: usize,
    /// Logarithm of the degree bound of the constraints.
    pub log_degree: u32,
}

/// Bytes of a field element, a secure element and a hash.
const BASE: u64 = 4;
const SECURE: u64 = 16;
const HASH: u64 = 32;
/// Columns of the composition polynomial's halves.
const COMPOSITION_COLUMNS: usize = 8;
/// Unit in which device memory is handed out, in bytes.
const GRANULE_BYTES: u64 = GRANULE_WORDS * BASE;
/// Room for tables, the cut of blocks, and the two layers that a fold holds.
const MARGIN_PER_CENT: u64 = 5;

/// Bytes of device memory in use at once at most, twiddles included.
#[must_use]
pub fn device_bytes(shape: Shape, config: PcsConfig) -> u64 {
    let blowup = config.fri_config.log_blowup_factor;
    let rows = 1_u64 << shape.log_rows;
    let degree = 1_u64 << shape.log_degree;
    // The composition polynomial is committed in two halves, and FRI runs on their domain.
    let lifted = (degree / 2) << blowup;
    let columns = shape.columns as u64;
    let trace = columns * BASE * (rows + (rows << blowup)) + 2 * HASH * lifted.max(rows << blowup);
    // Constraints whose degree exceeds the blow-up need every column on their own domain.
    let extended = if shape.log_degree - shape.log_rows > blowup { columns * BASE * degree } else { 0 };
    let composition = SECURE * degree + 2 * SECURE * lifted + 2 * HASH * lifted;
    let twiddles = 2 * BASE * (degree / 2).max(lifted / 2) + 2 * BASE * (degree / 2);
    // Layers of FRI and their trees: a geometric sum each. Folds of several steps have four rows to a leaf.
    let step = config.fri_config.fold_step;
    let all_layers = |of_first: u64| of_first + of_first / ((1 << step) - 1);
    let leaves = if step > 1 { lifted >> LOG_PACKED_LEAF_SIZE } else { lifted };
    let fri = all_layers(SECURE * lifted) + all_layers(2 * HASH * leaves);
    // Weights of two points; beside them first the partial sums, then numerators of two points and the quotients.
    let weights = 2 * SECURE * rows.max(degree / 2);
    let quotients = 4 * SECURE * lifted + fri;
    // Partial inner products of all columns, and what a step joins them to.
    let widest = shape.columns.max(COMPOSITION_COLUMNS);
    let partial = widest as u64 * SECURE * parts(widest, 1 << shape.log_rows) as u64;
    let most = trace + twiddles + composition + extended.max(weights + quotients.max(partial + partial / 16));
    whole_granules(most + most * MARGIN_PER_CENT / 100 + (64 << 10) + columns * 256)
}

/// What memory is handed out in: a limit of just the estimated bytes, cut to whole words, still holds the job.
pub(crate) fn whole_granules(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(GRANULE_BYTES).unwrap_or(u64::MAX)
}
