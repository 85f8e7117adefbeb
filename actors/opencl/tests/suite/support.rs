//! What the tests share: the device, reproducible values, conversions.

use std::path::Path;

use opencl::device::{Choice, Options, Runtime, open};
use opencl::{OclBackend, OclColumn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::secure_column::SecureColumnByCoords;

/// The device of this test process.
pub(crate) fn device() -> &'static Runtime {
    let choice = std::env::var("PROOFGPU_DEVICE").map_or_else(|_| Choice::any(), |name| Choice::pinned(&name));
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencl-kernels"));
    open(&Options { choice, cache, memory_limit: None }).expect("an OpenCL device: scripts/setup.sh installs PoCL")
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Random values, the first few from the edges.
pub(crate) fn base_values(rng: &mut StdRng, len: usize) -> Vec<BaseField> {
    let edges = [0, P - 1, 1, P / 2, 1 << 30];
    (0..len)
        .map(|i| {
            BaseField::from_u32_unchecked(if i < edges.len() && i % 2 == 0 { edges[i] } else { rng.random_range(0..P) })
        })
        .collect()
}

pub(crate) fn secure_value(rng: &mut StdRng) -> SecureField {
    SecureField::from_m31_array(std::array::from_fn(|_| BaseField::from_u32_unchecked(rng.random_range(0..P))))
}

pub(crate) fn secure_columns(rng: &mut StdRng, len: usize) -> SecureColumnByCoords<CpuBackend> {
    SecureColumnByCoords { columns: std::array::from_fn(|_| base_values(rng, len)) }
}

pub(crate) fn to_device(column: &SecureColumnByCoords<CpuBackend>) -> SecureColumnByCoords<OclBackend> {
    SecureColumnByCoords { columns: column.columns.each_ref().map(|values| OclColumn::from_cpu(values)) }
}

pub(crate) fn to_host(column: &SecureColumnByCoords<OclBackend>) -> [Vec<BaseField>; 4] {
    column.columns.each_ref().map(Column::to_cpu)
}
