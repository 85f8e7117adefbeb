//! Whole proofs: byte for byte those of `SimdBackend`, accepted by stwo's verifier, made without any work on the host in
//! the device's place.

use crate::air::wide_fibonacci::WideFibonacci;
use crate::air::{
    Maker, Prepared, TraceColumns, Workload, needed_bytes, proof_bytes, prove_checked, prove_on_device, prove_simd,
    security, verify,
};
use crate::device::Runtime;
use crate::error::guarded;
use crate::{Error, OclBackend};
use stwo::core::fri::FriConfig;
use stwo::core::pcs::PcsConfig;
use stwo::prover::backend::Column;
use stwo::prover::backend::simd::SimdBackend;
use stwo_constraint_framework::FrameworkEval;

use super::Context;

/// Rows from which the estimate of memory must be close, as a power of two.
const ESTIMATED_LOG_MIN: u32 = 10;

/// Proves on the device in strict mode; the proof must be the one of `SimdBackend` and be accepted.
pub(super) fn same_proof<W: Workload>(runtime: &Runtime, workload: &W, config: PcsConfig, name: &str) {
    let expected = prove_simd(workload, config, &Prepared::new(workload, config)).expect("a SIMD proof");
    runtime.set_strict(true);
    let prepared = guarded(|| Prepared::new(workload, config)).expect("prepared");
    let before = runtime.counters();
    runtime.reset_peak();
    let proof = prove_on_device(workload, config, &prepared).expect("a proof");
    let peak = runtime.memory().1;
    let counters = runtime.counters().since(&before);
    runtime.set_strict(false);
    assert_eq!(counters.element_reads + counters.host_fallbacks, 0, "{name}");
    assert!(counters.kernels > 20, "{name}: {counters:?}");
    let estimate = needed_bytes(workload, config, &prepared);
    assert!(peak <= estimate, "{name}: {peak} bytes in use, {estimate} estimated");
    // Too high an estimate declines proofs that would fit. Small proofs are mostly room for tables.
    let long = workload.eval().log_size() >= ESTIMATED_LOG_MIN;
    assert!(!long || estimate <= peak / 2 * 3, "{name}: {peak} bytes in use, {estimate} estimated");
    verify(workload, config, &proof).unwrap_or_else(|error| panic!("{name}: {error}"));
    let same = proof_bytes(&proof).expect("bytes") == proof_bytes(&expected).expect("bytes");
    assert!(same, "{name}: the proof is valid, but not the host's");
}

/// Sizes (logarithm of rows, columns) of the proofs that are always compared.
const QUICK: &[(u32, usize)] = &[(5, 3), (7, 20), (10, 8)];
const SMALL: &[(u32, usize)] = &[(6, 8), (7, 21), (8, 33), (9, 21), (10, 8), (11, 21), (12, 8), (13, 7), (14, 8)];
const LARGE: &[(u32, usize)] = &[(12, 100), (14, 50), (16, 100), (18, 8), (20, 8)];

fn wide_fibonacci(runtime: &Runtime, sizes: &[(u32, usize)]) {
    for &(log_rows, columns) in sizes {
        let workload = WideFibonacci { log_rows, columns };
        same_proof(runtime, &workload, security(13).expect("known"), &format!("2^{log_rows} x {columns}"));
    }
}

/// A few small proofs, which start nearly every kernel.
pub(super) fn small_proofs_are_the_simd_proofs(on: &Context) {
    let sizes: Vec<_> = QUICK.iter().copied().filter(|(log_rows, _)| on.wants(*log_rows)).collect();
    wide_fibonacci(on.runtime, &sizes);
}

/// Wide Fibonacci of 2^6 to 2^14 rows, and up to 2^20 if large sizes are wanted.
pub(super) fn wide_fibonacci_is_the_simd_proof(on: &Context) {
    wide_fibonacci(on.runtime, SMALL);
    if on.large() {
        wide_fibonacci(on.runtime, LARGE);
    }
}

pub(super) fn other_parameters_are_the_simd_proof_too(on: &Context) {
    let workload = WideFibonacci { log_rows: 9, columns: 5 };
    for (pow_bits, fri) in [
        (5, FriConfig::new(0, 1, 70, 1)),
        (5, FriConfig::new(0, 1, 20, 2)),
        (5, FriConfig::new(2, 1, 20, 3)),
        (0, FriConfig::new(1, 2, 10, 4)),
        (3, FriConfig::new(0, 3, 7, 1)),
    ] {
        let config = PcsConfig { pow_bits, fri_config: fri, lifting_log_size: None };
        same_proof(on.runtime, &workload, config, &format!("{fri:?}"));
    }
}

pub(super) fn simd_proofs_do_not_depend_on_the_threads(_: &Context) {
    let workload = WideFibonacci { log_rows: 12, columns: 12 };
    let config = security(13).expect("known");
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool");
        pool.install(|| {
            let proof = prove_simd(&workload, config, &Prepared::new(&workload, config)).expect("a proof");
            proof_bytes(&proof)
        })
    };
    assert_eq!(with_threads(1).expect("bytes"), with_threads(2).expect("bytes"));
}

/// A workload whose trace the device cannot make.
struct Unlucky(WideFibonacci);

impl Workload for Unlucky {
    type Eval = WideFibonacci;

    fn eval(&self) -> WideFibonacci {
        self.0
    }

    fn statement(&self) -> Vec<u32> {
        self.0.statement()
    }

    fn device_trace(&self) -> TraceColumns<OclBackend> {
        let columns = self.0.device_trace();
        // In strict mode this fails like a lost device: in the middle of the work, with columns in use.
        let _ = columns[0].values.at(1);
        columns
    }

    fn simd_trace(&self) -> TraceColumns<SimdBackend> {
        self.0.simd_trace()
    }
}

pub(super) fn a_failing_device_costs_time_but_not_the_proof(on: &Context) {
    let runtime = on.runtime;
    let workload = WideFibonacci { log_rows: 6, columns: 4 };
    let config = security(13).expect("known");
    let trees = Prepared::new(&workload, config);
    let (proof, maker) = prove_checked(&workload, config, &trees).expect("a proof");
    assert!(matches!(maker, Maker::Device));
    runtime.set_strict(true);
    let (other, maker) = prove_checked(&Unlucky(workload), config, &trees).expect("a proof all the same");
    assert!(matches!(maker, Maker::Host(Error::Strict(_))), "{maker:?}");
    assert_eq!(proof_bytes(&proof).expect("bytes"), proof_bytes(&other).expect("bytes"));
    // The device goes on working.
    let (_, maker) = prove_checked(&workload, config, &trees).expect("a proof");
    assert!(matches!(maker, Maker::Device), "{maker:?}");
}

pub(super) fn a_changed_proof_is_refused(_: &Context) {
    let workload = WideFibonacci { log_rows: 7, columns: 6 };
    let config = security(13).expect("known");
    let proof = prove_on_device(&workload, config, &Prepared::new(&workload, config)).expect("a proof");
    let mut other = proof.clone();
    other.0.proof_of_work ^= 1;
    assert!(matches!(verify(&workload, config, &other), Err(Error::Unverified(_))));
    let mut other = proof.clone();
    other.0.commitments[0].0[0] ^= 1;
    let error = verify(&workload, config, &other).expect_err("other fixed columns");
    assert!(error.to_string().contains("fixed columns"), "{error}");
    let mut other = proof.clone();
    other.0.sampled_values[1][0][0] += stwo::core::fields::qm31::SecureField::from(1);
    assert!(matches!(verify(&workload, config, &other), Err(Error::Unverified(_))));
    let larger = WideFibonacci { columns: 7, ..workload };
    assert!(verify(&larger, config, &proof).is_err(), "another statement");
    assert!(matches!(security(14), Err(Error::Input { .. })));
}
