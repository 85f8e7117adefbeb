//! Real nodes on one machine: processes of the shipped binary over real sockets, for the testnet script and for tests.
//!
//! Owns the processes it starts: each dies with the one that started it, and is stopped by id, never by name. Everything it
//! asks a node goes through the shipped command line, so what it shows is what a user gets.

mod adversary;
pub mod audit;
mod cluster;
pub mod customer;
pub mod disk;
mod genesis;
pub mod links;
mod process;
pub mod trial;

pub use adversary::Adversary;
pub use cluster::{Cluster, NodeInfo, Options, TestnetFile};
pub use process::{Cli, Launch, NodeProcess, binary, gpu_binary};
