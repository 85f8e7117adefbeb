//! One proof from a run's input: the library's steps in the library's order, over a backend's commitments.
//!
//! Order and contents of what enters the transcript are the protocol; the strict verifier recomputes them. The library's own
//! function for the whole does the same on the processor alone; the measurements compare the two. The witness is always
//! the library's, made on the processor.

use std::sync::Arc;

use cairo_air::cairo_components::CairoComponents;
use cairo_air::relations::CommonLookupElements;
use cairo_air::verifier::INTERACTION_POW_BITS;
use proof::envelope::CairoProof;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::BaseField;
use stwo::core::proof::StarkProof;
use stwo::core::vcs_lifted::blake2_merkle::{Blake2sMerkleChannel, Blake2sMerkleHasher};
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::CircleEvaluation;
use stwo_cairo_adapter::ProverInput;
use stwo_cairo_common::preprocessed_columns::preprocessed_trace::PreProcessedTrace;
use stwo_cairo_prover::prover::ProverParameters;
use stwo_cairo_prover::witness::cairo::create_cairo_claim_generator;

use crate::engine::ProveError;
use crate::stages::{Clock, Stage};

/// Columns of a trace as the witness generator writes them: in host memory, on the canonic domains of their rows, in
/// bit-reversed order.
pub type Columns = Vec<CircleEvaluation<SimdBackend, BaseField, BitReversedOrder>>;

/// The commitments of one proof in the making.
pub trait Scheme {
    /// Takes the shared preprocessed tree as the first commitment and mixes its root into `channel`.
    ///
    /// # Errors
    /// [`ProveError::Device`].
    fn commit_preprocessed(&mut self, channel: &mut Blake2sChannel) -> Result<(), ProveError>;

    /// Commits to `columns` as the next tree and mixes its root into `channel`.
    ///
    /// # Errors
    /// [`ProveError::Device`].
    fn commit(&mut self, columns: Columns, channel: &mut Blake2sChannel) -> Result<(), ProveError>;

    /// The proof of work that stwo's `SimdBackend` finds for this state of the transcript.
    ///
    /// # Errors
    /// [`ProveError::Device`].
    fn grind(&self, channel: &Blake2sChannel, bits: u32) -> Result<u64, ProveError>;

    /// All that follows the commitments, from the composition polynomial to the openings. Enters the stages from
    /// `Openings` on; the caller is in `Composition`.
    ///
    /// # Errors
    /// [`ProveError::Unprovable`] when the constraints do not hold, or there is a component that the backend does not know;
    /// [`ProveError::Device`].
    fn prove(
        self,
        components: &CairoComponents,
        channel: &mut Blake2sChannel,
        clock: &Clock,
    ) -> Result<StarkProof<Blake2sMerkleHasher>, ProveError>;
}

/// Proves `input` over `scheme`, whose first commitment is the tree of `preprocessed`. Panics of the library pass through.
///
/// # Errors
/// What the scheme's steps report.
pub fn prove<S: Scheme>(
    mut scheme: S,
    preprocessed: &Arc<PreProcessedTrace>,
    input: ProverInput,
    parameters: ProverParameters,
    clock: &Clock,
) -> Result<CairoProof, ProveError> {
    let channel = &mut Blake2sChannel::default();
    channel.mix_felts(&[parameters.channel_salt.into()]);
    parameters.pcs_config.mix_into(channel);
    scheme.commit_preprocessed(channel)?;

    clock.enter(Stage::Trace);
    let generator = create_cairo_claim_generator(input, Arc::clone(preprocessed));
    let (trace, claim, interaction) = generator.write_trace();
    clock.enter(Stage::TraceCommitment);
    claim.mix_into::<Blake2sMerkleChannel>(channel);
    scheme.commit(trace, channel)?;

    clock.enter(Stage::Interaction);
    let interaction_pow = scheme.grind(channel, INTERACTION_POW_BITS)?;
    channel.mix_u64(interaction_pow);
    let elements = CommonLookupElements::draw(channel);
    let (trace, interaction_claim) = interaction.write_interaction_trace(&elements);
    clock.enter(Stage::InteractionCommitment);
    interaction_claim.mix_into(channel);
    scheme.commit(trace, channel)?;

    clock.enter(Stage::Composition);
    let components = CairoComponents::new(&claim, &elements, &interaction_claim, &preprocessed.ids());
    let stark_proof = scheme.prove(&components, channel, clock)?;
    Ok(CairoProof {
        claim,
        interaction_pow,
        interaction_claim,
        stark_proof,
        channel_salt: parameters.channel_salt,
        preprocessed_trace_variant: parameters.preprocessed_trace,
    })
}
