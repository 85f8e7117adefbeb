//! Evaluates the constraints of the Cairo AIR for the prover: the composition polynomial's values, in a third of the time
//! that the library's own evaluator takes, and to the same numbers.
//!
//! The library leaves its field operations closed to inlining by other crates and allocates at every row; constraints are
//! two fifths of a proof. [`provers`] wraps the library's components: what a proof says and what is committed to is
//! unchanged, only who computes it. The components' formulas stay the library's.
//!
//! A crate of its own because sixty components take long to compile and depend on nothing of ours.

#[cfg(test)]
mod tests;

mod field;
mod lanes;
mod row;

use cairo_air::cairo_components::CairoComponents;
use rayon::prelude::*;
use stwo::core::ColumnVec;
use stwo::core::air::Component;
use stwo::core::air::accumulation::PointEvaluationAccumulator;
use stwo::core::circle::CirclePoint;
use stwo::core::constraints::coset_vanishing;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::simd::m31::{LOG_N_LANES, PackedBaseField};
use stwo::prover::{ColumnAccumulator, ComponentProver, DomainEvaluationAccumulator, EvaluationMode, Trace};
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval, PREPROCESSED_TRACE_IDX};

use crate::field::Base;
use crate::row::{Row, TREES, Table, shift};

/// Tables shorter than this, as a power of two, are left to the library: they take no time.
const TRACE_LOG_MIN: u32 = 6;
/// Vectors of sixteen rows that a thread takes at once.
const CHUNK: usize = 64;

/// A component whose constraints are evaluated here.
type Prover<'a> = Box<dyn ComponentProver<SimdBackend> + 'a>;

/// Is shown the components of a proof one by one, each with its own type.
pub trait Visitor<'a> {
    /// A component that proofs of this system may have, by the name of its field.
    fn visit<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>);

    /// A component of layouts and tables that this proof system does not allow.
    fn visit_other<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>);
}

/// Hands the fields of the library's components on to a macro, in the order of the library's lists, with the visitor's
/// method that each is for.
macro_rules! with_components {
    ($use:ident) => {
        $use! {
            visit: add_opcode add_opcode_small add_ap_opcode assert_eq_opcode assert_eq_opcode_imm
                assert_eq_opcode_double_deref blake_compress_opcode call_opcode_abs call_opcode_rel_imm generic_opcode
                jnz_opcode_non_taken jnz_opcode_taken jump_opcode_abs jump_opcode_double_deref jump_opcode_rel
                jump_opcode_rel_imm mul_opcode mul_opcode_small qm_31_add_mul_opcode ret_opcode verify_instruction
                blake_round blake_g blake_round_sigma triple_xor_32 verify_bitwise_xor_12 add_mod_builtin
                bitwise_builtin mul_mod_builtin;
            visit_other: pedersen_builtin;
            visit: pedersen_builtin_narrow_windows poseidon_builtin range_check96_builtin range_check_builtin;
            visit_other: ec_op_builtin partial_ec_mul_generic pedersen_aggregator_window_bits_18
                partial_ec_mul_window_bits_18 pedersen_points_table_window_bits_18;
            visit: pedersen_aggregator_window_bits_9 partial_ec_mul_window_bits_9
                pedersen_points_table_window_bits_9 poseidon_aggregator poseidon_3_partial_rounds_chain
                poseidon_full_round_chain cube_252 poseidon_round_keys range_check_252_width_27 memory_address_to_id
                memory_id_to_big memory_id_to_small range_check_6 range_check_8 range_check_11 range_check_12
                range_check_18 range_check_20 range_check_4_3 range_check_4_4 range_check_9_9 range_check_7_2_5
                range_check_3_6_6_3 range_check_4_4_4_4 range_check_3_3_3_3_3 verify_bitwise_xor_4
                verify_bitwise_xor_7 verify_bitwise_xor_8 verify_bitwise_xor_9;
        }
    };
}

macro_rules! names {
    ($($method:ident: $($component:ident)*;)*) => {
        &[$($(stringify!($component),)*)*]
    };
}

/// Every component there is, by the name of its field in the library's claims and components.
pub const NAMES: &[&str] = with_components!(names);

/// Shows the components that are there to `visitor`, in the order of the library's lists.
pub fn visit<'a>(components: &'a CairoComponents, visitor: &mut impl Visitor<'a>) {
    macro_rules! show {
        ($($method:ident: $($component:ident)*;)*) => {
            $($(for component in components.$component.iter() {
                visitor.$method(stringify!($component), component);
            })*)*
        };
    }
    with_components!(show);
}

/// Wraps each component together with the library's prover of it.
struct Wrap<'a> {
    stock: std::vec::IntoIter<&'a dyn ComponentProver<SimdBackend>>,
    all: Vec<Prover<'a>>,
    short: bool,
}

impl<'a> Wrap<'a> {
    fn add(&mut self, wrap: impl FnOnce(&'a dyn ComponentProver<SimdBackend>) -> Prover<'a>) {
        match self.stock.next() {
            Some(stock) => self.all.push(wrap(stock)),
            None => self.short = true,
        }
    }
}

impl<'a> Visitor<'a> for Wrap<'a> {
    fn visit<E: FrameworkEval + Sync>(&mut self, _name: &'static str, component: &'a FrameworkComponent<E>) {
        self.add(|stock| Box::new(Fast { component, stock }));
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, _name: &'static str, _component: &'a FrameworkComponent<E>) {
        self.add(|stock| Box::new(Stock(stock)));
    }
}

/// The provers of all components that are there, in the order of `stock`, which is the library's list of the same; `None`
/// when it is not.
pub fn provers<'a>(
    components: &'a CairoComponents,
    stock: Vec<&'a dyn ComponentProver<SimdBackend>>,
) -> Option<Vec<Prover<'a>>> {
    let mut wrap = Wrap { all: Vec::with_capacity(stock.len()), stock: stock.into_iter(), short: false };
    visit(components, &mut wrap);
    (!wrap.short && wrap.stock.next().is_none()).then_some(wrap.all)
}

struct Fast<'a, E: FrameworkEval> {
    component: &'a FrameworkComponent<E>,
    stock: &'a dyn ComponentProver<SimdBackend>,
}

struct Stock<'a>(&'a dyn ComponentProver<SimdBackend>);

/// Everything that the verifier computes, too, is the library's.
macro_rules! component_of {
    ($stock:ident => $of:expr) => {
        fn n_constraints(&self) -> usize {
            let $stock = self;
            $of.n_constraints()
        }

        fn max_constraint_log_degree_bound(&self) -> u32 {
            let $stock = self;
            $of.max_constraint_log_degree_bound()
        }

        fn trace_log_degree_bounds(&self) -> TreeVec<ColumnVec<u32>> {
            let $stock = self;
            $of.trace_log_degree_bounds()
        }

        fn mask_points(
            &self,
            point: CirclePoint<SecureField>,
            max_log_degree_bound: u32,
        ) -> TreeVec<ColumnVec<Vec<CirclePoint<SecureField>>>> {
            let $stock = self;
            $of.mask_points(point, max_log_degree_bound)
        }

        fn preprocessed_column_indices(&self) -> ColumnVec<usize> {
            let $stock = self;
            $of.preprocessed_column_indices()
        }

        fn evaluate_constraint_quotients_at_point(
            &self,
            point: CirclePoint<SecureField>,
            mask: &TreeVec<ColumnVec<Vec<SecureField>>>,
            accumulator: &mut PointEvaluationAccumulator,
            max_log_degree_bound: u32,
        ) {
            let $stock = self;
            $of.evaluate_constraint_quotients_at_point(point, mask, accumulator, max_log_degree_bound);
        }
    };
}

impl<E: FrameworkEval> Component for Fast<'_, E> {
    component_of!(this => this.stock);
}

impl Component for Stock<'_> {
    component_of!(this => this.0);
}

impl ComponentProver<SimdBackend> for Stock<'_> {
    fn evaluate_constraint_quotients_on_domain(
        &self,
        trace: &Trace<'_, SimdBackend>,
        accumulator: &mut DomainEvaluationAccumulator<SimdBackend>,
    ) {
        self.0.evaluate_constraint_quotients_on_domain(trace, accumulator);
    }
}

impl<E: FrameworkEval + Sync> ComponentProver<SimdBackend> for Fast<'_, E> {
    fn evaluate_constraint_quotients_on_domain(
        &self,
        trace: &Trace<'_, SimdBackend>,
        accumulator: &mut DomainEvaluationAccumulator<SimdBackend>,
    ) {
        let component = self.component;
        let (trace_log, domain_log) = (component.log_size(), component.max_constraint_log_degree_bound());
        let committed = matches!(accumulator.evaluation_mode(), EvaluationMode::SubDomain { log_expansion: 0 });
        if !committed || component.is_disabled() || trace_log < TRACE_LOG_MIN || domain_log != trace_log + 1 {
            return self.stock.evaluate_constraint_quotients_on_domain(trace, accumulator);
        }
        let [mut sums] = accumulator.columns([(domain_log, component.n_constraints())]);
        // The verifier's first constraint has the highest power.
        sums.random_coeff_powers.reverse();
        let powers = std::mem::take(&mut sums.random_coeff_powers);
        let table = Table {
            columns: columns(component, trace),
            powers: &powers,
            shift: shift(component.claimed_sum(), trace_log),
            trace_log,
            domain_log,
        };
        add_quotients(component, &table, &mut sums);
    }
}

/// A component's columns as they were committed to, which is on the evaluation domain.
fn columns<'a, E: FrameworkEval>(
    component: &FrameworkComponent<E>,
    trace: &'a Trace<'_, SimdBackend>,
) -> [Vec<&'a [PackedBaseField]>; TREES] {
    let mut columns: [Vec<&[PackedBaseField]>; TREES] = Default::default();
    for location in component.trace_locations() {
        let tree = &trace.polys[location.tree_index];
        columns[location.tree_index] =
            tree[location.col_start..location.col_end].iter().map(|poly| poly.evals.values.data.as_slice()).collect();
    }
    let preprocessed = &trace.polys[PREPROCESSED_TRACE_IDX];
    columns[PREPROCESSED_TRACE_IDX] = component
        .preprocessed_column_indices()
        .iter()
        .map(|index| preprocessed[*index].evals.values.data.as_slice())
        .collect();
    columns
}

/// Adds the component's constraints, combined and divided by the vanishing polynomial of its trace, to `sums`.
fn add_quotients<E: FrameworkEval + Sync>(
    component: &FrameworkComponent<E>,
    table: &Table<'_>,
    sums: &mut ColumnAccumulator<'_, SimdBackend>,
) {
    let domain = CanonicCoset::new(table.domain_log).circle_domain();
    let trace_coset = CanonicCoset::new(table.trace_log).coset();
    // The domain is twice as long as the trace, so the vanishing polynomial has one value on each of its halves.
    let inverses = [0, 1].map(|half| coset_vanishing(trace_coset, domain.at(half)).inverse());
    let half_log = table.trace_log - LOG_N_LANES;
    let eval: &E = component;
    let [first, second, third, fourth] = &mut sums.col.columns;
    first
        .data
        .par_chunks_mut(CHUNK)
        .zip(second.data.par_chunks_mut(CHUNK))
        .zip(third.data.par_chunks_mut(CHUNK))
        .zip(fourth.data.par_chunks_mut(CHUNK))
        .enumerate()
        .for_each(|(chunk, (((first, second), third), fourth))| {
            let mut lookups = Vec::new();
            for at in 0..first.len() {
                let index = chunk * CHUNK + at;
                let row = eval.evaluate(Row::new(table, index, lookups));
                let quotient = row.sum * Base::from(inverses[index >> half_log]);
                lookups = row.lookups;
                for (column, value) in [&mut *first, second, third, fourth].into_iter().zip(quotient.0) {
                    column[at] += value.0;
                }
            }
        });
}
