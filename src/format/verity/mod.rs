//! dm-verity: the superblock, the proof of the root hash, the table.
//!
//! Only what veritysetup writes by default is taken: hash type 1, SHA-256, blocks of 4096 bytes.
//!
//! Sources: `Documentation/admin-guide/device-mapper/verity.rst`; cryptsetup's wiki, "`DMVerity`".

mod areas;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::format::device::{Dev, SECTOR};
use crate::format::fields::Fields;
use crate::format::hex;

pub use self::areas::{Areas, HashOffset, data_blocks_before_tree, partition_uuids};

/// Bytes in a data block and in a hash block.
pub const BLOCK_SIZE: u32 = 4096;
/// Bytes of the superblock that are read.
pub const SUPERBLOCK_SIZE: usize = 512;

/// Digest of the top hash block.
pub type RootHash = [u8; 32];

const MAGIC: &[u8] = b"verity\0\0";
const VERSION: u32 = 1;
/// The salt comes before the data; 0 would be Chrome OS's older form.
const HASH_TYPE: u32 = 1;
const ALGORITHM: &str = "sha256";
const SALT_MAX: usize = 256;
/// Digests in a hash block, as a power of two: 4096 / 32.
const DIGESTS_BITS: u32 = 7;
/// More than any disk has (64 EiB), and no product below overflows.
const DATA_BLOCKS_MAX: u64 = 1 << 52;

/// What the kernel does, once the new root's init runs, about a block that does not match its digest
/// or cannot be read (`cvm.verity_on_corruption=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// The read fails, and whoever reads decides what comes of it: the host can take single files
    /// from the guest, as a rule of a firewall, and it goes on.
    IoError,
    /// The machine restarts. As the boot itself, a running guest goes on with the whole root or not at
    /// all.
    #[default]
    Restart,
    /// The kernel panics.
    Panic,
}

impl OnCorruption {
    /// By the name of `cvm.verity_on_corruption=`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoError => "io-error",
            Self::Restart => "restart",
            Self::Panic => "panic",
        }
    }
}

/// The target's version from which on the kernel can restart or panic at a block that cannot be read
/// (Linux 6.12).
pub const ERRORS_SINCE: [u32; 3] = [1, 10, 0];

/// What a hash tree is computed with. The salt is not believed before [`Params::prove`].
///
/// The root hash does not cover the number of data blocks. A larger one leads dm-verity to digests
/// that are not there, so that what is behind the data reads as an error. A smaller one makes a
/// shorter device: either its tree has another shape and no block matches, or it is too short for its
/// ext4, which says in its verified superblock how many blocks it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Salt, 0 to 256 bytes.
    pub salt: Vec<u8>,
    /// Data blocks of 4096 bytes.
    pub data_blocks: u64,
}

impl Params {
    /// From the command line.
    ///
    /// # Errors
    /// A salt too long, or a count that no hash tree has.
    pub fn new(salt: Vec<u8>, data_blocks: u64) -> Result<Self> {
        if salt.len() > SALT_MAX {
            return Err(Error::new(format!(
                "verity salt of {} bytes, at most {SALT_MAX} are possible",
                salt.len()
            )));
        }
        // A single data block has no hash block above it: there would be nothing to prove.
        if !(2..=DATA_BLOCKS_MAX).contains(&data_blocks) {
            return Err(Error::new(format!(
                "verity data blocks {data_blocks}, not from 2 to {DATA_BLOCKS_MAX}"
            )));
        }
        Ok(Self { salt, data_blocks })
    }

    /// From a superblock, which is the host's word.
    ///
    /// # Errors
    /// What it says and what is taken.
    pub fn from_superblock(superblock: &[u8; SUPERBLOCK_SIZE]) -> Result<Self> {
        // signature 8, version 4, hash type 4, uuid 16, algorithm 32, data block size 4, hash
        // block size 4, data blocks 8, salt size 2, padding 6, salt 256, padding 168
        let mut fields = Fields(superblock);
        let magic = fields.take::<8>();
        if magic[..] != *MAGIC {
            return Err(unfit("magic", hex::encode(&magic), hex::encode(MAGIC)));
        }
        require("version", fields.u32(), VERSION)?;
        require("hash type", fields.u32(), HASH_TYPE)?;
        fields.take::<16>(); // uuid
        let algorithm = fields.take::<32>();
        let algorithm = String::from_utf8_lossy(&algorithm);
        let algorithm = algorithm.trim_end_matches('\0');
        if algorithm != ALGORITHM {
            return Err(unfit("algorithm", format!("{algorithm:?}"), ALGORITHM));
        }
        require("data block size", fields.u32(), BLOCK_SIZE)?;
        require("hash block size", fields.u32(), BLOCK_SIZE)?;
        let data_blocks = fields.u64();
        let salt_size = usize::from(u16::from_le_bytes(fields.take()));
        fields.take::<6>();
        let salt = fields
            .take::<SALT_MAX>()
            .get(..salt_size)
            .ok_or_else(|| unfit("salt size", salt_size, format!("at most {SALT_MAX}")))?
            .to_vec();
        Self::new(salt, data_blocks)
    }

    /// Makes sure that the top hash block is the one `root_hash` stands for. Its salt takes
    /// part, so that the salt is proven too.
    ///
    /// # Errors
    /// Shows the digest that it has instead.
    pub fn prove(
        &self,
        top_hash_block: &[u8; BLOCK_SIZE as usize],
        root_hash: &RootHash,
    ) -> Result<()> {
        let digest = Sha256::new().chain_update(&self.salt).chain_update(top_hash_block).finalize();
        if digest[..] == root_hash[..] {
            return Ok(());
        }
        Err(Error::new(format!(
            "the top hash block does not match the root hash: its digest is {}",
            hex::encode(&digest)
        )))
    }

    /// The salt in hexadecimal digits, or the dash that stands for none.
    #[must_use]
    pub fn salt_text(&self) -> String {
        match self.salt.as_slice() {
            [] => "-".to_owned(),
            salt => hex::encode(salt),
        }
    }

    /// Sectors of 512 bytes that the mapping has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_blocks * (u64::from(BLOCK_SIZE) / SECTOR)
    }

    /// The table's parameters. `tree`: the hash block of `hash` that the tree begins with.
    /// `on_errors`: what is done about a block that does not match is done about one that cannot be
    /// read as well, which [`ERRORS_SINCE`] can.
    #[must_use]
    pub fn table(
        &self,
        data: Dev,
        (hash, tree): (Dev, u64),
        root_hash: &RootHash,
        on_corruption: OnCorruption,
        on_errors: bool,
    ) -> String {
        // The number of optional arguments, and each of them.
        let options = match (on_corruption, on_errors) {
            (OnCorruption::IoError, _) => "",
            (OnCorruption::Restart, false) => " 1 restart_on_corruption",
            (OnCorruption::Restart, true) => " 2 restart_on_corruption restart_on_error",
            (OnCorruption::Panic, false) => " 1 panic_on_corruption",
            (OnCorruption::Panic, true) => " 2 panic_on_corruption panic_on_error",
        };
        format!(
            "{HASH_TYPE} {data} {hash} {BLOCK_SIZE} {BLOCK_SIZE} {} {tree} {ALGORITHM} {} {}{options}",
            self.data_blocks,
            hex::encode(root_hash),
            self.salt_text(),
        )
    }
}

fn require(what: &str, found: u32, wanted: u32) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(unfit(what, found, wanted)) }
}

fn unfit(what: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Error {
    Error::new(format!("verity superblock: {what} is {found}, not {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> [u8; SUPERBLOCK_SIZE] {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        bytes[..8].copy_from_slice(b"verity\0\0");
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[65] = 0x10;
        bytes[69] = 0x10;
        bytes[72..80].copy_from_slice(&1000_u64.to_le_bytes());
        bytes[80] = 4;
        bytes[88..92].copy_from_slice(&[1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn a_superblock_by_veritysetups_layout() {
        let params = Params::from_superblock(&superblock()).unwrap();
        assert_eq!(params, Params::new(vec![1, 2, 3, 4], 1000).unwrap());
    }

    #[test]
    fn every_field_that_differs_is_named() {
        for (at, value, message) in [
            (0, b'V', "magic is 5665726974790000, not 7665726974790000"),
            (8, 2, "version is 2, not 1"),
            (12, 0, "hash type is 0, not 1"),
            (34, b'b', "algorithm is \"shb256\", not sha256"),
            (65, 4, "data block size is 1024, not 4096"),
            (69, 2, "hash block size is 512, not 4096"),
            (81, 2, "salt size is 516, not at most 256"),
        ] {
            let mut bytes = superblock();
            bytes[at] = value;
            assert_eq!(
                Params::from_superblock(&bytes).unwrap_err().to_string(),
                format!("verity superblock: {message}")
            );
        }
    }

    #[test]
    fn counts_that_no_tree_has_are_refused() {
        for blocks in [0, 1, u64::MAX] {
            assert!(Params::new(Vec::new(), blocks).is_err(), "{blocks}");
        }
    }

    #[test]
    fn the_table_is_the_one_that_the_kernel_shows() {
        let dev = |minor| Dev { major: 8, minor };
        let root_hash = [0xab; 32];
        let hex = "ab".repeat(32);
        let table = |salt: &[u8], on_corruption, on_errors| {
            let params = Params::new(salt.to_vec(), 1000).unwrap();
            params.table(dev(2), (dev(3), 1), &root_hash, on_corruption, on_errors)
        };
        let start = format!("1 8:2 8:3 4096 4096 1000 1 sha256 {hex}");
        for (on_corruption, salt, end, end_on_errors) in [
            (OnCorruption::IoError, &[1, 2][..], "0102", "0102"),
            (OnCorruption::IoError, &[], "-", "-"),
            (
                OnCorruption::Restart,
                &[1, 2],
                "0102 1 restart_on_corruption",
                "0102 2 restart_on_corruption restart_on_error",
            ),
            (
                OnCorruption::Panic,
                &[],
                "- 1 panic_on_corruption",
                "- 2 panic_on_corruption panic_on_error",
            ),
        ] {
            assert_eq!(table(salt, on_corruption, false), format!("{start} {end}"));
            assert_eq!(table(salt, on_corruption, true), format!("{start} {end_on_errors}"));
        }
        let params = Params::new(vec![1], 1000).unwrap();
        let behind = params.table(dev(2), (dev(2), 1001), &root_hash, OnCorruption::IoError, false);
        assert_eq!(behind, format!("1 8:2 8:2 4096 4096 1000 1001 sha256 {hex} 01"));
    }

    proptest! {
        #[test]
        fn no_superblock_panics(mut bytes in prop::collection::vec(any::<u8>(), SUPERBLOCK_SIZE),
                                valid_until in 0..SUPERBLOCK_SIZE) {
            bytes[..valid_until].copy_from_slice(&superblock()[..valid_until]);
            let _ = Params::from_superblock(bytes[..].try_into().unwrap());
        }

        #[test]
        fn counts_and_salts_that_can_be_are_taken_whatever_lies_around_them(
            mut bytes in prop::collection::vec(any::<u8>(), SUPERBLOCK_SIZE),
            data_blocks in prop_oneof![0..4_u64, DATA_BLOCKS_MAX - 1..DATA_BLOCKS_MAX + 2, any::<u64>()],
            salt_size in 0..300_u16,
        ) {
            let valid = superblock();
            for fixed in [0..16, 32..72] {
                bytes[fixed.clone()].copy_from_slice(&valid[fixed]);
            }
            bytes[72..80].copy_from_slice(&data_blocks.to_le_bytes());
            bytes[80..82].copy_from_slice(&salt_size.to_le_bytes());
            let taken = Params::from_superblock(bytes[..].try_into().unwrap()).ok();
            let possible = (2..=DATA_BLOCKS_MAX).contains(&data_blocks) && salt_size <= 256;
            let expected = possible.then(|| Params {
                salt: bytes[88..88 + usize::from(salt_size)].to_vec(),
                data_blocks,
            });
            prop_assert_eq!(taken, expected);
        }
    }
}
