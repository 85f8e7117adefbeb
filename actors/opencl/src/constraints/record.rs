//! Records an AIR's `evaluate` into a graph. Owns the values that stand in for field elements; the graph being recorded
//! belongs to the thread, because the operators of these values have no other way to it.

use std::cell::RefCell;
use std::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub};

use num_traits::{One, Zero};
use stwo::core::Fraction;
use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::{SECURE_EXTENSION_DEGREE, SecureField};
use stwo_constraint_framework::{EvalAtRow, FrameworkEval, INTERACTION_TRACE_IDX};

use super::graph::{Graph, Id};
use crate::field::secure_words;

thread_local! {
    static GRAPH: RefCell<Graph> = RefCell::new(Graph::default());
}

fn with<T>(work: impl FnOnce(&mut Graph) -> T) -> T {
    GRAPH.with_borrow_mut(work)
}

/// Stands for a base field value at some row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base(Id);

/// Stands for a secure field value at some row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secure(Id);

fn base_value(value: BaseField) -> Id {
    with(|graph| graph.base_slot(value.0))
}

fn secure_value(value: SecureField) -> Id {
    with(|graph| graph.secure_slot(secure_words(value), false))
}

/// Implements a binary operator of the recorded values by a method of the graph.
macro_rules! operator {
    ($trait:ident, $method:ident, $left:ty, $right:ty, $out:ident, $id:expr) => {
        impl $trait<$right> for $left {
            type Output = $out;
            fn $method(self, other: $right) -> $out {
                let other: Id = $id(other);
                $out(with(|graph| {
                    let id = graph.$method(self.0, other);
                    $out::typed(graph, id)
                }))
            }
        }
    };
}

impl Base {
    fn typed(_: &mut Graph, id: Id) -> Id {
        id
    }
}

impl Secure {
    fn typed(graph: &mut Graph, id: Id) -> Id {
        graph.lift(id)
    }
}

operator!(Add, add, Base, Base, Base, |value: Base| value.0);
operator!(Sub, sub, Base, Base, Base, |value: Base| value.0);
operator!(Mul, mul, Base, Base, Base, |value: Base| value.0);
operator!(Mul, mul, Base, BaseField, Base, base_value);
operator!(Add, add, Base, SecureField, Secure, secure_value);
operator!(Mul, mul, Base, SecureField, Secure, secure_value);
operator!(Add, add, Secure, Secure, Secure, |value: Secure| value.0);
operator!(Sub, sub, Secure, Secure, Secure, |value: Secure| value.0);
operator!(Mul, mul, Secure, Secure, Secure, |value: Secure| value.0);
operator!(Add, add, Secure, Base, Secure, |value: Base| value.0);
operator!(Mul, mul, Secure, Base, Secure, |value: Base| value.0);
operator!(Add, add, Secure, BaseField, Secure, base_value);
operator!(Mul, mul, Secure, BaseField, Secure, base_value);
operator!(Add, add, Secure, SecureField, Secure, secure_value);
operator!(Sub, sub, Secure, SecureField, Secure, secure_value);
operator!(Mul, mul, Secure, SecureField, Secure, secure_value);

impl Neg for Base {
    type Output = Self;
    fn neg(self) -> Self {
        Self(with(|graph| graph.neg(self.0)))
    }
}

impl Neg for Secure {
    type Output = Self;
    fn neg(self) -> Self {
        Self(with(|graph| graph.neg(self.0)))
    }
}

impl AddAssign for Base {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl AddAssign<BaseField> for Base {
    fn add_assign(&mut self, other: BaseField) {
        *self = *self + Self(base_value(other));
    }
}

impl MulAssign for Base {
    fn mul_assign(&mut self, other: Self) {
        *self = *self * other;
    }
}

impl AddAssign for Secure {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl From<BaseField> for Base {
    fn from(value: BaseField) -> Self {
        Self(base_value(value))
    }
}

impl From<SecureField> for Secure {
    fn from(value: SecureField) -> Self {
        Self(secure_value(value))
    }
}

impl From<Base> for Secure {
    fn from(value: Base) -> Self {
        Self(with(|graph| graph.lift(value.0)))
    }
}

impl Zero for Base {
    fn zero() -> Self {
        Self(with(|graph| graph.literal(0)))
    }
    fn is_zero(&self) -> bool {
        with(|graph| graph.literal(0) == self.0)
    }
}

impl One for Base {
    fn one() -> Self {
        Self(with(|graph| graph.literal(1)))
    }
}

impl Zero for Secure {
    fn zero() -> Self {
        Self::from(Base::zero())
    }
    fn is_zero(&self) -> bool {
        Self::zero().0 == self.0
    }
}

impl One for Secure {
    fn one() -> Self {
        Self::from(Base::one())
    }
}

impl FieldExpOps for Base {
    fn inverse(&self) -> Self {
        Self(with(|graph| graph.inverse(self.0)))
    }
}

/// The evaluator that an AIR sees.
pub(super) struct Recorder {
    /// Next column per interaction.
    next: Vec<usize>,
    fractions: Vec<Fraction<Secure, Secure>>,
    /// The claimed sum divided by the number of rows: the last slot that differs from proof to proof.
    shift: SecureField,
}

impl Recorder {
    fn batches(&self, batch_of: impl Fn(usize) -> usize) -> Vec<Vec<Fraction<Secure, Secure>>> {
        let mut batches: Vec<Vec<_>> = Vec::new();
        for (index, fraction) in self.fractions.iter().enumerate() {
            let batch = batch_of(index);
            if batches.len() <= batch {
                batches.resize_with(batch + 1, Vec::new);
            }
            batches[batch].push(*fraction);
        }
        batches
    }

    /// One cumulative column per batch; the last one runs down the rows.
    fn finalize(&mut self, batch_of: impl Fn(usize) -> usize) {
        let batches = self.batches(batch_of);
        let Some((last, others)) = batches.split_last() else { return };
        let sum = |batch: &Vec<Fraction<Secure, Secure>>| batch.iter().copied().sum::<Fraction<Secure, Secure>>();
        let mut before = Secure::zero();
        for batch in others {
            let fraction = sum(batch);
            let [current] = self.next_extension_interaction_mask(INTERACTION_TRACE_IDX, [0]);
            let difference = current - before;
            before = current;
            self.add_constraint(difference * fraction.denominator - fraction.numerator);
        }
        let fraction = sum(last);
        let [previous_row, current] = self.next_extension_interaction_mask(INTERACTION_TRACE_IDX, [-1, 0]);
        let shift = secure_words(self.shift);
        let shift = Secure(with(|graph| graph.secure_slot(shift, true)));
        let difference = current - previous_row - before + shift;
        self.add_constraint(difference * fraction.denominator - fraction.numerator);
        self.fractions.clear();
    }
}

impl EvalAtRow for Recorder {
    type F = Base;
    type EF = Secure;

    fn next_interaction_mask<const N: usize>(&mut self, interaction: usize, offsets: [isize; N]) -> [Base; N] {
        if self.next.len() <= interaction {
            self.next.resize(interaction + 1, 0);
        }
        let index = self.next[interaction];
        self.next[interaction] += 1;
        offsets.map(|offset| Base(with(|graph| graph.mask(interaction, index, offset as i32))))
    }

    fn add_constraint<G>(&mut self, constraint: G)
    where
        Self::EF: Mul<G, Output = Self::EF> + From<G>,
    {
        let id = Secure::from(constraint).0;
        with(|graph| graph.constraints.push(id));
    }

    fn combine_ef(values: [Base; SECURE_EXTENSION_DEGREE]) -> Secure {
        Secure(with(|graph| graph.combine(values.map(|value| value.0))))
    }

    fn write_logup_frac(&mut self, fraction: Fraction<Secure, Secure>) {
        self.fractions.push(fraction);
    }

    fn finalize_logup_batched(&mut self, batching: &Vec<usize>) {
        assert_eq!(batching.len(), self.fractions.len(), "one batch number per fraction");
        self.finalize(|index| batching[index]);
    }

    fn finalize_logup(&mut self) {
        self.finalize(|index| index);
    }

    fn finalize_logup_in_pairs(&mut self) {
        self.finalize(|index| index / 2);
    }
}

/// Records the constraints of `eval` with the values they have in this proof, on tables of 2^`log_size` rows.
pub(super) fn record<E: FrameworkEval>(eval: &E, claimed_sum: SecureField, log_size: u32) -> Graph {
    with(|graph| *graph = Graph::default());
    let shift = claimed_sum / BaseField::from_u32_unchecked(1 << log_size);
    eval.evaluate(Recorder { next: Vec::new(), fractions: Vec::new(), shift });
    with(std::mem::take)
}
