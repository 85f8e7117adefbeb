//! The state root: a Jellyfish Merkle tree (crate `jmt`, SHA-256) over every record in `Space::State`.
//!
//! Nodes lie in `Space::Tree`; the version is the block height. A leaf commits to (hash of the key, hash of the value);
//! the values themselves are the records and are not stored twice. A node that a block replaces is deleted by the same
//! block's writes, so the tree never holds more than one version and a view proves records of its own height only.

use bincode::{Decode, Encode};
use borsh::BorshDeserialize;
use jmt::proof::SparseMerkleProof;
use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, RootHash, Version};
use sha2::Sha256;
use thiserror::Error;
use types::codec::Wire;
use types::ids::{Height, StateRoot};
use types::kv::{KvRead, KvWrites, Space};

use crate::error::StateError;

/// Largest proof accepted, bytes: 256 levels of siblings and a leaf need below 32 KiB.
const PROOF_BYTES_MAX: usize = 32 << 10;

/// Why a proof shows nothing.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProofError {
    /// The bytes are no proof.
    #[error("state proof: malformed ({0})")]
    Malformed(String),
    /// The proof does not lead from this key and value to this root.
    #[error("state proof: does not hold ({0})")]
    Wrong(String),
}

/// Path of sibling hashes from one record to the state root.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateProof {
    path: Vec<u8>,
}

impl Wire for StateProof {
    const NAME: &'static str = "state proof";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = PROOF_BYTES_MAX;
}

/// Reads nodes from a view; the value of the one record asked about from the record itself.
struct Reader<'a> {
    view: &'a dyn KvRead,
    record: Option<(KeyHash, &'a [u8])>,
}

impl TreeReader for Reader<'_> {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        let Some(bytes) = self.view.get(Space::Tree, &borsh::to_vec(node_key)?)? else { return Ok(None) };
        Ok(Some(Node::try_from_slice(&bytes)?))
    }

    fn get_value_option(&self, _max_version: Version, key_hash: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        match self.record {
            Some((hash, key)) if hash == key_hash => Ok(self.view.get(Space::State, key)?),
            _ => Ok(None),
        }
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

fn failed(error: &anyhow::Error) -> StateError {
    StateError::Tree(format!("{error:#}"))
}

/// State root of the view, whose head is at `height`.
///
/// # Errors
/// [`StateError::Tree`] when the tree has no such version.
pub fn root(view: &dyn KvRead, height: Height) -> Result<StateRoot, StateError> {
    let reader = Reader { view, record: None };
    let tree = JellyfishMerkleTree::<_, Sha256>::new(&reader);
    tree.get_root_hash(height.0).map(|root| StateRoot::new(root.0)).map_err(|e| failed(&e))
}

/// Brings the tree from the height before `height` to `height` under the changes in `Space::State` of `writes`, adds
/// the tree's own writes to them, and returns the new root. At least one record must change, which the head record sees
/// to.
///
/// # Errors
/// [`StateError::Tree`] when nodes are missing or unreadable.
pub fn update(view: &dyn KvRead, height: Height, writes: &mut KvWrites) -> Result<StateRoot, StateError> {
    let reader = Reader { view, record: None };
    let tree = JellyfishMerkleTree::<_, Sha256>::new(&reader);
    let changes = writes.iter().filter(|((space, _), _)| *space == Space::State);
    let changes: Vec<_> = changes.map(|((_, key), value)| (KeyHash::with::<Sha256>(key), value.clone())).collect();
    let (root, batch) = tree.put_value_set(changes, height.0).map_err(|e| failed(&e))?;
    let bytes = |e: std::io::Error| StateError::Tree(e.to_string());
    for stale in &batch.stale_node_index_batch {
        writes.insert((Space::Tree, borsh::to_vec(&stale.node_key).map_err(bytes)?), None);
    }
    for (key, node) in batch.node_batch.nodes() {
        writes.insert((Space::Tree, borsh::to_vec(key).map_err(bytes)?), Some(borsh::to_vec(node).map_err(bytes)?));
    }
    Ok(StateRoot::new(root.0))
}

/// The record at `key` in the view, whose head is at `height`, with the proof that it is there, or that nothing is.
///
/// # Errors
/// [`StateError`].
pub fn prove(view: &dyn KvRead, height: Height, key: &[u8]) -> Result<(Option<Vec<u8>>, StateProof), StateError> {
    let hash = KeyHash::with::<Sha256>(key);
    let reader = Reader { view, record: Some((hash, key)) };
    let tree = JellyfishMerkleTree::<_, Sha256>::new(&reader);
    let (value, proof) = tree.get_with_proof(hash, height.0).map_err(|e| failed(&e))?;
    let path = borsh::to_vec(&proof).map_err(|e| StateError::Tree(e.to_string()))?;
    Ok((value, StateProof { path }))
}

/// Checks that under `root` the record at `key` is `value`, or that there is none.
///
/// # Errors
/// [`ProofError`].
pub fn verify_proof(root: &StateRoot, key: &[u8], value: Option<&[u8]>, proof: &StateProof) -> Result<(), ProofError> {
    if proof.path.len() > PROOF_BYTES_MAX {
        return Err(ProofError::Malformed(format!("{} bytes, the limit is {PROOF_BYTES_MAX}", proof.path.len())));
    }
    let path =
        SparseMerkleProof::<Sha256>::try_from_slice(&proof.path).map_err(|e| ProofError::Malformed(e.to_string()))?;
    let key = KeyHash::with::<Sha256>(key);
    path.verify(RootHash(*root.as_bytes()), key, value).map_err(|e| ProofError::Wrong(format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use types::kv::MemoryKv;

    use super::*;

    type Changes = Vec<(u8, Option<u8>)>;

    fn apply(kv: &mut MemoryKv, height: u64, changes: &Changes) -> StateRoot {
        let mut writes: KvWrites = changes
            .iter()
            .map(|(k, v)| ((Space::State, vec![1, *k]), v.map(|v| vec![v; usize::from(v) + 1])))
            .collect();
        writes.insert((Space::State, vec![0]), Some(height.to_be_bytes().to_vec()));
        let root = update(kv, Height(height), &mut writes).unwrap();
        kv.apply(&writes);
        root
    }

    fn blocks() -> impl Strategy<Value = Vec<Changes>> {
        prop::collection::vec(prop::collection::vec((0u8..40, prop::option::of(any::<u8>())), 0..12), 1..10)
    }

    proptest! {
        #[test]
        fn the_root_depends_on_the_content_alone(blocks in blocks()) {
            let mut kv = MemoryKv::default();
            let mut content = BTreeMap::new();
            let mut last = apply(&mut kv, 0, &vec![(200, Some(1))]);
            for (i, block) in blocks.iter().enumerate() {
                // Within one block the last write of a key counts, as in the map of writes.
                content.extend(block.iter().copied());
                last = apply(&mut kv, i as u64 + 1, block);
                prop_assert_eq!(root(&kv, Height(i as u64 + 1)).unwrap(), last);
            }
            // A fresh tree with the final content, built in one step under the same last record.
            let height = blocks.len() as u64;
            let record = |(k, v): (&u8, &Option<u8>)| {
                v.map(|v| ((Space::State, vec![1, *k]), Some(vec![v; usize::from(v) + 1])))
            };
            let mut writes: KvWrites = content.iter().filter_map(record).collect();
            writes.insert((Space::State, vec![1, 200]), Some(vec![1, 1]));
            writes.insert((Space::State, vec![0]), Some(height.to_be_bytes().to_vec()));
            let records = writes.len();
            prop_assert_eq!(update(&MemoryKv::default(), Height(0), &mut writes).unwrap(), last);
            // Nothing stale is left: as many nodes as the fresh tree has.
            let nodes = kv.scan(Space::Tree, &[], None, 10_000).unwrap().len();
            prop_assert_eq!(nodes, writes.len() - records);
        }

        #[test]
        fn proofs_verify_and_altered_ones_fail(
            blocks in blocks(), asked in 0u8..40, flip in any::<prop::sample::Index>(),
        ) {
            let mut kv = MemoryKv::default();
            apply(&mut kv, 0, &vec![(200, Some(1)), (201, Some(2))]);
            let mut top = StateRoot::new([0; 32]);
            for (i, block) in blocks.iter().enumerate() {
                top = apply(&mut kv, i as u64 + 1, block);
            }
            let key = [1, asked];
            let (value, proof) = prove(&kv, Height(blocks.len() as u64), &key).unwrap();
            prop_assert_eq!(&value, &kv.get(Space::State, &key).unwrap());
            prop_assert!(verify_proof(&top, &key, value.as_deref(), &proof).is_ok());
            let other = value.clone().map_or(Some(vec![7]), |v| Some([v, vec![0]].concat()));
            prop_assert!(verify_proof(&top, &key, other.as_deref(), &proof).is_err());
            if value.is_some() {
                prop_assert!(verify_proof(&top, &key, None, &proof).is_err());
                prop_assert!(verify_proof(&top, &[1, asked + 1], value.as_deref(), &proof).is_err());
            }
            prop_assert!(verify_proof(&StateRoot::new([9; 32]), &key, value.as_deref(), &proof).is_err());
            let mut bent = proof.clone();
            let at = flip.index(bent.path.len());
            bent.path[at] ^= 1;
            prop_assert!(bent == proof || verify_proof(&top, &key, value.as_deref(), &bent).is_err());
        }
    }
}
