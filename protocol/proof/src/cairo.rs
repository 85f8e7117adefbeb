//! The strict verifier of Cairo proofs: every check by name, the stock verifier last.
//!
//! cairo-air's `verify_cairo` takes its parameters, its constant tables and the shape of its claims from the proof, and leaves
//! open what the output means. The checks here close that; only what passes them reaches it, inside an unwind boundary.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cairo_air::claims::CairoClaim;
use cairo_air::verifier::verify_cairo_ex;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use types::felt::Felt;
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::Check;

use crate::Rejection;
use crate::checks::{claims, config, format, public, tasks};
use crate::envelope::{self, CairoProof};
use crate::policy::{self, INCLUDE_ALL_PREPROCESSED_COLUMNS, PROOF_SYSTEM_VERSION};
use crate::security::Security;

/// What a proof that passed every check says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Output of the user's program, whole.
    pub output: Vec<Felt>,
    /// Hash of the user's program, equal to the statement's.
    pub program_hash: Felt,
    /// No run of this proof has more steps, the bootloader's included: the claimed opcode rows.
    pub steps_bound: u64,
    /// What the proof is worth.
    pub security: Security,
}

/// Checks that `blob` proves `statement`, made by `prover`.
///
/// Whether the output belongs to an input that only re-execution can compare (`OutputRule::Quorum`) is not decided here.
///
/// # Errors
/// [`Rejection`] with the first check that failed.
pub fn verify(blob: &[u8], statement: &Statement, prover: &PublicKey) -> Result<Verified, Rejection> {
    let proof = envelope::decode(blob).map_err(|e| Rejection::new(Check::Format, e.to_string()))?;
    verify_decoded(proof, statement, prover)
}

/// [`verify`] for a proof outside its envelope.
///
/// # Errors
/// As [`verify`].
pub fn verify_decoded(proof: CairoProof, statement: &Statement, prover: &PublicKey) -> Result<Verified, Rejection> {
    if statement.proof_system != PROOF_SYSTEM_VERSION {
        let reason =
            format!("proof system {} is unknown, this build knows {PROOF_SYSTEM_VERSION}", statement.proof_system);
        return Rejection::because(Check::Config, reason);
    }
    format::check(&proof)?;
    config::config(&proof)?;
    config::preprocessed_root(&proof)?;
    claims::check(&proof)?;
    public::bootloader(&proof.claim.public_data)?;
    let tasks = public::output(&proof.claim.public_data)?;
    let task = tasks::program(&tasks, statement)?;
    tasks::binding(&tasks, statement, prover)?;
    tasks::input(task, statement)?;
    let verified = Verified {
        output: task.output.clone(),
        program_hash: task.program_hash,
        steps_bound: steps_bound(&proof.claim),
        security: policy::figures(),
    };
    stark(proof)?;
    Ok(verified)
}

/// Rows of all opcode components together.
fn steps_bound(claim: &CairoClaim) -> u64 {
    claims::relation_uses(claim).get(claims::STEPS).copied().unwrap_or(0)
}

/// The STARK itself, by the stock verifier. Its size is bounded by the checks before.
fn stark(proof: CairoProof) -> Result<(), Rejection> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let log_size = format::sizes(&proof.claim, &proof.interaction_claim)?;
        format::masks(&proof, log_size)?;
        verify_cairo_ex::<Blake2sMerkleChannel>(proof, INCLUDE_ALL_PREPROCESSED_COLUMNS)
            .map_err(|e| Rejection::new(Check::Stark, e.to_string()))
    }));
    match outcome {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text =
                panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            let text: String = text.unwrap_or("no message").chars().take(200).collect();
            Err(Rejection {
                panicked: true,
                ..Rejection::new(Check::Stark, format!("the stock verifier panicked: {text}"))
            })
        }
    }
}
