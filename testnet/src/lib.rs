//! What tests the network as a whole: real processes on one machine, and the deterministic simulation.

pub mod harness;
pub mod rpc;
pub mod sender;
pub mod sim;
