//! The circle transforms of many columns of one size at once. Owns how layers are cut into passes; relies on the
//! kernels `fft_*`. Each pass reads and writes every value once.

use stwo::core::fields::m31::BaseField;
use stwo::core::poly::circle::CircleDomain;

use super::{OclColumn, OclTwiddles, Table};
use crate::device::{Launch, runtime};
use crate::kernels::{FFT_LAYERS_MAX, FORWARD, INVERSE};

/// Sizes up to this logarithm have kernels of their own: their twiddles do not follow from a line's.
const TINY_LOG: u32 = 2;

/// Layers per pass, lowest layers first: as few passes as possible, of nearly equal size.
fn passes(log_size: u32) -> Vec<(u32, u32)> {
    let count = log_size.div_ceil(FFT_LAYERS_MAX);
    let mut low = 0;
    (0..count)
        .map(|index| {
            let layers = (log_size - low).div_ceil(count - index);
            let pass = (low, layers);
            low += layers;
            pass
        })
        .collect()
}

fn table(sources: &[&OclColumn<BaseField>], targets: &[&OclColumn<BaseField>]) -> Table {
    Table::new(sources.iter().chain(targets).map(|column| column.address()).collect())
}

fn inverse_of_size(log_size: u32) -> u32 {
    BaseField::from_u32_unchecked(1 << log_size).inverse().0
}

/// Interpolates in place: values on `domain` become coefficients. All columns have the domain's size.
pub(super) fn interpolate(columns: &[&OclColumn<BaseField>], domain: CircleDomain, inverse_twiddles: &OclTwiddles) {
    let log_size = domain.log_size();
    let count = columns.len() as u32;
    let both = table(columns, columns);
    if log_size <= TINY_LOG {
        let first = domain.half_coset.initial;
        // The first point of a domain of two has x = 0, and no use for it.
        let x = if log_size == TINY_LOG { first.x.inverse().0 } else { 0 };
        let args = [both.address(), count, log_size, x, first.y.inverse().0, inverse_of_size(log_size), 4];
        runtime().launch(&Launch { kernel: "fft_tiny", items: columns.len(), rows: 1, args: &args });
        return;
    }
    let twiddles = inverse_twiddles.args(log_size);
    for (low, layers) in passes(log_size) {
        let items = 1_usize << (log_size - layers);
        let scale = if low + layers == log_size { inverse_of_size(log_size) } else { 1 };
        let args = [both.address(), count, twiddles.address, twiddles.len, twiddles.log, low, scale, items as u32];
        runtime().launch(&Launch { kernel: INVERSE[layers as usize - 1], items, rows: columns.len(), args: &args });
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
    let count = sources.len() as u32;
    let Some(source_len) = sources.first().map(|column| column.count() as u32) else { return };
    let from_source = table(sources, targets);
    if log_size <= TINY_LOG {
        let first = domain.half_coset.initial;
        let args = [from_source.address(), count, log_size, first.x.0, first.y.0, 0, source_len];
        runtime().launch(&Launch { kernel: "fft_tiny", items: sources.len(), rows: 1, args: &args });
        return;
    }
    let in_place = table(targets, targets);
    let twiddles = twiddles.args(log_size);
    for (index, (low, layers)) in passes(log_size).into_iter().rev().enumerate() {
        let items = 1_usize << (log_size - layers);
        let (tables, len) = if index == 0 { (&from_source, source_len) } else { (&in_place, u32::MAX) };
        let args = [tables.address(), count, twiddles.address, twiddles.len, twiddles.log, low, len, items as u32];
        runtime().launch(&Launch { kernel: FORWARD[layers as usize - 1], items, rows: sources.len(), args: &args });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_cover_every_layer_once() {
        for log_size in 3..=30 {
            let passes = passes(log_size);
            let mut next = 0;
            for (low, layers) in passes {
                assert_eq!(low, next, "2^{log_size}");
                assert!((1..=FFT_LAYERS_MAX).contains(&layers), "2^{log_size}");
                next = low + layers;
            }
            assert_eq!(next, log_size);
        }
    }
}
