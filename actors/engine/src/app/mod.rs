//! The app subtree: everything that follows decided blocks and may be lost and rebuilt.

pub mod availability;
pub mod blobs;
pub mod mempool;
pub mod prover;
pub mod scheduler;
pub mod verifier;
pub mod votes;
