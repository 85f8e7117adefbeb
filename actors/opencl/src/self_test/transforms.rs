//! Twiddles, circle transforms and values at points against `CpuBackend`.

use crate::{OclBackend, OclColumn};
use stwo::core::circle::{CirclePoint, SECURE_FIELD_CIRCLE_GEN};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::{CircleCoefficients, CircleEvaluation, PolyOps};
use stwo::prover::poly::twiddles::{TwiddleBuffer, TwiddleTree};

use super::values::{base_values, rng, same};
use super::{Context, Size};

type CpuEvaluation = CircleEvaluation<CpuBackend, BaseField, BitReversedOrder>;
type OclEvaluation = CircleEvaluation<OclBackend, BaseField, BitReversedOrder>;

fn twiddles(log: u32) -> (TwiddleTree<CpuBackend>, TwiddleTree<OclBackend>) {
    let coset = CanonicCoset::new(log).half_coset();
    (CpuBackend::precompute_twiddles(coset), OclBackend::precompute_twiddles(coset))
}

pub(super) fn twiddles_are_stwos(on: &Context) {
    for log in (1..=14).filter(|log| on.wants(*log)) {
        let (cpu, ocl) = twiddles(log);
        assert_eq!(ocl.twiddles.to_cpu(), cpu.twiddles, "2^{log}");
        // The last place of the buffer is never read.
        let used = cpu.itwiddles.len() - 1;
        assert_eq!(ocl.itwiddles.to_cpu()[..used], cpu.itwiddles[..used], "2^{log}");
    }
}

fn transforms(log: u32, blowup_max: u32, (cpu, ocl): &(TwiddleTree<CpuBackend>, TwiddleTree<OclBackend>), path: &str) {
    let mut rng = rng(u64::from(log));
    let domain = CanonicCoset::new(log).circle_domain();
    let values = base_values(&mut rng, 1 << log);
    let expected = CpuEvaluation::new(domain, values.clone()).interpolate_with_twiddles(cpu);
    let poly = OclEvaluation::new(domain, OclColumn::from_cpu(&values)).interpolate_with_twiddles(ocl);
    same(&poly.coeffs.to_cpu(), &expected.coeffs, &format!("interpolation of 2^{log} {path}"));
    // stwo's CPU backend does not take a domain of two points for a doubling of a larger one.
    for blowup in u32::from(log == 1)..=blowup_max {
        let larger = CanonicCoset::new(log + blowup).circle_domain();
        let result = poly.evaluate_with_twiddles(larger, ocl);
        let expected = expected.evaluate_with_twiddles(larger, cpu);
        same(&result.values.to_cpu(), &expected.values, &format!("2^{log} on 2^{} {path}", log + blowup));
    }
    let extended = poly.extend(log + 2).coeffs.to_cpu();
    same(&extended, &expected.extend(log + 2).coeffs, &format!("extension of 2^{log}"));
    let (left, right) = poly.split_at_mid();
    let (expected_left, expected_right) = expected.split_at_mid();
    same(&left.coeffs.to_cpu(), &expected_left.coeffs, &format!("left half of 2^{log}"));
    same(&right.coeffs.to_cpu(), &expected_right.coeffs, &format!("right half of 2^{log}"));
}

/// Interpolation and evaluation, in registers and in tiles of local memory.
pub(super) fn transforms_are_stwos(on: &Context) {
    let trees = twiddles(if on.large() { 22 } else { 17 });
    let blowup_max = if on.size == Size::Tiny { 1 } else { 2 };
    for log in (1..=15)
        // The size from which on an interpolation has a pass of five layers.
        .chain(if on.large() { 16..=20 } else { 17..=17 })
        .filter(|log| on.wants(*log) || *log == 12)
    {
        for tiles in [false, true] {
            // Sizes below a tile have one path only; at 2^10 the evaluation on a larger domain reaches it.
            if (!tiles && on.wants(log)) || (tiles && log >= 10) {
                on.runtime.set_tiles(tiles);
                let blowup_max = if on.large() { blowup_max } else { blowup_max.min(17 - log) };
                transforms(log, blowup_max, &trees, if tiles { "in tiles" } else { "in registers" });
            }
        }
    }
    on.runtime.set_tiles(true);
}

pub(super) fn the_plural_methods_treat_columns_of_many_sizes(_: &Context) {
    let mut rng = rng(11);
    let (cpu, ocl) = twiddles(11);
    let logs = [4, 9, 4, 1, 2, 10, 3, 9];
    let columns: Vec<_> = logs.iter().map(|log| base_values(&mut rng, 1 << log)).collect();
    let evaluations = logs
        .iter()
        .zip(&columns)
        .map(|(log, values)| OclEvaluation::new(CanonicCoset::new(*log).circle_domain(), OclColumn::from_cpu(values)));
    let polys = OclBackend::interpolate_columns(evaluations.collect(), &ocl);
    let pool = BaseColumnPool::new();
    let results = OclBackend::evaluate_polynomials(polys, 1, &ocl, true, &pool);
    for ((log, values), result) in logs.iter().zip(columns).zip(results) {
        let expected =
            CpuEvaluation::new(CanonicCoset::new(*log).circle_domain(), values).interpolate_with_twiddles(&cpu);
        assert_eq!(result.coeffs.expect("kept").coeffs.to_cpu(), expected.coeffs, "2^{log}");
        let domain = CanonicCoset::new(log + 1).circle_domain();
        assert_eq!(result.evals.domain, domain);
        assert_eq!(result.evals.values.to_cpu(), expected.evaluate_with_twiddles(domain, &cpu).values, "2^{log}");
    }
}

pub(super) fn a_subdomain_has_the_view_of_the_twiddles(_: &Context) {
    let mut rng = rng(12);
    let (cpu, ocl) = twiddles(12);
    for (committed, parts) in [(12, 1), (10, 1), (8, 2), (6, 3)] {
        let domain = CanonicCoset::new(committed).circle_domain();
        let (subdomain, _) = domain.split(parts);
        let values = base_values(&mut rng, subdomain.size());
        let cpu_tree: TwiddleTree<CpuBackend> = TwiddleTree {
            root_coset: subdomain.half_coset,
            twiddles: TwiddleBuffer::empty(),
            itwiddles: cpu.itwiddles.extract_subdomain_twiddles(committed, subdomain.log_size()),
        };
        let ocl_tree: TwiddleTree<OclBackend> = TwiddleTree {
            root_coset: subdomain.half_coset,
            twiddles: TwiddleBuffer::empty(),
            itwiddles: ocl.itwiddles.extract_subdomain_twiddles(committed, subdomain.log_size()),
        };
        let expected = CpuEvaluation::new(subdomain, values.clone()).interpolate_with_twiddles(&cpu_tree);
        let result = OclEvaluation::new(subdomain, OclColumn::from_cpu(&values)).interpolate_with_twiddles(&ocl_tree);
        assert_eq!(result.coeffs.to_cpu(), expected.coeffs, "2^{committed} in 2^{parts} parts");
    }
}

pub(super) fn values_at_points_are_stwos(on: &Context) {
    let mut rng = rng(13);
    let (cpu, ocl) = twiddles(13);
    let points: [CirclePoint<SecureField>; 2] =
        [SECURE_FIELD_CIRCLE_GEN.mul(12_345), SECURE_FIELD_CIRCLE_GEN.mul(987_654_321)];
    for log in (0..=12).chain(on.large().then_some(18)).filter(|log| on.wants(*log)) {
        let values = base_values(&mut rng, 1 << log);
        let expected = CircleCoefficients::<CpuBackend>::new(values.clone());
        let result = CircleCoefficients::<OclBackend>::new(OclColumn::from_cpu(&values));
        for point in points {
            let expected = expected.eval_at_point(point);
            assert_eq!(result.eval_at_point(point), expected, "2^{log}");
            if log == 0 || log >= 12 {
                continue;
            }
            let coset = CanonicCoset::new(log + 1);
            let evaluation = result.evaluate_with_twiddles(coset.circle_domain(), &ocl);
            let weights = OclEvaluation::barycentric_weights(coset, point);
            assert_eq!(weights.to_cpu(), CpuEvaluation::barycentric_weights(coset, point), "weights of 2^{log}");
            assert_eq!(evaluation.barycentric_eval_at_point(&weights), expected, "2^{log}, barycentric");
            assert_eq!(evaluation.eval_at_point_by_folding(point, &ocl), expected, "2^{log}, folded");
            drop(evaluation);
        }
    }
    assert_eq!(cpu.root_coset, ocl.root_coset);
}
