//! What the end of a proof on a device means: a fault of the job, which the processor would share, or one of the device.

use crate::error::DeviceFault;
use crate::worker::JobError;

/// Kinds of reasons for making a proof on the processor after all; few, because they are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The device's process did not start: driver, self-test.
    Start,
    /// The device's process died.
    Died,
    /// The device's process said nothing for too long.
    Hung,
    /// The job needs more memory than the device has, or the machine has beside it.
    Memory,
    /// The device gave no proof, or a wrong one.
    Device,
    /// The device's process sent what no worker sends.
    Protocol,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Start, Self::Died, Self::Hung, Self::Memory, Self::Device, Self::Protocol];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Died => "died",
            Self::Hung => "hung",
            Self::Memory => "memory",
            Self::Device => "device",
            Self::Protocol => "protocol",
        }
    }

    /// Why the processor shall try again after this end of a proof on a device; `None` if it would end the same way.
    pub(super) fn of(error: &JobError) -> Option<Self> {
        match error {
            JobError::Start { .. } => Some(Self::Start),
            JobError::Crashed { .. } | JobError::OutOfMemory { .. } | JobError::CpuLimit => Some(Self::Died),
            JobError::Hung { .. } => Some(Self::Hung),
            JobError::Memory { .. } | JobError::Device(DeviceFault::TooLarge { .. }) => Some(Self::Memory),
            JobError::Device(DeviceFault::Failed { .. }) => Some(Self::Device),
            JobError::Protocol { .. } => Some(Self::Protocol),
            JobError::Input(_)
            | JobError::Failed { .. }
            | JobError::Resources { .. }
            | JobError::Internal { .. }
            | JobError::Unprovable { .. }
            | JobError::TimedOut { .. }
            | JobError::Cancelled => None,
        }
    }

    /// Whether the failure counts against the device. A job that is too large says nothing about it; and unless the device
    /// did not even start, it counts only if the processor then proves the job: else a hostile program that no backend
    /// can prove would disable devices.
    pub(super) fn counts(self, proved_on_processor: bool) -> bool {
        match self {
            Self::Start => true,
            Self::Memory => false,
            Self::Died | Self::Hung | Self::Device | Self::Protocol => proved_on_processor,
        }
    }
}

/// A proof that a device did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The kind of reason.
    pub reason: Reason,
    /// In words.
    pub detail: String,
    /// The device that was tried.
    pub device: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_job_stay_with_the_job() {
        let detail = String::new;
        let failed = JobError::Failed { reason: types::verdict::FailureReason::StepLimit, detail: detail(), steps: 1 };
        for error in [failed, JobError::Resources { detail: detail() }, JobError::Cancelled] {
            assert_eq!(Reason::of(&error), None, "{error}");
        }
        let killed = JobError::OutOfMemory { status: detail(), detail: detail() };
        assert_eq!(Reason::of(&killed), Some(Reason::Died));
        assert_eq!(Reason::of(&JobError::Memory { needed: 2, limit: 1 }), Some(Reason::Memory));
        let too_large = JobError::Device(DeviceFault::TooLarge { detail: detail() });
        assert_eq!(Reason::of(&too_large), Some(Reason::Memory));
        assert_eq!(Reason::of(&JobError::Device(DeviceFault::failed(""))), Some(Reason::Device));
        assert!(!Reason::Memory.counts(true) && Reason::Start.counts(false));
        assert!(Reason::Died.counts(true) && !Reason::Died.counts(false));
    }
}
