//! The policy of proof system version 1, compiled in: everything that must not be read from a proof.
//!
//! The tests of the crate `prover` compute every pinned value here again from the real bootloader, the real preprocessed
//! table and the real `simple_output` program. Genesis may ask for more, never for less.
//!
//! `lifting_log_size` is `None`. With a fixed size the verifier would take every tree, the preprocessed one included, as
//! lifted to that size, so the preprocessed root would differ for each size, and small jobs would be lifted to the
//! largest. With `None` the upstream prover's default path builds twiddles for the largest domain of the field, but that
//! is a matter of the caller, not of the format: a prover that brings its own twiddles needs no fixed size.

use stwo::core::fri::FriConfig;
use stwo::core::pcs::PcsConfig;
use stwo_cairo_common::preprocessed_columns::preprocessed_trace::PreProcessedTraceVariant;
use types::felt::Felt;
use types::job::HashFunction;

use crate::security::{Security, security};

/// The proof system this build knows (stwo 2.3.0, cairo-air 1.3.0, Blake2s channel and trees) and, at the same time, the
/// version of the rules by which this verifier judges: it is part of every statement and every verdict.
pub use types::job::PROOF_SYSTEM_VERSION;

/// FRI queries.
pub const QUERIES: u32 = 72;
/// Bits of proof of work before the queries are drawn.
pub const POW_BITS: u32 = 26;
/// The code's rate is 2^-LOG_BLOWUP.
pub const LOG_BLOWUP: u32 = 1;
/// Binary folds per committed FRI layer.
pub const FOLD_STEP: u32 = 4;
/// The last FRI layer is a polynomial of degree below 2^LOG_LAST_LAYER_DEGREE_BOUND.
pub const LOG_LAST_LAYER_DEGREE_BOUND: u32 = 0;
/// Salt of the channel. Fixed, so that a prover cannot try another transcript per salt.
pub const CHANNEL_SALT: u32 = 0;
/// The one table of preprocessed columns allowed.
pub const VARIANT: PreProcessedTraceVariant = PreProcessedTraceVariant::CanonicalSmall;
/// Whether proofs open preprocessed columns that no component uses.
pub const INCLUDE_ALL_PREPROCESSED_COLUMNS: bool = false;
/// Root of the preprocessed tree of [`VARIANT`] at [`LOG_BLOWUP`].
pub const PREPROCESSED_ROOT: [u8; 32] = hex32(b"068d1166c9f9f0ec247641ca391ee8396170e69343dfcacc632f9638670d2bec");

/// Smallest component: the prover's vectors have 16 lanes.
pub const LOG_SIZE_MIN: u32 = 4;
/// Largest component: 2^24 rows, evaluated on domains of at most 2^25 points.
pub const LOG_SIZE_MAX: u32 = 24;
/// Largest component that counts its rows by a preprocessed sequence column: the longest one of [`VARIANT`].
pub const LOG_SIZE_SEQUENCE_MAX: u32 = 20;
/// Addresses, and so `ap` and all segments, stay below 2^29 ...
pub const ADDRESS_BOUND: u32 = 1 << 29;
/// ... and so do steps: this bounds `pc`, `ap` and `fp` away from the field's modulus.
pub const OPCODE_USES_MAX: u64 = 1 << 29;
/// Most tables of large memory values.
pub const BIG_TABLES_MAX: usize = 16;

/// Words in the pinned bootloader program.
pub const BOOTLOADER_WORDS: usize = 3169;
/// BLAKE3 of the bootloader's words, each as 32 little-endian bytes.
pub const BOOTLOADER_DIGEST: [u8; 32] = hex32(b"a1748769c569a3a10296153ccb811786cd5abe57f47df7328f927b9b923b3b97");
/// Builtin segments of the bootloader: every builtin there is, used or not.
pub const BOOTLOADER_SEGMENTS: u32 = 11;

/// Tasks in one proof: the binding task and the user's.
pub const TASKS: u64 = 2;

/// The configuration that a proof must carry, field by field.
pub const fn pcs_config() -> PcsConfig {
    PcsConfig {
        pow_bits: POW_BITS,
        fri_config: FriConfig {
            log_blowup_factor: LOG_BLOWUP,
            log_last_layer_degree_bound: LOG_LAST_LAYER_DEGREE_BOUND,
            n_queries: QUERIES as usize,
            fold_step: FOLD_STEP,
        },
        lifting_log_size: None,
    }
}

/// Hash of the pinned `simple_output` program, the binding task, by each function.
pub fn binding_program_hash(function: HashFunction) -> Felt {
    Felt::from_be_bytes(match function {
        HashFunction::Pedersen => BINDING_PEDERSEN,
        HashFunction::Poseidon => BINDING_POSEIDON,
        HashFunction::Blake => BINDING_BLAKE,
    })
    .unwrap_or(Felt::ZERO)
}

/// The policy's security figures.
pub fn figures() -> Security {
    security(LOG_BLOWUP, QUERIES, POW_BITS)
}

const BINDING_PEDERSEN: [u8; 32] = hex32(b"066ff76cdebe3a1c9c72145ab1ed53e93b5129e5d8e14afd275843207c80ae6d");
const BINDING_POSEIDON: [u8; 32] = hex32(b"00a316475cd5ab7ded239f764671331db5d437699ee42b5c66f664bf9739aee2");
const BINDING_BLAKE: [u8; 32] = hex32(b"032b88272d54b83880ebebd9c4292a650bee27d1575e82123391b6df2932e843");

/// Lower-case hex digits to bytes, at compile time: any other digit stops the build.
const fn hex32(digits: &[u8; 64]) -> [u8; 32] {
    let mut out = [0u8; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = nibble(digits[2 * i]) * 16 + nibble(digits[2 * i + 1]);
        i += 1;
    }
    out
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("a pinned constant holds a character that is no lower-case hex digit"),
    }
}
