//! Property test: random AIRs whose traces do satisfy them, with columns that refer to neighbouring rows, a preprocessed
//! column and lookups, give the same proof on the device as with `SimdBackend`.

use crate::air::{proof_bytes, security};
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
use stwo::core::poly::circle::CanonicCoset;
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
use super::values::rng;

relation!(Triples, 3);

/// Free columns; each has the mask offsets -1, 0 and 1.
const FREE: usize = 3;
type Columns = Vec<Vec<BaseField>>;

/// A column that is `left * middle * right + constant`; operands are (column, offset), offsets only into free columns.
#[derive(Clone)]
struct Derived {
    operands: [(usize, usize); 3],
    constant: BaseField,
}

#[derive(Clone)]
struct LookupAir {
    log_size: u32,
    derived: Vec<Derived>,
    /// Column of the multiplicity, columns of the values.
    entries: Vec<(usize, [usize; 2])>,
    pairs: bool,
    relation: Triples,
}

impl LookupAir {
    fn new(rng: &mut StdRng, log_size: u32) -> Self {
        let derived = (0..rng.random_range(1..6))
            .map(|index| Derived {
                operands: std::array::from_fn(|_| {
                    let column = rng.random_range(0..FREE + index);
                    (column, if column < FREE { rng.random_range(0..3) } else { 1 })
                }),
                constant: BaseField::from_u32_unchecked(rng.random_range(0..P)),
            })
            .collect::<Vec<_>>();
        let columns = FREE + derived.len();
        let mut column = || rng.random_range(0..columns);
        let entries = (0..5).map(|_| (column(), [column(), column()])).collect::<Vec<_>>();
        let entries = entries[..1 + log_size as usize % 5].to_vec();
        Self { log_size, derived, entries, pairs: log_size.is_multiple_of(2), relation: Triples::dummy() }
    }

    /// The trace in the order of the coset, columns last derived last.
    fn trace(&self, rng: &mut StdRng) -> Columns {
        let rows = 1_usize << self.log_size;
        let mut columns: Columns = (0..FREE)
            .map(|_| (0..rows).map(|_| BaseField::from_u32_unchecked(rng.random_range(0..P))).collect())
            .collect();
        for derived in &self.derived {
            let at = |(column, offset): (usize, usize), row: usize| columns[column][(row + rows + offset - 1) % rows];
            let value = |row: usize| {
                let [a, b, c] = derived.operands;
                at(a, row) * at(b, row) * at(c, row) + derived.constant
            };
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
        let fixed = eval.get_preprocessed_column(PreProcessedColumnId { id: "fixed".to_owned() });
        let mut columns: Vec<[E::F; 3]> = (0..FREE).map(|_| eval.next_interaction_mask(1, [-1, 0, 1])).collect();
        for derived in &self.derived {
            let [a, b, c] = derived.operands.map(|(column, offset)| columns[column][offset].clone());
            let column = eval.next_trace_mask();
            let mut expected = a * b * c;
            expected += derived.constant;
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

/// Everything that a proof needs, and its claim.
struct Statement {
    air: LookupAir,
    trees: [Columns; 2],
    config: PcsConfig,
}

impl Statement {
    fn component(&self, channel: &mut Blake2sChannel) -> (FrameworkComponent<LookupAir>, Columns) {
        let relation = Triples::draw(channel);
        let air = LookupAir { relation, ..self.air.clone() };
        let (interaction, claimed) = air.interaction(&self.trees[1], &self.trees[0][0]);
        channel.mix_felts(&[claimed]);
        (FrameworkComponent::new(&mut TraceLocationAllocator::default(), air, claimed), interaction)
    }

    fn on_device(&self) -> Proof {
        let domain = CanonicCoset::new(self.air.log_size).circle_domain();
        let twiddles = OclBackend::precompute_twiddles(CanonicCoset::new(self.air.log_size + 1).half_coset());
        let upload = |columns: &Columns| {
            let evaluation = |column: &Vec<BaseField>| CircleEvaluation::new(domain, OclColumn::from_cpu(column));
            OclBackend::interpolate_columns(in_domain_order(columns).iter().map(evaluation).collect(), &twiddles)
        };
        let mut channel = Blake2sChannel::default();
        let mut scheme = Scheme::new(self.config, &twiddles);
        for tree in &self.trees {
            commit(&mut scheme, upload(tree), &mut channel);
        }
        let (component, interaction) = self.component(&mut channel);
        commit(&mut scheme, upload(&interaction), &mut channel);
        prove(&[&component as &dyn ComponentProver<OclBackend>], &mut channel, scheme).expect("a proof")
    }

    fn on_host(&self) -> Proof {
        let domain = CanonicCoset::new(self.air.log_size).circle_domain();
        let twiddles = SimdBackend::precompute_twiddles(CanonicCoset::new(self.air.log_size + 1).half_coset());
        let mut channel = Blake2sChannel::default();
        let mut scheme = CommitmentSchemeProver::<SimdBackend, Blake2sMerkleChannel>::new(self.config, &twiddles);
        let evaluations = |tree: &Columns| {
            let evaluation = |column: &Vec<BaseField>| CircleEvaluation::new(domain, BaseColumn::from_cpu(column));
            in_domain_order(tree).iter().map(evaluation).collect::<Vec<_>>()
        };
        for tree in &self.trees {
            let mut builder = scheme.tree_builder();
            builder.extend_evals(evaluations(tree));
            builder.commit(&mut channel);
        }
        let (component, interaction) = self.component(&mut channel);
        let mut builder = scheme.tree_builder();
        builder.extend_evals(evaluations(&interaction));
        builder.commit(&mut channel);
        stwo_prove(&[&component as &dyn ComponentProver<SimdBackend>], &mut channel, scheme).expect("a proof")
    }

    fn verify(&self, proof: &Proof) {
        let mut channel = Blake2sChannel::default();
        let mut scheme = CommitmentSchemeVerifier::<Blake2sMerkleChannel>::new(self.config);
        let sizes = |columns: &Columns| vec![self.air.log_size; columns.len()];
        for (index, tree) in self.trees.iter().enumerate() {
            scheme.commit(proof.commitments[index], &sizes(tree), &mut channel);
        }
        let (component, interaction) = self.component(&mut channel);
        scheme.commit(proof.commitments[2], &sizes(&interaction), &mut channel);
        verify(&[&component as &dyn Component], &mut channel, &mut scheme, proof.clone()).expect("accepted");
    }
}

pub(super) fn random_airs_with_lookups_give_the_simd_proof(on: &Context) {
    let runtime = on.runtime;
    runtime.set_strict(true);
    for seed in 0..if on.large() { 10 } else { 5 } {
        let mut rng = rng(500 + seed);
        let log_size = 5 + seed as u32;
        let air = LookupAir::new(&mut rng, log_size);
        let fixed = (0..1_u32 << log_size).map(|row| BaseField::from(row) + BaseField::one()).collect();
        let trace = air.trace(&mut rng);
        let statement = Statement { trees: [vec![fixed], trace], air, config: security(13).expect("known") };
        let proof = statement.on_device();
        statement.verify(&proof);
        let expected = statement.on_host();
        assert_eq!(proof_bytes(&proof).expect("bytes"), proof_bytes(&expected).expect("bytes"), "seed {seed}");
    }
}
