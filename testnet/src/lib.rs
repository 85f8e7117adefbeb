//! What tests and measures the network as a whole: real processes on one machine, faults and cheats for them, and the
//! deterministic simulation.

pub mod adversary;
pub mod bench;
pub mod faults;
pub mod harness;
pub mod rpc;
<<<<<<< HEAD
=======
pub mod sender;
>>>>>>> 32580d3f7d1783a6b8832515b90c9774fa4931a3
pub mod sim;
