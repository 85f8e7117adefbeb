//! Constraints of arbitrary AIRs on the device: an AIR's `evaluate` is recorded once per proof into a graph, the graph's
//! structure (without any value that depends on the proof, the claim or the size) is translated to OpenCL C and compiled
//! once, and every value becomes a parameter of the launch.

mod component;
mod emit;
mod graph;
mod hash;
mod host;
mod record;
mod recorded;
mod store;

pub use component::{Ahead, Recordable};
pub use emit::Shape;
pub use recorded::{Recorded, Side};
pub use store::{Compile, are_awaited, compile_mode, set_compile_mode};
