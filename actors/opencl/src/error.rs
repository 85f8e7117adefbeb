//! The crate's errors. Owns the error type, the way a failure of the device leaves stwo's traits (which cannot return an
//! error), and the boundary at which it becomes an error again. Relies on unwinding panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use ocl::core::Status;

/// What can go wrong between us and a device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No platform is registered with the loader.
    #[error(
        "the OpenCL loader knows no platform: {0}. Remedy: install a driver (Debian: nvidia-opencl-icd, \
         intel-opencl-icd, pocl-opencl-icd), or point OPENCL_VENDOR_PATH or OCL_ICD_VENDORS at its folder"
    )]
    NoPlatform(String),
    /// What the process that lists the devices said.
    #[error("{0}")]
    Probe(String),
    /// Platforms, but nothing usable on them.
    #[error(
        "no usable OpenCL device: {0}. Remedy: see `proofmesh-gpu devices` for what was found and why it is refused"
    )]
    NoDevice(String),
    /// The wanted device does not exist.
    #[error(
        "device {wanted:?} was asked for, found are: {found}. Remedy: name one of these by number or part of its name"
    )]
    UnknownDevice {
        /// What the configuration says.
        wanted: String,
        /// The devices there are.
        found: String,
    },
    /// A call of the driver failed.
    #[error("OpenCL call {call} failed: {reason}")]
    Call {
        /// The call, in words.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The driver refused a kernel's source.
    #[error("the driver of {device} cannot build {what}: {log}")]
    Build {
        /// Name of the device.
        device: String,
        /// Which program.
        what: String,
        /// The compiler's log, cut to its first lines.
        log: String,
    },
    /// The device's memory is used up.
    #[error("device memory: {needed} bytes are needed, {free} of {limit} are free. Remedy: a smaller job, or the CPU")]
    OutOfMemory {
        /// Bytes of the request.
        needed: u64,
        /// Bytes not in use.
        free: u64,
        /// Bytes that may be used in all.
        limit: u64,
    },
    /// The driver has no memory left for a call, whatever our own account says: it commits memory late, or another
    /// process has some.
    #[error("device memory: the driver has none for the call {call}: {reason}. Remedy: a smaller job, or the CPU")]
    DriverMemory {
        /// The call, in words.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// A kernel computes something else than it should.
    #[error("self-test {test} failed on {device}: {reason}. The device must not be used")]
    SelfTest {
        /// Name of the test.
        test: &'static str,
        /// Name of the device.
        device: String,
        /// The first difference.
        reason: String,
    },
    /// Something was computed on the host, or read one by one, where that is forbidden.
    #[error("strict mode: {0}")]
    Strict(String),
    /// A process-wide device was opened before with another choice.
    #[error("this process already uses {0}; a worker process serves one device")]
    AlreadyOpen(String),
    /// Code panicked for another reason than a device failure.
    #[error("panic: {0}")]
    Panic(String),
    /// The input does not fit.
    #[error("{field}: {value} is not allowed ({limit})")]
    Input {
        /// Which input.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        limit: String,
    },
    /// A Cairo proof was not made; the text says at which step, and why.
    #[error("no proof: {0}")]
    NoProof(String),
    /// A proof that we made does not verify.
    #[error("own proof does not verify: {0}")]
    Unverified(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Names the driver call that failed.
    pub(crate) fn call(call: &'static str) -> impl FnOnce(ocl::core::Error) -> Self {
        move |error| match error.api_status() {
            Some(status) if is_shortage(status) => Self::DriverMemory { call, reason: first_lines(&error.to_string()) },
            _ => Self::Call { call, reason: first_lines(&error.to_string()) },
        }
    }

    /// Whether the job is too large for the device, which says nothing against either.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. } | Self::DriverMemory { .. })
    }
}

/// Whether a driver means by this code that it has too little memory or room for a call.
fn is_shortage(status: Status) -> bool {
    matches!(
        status,
        Status::CL_MEM_OBJECT_ALLOCATION_FAILURE | Status::CL_OUT_OF_RESOURCES | Status::CL_OUT_OF_HOST_MEMORY
    )
}

/// The informative lines of a driver's message: its frames and blank lines dropped, at most 12 lines.
pub(crate) fn first_lines(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("####"));
    lines.take(12).collect::<Vec<_>>().join(" | ")
}

/// Leaves a method of stwo's traits, none of which can return an error. Ends at [`guarded`].
pub(crate) fn raise(error: Error) -> ! {
    tracing::error!(%error, "device failure");
    panic_any(error)
}

/// The value, or [`raise`].
pub(crate) fn settle<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(error),
    }
}

/// Runs a piece of work on the device; a device failure inside it, or any other panic, is the error.
///
/// # Errors
/// What the device reported, or [`Error::Panic`] with the message.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast::<Error>() {
        Ok(error) => *error,
        Err(payload) => Error::Panic(panic_message(payload.as_ref())),
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_failure_comes_back_as_itself() {
        let error = guarded(|| raise(Error::Strict("read".to_owned()))).expect_err("raised");
        assert!(matches!(error, Error::Strict(reason) if reason == "read"));
        let error = guarded(|| panic!("other {}", 1)).expect_err("panicked");
        assert!(matches!(error, Error::Panic(reason) if reason == "other 1"));
        assert_eq!(guarded(|| 7).expect("no failure"), 7);
    }

    #[test]
    fn a_shortage_of_memory_is_told_from_a_failure() {
        let shortages =
            [Status::CL_MEM_OBJECT_ALLOCATION_FAILURE, Status::CL_OUT_OF_RESOURCES, Status::CL_OUT_OF_HOST_MEMORY];
        assert!(shortages.into_iter().all(is_shortage));
        let failures = [Status::CL_INVALID_COMMAND_QUEUE, Status::CL_INVALID_VALUE, Status::CL_INVALID_BUFFER_SIZE];
        assert!(!failures.into_iter().any(is_shortage));
        let said = Error::DriverMemory { call: "write", reason: "CL_OUT_OF_RESOURCES (-5)".to_owned() };
        assert!(said.is_memory() && said.to_string().contains("CL_OUT_OF_RESOURCES (-5)"), "{said}");
        assert!(!Error::call("write")("lost".into()).is_memory());
    }

    #[test]
    fn driver_messages_lose_their_frames() {
        assert_eq!(first_lines("\n#### OPENCL ####\n\n  one \n\ntwo\n####\n"), "one | two");
    }
}
