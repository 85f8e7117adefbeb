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

/// Where arithmetic goes wrong first.
const EDGES: [u32; 6] = [0, P - 1, 1, P - 2, P / 2, 1 << 30];

/// Random values; the first are all edges, in an order of their own each time, so that columns of any length have them and
/// different ones meet, and of the others one in sixteen is an edge.
pub(super) fn base_values(rng: &mut StdRng, len: usize) -> Vec<BaseField> {
    let turn = rng.random_range(0..EDGES.len());
    let mut value = |i: usize| {
        let edge = if i < EDGES.len() {
            Some(i + turn)
        } else {
            rng.random_bool(1.0 / 16.0).then(|| rng.random_range(0..EDGES.len()))
        };
        edge.map_or_else(|| rng.random_range(0..P), |edge| EDGES[edge % EDGES.len()])
    };
    (0..len).map(|i| BaseField::from_u32_unchecked(value(i))).collect()
}

#[cfg(test)]
#[test]
fn every_edge_is_among_the_values() {
    for seed in 0..20 {
        let values = base_values(&mut rng(seed), 6);
        assert!(EDGES.iter().all(|edge| values.iter().any(|value| value.0 == *edge)), "{values:?}");
        let long = base_values(&mut rng(seed), 4096);
        assert!(EDGES.iter().all(|edge| long[6..].iter().any(|value| value.0 == *edge)));
        assert!(long.iter().filter(|value| EDGES.contains(&value.0)).count() < 1024, "mostly random");
    }
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
