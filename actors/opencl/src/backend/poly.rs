//! Polynomials on circle domains: interpolation, evaluation, twiddles, values at a point.

use std::collections::BTreeMap;

use stwo::core::ColumnVec;
use stwo::core::circle::{CirclePoint, Coset};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::circle::{CanonicCoset, CircleDomain};
use stwo::prover::Poly;
use stwo::prover::backend::{Col, Column};
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::{CircleCoefficients, CircleEvaluation, PolyOps};
use stwo::prover::poly::twiddles::TwiddleTree;

use super::sampling::{barycentric_weights, dot, sample_coefficients};
use super::{OclBackend, OclColumn, OclTwiddles, transform, twiddles};
use crate::device::runtime;
use crate::error::{Error, raise};

/// Values of one column in device memory.
pub type Evaluation = CircleEvaluation<OclBackend, BaseField, BitReversedOrder>;

fn check_doubling(domain: CircleDomain, twiddles: &TwiddleTree<OclBackend>) {
    if domain.log_size() > 2 && !domain.half_coset.is_doubling_of(twiddles.root_coset) {
        raise(Error::Input {
            field: "twiddles",
            value: format!("a domain of 2^{}", domain.log_size()),
            limit: format!("doublings of a coset of 2^{}", twiddles.root_coset.log_size()),
        });
    }
}

/// Positions of the items by a key, groups and items in ascending order.
fn grouped<K: Ord, T>(items: &[T], key: impl Fn(&T) -> K) -> BTreeMap<K, Vec<usize>> {
    let mut groups: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        groups.entry(key(item)).or_default().push(index);
    }
    groups
}

impl PolyOps for OclBackend {
    type Twiddles = OclTwiddles;

    fn interpolate(eval: Evaluation, itwiddles: &TwiddleTree<Self>) -> CircleCoefficients<Self> {
        transform::interpolate(&[&eval.values], eval.domain, &itwiddles.itwiddles);
        CircleCoefficients::new(eval.values)
    }

    fn interpolate_columns(columns: Vec<Evaluation>, twiddles: &TwiddleTree<Self>) -> Vec<CircleCoefficients<Self>> {
        // Domains of one size are one domain: all are half cosets of the same tower.
        for positions in grouped(&columns, |column| column.domain.log_size()).values() {
            let Some(domain) = positions.first().map(|first| columns[*first].domain) else { continue };
            let group: Vec<_> = positions.iter().map(|index| &columns[*index].values).collect();
            transform::interpolate(&group, domain, &twiddles.itwiddles);
        }
        columns.into_iter().map(|column| CircleCoefficients::new(column.values)).collect()
    }

    fn eval_at_point(poly: &CircleCoefficients<Self>, point: CirclePoint<SecureField>) -> SecureField {
        sample_coefficients(&poly.coeffs, point)
    }

    fn barycentric_weights(coset: CanonicCoset, p: CirclePoint<SecureField>) -> Col<Self, SecureField> {
        barycentric_weights(coset, p)
    }

    fn barycentric_eval_at_point(evals: &Evaluation, weights: &Col<Self, SecureField>) -> SecureField {
        let values = dot(&[&evals.values], weights);
        values.first().copied().unwrap_or_default()
    }

    fn eval_at_point_by_folding(
        evals: &Evaluation,
        point: CirclePoint<SecureField>,
        twiddles: &TwiddleTree<Self>,
    ) -> SecureField {
        // The same value by way of the coefficients: one transform instead of a fold per layer.
        let poly = Self::interpolate(evals.clone(), twiddles);
        Self::eval_at_point(&poly, point)
    }

    fn extend(poly: &CircleCoefficients<Self>, log_size: u32) -> CircleCoefficients<Self> {
        if log_size < poly.log_size() {
            raise(Error::Input {
                field: "extension",
                value: format!("2^{log_size}"),
                limit: format!("2^{} at least", poly.log_size()),
            });
        }
        let target = OclColumn::<BaseField>::zeros(1 << log_size);
        target.copy_front(&poly.coeffs);
        CircleCoefficients::new(target)
    }

    fn evaluate(poly: &CircleCoefficients<Self>, domain: CircleDomain, twiddles: &TwiddleTree<Self>) -> Evaluation {
        Self::evaluate_into(poly, domain, twiddles, OclColumn::undefined(domain.size()))
    }

    fn evaluate_into(
        poly: &CircleCoefficients<Self>,
        domain: CircleDomain,
        twiddles: &TwiddleTree<Self>,
        buffer: Col<Self, BaseField>,
    ) -> Evaluation {
        check_doubling(domain, twiddles);
        transform::evaluate(&[&poly.coeffs], &[&buffer], domain, &twiddles.twiddles);
        CircleEvaluation::new(domain, buffer)
    }

    fn evaluate_polynomials(
        polynomials: ColumnVec<CircleCoefficients<Self>>,
        log_blowup_factor: u32,
        twiddles: &TwiddleTree<Self>,
        store_polynomials_coefficients: bool,
        pool: &BaseColumnPool<Self>,
    ) -> Vec<Poly<Self>> {
        let domain_of =
            |poly: &CircleCoefficients<Self>| CanonicCoset::new(poly.log_size() + log_blowup_factor).circle_domain();
        let buffers: Vec<_> =
            polynomials.iter().map(|poly| pool.take_or_alloc(poly.log_size() + log_blowup_factor)).collect();
        for positions in grouped(&polynomials, CircleCoefficients::log_size).values() {
            let Some(domain) = positions.first().map(|first| domain_of(&polynomials[*first])) else { continue };
            check_doubling(domain, twiddles);
            let sources: Vec<_> = positions.iter().map(|index| &polynomials[*index].coeffs).collect();
            let targets: Vec<_> = positions.iter().map(|index| &buffers[*index]).collect();
            transform::evaluate(&sources, &targets, domain, &twiddles.twiddles);
        }
        let evaluated = polynomials.into_iter().zip(buffers);
        evaluated
            .map(|(poly, buffer)| {
                let evals = CircleEvaluation::new(domain_of(&poly), buffer);
                Poly::new(store_polynomials_coefficients.then_some(poly), evals)
            })
            .collect()
    }

    fn precompute_twiddles(coset: Coset) -> TwiddleTree<Self> {
        twiddles::precompute(coset)
    }

    fn split_at_mid(poly: CircleCoefficients<Self>) -> (CircleCoefficients<Self>, CircleCoefficients<Self>) {
        let (left, right) = poly.coeffs.split_at_mid();
        (CircleCoefficients::new(left), CircleCoefficients::new(right))
    }
}

/// Evaluates many polynomials on one domain.
pub(crate) fn evaluate_all(
    polynomials: &[&CircleCoefficients<OclBackend>],
    domain: CircleDomain,
    twiddles: &TwiddleTree<OclBackend>,
) -> Vec<Evaluation> {
    check_doubling(domain, twiddles);
    let buffers: Vec<OclColumn<BaseField>> = polynomials.iter().map(|_| OclColumn::undefined(domain.size())).collect();
    for positions in grouped(polynomials, |poly| poly.log_size()).values() {
        let sources: Vec<_> = positions.iter().map(|index| &polynomials[*index].coeffs).collect();
        let targets: Vec<_> = positions.iter().map(|index| &buffers[*index]).collect();
        transform::evaluate(&sources, &targets, domain, &twiddles.twiddles);
    }
    buffers.into_iter().map(|buffer| CircleEvaluation::new(domain, buffer)).collect()
}

impl OclColumn<BaseField> {
    /// Copies all of `source` to the beginning of this column.
    fn copy_front(&self, source: &Self) {
        let (from, to) = (source.place(), self.place());
        runtime().copy(from, to, source.count().min(self.count()));
    }
}
