//! CRC-32C the way ext4 chains it.

/// The Castagnoli polynomial, bit-reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What each byte does to the register. A kibibyte, because a volume of 2 TiB has 1.5 MiB to sum.
static TABLE: [u32; 256] = table();

#[expect(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut byte, mut index) = (0, 0);
    while index < table.len() {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1_u32).wrapping_neg());
            bit += 1;
        }
        table[index] = crc;
        (byte, index) = (byte + 1, index + 1);
    }
    table
}

/// Continues `crc` over `bytes`, without the inversions at start and end that the published
/// checksum has: ext4 chains seeds through the raw register, which crates hide.
pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        // A byte is always in the table; the compiler knows it too.
        (crc >> 8) ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default()
    })
}

/// What every metadata checksum of a volume starts from, bar the superblock's own.
pub(super) fn seed(uuid: &[u8; 16]) -> u32 {
    crc32c(!0, uuid)
}

/// What the checksums of an inode and of its directory blocks start from: the inode number and
/// `i_generation`, which is 0 in all that is made here.
pub(super) fn inode_seed(seed: u32, ino: u32) -> u32 {
    crc32c(crc32c(seed, &ino.to_le_bytes()), &0u32.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published CRC-32C: the register starts and ends inverted.
    fn published(bytes: &[u8]) -> u32 {
        !crc32c(!0, bytes)
    }

    #[test]
    fn agrees_with_the_vectors_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(published(b""), 0);
        assert_eq!(published(b"123456789"), 0xe306_9283);
        assert_eq!(published(&[0; 32]), 0x8a91_36aa);
        assert_eq!(published(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(published(&ascending), 0x46dd_794e);
        assert_eq!(published(&descending), 0x113f_db5c);
    }

    #[test]
    fn chains() {
        assert_eq!(crc32c(crc32c(7, b"1234"), b"56789"), crc32c(7, b"123456789"));
    }
}
