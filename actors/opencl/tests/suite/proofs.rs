//! Whole proofs: byte for byte those of `SimdBackend`, accepted by stwo's verifier, made without any work on the host in
//! the device's place.

use opencl::air::wide_fibonacci::WideFibonacci;
use opencl::air::{
    Maker, TraceColumns, Workload, proof_bytes, prove_checked, prove_on_device, prove_simd, security, twiddles, verify,
};
use opencl::prove::estimate::{Shape, device_bytes};
use opencl::{Error, OclBackend};
use stwo::core::fri::FriConfig;
use stwo::core::pcs::PcsConfig;
use stwo::prover::backend::Column;
use stwo::prover::backend::simd::SimdBackend;
use stwo_constraint_framework::FrameworkEval;

use crate::support::device;

fn same_proof<W: Workload>(workload: &W, config: PcsConfig, name: &str) {
    let runtime = device();
    let expected = prove_simd(workload, config, &twiddles(workload, config)).expect("a SIMD proof");
    let trees = twiddles(workload, config);
    runtime.set_strict(true);
    let before = runtime.counters();
    runtime.reset_peak();
    let proof = prove_on_device(workload, config, &trees).expect("a proof");
    let eval = workload.eval();
    let columns = proof.queried_values[1].len();
    let shape = Shape { log_rows: eval.log_size(), columns, log_degree: eval.max_constraint_log_degree_bound() };
    let (peak, estimate) = (runtime.memory().1, device_bytes(shape, config));
    assert!(peak <= estimate, "{name}: {peak} bytes in use, {estimate} estimated");
    let counters = runtime.counters().since(&before);
    runtime.set_strict(false);
    assert_eq!(counters.element_reads + counters.host_fallbacks, 0, "{name}");
    assert!(counters.kernels > 20, "{name}: {counters:?}");
    verify(workload, config, &proof).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(proof_bytes(&proof).expect("bytes"), proof_bytes(&expected).expect("bytes"), "{name}");
    println!("{name}: {counters:?}");
}

#[test]
fn wide_fibonacci_is_the_simd_proof() {
    for log_rows in 6..=14 {
        let columns = if log_rows % 2 == 0 { 8 } else { 21 };
        let workload = WideFibonacci { log_rows, columns };
        same_proof(&workload, security(13).expect("known"), &format!("2^{log_rows} x {columns}"));
    }
}

#[test]
fn other_parameters_are_the_simd_proof_too() {
    let workload = WideFibonacci { log_rows: 9, columns: 5 };
    for (pow_bits, fri) in [
        (5, FriConfig::new(0, 1, 70, 1)),
        (5, FriConfig::new(0, 1, 20, 2)),
        (5, FriConfig::new(2, 1, 20, 3)),
        (0, FriConfig::new(1, 2, 10, 4)),
        (3, FriConfig::new(0, 3, 7, 1)),
    ] {
        let config = PcsConfig { pow_bits, fri_config: fri, lifting_log_size: None };
        same_proof(&workload, config, &format!("{fri:?}"));
    }
}

#[test]
fn simd_proofs_do_not_depend_on_the_threads() {
    let workload = WideFibonacci { log_rows: 12, columns: 12 };
    let config = security(13).expect("known");
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool");
        pool.install(|| proof_bytes(&prove_simd(&workload, config, &twiddles(&workload, config)).expect("a proof")))
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

#[test]
fn a_failing_device_costs_time_but_not_the_proof() {
    let runtime = device();
    let workload = WideFibonacci { log_rows: 6, columns: 4 };
    let config = security(13).expect("known");
    let trees = twiddles(&workload, config);
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

#[test]
fn a_changed_proof_is_refused() {
    device();
    let workload = WideFibonacci { log_rows: 7, columns: 6 };
    let config = security(13).expect("known");
    let proof = prove_on_device(&workload, config, &twiddles(&workload, config)).expect("a proof");
    let mut other = proof.clone();
    other.0.proof_of_work ^= 1;
    assert!(matches!(verify(&workload, config, &other), Err(Error::Unverified(_))));
    let mut other = proof.clone();
    other.0.sampled_values[1][0][0] += stwo::core::fields::qm31::SecureField::from(1);
    assert!(matches!(verify(&workload, config, &other), Err(Error::Unverified(_))));
    let larger = WideFibonacci { columns: 7, ..workload };
    assert!(verify(&larger, config, &proof).is_err(), "another statement");
    assert!(matches!(security(14), Err(Error::Input { .. })));
}
