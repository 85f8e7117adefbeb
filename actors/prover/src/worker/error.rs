//! Every end that a job in a child can come to.

use thiserror::Error;
use types::verdict::FailureReason;

use crate::error::{DeviceFault, Fault};
use crate::worker::wire::Refusal;

/// Why a job has no result. The first seven are the worker's own answers, the others say how it ended.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum JobError {
    /// The input is refused, on every node alike.
    #[error("{0}")]
    Input(Box<Fault>),
    /// The program fails, on every node alike.
    #[error("the program failed after {steps} steps ({reason:?}): {detail}")]
    Failed {
        /// Kind of failure.
        reason: FailureReason,
        /// Words for people.
        detail: String,
        /// Steps taken until then.
        steps: u64,
    },
    /// The run needs more than this node gives it.
    #[error("the run needs more than this node gives it: {detail}")]
    Resources {
        /// What was missing.
        detail: String,
    },
    /// A fault of this build.
    #[error("internal: {detail}")]
    Internal {
        /// What went wrong.
        detail: String,
    },
    /// The proof would need more memory than there is.
    #[error("declined: the proof needs about {needed} bytes of memory, {limit} are free for it")]
    Memory {
        /// Expected peak, in bytes.
        needed: u64,
        /// What it may take, in bytes.
        limit: u64,
    },
    /// There is no proof of this run that the strict verifier accepts.
    #[error("unprovable: {detail}")]
    Unprovable {
        /// What was met.
        detail: String,
    },
    /// The device that the worker computes on gave no proof: a worker on the processor may.
    #[error("the device gave no proof: {0}")]
    Device(DeviceFault),
    /// The child could not be started.
    #[error("the worker could not be started: {detail}")]
    Start {
        /// What the system said.
        detail: String,
    },
    /// The child ended by a signal or with an error.
    #[error("the worker crashed ({status}){detail}")]
    Crashed {
        /// Exit code or signal.
        status: String,
        /// Its last words, if any.
        detail: String,
    },
    /// The child ran out of memory, or the kernel took it.
    #[error("the worker ran out of memory or was killed from outside ({status}){detail}")]
    OutOfMemory {
        /// Exit code or signal.
        status: String,
        /// Its last words, if any.
        detail: String,
    },
    /// The child used up its processor time.
    #[error("the worker used up its processor time")]
    CpuLimit,
    /// The job took longer than it may.
    #[error("the job took longer than {limit_ms} ms")]
    TimedOut {
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The child said nothing for too long.
    #[error("the worker hung: nothing for {silence_ms} ms")]
    Hung {
        /// The silence, in milliseconds.
        silence_ms: u64,
    },
    /// The node ended the job.
    #[error("the job was cancelled")]
    Cancelled,
    /// The child sent what no worker sends.
    #[error("the worker sent a wrong record: {detail}")]
    Protocol {
        /// What was met.
        detail: String,
    },
}

impl JobError {
    /// Whether the answer says something about the job itself, so that every node would find the same.
    pub fn is_about_the_job(&self) -> bool {
        matches!(self, Self::Input { .. } | Self::Failed { .. })
    }

    /// Whether a child that gave this error can take another request; `runs_apart` as in its configuration.
    pub(crate) fn leaves_child_usable(&self, runs_apart: bool) -> bool {
        match self {
            Self::Resources { .. } => runs_apart,
            Self::Input { .. }
            | Self::Failed { .. }
            | Self::Internal { .. }
            | Self::Memory { .. }
            | Self::Device(DeviceFault::TooLarge { .. })
            | Self::Unprovable { .. } => true,
            // What the libraries left behind after a panic or a refused allocation is anybody's guess; so is a device.
            Self::Device(DeviceFault::Failed { .. })
            | Self::Start { .. }
            | Self::Crashed { .. }
            | Self::OutOfMemory { .. }
            | Self::CpuLimit
            | Self::TimedOut { .. }
            | Self::Hung { .. }
            | Self::Cancelled
            | Self::Protocol { .. } => false,
        }
    }
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Input(fault) => Self::Input(fault),
            Refusal::Failed { reason, detail, steps } => Self::Failed { reason, detail, steps },
            Refusal::Resources { detail, .. } => Self::Resources { detail },
            Refusal::Internal { detail } => Self::Internal { detail },
            Refusal::Memory { needed, limit } => Self::Memory { needed, limit },
            Refusal::Unprovable { detail } => Self::Unprovable { detail },
            Refusal::Device(fault) => Self::Device(fault),
        }
    }
}
