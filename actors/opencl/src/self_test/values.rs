//! What the checks share: reproducible values, conversions.

use crate::{OclBackend, OclColumn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::secure_column::SecureColumnByCoords;

/// Random numbers from a seed.
pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Random values, the first few from the edges.
pub(super) fn base_values(rng: &mut StdRng, len: usize) -> Vec<BaseField> {
    let edges = [0, P - 1, 1, P / 2, 1 << 30];
    (0..len)
        .map(|i| {
            BaseField::from_u32_unchecked(if i < edges.len() && i % 2 == 0 { edges[i] } else { rng.random_range(0..P) })
        })
        .collect()
}

pub(super) fn secure_value(rng: &mut StdRng) -> SecureField {
    SecureField::from_m31_array(std::array::from_fn(|_| BaseField::from_u32_unchecked(rng.random_range(0..P))))
}

pub(super) fn secure_columns(rng: &mut StdRng, len: usize) -> SecureColumnByCoords<CpuBackend> {
    SecureColumnByCoords { columns: std::array::from_fn(|_| base_values(rng, len)) }
}

pub(super) fn to_device(column: &SecureColumnByCoords<CpuBackend>) -> SecureColumnByCoords<OclBackend> {
    SecureColumnByCoords { columns: column.columns.each_ref().map(|values| OclColumn::from_cpu(values)) }
}

pub(super) fn to_host(column: &SecureColumnByCoords<OclBackend>) -> [Vec<BaseField>; 4] {
    column.columns.each_ref().map(Column::to_cpu)
}

/// Compares columns that are too long to be printed.
///
/// # Panics
/// Panics with the first difference.
pub(super) fn same(found: &[BaseField], expected: &[BaseField], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("{what}: element {at} is {}, expected {}", found[at], expected[at]);
    }
}
