//! The byte form in which nodes exchange a Cairo proof: magic, proof-system version, one zstd frame of bincode bytes.
//!
//! The bytes inside are cairo-air's own serde layout under bincode 1, so that a proof taken out of its envelope is what
//! the upstream verifier reads. Both limits hold before memory is claimed: the compressed length is compared first, and
//! unpacking stops at the first byte past the unpacked limit, whatever size the frame announces.

use std::io::Read;

use bincode1::Options;
use cairo_air::CairoProofForRustVerifier;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleHasher;
use thiserror::Error;

use crate::policy::PROOF_SYSTEM_VERSION;

/// The proof type of this proof system: Blake2s Merkle trees, no auxiliary data.
pub type CairoProof = CairoProofForRustVerifier<Blake2sMerkleHasher>;

/// First four bytes of every proof blob.
pub const MAGIC: [u8; 4] = *b"PMP1";
/// Largest blob, header included, in bytes.
pub const COMPRESSED_MAX: usize = types::limits::PROOF_BYTES_MAX as usize;
/// Largest proof after unpacking, in bytes.
pub const UNPACKED_MAX: usize = 16 << 20;
/// Largest window a frame may ask the decoder to keep, as a power of two of bytes: no more than a whole proof.
const WINDOW_LOG_MAX: u32 = 24;
/// Level of compression: higher levels gain under 2 % on proofs, which are mostly hashes and field elements.
const ZSTD_LEVEL: i32 = 3;
const HEADER: usize = 6;

/// Why bytes are no proof blob.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum EnvelopeError {
    /// The blob is longer than any proof may be.
    #[error("proof blob: {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Length found, in bytes.
        bytes: usize,
        /// Largest length accepted, in bytes.
        limit: usize,
    },
    /// The blob does not begin with the magic bytes.
    #[error("proof blob: begins with {found}, not with the magic 504d5031")]
    Magic {
        /// The first bytes found, hex.
        found: String,
    },
    /// The proof system is not known to this build.
    #[error("proof blob: proof system {version} is unknown, this build knows {known}")]
    Version {
        /// Version found.
        version: u16,
        /// Version known.
        known: u16,
    },
    /// The compressed frame is damaged, or followed by other bytes.
    #[error("proof blob: the zstd frame is refused ({detail})")]
    Frame {
        /// What the decoder met.
        detail: String,
    },
    /// The frame unpacks to more than any proof may be.
    #[error("proof blob: unpacks to more than {limit} bytes")]
    Bomb {
        /// Largest unpacked length accepted, in bytes.
        limit: usize,
    },
    /// The unpacked bytes are no proof.
    #[error("proof: not decodable ({detail})")]
    Malformed {
        /// What the decoder met.
        detail: String,
    },
    /// The unpacked bytes decode, but encode differently.
    #[error("proof: not the canonical encoding")]
    NotCanonical,
}

fn codec() -> impl Options {
    bincode1::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(UNPACKED_MAX as u64)
        .reject_trailing_bytes()
}

/// The bincode bytes of a proof: what `ProofFormat::Binary` of cairo-air compresses and writes.
///
/// # Errors
/// [`EnvelopeError::Malformed`] for a proof over the unpacked limit.
pub fn proof_bytes(proof: &CairoProof) -> Result<Vec<u8>, EnvelopeError> {
    codec().serialize(proof).map_err(|e| EnvelopeError::Malformed { detail: e.to_string() })
}

/// Packs a proof into a blob.
///
/// # Errors
/// [`EnvelopeError::Malformed`] or [`EnvelopeError::TooLong`] for a proof over a limit.
pub fn encode(proof: &CairoProof) -> Result<Vec<u8>, EnvelopeError> {
    encode_bytes(&proof_bytes(proof)?)
}

/// Packs the bincode bytes of a proof into a blob.
///
/// # Errors
/// [`EnvelopeError::Frame`] or [`EnvelopeError::TooLong`].
pub fn encode_bytes(bytes: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let frame = zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(|e| EnvelopeError::Frame { detail: e.to_string() })?;
    let mut blob = Vec::with_capacity(frame.len().saturating_add(HEADER));
    blob.extend_from_slice(&MAGIC);
    blob.extend_from_slice(&PROOF_SYSTEM_VERSION.to_le_bytes());
    blob.extend_from_slice(&frame);
    if blob.len() > COMPRESSED_MAX {
        return Err(EnvelopeError::TooLong { bytes: blob.len(), limit: COMPRESSED_MAX });
    }
    Ok(blob)
}

/// Takes the bincode bytes out of a blob, without decoding them.
///
/// # Errors
/// Every [`EnvelopeError`] but the last two.
pub fn unpack(blob: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    if blob.len() > COMPRESSED_MAX {
        return Err(EnvelopeError::TooLong { bytes: blob.len(), limit: COMPRESSED_MAX });
    }
    let (magic, rest) =
        blob.split_first_chunk::<4>().ok_or_else(|| EnvelopeError::Magic { found: hex::encode(blob) })?;
    if *magic != MAGIC {
        return Err(EnvelopeError::Magic { found: hex::encode(magic) });
    }
    let (version, frame) =
        rest.split_first_chunk::<2>().ok_or_else(|| EnvelopeError::Frame { detail: "no version".into() })?;
    let version = u16::from_le_bytes(*version);
    if version != PROOF_SYSTEM_VERSION {
        return Err(EnvelopeError::Version { version, known: PROOF_SYSTEM_VERSION });
    }
    unpack_frame(frame)
}

fn unpack_frame(frame: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let refused = |e: std::io::Error| EnvelopeError::Frame { detail: e.to_string() };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(refused)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(refused)?;
    let mut out = Vec::new();
    let past_limit = (UNPACKED_MAX as u64).saturating_add(1);
    decoder.by_ref().take(past_limit).read_to_end(&mut out).map_err(refused)?;
    if out.len() > UNPACKED_MAX {
        return Err(EnvelopeError::Bomb { limit: UNPACKED_MAX });
    }
    let rest = decoder.finish();
    if !rest.is_empty() {
        return Err(EnvelopeError::Frame { detail: format!("{} bytes after the frame", rest.len()) });
    }
    Ok(out)
}

/// Decodes a blob: limits, magic, version, one whole frame, every byte consumed, the same bytes when encoded again.
///
/// # Errors
/// Every [`EnvelopeError`].
pub fn decode(blob: &[u8]) -> Result<CairoProof, EnvelopeError> {
    decode_bytes(&unpack(blob)?)
}

/// Decodes the bincode bytes of a proof: every byte consumed, the same bytes when encoded again.
///
/// # Errors
/// [`EnvelopeError::Malformed`] or [`EnvelopeError::NotCanonical`].
pub fn decode_bytes(bytes: &[u8]) -> Result<CairoProof, EnvelopeError> {
    let proof: CairoProof =
        codec().deserialize(bytes).map_err(|e| EnvelopeError::Malformed { detail: e.to_string() })?;
    if proof_bytes(&proof)? != bytes {
        return Err(EnvelopeError::NotCanonical);
    }
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob_of(payload: &[u8]) -> Vec<u8> {
        encode_bytes(payload).unwrap()
    }

    #[test]
    fn header_is_checked_field_by_field() {
        let good = blob_of(b"some bytes");
        assert_eq!(unpack(&good).unwrap(), b"some bytes");
        let mut magic = good.clone();
        magic[0] ^= 1;
        assert!(matches!(unpack(&magic), Err(EnvelopeError::Magic { .. })));
        let mut version = good.clone();
        version[4] = 9;
        assert_eq!(unpack(&version), Err(EnvelopeError::Version { version: 9, known: 1 }));
        assert!(matches!(unpack(b"PM"), Err(EnvelopeError::Magic { .. })));
        assert!(matches!(unpack(b"PMP1\x01"), Err(EnvelopeError::Frame { .. })));
        assert!(matches!(unpack(b"PMP1\x01\x00"), Err(EnvelopeError::Frame { .. })));
    }

    #[test]
    fn cut_frames_and_trailing_bytes_are_refused() {
        let good = blob_of(&[7u8; 5000]);
        assert!(matches!(unpack(&good[..good.len() - 1]), Err(EnvelopeError::Frame { .. })));
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(unpack(&longer), Err(EnvelopeError::Frame { .. })));
        let mut twice = good.clone();
        twice.extend_from_slice(&good[HEADER..]);
        assert!(matches!(unpack(&twice), Err(EnvelopeError::Frame { .. })));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = blob_of(&vec![0u8; UNPACKED_MAX + 1]);
        assert!(bomb.len() < 4096);
        assert_eq!(unpack(&bomb), Err(EnvelopeError::Bomb { limit: UNPACKED_MAX }));
        let edge = blob_of(&vec![0u8; UNPACKED_MAX]);
        assert_eq!(unpack(&edge).unwrap().len(), UNPACKED_MAX);
        let long = vec![0u8; COMPRESSED_MAX + 1];
        assert!(matches!(unpack(&long), Err(EnvelopeError::TooLong { .. })));
    }

    #[test]
    fn bytes_that_are_no_proof_are_refused_without_great_claims() {
        assert!(matches!(decode(&blob_of(b"")), Err(EnvelopeError::Malformed { .. })));
        // A program of 2^60 words, announced in 8 bytes.
        assert!(matches!(decode(&blob_of(&(1u64 << 60).to_le_bytes())), Err(EnvelopeError::Malformed { .. })));
    }
}
