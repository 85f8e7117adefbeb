//! Byzantine agreement on blocks, without I/O: a machine that turns (time, input) into ordered outputs.
//!
//! Owns the adapter around the Tendermint core of malachite, the signer's guard, the codec of the consensus log, what is
//! admitted from gossip, the hunt for equivocation, and the plan of block sync. Relies on `types` for records, hashes and
//! signatures; validity of blocks is the ledger's and comes in as an answer. The core's own types do not leave the crate.
//!
//! The contract of [`machine::Output`]s: the shell executes them in the order given. `Flush` returns only when every record
//! appended and persisted before it is on disk; nothing after it may happen earlier. So whatever another node can see of
//! this one is already on disk.

pub mod admission;
mod context;
mod convert;
pub mod evidence;
pub mod guard;
pub mod held;
pub mod machine;
pub mod proposer;
pub mod sync;
mod waits;
pub mod wal;

pub use admission::{Acceptance, Fault, Ignored, check_block};
pub use guard::{Guard, GuardRecord, Slot};
pub use machine::{Ahead, Fatal, Input, Machine, Output, TimerId, TimerKind};
pub use proposer::proposer;
pub use sync::{Sync, SyncInput, SyncOutput};

#[cfg(test)]
mod tests;
