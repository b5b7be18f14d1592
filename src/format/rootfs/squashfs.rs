//! The superblock of squashfs.
//!
//! Sources: `fs/squashfs/squashfs_fs.h`, and what `squashfs_fill_super` in `fs/squashfs/super.c` of
//! the kernel makes of it. Its error at a block that cannot be read is that of dm-verity, about which
//! `cvm.verity_on_corruption=` decides: `errors=panic` would decide once more.

use super::{BLOCK_BYTES, Feature, Start, bytes_at, u16_at, u32_at, u64_at};

const BLOCK_SIZE: usize = 12;
const COMPRESSION: usize = 20;
const BLOCK_LOG: usize = 22;
const S_MAJOR: usize = 28;
const S_MINOR: usize = 30;
const BYTES_USED: usize = 40;

const MAGIC: [u8; 4] = *b"hsqs";

const VERSION: (u16, u16) = (4, 0);

/// Compression algorithms by their numbers. That of LZMA was never a part of Linux.
const ALGORITHMS: &[(u16, &str, Option<&str>)] = &[
    (1, "gzip", Some("SQUASHFS_ZLIB")),
    (2, "lzma", None),
    (3, "lzo", Some("SQUASHFS_LZO")),
    (4, "xz", Some("SQUASHFS_XZ")),
    (5, "lz4", Some("SQUASHFS_LZ4")),
    (6, "zstd", Some("SQUASHFS_ZSTD")),
];

/// Bytes in a block of data, which is no block of the device: from a page to 1 MiB.
const LOG_MIN: u16 = 12;
const LOG_MAX: u16 = 20;

pub(super) fn begins(start: &Start) -> bool {
    bytes_at(start, 0) == MAGIC
}

/// Its blocks and features, or what is wrong with it.
pub(super) fn look(start: &Start) -> Result<(u64, Vec<Feature>), String> {
    let (major, minor) = (u16_at(start, S_MAJOR), u16_at(start, S_MINOR));
    if (major, minor) != VERSION {
        return Err(format!(
            "is of version {major}.{minor}, Linux has 4.0: make it with mksquashfs of \
             squashfs-tools 4"
        ));
    }
    let (size, log) = (u32_at(start, BLOCK_SIZE), u16_at(start, BLOCK_LOG));
    if !(LOG_MIN..=LOG_MAX).contains(&log) || Some(size) != 1_u32.checked_shl(log.into()) {
        return Err(format!(
            "has blocks of {size} bytes and says that these are 2^{log}, Linux takes 2^{LOG_MIN} \
             to 2^{LOG_MAX}: make it with mksquashfs -b 131072"
        ));
    }
    let blocks = u64_at(start, BYTES_USED).div_ceil(BLOCK_BYTES);
    let number = u16_at(start, COMPRESSION);
    let algorithm = match ALGORITHMS.iter().find(|(known, ..)| *known == number) {
        Some((_, name, kernel)) => Feature::new(*name, *kernel),
        None => Feature::new(format!("the algorithm {number}"), None),
    };
    Ok((blocks, vec![algorithm]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SQUASHFS, with};
    use super::*;

    fn refusal(fields: &[(usize, &[u8])]) -> String {
        look(&with(SQUASHFS, fields)).unwrap_err()
    }

    #[test]
    fn other_versions_are_refused() {
        for (fields, version) in [(&[(28, &[3][..])], "3.0"), (&[(30, &[1])], "4.1")] {
            assert!(
                refusal(fields).starts_with(&format!("is of version {version}, Linux has 4.0"))
            );
        }
    }

    #[test]
    fn blocks_that_linux_does_not_take_are_refused() {
        for (size, log) in [(2048_u32, 11_u8), (1 << 21, 21), (131_072, 16), (1, 32), (0, 0)] {
            let why = refusal(&[(12, &size.to_le_bytes()), (22, &[log])]);
            let begin = format!("has blocks of {size} bytes and says that these are 2^{log}, ");
            assert!(why.starts_with(&begin), "{why}");
        }
        for log in LOG_MIN..=LOG_MAX {
            let fields = [(12, &(1_u32 << log).to_le_bytes()[..]), (22, &log.to_le_bytes())];
            assert!(look(&with(SQUASHFS, &fields)).is_ok(), "{log}");
        }
    }

    #[test]
    fn a_part_of_a_block_is_one_more() {
        for (bytes, blocks) in [(8192, 2), (8193, 3), (u64::MAX, 1 << 52)] {
            let fields = [(40, &u64::to_le_bytes(bytes)[..])];
            assert_eq!(look(&with(SQUASHFS, &fields)).unwrap().0, blocks);
        }
    }

    #[test]
    fn the_algorithm_is_named_with_its_option() {
        for (number, name, kernel) in [
            (1, "gzip", Some("SQUASHFS_ZLIB")),
            (2, "lzma", None),
            (4, "xz", Some("SQUASHFS_XZ")),
            (9, "the algorithm 9", None),
        ] {
            let features = look(&with(SQUASHFS, &[(20, &[number])])).unwrap().1;
            assert_eq!(features, [Feature::new(name, kernel)]);
        }
    }
}
