//! One set of constraints by itself: its shape, and its sums over given columns on either side. What tests and the
//! self-test compare, and how kernels are compiled before there is a proof.

use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::secure_column::SecureColumnByCoords;
use stwo_constraint_framework::FrameworkEval;

use super::component::{Recording, Rows, denominators, on_device, on_host};
use super::emit::{Shape, shape};
use super::record::record;
use super::store::{ready, ready_ahead};
use crate::backend::{Evaluation, OclBackend, zero_secure};
use crate::error::{Error, Result, guarded};

/// Where to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// By the kernels.
    Device,
    /// On the host, from the same recorded graph.
    Host,
}

/// Recorded constraints of degree two, with the values of one claim.
#[derive(Debug)]
pub struct Recorded {
    recording: Recording,
    log_size: u32,
}

impl Recorded {
    /// Records `eval` for tables of 2^`log_size` rows, whatever size it has itself.
    pub fn new<E: FrameworkEval>(eval: &E, claimed_sum: SecureField, log_size: u32) -> Self {
        Self { recording: Recording::of(record(eval, claimed_sum, log_size)), log_size }
    }

    /// What it becomes on the device; compiles nothing.
    #[must_use]
    pub fn shape(&self) -> Shape {
        shape(&self.recording.graph)
    }

    /// Name of the kernels: the same for constraints that differ in values only.
    #[must_use]
    pub fn key(&self) -> String {
        self.recording.source.key.clone()
    }

    /// Columns by interaction, in the order in which the constraints ask for them: how many of each.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for (interaction, index) in &self.recording.graph.columns {
            counts.resize(counts.len().max(interaction + 1), 0);
            counts[*interaction] = counts[*interaction].max(index + 1);
        }
        counts
    }

    /// Number of constraints.
    #[must_use]
    pub fn constraints(&self) -> usize {
        self.recording.graph.constraints.len()
    }

    /// Makes the kernels callable.
    ///
    /// # Errors
    /// [`Error::Build`].
    pub fn compile(&self) -> Result<()> {
        ready(&self.recording.source, &self.recording.graph)
    }

    /// As [`Recorded::compile`], where no proof waits for it.
    ///
    /// # Errors
    /// [`Error::Build`].
    pub fn compile_ahead(&self) -> Result<()> {
        ready_ahead(&self.recording.source, &self.recording.graph)
    }

    /// Sums of the constraints, each times its coefficient, divided by the trace domain's vanishing polynomial, over columns
    /// of 2^(log size + 1) rows in bit-reversed order.
    ///
    /// # Errors
    /// What keeps the kernels from being ready, or a device failure.
    pub fn sums(
        &self,
        side: Side,
        columns: &TreeVec<Vec<&Evaluation>>,
        coefficients: &[SecureField],
    ) -> Result<SecureColumnByCoords<OclBackend>> {
        if coefficients.len() != self.recording.graph.constraints.len() {
            return Err(Error::Input {
                field: "coefficients",
                value: coefficients.len().to_string(),
                limit: self.recording.graph.constraints.len().to_string(),
            });
        }
        guarded(|| {
            let log_eval = self.log_size + 1;
            let domain = CanonicCoset::new(log_eval).circle_domain();
            let rows = Rows {
                columns,
                log_trace: self.log_size,
                log_eval,
                denominators: denominators(CanonicCoset::new(self.log_size), domain),
                coefficients: coefficients.to_vec(),
            };
            let mut sums = zero_secure(1 << log_eval);
            match side {
                Side::Device => on_device(&self.recording, &rows, &sums)?,
                Side::Host => on_host(&self.recording.graph, &rows, &mut sums),
            }
            Ok(sums)
        })?
    }
}
