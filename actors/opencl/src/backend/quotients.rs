//! Quotients of the opened columns: numerators per sample point, then their sum over the subdomain, extended.

use stwo::core::fields::cm31::CM31;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::quotients::{ColumnSampleBatch, quotient_constants};
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::QuotientOps;
use stwo::prover::backend::Column;
use stwo::prover::pcs::quotient_ops::AccumulatedNumerators;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::{CircleEvaluation, SecureEvaluation};
use stwo::prover::poly::twiddles::{TwiddleBuffer, TwiddleTree};
use stwo::prover::secure_column::SecureColumnByCoords;

use super::{OclBackend, OclColumn, Table, transform};
use crate::device::{Launch, runtime};
use crate::field::{domain_table, secure_words, to_words};

/// Four columns of undefined content.
pub(super) fn undefined_secure(len: usize) -> SecureColumnByCoords<OclBackend> {
    SecureColumnByCoords { columns: std::array::from_fn(|_| OclColumn::undefined(len)) }
}

/// Four columns of zeros.
pub(crate) fn zero_secure(len: usize) -> SecureColumnByCoords<OclBackend> {
    SecureColumnByCoords { columns: std::array::from_fn(|_| OclColumn::zeros(len)) }
}

fn addresses(column: &SecureColumnByCoords<OclBackend>) -> impl Iterator<Item = u32> + '_ {
    column.columns.iter().map(OclColumn::address)
}

fn cm31_words(value: CM31) -> [u32; 2] {
    [value.0.0, value.1.0]
}

impl QuotientOps for OclBackend {
    fn accumulate_numerators(
        columns: &[&CircleEvaluation<Self, BaseField, BitReversedOrder>],
        sample_batches: &[ColumnSampleBatch],
        accumulated_numerators_vec: &mut Vec<AccumulatedNumerators<Self>>,
        log_blowup_factor: u32,
    ) {
        let Some(first) = columns.first() else { return };
        let rows = first.values.count() >> log_blowup_factor;
        let constants = quotient_constants(sample_batches);
        for (batch, coefficients) in sample_batches.iter().zip(constants.line_coeffs) {
            let opened = batch.cols_vals_randpows.iter();
            let list: Vec<u32> = opened.map(|data| columns[data.column_index].values.address()).collect();
            let factors: Vec<SecureField> = coefficients.iter().map(|(_, _, c)| *c).collect();
            let constant: SecureField = coefficients.iter().map(|(_, b, _)| *b).sum();
            let [b0, b1, b2, b3] = secure_words(constant);
            let numerators = undefined_secure(rows);
            let targets: Vec<u32> = addresses(&numerators).collect();
            let (_tables, [table, factors, out]) = Table::joined([&list, &to_words(&factors), &targets]);
            let count = coefficients.len() as u32;
            let args = [table, factors, count, out, b0, b1, b2, b3, rows as u32];
            runtime().launch(&Launch { kernel: "numerators", items: rows, rows: 1, args: &args });
            accumulated_numerators_vec.push(AccumulatedNumerators {
                sample_point: batch.point,
                partial_numerators_acc: numerators,
                first_linear_term_acc: coefficients.iter().map(|(a, _, _)| *a).sum(),
            });
        }
    }

    fn compute_quotients_and_combine(
        accs: Vec<AccumulatedNumerators<Self>>,
        lifting_log_size: u32,
        log_blowup_factor: u32,
        twiddles: &TwiddleTree<Self>,
    ) -> SecureEvaluation<Self, BitReversedOrder> {
        let domain = CanonicCoset::new(lifting_log_size).circle_domain();
        let (subdomain, _) = domain.split(log_blowup_factor);
        let log_size = subdomain.log_size();
        let entry = |acc: &AccumulatedNumerators<Self>| {
            let ratio = log_size - acc.partial_numerators_acc.columns[0].log_len();
            let (x, y) = (acc.sample_point.x, acc.sample_point.y);
            let mut words: Vec<u32> = addresses(&acc.partial_numerators_acc).collect();
            words.push(ratio);
            words.extend(secure_words(acc.first_linear_term_acc));
            words.extend([x.0, x.1, y.0, y.1].into_iter().flat_map(cm31_words));
            words
        };
        let entries: Vec<u32> = accs.iter().flat_map(entry).collect();
        let quotients = undefined_secure(1 << log_size);
        let targets: Vec<u32> = addresses(&quotients).collect();
        let (_tables, [table, points, out]) = Table::joined([&entries, &domain_table(subdomain), &targets]);
        let args = [table, accs.len() as u32, points, out, log_size];
        runtime().launch(&Launch { kernel: "quotients", items: 1 << log_size, rows: 1, args: &args });

        let sources = quotients.columns.each_ref();
        if log_size <= 2 {
            // No layer of such a domain is in the tree's view; the transform of this size needs none.
            transform::interpolate(&sources, subdomain, &TwiddleBuffer::empty());
        } else {
            let inverse = twiddles.itwiddles.extract_subdomain_twiddles(lifting_log_size, log_size);
            transform::interpolate(&sources, subdomain, &inverse);
        }
        let values = undefined_secure(1 << lifting_log_size);
        transform::evaluate(&sources, &values.columns.each_ref(), domain, &twiddles.twiddles);
        SecureEvaluation::new(domain, values)
    }
}
