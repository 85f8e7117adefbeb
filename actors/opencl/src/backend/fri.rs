//! Folding of FRI layers.

use stwo::core::circle::Coset;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::circle::CircleDomain;
use stwo::core::poly::line::LineDomain;
use stwo::prover::fri::FriOps;
use stwo::prover::line::LineEvaluation;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::SecureEvaluation;
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::secure_column::SecureColumnByCoords;

use super::quotients::undefined_secure;
use super::{OclBackend, OclColumn, Table};
use crate::device::{Launch, runtime};
use crate::error::{Error, raise};
use crate::field::{from_words, secure_words, to_words};
use crate::kernels::FOLD_LINES;

/// Where a fold finds its inverses: a table, its first word, and whether they are to be derived for a circle.
struct Inverses {
    own: Option<Table>,
    address: u32,
    first: u32,
    circle: bool,
}

impl Inverses {
    /// Inverse x-coordinates of a line domain, one per pair.
    fn of_line(log_size: u32, twiddles: &TwiddleTree<OclBackend>) -> Self {
        let args = twiddles.itwiddles.args(log_size + 1);
        Self { own: None, address: args.address, first: args.len - (1 << (args.log - 1)), circle: false }
    }

    /// Inverse y-coordinates of a circle domain, one per pair.
    fn of_circle(domain: CircleDomain, twiddles: &TwiddleTree<OclBackend>) -> Self {
        if domain.log_size() > 2 {
            return Self { circle: true, ..Self::of_line(domain.log_size() - 1, twiddles) };
        }
        let y = domain.half_coset.initial.y.inverse();
        let table = Table::new(to_words(&[y, -y]));
        Self { address: table.address(), own: Some(table), first: 0, circle: false }
    }
}

/// Addresses of four source and four target columns.
fn eight(source: &SecureColumnByCoords<OclBackend>, target: &SecureColumnByCoords<OclBackend>) -> [u32; 8] {
    let columns = [source.columns.each_ref(), target.columns.each_ref()].concat();
    std::array::from_fn(|k| columns[k].address())
}

fn fold(
    source: &SecureColumnByCoords<OclBackend>,
    alpha: SecureField,
    inverses: &Inverses,
) -> SecureColumnByCoords<OclBackend> {
    let rows = source.len() / 2;
    let target = undefined_secure(rows);
    let [a0, a1, a2, a3] = secure_words(alpha);
    let own = [inverses.address, inverses.first, u32::from(inverses.circle), a0, a1, a2, a3, rows as u32];
    let args = [eight(source, &target), own].concat();
    runtime().launch(&Launch { kernel: "fold", items: rows, rows: 1, args: &args });
    // `own` is read by the kernel that was just started; its memory may be reused only by later ones.
    debug_assert!(inverses.own.is_none() || !inverses.circle);
    target
}

/// Folds a line 2 to 4 times in one start.
fn fold_lines(
    source: &SecureColumnByCoords<OclBackend>,
    alpha: SecureField,
    folds: usize,
    twiddles: &TwiddleTree<OclBackend>,
) -> SecureColumnByCoords<OclBackend> {
    let rows = source.len() >> folds;
    let log_line = source.len().ilog2();
    let target = undefined_secure(rows);
    let inverses = twiddles.itwiddles.args(log_line + 1);
    let [a0, a1, a2, a3] = secure_words(alpha);
    // A view's first layer begins where its logarithm says, see `Inverses::of_line`.
    let own = [inverses.address, inverses.len, inverses.log - 1, a0, a1, a2, a3, rows as u32];
    let args = [eight(source, &target), own].concat();
    runtime().launch(&Launch { kernel: FOLD_LINES[folds - 2], items: rows, rows: 1, args: &args });
    target
}

/// Folds values of a circle domain once, then `line_folds` times as values of a line, with squared factors.
pub(crate) fn fold_into(
    source: &SecureEvaluation<OclBackend, BitReversedOrder>,
    alpha: SecureField,
    twiddles: &TwiddleTree<OclBackend>,
    line_folds: u32,
) -> LineEvaluation<OclBackend> {
    let line = OclBackend::fold_circle_into_line(source, alpha, twiddles);
    if line_folds == 0 { line } else { OclBackend::fold_line(&line, alpha * alpha, twiddles, line_folds) }
}

impl FriOps for OclBackend {
    fn fold_line(
        eval: &LineEvaluation<Self>,
        alpha: SecureField,
        twiddles: &TwiddleTree<Self>,
        fold_step: u32,
    ) -> LineEvaluation<Self> {
        let log_size = eval.domain().log_size();
        if fold_step == 0 || fold_step > log_size {
            raise(Error::Input { field: "fold step", value: fold_step.to_string(), limit: format!("1 to {log_size}") });
        }
        let mut domain = eval.domain();
        let mut alpha = alpha;
        let mut values: Option<SecureColumnByCoords<Self>> = None;
        let mut left = fold_step;
        while left > 0 {
            let source = values.as_ref().unwrap_or(&eval.values);
            let folds = left.min(FOLD_LINES.len() as u32 + 1);
            values = Some(if folds == 1 {
                fold(source, alpha, &Inverses::of_line(domain.log_size(), twiddles))
            } else {
                fold_lines(source, alpha, folds as usize, twiddles)
            });
            for _ in 0..folds {
                domain = domain.double();
                alpha = alpha * alpha;
            }
            left -= folds;
        }
        match values {
            Some(values) => LineEvaluation::new(domain, values),
            None => eval.clone(),
        }
    }

    fn fold_circle_into_line(
        src: &SecureEvaluation<Self, BitReversedOrder>,
        alpha: SecureField,
        twiddles: &TwiddleTree<Self>,
    ) -> LineEvaluation<Self> {
        let values = fold(&src.values, alpha, &Inverses::of_circle(src.domain, twiddles));
        LineEvaluation::new(LineDomain::new(Coset::half_odds(src.domain.log_size() - 1)), values)
    }

    fn decompose(
        eval: &SecureEvaluation<Self, BitReversedOrder>,
    ) -> (SecureEvaluation<Self, BitReversedOrder>, SecureField) {
        let n = eval.values.len();
        // lambda = (sum of the first half - sum of the second half) / n, by coordinate.
        let halves: Vec<[BaseField; 2]> = eval.values.columns.iter().map(half_sums).collect();
        let coordinates: [BaseField; 4] = std::array::from_fn(|k| halves[k][0] - halves[k][1]);
        let size = BaseField::from_u32_unchecked(n as u32);
        let lambda = SecureField::from_m31_array(coordinates) / size;
        let target = undefined_secure(n);
        let table = Table::new(eval.values.columns.iter().chain(&target.columns).map(OclColumn::address).collect());
        let [l0, l1, l2, l3] = secure_words(lambda);
        let args = [table.address(), l0, l1, l2, l3, n as u32];
        runtime().launch(&Launch { kernel: "decompose", items: n, rows: 1, args: &args });
        (SecureEvaluation::new(eval.domain, target), lambda)
    }
}

/// Sums of both halves of a column of 2^k values: inner products of all values with (1, 0) and (0, 1) repeated would
/// double the work, so neighbours are joined until two values are left.
fn half_sums(column: &OclColumn<BaseField>) -> [BaseField; 2] {
    let n = column.count();
    // As secure elements with one coordinate each: the joining kernel adds groups of four words.
    let words = n.max(2);
    let mut sums = Table::zeros(words);
    let table = Table::new(vec![sums.address(), column.address()]);
    let args = [table.address(), 0, n as u32];
    runtime().launch(&Launch { kernel: "lift_add", items: n, rows: 1, args: &args });
    let mut quads = words / 4;
    while quads > 2 {
        let group = (quads / 2).min(32);
        quads /= group;
        let joined = Table::room(quads * 4);
        let args = [sums.address(), joined.address(), group as u32, quads as u32];
        runtime().launch(&Launch { kernel: "sum_groups", items: quads, rows: 1, args: &args });
        sums = joined;
    }
    let values: Vec<BaseField> = from_words(&sums.read(if quads < 2 { words } else { quads * 4 }));
    let (first, second) = values.split_at(values.len() / 2);
    [first.iter().copied().sum(), second.iter().copied().sum()]
}
