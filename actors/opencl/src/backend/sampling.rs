//! Values of many polynomials at points outside of their domains: one vector of weights per point and size, one inner
//! product per column, one transfer for all.

use stwo::core::circle::{CirclePoint, CirclePointIndex, Coset};
use stwo::core::constraints::{coset_vanishing, coset_vanishing_derivative};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::circle::CanonicCoset;

use super::{OclColumn, Table};
use crate::device::{Launch, runtime};
use crate::field::{Word, domain_table, from_words, to_words};

/// Columns that one item of the first step takes, so that they share the weights it reads.
const COLUMNS_AT_ONCE: usize = 4;
/// Items of the first step that fill a large device.
const ITEMS: usize = 1 << 18;
/// Partial sums per column in the first step, at least where there are as many rows, and at most.
const PARTS_MIN: usize = 256;
const PARTS_MAX: usize = 1 << 14;
/// How many neighbours each further step joins: two steps at most.
const JOIN: usize = 128;

/// Partial sums of each of `columns` columns of `rows` rows, both powers of two: the fewer columns the more.
pub(crate) fn parts(columns: usize, rows: usize) -> usize {
    let wanted = ITEMS / columns.div_ceil(COLUMNS_AT_ONCE).next_power_of_two().min(ITEMS);
    wanted.clamp(PARTS_MIN, PARTS_MAX).min(rows)
}
/// Weights that one item makes: 2^4.
const LOW_BITS: u32 = 4;

/// What the columns of a job hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Weights {
    /// Coefficients.
    Basis,
    /// Values on the canonic domain of their size.
    Barycentric,
}

/// Columns of one size and the point at which their polynomials are wanted.
#[derive(Debug)]
pub(crate) struct SampleJob<'a> {
    pub(crate) columns: Vec<&'a OclColumn<BaseField>>,
    pub(crate) point: CirclePoint<SecureField>,
    pub(crate) weights: Weights,
}

impl SampleJob<'_> {
    fn start(&self) -> Option<(Table, usize)> {
        let log_size = self.columns.first()?.log_len();
        let weights = match self.weights {
            Weights::Basis => basis_weights(self.point, log_size),
            Weights::Barycentric => barycentric_weights(CanonicCoset::new(log_size), self.point),
        };
        Some(partial_dots(&self.columns, &weights))
    }
}

/// The basis functions at the point: y, x, then the repeated doublings of x.
fn basis_factors(point: CirclePoint<SecureField>, log_size: u32) -> Vec<SecureField> {
    let xs = std::iter::successors(Some(point.x), |x| Some(CirclePoint::double_x(*x)));
    std::iter::once(point.y).chain(xs).take(log_size as usize).collect()
}

fn basis_weights(point: CirclePoint<SecureField>, log_size: u32) -> OclColumn<SecureField> {
    let weights = OclColumn::undefined(1 << log_size);
    let factors = Table::new(to_words(&basis_factors(point, log_size.max(1))));
    let low = LOW_BITS.min(log_size);
    let args = [factors.address(), weights.address(), log_size, low];
    runtime().launch(&Launch { kernel: "basis_weights", items: 1 << (log_size - low), rows: 1, args: &args });
    weights
}

/// Partial inner products of the columns with the weights, on the device: table and parts per column.
fn partial_dots(columns: &[&OclColumn<BaseField>], weights: &OclColumn<SecureField>) -> (Table, usize) {
    let n = weights.count();
    let table = Table::new(columns.iter().map(|column| column.address()).collect());
    let mut parts = parts(columns.len(), n);
    let mut sums = Table::room(columns.len() * parts * SecureField::WIDTH);
    let count = columns.len();
    let args = [table.address(), weights.address(), sums.address(), n as u32, parts as u32, count as u32];
    let rows = count.div_ceil(COLUMNS_AT_ONCE);
    runtime().launch(&Launch { kernel: "dot_columns", items: parts, rows, args: &args });
    while parts > 1 {
        let group = parts.min(JOIN);
        parts /= group;
        let joined = Table::room(columns.len() * parts * SecureField::WIDTH);
        let items = columns.len() * parts;
        let args = [sums.address(), joined.address(), group as u32, items as u32];
        runtime().launch(&Launch { kernel: "sum_groups", items, rows: 1, args: &args });
        sums = joined;
    }
    (sums, columns.len())
}

/// Inner products of columns with weights of the same length, a power of two.
pub(super) fn dot(columns: &[&OclColumn<BaseField>], weights: &OclColumn<SecureField>) -> Vec<SecureField> {
    if columns.is_empty() {
        return Vec::new();
    }
    let (sums, count) = partial_dots(columns, weights);
    from_words(&sums.read(count * SecureField::WIDTH))
}

/// The value of one polynomial at a point.
pub(super) fn sample_coefficients(coefficients: &OclColumn<BaseField>, point: CirclePoint<SecureField>) -> SecureField {
    let weights = basis_weights(point, coefficients.log_len());
    dot(&[coefficients], &weights).first().copied().unwrap_or_default()
}

/// The values of all jobs' columns, in order. Starts everything, then reads.
pub(crate) fn sample(jobs: &[SampleJob<'_>]) -> Vec<Vec<SecureField>> {
    let started: Vec<_> = jobs.iter().filter_map(SampleJob::start).collect();
    // One gather of all sums, so that the device is waited for once.
    let places: Vec<(u32, u32)> = started
        .iter()
        .flat_map(|(sums, count)| (0..(count * SecureField::WIDTH) as u32).map(|word| (sums.address(), word)))
        .collect();
    let mut values = from_words::<SecureField>(&super::gather(&places)).into_iter();
    jobs.iter().map(|job| values.by_ref().take(job.columns.len()).collect()).collect()
}

/// Weights with which the inner product of values on `coset` is the value at `p`.
pub(super) fn barycentric_weights(coset: CanonicCoset, p: CirclePoint<SecureField>) -> OclColumn<SecureField> {
    let domain = coset.circle_domain();
    let log_size = domain.log_size();
    let vanishing = coset_vanishing(CanonicCoset::new(log_size).coset, p);
    // The factor that depends on the row is the same for all points of a half coset: row 0 is in one, row 1 in the other.
    let constant = |index: usize| {
        let point = domain.at(index).into_ef::<SecureField>();
        let derivative = coset_vanishing_derivative(Coset::new(CirclePointIndex::generator(), log_size), point);
        vanishing / (point.y * SecureField::from(-2) * derivative)
    };
    let constants = [p.x, p.y, constant(0), constant(domain.size() / 2)];
    let (_tables, [table, points]) = Table::joined([&to_words(&constants), &domain_table(domain)]);
    let weights = OclColumn::undefined(domain.size());
    let args = [table, points, weights.address(), log_size];
    runtime().launch(&Launch { kernel: "barycentric_weights", items: domain.size(), rows: 1, args: &args });
    weights
}
