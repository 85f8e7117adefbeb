//! What tests and measures the network as a whole: real processes on one machine, and the deterministic simulation.

pub mod bench;
pub mod harness;
pub mod sim;
