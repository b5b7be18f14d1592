//! dm-crypt over dm-integrity: the ciphers on offer and their tables.
//!
//! Source: `Documentation/admin-guide/device-mapper/dm-crypt.rst`.

use crate::block::Dev;
use crate::error::{Error, Result};

/// Bytes in an encryption sector. One tag a page is the least metadata, and the page cache
/// never writes less.
pub const SECTOR_SIZE: u32 = 4096;

/// A cipher by cryptsetup's names, and what the kernel needs to hear.
#[derive(Debug, PartialEq, Eq)]
pub struct Cipher {
    /// `cvm.cipher=` and "encryption" in the LUKS2 segment.
    pub name: &'static str,
    /// `cvm.integrity=` and "integrity" in the LUKS2 segment.
    pub integrity: &'static str,
    /// The kernel's specification, with IV generator.
    spec: &'static str,
    /// Kernel options that bring it.
    pub kernel_options: &'static str,
    /// Bytes of volume key.
    pub key_size: usize,
    /// Bytes of IV and tag that dm-integrity keeps for each sector.
    pub tag_size: u32,
}

/// Each cipher that a boot can ask for.
const CIPHERS: &[Cipher] = &[
    // 12 bytes of random IV and 16 of tag.
    Cipher {
        name: "aes-gcm-random",
        integrity: "aead",
        spec: "capi:gcm(aes)-random",
        kernel_options: "CRYPTO_AES, CRYPTO_GCM",
        key_size: 32,
        tag_size: 28,
    },
];

/// The cipher of these two names.
///
/// # Errors
/// Names the pairs on offer when this is none of them.
pub fn cipher(name: &str, integrity: &str) -> Result<&'static Cipher> {
    CIPHERS.iter().find(|cipher| cipher.name == name && cipher.integrity == integrity).ok_or_else(
        || {
            let offer: Vec<_> = CIPHERS
                .iter()
                .map(|cipher| format!("{} with {}", cipher.name, cipher.integrity))
                .collect();
            Error::new(format!(
                "cvm.cipher={name} with cvm.integrity={integrity}: not one of {}",
                offer.join(", ")
            ))
        },
    )
}

/// The table's parameters for a device whose tags `integrity` keeps and whose key is the
/// `logon` key of this description.
#[must_use]
pub fn table(cipher: &Cipher, key_description: &str, integrity: Dev) -> String {
    format!(
        "{} :{}:logon:{key_description} 0 {integrity} 0 2 integrity:{}:aead sector_size:{SECTOR_SIZE}",
        cipher.spec, cipher.key_size, cipher.tag_size,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_that_the_kernel_shows() {
        let cipher = cipher("aes-gcm-random", "aead").unwrap();
        assert_eq!(
            table(cipher, "cvm-init:cocos", Dev { major: 254, minor: 0 }),
            "capi:gcm(aes)-random :32:logon:cvm-init:cocos 0 254:0 0 2 integrity:28:aead sector_size:4096"
        );
    }
}
