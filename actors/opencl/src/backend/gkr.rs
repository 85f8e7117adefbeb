//! The GKR lookup argument, which the commitment scheme does not use: done by stwo's CPU backend and counted as work on
//! the host, so that strict mode refuses it.

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::lookups::gkr_prover::{GkrMultivariatePolyOracle, GkrOps, Layer};
use stwo::prover::lookups::mle::{Mle, MleOps};
use stwo::prover::lookups::utils::UnivariatePoly;

use super::{OclBackend, OclColumn};
use crate::device::runtime;

fn to_device(mle: Mle<CpuBackend, SecureField>) -> Mle<OclBackend, SecureField> {
    Mle::new(OclColumn::from_cpu(&mle.into_evals()))
}

fn to_host<F>(mle: &Mle<OclBackend, F>) -> Mle<CpuBackend, F>
where
    F: stwo::core::fields::Field + crate::field::Word,
    OclBackend: MleOps<F> + stwo::prover::backend::ColumnOps<F, Column = OclColumn<F>>,
    CpuBackend: MleOps<F> + stwo::prover::backend::ColumnOps<F, Column = Vec<F>>,
{
    let column: &OclColumn<F> = mle;
    Mle::new(column.to_cpu())
}

impl MleOps<BaseField> for OclBackend {
    fn fix_first_variable(mle: Mle<Self, BaseField>, assignment: SecureField) -> Mle<Self, SecureField> {
        runtime().host_fallback("GKR: fixing a variable");
        to_device(to_host(&mle).fix_first_variable(assignment))
    }
}

impl MleOps<SecureField> for OclBackend {
    fn fix_first_variable(mle: Mle<Self, SecureField>, assignment: SecureField) -> Mle<Self, SecureField> {
        runtime().host_fallback("GKR: fixing a variable");
        to_device(to_host(&mle).fix_first_variable(assignment))
    }
}

fn layer_to_device(layer: Layer<CpuBackend>) -> Layer<OclBackend> {
    match layer {
        Layer::GrandProduct(mle) => Layer::GrandProduct(to_device(mle)),
        Layer::LogUpGeneric { numerators, denominators } => {
            Layer::LogUpGeneric { numerators: to_device(numerators), denominators: to_device(denominators) }
        }
        Layer::LogUpMultiplicities { numerators, denominators } => Layer::LogUpMultiplicities {
            numerators: Mle::new(OclColumn::from_cpu(&numerators.into_evals())),
            denominators: to_device(denominators),
        },
        Layer::LogUpSingles { denominators } => Layer::LogUpSingles { denominators: to_device(denominators) },
    }
}

impl GkrOps for OclBackend {
    fn gen_eq_evals(y: &[SecureField], v: SecureField) -> Mle<Self, SecureField> {
        runtime().host_fallback("GKR: eq evaluations");
        to_device(CpuBackend::gen_eq_evals(y, v))
    }

    fn next_layer(layer: &Layer<Self>) -> Layer<Self> {
        runtime().host_fallback("GKR: next layer");
        layer_to_device(CpuBackend::next_layer(&layer.to_cpu()))
    }

    fn sum_as_poly_in_first_variable(
        h: &GkrMultivariatePolyOracle<'_, Self>,
        claim: SecureField,
    ) -> UnivariatePoly<SecureField> {
        runtime().host_fallback("GKR: sum as polynomial");
        let eq_evals = stwo::prover::lookups::gkr_prover::EqEvals::<CpuBackend>::generate(h.eq_evals.y());
        let host = GkrMultivariatePolyOracle {
            eq_evals: std::borrow::Cow::Owned(eq_evals),
            input_layer: h.input_layer.to_cpu(),
            eq_fixed_var_correction: h.eq_fixed_var_correction,
            lambda: h.lambda,
        };
        CpuBackend::sum_as_poly_in_first_variable(&host, claim)
    }
}
