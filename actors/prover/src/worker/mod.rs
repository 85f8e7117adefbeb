//! Programs run in child processes of the same binary: a prover that stays warm between jobs, an executor per run.
//!
//! The node's binary calls [`main`] when it is started with the hidden arguments `worker prove` or `worker execute`. The
//! node itself uses [`Worker`] (one child, many jobs, restarted when it dies) and [`execute`] and [`inspect`] (one child
//! each). Parent and child talk over a socket pair that only they hold; see `wire`. What a child may do is in `sandbox`.
//!
//! A binary that proves on a device calls [`device_main`] for `worker prove`, and [`main`] for `worker trace`: the process
//! that drives the device runs no program, but has a child in the full sandbox that does, see `trace`. To the node it is a
//! [`Worker`] like the other.
//!
//! Every end that a child can come to is a value of [`JobError`]: nothing that a program does reaches the node's process.

mod child;
mod device;
mod error;
mod parent;
mod process;
pub mod samples;
mod sandbox;
mod trace;
mod wire;

pub(crate) use child::{give_memory_back, keep_memory};
pub use device::{Activity, Ahead, Compile, DeviceProcess, Opened, device_main};
pub use error::JobError;
pub use parent::{Event, Job, Status, Worker, WorkerState, execute, inspect};
pub(crate) use process::spawn;
pub use process::{PulseLimits, WorkerConfig};
pub use sandbox::{Reach, Sandbox, die_with_parent, step_back};
pub use wire::Kernels;

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes proofs; lives for many jobs.
    Prove,
    /// Runs or inspects one program.
    Execute,
    /// Runs programs for a process that proves them on a device; lives for many jobs.
    Trace,
}

impl Kind {
    /// The argument after `worker`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prove => "prove",
            Self::Execute => "execute",
            Self::Trace => "trace",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Prove, Self::Execute, Self::Trace].into_iter().find(|kind| kind.name() == name)
    }
}

/// The whole life of a worker process. Call it first thing in `main`, before any thread is started.
pub fn main(kind: Kind) -> ! {
    child::main(kind)
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
pub(crate) mod tests;
