//! Digests: SHA-256 alone, which is what every registry and tool gives.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use cvm_init::error::{Error, Result};
use cvm_init::format::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, which OCI spells `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its 64 digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(&self.0)
    }

    /// What identifies a layer together with all below it: `ChainID` of the specification
    /// (`config.md`). That of a first layer is its own digest.
    #[must_use]
    pub fn chained(self, below: Option<Self>) -> Self {
        below.map_or(self, |below| Self::of(format!("{below} {self}").as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").filter(|digits| *digits == digits.to_lowercase());
        let bytes = digits.and_then(hex::decode).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Error::new(format!("{text:?} is no sha256 digest")))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Reads on, and hashes and counts what comes by.
pub struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    /// Of what `inner` has from here on.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// How many bytes have come by.
    pub fn count(&self) -> u64 {
        self.bytes
    }

    /// The digest of what has come by.
    pub fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_spelled_as_the_specification_has_it() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        for wrong in [
            "",
            "sha256:",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
            "sha256:E3B0C44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:../../etc/passwd",
        ] {
            let refusal = wrong.parse::<Digest>().unwrap_err();
            assert_eq!(refusal.to_string(), format!("{wrong:?} is no sha256 digest"));
        }
    }

    #[test]
    fn what_is_read_is_hashed_and_counted() {
        let mut hashing = Hashing::new(&b"abc"[..]);
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        assert_eq!(hashing.count(), 3);
        assert_eq!(hashing.digest(), Digest::of(b"abc"));
    }

    #[test]
    fn a_layer_is_told_from_the_same_one_above_another() {
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(first.chained(None), first);
        let both = Digest::of(format!("{first} {second}").as_bytes());
        assert_eq!(second.chained(Some(first)), both);
    }
}
