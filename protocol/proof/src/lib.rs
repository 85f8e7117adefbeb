//! What proofs must say, and the checks that they do: the strict verifier of Cairo proofs, its compiled-in policy, security
//! figures, program hashes, and offline verification of receipts.
//!
//! Relies on stwo's and cairo-air's *verifiers* only (no prover feature, no nightly language), on the shared records of
//! `types`, and on hashes. No I/O, no clock, no threads; re-execution of programs is never part of this crate.

use thiserror::Error;
use types::verdict::Check;

pub mod cairo;
mod checks;
mod components;
pub mod envelope;
mod felts;
pub mod policy;
pub mod program;
pub mod receipt;
pub mod security;

pub use cairo::{Verified, verify};
pub use checks::tasks::Task;

/// Why a proof was refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{check}: {reason}")]
pub struct Rejection {
    /// The first check that failed.
    pub check: Check,
    /// What it found, for people; never compared.
    pub reason: String,
    /// The check did not answer but panicked. Such a refusal is no evidence against anybody: a voter abstains.
    pub panicked: bool,
}

impl Rejection {
    /// A refusal by a check that answered.
    pub fn new(check: Check, reason: impl Into<String>) -> Self {
        Self { check, reason: reason.into(), panicked: false }
    }

    /// [`Rejection::new`] as the result of a check.
    pub(crate) fn because<T>(check: Check, reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::new(check, reason))
    }
}
