//! Identifiers, heights, rounds, times and amounts, each a type of its own so that one is never taken for another.
//!
//! Hashes are BLAKE3, 32 bytes, shown and parsed as 64 lower-case hex digits. Amounts are whole credits.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::TypeError;

/// Parses exactly 64 lower-case hex digits.
///
/// # Errors
/// [`TypeError::BadText`] that names `field`.
pub fn parse_hex32(field: &'static str, text: &str) -> Result<[u8; 32], TypeError> {
    let bad =
        || TypeError::BadText { field, value: text.chars().take(80).collect(), expected: "64 lower-case hex digits" };
    if text.len() != 64 || text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(bad());
    }
    let mut out = [0u8; 32];
    hex::decode_to_slice(text, &mut out).map_err(|_| bad())?;
    Ok(out)
}

macro_rules! bytes32 {
    ($($(#[$doc:meta])* $name:ident = $field:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight hex digits, for logs.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = TypeError;

            fn from_str(text: &str) -> Result<Self, TypeError> {
                parse_hex32($field, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

bytes32! {
    /// Hash of the genesis document: the identity of a chain, covered by every signature.
    GenesisHash = "genesis_hash";
    /// Hash of a block header.
    BlockId = "block_id";
    /// Hash of a transaction's signed content (or of the whole content where nobody signs it).
    TxId = "tx_id";
    /// Hash of (job specification, sender, nonce).
    JobId = "job_id";
    /// BLAKE3 of a blob's bytes: programs, arguments, proofs.
    BlobHash = "blob_hash";
    /// Digest of a statement: what a proof must say.
    StatementDigest = "statement";
    /// Root of the state tree.
    StateRoot = "state_root";
    /// Any other digest.
    Digest = "digest";
}

/// Height of a block; the genesis document is height 0, the first block 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Height(pub u64);

impl Height {
    /// The next height; stays at the top of the range.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The previous height, or `None` at 0.
    pub fn prev(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Round of consensus within a height, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Round(pub u32);

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch. In the ledger always the time of a block, never of a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeMs(pub u64);

impl TimeMs {
    /// This time plus `ms`, at most the end of the range.
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, 0 when it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An amount of credits, whole units; a decimal string in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Amount(pub u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Sum, or `None` past the range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, or `None` below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Difference, at least zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Amount {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let bad = || TypeError::BadText {
            field: "amount",
            value: text.chars().take(80).collect(),
            expected: "decimal number of credits",
        };
        if text.is_empty() || text.bytes().any(|b| !b.is_ascii_digit()) {
            return Err(bad());
        }
        text.parse().map(Self).map_err(|_| bad())
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_strict() {
        let hash = BlobHash::new([0xab; 32]);
        assert_eq!(hash.to_string().parse::<BlobHash>().unwrap(), hash);
        for bad in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &format!("0x{}", "ab".repeat(31))] {
            assert!(matches!(bad.parse::<BlobHash>(), Err(TypeError::BadText { field: "blob_hash", .. })), "{bad}");
        }
    }

    #[test]
    fn amounts_are_decimal_strings() {
        let amount: Amount = serde_json_like("340282366920938463463374607431768211455");
        assert_eq!(amount.0, u128::MAX);
        for bad in ["", "-1", "+1", "1.5", "0x10", "340282366920938463463374607431768211456"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }

    fn serde_json_like(text: &str) -> Amount {
        text.parse().unwrap()
    }
}
