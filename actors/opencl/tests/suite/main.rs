//! The correctness suite of the library (`opencl::self_test`), one test per check, on whatever OpenCL device there is
//! (the host's processor under PoCL, if nothing else); the published Poseidon2; the binary and what it says when
//! something is missing or broken. `PROOFGPU_DEVICE` pins another device.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed expectation is a failed test")]

mod binary;
mod checks;
mod poseidon2;
mod races;
mod refusals;
