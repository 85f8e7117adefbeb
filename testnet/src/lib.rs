//! What tests the network as a whole: real processes on one machine, and the deterministic simulation.

pub mod fuzz;
pub mod harness;
pub mod sim;
