//! Everything that a proof opens, read in one transfer: first all places are noted, then they are gathered, then the
//! parts of the proof are put together from the words.

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::core::vcs_lifted::verifier::MerkleDecommitmentLifted;
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo::prover::vcs_lifted::prover::MerkleProverLifted;

use crate::backend::{OclBackend, OclColumn, gather_all};
use crate::field::Word;

/// A tree in device memory.
pub(super) type Tree = MerkleProverLifted<OclBackend, Blake2sMerkleHasher>;

/// Number of the first word of an opened value among the gathered words, or of a hash among the gathered hashes.
pub(super) type Slot = usize;

/// Places noted so far: column address and number in the column.
#[derive(Debug, Default)]
pub(super) struct Openings {
    words: Vec<(u32, u32)>,
    hashes: Vec<(u32, u32)>,
}

/// What was found there.
#[derive(Debug)]
pub(super) struct Fetched {
    words: Vec<u32>,
    hashes: Vec<Blake2sHash>,
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

impl Fetched {
    /// The value whose words begin at `slot`.
    fn value<T: Word>(&self, slot: Slot) -> T {
        T::get(&self.words[slot..slot + T::WIDTH])
    }
}

impl Openings {
    /// Notes one element of a column.
    fn element(&mut self, column: &OclColumn<BaseField>, index: usize) -> Slot {
        self.words.push((column.address(), index as u32));
        self.words.len() - 1
    }

    /// Notes one hash of a layer.
    fn hash(&mut self, layer: &OclColumn<Blake2sHash>, index: usize) -> Slot {
        self.hashes.push((layer.address(), index as u32));
        self.hashes.len() - 1
    }

    /// Notes one element given by coordinates.
    pub(super) fn secure(&mut self, column: &SecureColumnByCoords<OclBackend>, index: usize) -> Slot {
        let slot = self.words.len();
        self.words.extend(column.columns.iter().map(|coordinate| (coordinate.address(), index as u32)));
        slot
    }

    /// Notes the root of a tree, the values of its columns at the positions, and the hashes that lead from there to the
    /// root and cannot be derived. Positions are in the largest layer, ascending.
    pub(super) fn tree(&mut self, tree: &Tree, positions: &[usize], columns: &[&OclColumn<BaseField>]) -> TreeOpening {
        let log_leaves = tree.layers.len() - 1;
        let root = self.hash(&tree.layers[0], 0);
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
                    witness.push(self.hash(layer, only ^ 1));
                }
                parents.push(pair[0] >> 1);
            }
            queried = parents;
        }
        TreeOpening { root, witness, values }
    }

    /// Reads all noted places.
    pub(super) fn fetch(self) -> Fetched {
        let (words, hashes) = gather_all(&self.words, &self.hashes);
        Fetched { words, hashes }
    }
}

impl TreeOpening {
    /// The opened parts, from what was fetched.
    pub(super) fn resolve(self, found: &Fetched) -> OpenedTree {
        OpenedTree {
            root: found.hashes[self.root],
            decommitment: MerkleDecommitmentLifted {
                hash_witness: self.witness.iter().map(|slot| found.hashes[*slot]).collect(),
            },
            values: self.values.iter().map(|column| column.iter().map(|slot| found.value(*slot)).collect()).collect(),
        }
    }
}

/// Secure values at slots.
pub(super) fn secure_values(found: &Fetched, slots: &[Slot]) -> Vec<SecureField> {
    slots.iter().map(|slot| found.value(*slot)).collect()
}
