//! Elements of the Stark field, 2^251 + 17 * 2^192 + 1, as canonical 32-byte big-endian numbers.
//!
//! Only storage, comparison and text form live here; arithmetic belongs to the crates that prove and hash.

use std::fmt;
use std::str::FromStr;

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::TypeError;

/// The prime, big-endian.
pub const STARK_PRIME: [u8; 32] = {
    let mut p = [0u8; 32];
    p[0] = 0x08;
    p[7] = 0x11;
    p[31] = 0x01;
    p
};

/// A field element below the Stark prime, big-endian; 0x-hex without leading zeros in text and JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode)]
pub struct Felt([u8; 32]);

impl Felt {
    /// Zero.
    pub const ZERO: Self = Self([0; 32]);

    /// From 32 big-endian bytes; `None` when the number is not below the prime.
    pub fn from_be_bytes(bytes: [u8; 32]) -> Option<Self> {
        (bytes < STARK_PRIME).then_some(Self(bytes))
    }

    /// From an unsigned number.
    pub const fn from_u128(value: u128) -> Self {
        let tail = value.to_be_bytes();
        let mut out = [0u8; 32];
        let mut i = 0;
        while i < 16 {
            out[16 + i] = tail[i];
            i += 1;
        }
        Self(out)
    }

    /// 32 big-endian bytes.
    pub const fn to_be_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The number, when it fits 64 bits.
    pub fn to_u64(self) -> Option<u64> {
        let (head, tail) = self.0.split_at(24);
        if head.iter().any(|b| *b != 0) {
            return None;
        }
        tail.try_into().ok().map(u64::from_be_bytes)
    }
}

impl fmt::Display for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let short = digits.trim_start_matches('0');
        write!(f, "0x{}", if short.is_empty() { "0" } else { short })
    }
}

impl fmt::Debug for Felt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Felt {
    type Err = TypeError;

    /// Accepts 0x-hex (any case, at most 64 digits) or an unsigned decimal number below 2^128.
    fn from_str(text: &str) -> Result<Self, TypeError> {
        let bad = || TypeError::BadText {
            field: "felt",
            value: text.chars().take(80).collect(),
            expected: "0x-hex number below the Stark prime, or decimal number below 2^128",
        };
        if let Some(digits) = text.strip_prefix("0x") {
            if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            let mut out = [0u8; 32];
            hex::decode_to_slice(format!("{digits:0>64}"), &mut out).map_err(|_| bad())?;
            return Self::from_be_bytes(out).ok_or_else(bad);
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        text.parse::<u128>().map(Self::from_u128).map_err(|_| bad())
    }
}

impl<C> Decode<C> for Felt {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let bytes = <[u8; 32]>::decode(decoder)?;
        Self::from_be_bytes(bytes).ok_or(DecodeError::Other("felt is not below the Stark prime"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Felt {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

impl Serialize for Felt {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Felt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_body, encode_body};

    #[test]
    fn text_and_bounds() {
        assert_eq!("0x0".parse::<Felt>().unwrap(), Felt::ZERO);
        assert_eq!("144".parse::<Felt>().unwrap().to_string(), "0x90");
        let top = "0x800000000000011000000000000000000000000000000000000000000000000";
        assert_eq!(top.parse::<Felt>().unwrap().to_string(), top);
        let prime = "0x800000000000011000000000000000000000000000000000000000000000001";
        for bad in [prime, "", "0x", "-1", "0xg", "1e5"] {
            assert!(bad.parse::<Felt>().is_err(), "{bad}");
        }
    }

    #[test]
    fn decoding_refuses_the_prime() {
        let felt = Felt::from_u128(7);
        assert_eq!(decode_body::<Felt>("felt", &encode_body(&felt)).unwrap(), felt);
        assert!(decode_body::<Felt>("felt", &STARK_PRIME).is_err());
    }
}
