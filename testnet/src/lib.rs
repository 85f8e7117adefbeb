//! What tests and measures the network as a whole: real processes on one machine, faults for them, and the deterministic
//! simulation.

pub mod bench;
pub mod faults;
pub mod harness;
pub mod sim;
