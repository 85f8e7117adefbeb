//! OpenCL proving backend for stwo: proofs made on a GPU are byte for byte those of stwo's `SimdBackend`. Owns the device
//! layer, the kernels, `OclBackend` with all of stwo's backend traits, the translation of constraints to OpenCL C, and a
//! prove function that keeps everything on the device. Only the binary `proofmesh-gpu` depends on this crate, so only it
//! needs an OpenCL loader.

// Sizes are below 2^31 by stwo's own bounds and columns are addressed by 32-bit words on the device.
#![allow(clippy::cast_possible_truncation)]

pub mod air;
pub mod backend;
pub mod bench;
pub mod cairo;
pub mod constraints;
pub mod device;
pub mod error;
pub mod field;
mod kernels;
pub mod measure;
pub mod probe;
pub mod prove;
pub mod self_test;
pub mod worker;

pub use backend::{OclBackend, OclColumn};
pub use error::{Error, Result};
