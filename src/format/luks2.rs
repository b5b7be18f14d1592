//! The LUKS2 header of a volume that has no keyslot: nothing on the disk wraps its key.
//!
//! The header tells tools what the partition holds; it is written and never read back.
//!
//! Source: LUKS2 On-Disk Format Specification, version 1.1.1, chapters 2 and 3.

use base64ct::{Base64, Encoding};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::format::uuid;

/// Bytes that both copies of the header take, at the start of the device.
pub const SIZE: usize = 2 * COPY_SIZE;
/// Where the encrypted data begins, in bytes: what cryptsetup leaves for header and keyslots.
pub const DATA_OFFSET: u64 = 16 * 1024 * 1024;

/// Bytes of one copy: binary header and JSON area.
const COPY_SIZE: usize = 16 * 1024;
const BINARY_SIZE: usize = 4096;
const JSON_SIZE: usize = COPY_SIZE - BINARY_SIZE;
const KEYSLOTS_SIZE: u64 = DATA_OFFSET - SIZE as u64;

const MAGIC_FIRST: [u8; 6] = *b"LUKS\xba\xbe";
const MAGIC_SECOND: [u8; 6] = *b"SKUL\xba\xbe";
const CHECKSUM_AT: usize = 0x1c0;

/// Rounds of PBKDF2 in the digest, cryptsetup's least: the volume key is random, there is
/// nothing to guess.
const DIGEST_ITERATIONS: u32 = 1000;

/// What a header says.
#[derive(Debug)]
pub struct Header<'a> {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// Cipher by cryptsetup's name.
    pub cipher: &'a str,
    /// Integrity by cryptsetup's name, if there is any.
    pub integrity: Option<&'a str>,
    /// What a tool has to know before it may open the volume. One that does not know the name
    /// refuses, and still shows the header.
    pub requirement: Option<&'a str>,
    /// Bytes in an encryption sector.
    pub sector_size: u32,
    /// What ties the header to its volume key.
    pub digest: KeyDigest,
    /// Salts of the two copies' checksums.
    pub checksum_salts: [[u8; 64]; 2],
}

/// PBKDF2-HMAC-SHA-256 of a volume key, by which tools recognise the key.
#[derive(Debug)]
pub struct KeyDigest {
    salt: [u8; 32],
    digest: [u8; 32],
}

impl KeyDigest {
    /// Of this volume key with this random salt.
    #[must_use]
    pub fn new(volume_key: &[u8], salt: [u8; 32]) -> Self {
        let mut digest = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(volume_key, &salt, DIGEST_ITERATIONS, &mut digest);
        Self { salt, digest }
    }
}

impl Header<'_> {
    /// Both copies, as they stand at the start of the device.
    ///
    /// # Errors
    /// When the metadata does not fit into its area.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let json = serde_json::to_string(&self.metadata())?;
        let [first, second] = &self.checksum_salts;
        let mut bytes = self.copy(MAGIC_FIRST, 0, first, &json);
        bytes.extend(self.copy(MAGIC_SECOND, COPY_SIZE as u64, second, &json));
        Ok(bytes)
    }

    /// One copy: the binary header, 4096 bytes, all numbers big-endian, then the JSON area.
    fn copy(&self, magic: [u8; 6], offset: u64, salt: &[u8; 64], json: &str) -> Vec<u8> {
        let mut binary = Vec::with_capacity(COPY_SIZE);
        binary.extend(magic);
        binary.extend(2_u16.to_be_bytes()); // version
        binary.extend((COPY_SIZE as u64).to_be_bytes());
        binary.extend(1_u64.to_be_bytes()); // sequence number
        binary.extend(padded::<48>("")); // label
        binary.extend(padded::<32>("sha256"));
        binary.extend(salt);
        binary.extend(padded::<40>(&uuid::hyphenated(&self.uuid)));
        binary.extend(padded::<48>("")); // subsystem
        binary.extend(offset.to_be_bytes());
        binary.resize(BINARY_SIZE, 0); // padding, checksum of zeros, padding

        let mut copy = binary;
        copy.extend(json.bytes());
        copy.resize(COPY_SIZE, 0);
        // The checksum covers the copy with its own field zero.
        let checksum = Sha256::digest(&copy);
        for (byte, value) in copy.iter_mut().skip(CHECKSUM_AT).zip(checksum) {
            *byte = value;
        }
        copy
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata {
            keyslots: NoEntries {},
            tokens: NoEntries {},
            segments: OneEntry {
                zero: Segment {
                    kind: "crypt",
                    offset: DATA_OFFSET.to_string(),
                    size: "dynamic",
                    iv_tweak: "0",
                    encryption: self.cipher,
                    sector_size: self.sector_size,
                    integrity: self.integrity.map(|kind| Integrity {
                        kind,
                        journal_encryption: "none",
                        journal_integrity: "none",
                    }),
                },
            },
            digests: OneEntry {
                zero: Digest {
                    kind: "pbkdf2",
                    keyslots: [],
                    segments: ["0"],
                    hash: "sha256",
                    iterations: DIGEST_ITERATIONS,
                    salt: Base64::encode_string(&self.digest.salt),
                    digest: Base64::encode_string(&self.digest.digest),
                },
            },
            config: Config {
                json_size: JSON_SIZE.to_string(),
                keyslots_size: KEYSLOTS_SIZE.to_string(),
                flags: self.integrity.map(|_| ["no-journal"]),
                requirements: self.requirement.map(|name| Requirements { mandatory: [name] }),
            },
        }
    }
}

/// The JSON area: objects by number, 64-bit integers as text.
#[derive(Serialize)]
struct Metadata<'a> {
    keyslots: NoEntries,
    tokens: NoEntries,
    segments: OneEntry<Segment<'a>>,
    digests: OneEntry<Digest>,
    config: Config<'a>,
}

#[derive(Serialize)]
struct NoEntries {}

/// An object whose one entry has the number 0.
#[derive(Serialize)]
struct OneEntry<T> {
    #[serde(rename = "0")]
    zero: T,
}

#[derive(Serialize)]
struct Segment<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    offset: String,
    size: &'a str,
    iv_tweak: &'a str,
    encryption: &'a str,
    sector_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    integrity: Option<Integrity<'a>>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the format's")]
struct Integrity<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    journal_encryption: &'a str,
    journal_integrity: &'a str,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the format's")]
struct Digest {
    #[serde(rename = "type")]
    kind: &'static str,
    keyslots: [&'static str; 0],
    segments: [&'static str; 1],
    hash: &'static str,
    iterations: u32,
    salt: String,
    digest: String,
}

#[derive(Serialize)]
struct Config<'a> {
    json_size: String,
    keyslots_size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requirements: Option<Requirements<'a>>,
}

#[derive(Serialize)]
struct Requirements<'a> {
    mandatory: [&'a str; 1],
}

/// A text in a field of `N` bytes, filled up with zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (byte, value) in field.iter_mut().zip(text.bytes()) {
        *byte = value;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        Header {
            uuid: [0x11; 16],
            cipher: "aes-gcm-random",
            integrity: Some("aead"),
            requirement: None,
            sector_size: 4096,
            digest: KeyDigest::new(&[7; 32], [9; 32]),
            checksum_salts: [[1; 64], [2; 64]],
        }
        .encode()
        .unwrap()
    }

    #[test]
    fn two_copies_differ_in_magic_salt_offset_and_checksum_only() {
        let header = header();
        assert_eq!(header.len(), SIZE);
        let (first, second) = header.split_at(COPY_SIZE);
        assert_eq!(first[..8], *b"LUKS\xba\xbe\0\x02");
        assert_eq!(second[..8], *b"SKUL\xba\xbe\0\x02");
        assert_eq!(first[4096..], second[4096..]);
        assert_eq!(first[0x100..0x108], [0; 8]);
        assert_eq!(second[0x100..0x108], 16384_u64.to_be_bytes());
    }

    #[test]
    fn the_checksum_covers_a_copy_with_its_field_zero() {
        for copy in header().chunks(COPY_SIZE) {
            let mut zeroed = copy.to_vec();
            zeroed[CHECKSUM_AT..CHECKSUM_AT + 64].fill(0);
            assert_eq!(copy[CHECKSUM_AT..CHECKSUM_AT + 32], Sha256::digest(&zeroed)[..]);
        }
    }

    #[test]
    fn the_key_is_nowhere_in_it() {
        assert!(!header().windows(8).any(|window| window == [7; 8]));
    }
}
