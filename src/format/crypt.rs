//! dm-crypt: the ciphers on offer and their tables.
//!
//! Source: `Documentation/admin-guide/device-mapper/dm-crypt.rst`.

use crate::format::device::Dev;

/// Bytes in an encryption sector. One tag a page is the least metadata, and the page cache
/// never writes less.
pub const SECTOR_SIZE: u32 = 4096;

/// A cipher by cryptsetup's names, and what the kernel needs to hear.
#[derive(Debug, PartialEq, Eq)]
pub struct Cipher {
    /// `cvm.cipher=` and "encryption" in the LUKS2 segment.
    pub name: &'static str,
    /// `cvm.integrity=`.
    pub integrity: &'static str,
    /// The kernel's specification, with IV generator.
    spec: &'static str,
    /// Kernel options that bring it.
    pub kernel_options: &'static str,
    /// It is made of AES, whose time tells of the key where the processor has no instructions for it.
    pub aes: bool,
    /// Bytes of volume key.
    pub key_size: usize,
    /// What is kept beside the ciphertext, unless there is nothing.
    pub tag: Option<Tag>,
}

/// What an authenticating cipher keeps of each sector.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag {
    /// "integrity" in the LUKS2 segment.
    pub luks2_name: &'static str,
    /// Bytes of random IV and of tag together.
    pub size: u32,
}

/// What a cipher without tags is called in `cvm.integrity=`.
const NO_INTEGRITY: &str = "none";

/// Each cipher that a boot can ask for. Of the entries with one name the first is what the name
/// alone stands for.
pub const CIPHERS: &[Cipher] = &[
    // IV of 12 bytes, tag of 16.
    Cipher {
        name: "aes-gcm-random",
        integrity: "aead",
        spec: "capi:gcm(aes)-random",
        kernel_options: "CRYPTO_AES, CRYPTO_GCM",
        aes: true,
        key_size: 32,
        tag: Some(Tag { luks2_name: "aead", size: 28 }),
    },
    // IV of 16 bytes, tag of 16.
    Cipher {
        name: "aegis128-random",
        integrity: "aead",
        spec: "capi:aegis128-random",
        kernel_options: "CRYPTO_AEGIS128",
        aes: true,
        key_size: 16,
        tag: Some(Tag { luks2_name: "aead", size: 32 }),
    },
    // IV of 12 bytes, tag of 16.
    Cipher {
        name: "chacha20-random",
        integrity: "poly1305",
        spec: "capi:rfc7539(chacha20,poly1305)-random",
        kernel_options: "CRYPTO_CHACHA20POLY1305",
        aes: false,
        key_size: 32,
        tag: Some(Tag { luks2_name: "poly1305", size: 28 }),
    },
    // The IV is the sector's number. Two keys of AES-256 and one of the HMAC.
    Cipher {
        name: "aes-xts-plain64",
        integrity: "hmac-sha256",
        spec: "capi:authenc(hmac(sha256),xts(aes))-plain64",
        kernel_options: "CRYPTO_AES, CRYPTO_XTS, CRYPTO_AUTHENC, CRYPTO_HMAC, CRYPTO_SHA256",
        aes: true,
        key_size: 96,
        tag: Some(Tag { luks2_name: "hmac(sha256)", size: 32 }),
    },
    Cipher {
        name: "aes-xts-plain64",
        integrity: NO_INTEGRITY,
        spec: "aes-xts-plain64",
        kernel_options: "CRYPTO_AES, CRYPTO_XTS",
        aes: true,
        key_size: 64,
        tag: None,
    },
];

/// The cipher of this name, with this integrity or else the one that belongs to it. A cipher
/// without integrity is had by asking for that only.
#[must_use]
pub fn cipher(name: &str, integrity: Option<&str>) -> Option<&'static Cipher> {
    let is_asked_for = |cipher: &&Cipher| match integrity {
        Some(integrity) => cipher.integrity == integrity,
        None => cipher.tag.is_some(),
    };
    CIPHERS.iter().filter(|cipher| cipher.name == name).find(is_asked_for)
}

/// The table's parameters for ciphertext from sector `start` of `device` on, which keeps the tags
/// too where there are any, and the `logon` key of this description.
#[must_use]
pub fn table(cipher: &Cipher, key_description: &str, device: Dev, start: u64) -> String {
    let (count, integrity) = match &cipher.tag {
        Some(tag) => (2, format!("integrity:{}:aead ", tag.size)),
        None => (1, String::new()),
    };
    format!(
        "{} :{}:logon:{key_description} 0 {device} {start} {count} {integrity}sector_size:{SECTOR_SIZE}",
        cipher.spec, cipher.key_size,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_that_the_kernel_shows() {
        let table = |name, integrity, device, start| {
            table(cipher(name, Some(integrity)).unwrap(), "cvm-init:cocos", device, start)
        };
        assert_eq!(
            table("aes-gcm-random", "aead", Dev { major: 254, minor: 0 }, 0),
            "capi:gcm(aes)-random :32:logon:cvm-init:cocos 0 254:0 0 2 integrity:28:aead sector_size:4096"
        );
        assert_eq!(
            table("aes-xts-plain64", "none", Dev { major: 8, minor: 4 }, 32768),
            "aes-xts-plain64 :64:logon:cvm-init:cocos 0 8:4 32768 1 sector_size:4096"
        );
    }

    #[test]
    fn a_name_alone_stands_for_its_own_integrity_and_never_for_none() {
        for (name, integrity) in [
            ("aes-gcm-random", "aead"),
            ("aegis128-random", "aead"),
            ("chacha20-random", "poly1305"),
            ("aes-xts-plain64", "hmac-sha256"),
        ] {
            assert_eq!(cipher(name, None).unwrap().integrity, integrity);
        }
        assert_eq!(cipher("aes-xts-plain64", Some("none")).unwrap().tag, None);
    }
}
