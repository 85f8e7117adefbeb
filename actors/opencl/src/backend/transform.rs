//! The circle transforms of many columns of one size at once. Owns how layers are cut into passes; relies on the
//! kernels `fft_*`. Each pass reads and writes every value once. Where the device has the local memory, the lowest twelve
//! layers are one pass; the others, and all of them elsewhere, are passes in registers.

use stwo::core::fields::m31::BaseField;
use stwo::core::poly::circle::CircleDomain;

use super::{OclColumn, OclTwiddles, Table};
use crate::device::{GRANULE_WORDS, Launch, runtime};
use crate::kernels::{FFT_LAYERS_MAX, FORWARD, INVERSE, TILE_ITEMS, TILE_LAYERS};

/// Sizes up to this logarithm have kernels of their own: their twiddles do not follow from a line's.
const TINY_LOG: u32 = 2;

/// Layers per pass without tiles at most: low layers are strided reads, for which more values per item do not pay.
const PLAIN_LAYERS_MAX: u32 = 4;

/// Layers `low` to `low + layers - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    low: u32,
    layers: u32,
    /// In local memory.
    tile: bool,
}

/// The passes, lowest layers first: as few as possible, of nearly equal size.
fn passes(log_size: u32, tiles: bool) -> Vec<Pass> {
    let tile = tiles && log_size >= TILE_LAYERS;
    let mut passes = Vec::new();
    let mut low = 0;
    if tile {
        passes.push(Pass { low, layers: TILE_LAYERS, tile });
        low = TILE_LAYERS;
    }
    let count = (log_size - low).div_ceil(if tile { FFT_LAYERS_MAX } else { PLAIN_LAYERS_MAX });
    for index in 0..count {
        let layers = (log_size - low).div_ceil(count - index);
        passes.push(Pass { low, layers, tile: false });
        low += layers;
    }
    passes
}

/// Starts a pass over columns of 2^`log_size` values; `front` are the arguments up to the twiddles, `last` is the
/// kernel's last argument of its own: the scale or the length of the source.
fn start(pass: Pass, log_size: u32, columns: usize, forward: bool, front: [u32; 5], last: u32) {
    let [tables, targets_after, twiddle, len, log] = front;
    if pass.tile {
        let kernel = if forward { "fft_forward_tile" } else { "fft_inverse_tile" };
        let args = [tables, targets_after, twiddle, len, log, last];
        let items = TILE_ITEMS << (log_size - TILE_LAYERS);
        runtime().launch_in_groups(&Launch { kernel, items, rows: columns, args: &args }, TILE_ITEMS);
        return;
    }
    let kernels = if forward { &FORWARD } else { &INVERSE };
    let kernel = kernels[pass.layers as usize - 1];
    let items = 1_usize << (log_size - pass.layers);
    let args = [tables, targets_after, twiddle, len, log, pass.low, last, items as u32];
    runtime().launch(&Launch { kernel, items, rows: columns, args: &args });
}

fn list(columns: &[&OclColumn<BaseField>]) -> Vec<u32> {
    columns.iter().map(|column| column.address()).collect()
}

/// Where a pass finds its columns: the list of the sources, and how many words after it that of the targets begins.
#[derive(Debug, Clone, Copy)]
struct Lists {
    sources: u32,
    targets_after: u32,
}

fn inverse_of_size(log_size: u32) -> u32 {
    BaseField::from_u32_unchecked(1 << log_size).inverse().0
}

/// Interpolates in place: values on `domain` become coefficients. All columns have the domain's size.
pub(super) fn interpolate(columns: &[&OclColumn<BaseField>], domain: CircleDomain, inverse_twiddles: &OclTwiddles) {
    let log_size = domain.log_size();
    let table = Table::new(list(columns));
    // In place: the list of the targets is that of the sources.
    let lists = Lists { sources: table.address(), targets_after: 0 };
    if log_size <= TINY_LOG {
        let first = domain.half_coset.initial;
        // The first point of a domain of two has x = 0, and no use for it.
        let x = if log_size == TINY_LOG { first.x.inverse().0 } else { 0 };
        let count = columns.len() as u32;
        let own = [count, log_size, x, first.y.inverse().0, inverse_of_size(log_size), 4];
        let args = [&[lists.sources, lists.targets_after][..], &own].concat();
        runtime().launch(&Launch { kernel: "fft_tiny", items: columns.len(), rows: 1, args: &args });
        return;
    }
    let twiddles = inverse_twiddles.args(log_size);
    let front = [lists.sources, lists.targets_after, twiddles.address, twiddles.len, twiddles.log];
    for pass in passes(log_size, runtime().tiles()) {
        let scale = if pass.low + pass.layers == log_size { inverse_of_size(log_size) } else { 1 };
        start(pass, log_size, columns.len(), false, front, scale);
    }
}

/// Evaluates coefficient columns of one size on `domain`, which is at least as large, into the targets.
pub(super) fn evaluate(
    sources: &[&OclColumn<BaseField>],
    targets: &[&OclColumn<BaseField>],
    domain: CircleDomain,
    twiddles: &OclTwiddles,
) {
    let log_size = domain.log_size();
    let Some(source_len) = sources.first().map(|column| column.count() as u32) else { return };
    let (_table, [from, to]) = Table::joined([&list(sources), &list(targets)]);
    let between = (to - from) * GRANULE_WORDS as u32;
    let from_source = Lists { sources: from, targets_after: between };
    if log_size <= TINY_LOG {
        let first = domain.half_coset.initial;
        let own = [sources.len() as u32, log_size, first.x.0, first.y.0, 0, source_len];
        let args = [&[from_source.sources, from_source.targets_after][..], &own].concat();
        runtime().launch(&Launch { kernel: "fft_tiny", items: sources.len(), rows: 1, args: &args });
        return;
    }
    let in_place = Lists { sources: to, targets_after: 0 };
    let twiddles = twiddles.args(log_size);
    for (index, pass) in passes(log_size, runtime().tiles()).into_iter().rev().enumerate() {
        let (lists, len) = if index == 0 { (from_source, source_len) } else { (in_place, u32::MAX) };
        let front = [lists.sources, lists.targets_after, twiddles.address, twiddles.len, twiddles.log];
        start(pass, log_size, sources.len(), true, front, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_every_layer_once() {
        for (log_size, tiles) in (3..=30).flat_map(|log_size| [(log_size, false), (log_size, true)]) {
            let mut next = 0;
            for pass in passes(log_size, tiles) {
                assert_eq!(pass.low, next, "2^{log_size}");
                let most = if tiles && log_size >= TILE_LAYERS { FFT_LAYERS_MAX } else { PLAIN_LAYERS_MAX };
                assert!(pass.tile || (1..=most).contains(&pass.layers), "2^{log_size}");
                next = pass.low + pass.layers;
            }
            assert_eq!(next, log_size);
        }
        assert_eq!((passes(20, false).len(), passes(20, true).len()), (5, 3));
        assert_eq!((passes(21, false).len(), passes(21, true).len()), (6, 3));
    }
}
