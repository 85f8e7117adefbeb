//! Where this node's proofs are made: on the OpenCL devices that are worth it, and on the processor.
//!
//! | module | decides |
//! |---|---|
//! | [`list`] | which devices there are: asked of `proofmesh-gpu` in a child process, because a driver may crash or hang |
//! | [`speed`] | which of them are faster than the processor: measured once per driver and binary, kept on disk |
//! | [`driver`] | what a driver gets of this machine: variables, folders, paths |
//! | `health` | which of them may be used now: failures disable a device for growing pauses |
//! | `fall` | what an end of a proof on a device means: the job's fault, or one that the processor does not share |
//! | `device` | what one device is used for, and why not |
//! | `look` | looking for devices, at the start and again: what came is measured and started, what went is not used |
//! | `seats` | [`Fleet`]: hands out a free place for a proof |
//! | `place` | [`Seat`]: one proof at a place, and the fall back to the processor |
//!
//! Relies on [`crate::worker`] for the processes: one per device, one for the processor. Nothing here links OpenCL.

mod device;
pub mod driver;
mod fall;
mod health;
pub mod list;
mod look;
mod place;
mod seats;
pub mod speed;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use device::{DEVICE_STATES, DeviceStatus};
pub use fall::{Fallback, Reason};
pub use list::Unmatched;
pub use place::{Attempt, Place, Seat};
pub use seats::{Fleet, FleetStatus, WeakFleet};

use crate::worker::{PulseLimits, WorkerConfig};

/// Which backend the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// The devices that are measured to be faster than the processor; the processor if there is none.
    Auto,
    /// The processor alone; no driver is touched.
    Cpu,
    /// The devices, whatever their speed; the processor only when they fail.
    Opencl,
}

impl BackendChoice {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Cpu, Self::Opencl];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Opencl => "opencl",
        }
    }

    /// The choice of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

/// Pause between two looks for devices that nodes keep: a listing opens every driver, which takes a moment.
pub const LOOK_EVERY: Duration = Duration::from_secs(600);

/// How a node proves.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// The processor's worker.
    pub cpu: WorkerConfig,
    /// Which backend is asked for.
    pub backend: BackendChoice,
    /// The binary `proofmesh-gpu`.
    pub binary: PathBuf,
    /// Devices that are used whatever their speed, and no others: numbers of the listing or parts of names. None: all.
    pub devices: Vec<String>,
    /// Devices that are never used, likewise.
    pub exclude: Vec<String>,
    /// Folder of what is kept per driver: compiled kernels, passed self-tests, measured speeds.
    pub cache: PathBuf,
    /// How long a device's worker may be without progress.
    pub pulses: PulseLimits,
    /// Pause between two looks for devices that have come or gone.
    pub look_every: Duration,
    /// Whether workers make their tables now, so that the first proof does not wait for them.
    pub warm: bool,
}
