//! Errors of decoding, parsing and checking the shared records.

use thiserror::Error;

/// Why a record was refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TypeError {
    /// The bytes are longer than this record may ever be.
    #[error("{record}: {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Name of the record.
        record: &'static str,
        /// Length of the input, in bytes.
        bytes: usize,
        /// Largest length accepted, in bytes.
        limit: usize,
    },
    /// The record's version is not known to this build.
    #[error("{record}: version {version} is unknown, this build knows {known}")]
    UnknownVersion {
        /// Name of the record.
        record: &'static str,
        /// Version found.
        version: u16,
        /// Version this build writes and reads.
        known: u16,
    },
    /// The bytes are no encoding of the record.
    #[error("{record}: malformed ({detail})")]
    Malformed {
        /// Name of the record.
        record: &'static str,
        /// What the decoder met.
        detail: String,
    },
    /// The bytes decode, but are not the one canonical encoding.
    #[error("{record}: not the canonical encoding")]
    NotCanonical {
        /// Name of the record.
        record: &'static str,
    },
    /// A text field can't be parsed.
    #[error("{field}: '{value}' is no {expected}")]
    BadText {
        /// Name of the field.
        field: &'static str,
        /// The value as given, shortened.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A signature does not verify.
    #[error("{what}: signature of {signer} does not verify")]
    BadSignature {
        /// What was signed.
        what: &'static str,
        /// The key it was checked against, hex.
        signer: String,
    },
    /// A field is outside its bounds.
    #[error("{field}: {value} is outside the limit {limit}")]
    OutOfBounds {
        /// Name of the field.
        field: &'static str,
        /// The value found.
        value: String,
        /// The bound, in words.
        limit: String,
    },
}
