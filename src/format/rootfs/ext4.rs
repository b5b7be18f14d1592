//! The superblock of ext4.
//!
//! Sources: the kernel's `Documentation/filesystems/ext4/super.rst`; ext4(5) and `lib/e2p/feature.c` of
//! e2fsprogs for the names of features.

use super::{BLOCK_BYTES, Feature, Start, bits, bytes_at, u32_at};

const SUPERBLOCK: usize = 1024;
const S_BLOCKS_COUNT_LO: usize = SUPERBLOCK + 0x4;
const S_LOG_BLOCK_SIZE: usize = SUPERBLOCK + 0x18;
const S_MAGIC: usize = SUPERBLOCK + 0x38;
const S_FEATURE_COMPAT: usize = SUPERBLOCK + 0x5c;
const S_FEATURE_INCOMPAT: usize = SUPERBLOCK + 0x60;
const S_JOURNAL_INUM: usize = SUPERBLOCK + 0xe0;
const S_JOURNAL_DEV: usize = SUPERBLOCK + 0xe4;
const S_BLOCKS_COUNT_HI: usize = SUPERBLOCK + 0x150;

const MAGIC: [u8; 2] = [0x53, 0xef];

/// The largest blocks have 64 KiB.
const LOG_BLOCK_SIZE_MAX: u32 = 6;

const COMPAT_HAS_JOURNAL: u32 = 0x4;

/// The journal has to be replayed before the file system is read.
const INCOMPAT_RECOVER: u32 = 0x4;

/// The upper half of the number of blocks counts.
const INCOMPAT_64BIT: u32 = 0x80;

/// Bits of `s_feature_incompat` that every kernel mounts which can be booted: `filetype`, `recover`,
/// `meta_bg`, `extent`, `64bit`, `mmp`, `flex_bg`, `ea_inode`, `metadata_csum_seed`, `large_dir`,
/// `inline_data`, `encrypt`. Those of `s_feature_ro_compat` keep nobody from reading.
const EVERYWHERE: u32 = 0x1_e7d6;

/// The others that have a name.
const FEATURES: &[(u32, &str, Option<&str>)] = &[
    (0, "compression", None),
    (3, "journal_dev", None),
    (12, "dirdata", None),
    (17, "casefold", Some("UNICODE")),
];

pub(super) fn begins(start: &Start) -> bool {
    bytes_at(start, S_MAGIC) == MAGIC && u32_at(start, S_LOG_BLOCK_SIZE) <= LOG_BLOCK_SIZE_MAX
}

fn block_bytes(start: &Start) -> u64 {
    1024_u64 << u32_at(start, S_LOG_BLOCK_SIZE).min(LOG_BLOCK_SIZE_MAX)
}

/// `s_blocks_count`
fn blocks(start: &Start) -> u64 {
    let high = match u32_at(start, S_FEATURE_INCOMPAT) & INCOMPAT_64BIT {
        0 => 0,
        _ => u32_at(start, S_BLOCKS_COUNT_HI),
    };
    u64::from(high) << 32 | u64::from(u32_at(start, S_BLOCKS_COUNT_LO))
}

/// How many bytes it has, whatever it is like.
pub(super) fn bytes(start: &Start) -> u64 {
    blocks(start).saturating_mul(block_bytes(start))
}

/// Its blocks and features, or what is wrong with it.
pub(super) fn look(start: &Start) -> Result<(u64, Vec<Feature>), String> {
    let block_bytes = block_bytes(start);
    if block_bytes != BLOCK_BYTES {
        return Err(format!(
            "has blocks of {block_bytes} bytes, dm-verity needs {BLOCK_BYTES}: make it with mke2fs \
             -b {BLOCK_BYTES}"
        ));
    }
    let incompat = u32_at(start, S_FEATURE_INCOMPAT);
    if incompat & INCOMPAT_RECOVER != 0 {
        return Err(
            "was not unmounted, and its journal cannot be replayed here: run e2fsck -fp on \
                    it before its hash tree is made"
                .to_owned(),
        );
    }
    let (number, device) = (u32_at(start, S_JOURNAL_INUM), u32_at(start, S_JOURNAL_DEV));
    let has_journal = u32_at(start, S_FEATURE_COMPAT) & COMPAT_HAS_JOURNAL != 0;
    if has_journal && (number == 0 || device != 0) {
        return Err("has its journal on another device: run tune2fs -O ^has_journal on it before \
                    its hash tree is made"
            .to_owned());
    }
    let features = bits(incompat & !EVERYWHERE).map(|bit| {
        match FEATURES.iter().find(|(known, ..)| *known == bit) {
            Some((_, name, kernel)) => Feature::new(*name, *kernel),
            None => Feature::new(format!("FEATURE_I{bit}"), None),
        }
    });
    Ok((blocks(start), features.collect()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EXT4, with};
    use super::*;

    fn refusal(fields: &[(usize, &[u8])]) -> String {
        look(&with(EXT4, fields)).unwrap_err()
    }

    #[test]
    fn the_upper_half_of_the_number_of_blocks_counts_where_the_feature_says_so() {
        let blocks = |incompat| {
            let high = (0x550, &[3][..]);
            look(&with(EXT4, &[(0x460, &[incompat]), high])).unwrap().0
        };
        assert_eq!(blocks(0x42), 4096);
        assert_eq!(blocks(0xc2), 3 << 32 | 4096);
    }

    #[test]
    fn a_size_is_told_of_any_blocks() {
        assert_eq!(bytes(&with(EXT4, &[])), 4096 * 4096);
        assert_eq!(bytes(&with(EXT4, &[(0x418, &[0])])), 4096 * 1024);
        let most = (0x550, &[0xff; 4][..]);
        assert_eq!(bytes(&with(EXT4, &[(0x460, &[0xc2]), most])), u64::MAX);
    }

    #[test]
    fn other_blocks_than_those_of_dm_verity_are_refused() {
        for (log, size) in [(0, 1024), (1, 2048), (3, 8192), (6, 65536)] {
            assert_eq!(
                refusal(&[(0x418, &[log])]),
                format!(
                    "has blocks of {size} bytes, dm-verity needs 4096: make it with mke2fs -b 4096"
                )
            );
        }
    }

    #[test]
    fn a_journal_that_would_have_to_be_written_or_is_elsewhere_is_refused() {
        assert!(refusal(&[(0x460, &[0xc6])]).starts_with("was not unmounted, and its journal "));
        let has_journal = (0x45c, &[4][..]);
        assert!(look(&with(EXT4, &[has_journal, (0x4e0, &[8])])).is_ok());
        for elsewhere in [(0x4e0, &[0][..]), (0x4e4, &[1, 8])] {
            let inode = (0x4e0, &[8][..]);
            assert_eq!(
                refusal(&[has_journal, inode, elsewhere]),
                "has its journal on another device: run tune2fs -O ^has_journal on it before its \
                 hash tree is made"
            );
        }
    }

    #[test]
    fn what_a_kernel_may_lack_has_the_names_of_e2fsprogs() {
        let features = |incompat: u32| {
            let names = look(&with(EXT4, &[(0x460, &incompat.to_le_bytes())])).unwrap().1;
            names.into_iter().map(|feature| (feature.name, feature.kernel)).collect::<Vec<_>>()
        };
        assert_eq!(features(EVERYWHERE & !INCOMPAT_RECOVER), []);
        let named = |name: &str, kernel| (name.to_owned(), kernel);
        assert_eq!(
            features(0x2 | 0x1000 | 0x2_0000),
            [named("dirdata", None), named("casefold", Some("UNICODE"))]
        );
        assert_eq!(features(1 << 27), [named("FEATURE_I27", None)]);
        assert_eq!(features(0x9), [named("compression", None), named("journal_dev", None)]);
    }
}
