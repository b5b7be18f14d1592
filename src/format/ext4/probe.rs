//! What the start of somebody else's ext4 says, for an error better than the kernel's EINVAL.

/// Bytes from the start of a device to the end of its primary superblock.
pub const SUPERBLOCK_END: usize = 2048;

const SUPERBLOCK_AT: usize = 1024;
const S_BLOCKS_COUNT_LO: usize = SUPERBLOCK_AT + 0x4;
const S_LOG_BLOCK_SIZE: usize = SUPERBLOCK_AT + 0x18;
const S_MAGIC: usize = SUPERBLOCK_AT + 0x38;
const S_FEATURE_INCOMPAT: usize = SUPERBLOCK_AT + 0x60;
const S_BLOCKS_COUNT_HI: usize = SUPERBLOCK_AT + 0x150;

/// The journal has to be replayed before the file system is read.
const INCOMPAT_RECOVER: u32 = 0x4;

/// The upper half of the number of blocks counts.
const INCOMPAT_64BIT: u32 = 0x80;

/// Bytes in a block of the ext2, ext3 or ext4 file system that starts like this; `None` when it
/// is none.
#[must_use]
pub fn block_size(start: &[u8; SUPERBLOCK_END]) -> Option<u32> {
    if start.get(S_MAGIC..)?.first_chunk()? != &[0x53, 0xef] {
        return None;
    }
    let log = u32_at(start, S_LOG_BLOCK_SIZE)?;
    // 64 KiB is the largest that ext4 knows.
    (log <= 6).then(|| 1024 << log)
}

/// Blocks that such a file system has.
#[must_use]
pub fn blocks(start: &[u8; SUPERBLOCK_END]) -> Option<u64> {
    let wide = u32_at(start, S_FEATURE_INCOMPAT)? & INCOMPAT_64BIT != 0;
    let high = if wide { u32_at(start, S_BLOCKS_COUNT_HI)? } else { 0 };
    Some(u64::from(high) << 32 | u64::from(u32_at(start, S_BLOCKS_COUNT_LO)?))
}

/// Whether such a file system was copied, or left, while it was mounted for writing.
#[must_use]
pub fn needs_recovery(start: &[u8; SUPERBLOCK_END]) -> bool {
    u32_at(start, S_FEATURE_INCOMPAT).is_some_and(|features| features & INCOMPAT_RECOVER != 0)
}

/// The file system that starts like this, where it is another one that roots are made of.
#[must_use]
pub fn other_file_system(start: &[u8; SUPERBLOCK_END]) -> Option<&'static str> {
    if start.starts_with(b"hsqs") {
        return Some("squashfs");
    }
    (u32_at(start, SUPERBLOCK_AT) == Some(0xe0f5_e1e2)).then_some("EROFS")
}

fn u32_at(start: &[u8; SUPERBLOCK_END], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*start.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(log: u32) -> [u8; SUPERBLOCK_END] {
        let mut start = [0; SUPERBLOCK_END];
        start[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        start[0x418..0x41c].copy_from_slice(&log.to_le_bytes());
        start
    }

    #[test]
    fn the_upper_half_of_the_number_of_blocks_counts_where_the_feature_says_so() {
        let mut start = start(2);
        start[0x404..0x408].copy_from_slice(&4096_u32.to_le_bytes());
        start[0x550..0x554].copy_from_slice(&3_u32.to_le_bytes());
        assert_eq!(blocks(&start), Some(4096));
        start[0x460] = 0x80;
        assert_eq!(blocks(&start), Some(3 << 32 | 4096));
    }

    #[test]
    fn a_journal_to_be_replayed_is_seen() {
        let mut start = start(2);
        start[0x460] = 0xc2;
        assert!(!needs_recovery(&start));
        start[0x460] = 0xc6;
        assert!(needs_recovery(&start));
    }

    #[test]
    fn other_file_systems_are_known_by_their_first_bytes() {
        let mut start = [0; SUPERBLOCK_END];
        assert_eq!(other_file_system(&start), None);
        start[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        assert_eq!(other_file_system(&start), Some("EROFS"));
        start[..4].copy_from_slice(b"hsqs");
        assert_eq!(other_file_system(&start), Some("squashfs"));
    }

    #[test]
    fn the_block_size_is_a_power_of_two_from_1024() {
        assert_eq!(block_size(&start(0)), Some(1024));
        assert_eq!(block_size(&start(2)), Some(4096));
        for log in [7, 64, u32::MAX] {
            assert_eq!(block_size(&start(log)), None);
        }
        assert_eq!(block_size(&[0; SUPERBLOCK_END]), None);
    }
}
