//! What tests and measures the network as a whole: real processes on one machine, faults and cheats for them, hostile bytes,
//! and the deterministic simulation.

pub mod adversary;
pub mod bench;
pub mod faults;
pub mod fuzz;
pub mod harness;
pub mod rpc;
pub mod sender;
pub mod sim;
