//! One proof from a run's input: the library's steps in the library's order, with our evaluation of the constraints.
//!
//! Order and contents of what enters the transcript are the protocol; the strict verifier recomputes them. The library's own
//! function for the whole does the same but for the constraints; the measurements compare the two.

use std::sync::Arc;

use cairo_air::cairo_components::CairoComponents;
use cairo_air::relations::CommonLookupElements;
use cairo_air::verifier::INTERACTION_POW_BITS;
use proof::envelope::CairoProof;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::proof_of_work::GrindOps;
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::{CommitmentSchemeProver, ComponentProver, prove_ex};
use stwo_cairo_adapter::ProverInput;
use stwo_cairo_prover::prover::ProverParameters;
use stwo_cairo_prover::utils::cairo_provers;
use stwo_cairo_prover::witness::cairo::create_cairo_claim_generator;

use crate::engine::Warm;
use crate::stages::{Clock, Stage};

/// Proves `input` with the shared tables of `warm`. Panics of the library pass through.
///
/// # Errors
/// A text when the constraints do not hold, or the library has a component that `composition` does not know.
pub(crate) fn prove(
    warm: &Warm,
    input: ProverInput,
    parameters: ProverParameters,
    clock: &Clock,
) -> Result<CairoProof, String> {
    let channel = &mut Blake2sChannel::default();
    channel.mix_felts(&[parameters.channel_salt.into()]);
    parameters.pcs_config.mix_into(channel);
    let mut scheme = CommitmentSchemeProver::<SimdBackend, Blake2sMerkleChannel>::with_memory_pool(
        parameters.pcs_config,
        &warm.twiddles,
        &warm.pool,
    );
    if parameters.store_polynomials_coefficients {
        scheme.set_store_polynomials_coefficients();
    }
    scheme.commit_tree(MaybeOwned::Borrowed(&warm.tree), channel);

    clock.enter(Stage::Trace);
    let generator = create_cairo_claim_generator(input, Arc::clone(&warm.trace));
    let (trace, claim, interaction) = generator.write_trace();
    clock.enter(Stage::TraceCommitment);
    claim.mix_into::<Blake2sMerkleChannel>(channel);
    let mut tree = scheme.tree_builder();
    tree.extend_evals(trace);
    tree.commit(channel);

    clock.enter(Stage::Interaction);
    let interaction_pow = SimdBackend::grind(channel, INTERACTION_POW_BITS);
    channel.mix_u64(interaction_pow);
    let elements = CommonLookupElements::draw(channel);
    let (trace, interaction_claim) = interaction.write_interaction_trace(&elements);
    clock.enter(Stage::InteractionCommitment);
    interaction_claim.mix_into(channel);
    let mut tree = scheme.tree_builder();
    tree.extend_evals(trace);
    tree.commit(channel);

    clock.enter(Stage::Composition);
    let components = CairoComponents::new(&claim, &elements, &interaction_claim, &warm.trace.ids());
    let provers = composition::provers(&components, cairo_provers(&components))
        .ok_or("the library's list of components is not the one that this build knows")?;
    let provers: Vec<&dyn ComponentProver<SimdBackend>> = provers.iter().map(AsRef::as_ref).collect();
    let proof = clock
        .follow(|| prove_ex::<SimdBackend, _>(&provers, channel, scheme, parameters.include_all_preprocessed_columns));
    Ok(CairoProof {
        claim,
        interaction_pow,
        interaction_claim,
        stark_proof: proof.map_err(|e| e.to_string())?.proof,
        channel_salt: parameters.channel_salt,
        preprocessed_trace_variant: parameters.preprocessed_trace,
    })
}
