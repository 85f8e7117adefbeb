//! Real nodes on one machine: processes of the shipped binary over real sockets, for the testnet script and for tests.
//!
//! Owns the processes it starts: each dies with the one that started it, and is stopped by id, never by name. Everything it
//! asks a node goes through the shipped command line, so what it shows is what a user gets.

mod cluster;
mod genesis;
mod process;

pub use cluster::{Cluster, NodeInfo, Options, TestnetFile};
pub use process::{Cli, NodeProcess, binary};
