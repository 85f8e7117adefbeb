//! Property test: random AIRs whose traces do satisfy them, of several components of different sizes with random constraint
//! expressions, columns that refer to neighbouring rows, preprocessed columns and lookups, give the same proof on the device
//! as with `SimdBackend`.

use std::ops::{Add, Mul, Neg, Sub};
use std::time::{Duration, Instant};

use crate::air::{proof_bytes, security};
use crate::constraints::Ahead;
use crate::prove::{Proof, Scheme, commit, prove};
use crate::{OclBackend, OclColumn};
use num_traits::{One, Zero};
use rand::Rng;
use rand::rngs::StdRng;
use stwo::core::air::Component;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::{CommitmentSchemeVerifier, PcsConfig};
use stwo::core::poly::circle::{CanonicCoset, CircleDomain};
use stwo::core::utils::bit_reverse_coset_to_circle_domain_order;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::core::verifier::verify;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::backend::simd::column::BaseColumn;
use stwo::prover::poly::circle::{CircleEvaluation, PolyOps};
use stwo::prover::{CommitmentSchemeProver, ComponentProver, prove as stwo_prove};
use stwo_constraint_framework::preprocessed_columns::PreProcessedColumnId;
use stwo_constraint_framework::{
    EvalAtRow, FrameworkComponent, FrameworkEval, Relation, RelationEntry, TraceLocationAllocator, relation,
};

use super::Context;
use super::values::{base_values, rng};

relation!(Triples, 3);

/// Free columns; each has the mask offsets -1, 0 and 1.
const FREE: usize = 3;
/// Degree of a constraint at most: the quotient by the vanishing polynomial then fits the blow-up.
const DEGREE_MAX: u32 = 3;
type Columns = Vec<Vec<BaseField>>;

/// A step of an expression; operands are earlier steps.
#[derive(Clone, Copy)]
enum Step {
    /// A column at an offset plus one; offsets only into free columns.
    Column(usize, usize),
    Constant(BaseField),
    Add(usize, usize),
    Sub(usize, usize),
    Mul(usize, usize),
    Neg(usize),
}

/// A column that is the value of a random expression.
#[derive(Clone)]
struct Derived(Vec<Step>);

impl Derived {
    /// An expression over the first `columns` columns.
    fn new(rng: &mut StdRng, columns: usize) -> Self {
        let mut steps: Vec<(Step, u32)> = Vec::new();
        for _ in 0..rng.random_range(3..25) {
            let column = rng.random_range(0..columns);
            let leaf = Step::Column(column, if column < FREE { rng.random_range(0..3) } else { 1 });
            let known = steps.len();
            let mut operand = || rng.random_range(0..known.max(1));
            let (a, b) = (operand(), operand());
            let degree = |at: usize| steps.get(at).map_or(0, |step| step.1);
            let constant = BaseField::from_u32_unchecked([0, 1, P - 1, rng.random_range(0..P)][rng.random_range(0..4)]);
            let next = match rng.random_range(0..8) {
                0 if known > 0 => (Step::Add(a, b), degree(a).max(degree(b))),
                1 if known > 0 => (Step::Sub(a, b), degree(a).max(degree(b))),
                2 if known > 0 => (Step::Neg(a), degree(a)),
                3 => (Step::Constant(constant), 0),
                4..=6 if known > 0 && degree(a) + degree(b) <= DEGREE_MAX => (Step::Mul(a, b), degree(a) + degree(b)),
                _ => (leaf, 1),
            };
            steps.push(next);
        }
        Self(steps.into_iter().map(|(step, _)| step).collect())
    }

    /// Its value, given that of a column at an offset plus one.
    fn value<F>(&self, column: impl Fn(usize, usize) -> F) -> F
    where
        F: Clone + From<BaseField> + Add<Output = F> + Sub<Output = F> + Mul<Output = F> + Neg<Output = F>,
    {
        let mut values: Vec<F> = Vec::with_capacity(self.0.len());
        for step in &self.0 {
            let at = |index: usize| values[index].clone();
            let value = match *step {
                Step::Column(number, offset) => column(number, offset),
                Step::Constant(value) => F::from(value),
                Step::Add(a, b) => at(a) + at(b),
                Step::Sub(a, b) => at(a) - at(b),
                Step::Mul(a, b) => at(a) * at(b),
                Step::Neg(a) => -at(a),
            };
            values.push(value);
        }
        values.pop().unwrap_or_else(|| F::from(BaseField::zero()))
    }
}

#[derive(Clone)]
struct LookupAir {
    log_size: u32,
    /// Number of its component, and of its fixed column.
    number: usize,
    derived: Vec<Derived>,
    /// Column of the multiplicity, columns of the values.
    entries: Vec<(usize, [usize; 2])>,
    pairs: bool,
    relation: Triples,
}

impl LookupAir {
    fn new(rng: &mut StdRng, number: usize, log_size: u32) -> Self {
        let derived: Vec<Derived> = (0..rng.random_range(1..6)).map(|index| Derived::new(rng, FREE + index)).collect();
        let columns = FREE + derived.len();
        let count = rng.random_range(1..6);
        let mut column = || rng.random_range(0..columns);
        let entries = (0..count).map(|_| (column(), [column(), column()])).collect();
        Self { log_size, number, derived, entries, pairs: rng.random(), relation: Triples::dummy() }
    }

    fn fixed_id(&self) -> PreProcessedColumnId {
        PreProcessedColumnId { id: format!("fixed {}", self.number) }
    }

    /// The trace in the order of the coset, columns last derived last.
    fn trace(&self, rng: &mut StdRng) -> Columns {
        let rows = 1_usize << self.log_size;
        let mut columns: Columns = (0..FREE).map(|_| base_values(rng, rows)).collect();
        for derived in &self.derived {
            let value = |row: usize| derived.value(|column, offset| columns[column][(row + rows + offset - 1) % rows]);
            let column = (0..rows).map(value).collect();
            columns.push(column);
        }
        columns
    }

    /// The cumulative columns in the order of the coset, and the claimed sum.
    fn interaction(&self, trace: &Columns, preprocessed: &[BaseField]) -> (Columns, SecureField) {
        let rows = 1_usize << self.log_size;
        let batch = if self.pairs { 2 } else { 1 };
        let mut sums = vec![SecureField::zero(); rows];
        let mut secure: Vec<Vec<SecureField>> = Vec::new();
        for entries in self.entries.chunks(batch) {
            for (row, sum) in sums.iter_mut().enumerate() {
                for (multiplicity, [a, b]) in entries {
                    let values = [trace[*a][row], trace[*b][row], preprocessed[row]];
                    let denominator: SecureField = self.relation.combine(&values);
                    *sum += SecureField::from(trace[*multiplicity][row]) / denominator;
                }
            }
            secure.push(sums.clone());
        }
        let claimed: SecureField = sums.iter().copied().sum();
        let shift = claimed / BaseField::from_u32_unchecked(rows as u32);
        if let Some(last) = secure.last_mut() {
            let mut sum = SecureField::zero();
            for value in last {
                sum += *value - shift;
                *value = sum;
            }
        }
        let columns = secure
            .iter()
            .flat_map(|column| (0..4).map(move |k| column.iter().map(|value| value.to_m31_array()[k]).collect()))
            .collect();
        (columns, claimed)
    }
}

impl FrameworkEval for LookupAir {
    fn log_size(&self) -> u32 {
        self.log_size
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.log_size + 1
    }

    fn evaluate<E: EvalAtRow>(&self, mut eval: E) -> E {
        let fixed = eval.get_preprocessed_column(self.fixed_id());
        let mut columns: Vec<[E::F; 3]> = (0..FREE).map(|_| eval.next_interaction_mask(1, [-1, 0, 1])).collect();
        for derived in &self.derived {
            let expected = derived.value(|column, offset| columns[column][offset].clone());
            let column = eval.next_trace_mask();
            eval.add_constraint(column.clone() - expected);
            columns.push([column.clone(), column.clone(), column]);
        }
        for (multiplicity, [a, b]) in &self.entries {
            let values = [columns[*a][1].clone(), columns[*b][1].clone(), fixed.clone()];
            let multiplicity = E::EF::from(columns[*multiplicity][1].clone());
            eval.add_to_relation(RelationEntry::new(&self.relation, multiplicity, &values));
        }
        if self.pairs {
            eval.finalize_logup_in_pairs();
        } else {
            eval.finalize_logup();
        }
        eval
    }
}

/// Columns in the order of the coset as stwo commits them.
fn in_domain_order(columns: &Columns) -> Columns {
    let reversed = |column: &Vec<BaseField>| {
        let mut values = column.clone();
        bit_reverse_coset_to_circle_domain_order(&mut values);
        values
    };
    columns.iter().map(reversed).collect()
}

/// A component: its constraints, its fixed column, its trace.
struct Part {
    air: LookupAir,
    fixed: Vec<BaseField>,
    trace: Columns,
}

/// Everything that a proof needs, and its claim.
struct Statement {
    parts: Vec<Part>,
    config: PcsConfig,
}

impl Statement {
    fn new(rng: &mut StdRng, log_sizes: &[u32]) -> Self {
        let part = |(number, log_size): (usize, &u32)| {
            let air = LookupAir::new(rng, number, *log_size);
            let fixed =
                (0..1_u32 << log_size).map(|row| BaseField::from(row + number as u32) + BaseField::one()).collect();
            let trace = air.trace(rng);
            Part { air, fixed, trace }
        };
        Self { parts: log_sizes.iter().enumerate().map(part).collect(), config: security(13).expect("known") }
    }

    /// The first two trees.
    fn trees(&self) -> [Columns; 2] {
        let fixed = self.parts.iter().map(|part| part.fixed.clone()).collect();
        [fixed, self.parts.iter().flat_map(|part| part.trace.clone()).collect()]
    }

    fn components(&self, channel: &mut Blake2sChannel) -> (Vec<FrameworkComponent<LookupAir>>, Columns) {
        let relation = Triples::draw(channel);
        let ids: Vec<PreProcessedColumnId> = self.parts.iter().map(|part| part.air.fixed_id()).collect();
        let mut places = TraceLocationAllocator::new_with_preprocessed_columns(&ids);
        let mut interaction = Columns::new();
        let components = self.parts.iter().map(|part| {
            let air = LookupAir { relation: relation.clone(), ..part.air.clone() };
            let (columns, claimed) = air.interaction(&part.trace, &part.fixed);
            interaction.extend(columns);
            channel.mix_felts(&[claimed]);
            FrameworkComponent::new(&mut places, air, claimed)
        });
        (components.collect(), interaction)
    }

    fn log_twiddles(&self) -> u32 {
        self.parts.iter().map(|part| part.air.log_size + 1).max().expect("a component")
    }

    fn on_device(&self) -> Proof {
        let twiddles = OclBackend::precompute_twiddles(CanonicCoset::new(self.log_twiddles()).half_coset());
        let upload = |columns: &Columns| {
            let evaluation =
                |column: &Vec<BaseField>| CircleEvaluation::new(domain_of(column), OclColumn::from_cpu(column));
            OclBackend::interpolate_columns(in_domain_order(columns).iter().map(evaluation).collect(), &twiddles)
        };
        let mut channel = Blake2sChannel::default();
        let mut scheme = Scheme::new(self.config, &twiddles);
        for tree in &self.trees() {
            commit(&mut scheme, upload(tree), &mut channel);
        }
        let (components, interaction) = self.components(&mut channel);
        commit(&mut scheme, upload(&interaction), &mut channel);
        // As Cairo's components are: recorded ahead of their evaluation.
        let ahead: Vec<_> = components.iter().map(Ahead::new).collect();
        ahead.iter().filter_map(Ahead::wanted).for_each(|constraints| constraints.record_ahead());
        let provers: Vec<_> = ahead.iter().map(|component| component as &dyn ComponentProver<OclBackend>).collect();
        prove(&provers, &mut channel, scheme).expect("a proof")
    }

    fn on_host(&self) -> Proof {
        let twiddles = SimdBackend::precompute_twiddles(CanonicCoset::new(self.log_twiddles()).half_coset());
        let mut channel = Blake2sChannel::default();
        let mut scheme = CommitmentSchemeProver::<SimdBackend, Blake2sMerkleChannel>::new(self.config, &twiddles);
        let evaluations = |tree: &Columns| {
            let evaluation =
                |column: &Vec<BaseField>| CircleEvaluation::new(domain_of(column), BaseColumn::from_cpu(column));
            in_domain_order(tree).iter().map(evaluation).collect::<Vec<_>>()
        };
        for tree in &self.trees() {
            let mut builder = scheme.tree_builder();
            builder.extend_evals(evaluations(tree));
            builder.commit(&mut channel);
        }
        let (components, interaction) = self.components(&mut channel);
        let mut builder = scheme.tree_builder();
        builder.extend_evals(evaluations(&interaction));
        builder.commit(&mut channel);
        let provers: Vec<_> =
            components.iter().map(|component| component as &dyn ComponentProver<SimdBackend>).collect();
        stwo_prove(&provers, &mut channel, scheme).expect("a proof")
    }

    fn verify(&self, proof: &Proof) {
        let mut channel = Blake2sChannel::default();
        let mut scheme = CommitmentSchemeVerifier::<Blake2sMerkleChannel>::new(self.config);
        let sizes = |columns: &Columns| columns.iter().map(|column| column.len().ilog2()).collect::<Vec<_>>();
        for (index, tree) in self.trees().iter().enumerate() {
            scheme.commit(proof.commitments[index], &sizes(tree), &mut channel);
        }
        let (components, interaction) = self.components(&mut channel);
        scheme.commit(proof.commitments[2], &sizes(&interaction), &mut channel);
        let components: Vec<_> = components.iter().map(|component| component as &dyn Component).collect();
        verify(&components, &mut channel, &mut scheme, proof.clone()).expect("accepted");
    }
}

fn domain_of(column: &[BaseField]) -> CircleDomain {
    CanonicCoset::new(column.len().ilog2()).circle_domain()
}

/// Components' sizes of the first proofs; later ones are random.
const SIZES: &[&[u32]] = &[&[5], &[6, 6], &[9, 5, 7], &[4, 10]];

/// How many proofs at most, and the time after which no further one is begun.
fn budget(on: &Context) -> (u64, Duration) {
    if on.large() { (60, Duration::from_secs(90)) } else { (8, Duration::from_secs(20)) }
}

pub(super) fn random_airs_with_lookups_give_the_simd_proof(on: &Context) {
    let runtime = on.runtime;
    let (seeds, time) = budget(on);
    let start = Instant::now();
    for seed in 0..seeds {
        if seed >= SIZES.len() as u64 && start.elapsed() > time {
            break;
        }
        let mut rng = rng(500 + seed);
        let sizes = match SIZES.get(seed as usize) {
            Some(sizes) => sizes.to_vec(),
            None => (0..rng.random_range(1..5)).map(|_| rng.random_range(4..12)).collect(),
        };
        let statement = Statement::new(&mut rng, &sizes);
        runtime.set_strict(true);
        let proof = statement.on_device();
        runtime.set_strict(false);
        statement.verify(&proof);
        let expected = statement.on_host();
        let same = proof_bytes(&proof).expect("bytes") == proof_bytes(&expected).expect("bytes");
        assert!(same, "seed {seed}, sizes {sizes:?}: valid, but not the host's proof");
    }
}
