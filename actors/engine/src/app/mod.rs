//! The app subtree: everything that follows decided blocks and may be lost and rebuilt.

pub(crate) mod ahead;
pub(crate) mod availability;
pub(crate) mod blobs;
pub(crate) mod fraud;
pub(crate) mod intake;
pub(crate) mod mempool;
pub(crate) mod outbox;
pub(crate) mod places;
pub(crate) mod prover;
pub(crate) mod scheduler;
pub(crate) mod uptime;
pub(crate) mod verifier;
pub(crate) mod votes;
