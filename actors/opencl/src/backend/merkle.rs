//! Lifted Merkle trees of Blake2s: a leaf hashes one row of all columns, shorter ones repeated.

use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SECURE_EXTENSION_DEGREE;
use stwo::core::vcs::blake2_hash::{Blake2sHash, Blake2sHasher};
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use stwo::core::vcs_lifted::verifier::{LOG_PACKED_LEAF_SIZE, PACKED_LEAF_SIZE};
use stwo::prover::backend::Col;
use stwo::prover::vcs_lifted::ops::{MerkleOpsLifted, PackLeavesOps};
use stwo::prover::vcs_lifted::prover::MerkleProverLifted;

use super::{OclBackend, OclColumn, Table};
use crate::device::{Launch, granule_of, runtime, slab_of};
use crate::error::{Error, raise};
use crate::kernels::{TOP_ITEMS, TOP_LOG};

/// Address of each column and its doublings to the longest.
fn leaf_table(columns: &[&OclColumn<BaseField>], lifting_log_size: u32) -> Table {
    let entry = |column: &&OclColumn<BaseField>| {
        let log_size = column.log_len();
        if log_size == 0 || log_size > lifting_log_size {
            raise(Error::Input {
                field: "committed column",
                value: format!("2^{log_size} rows"),
                limit: format!("2^1 to 2^{lifting_log_size}"),
            });
        }
        [column.address(), lifting_log_size - log_size]
    };
    Table::new(columns.iter().flat_map(entry).collect())
}

/// First granules of the columns and the slab they lie in, if that is one and all of them have full length.
fn even_table(columns: &[&OclColumn<BaseField>], lifting_log_size: u32) -> Option<(Table, u32)> {
    let slab = slab_of(columns.first()?.address());
    let even =
        |column: &&OclColumn<BaseField>| column.count() == 1 << lifting_log_size && slab_of(column.address()) == slab;
    if lifting_log_size == 0 || !columns.iter().all(even) {
        return None;
    }
    Some((Table::new(columns.iter().map(|column| granule_of(column.address())).collect()), slab))
}

impl MerkleOpsLifted<Blake2sMerkleHasher> for OclBackend {
    fn build_leaves(columns: &[&Col<Self, BaseField>], lifting_log_size: u32) -> Col<Self, Blake2sHash> {
        if columns.is_empty() {
            return OclColumn::from_cpu(&[Blake2sHasher::default().finalize()]);
        }
        let leaves = OclColumn::undefined(1 << lifting_log_size);
        if let Some((table, slab)) = even_table(columns, lifting_log_size) {
            let args = [table.address(), columns.len() as u32, leaves.address(), 1 << lifting_log_size, slab];
            let launch = Launch { kernel: "merkle_leaves_even", items: 1 << lifting_log_size, rows: 1, args: &args };
            runtime().launch(&launch);
            return leaves;
        }
        let table = leaf_table(columns, lifting_log_size);
        let args = [table.address(), columns.len() as u32, leaves.address(), 1 << lifting_log_size];
        runtime().launch(&Launch { kernel: "merkle_leaves", items: 1 << lifting_log_size, rows: 1, args: &args });
        leaves
    }

    fn build_next_layer(prev_layer: &Col<Self, Blake2sHash>) -> Col<Self, Blake2sHash> {
        let len = prev_layer.count() / 2;
        let layer = OclColumn::undefined(len);
        let args = [prev_layer.address(), layer.address(), len as u32];
        runtime().launch(&Launch { kernel: "merkle_layer", items: len, rows: 1, args: &args });
        layer
    }
}

/// Layers that one kernel makes at once.
const LAYERS_AT_ONCE: u32 = 3;
/// Below this logarithm of nodes a layer is too small to fill a device, and a kernel start costs more than its hashes.
const SMALL_LOG: u32 = 14;

/// Layers of 2^(log - 1), 2^(log - 2), ... 1 nodes, undefined.
fn upper_layers(log_size: u32) -> Vec<OclColumn<Blake2sHash>> {
    (0..log_size).rev().map(|log| OclColumn::undefined(1 << log)).collect()
}

/// Addresses of the layers as the kernels of one work-group take them: those that are missing are never written.
fn top_addresses(layers: &[OclColumn<Blake2sHash>]) -> [u32; TOP_LOG as usize] {
    std::array::from_fn(|k| layers.get(k).or(layers.last()).map_or(0, OclColumn::address))
}

/// The whole tree over at least two and at most 2^[`TOP_LOG`] leaves, in one start.
fn small_tree(columns: &[&OclColumn<BaseField>], log_size: u32) -> Vec<OclColumn<Blake2sHash>> {
    let table = leaf_table(columns, log_size);
    let mut layers = vec![OclColumn::undefined(1 << log_size)];
    layers.extend(upper_layers(log_size));
    let front = [table.address(), columns.len() as u32, layers[0].address()];
    let args = [&front[..], &top_addresses(&layers[1..]), &[1 << log_size]].concat();
    let launch = Launch { kernel: "merkle_small", items: TOP_ITEMS, rows: 1, args: &args };
    runtime().launch_in_groups(&launch, TOP_ITEMS);
    layers
}

/// The tree over leaves, as stwo builds it, with fewer kernel starts: the upper layers are made three at once, the last
/// ones all at once where the device has local memory.
fn tree_over(leaves: OclColumn<Blake2sHash>) -> Vec<OclColumn<Blake2sHash>> {
    let mut log_size = leaves.log_len();
    let mut layers = vec![leaves];
    while log_size > 0 {
        let Some(children) = layers.last() else { break };
        if log_size <= TOP_LOG && runtime().tiles() {
            let next = upper_layers(log_size);
            let args = [&[children.address()][..], &top_addresses(&next), &[1 << log_size]].concat();
            let launch = Launch { kernel: "merkle_top", items: TOP_ITEMS, rows: 1, args: &args };
            runtime().launch_in_groups(&launch, TOP_ITEMS);
            layers.extend(next);
            break;
        }
        if !(LAYERS_AT_ONCE..=SMALL_LOG).contains(&log_size) {
            let layer = OclBackend::build_next_layer(children);
            layers.push(layer);
            log_size -= 1;
            continue;
        }
        let next: [OclColumn<Blake2sHash>; LAYERS_AT_ONCE as usize] =
            std::array::from_fn(|k| OclColumn::undefined(1 << (log_size - 1 - k as u32)));
        log_size -= LAYERS_AT_ONCE;
        let args = [children.address(), next[0].address(), next[1].address(), next[2].address(), 1 << log_size];
        runtime().launch(&Launch { kernel: "merkle_layers_3", items: 1 << log_size, rows: 1, args: &args });
        layers.extend(next);
    }
    layers
}

/// The tree over columns of any sizes, in any order, as stwo's `MerkleProverLifted::commit` builds it.
pub(crate) fn tree_of(
    columns: &[&OclColumn<BaseField>],
    lifting_log_size: u32,
) -> MerkleProverLifted<OclBackend, Blake2sMerkleHasher> {
    let mut sorted = columns.to_vec();
    sorted.sort_by_key(|column| column.count());
    let small = !sorted.is_empty() && (1..=TOP_LOG).contains(&lifting_log_size) && runtime().tiles();
    let mut layers = if small {
        small_tree(&sorted, lifting_log_size)
    } else {
        tree_over(OclBackend::build_leaves(&sorted, lifting_log_size))
    };
    layers.reverse();
    MerkleProverLifted { layers }
}

/// The tree over leaves of four rows of four columns each, as stwo builds it over [`PackLeavesOps::pack_leaves_input`]: large
/// ones straight from the columns, small ones in one start.
pub(crate) fn packed_tree_of(
    columns: &[&OclColumn<BaseField>; SECURE_EXTENSION_DEGREE],
) -> MerkleProverLifted<OclBackend, Blake2sMerkleHasher> {
    let log_leaves = columns[0].log_len().saturating_sub(LOG_PACKED_LEAF_SIZE);
    if log_leaves <= TOP_LOG && runtime().tiles() {
        return tree_of(&OclBackend::pack_leaves_input(columns).each_ref(), log_leaves);
    }
    let leaves = OclColumn::undefined(1 << log_leaves);
    let [x0, x1, x2, x3] = columns.map(OclColumn::address);
    let args = [x0, x1, x2, x3, leaves.address(), 1 << log_leaves];
    runtime().launch(&Launch { kernel: "merkle_leaves_packed", items: 1 << log_leaves, rows: 1, args: &args });
    let mut layers = tree_over(leaves);
    layers.reverse();
    MerkleProverLifted { layers }
}

impl PackLeavesOps for OclBackend {
    fn pack_leaves_input(
        values: &[&Col<Self, BaseField>; SECURE_EXTENSION_DEGREE],
    ) -> [Col<Self, BaseField>; SECURE_EXTENSION_DEGREE * PACKED_LEAF_SIZE] {
        let len = values[0].count();
        if values.iter().any(|column| column.count() != len) || !len.is_multiple_of(PACKED_LEAF_SIZE) {
            raise(Error::Input {
                field: "packed columns",
                value: format!("{len} rows"),
                limit: format!("four columns of the same multiple of {PACKED_LEAF_SIZE} rows"),
            });
        }
        let rows = len / PACKED_LEAF_SIZE;
        let packed: [_; SECURE_EXTENSION_DEGREE * PACKED_LEAF_SIZE] =
            std::array::from_fn(|_| OclColumn::<BaseField>::undefined(rows));
        let addresses = values.iter().map(|column| column.address()).chain(packed.iter().map(OclColumn::address));
        let table = Table::new(addresses.collect());
        let args = [table.address(), rows as u32];
        runtime().launch(&Launch { kernel: "pack_leaves", items: rows, rows: packed.len(), args: &args });
        packed
    }
}
