//! Decoders under hostile bytes: one function for each door through which a stranger's bytes come in.
//!
//! A target takes any bytes, hands them to the decoder that the node uses, and panics if the decoder breaks its word: a
//! record that decodes must encode to the same bytes, and what is asked of it next must answer. [`samples`] gives each
//! target valid bytes to start from, [`mutate`] bends them. `tests/decoders.rs` runs all targets for some seconds; the
//! folder `fuzz/` hands the same functions to cargo-fuzz. [`mutants`] bends whole receipts field by field.

pub mod mutants;
pub mod mutate;
pub mod samples;
mod targets;

pub use targets::{TARGETS, Target};
