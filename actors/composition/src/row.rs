//! Evaluates a component's constraints at sixteen neighbouring rows of the evaluation domain.
//!
//! The library's evaluator allocates maps and vectors at every row to group lookup fractions. All components of the Cairo
//! AIR group them in pairs and close them last, so here a fraction joins its pair as soon as it arrives, in a buffer that
//! the rows of a chunk share.

use std::ops::Mul;

use num_traits::Zero;
use stwo::core::Fraction;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::{SECURE_EXTENSION_DEGREE, SecureField};
use stwo::core::utils::{bit_reverse_index, offset_bit_reversed_circle_domain_index};
use stwo::prover::backend::simd::m31::{LOG_N_LANES, N_LANES, PackedBaseField};
use stwo_constraint_framework::{EvalAtRow, INTERACTION_TRACE_IDX};

use crate::field::{Base, Extension};
use crate::lanes;

/// Trees that hold a component's columns: preprocessed, trace, interaction.
pub(crate) const TREES: usize = 3;

/// What all rows of a component share.
pub(crate) struct Table<'a> {
    /// Columns on the evaluation domain, by tree.
    pub(crate) columns: [Vec<&'a [PackedBaseField]>; TREES],
    /// Power of the random coefficient for each constraint, in order.
    pub(crate) powers: &'a [SecureField],
    /// The component's claimed sum, spread over its rows.
    pub(crate) shift: SecureField,
    /// Length of the trace, as a power of two.
    pub(crate) trace_log: u32,
    /// Length of the evaluation domain, as a power of two.
    pub(crate) domain_log: u32,
}

/// A lookup fraction at sixteen rows.
pub(crate) type Lookup = Fraction<Extension, Extension>;

/// Sixteen rows under evaluation.
pub(crate) struct Row<'a> {
    table: &'a Table<'a>,
    /// Which sixteen rows.
    index: usize,
    /// Columns read so far, by tree.
    read: [usize; TREES],
    constraint: usize,
    /// The constraints so far, each times its power.
    pub(crate) sum: Extension,
    /// Sums of pairs of fractions; the last may be single.
    pub(crate) lookups: Vec<Lookup>,
    /// Whether the last of `lookups` waits for its second.
    open: bool,
}

impl<'a> Row<'a> {
    /// Rows `16 * index` and following. `lookups` is an empty buffer.
    #[inline]
    pub(crate) fn new(table: &'a Table<'a>, index: usize, mut lookups: Vec<Lookup>) -> Self {
        lookups.clear();
        Self { table, index, read: [0; TREES], constraint: 0, sum: Extension::zero(), lookups, open: false }
    }

    /// A column's values at `offset` trace rows from these.
    #[inline]
    fn at(&self, column: &[PackedBaseField], offset: isize) -> Base {
        if offset == 0 { Base(column[self.index]) } else { self.neighbours(column, offset) }
    }

    /// The domain is in bit-reversed order, its first half coset in the even lanes and the conjugate one, which runs the
    /// other way, in the odd lanes. So a lane's neighbour is in the same lane of another vector, but at the ends of the range.
    fn neighbours(&self, column: &[PackedBaseField], offset: isize) -> Base {
        let Table { trace_log, domain_log, .. } = *self.table;
        let vectors_log = domain_log - LOG_N_LANES;
        let natural = bit_reverse_index(self.index, vectors_log);
        let inside = |place: Option<usize>| place.filter(|place| *place < 1 << vectors_log);
        if let (Some(even), Some(odd)) =
            (inside(natural.checked_add_signed(offset)), inside(natural.checked_add_signed(offset.wrapping_neg())))
        {
            let [even, odd] = [even, odd].map(|place| column[bit_reverse_index(place, vectors_log)]);
            return Base(lanes::blend(even, odd));
        }
        Base(PackedBaseField::from_array(std::array::from_fn(|lane| {
            let row = (self.index << LOG_N_LANES) + lane;
            let other = offset_bit_reversed_circle_domain_index(row, trace_log, domain_log, offset);
            column[other >> LOG_N_LANES].to_array()[other % N_LANES]
        })))
    }
}

impl EvalAtRow for Row<'_> {
    type F = Base;
    type EF = Extension;

    #[inline(always)]
    fn next_interaction_mask<const N: usize>(&mut self, interaction: usize, offsets: [isize; N]) -> [Base; N] {
        let column = self.table.columns[interaction][self.read[interaction]];
        self.read[interaction] += 1;
        offsets.map(|offset| self.at(column, offset))
    }

    #[inline(always)]
    fn add_constraint<G>(&mut self, constraint: G)
    where
        Extension: Mul<G, Output = Extension> + From<G>,
    {
        let power = <Extension as From<SecureField>>::from(self.table.powers[self.constraint]);
        self.sum += power * constraint;
        self.constraint += 1;
    }

    #[inline(always)]
    fn combine_ef(values: [Base; SECURE_EXTENSION_DEGREE]) -> Extension {
        Extension(values)
    }

    #[inline]
    fn write_logup_frac(&mut self, fraction: Lookup) {
        match self.lookups.last_mut() {
            Some(first) if self.open => {
                first.numerator = fraction.denominator.times_mostly_base(first.numerator)
                    + first.denominator.times_mostly_base(fraction.numerator);
                first.denominator = first.denominator * fraction.denominator;
            }
            _ => self.lookups.push(fraction),
        }
        self.open = !self.open;
    }

    fn finalize_logup_in_pairs(&mut self) {
        let lookups = std::mem::take(&mut self.lookups);
        let mut before = Extension::zero();
        if let Some((last, others)) = lookups.split_last() {
            for lookup in others {
                let [sum] = self.next_extension_interaction_mask(INTERACTION_TRACE_IDX, [0]);
                self.add_constraint((sum - before) * lookup.denominator - lookup.numerator);
                before = sum;
            }
            let [previous_row, sum] = self.next_extension_interaction_mask(INTERACTION_TRACE_IDX, [-1, 0]);
            let step = sum - previous_row - before + self.table.shift;
            self.add_constraint(step * last.denominator - last.numerator);
        }
        self.lookups = lookups;
    }
}

/// What a component's claimed sum adds to every row.
pub(crate) fn shift(claimed_sum: SecureField, trace_log: u32) -> SecureField {
    claimed_sum / BaseField::from_u32_unchecked(1 << trace_log)
}
