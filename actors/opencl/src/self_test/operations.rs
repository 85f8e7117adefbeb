//! Trees, sums, quotients, folds and the proof of work against stwo's own backends.

use crate::backend::{packed_tree_of, tree_of};
use crate::{OclBackend, OclColumn};
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::circle::{CirclePoint, SECURE_FIELD_CIRCLE_GEN};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::pcs::quotients::PointSample;
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::poly::line::LineDomain;
use stwo::core::proof_of_work::GrindOps;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::prover::AccumulationOps;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::fri::FriOps;
use stwo::prover::line::LineEvaluation;
use stwo::prover::pcs::quotient_ops::compute_fri_quotients;
use stwo::prover::poly::circle::{CircleEvaluation, PolyOps, SecureEvaluation};
use stwo::prover::vcs_lifted::ops::PackLeavesOps;
use stwo::prover::vcs_lifted::prover::MerkleProverLifted;

use super::values::{base_values, rng, secure_columns, secure_value, to_device, to_host};
use super::{Context, Size};

/// A transcript whose first nonce of this many bits is number 2^20 or later in the order of the search: one in 55 is.
const LATE_ROUND: u64 = 9;
const LATE_BITS: u32 = 18;

type CpuTree = MerkleProverLifted<CpuBackend, Blake2sMerkleHasher>;
type OclTree = MerkleProverLifted<OclBackend, Blake2sMerkleHasher>;

pub(super) fn trees_are_stwos(on: &Context) {
    let mut rng = rng(20);
    let cases: [(&[u32], u32); 11] = [
        (&[10; 4], 10),
        (&[9; 4], 9),
        (&[13, 12, 11], 13),
        (&[], 0),
        (&[1], 1),
        (&[3; 4], 3),
        (&[5, 3, 4, 1], 5),
        (&[6; 15], 6),
        (&[7; 16], 9),
        (&[4; 17], 4),
        (&[2, 8, 8, 5, 5, 5, 1, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8], 8),
    ];
    let large: (&[u32], u32) = (&[18; 20], 18);
    let cases = cases.into_iter().chain(on.large().then_some(large));
    for (logs, lifting) in cases.filter(|(_, lifting)| on.wants(*lifting) || *lifting == 10) {
        let columns: Vec<_> = logs.iter().map(|log| base_values(&mut rng, 1 << log)).collect();
        let copies: Vec<_> = columns.iter().map(|values| OclColumn::from_cpu(values)).collect();
        let expected = CpuTree::commit(columns.iter().collect(), lifting, 0);
        let columns: Vec<_> = copies.iter().collect();
        // stwo's own order of calls, then ours, with and without local memory.
        let mut trees = vec![OclTree::commit(columns.clone(), lifting, 0)];
        for tiles in [false, true] {
            on.runtime.set_tiles(tiles);
            trees.push(tree_of(&columns, lifting));
        }
        for (path, tree) in trees.iter().enumerate() {
            assert_eq!(tree.layers.len(), expected.layers.len());
            for (layer, expected) in tree.layers.iter().zip(&expected.layers) {
                assert!(layer.to_cpu() == *expected, "{logs:?} lifted to 2^{lifting}, path {path}");
            }
        }
    }
    let values = secure_columns(&mut rng, 64);
    let expected = CpuBackend::pack_leaves_input(&values.columns.each_ref());
    let packed = OclBackend::pack_leaves_input(&to_device(&values).columns.each_ref());
    assert_eq!(packed.map(|column| column.to_cpu()), expected);
    for log in [3, 6, 12, 14].into_iter().filter(|log| on.wants(*log)) {
        let columns = to_device(&secure_columns(&mut rng, 1 << log));
        let columns = columns.columns.each_ref();
        let expected = OclTree::commit(OclBackend::pack_leaves_input(&columns).iter().collect(), log - 2, 0);
        for tiles in [false, true] {
            on.runtime.set_tiles(tiles);
            let tree = packed_tree_of(&columns);
            let same = tree.layers.iter().zip(&expected.layers).all(|(a, b)| a.to_cpu() == b.to_cpu());
            assert!(same && tree.layers.len() == expected.layers.len(), "four rows per leaf of 2^{log} rows");
        }
    }
}

pub(super) fn sums_are_stwos(_: &Context) {
    let mut rng = rng(21);
    let logs = [1, 2, 5, 5, 9];
    let columns: Vec<_> = logs.iter().map(|log| secure_columns(&mut rng, 1 << log)).collect();
    let copies: Vec<_> = columns.iter().map(to_device).collect();
    let mut sum = copies[2].clone();
    OclBackend::accumulate(&mut sum, &copies[3]);
    let mut expected = columns[2].clone();
    CpuBackend::accumulate(&mut expected, &columns[3]);
    assert_eq!(to_host(&sum), expected.columns);
    let expected = CpuBackend::lift_and_accumulate(columns).expect("some");
    assert_eq!(to_host(&OclBackend::lift_and_accumulate(copies).expect("some")), expected.columns);
    assert!(OclBackend::lift_and_accumulate(Vec::new()).is_none());
    let felt = secure_value(&mut rng);
    for n in [0, 1, 7] {
        assert_eq!(OclBackend::generate_secure_powers(felt, n), CpuBackend::generate_secure_powers(felt, n));
    }
}

pub(super) fn folds_are_stwos(on: &Context) {
    let mut rng = rng(22);
    let coset = CanonicCoset::new(if on.large() { 18 } else { 11 }).half_coset();
    let (cpu, ocl) = (CpuBackend::precompute_twiddles(coset), OclBackend::precompute_twiddles(coset));
    for log in (1..=11).chain(on.large().then_some(18)).filter(|log| on.wants(*log)) {
        let alpha = secure_value(&mut rng);
        let domain = CanonicCoset::new(log).circle_domain();
        let values = secure_columns(&mut rng, 1 << log);
        let source = SecureEvaluation::new(domain, to_device(&values));
        let cpu_source = SecureEvaluation::new(domain, values);
        let folded = OclBackend::fold_circle_into_line(&source, alpha, &ocl);
        let expected = CpuBackend::fold_circle_into_line(&cpu_source, alpha, &cpu);
        assert_eq!(to_host(&folded.values), expected.values.columns, "circle of 2^{log}");
        assert_eq!(folded.domain().coset(), expected.domain().coset());

        let (rest, lambda) = OclBackend::decompose(&source);
        let (expected_rest, expected_lambda) = CpuBackend::decompose(&cpu_source);
        assert_eq!(lambda, expected_lambda, "2^{log}");
        assert_eq!(to_host(&rest.values), expected_rest.values.columns, "2^{log}");

        for step in 1..=(log - 1).min(6) {
            let line = LineDomain::new(stwo::core::circle::Coset::half_odds(log - 1));
            let values = secure_columns(&mut rng, 1 << (log - 1));
            let folded = OclBackend::fold_line(&LineEvaluation::new(line, to_device(&values)), alpha, &ocl, step);
            let expected = CpuBackend::fold_line(&LineEvaluation::new(line, values), alpha, &cpu, step);
            assert_eq!(to_host(&folded.values), expected.values.columns, "line of 2^{} by {step}", log - 1);
            assert_eq!(folded.domain().coset(), expected.domain().coset());
        }
    }
}

pub(super) fn quotients_are_stwos(_: &Context) {
    let mut rng = rng(23);
    for (logs, blowup) in
        [(vec![4_u32, 4], 1_u32), (vec![2, 3, 9, 9, 6], 1), (vec![7, 5, 7], 2), (vec![2], 1), (vec![1, 3], 1)]
    {
        let lifting = logs.iter().max().expect("some") + blowup;
        let coset = CanonicCoset::new(lifting).half_coset();
        let (cpu, ocl) = (CpuBackend::precompute_twiddles(coset), OclBackend::precompute_twiddles(coset));
        let mut points: [CirclePoint<SecureField>; 2] =
            [SECURE_FIELD_CIRCLE_GEN.mul(7_777), SECURE_FIELD_CIRCLE_GEN.mul(123_456_789)];
        points.reverse();
        let columns: Vec<CircleEvaluation<CpuBackend, BaseField, _>> = logs
            .iter()
            .map(|log| {
                let domain = CanonicCoset::new(log + blowup).circle_domain();
                CircleEvaluation::new(domain, base_values(&mut rng, domain.size()))
            })
            .collect();
        let copies: Vec<CircleEvaluation<OclBackend, BaseField, _>> = columns
            .iter()
            .map(|column| CircleEvaluation::new(column.domain, OclColumn::from_cpu(&column.values)))
            .collect();
        let samples: Vec<Vec<PointSample>> = (0..logs.len())
            .map(|k| {
                points
                    .iter()
                    .take(1 + k % 2)
                    .map(|point| PointSample { point: *point, value: secure_value(&mut rng) })
                    .collect()
            })
            .collect();
        let samples = TreeVec(vec![samples]);
        let alpha = secure_value(&mut rng);
        let expected =
            compute_fri_quotients(&TreeVec(vec![columns.iter().collect()]), &samples, alpha, lifting, &cpu, blowup);
        let result =
            compute_fri_quotients(&TreeVec(vec![copies.iter().collect()]), &samples, alpha, lifting, &ocl, blowup);
        assert_eq!(to_host(&result.values), expected.values.columns, "{logs:?} at blow-up 2^{blowup}");
    }
}

pub(super) fn the_proof_of_work_is_that_of_simd(on: &Context) {
    let mut channel = Blake2sChannel::default();
    for bits in [0, 1, 5, 10, 14].into_iter().filter(|bits| on.size > Size::Tiny || *bits == 5) {
        for round in 0..if on.size == Size::Tiny { 1 } else { 3 } {
            channel.mix_u64(round);
            let nonce = OclBackend::grind(&channel, bits);
            assert!(channel.verify_pow_nonce(bits, nonce));
            assert_eq!(nonce, SimdBackend::grind(&channel, bits), "{bits} bits");
        }
    }
    if on.size == Size::Tiny {
        return;
    }
    // The search counts in the low 20 bits, then in the upper word: both sides of the step, and well behind it.
    let rounds: &[(u64, u32)] =
        if on.large() { &[(LATE_ROUND, LATE_BITS), (1, 22), (2, 22), (3, 22)] } else { &[(LATE_ROUND, LATE_BITS)] };
    let mut late = 0;
    for (round, bits) in rounds {
        let mut channel = Blake2sChannel::default();
        channel.mix_u64(*round);
        let nonce = OclBackend::grind(&channel, *bits);
        assert!(channel.verify_pow_nonce(*bits, nonce));
        assert_eq!(nonce, SimdBackend::grind(&channel, *bits), "{bits} bits, round {round}");
        late += u32::from(nonce >> 32 > 0);
    }
    assert!(late > 0, "no nonce lies behind the first 2^20");
}
