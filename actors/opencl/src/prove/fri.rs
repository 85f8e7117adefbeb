//! FRI on the device: layers are folded and committed there; only roots and the last layer reach the host before the
//! queries.

use num_traits::Zero;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::fri::{FriConfig, FriLayerProof, FriProof};
use stwo::core::poly::line::LinePoly;
use stwo::core::queries::Queries;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::core::vcs_lifted::verifier::LOG_PACKED_LEAF_SIZE;
use stwo::prover::backend::CpuBackend;
use stwo::prover::fri::FriOps;
use stwo::prover::line::LineEvaluation;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::SecureEvaluation;
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::secure_column::SecureColumnByCoords;

use super::mix_root;
use super::opening::{Fetched, Openings, Slot, Tree, TreeOpening, secure_values};
use crate::backend::{OclBackend, OclColumn, fold_into, gather, packed_tree_of, tree_of};
use crate::error::{Error, Result};
use crate::field::from_words;

/// A committed layer.
struct Layer {
    values: SecureColumnByCoords<OclBackend>,
    tree: Tree,
    fold_step: u32,
}

/// All committed layers and the last polynomial.
pub(super) struct FriLayers {
    first: Layer,
    inner: Vec<Layer>,
    last: LinePoly,
}

/// What of a layer will be opened.
pub(super) struct LayerOpening {
    tree: TreeOpening,
    witness: Vec<Slot>,
}

/// What of all layers will be opened.
pub(super) struct FriOpening {
    first: LayerOpening,
    inner: Vec<LayerOpening>,
}

/// Rows of a leaf, as a logarithm: neighbours that are folded together share one.
fn log_rows_per_leaf(log_size: u32, fold_step: u32) -> u32 {
    if fold_step > 1 && log_size >= LOG_PACKED_LEAF_SIZE { LOG_PACKED_LEAF_SIZE } else { 0 }
}

fn commit_tree(values: &SecureColumnByCoords<OclBackend>, fold_step: u32) -> Tree {
    let log_size = values.len().ilog2();
    let columns = values.columns.each_ref();
    if log_rows_per_leaf(log_size, fold_step) == 0 {
        return tree_of(&columns, log_size);
    }
    packed_tree_of(&columns)
}

impl Layer {
    /// Notes what the verifier needs of this layer: all members of the folded groups that it cannot compute.
    fn open(&self, queries: &Queries, openings: &mut Openings) -> LayerOpening {
        let mut positions = Vec::new();
        let mut witness = Vec::new();
        for group in queries.positions.chunk_by(|a, b| a >> self.fold_step == b >> self.fold_step) {
            let start = (group[0] >> self.fold_step) << self.fold_step;
            for position in start..start + (1 << self.fold_step) {
                positions.push(position);
                if !group.contains(&position) {
                    witness.push(openings.secure(&self.values, position));
                }
            }
        }
        let log_rows = log_rows_per_leaf(self.values.len().ilog2(), self.fold_step);
        positions.iter_mut().for_each(|position| *position >>= log_rows);
        positions.dedup();
        LayerOpening { tree: openings.tree(&self.tree, &positions, &[]), witness }
    }
}

impl FriLayers {
    /// Runs the commitment phase.
    pub(super) fn commit(
        channel: &mut Blake2sChannel,
        config: FriConfig,
        column: SecureEvaluation<OclBackend, BitReversedOrder>,
        twiddles: &TwiddleTree<OclBackend>,
    ) -> Result<Self> {
        let tree = commit_tree(&column.values, config.fold_step);
        mix_root(channel, tree.root());
        let alpha = channel.draw_secure_felt();
        let mut line = fold_into(&column, alpha, twiddles, config.fold_step - 1);
        let first = Layer { values: column.values, tree, fold_step: config.fold_step };
        let mut inner = Vec::new();
        let last_log_size = config.last_layer_domain_size().ilog2();
        let too_small = || Error::Input {
            field: "proof size",
            value: format!("a line of 2^{}", line.domain().log_size()),
            limit: format!("2^{last_log_size} at least"),
        };
        let mut left = line.domain().log_size().checked_sub(last_log_size).ok_or_else(too_small)?;
        while left > 0 {
            let step = left.min(config.fold_step);
            let tree = commit_tree(&line.values, step);
            mix_root(channel, tree.root());
            let alpha = channel.draw_secure_felt();
            let folded = OclBackend::fold_line(&line, alpha, twiddles, step);
            inner.push(Layer { values: line.values, tree, fold_step: step });
            line = folded;
            left -= step;
        }
        let last = last_polynomial(config, &line)?;
        channel.mix_felts(&last);
        Ok(Self { first, inner, last })
    }

    /// Notes what the queries open. The layers must live until it is fetched.
    pub(super) fn open(&self, queries: &Queries, openings: &mut Openings) -> FriOpening {
        let first = self.first.open(queries, openings);
        let mut queries = queries.fold(self.first.fold_step);
        let inner = self.inner.iter().map(|layer| {
            let opening = layer.open(&queries, openings);
            queries = queries.fold(layer.fold_step);
            opening
        });
        FriOpening { first, inner: inner.collect() }
    }
}

/// The values of a line in host memory, in one transfer.
fn to_host(line: &LineEvaluation<OclBackend>) -> LineEvaluation<CpuBackend> {
    let len = line.values.len();
    let column = |column: &OclColumn<BaseField>| (0..len as u32).map(|row| (column.address(), row)).collect::<Vec<_>>();
    let values: Vec<BaseField> = from_words(&gather(&line.values.columns.each_ref().map(column).concat()));
    let columns = std::array::from_fn(|k| values[k * len..(k + 1) * len].to_vec());
    LineEvaluation::new(line.domain(), SecureColumnByCoords { columns })
}

/// The polynomial of the last layer, which must be of low degree.
fn last_polynomial(config: FriConfig, line: &LineEvaluation<OclBackend>) -> Result<LinePoly> {
    let mut coefficients = to_host(line).interpolate().into_ordered_coefficients();
    let rest = coefficients.split_off(1 << config.log_last_layer_degree_bound);
    if rest.iter().all(SecureField::is_zero) {
        Ok(LinePoly::from_ordered_coefficients(coefficients))
    } else {
        Err(Error::Unverified("the last FRI layer is not of low degree: the constraints do not hold".to_owned()))
    }
}

impl FriOpening {
    /// The FRI part of the proof, from what was fetched and the layers it was noted for.
    pub(super) fn resolve(self, found: &Fetched, layers: FriLayers) -> FriProof<Blake2sMerkleHasher> {
        let proof = |layer: LayerOpening| {
            let tree = layer.tree.resolve(found);
            FriLayerProof {
                fri_witness: secure_values(found, &layer.witness),
                decommitment: tree.decommitment,
                commitment: tree.root,
            }
        };
        FriProof {
            first_layer: proof(self.first),
            inner_layers: self.inner.into_iter().map(proof).collect(),
            last_layer_poly: layers.last,
        }
    }
}
