//! The kernel library: OpenCL C sources and the names of their kernels. Owns the source that every program begins with
//! (memory addresses, field arithmetic) and the templates that are instantiated per size.

/// Memory addresses and field arithmetic: the beginning of every program, generated constraint kernels included.
pub(crate) const PRELUDE: &str = concat!(include_str!("memory.cl"), include_str!("field.cl"));

const FIXED: &str = concat!(
    include_str!("columns.cl"),
    include_str!("twiddles.cl"),
    include_str!("blake2s.cl"),
    include_str!("merkle_top.cl"),
    include_str!("quotients.cl"),
    include_str!("fri.cl"),
    include_str!("sampling.cl"),
    include_str!("witness.cl"),
    include_str!("poseidon2.cl"),
);

/// One pass of the transforms over `@K@` layers, held in registers.
const FFT_PASS: &str = include_str!("fft.cl");

/// The lowest layers of the transforms in local memory.
const FFT_TILE: &str = include_str!("fft_tile.cl");

/// Several folds of a line, `@K@` at once.
const FRI_FOLD: &str = include_str!("fri_fold.cl");

/// Layers per register pass at most: 32 values in registers.
pub(crate) const FFT_LAYERS_MAX: u32 = 5;
/// Layers of a tile.
pub(crate) const TILE_LAYERS: u32 = 12;
/// Items of a tile's work-group.
pub(crate) const TILE_ITEMS: usize = 256;
/// Bytes of local memory of a tile.
pub(crate) const TILE_BYTES: u64 = 4 * (4096 + 256);

/// Logarithm of the nodes from which one work-group makes the rest of a tree.
pub(crate) const TOP_LOG: u32 = 9;
/// Items of that work-group.
pub(crate) const TOP_ITEMS: usize = 256;

/// Names of the transform kernels by direction and number of layers less one.
pub(crate) const FORWARD: [&str; 5] =
    ["fft_forward_1", "fft_forward_2", "fft_forward_3", "fft_forward_4", "fft_forward_5"];
/// As [`FORWARD`], for the inverse transform.
pub(crate) const INVERSE: [&str; 5] =
    ["fft_inverse_1", "fft_inverse_2", "fft_inverse_3", "fft_inverse_4", "fft_inverse_5"];

/// Names of the kernels that fold a line several times, by number of folds less two.
pub(crate) const FOLD_LINES: [&str; 3] = ["fold_lines_2", "fold_lines_3", "fold_lines_4"];

/// All kernels of the library.
pub(crate) const LIBRARY_KERNELS: &[&str] = &[
    "fft_forward_1",
    "fft_forward_2",
    "fft_forward_3",
    "fft_forward_4",
    "fft_forward_5",
    "fft_forward_tile",
    "fft_inverse_1",
    "fft_inverse_2",
    "fft_inverse_3",
    "fft_inverse_4",
    "fft_inverse_5",
    "fft_inverse_tile",
    "fft_tiny",
    "field_test",
    "bit_reverse",
    "lift_add",
    "gather",
    "twiddles",
    "merkle_leaves",
    "merkle_layer",
    "merkle_layers_3",
    "merkle_top",
    "merkle_small",
    "pack_leaves",
    "grind",
    "numerators",
    "quotients",
    "fold",
    "fold_lines_2",
    "fold_lines_3",
    "fold_lines_4",
    "decompose",
    "basis_weights",
    "barycentric_weights",
    "dot_columns",
    "sum_groups",
    "wide_fibonacci",
    "poseidon2",
    "row_numbers",
    "coset_sums",
    "sums_before",
    "coset_running",
];

/// The library's source.
pub(crate) fn library() -> String {
    let mut source = format!("{PRELUDE}{FIXED}");
    for layers in 1..=FFT_LAYERS_MAX {
        source.push_str(&FFT_PASS.replace("@K@", &layers.to_string()));
    }
    source.push_str(FFT_TILE);
    for folds in 2..2 + FOLD_LINES.len() {
        source.push_str(&FRI_FOLD.replace("@K@", &folds.to_string()));
    }
    source
}
