//! *config* and *preprocessed_root*: the proof's parameters are the policy's, and its constant tables are the real ones.

use stwo::core::vcs::blake2_hash::Blake2sHash;
use types::verdict::Check;

use crate::Rejection;
use crate::envelope::CairoProof;
use crate::policy::{CHANNEL_SALT, PREPROCESSED_ROOT, VARIANT, pcs_config};

/// Every field of the proof's configuration equals the policy's.
pub(crate) fn config(proof: &CairoProof) -> Result<(), Rejection> {
    let refuse = |reason: String| Rejection::because(Check::Config, reason);
    let (found, wanted) = (proof.stark_proof.0.config, pcs_config());
    let fields = [
        ("pow_bits", found.pow_bits, wanted.pow_bits),
        ("log_blowup_factor", found.fri_config.log_blowup_factor, wanted.fri_config.log_blowup_factor),
        ("fold_step", found.fri_config.fold_step, wanted.fri_config.fold_step),
        (
            "log_last_layer_degree_bound",
            found.fri_config.log_last_layer_degree_bound,
            wanted.fri_config.log_last_layer_degree_bound,
        ),
        ("channel_salt", proof.channel_salt, CHANNEL_SALT),
    ];
    if let Some((name, found, wanted)) = fields.into_iter().find(|(_, found, wanted)| found != wanted) {
        return refuse(format!("{name} is {found}, must be {wanted}"));
    }
    if found.fri_config.n_queries != wanted.fri_config.n_queries {
        return refuse(format!("n_queries is {}, must be {}", found.fri_config.n_queries, wanted.fri_config.n_queries));
    }
    if found.lifting_log_size != wanted.lifting_log_size {
        return refuse("lifting_log_size is set, must be none".into());
    }
    if proof.preprocessed_trace_variant != VARIANT {
        return refuse(format!("preprocessed trace {:?}, must be {VARIANT:?}", proof.preprocessed_trace_variant));
    }
    // A field that the comparisons above do not know would show here.
    if found != wanted { refuse("configuration differs from the policy's".into()) } else { Ok(()) }
}

/// The first commitment is the pinned root of the preprocessed tables. The stock verifier takes any.
pub(crate) fn preprocessed_root(proof: &CairoProof) -> Result<(), Rejection> {
    let pinned = Blake2sHash(PREPROCESSED_ROOT);
    match proof.stark_proof.0.commitments.first() {
        Some(root) if *root == pinned => Ok(()),
        found => Rejection::because(
            Check::PreprocessedRoot,
            format!(
                "commitment 0 is {}, must be {pinned}",
                found.map_or_else(|| "missing".into(), ToString::to_string)
            ),
        ),
    }
}
