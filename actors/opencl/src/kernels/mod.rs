//! The kernel library: OpenCL C sources and the names of their kernels. Owns the source that every program begins with
//! (memory addresses, field arithmetic) and the templates that are instantiated per size. What needs local memory is a
//! program of its own, so that a device without enough of it can do without.

mod straight;

/// Memory addresses and field arithmetic: the beginning of every program, generated constraint kernels included.
pub(crate) const PRELUDE: &str = concat!(include_str!("memory.cl"), include_str!("field.cl"));

const PLAIN: &str = concat!(
    include_str!("columns.cl"),
    include_str!("twiddles.cl"),
    include_str!("blake2s.cl"),
    include_str!("merkle.cl"),
    include_str!("quotients.cl"),
    include_str!("fri.cl"),
    include_str!("sampling.cl"),
    include_str!("witness.cl"),
    include_str!("poseidon2.cl"),
);

/// Loads and stores of `@K@` layers' values.
const FFT_VALUES: &str = include_str!("fft_values.cl");

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
/// Layers between two exchanges of a tile's values.
const TILE_STEP_LAYERS: u32 = 4;
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

/// Of these, passes that are as short or as long only above a tile.
pub(crate) const BESIDE_TILES: [&str; 4] = ["fft_forward_1", "fft_forward_5", "fft_inverse_1", "fft_inverse_5"];

/// Names of the kernels that fold a line several times, by number of folds less two.
pub(crate) const FOLD_LINES: [&str; 3] = ["fold_lines_2", "fold_lines_3", "fold_lines_4"];

/// Kernels that any device can run.
const PLAIN_KERNELS: &[&str] = &[
    "fft_forward_1",
    "fft_forward_2",
    "fft_forward_3",
    "fft_forward_4",
    "fft_forward_5",
    "fft_inverse_1",
    "fft_inverse_2",
    "fft_inverse_3",
    "fft_inverse_4",
    "fft_inverse_5",
    "fft_tiny",
    "field_test",
    "bit_reverse",
    "lift_add",
    "gather",
    "gather_hashes",
    "twiddles",
    "merkle_leaves",
    "merkle_leaves_even",
    "merkle_leaves_packed",
    "merkle_layer",
    "merkle_layers_3",
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

/// Kernels that need local memory and large work-groups.
const LOCAL_KERNELS: &[&str] = &["fft_forward_tile", "fft_inverse_tile", "merkle_top", "merkle_small"];

/// A program of the library.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    /// Its name in messages.
    pub(crate) what: &'static str,
    pub(crate) source: String,
    pub(crate) kernels: &'static [&'static str],
}

/// What any device can run.
pub(crate) fn plain() -> Library {
    let mut source = format!("{PRELUDE}{PLAIN}{}", straight::BUTTERFLIES);
    for layers in 1..=FFT_LAYERS_MAX {
        source.push_str(&straight::transforms(layers));
        source.push_str(&format!("{FFT_VALUES}{FFT_PASS}").replace("@K@", &layers.to_string()));
    }
    for folds in 2..2 + FOLD_LINES.len() as u32 {
        source.push_str(&FRI_FOLD.replace("@FOLDS@", &straight::folds(folds)).replace("@K@", &folds.to_string()));
    }
    Library { what: "the kernel library", source, kernels: PLAIN_KERNELS }
}

/// What needs [`TILE_BYTES`] of local memory and work-groups of [`TILE_ITEMS`] items.
pub(crate) fn local() -> Library {
    const TREES: &str = concat!(include_str!("blake2s.cl"), include_str!("merkle_top.cl"));
    let steps = straight::transforms(TILE_STEP_LAYERS);
    let values = FFT_VALUES.replace("@K@", &TILE_STEP_LAYERS.to_string());
    let source = format!("{PRELUDE}{TREES}{}{steps}{values}{FFT_TILE}", straight::BUTTERFLIES);
    Library { what: "the kernels with local memory", source, kernels: LOCAL_KERNELS }
}
