//! Proofs in the form that the upstream tools read.

use cairo_air::utils::binary_serialize_to_file;
use std::fs::File;
use thiserror::Error;

/// Why a proof can't be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The blob is no proof.
    #[error(transparent)]
    Envelope(#[from] proof::envelope::EnvelopeError),
    /// The file can't be written.
    #[error("writing the proof: {0}")]
    Io(#[from] std::io::Error),
}

/// Writes what cairo-air's `ProofFormat::Binary` reads: the proof's bincode bytes, compressed by bzip2.
///
/// # Errors
/// [`ExportError`].
pub fn stwo_binary(blob: &[u8], file: &File) -> Result<(), ExportError> {
    let proof = proof::envelope::decode(blob)?;
    binary_serialize_to_file(&proof, file)?;
    Ok(())
}
