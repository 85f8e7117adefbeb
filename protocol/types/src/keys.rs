//! ed25519 keys and signatures. One rule everywhere: `verify_strict`, no batches, so that all nodes always agree.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::TypeError;
use crate::ids::{GenesisHash, parse_hex32};
use crate::signing::{Domain, signed_bytes};

/// An ed25519 public key: an account, a prover or a validator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Wraps key bytes. Whether they are a curve point shows when a signature is checked.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hex digits, for logs.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }

    /// Checks a signature over (domain, version, genesis hash, content).
    pub fn verify(&self, domain: Domain, genesis: &GenesisHash, content: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&signed_bytes(domain, genesis, content), &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        parse_hex32("public_key", text).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Wraps signature bytes.
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The signature bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..8]))
    }
}

/// An ed25519 secret key. Never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From a 32-byte seed, which the caller drew from the operating system.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The seed, to be written to a key file and nowhere else.
    pub fn to_seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs (domain, version, genesis hash, content).
    pub fn sign(&self, domain: Domain, genesis: &GenesisHash, content: &[u8]) -> Signature {
        Signature(self.0.sign(&signed_bytes(domain, genesis, content)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_bound_to_domain_chain_and_content() {
        let key = SecretKey::from_seed([7; 32]);
        let chain = GenesisHash::new([1; 32]);
        let signature = key.sign(Domain::Transaction, &chain, b"content");
        let public = key.public();
        assert!(public.verify(Domain::Transaction, &chain, b"content", &signature));
        assert!(!public.verify(Domain::ProofVote, &chain, b"content", &signature));
        assert!(!public.verify(Domain::Transaction, &GenesisHash::new([2; 32]), b"content", &signature));
        assert!(!public.verify(Domain::Transaction, &chain, b"Content", &signature));
        assert!(!SecretKey::from_seed([8; 32]).public().verify(Domain::Transaction, &chain, b"content", &signature));
        assert!(!format!("{key:?}").contains(&hex::encode([7u8; 32])));
    }
}
