//! Hashes, and the pair of them that an event has in the two banks of a TPM that are told.

use std::fmt;

use cvm_init::format::hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256, Sha384};

/// A hash of `N` bytes; as text, lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash<const N: usize>(pub [u8; N]);

impl<const N: usize> Hash<N> {
    /// What a register holds before it is extended.
    pub const ZERO: Self = Self([0; N]);
}

impl Hash<32> {
    /// SHA-256 of the parts, one behind the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let hasher = parts.iter().fold(Sha256::new(), Sha256::chain_update);
        Self(hasher.finalize().into())
    }

    /// A register of this value, extended by a digest.
    #[must_use]
    pub fn extend(&self, digest: &Self) -> Self {
        Self::of(&[&self.0, &digest.0])
    }
}

impl Hash<48> {
    /// SHA-384 of the parts, one behind the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let hasher = parts.iter().fold(Sha384::new(), Sha384::chain_update);
        Self(hasher.finalize().into())
    }

    /// A register of this value, extended by a digest.
    #[must_use]
    pub fn extend(&self, digest: &Self) -> Self {
        Self::of(&[&self.0, &digest.0])
    }
}

impl<const N: usize> fmt::Display for Hash<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl<const N: usize> Serialize for Hash<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hash<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is no hash of {N} bytes")))
    }
}

/// The digests of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// In the SHA-256 bank.
    pub sha256: Hash<32>,
    /// In the SHA-384 bank.
    pub sha384: Hash<48>,
}

impl Digests {
    /// Of the parts, one behind the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self { sha256: Hash::<32>::of(parts), sha384: Hash::<48>::of(parts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_its_digits() {
        // FIPS 180-2, "abc".
        let digests = Digests::of(&[b"a", b"bc"]);
        let text = serde_json::to_string(&digests).unwrap();
        assert_eq!(
            text,
            "{\"sha256\":\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\",\
             \"sha384\":\"cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
             8086072ba1e7cc2358baeca134c825a7\"}"
        );
        assert_eq!(serde_json::from_str::<Digests>(&text).unwrap(), digests);
        for broken in ["\"ba78\"", "\"zz\"", "7"] {
            assert!(serde_json::from_str::<Hash<32>>(broken).is_err(), "{broken}");
        }
    }
}
