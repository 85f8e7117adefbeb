//! The device layer: which devices there are, the one this process uses, its memory, its programs, and the counters of
//! what ran on it. Everything above it speaks of columns and kernels, never of OpenCL.

mod arena;
mod check;
mod counters;
mod list;
mod program;
mod queue;
mod release;
mod runtime;
mod staging;

pub use check::field_results;
pub(crate) use counters::watch_phases;
pub use counters::{
    Counters, PhaseCost, PhaseTimes, host_phase, phase, phase_costs, phase_times, reset_phases, set_exact_phases,
};
pub use list::{Choice, DeviceInfo, DeviceKind, Listing, list};
pub use program::CacheReport;
pub use runtime::{Options, Runtime, open};

pub(crate) use arena::GRANULE_WORDS;
pub(crate) use runtime::{Block, Launch, granule_of, runtime, slab_of};
