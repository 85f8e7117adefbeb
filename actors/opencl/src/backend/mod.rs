//! `OclBackend`: stwo's backend traits on the device. Each file owns one group of traits; all of them start kernels on
//! columns that stay on the device. A failure of the device leaves these methods as a panic, see [`crate::error`].

mod accumulation;
mod column;
mod fri;
mod gkr;
mod grind;
mod merkle;
mod poly;
mod quotients;
mod sampling;
mod transform;
mod twiddles;

use serde::{Deserialize, Serialize};
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::prover::backend::{Backend, BackendForChannel};

pub use column::OclColumn;
pub use twiddles::OclTwiddles;

pub(crate) use column::{Table, gather, gather_all, upload};
pub(crate) use fri::fold_into;
pub(crate) use merkle::{packed_tree_of, tree_of};
pub use poly::Evaluation;
pub(crate) use poly::evaluate_all;
pub(crate) use quotients::zero_secure;
pub(crate) use sampling::{SampleJob, Weights, parts, sample};

/// The backend. Its columns live in the memory of the device that [`crate::device::open`] opened.
#[derive(Copy, Clone, Debug, Deserialize, Serialize)]
pub struct OclBackend;

impl Backend for OclBackend {}
impl BackendForChannel<Blake2sMerkleChannel> for OclBackend {}
