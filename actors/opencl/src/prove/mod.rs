//! The prove function: stwo's protocol step for step, with the device waited for only where the transcript needs a value
//! (roots, sampled values, the last FRI layer, the nonce) and once for everything that is opened. Emits stwo's own
//! `StarkProof`. The commitment scheme is filled by [`commit`] or by stwo's own tree builder.

pub mod estimate;
mod fri;
mod opening;
mod samples;

use stwo::core::channel::{Blake2sChannel, Channel, MerkleChannel};
use stwo::core::circle::CirclePoint;
use stwo::core::fields::qm31::{SECURE_EXTENSION_DEGREE, SecureField};
use stwo::core::pcs::quotients::CommitmentSchemeProof;
use stwo::core::pcs::utils::{get_lifting_log_size, prepare_preprocessed_query_positions};
use stwo::core::pcs::{PcsConfig, TreeVec};
use stwo::core::proof::StarkProof;
use stwo::core::proof_of_work::GrindOps;
use stwo::core::queries::{Queries, draw_queries};
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs_lifted::blake2_merkle::{Blake2sMerkleChannel, Blake2sMerkleHasher};
use stwo::core::verifier::PREPROCESSED_TRACE_IDX;
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::pcs::quotient_ops::compute_fri_quotients;
use stwo::prover::poly::circle::{CircleCoefficients, PolyOps};
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::{CommitmentSchemeProver, CommitmentTreeProver, ComponentProver, ComponentProvers};

use self::fri::FriLayers;
use self::opening::{Openings, TreeOpening};
use self::samples::sample_columns;
use crate::backend::{OclBackend, tree_of};
use crate::device::phase;
use crate::error::{Error, Result, guarded};

/// The proof type of this crate: stwo's, with Blake2s.
pub type Proof = StarkProof<Blake2sMerkleHasher>;
/// The commitment scheme that [`prove`] takes.
pub type Scheme<'a> = CommitmentSchemeProver<'a, OclBackend, Blake2sMerkleChannel>;
type SampledValues = TreeVec<Vec<Vec<SecureField>>>;

/// Evaluates polynomials, commits to them and mixes the root: what stwo's tree builder does at the end, with fewer kernel
/// starts.
pub fn commit(scheme: &mut Scheme<'_>, polynomials: Vec<CircleCoefficients<OclBackend>>, channel: &mut Blake2sChannel) {
    let keep = scheme.store_polynomials_coefficients;
    let tree = tree_over(polynomials, &scheme.config, scheme.twiddles, keep, &scheme.base_column_pool);
    mix_root(channel, tree.commitment.root());
    scheme.trees.push(MaybeOwned::Owned(tree));
}

/// Evaluates polynomials and commits to them; `keep` says whether their coefficients stay beside the values.
pub(crate) fn tree_over(
    polynomials: Vec<CircleCoefficients<OclBackend>>,
    config: &PcsConfig,
    twiddles: &TwiddleTree<OclBackend>,
    keep: bool,
    pool: &BaseColumnPool<OclBackend>,
) -> CommitmentTreeProver<OclBackend, Blake2sMerkleChannel> {
    let blowup = config.fri_config.log_blowup_factor;
    let polynomials = OclBackend::evaluate_polynomials(polynomials, blowup, twiddles, keep, pool);
    let largest = polynomials.iter().map(|poly| poly.evals.domain.log_size()).max().unwrap_or_default();
    let columns: Vec<_> = polynomials.iter().map(|poly| &poly.evals.values).collect();
    let commitment = tree_of(&columns, config.lifting_log_size.unwrap_or(largest));
    CommitmentTreeProver { polynomials, commitment }
}

/// Proves that the committed traces satisfy the components. The proof is, byte for byte, that of stwo's `prove` with
/// `SimdBackend`.
///
/// # Errors
/// A device failure, or [`Error::Unverified`] if the constraints do not hold; never a panic.
pub fn prove(
    components: &[&dyn ComponentProver<OclBackend>],
    channel: &mut Blake2sChannel,
    scheme: Scheme<'_>,
) -> Result<Proof> {
    guarded(|| prove_inner(components, channel, scheme))?
}

fn prove_inner(
    components: &[&dyn ComponentProver<OclBackend>],
    channel: &mut Blake2sChannel,
    mut scheme: Scheme<'_>,
) -> Result<Proof> {
    let n_preprocessed_columns = scheme.trees.first().map(|tree| tree.polynomials.len()).ok_or_else(|| {
        Error::Input { field: "commitments", value: "none".to_owned(), limit: "the preprocessed tree first".to_owned() }
    })?;
    let provers = ComponentProvers { components: components.to_vec(), n_preprocessed_columns };
    let random_coefficient = channel.draw_secure_felt();
    let composition = phase("constraints", || {
        let blowup = scheme.config.fri_config.log_blowup_factor;
        provers.compute_composition_polynomial(random_coefficient, &scheme.trace(), scheme.twiddles, blowup)
    });
    phase("commit", || {
        let (left, right) = composition.split_at_mid();
        let halves = left.into_coordinate_polys().into_iter().chain(right.into_coordinate_polys());
        commit(&mut scheme, halves.collect(), channel);
    });
    let point = CirclePoint::<SecureField>::get_random_point(channel);
    let bound =
        get_lifting_log_size(&scheme.config, tree_log_size(&scheme)) - scheme.config.fri_config.log_blowup_factor;
    let mut sample_points = provers.components().mask_points(point, bound, false);
    sample_points.push(vec![vec![point]; 2 * SECURE_EXTENSION_DEGREE]);
    let proof = open(scheme, &sample_points, channel)?;

    let expected = provers.components().eval_composition_polynomial_at_point(
        point,
        &proof.sampled_values,
        random_coefficient,
        bound,
    );
    if composition_value(&proof.sampled_values, point, bound) == Some(expected) {
        Ok(StarkProof(proof))
    } else {
        Err(Error::Unverified("the trace does not satisfy the constraints".to_owned()))
    }
}

/// Logarithm of the leaves of the tree that was committed last.
fn tree_log_size(scheme: &Scheme<'_>) -> u32 {
    scheme.trees.last().map_or(0, |tree| tree.commitment.layers.len() as u32 - 1)
}

/// The composition polynomial's value from the sampled values of its two halves.
fn composition_value(sampled: &SampledValues, point: CirclePoint<SecureField>, bound: u32) -> Option<SecureField> {
    let columns = sampled.last()?;
    let values: Vec<SecureField> = columns.iter().filter_map(|column| column.first().copied()).collect();
    let (left, right) = values.split_at_checked(SECURE_EXTENSION_DEGREE)?;
    let left = SecureField::from_partial_evals(left.try_into().ok()?);
    let right = SecureField::from_partial_evals(right.try_into().ok()?);
    Some(left + point.repeated_double(bound - 1).x * right)
}

/// Opens the committed columns at the points.
fn open(
    scheme: Scheme<'_>,
    sample_points: &TreeVec<Vec<Vec<CirclePoint<SecureField>>>>,
    channel: &mut Blake2sChannel,
) -> Result<CommitmentSchemeProof<Blake2sMerkleHasher>> {
    let PcsConfig { pow_bits, fri_config, .. } = scheme.config;
    let lifting_log_size = tree_log_size(&scheme);
    let samples = phase("out-of-domain", || sample_columns(&scheme, sample_points, lifting_log_size));
    let sampled_values: SampledValues = TreeVec(
        samples
            .iter()
            .map(|tree| tree.iter().map(|column| column.iter().map(|s| s.value).collect()).collect())
            .collect(),
    );
    channel.mix_felts(&sampled_values.clone().flatten_cols());

    let random_coefficient = channel.draw_secure_felt();
    let quotients = phase("quotients", || {
        let columns = scheme.evaluations();
        let blowup = fri_config.log_blowup_factor;
        compute_fri_quotients(&columns, &samples, random_coefficient, lifting_log_size, scheme.twiddles, blowup)
    });
    let layers = phase("fri", || FriLayers::commit(channel, fri_config, quotients, scheme.twiddles))?;
    let proof_of_work = phase("proof-of-work", || OclBackend::grind(channel, pow_bits));
    channel.mix_u64(proof_of_work);

    let queries = Queries::new(&draw_queries(channel, lifting_log_size, fri_config.n_queries), lifting_log_size);
    let opened = phase("decommit", || {
        let mut openings = Openings::default();
        let preprocessed_log_size = scheme.trees[PREPROCESSED_TRACE_IDX].commitment.layers.len() as u32 - 1;
        let preprocessed =
            prepare_preprocessed_query_positions(&queries.positions, lifting_log_size, preprocessed_log_size);
        let trees: Vec<TreeOpening> = scheme
            .trees
            .iter()
            .enumerate()
            .map(|(index, tree)| {
                let positions = if index == PREPROCESSED_TRACE_IDX { &preprocessed } else { &queries.positions };
                let columns: Vec<_> = tree.polynomials.iter().map(|poly| &poly.evals.values).collect();
                openings.tree(&tree.commitment, positions, &columns)
            })
            .collect();
        let fri = layers.open(&queries, &mut openings);
        let found = openings.fetch();
        (trees.into_iter().map(|tree| tree.resolve(&found)).collect::<Vec<_>>(), fri.resolve(&found, layers))
    });
    let (trees, fri_proof) = opened;
    let mut proof = CommitmentSchemeProof {
        config: scheme.config,
        commitments: TreeVec(Vec::new()),
        sampled_values,
        decommitments: TreeVec(Vec::new()),
        queried_values: TreeVec(Vec::new()),
        proof_of_work,
        fri_proof,
    };
    for tree in trees {
        proof.commitments.push(tree.root);
        proof.decommitments.push(tree.decommitment);
        proof.queried_values.push(tree.values);
    }
    Ok(proof)
}

/// Mixes a root into the transcript the way stwo does.
fn mix_root(channel: &mut Blake2sChannel, root: stwo::core::vcs::blake2_hash::Blake2sHash) {
    Blake2sMerkleChannel::mix_root(channel, root);
}
