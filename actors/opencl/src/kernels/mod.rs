//! The kernel library: OpenCL C sources and the names of their kernels. Owns the source that every program begins with
//! (memory addresses, field arithmetic) and the templates that are instantiated per size.

/// Memory addresses and field arithmetic: the beginning of every program, generated constraint kernels included.
pub(crate) const PRELUDE: &str = concat!(include_str!("memory.cl"), include_str!("field.cl"));

const FIXED: &str = concat!(
    include_str!("columns.cl"),
    include_str!("twiddles.cl"),
    include_str!("blake2s.cl"),
    include_str!("quotients.cl"),
    include_str!("fri.cl"),
    include_str!("sampling.cl"),
    include_str!("witness.cl"),
);

/// One pass of the transforms over `@K@` layers, held in registers.
const FFT_PASS: &str = include_str!("fft.cl");

/// Layers per pass at most: 16 values in registers.
pub(crate) const FFT_LAYERS_MAX: u32 = 4;

/// Names of the transform kernels by direction and number of layers less one.
pub(crate) const FORWARD: [&str; 4] = ["fft_forward_1", "fft_forward_2", "fft_forward_3", "fft_forward_4"];
/// As [`FORWARD`], for the inverse transform.
pub(crate) const INVERSE: [&str; 4] = ["fft_inverse_1", "fft_inverse_2", "fft_inverse_3", "fft_inverse_4"];

/// All kernels of the library.
pub(crate) const LIBRARY_KERNELS: &[&str] = &[
    "fft_forward_1",
    "fft_forward_2",
    "fft_forward_3",
    "fft_forward_4",
    "fft_inverse_1",
    "fft_inverse_2",
    "fft_inverse_3",
    "fft_inverse_4",
    "fft_tiny",
    "field_test",
    "bit_reverse",
    "lift_add",
    "gather",
    "twiddles",
    "merkle_leaves",
    "merkle_layer",
    "merkle_layers_3",
    "pack_leaves",
    "grind",
    "numerators",
    "quotients",
    "fold",
    "decompose",
    "basis_weights",
    "barycentric_weights",
    "dot_columns",
    "sum_groups",
    "wide_fibonacci",
];

/// The library's source.
pub(crate) fn library() -> String {
    let mut source = format!("{PRELUDE}{FIXED}");
    for layers in 1..=FFT_LAYERS_MAX {
        source.push_str(&FFT_PASS.replace("@K@", &layers.to_string()));
    }
    source
}
