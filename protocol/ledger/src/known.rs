//! What the caller has verified before: a signature is checked once on a node, not again in each block that is built, checked
//! or applied.
//!
//! Sound as long as the caller remembers content *and* signature ([`SignedTx::sealed`]) of what verified for this chain:
//! verification is a pure function of these.

use types::transaction::SignedTx;

/// Remembers verified transactions.
pub trait Known {
    /// Whether exactly this content with exactly this signature has verified on this chain. `false` only costs time.
    fn verified(&self, tx: &SignedTx) -> bool;
}

/// Remembers nothing: every signature is checked.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Known for Nothing {
    fn verified(&self, _: &SignedTx) -> bool {
        false
    }
}
