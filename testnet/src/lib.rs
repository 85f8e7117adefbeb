//! What tests the network as a whole: real processes on one machine, faults for them, and the deterministic simulation.

pub mod faults;
pub mod harness;
pub mod sim;
