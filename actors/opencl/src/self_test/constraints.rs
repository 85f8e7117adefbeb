//! Constraints on the device against stwo's CPU evaluator: random AIRs on random columns, in every evaluation mode. The
//! columns need not satisfy anything; every value of the sum of constraints is compared.

use crate::OclBackend;
use crate::constraints::{Compile, set_compile_mode};
use rand::Rng;
use rand::rngs::StdRng;
use stwo::core::air::Component;
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::{Backend, Column, CpuBackend};
use stwo::prover::poly::circle::{CircleCoefficients, CircleEvaluation};
use stwo::prover::{ComponentProver, DomainEvaluationAccumulator, EvaluationMode, Poly, Trace};
use stwo_constraint_framework::preprocessed_columns::PreProcessedColumnId;
use stwo_constraint_framework::{
    EvalAtRow, FrameworkComponent, FrameworkEval, RelationEntry, TraceLocationAllocator, relation,
};

use super::values::{rng, secure_value};
use super::{Context, Size};

relation!(Pairs, 3);

/// What `evaluate` does, step by step; operands are chosen by remainder, so any numbers make a valid AIR.
#[derive(Clone, Copy)]
enum Step {
    Column(u8),
    Preprocessed,
    Add(usize, usize),
    Sub(usize, usize),
    Mul(usize, usize),
    Neg(usize),
    Scale(usize, u32),
    Shift(usize, u32),
    Constrain(usize),
    ConstrainSecure(usize, usize, u32),
    Lookup(usize, usize, usize),
}

#[derive(Clone)]
struct RandomAir {
    log_size: u32,
    degree_bits: u32,
    steps: Vec<Step>,
    lookup: Pairs,
    batches_of: usize,
    /// Stands for a value of the claim: it must not be part of a kernel.
    claim: u32,
}

impl RandomAir {
    fn new(rng: &mut StdRng, log_size: u32, degree_bits: u32, lookups: bool) -> Self {
        let mut steps = vec![Step::Column(0), Step::Column(1), Step::Column(2), Step::Column(3)];
        if rng.random() {
            steps.push(Step::Preprocessed);
        }
        for _ in 0..rng.random_range(5..60) {
            let (a, b) = (rng.random_range(0..1000), rng.random_range(0..1000));
            steps.push(match rng.random_range(0..12) {
                0 => Step::Column(rng.random_range(0..4)),
                1 | 2 => Step::Add(a, b),
                3 | 4 => Step::Sub(a, b),
                5 | 6 => Step::Mul(a, b),
                7 => Step::Neg(a),
                8 => Step::Scale(a, rng.random_range(0..1 << 30)),
                9 => Step::Shift(a, rng.random_range(0..4)),
                10 => Step::Constrain(a),
                _ => Step::ConstrainSecure(a, b, rng.random_range(0..1 << 30)),
            });
        }
        steps.push(Step::Constrain(999));
        if lookups {
            let count = rng.random_range(1..7);
            steps.extend((0..count).map(|_| {
                Step::Lookup(rng.random_range(0..1000), rng.random_range(0..1000), rng.random_range(0..1000))
            }));
        }
        Self {
            log_size,
            degree_bits,
            steps,
            lookup: Pairs::dummy(),
            batches_of: rng.random_range(1..4),
            claim: rng.random_range(0..1 << 30),
        }
    }
}

impl FrameworkEval for RandomAir {
    fn log_size(&self) -> u32 {
        self.log_size
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.log_size + self.degree_bits
    }

    fn evaluate<E: EvalAtRow>(&self, mut eval: E) -> E {
        let mut values: Vec<E::F> = Vec::new();
        let mut lookups = 0;
        for step in &self.steps {
            let at = |index: usize| values[index % values.len()].clone();
            let constant = BaseField::from_u32_unchecked;
            let new: Vec<E::F> = match *step {
                Step::Column(0) => vec![eval.next_trace_mask()],
                Step::Column(1) => eval.next_interaction_mask(1, [0, 1]).to_vec(),
                Step::Column(2) => eval.next_interaction_mask(1, [-1, 0, 2]).to_vec(),
                Step::Column(_) => eval.next_interaction_mask(1, [3, -2]).to_vec(),
                Step::Preprocessed => vec![eval.get_preprocessed_column(PreProcessedColumnId { id: "p".to_owned() })],
                Step::Add(a, b) => vec![at(a) + at(b)],
                Step::Sub(a, b) => vec![at(a) - at(b)],
                Step::Mul(a, b) => vec![at(a) * at(b)],
                Step::Neg(a) => vec![-at(a)],
                Step::Scale(a, c) => vec![at(a) * constant(c)],
                Step::Shift(a, c) => {
                    let mut value = at(a);
                    value += constant(c);
                    value += E::F::from(constant(self.claim));
                    vec![value]
                }
                Step::Constrain(a) => {
                    eval.add_constraint(at(a));
                    vec![]
                }
                Step::ConstrainSecure(a, b, c) => {
                    let secure = SecureField::from_u32_unchecked(c, 1, self.claim, 3);
                    let product = E::EF::from(at(b)) * E::EF::from(at(a));
                    let value = at(a) * secure + product - E::EF::from(secure) * constant(c);
                    eval.add_constraint((value.clone() * value) * at(b) + secure);
                    vec![]
                }
                Step::Lookup(a, b, c) => {
                    let multiplicity = E::EF::from(at(c));
                    eval.add_to_relation(RelationEntry::new(&self.lookup, multiplicity, &[at(a), at(b)]));
                    lookups += 1;
                    vec![]
                }
            };
            values.extend(new);
        }
        match (lookups, self.batches_of) {
            (0, _) => {}
            (_, 1) => eval.finalize_logup(),
            (_, 2) => eval.finalize_logup_in_pairs(),
            (count, size) => eval.finalize_logup_batched(&(0..count).map(|index| index / size).collect()),
        }
        eval
    }
}

/// Sum of constraints as coefficients.
fn composition<B: Backend>(
    component: &FrameworkComponent<RandomAir>,
    columns: &[Vec<Vec<BaseField>>],
    blowup: u32,
    mode: EvaluationMode,
    alpha: SecureField,
) -> Vec<Vec<BaseField>>
where
    FrameworkComponent<RandomAir>: ComponentProver<B>,
{
    let log_size = component.log_size();
    let bound = component.max_constraint_log_degree_bound();
    let largest = (bound + 1).max(log_size + blowup + 1);
    let twiddles = B::precompute_twiddles(CanonicCoset::new(largest).half_coset());
    let domain = CanonicCoset::new(log_size + blowup).circle_domain();
    let polys: Vec<Vec<Poly<B>>> = columns
        .iter()
        .map(|tree| {
            let poly = |values: &Vec<BaseField>| {
                let coefficients = CircleCoefficients::<B>::new(values.iter().copied().collect());
                let evals: CircleEvaluation<B, _, _> = coefficients.evaluate_with_twiddles(domain, &twiddles);
                Poly::new(Some(coefficients), evals)
            };
            tree.iter().map(poly).collect()
        })
        .collect();
    let trace = Trace { polys: TreeVec(polys.iter().map(|tree| tree.iter().collect()).collect()) };
    let mut accumulator = DomainEvaluationAccumulator::<B>::new(alpha, bound, component.n_constraints(), mode);
    component.evaluate_constraint_quotients_on_domain(&trace, &mut accumulator);
    accumulator.finalize(&twiddles).into_coordinate_polys().map(|poly| poly.coeffs.to_cpu()).to_vec()
}

fn component(air: &RandomAir, claimed_sum: SecureField) -> FrameworkComponent<RandomAir> {
    FrameworkComponent::new(&mut TraceLocationAllocator::default(), air.clone(), claimed_sum)
}

fn random_columns(rng: &mut StdRng, component: &FrameworkComponent<RandomAir>) -> Vec<Vec<Vec<BaseField>>> {
    let bounds = component.trace_log_degree_bounds();
    let column =
        |rng: &mut StdRng, log: u32| (0..1 << log).map(|_| BaseField::from(rng.random_range(0..1_u32 << 31))).collect();
    bounds.iter().map(|tree| tree.iter().map(|log| column(rng, *log)).collect()).collect()
}

fn check(rng: &mut StdRng, air: &RandomAir, blowup: u32, mode: EvaluationMode, name: &str) {
    let component = component(air, secure_value(rng));
    let columns = random_columns(rng, &component);
    let alpha = secure_value(rng);
    let expected = composition::<CpuBackend>(&component, &columns, blowup, mode, alpha);
    let result = composition::<OclBackend>(&component, &columns, blowup, mode, alpha);
    assert!(result == expected, "{name}, 2^{} rows, {mode:?}", air.log_size);
}

pub(super) fn random_constraints_have_the_cpu_values(on: &Context) {
    let runtime = on.runtime;
    runtime.set_strict(true);
    let seeds = match on.size {
        Size::Tiny => 1,
        Size::Small => 8,
        Size::Large => 40,
    };
    for seed in 0..seeds {
        let mut rng = rng(100 + seed);
        let log_size = [4, 5, 7, 9][seed as usize % 4];
        let air = RandomAir::new(&mut rng, log_size, 1 + u32::from(seed % 3 == 2), seed % 2 == 1);
        let name = format!("seed {seed}");
        check(&mut rng, &air, air.degree_bits, EvaluationMode::SubDomain { log_expansion: 0 }, &name);
        check(&mut rng, &air, air.degree_bits + 1, EvaluationMode::SubDomain { log_expansion: 1 }, &name);
        check(&mut rng, &air, 1, EvaluationMode::ExtendToEvalDomain, &name);
    }
}

pub(super) fn another_program_compiles_nothing(on: &Context) {
    let runtime = on.runtime;
    let mut rng = rng(200);
    let air = RandomAir::new(&mut rng, 5, 1, true);
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "first");
    let report = runtime.cache_report();
    // Another size, another claim, other randomness, another claimed sum.
    for (log_size, claim) in [(6, 17), (8, 1 << 29), (5, 4711)] {
        let other = RandomAir { log_size, claim, ..air.clone() };
        check(&mut rng, &other, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "other");
    }
    assert_eq!(runtime.cache_report(), report);
}

pub(super) fn many_constraints_are_split(on: &Context) {
    let runtime = on.runtime;
    runtime.set_strict(true);
    let mut rng = rng(300);
    let mut air = RandomAir::new(&mut rng, 5, 1, false);
    // Eight values, then two for each constraint.
    air.steps = vec![Step::Column(0), Step::Column(1), Step::Column(2), Step::Column(3)];
    for k in 0..700 {
        air.steps.push(Step::Shift(k % 8, k as u32 + 2));
        air.steps.push(Step::Mul(8 + 2 * k, (k + 3) % 8));
        air.steps.push(Step::Constrain(9 + 2 * k));
    }
    // The first time they are also compared with the host.
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "many");
    let before = runtime.counters();
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "many");
    let whole = runtime.counters().since(&before).kernels;
    air.steps.truncate(4 + 3);
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "one");
    let before = runtime.counters();
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "one");
    assert_eq!(whole, runtime.counters().since(&before).kernels + 1, "two kernels instead of one");
}

pub(super) fn without_a_kernel_the_host_evaluates_and_says_so(on: &Context) {
    let runtime = on.runtime;
    let mut rng = rng(400);
    let air = RandomAir::new(&mut rng, 4, 1, true);
    set_compile_mode(Compile::Background);
    let before = runtime.counters();
    check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "on the host");
    assert_eq!(runtime.counters().since(&before).host_fallbacks, 1);
    // The kernel appears by itself.
    for _ in 0..600 {
        let before = runtime.counters();
        check(&mut rng, &air, 1, EvaluationMode::SubDomain { log_expansion: 0 }, "either");
        if runtime.counters().since(&before).host_fallbacks == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the kernel never became ready");
}
