//! Columns: order, copies, halves, single values, and the arithmetic of the field on edge values.

use crate::error::guarded;
use crate::{Error, OclBackend, OclColumn};
use rand::Rng;
use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::utils::bit_reverse;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::prover::AccumulationOps;
use stwo::prover::backend::{Column, ColumnOps};
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo::prover::vcs_lifted::prover::MerkleProverLifted;

use super::Context;
use super::values::{base_values, rng, same, secure_value};

pub(super) fn bit_reversal_is_stwos(on: &Context) {
    let mut rng = rng(1);
    for log in [0, 1, 2, 5, 6, 7, 12, 20].into_iter().filter(|log| on.wants(*log) && (on.large() || *log < 20)) {
        let mut base = base_values(&mut rng, 1 << log);
        let mut column = OclColumn::from_cpu(&base);
        <OclBackend as ColumnOps<BaseField>>::bit_reverse_column(&mut column);
        bit_reverse(&mut base);
        same(&column.to_cpu(), &base, &format!("2^{log}"));

        let mut secure: Vec<SecureField> = (0..1 << log).map(|_| secure_value(&mut rng)).collect();
        let mut column: OclColumn<SecureField> = secure.iter().copied().collect();
        <OclBackend as ColumnOps<SecureField>>::bit_reverse_column(&mut column);
        bit_reverse(&mut secure);
        assert!(column.to_cpu() == secure, "2^{log}");

        let mut hashes: Vec<Blake2sHash> = (0..1 << log).map(|_| Blake2sHash(rng.random())).collect();
        let mut column = OclColumn::from_cpu(&hashes);
        <OclBackend as ColumnOps<Blake2sHash>>::bit_reverse_column(&mut column);
        bit_reverse(&mut hashes);
        assert!(column.to_cpu() == hashes, "2^{log}");
    }
}

/// A length that is no power of two is refused where one is needed, with the length in the message.
pub(super) fn a_length_that_is_no_power_of_two_is_refused(_: &Context) {
    let mut rng = rng(5);
    let mut odd = OclColumn::from_cpu(&base_values(&mut rng, 6));
    let tree = guarded(|| MerkleProverLifted::<OclBackend, Blake2sMerkleHasher>::commit(vec![&odd], 3, 0));
    let sum = guarded(|| {
        let columns = std::array::from_fn(|_| OclColumn::from_cpu(&base_values(&mut rng, 6)));
        OclBackend::lift_and_accumulate(vec![SecureColumnByCoords { columns }, secure_zeros(8)])
    });
    let reversed = guarded(|| <OclBackend as ColumnOps<BaseField>>::bit_reverse_column(&mut odd));
    for (what, error) in [("a tree", tree.err()), ("a sum", sum.err()), ("an order", reversed.err())] {
        let error = error.unwrap_or_else(|| panic!("{what} of 6 values"));
        assert!(matches!(&error, Error::Input { value, .. } if value == "6"), "{what}: {error}");
        assert!(error.to_string().contains("a power of two"), "{what}: {error}");
    }
}

fn secure_zeros(len: usize) -> SecureColumnByCoords<OclBackend> {
    SecureColumnByCoords { columns: std::array::from_fn(|_| <OclColumn<BaseField> as Column<BaseField>>::zeros(len)) }
}

pub(super) fn columns_are_copied_split_and_changed(_: &Context) {
    let mut rng = rng(2);
    for len in [1, 2, 3, 16, 31, 32, 64, 100, 4096] {
        let values = base_values(&mut rng, len);
        let column = OclColumn::from_cpu(&values);
        let mut copy = column.clone();
        copy.set(len - 1, BaseField::from_u32_unchecked(77));
        assert_eq!(column.to_cpu(), values);
        assert_eq!(copy.at(len - 1).0, 77);
        assert_eq!(copy.to_cpu()[..len - 1], values[..len - 1]);
        let (first, second) = column.split_at_mid();
        assert_eq!(first.to_cpu(), values[..len / 2]);
        assert_eq!(second.to_cpu(), values[len / 2..]);
        let zeros = <OclColumn<BaseField> as Column<BaseField>>::zeros(len);
        assert_eq!(zeros.to_cpu(), vec![BaseField::from_u32_unchecked(0); len]);
    }
}

pub(super) fn strict_mode_forbids_reading_one_by_one(on: &Context) {
    let runtime = on.runtime;
    let column = OclColumn::from_cpu(&base_values(&mut rng(3), 8));
    let root = OclColumn::from_cpu(&[Blake2sHash::default()]);
    runtime.set_strict(true);
    let error = guarded(|| column.at(3)).expect_err("forbidden");
    assert!(matches!(&error, Error::Strict(reason) if reason.contains("column of 8")), "{error}");
    assert_eq!(guarded(|| root.at(0)).expect("the whole column"), Blake2sHash::default());
    runtime.set_strict(false);
    let before = runtime.counters();
    let _ = column.at(3);
    assert_eq!(runtime.counters().since(&before).element_reads, 1);
    let error = guarded(|| column.at(8)).expect_err("outside");
    assert!(matches!(&error, Error::Input { .. }), "{error}");
}

fn unreduced(words: [u32; 4]) -> SecureField {
    SecureField::from_m31_array(words.map(|word| BaseField::from(word % P)))
}

pub(super) fn arithmetic_holds_on_edges_and_both_zeros(_: &Context) {
    let mut rng = rng(4);
    let edges = [0, 1, 2, P / 2, P - 2, P - 1, P];
    let mut rows: Vec<[u32; 8]> = Vec::new();
    for a in edges {
        for b in edges {
            rows.push([a, b, 0, P, b, a, P, 0]);
            rows.push([a; 8].map(|_| edges[rng.random_range(0..edges.len())]));
            rows.push([a, a, a, a, b, b, b, b]);
        }
    }
    rows.extend((0..1000).map(|_| std::array::from_fn(|_| rng.random_range(0..=P))));
    let results = crate::device::field_results(&rows);
    assert_eq!(results.len(), rows.len());
    for (row, result) in rows.iter().zip(results) {
        let words = |k: usize| [result[4 * k], result[4 * k + 1], result[4 * k + 2], result[4 * k + 3]];
        assert!(result.iter().all(|word| *word <= P), "{row:?} gives {result:?}");
        let a = unreduced([row[0], row[1], row[2], row[3]]);
        let b = unreduced([row[4], row[5], row[6], row[7]]);
        let inverse = if a == SecureField::from(0) { a } else { a.inverse() };
        let (x, y) = (BaseField::from(row[0] % P), BaseField::from(row[4] % P));
        let expected = [a + b, a - b, a * b, inverse, a * y];
        for (k, expected) in expected.into_iter().enumerate() {
            assert_eq!(unreduced(words(k)), expected, "result {k} of {row:?}");
        }
        let inverse = if x.0 == 0 { x } else { x.inverse() };
        let last = [x + y, x - y, x * y, inverse];
        assert_eq!(unreduced(words(5)), SecureField::from_m31_array(last), "base results of {row:?}");
        // Products are below P whatever goes in: they are what reaches columns.
        assert!(words(2).iter().chain(&words(4)[..]).all(|word| *word <= P) && words(4).iter().all(|word| *word < P));
    }
}
