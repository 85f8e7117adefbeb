//! The one byte format of records: bincode 2, fixed-width little-endian integers, a version first, one encoding only.
//!
//! A reader refuses input over the record's own length limit before it decodes, bounds what the decoder may allocate,
//! requires that every byte is consumed, and encodes the result again to compare: two different byte strings never
//! decode to the same record, so hashes and signatures over bytes are hashes and signatures over meaning.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian, NoLimit};
use bincode::{Decode, Encode};

use crate::error::TypeError;

const SMALL: usize = 256 << 10;
const MEDIUM: usize = 4 << 20;
const LARGE: usize = 128 << 20;

fn plain() -> Configuration<LittleEndian, Fixint, NoLimit> {
    bincode::config::standard().with_fixed_int_encoding()
}

fn limited<const N: usize>() -> Configuration<LittleEndian, Fixint, Limit<N>> {
    plain().with_limit::<N>()
}

/// A record with a version, a length limit and one canonical byte form.
pub trait Wire: Encode + Decode<()> + Sized {
    /// Name in errors.
    const NAME: &'static str;
    /// Version written before the body, little-endian `u16`.
    const VERSION: u16;
    /// Largest encoding accepted, in bytes, version included.
    const BYTES_MAX: usize;

    /// The canonical encoding: version, then body.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Self::VERSION.to_le_bytes().to_vec();
        out.extend_from_slice(&encode_body(self));
        out
    }

    /// Decodes the canonical encoding and nothing else.
    ///
    /// # Errors
    /// [`TypeError::TooLong`], [`TypeError::UnknownVersion`], [`TypeError::Malformed`], [`TypeError::NotCanonical`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, TypeError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(TypeError::TooLong { record: Self::NAME, bytes: bytes.len(), limit: Self::BYTES_MAX });
        }
        let Some((head, body)) = bytes.split_first_chunk::<2>() else {
            return Err(TypeError::Malformed { record: Self::NAME, detail: "shorter than its version".into() });
        };
        let version = u16::from_le_bytes(*head);
        if version != Self::VERSION {
            return Err(TypeError::UnknownVersion { record: Self::NAME, version, known: Self::VERSION });
        }
        decode_body(Self::NAME, body)
    }
}

/// Encodes a value without a version: for hashing and for parts of records.
pub fn encode_body<T: Encode>(value: &T) -> Vec<u8> {
    // Encoding into a growing vector fails only for types that forbid encoding (a poisoned lock, a path that is no
    // text); no record holds such a type. An empty string would then be refused by every reader.
    bincode::encode_to_vec(value, plain()).unwrap_or_default()
}

/// Decodes what [`encode_body`] wrote: every byte consumed, encoding unique, allocation bounded by the input's length.
///
/// # Errors
/// [`TypeError::Malformed`] or [`TypeError::NotCanonical`], naming `record`.
pub fn decode_body<T: Decode<()> + Encode>(record: &'static str, body: &[u8]) -> Result<T, TypeError> {
    // The limit counts memory claimed for containers, so that a length field in a short message can't claim gigabytes.
    let claim = body.len().saturating_mul(16);
    let decoded = if claim <= SMALL {
        bincode::decode_from_slice::<T, _>(body, limited::<SMALL>())
    } else if claim <= MEDIUM {
        bincode::decode_from_slice::<T, _>(body, limited::<MEDIUM>())
    } else {
        bincode::decode_from_slice::<T, _>(body, limited::<LARGE>())
    };
    let (value, used) = decoded.map_err(|e| TypeError::Malformed { record, detail: e.to_string() })?;
    if used != body.len() {
        return Err(TypeError::Malformed {
            record,
            detail: format!("{} bytes left over", body.len().saturating_sub(used)),
        });
    }
    if encode_body(&value) != body {
        return Err(TypeError::NotCanonical { record });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Sample {
        flag: Option<bool>,
        items: Vec<u64>,
    }

    impl Wire for Sample {
        const NAME: &'static str = "sample";
        const VERSION: u16 = 3;
        const BYTES_MAX: usize = 1024;
    }

    #[test]
    fn round_trip_and_every_refusal() {
        let sample = Sample { flag: Some(true), items: vec![1, 2, 3] };
        let bytes = sample.to_bytes();
        assert_eq!(Sample::from_bytes(&bytes).unwrap(), sample);
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(Sample::from_bytes(&longer), Err(TypeError::Malformed { .. })));
        assert!(matches!(Sample::from_bytes(&bytes[..bytes.len() - 1]), Err(TypeError::Malformed { .. })));
        assert!(matches!(Sample::from_bytes(&[1]), Err(TypeError::Malformed { .. })));
        let mut other = bytes.clone();
        other[0] = 4;
        assert!(matches!(Sample::from_bytes(&other), Err(TypeError::UnknownVersion { version: 4, known: 3, .. })));
        assert!(matches!(Sample::from_bytes(&[0; 2000]), Err(TypeError::TooLong { bytes: 2000, limit: 1024, .. })));
        let mut odd_flag = bytes;
        odd_flag[3] = 2;
        assert!(Sample::from_bytes(&odd_flag).is_err());
    }

    #[test]
    fn a_huge_length_field_is_refused_without_allocating() {
        let mut bytes = vec![3, 0, 0];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(Sample::from_bytes(&bytes), Err(TypeError::Malformed { .. })));
        let mut bytes = vec![3, 0, 0];
        bytes.extend_from_slice(&(1u64 << 26).to_le_bytes());
        assert!(matches!(Sample::from_bytes(&bytes), Err(TypeError::Malformed { .. })));
    }
}
