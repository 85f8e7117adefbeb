//! Poseidon2: traces and sums of the device, whole proofs, and what must be refused.

use rand::Rng;
use stwo::core::fields::m31::{BaseField, P};
use stwo::prover::backend::Column;
use stwo::prover::backend::simd::SimdBackend;

use super::Context;
use super::proofs::same_proof;
use super::values::rng;
use crate::air::poseidon2::{COLUMNS, Poseidon2, WORDS};
use crate::air::{Prepared, TraceColumns, Workload, prove_on_device, prove_simd, security, verify};
use crate::{Error, OclBackend};

fn seed(number: u64) -> [BaseField; WORDS] {
    let mut rng = rng(number);
    std::array::from_fn(|_| BaseField::from_u32_unchecked(rng.random_range(0..P)))
}

/// The device's sum, trace and row numbers are the host's.
pub(super) fn poseidon2_traces_are_the_hosts(on: &Context) {
    let sizes = [1, 2, 3, 5, 6, 7, 10, 13].into_iter().chain(on.large().then_some(16));
    for log_rows in sizes.filter(|log_rows| on.wants(*log_rows)) {
        let statement = Poseidon2::on_host(log_rows, seed(u64::from(log_rows)));
        assert_eq!(Poseidon2::on_device(log_rows, statement.seed).expect("a sum"), statement, "2^{log_rows}");
        if log_rows < 4 {
            // stwo's SIMD columns have at least 16 rows.
            continue;
        }
        let pairs =
            [(statement.device_trace(), statement.simd_trace()), (statement.device_fixed(), statement.simd_fixed())];
        for (found, expected) in pairs {
            assert_eq!(found.len(), expected.len());
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(found.values.to_cpu() == expected.values.to_cpu(), "2^{log_rows}, column {index}");
            }
        }
    }
}

/// Whole proofs.
pub(super) fn poseidon2_is_the_simd_proof(on: &Context) {
    let large: &[u32] = if on.large() { &[12, 15, 17] } else { &[] };
    for &log_rows in [5, 6, 8, 10].iter().chain(large) {
        let statement = Poseidon2::on_device(log_rows, seed(40)).expect("a sum");
        same_proof(on.runtime, &statement, security(13).expect("known"), &format!("2^{log_rows} permutations"));
    }
}

/// A workload with one changed value in the trace.
struct Forged {
    statement: Poseidon2,
    column: usize,
}

impl Workload for Forged {
    type Eval = Poseidon2;

    fn eval(&self) -> Poseidon2 {
        self.statement
    }

    fn statement(&self) -> Vec<u32> {
        self.statement.statement()
    }

    fn device_fixed(&self) -> TraceColumns<OclBackend> {
        self.statement.device_fixed()
    }

    fn simd_fixed(&self) -> TraceColumns<SimdBackend> {
        self.statement.simd_fixed()
    }

    fn device_trace(&self) -> TraceColumns<OclBackend> {
        let mut columns = self.statement.device_trace();
        let value = columns[self.column].values.at(11) + BaseField::from_u32_unchecked(1);
        columns[self.column].values.set(11, value);
        columns
    }

    fn simd_trace(&self) -> TraceColumns<SimdBackend> {
        let mut columns = self.statement.simd_trace();
        let value = columns[self.column].values.at(11) + BaseField::from_u32_unchecked(1);
        columns[self.column].values.set(11, value);
        columns
    }
}

/// No proof comes from a changed trace or a wrong sum, and none is accepted for another statement.
pub(super) fn forged_traces_are_refused(_: &Context) {
    let config = security(13).expect("known");
    let statement = Poseidon2::on_device(5, seed(41)).expect("a sum");
    let prepared = Prepared::new(&statement, config);
    // A square, a fifth power, one of a partial round, and a running sum.
    for column in [0, 33, 4 * 32 + 7, COLUMNS - 1] {
        let forged = Forged { statement, column };
        let error = prove_on_device(&forged, config, &prepared).expect_err("no proof");
        assert!(matches!(error, Error::Unverified(_)), "column {column}: {error}");
        let error = prove_simd(&forged, config, &Prepared::new(&forged, config)).expect_err("no proof");
        assert!(matches!(error, Error::Unverified(_)), "column {column}: {error}");
    }
    let mut wrong = statement;
    wrong.sum[3] += BaseField::from_u32_unchecked(1);
    let error = prove_on_device(&wrong, config, &prepared).expect_err("no proof of a wrong sum");
    assert!(matches!(error, Error::Unverified(_)), "{error}");

    let proof = prove_on_device(&statement, config, &prepared).expect("a proof");
    verify(&statement, config, &proof).expect("accepted");
    let mut seeded = statement;
    seeded.seed[0] += BaseField::from_u32_unchecked(1);
    for other in [wrong, seeded, Poseidon2 { log_rows: 6, ..statement }] {
        assert!(matches!(verify(&other, config, &proof), Err(Error::Unverified(_))), "{other:?}");
    }
}
