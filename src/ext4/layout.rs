//! Where everything lies: geometry only, no bytes.

use std::fmt;

/// Size of a block in bytes: the page size, and the sector size of the encrypted device.
pub const BLOCK_BYTES: u16 = 4096;

/// Smallest device that is formatted, in bytes. ext4 itself could go lower, but nothing that is
/// worth mounting would fit.
pub const MIN_BYTES: u64 = 1 << 20;

/// Largest device that is formatted, in bytes: blocks have numbers of 32 bits. For one boot, 2^32
/// is also the bound on sectors under one AES-GCM key with random nonces.
pub const MAX_BYTES: u64 = u32::MAX as u64 * BLOCK_BYTES as u64;

/// One block of bitmap has a bit for each block of its group.
pub(super) const BLOCKS_PER_GROUP: u16 = 8 * BLOCK_BYTES;

/// One inode for every 16 KiB, mke2fs's default for file systems of all common sizes.
const BLOCKS_PER_INODE: u16 = 4;

/// `s_inode_size`: room for nanosecond times and checksums, mke2fs's default.
pub(super) const INODE_BYTES: u16 = 256;

const INODES_PER_BLOCK: u16 = BLOCK_BYTES / INODE_BYTES;

/// Half of what the 64bit feature takes, so half of what grows with the disk.
pub(super) const DESCRIPTOR_BYTES: u16 = 32;

pub(super) const DESCRIPTORS_PER_BLOCK: u16 = BLOCK_BYTES / DESCRIPTOR_BYTES;

pub(super) const ROOT_INO: u32 = 2;

/// The first inode that is not reserved (`s_first_ino`); e2fsck expects lost+found there.
pub(super) const LOST_AND_FOUND_INO: u32 = 11;

/// Inodes in use on a fresh volume: the reserved ones and lost+found.
pub(super) const USED_INODES: u16 = 11;

/// Fewest free blocks for which a short last group is kept, as in mke2fs: below, its bitmaps and
/// inode table cost about what it brings.
const WORTHWHILE_BLOCKS: u64 = 50;

/// The geometry of a volume.
///
/// All metadata is packed at the start, as by `mke2fs -E packed_meta_blocks=1`, in one flexible
/// group that spans the volume:
///
/// ```text
/// superblock | group descriptors | / | lost+found
///   | every block bitmap | every inode bitmap | every inode table | data ...
/// ```
///
/// The used blocks are thus a prefix of the volume; the groups it reaches need a bitmap, and these
/// bitmaps follow one another directly. All further groups (bar the last) hold nothing and stay
/// `BLOCK_UNINIT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    /// Blocks of the group descriptor table, which starts at block 1.
    pub(super) descriptor_blocks: u64,
    pub(super) inodes_per_group: u16,
    /// Blocks of one group's inode table.
    pub(super) inode_table_blocks: u16,
}

/// Why a device cannot be formatted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Smaller than [`MIN_BYTES`].
    TooSmall {
        /// Size of the device.
        bytes: u64,
    },
    /// Larger than [`MAX_BYTES`].
    TooLarge {
        /// Size of the device.
        bytes: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { bytes } => write!(
                f,
                "cannot lay out ext4 on {bytes} bytes: at least {MIN_BYTES} bytes are needed"
            ),
            Self::TooLarge { bytes } => write!(
                f,
                "cannot lay out ext4 on {bytes} bytes: at most {MAX_BYTES} bytes are supported"
            ),
        }
    }
}

impl std::error::Error for LayoutError {}

impl Layout {
    /// Lays out a volume on a device of `device_bytes`; what is left of the last whole block, or of
    /// a last group too short to be worth its metadata, stays unused.
    ///
    /// # Errors
    /// When the device is below [`MIN_BYTES`] or above [`MAX_BYTES`].
    pub fn new(device_bytes: u64) -> Result<Self, LayoutError> {
        match device_bytes {
            ..MIN_BYTES => Err(LayoutError::TooSmall { bytes: device_bytes }),
            MIN_BYTES..=MAX_BYTES => Ok(Self::of_blocks(device_bytes / u64::from(BLOCK_BYTES))),
            _ => Err(LayoutError::TooLarge { bytes: device_bytes }),
        }
    }

    fn of_blocks(device_blocks: u64) -> Self {
        let group_blocks = u64::from(BLOCKS_PER_GROUP);
        let inodes_per_group = (blocks_in_group(device_blocks, 0) / BLOCKS_PER_INODE)
            .next_multiple_of(INODES_PER_BLOCK);
        let inode_table_blocks = inodes_per_group / INODES_PER_BLOCK;

        let rest = device_blocks % group_blocks;
        let worthwhile = 2 + u64::from(inode_table_blocks) + WORTHWHILE_BLOCKS;
        let blocks = if device_blocks > group_blocks && rest < worthwhile {
            device_blocks - rest
        } else {
            device_blocks
        };
        let groups = blocks.div_ceil(group_blocks);
        Self {
            blocks,
            groups,
            descriptor_blocks: groups.div_ceil(u64::from(DESCRIPTORS_PER_BLOCK)),
            inodes_per_group,
            inode_table_blocks,
        }
    }

    /// Size of the volume in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that a fresh volume has free.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.blocks - self.used_blocks()
    }

    /// Number of inodes, used ones included.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.groups * u64::from(self.inodes_per_group)
    }

    /// Inodes that a fresh volume has free.
    #[must_use]
    pub fn free_inodes(&self) -> u64 {
        self.inodes() - u64::from(USED_INODES)
    }

    /// The two directories: inode number and block.
    pub(super) fn directories(&self) -> [(u32, u64); 2] {
        let first = 1 + self.descriptor_blocks;
        [(ROOT_INO, first), (LOST_AND_FOUND_INO, first + 1)]
    }

    pub(super) fn block_bitmap(&self, group: u64) -> u64 {
        1 + self.descriptor_blocks + self.directories().len() as u64 + group
    }

    pub(super) fn inode_bitmap(&self, group: u64) -> u64 {
        self.block_bitmap(self.groups) + group
    }

    pub(super) fn inode_table(&self, group: u64) -> u64 {
        self.inode_bitmap(self.groups) + group * u64::from(self.inode_table_blocks)
    }

    /// Blocks in use, all of them at the start of the volume: metadata and the two directories.
    pub(super) fn used_blocks(&self) -> u64 {
        self.inode_table(self.groups)
    }

    /// Blocks that ext4 counts as overhead (`s_overhead_clusters`): all that is in use but the
    /// directories, which are files.
    pub(super) fn overhead_blocks(&self) -> u64 {
        self.used_blocks() - self.directories().len() as u64
    }

    /// Length of a group: the last one may be short.
    pub(super) fn group_blocks(&self, group: u64) -> u16 {
        blocks_in_group(self.blocks, group)
    }

    /// How many of a group's first blocks are in use.
    pub(super) fn group_used_blocks(&self, group: u64) -> u16 {
        blocks_in_group(self.used_blocks(), group)
    }

    /// Whether a group's block bitmap is written; without one the group is `BLOCK_UNINIT`, and the
    /// kernel takes for used only what the group holds of its own metadata, here nothing. The last
    /// group always has one, by a convention that mke2fs and the kernel's resizing keep to.
    pub(super) fn has_block_bitmap(&self, group: u64) -> bool {
        self.group_used_blocks(group) > 0 || group + 1 == self.groups
    }
}

/// How many of the first `blocks` blocks of the volume fall into a group.
fn blocks_in_group(blocks: u64, group: u64) -> u16 {
    let from_group = blocks.saturating_sub(group * u64::from(BLOCKS_PER_GROUP));
    u16::try_from(from_group).map_or(BLOCKS_PER_GROUP, |count| count.min(BLOCKS_PER_GROUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP_BYTES: u64 = BLOCKS_PER_GROUP as u64 * BLOCK_BYTES as u64;

    #[test]
    fn refuses_what_is_too_small_or_too_large_and_says_where_the_limits_are() {
        assert_eq!(
            Layout::new(MIN_BYTES - 1).unwrap_err().to_string(),
            "cannot lay out ext4 on 1048575 bytes: at least 1048576 bytes are needed"
        );
        assert_eq!(
            Layout::new(MAX_BYTES + 1).unwrap_err().to_string(),
            "cannot lay out ext4 on 17592186040321 bytes: at most 17592186040320 bytes are supported"
        );
        assert!(Layout::new(0).is_err());
        assert!(Layout::new(u64::MAX).is_err());
        assert!(Layout::new(MIN_BYTES).is_ok());
        assert!(Layout::new(MAX_BYTES).is_ok());
    }

    #[test]
    fn a_last_group_that_is_not_worth_its_metadata_is_left_out() {
        let blocks = |bytes| Layout::new(bytes).unwrap().blocks();
        let block = u64::from(BLOCK_BYTES);
        assert_eq!(blocks(GROUP_BYTES + 563 * block), 32768);
        assert_eq!(blocks(GROUP_BYTES + 564 * block), 32768 + 564);
        assert_eq!(blocks(GROUP_BYTES + 564 * block - 1), 32768);
        assert_eq!(blocks(GROUP_BYTES - 1), 32767);
    }

    #[test]
    fn metadata_is_packed_in_front() {
        let layout = Layout::new(GROUP_BYTES * 129).unwrap();
        assert_eq!(layout.descriptor_blocks, 2);
        assert_eq!(layout.directories(), [(2, 3), (11, 4)]);
        assert_eq!(layout.block_bitmap(0), 5);
        assert_eq!(layout.inode_bitmap(0), 5 + 129);
        assert_eq!(layout.inode_table(0), 5 + 129 + 129);
        assert_eq!(layout.used_blocks(), 5 + 129 * (1 + 1 + 512));
        assert_eq!(layout.group_used_blocks(1), 32768);
        assert_eq!(layout.group_used_blocks(2), 775);
        assert_eq!(layout.group_used_blocks(3), 0);
    }

    proptest! {
        #[test]
        fn everything_fits(device_bytes in MIN_BYTES..=MAX_BYTES, shift in 0..24u32) {
            let device_bytes = (device_bytes >> shift).max(MIN_BYTES);
            let layout = Layout::new(device_bytes).unwrap();
            let groups = || 0..layout.groups;
            prop_assert!(layout.blocks() * u64::from(BLOCK_BYTES) <= device_bytes);
            prop_assert!(layout.used_blocks() < layout.blocks());
            prop_assert!(layout.used_blocks() <= 8 + layout.blocks() / 32);
            prop_assert!(layout.inodes() >= layout.blocks() / 4);
            prop_assert!(layout.inodes_per_group.is_multiple_of(INODES_PER_BLOCK));
            prop_assert!(layout.descriptor_blocks + 3 < u64::from(BLOCKS_PER_GROUP));
            prop_assert!(groups().all(|group| layout.group_blocks(group) > 0));
            prop_assert!(groups().all(|group| layout.group_used_blocks(group) <= layout.group_blocks(group)));
            prop_assert_eq!(groups().map(|group| u64::from(layout.group_blocks(group))).sum::<u64>(), layout.blocks());
            prop_assert_eq!(groups().map(|group| u64::from(layout.group_used_blocks(group))).sum::<u64>(), layout.used_blocks());
        }
    }
}
