//! Every kernel against stwo's `CpuBackend`, and whole proofs against `SimdBackend`, on whatever OpenCL device there is
//! (the host's processor under PoCL, if nothing else). `PROOFGPU_DEVICE` pins another one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed expectation is a failed test")]

mod backend;
mod binary;
mod columns;
mod constraints;
mod lookups;
mod proofs;
mod support;
mod transforms;
