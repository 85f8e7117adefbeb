//! The proving step as a trait: what may differ between the processor and a device, and nothing else.
//!
//! [`crate::Engine`] does everything around it (program, run, strict verification, envelope), [`crate::flow::prove`] the
//! protocol inside it; a backend holds the shared tables and brings a [`crate::flow::Scheme`].

use std::sync::Arc;

use bincode::{Decode, Encode};
use proof::envelope::CairoProof;
use proof::policy;
pub use stwo_cairo_adapter::ProverInput;
pub use stwo_cairo_common::preprocessed_columns::preprocessed_trace::{PreProcessedTrace, PreProcessedTraceVariant};
use stwo_cairo_prover::prover::ChannelHash;
pub use stwo_cairo_prover::prover::ProverParameters;
use stwo_cairo_prover::witness::preprocessed_trace::gen_trace;

use crate::engine::ProveError;
use crate::flow::Columns;
use crate::memory::Estimate;
use crate::stages::Clock;

/// What was decided about a proof before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Size of its tables.
    pub estimate: Estimate,
    /// Host memory that the proof is expected to take at its peak, in bytes.
    pub bytes: u64,
    /// Whether coefficients are kept beside the evaluations: faster, and more memory.
    pub store_coefficients: bool,
}

/// Memory of a device that one proof took, and what had been expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceMemory {
    /// The estimate before the proof, in bytes: an upper bound.
    pub estimated_bytes: u64,
    /// The most in use at once, shared tables included, in bytes.
    pub peak_bytes: u64,
}

/// Something that makes Cairo proofs. All backends give the same proof, byte for byte, for the same input.
pub trait Backend {
    /// Its name in reports and logs: `simd`, `opencl`.
    fn name(&self) -> &'static str;

    /// Whether the tables that all proofs share (twiddles, preprocessed tree) are there.
    fn is_warm(&self) -> bool;

    /// Makes these tables, whether or not they are there.
    ///
    /// # Errors
    /// [`ProveError::Device`] when the device can't hold or make them.
    fn warm_up(&mut self) -> Result<(), ProveError>;

    /// Frees these tables.
    fn drop_warm(&mut self);

    /// Root of the preprocessed tree of the warm tables.
    ///
    /// # Errors
    /// [`ProveError::Device`] when it can't be read, or nothing is warm.
    fn preprocessed_root(&self) -> Result<[u8; 32], ProveError>;

    /// Decides how a proof of this size is made within `memory_limit` bytes of host memory.
    ///
    /// # Errors
    /// [`ProveError::Memory`] or [`ProveError::Device`] when host or device have too little memory for it in any way.
    fn plan(&self, estimate: Estimate, memory_limit: Option<u64>) -> Result<Plan, ProveError>;

    /// Proves an adapted run, entering the stages from `Trace` to `ProofOfWork` on `clock`. Makes the shared tables if they
    /// are not there. Panics are caught by the caller and put to [`Backend::failed`].
    ///
    /// # Errors
    /// [`ProveError::Unprovable`] when the constraints do not hold, [`ProveError::Device`] when the device fails.
    fn prove(&mut self, input: ProverInput, plan: &Plan, clock: &Clock) -> Result<CairoProof, ProveError>;

    /// What the last proof took of a device's memory; `None` for a backend without a device.
    fn device_memory(&self) -> Option<DeviceMemory> {
        None
    }

    /// Gives up what a proof may have left behind that failed or panicked.
    fn recover(&mut self) {}

    /// What a panic on the way, or a proof that the strict verifier refuses, says about the job. On the processor: that
    /// there is no proof of it. A backend whose device may compute wrongly must answer [`ProveError::Device`].
    fn failed(detail: String) -> ProveError
    where
        Self: Sized,
    {
        ProveError::Unprovable { detail }
    }
}

/// The prover's settings: the policy's, with coefficients stored. The last is a matter of time and memory alone, and a
/// [`Plan`] goes without where memory is short.
pub const fn parameters() -> ProverParameters {
    ProverParameters {
        channel_hash: ChannelHash::Blake2s,
        channel_salt: policy::CHANNEL_SALT,
        pcs_config: policy::pcs_config(),
        preprocessed_trace: policy::VARIANT,
        store_polynomials_coefficients: true,
        include_all_preprocessed_columns: policy::INCLUDE_ALL_PREPROCESSED_COLUMNS,
    }
}

/// The preprocessed trace that the policy names, and its columns: the first tree of every proof.
pub fn preprocessed() -> (Arc<PreProcessedTrace>, Columns) {
    let trace = Arc::new(policy::VARIANT.to_preprocessed_trace());
    let columns = gen_trace(Arc::clone(&trace));
    (trace, columns)
}
