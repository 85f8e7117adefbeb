//! What tests the network as a whole: real processes on one machine, among them one that cheats, and the deterministic
//! simulation.

pub mod adversary;
pub mod harness;
pub mod rpc;
pub mod sim;
