//! The superblock of EROFS.
//!
//! Sources: `fs/erofs/erofs_fs.h` of the kernel; mkfs.erofs(1) for the names of features and the
//! kernels that have them.

use super::{BLOCK_BYTES, Feature, Start, bits, bytes_at, u16_at, u32_at};

const SUPERBLOCK: usize = 1024;
const BLKSZBITS: usize = SUPERBLOCK + 0xc;
const BLOCKS_HI: usize = SUPERBLOCK + 0xe;
const BLOCKS_LO: usize = SUPERBLOCK + 0x24;
const FEATURE_INCOMPAT: usize = SUPERBLOCK + 0x50;
const AVAILABLE_COMPR_ALGS: usize = SUPERBLOCK + 0x54;
const EXTRA_DEVICES: usize = SUPERBLOCK + 0x56;

const MAGIC: u32 = 0xe0f5_e1e2;

/// The compression algorithms are listed; without, they are LZ4, if any.
const INCOMPAT_COMPR_CFGS: u32 = 0x2;

/// Files can have their data on further devices.
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// The upper 16 bits of the number of blocks count, where the root's number stood before.
const INCOMPAT_48BIT: u32 = 0x80;

/// Bits of the incompatible features that every kernel has which can be booted: padding in front of
/// compressed data (Linux 5.4).
const EVERYWHERE: u32 = 0x1;

/// The others. Some bits stand for two.
const FEATURES: &[(u32, &str, Option<&str>)] = &[
    (1, "big pclusters", Some("Linux 5.13")),
    (2, "chunks", Some("Linux 5.15")),
    (3, "a second algorithm", Some("Linux 5.16")),
    (4, "ztailpacking", Some("Linux 5.17")),
    (5, "fragments or dedupe", Some("Linux 6.1")),
    (6, "prefixes of attributes", Some("Linux 6.4")),
    (7, "48bit", Some("Linux 6.15")),
    (8, "compressed metadata", Some("Linux 6.17")),
];

/// Compression algorithms, by the bits of their list.
const ALGORITHMS: &[(u32, &str, Option<&str>)] = &[
    (0, "lz4", Some("EROFS_FS_ZIP")),
    (1, "lzma", Some("EROFS_FS_ZIP_LZMA")),
    (2, "deflate", Some("EROFS_FS_ZIP_DEFLATE")),
    (3, "zstd", Some("EROFS_FS_ZIP_ZSTD")),
];

pub(super) fn begins(start: &Start) -> bool {
    u32_at(start, SUPERBLOCK) == MAGIC
}

/// Its blocks and features, or what is wrong with it.
pub(super) fn look(start: &Start) -> Result<(u64, Vec<Feature>), String> {
    let [bits_of_block] = bytes_at(start, BLKSZBITS);
    let block_bytes = 1_u64.checked_shl(bits_of_block.into());
    if block_bytes != Some(BLOCK_BYTES) {
        let size =
            block_bytes.map_or_else(|| format!("2^{bits_of_block}"), |size| size.to_string());
        return Err(format!(
            "has blocks of {size} bytes, dm-verity needs {BLOCK_BYTES}: make it with mkfs.erofs -b \
             {BLOCK_BYTES}"
        ));
    }
    let incompat = u32_at(start, FEATURE_INCOMPAT);
    let devices = u16_at(start, EXTRA_DEVICES);
    if incompat & INCOMPAT_DEVICE_TABLE != 0 && devices != 0 {
        return Err(format!(
            "has data on {devices} further devices, which nothing verifies: make it with \
             mkfs.erofs without --blobdev"
        ));
    }
    let high = if incompat & INCOMPAT_48BIT == 0 { 0 } else { u16_at(start, BLOCKS_HI) };
    let blocks = u64::from(high) << 32 | u64::from(u32_at(start, BLOCKS_LO));
    let algorithms = match incompat & INCOMPAT_COMPR_CFGS {
        0 => 0,
        _ => u16_at(start, AVAILABLE_COMPR_ALGS),
    };
    let features = named(incompat & !EVERYWHERE, FEATURES, "the feature").chain(named(
        algorithms.into(),
        ALGORITHMS,
        "the algorithm",
    ));
    Ok((blocks, features.collect()))
}

fn named(
    set: u32,
    known: &'static [(u32, &str, Option<&str>)],
    what: &str,
) -> impl Iterator<Item = Feature> {
    bits(set).map(move |bit| match known.iter().find(|(number, ..)| *number == bit) {
        Some((_, name, kernel)) => Feature::new(*name, *kernel),
        None => Feature::new(format!("{what} of bit {bit}"), None),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EROFS, with};
    use super::*;

    #[test]
    fn other_blocks_than_those_of_dm_verity_are_refused() {
        for (bits, size) in [(9, "512"), (14, "16384"), (0, "1"), (64, "2^64"), (255, "2^255")] {
            assert_eq!(
                look(&with(EROFS, &[(0x40c, &[bits])])).unwrap_err(),
                format!(
                    "has blocks of {size} bytes, dm-verity needs 4096: make it with mkfs.erofs -b \
                     4096"
                )
            );
        }
    }

    #[test]
    fn data_on_other_devices_is_refused() {
        let devices = (0x456, &[2][..]);
        assert_eq!(
            look(&with(EROFS, &[(0x450, &[8]), devices])).unwrap_err(),
            "has data on 2 further devices, which nothing verifies: make it with mkfs.erofs without \
             --blobdev"
        );
        // Without a table of devices the field means nothing.
        assert!(look(&with(EROFS, &[(0x450, &[1]), devices])).is_ok());
        assert!(look(&with(EROFS, &[(0x450, &[8])])).is_ok());
    }

    #[test]
    fn the_upper_bits_of_the_number_of_blocks_count_where_the_feature_says_so() {
        let blocks =
            |feature: u8| look(&with(EROFS, &[(0x40e, &[7]), (0x450, &[feature])])).unwrap().0;
        assert_eq!(blocks(1), 2048);
        assert_eq!(blocks(0x80), 7 << 32 | 2048);
    }

    #[test]
    fn what_a_kernel_may_lack_is_named() {
        let features = |incompat: u32, algorithms: u16| {
            let (incompat, algorithms) = (incompat.to_le_bytes(), algorithms.to_le_bytes());
            let found = look(&with(EROFS, &[(0x450, &incompat), (0x454, &algorithms)])).unwrap().1;
            found.into_iter().map(|feature| (feature.name, feature.kernel)).collect::<Vec<_>>()
        };
        let named = |name: &str, kernel| (name.to_owned(), kernel);
        // Of LZ4, it is then a distance.
        assert_eq!(features(1, 0xffff), []);
        assert_eq!(
            features(0x13, 0x2),
            [
                named("big pclusters", Some("Linux 5.13")),
                named("ztailpacking", Some("Linux 5.17")),
                named("lzma", Some("EROFS_FS_ZIP_LZMA")),
            ]
        );
        assert_eq!(
            features(1 << 20 | 2, 1 << 9)[1..],
            [named("the feature of bit 20", None), named("the algorithm of bit 9", None)]
        );
    }
}
