//! One node's engine: the tree of actors that runs consensus, follows the chain, proves, verifies and votes.
//!
//! ```text
//! root
//! |- safety    wal and signer (one thread), store (one thread), consensus      a failure stops the node
//! |- network   link (swarm, gossip), sync, serve                               restarted with back-off
//! |- app       blobs, mempool, availability, votes, fraud, verifier, uptime, prover, scheduler
//! `- edge      events
//! ```
//!
//! Owns the actors, their mailboxes with bounds, and supervision; [`api::EngineHandle`] is all that the edge sees. Decides
//! nothing that nodes must agree on: that is `consensus`, `ledger` and `proof`. Relies on `storage`, `network` and `prover`.

pub mod api;
mod app;
pub mod config;
pub mod crossings;
mod edge;
mod mailbox;
mod metrics;
mod net;
mod outcomes;
mod reads;
mod safety;
mod start;
mod supervisor;
mod task;
#[cfg(test)]
mod testkit;
mod verified;
mod wiring;

pub use api::{ApiError, BlobUpload, EngineHandle};
pub use config::{EngineConfig, ExecutorConfig, ProverConfig};
pub use crossings::{Crossing, Crossings};
pub use start::{StartError, start};
pub use supervisor::StopReason;
