//! Everything that a proof opens, read in one transfer: first all places are noted, then they are gathered, then the
//! parts of the proof are put together from the words.

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::core::vcs_lifted::verifier::MerkleDecommitmentLifted;
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo::prover::vcs_lifted::prover::MerkleProverLifted;

use crate::backend::{OclBackend, OclColumn, gather};
use crate::field::Word;

/// A tree in device memory.
pub(super) type Tree = MerkleProverLifted<OclBackend, Blake2sMerkleHasher>;

/// Number of the first word of an opened value among the gathered ones.
pub(super) type Slot = usize;

/// Places noted so far.
#[derive(Debug, Default)]
pub(super) struct Openings {
    places: Vec<(u32, u32)>,
}

/// What of a tree will be opened.
#[derive(Debug)]
pub(super) struct TreeOpening {
    root: Slot,
    witness: Vec<Slot>,
    values: Vec<Vec<Slot>>,
}

/// The opened parts of a tree.
#[derive(Debug)]
pub(super) struct OpenedTree {
    pub(super) root: Blake2sHash,
    pub(super) decommitment: MerkleDecommitmentLifted<Blake2sMerkleHasher>,
    pub(super) values: Vec<Vec<BaseField>>,
}

/// The value whose words begin at `slot`.
pub(super) fn value<T: Word>(words: &[u32], slot: Slot) -> T {
    T::get(&words[slot..slot + T::WIDTH])
}

impl Openings {
    /// Notes one element of a column.
    pub(super) fn element<T: Word>(&mut self, column: &OclColumn<T>, index: usize) -> Slot {
        let slot = self.places.len();
        let first = index * T::WIDTH;
        self.places.extend((first..first + T::WIDTH).map(|word| (column.address(), word as u32)));
        slot
    }

    /// Notes one element given by coordinates.
    pub(super) fn secure(&mut self, column: &SecureColumnByCoords<OclBackend>, index: usize) -> Slot {
        let slot = self.places.len();
        self.places.extend(column.columns.iter().map(|coordinate| (coordinate.address(), index as u32)));
        slot
    }

    /// Notes the root of a tree, the values of its columns at the positions, and the hashes that lead from there to the
    /// root and cannot be derived. Positions are in the largest layer, ascending.
    pub(super) fn tree(&mut self, tree: &Tree, positions: &[usize], columns: &[&OclColumn<BaseField>]) -> TreeOpening {
        let log_leaves = tree.layers.len() - 1;
        let root = self.element(&tree.layers[0], 0);
        let values = columns
            .iter()
            .map(|column| {
                let shift = log_leaves - column.log_len() as usize;
                let row = |position: usize| ((position >> (shift + 1)) << 1) + (position & 1);
                positions.iter().map(|position| self.element(column, row(*position))).collect()
            })
            .collect();
        let mut witness = Vec::new();
        let mut queried = positions.to_vec();
        queried.dedup();
        for layer in tree.layers.iter().skip(1).rev() {
            let mut parents = Vec::with_capacity(queried.len());
            for pair in queried.chunk_by(|a, b| a ^ 1 == *b) {
                if let [only] = pair {
                    witness.push(self.element(layer, only ^ 1));
                }
                parents.push(pair[0] >> 1);
            }
            queried = parents;
        }
        TreeOpening { root, witness, values }
    }

    /// Reads all noted places.
    pub(super) fn fetch(self) -> Vec<u32> {
        gather(&self.places)
    }
}

impl TreeOpening {
    /// The opened parts, from the gathered words.
    pub(super) fn resolve(self, words: &[u32]) -> OpenedTree {
        OpenedTree {
            root: value(words, self.root),
            decommitment: MerkleDecommitmentLifted {
                hash_witness: self.witness.iter().map(|slot| value(words, *slot)).collect(),
            },
            values: self.values.iter().map(|column| column.iter().map(|slot| value(words, *slot)).collect()).collect(),
        }
    }
}

/// Secure values at slots.
pub(super) fn secure_values(words: &[u32], slots: &[Slot]) -> Vec<SecureField> {
    slots.iter().map(|slot| value(words, *slot)).collect()
}
