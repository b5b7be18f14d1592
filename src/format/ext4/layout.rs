//! Where everything lies: geometry only, no bytes.

use std::fmt;

/// Size of a block in bytes: the page size, and the sector size of the encrypted device.
pub const BLOCK_BYTES: u16 = 4096;

/// Least data that is laid out, in bytes. ext4 itself could go lower, but nothing that is worth
/// mounting would fit.
pub const MIN_BYTES: u64 = 1 << 20;

/// Most that a volume can have, metadata and data, in bytes: blocks have numbers of 32 bits. For
/// one boot, 2^32 is also the bound on sectors under one AES-GCM key with random nonces.
pub const MAX_BYTES: u64 = BLOCKS_MAX * BLOCK_BYTES as u64;

const BLOCKS_MAX: u64 = u32::MAX as u64;

/// One block of bitmap has a bit for each block of its group.
pub(super) const BLOCKS_PER_GROUP: u16 = 8 * BLOCK_BYTES;

/// One inode for every 16 KiB, mke2fs's default for file systems of all common sizes: the most
/// that a volume has.
const BLOCKS_PER_INODE: u16 = 4;

/// `s_inode_size`: room for nanosecond times and checksums, mke2fs's default.
pub(super) const INODE_BYTES: u16 = 256;

const INODES_PER_BLOCK: u16 = BLOCK_BYTES / INODE_BYTES;

/// Blocks of the longest table of inodes, that of a whole group with an inode for 16 KiB.
const TABLE_BLOCKS_MAX: u16 = BLOCKS_PER_GROUP / BLOCKS_PER_INODE / INODES_PER_BLOCK;

const MIB_BLOCKS: u64 = (1 << 20) / BLOCK_BYTES as u64;

/// Blocks of the shortest journal: the kernel's least (`JBD2_MIN_JOURNAL_BLOCKS`), 4 MiB.
const JOURNAL_BLOCKS_MIN: u16 = 1024;

/// Blocks of the longest journal, 64 MiB. A transaction may have a quarter of the journal
/// (`j_max_transaction_buffers`), and who makes files while it is full waits for its commit.
const JOURNAL_BLOCKS_MAX: u16 = 16 * JOURNAL_BLOCKS_MIN;

/// Of what the metadata may take, the part that the journal may: it is written round and round, so
/// that all of it comes to be in use.
const JOURNAL_SHARE_OF_METADATA: u64 = 4;

/// Of the data, the part that the journal may be as long as: about what mke2fs gives small volumes.
const JOURNAL_SHARE_OF_DATA: u64 = 16;

/// Half of what the 64bit feature takes, so half of what grows with the disk.
pub(super) const DESCRIPTOR_BYTES: u16 = 32;

pub(super) const DESCRIPTORS_PER_BLOCK: u16 = BLOCK_BYTES / DESCRIPTOR_BYTES;

pub(super) const ROOT_INO: u32 = 2;

pub(super) const JOURNAL_INO: u32 = 8;

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
///   | every block bitmap | every inode bitmap | every inode table | journal | data ...
/// ```
///
/// The used blocks are thus a prefix of the volume, and all blocks behind it are free. The groups
/// that the prefix reaches need a block bitmap, and these bitmaps follow one another directly. All
/// further groups (bar the last) hold nothing and stay `BLOCK_UNINIT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    /// Blocks of the group descriptor table, which starts at block 1.
    pub(super) descriptor_blocks: u64,
    pub(super) inodes_per_group: u16,
    /// Blocks of one group's inode table.
    pub(super) inode_table_blocks: u16,
    pub(super) journal_blocks: u16,
}

/// Why a volume cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Less data than [`MIN_BYTES`].
    TooSmall {
        /// Of data.
        bytes: u64,
    },
    /// Data and metadata would be more than [`MAX_BYTES`].
    TooLarge {
        /// Of data.
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
                "cannot lay out ext4 on {bytes} bytes: with its metadata, at most {MAX_BYTES} bytes \
                 are supported"
            ),
        }
    }
}

impl std::error::Error for LayoutError {}

impl Layout {
    /// Lays out a volume with room for `data_bytes` of data. What is left of the last whole block,
    /// or of a last group too short to be worth its metadata, stays unused.
    ///
    /// There is an inode for 16 KiB of the volume, or fewer where the metadata would take more than
    /// `metadata_max` bytes; never fewer than one block of them a group, which is ext4's least. The
    /// journal has a sixteenth of the data's size or a quarter of `metadata_max`, whichever is less,
    /// in whole MiB, but 4 at least, the kernel's least, and 64 at most. How much metadata it is then,
    /// [`Layout::metadata_bytes`] says.
    ///
    /// # Errors
    /// When the data is less than [`MIN_BYTES`], or the volume would be more than [`MAX_BYTES`].
    pub fn new(data_bytes: u64, metadata_max: u64) -> Result<Self, LayoutError> {
        match data_bytes {
            ..MIN_BYTES => return Err(LayoutError::TooSmall { bytes: data_bytes }),
            MIN_BYTES..=MAX_BYTES => {}
            _ => return Err(LayoutError::TooLarge { bytes: data_bytes }),
        }
        let data_blocks = data_bytes / u64::from(BLOCK_BYTES);
        let journal = journal_blocks(data_blocks, metadata_max);
        let mut layout = Self::for_data(data_blocks, TABLE_BLOCKS_MAX, journal);
        if layout.metadata_bytes() > metadata_max {
            layout = Self::for_data(data_blocks, layout.table_within(metadata_max), journal);
        }
        if layout.blocks > BLOCKS_MAX {
            return Err(LayoutError::TooLarge { bytes: data_bytes });
        }
        Ok(layout)
    }

    /// The most data that can be laid out with so much metadata, in bytes.
    #[must_use]
    pub fn data_bytes_max(metadata_max: u64) -> u64 {
        let journal = journal_blocks(BLOCKS_MAX, metadata_max);
        let mut layout = Self::of_blocks(BLOCKS_MAX, TABLE_BLOCKS_MAX, journal);
        if layout.metadata_bytes() > metadata_max {
            layout = Self::of_blocks(BLOCKS_MAX, layout.table_within(metadata_max), journal);
        }
        layout.free_blocks() * u64::from(BLOCK_BYTES)
    }

    /// Blocks of a table of inodes with which the metadata is as much as this, or the least that a
    /// table has.
    fn table_within(&self, metadata_max: u64) -> u16 {
        let tables = self.groups * u64::from(self.inode_table_blocks);
        let all_else = self.used_blocks() - tables;
        let for_tables = (metadata_max / u64::from(BLOCK_BYTES)).saturating_sub(all_else);
        u16::try_from(for_tables / self.groups).unwrap_or(TABLE_BLOCKS_MAX).max(1)
    }

    /// With inode tables of `table_max` blocks at most.
    fn for_data(data_blocks: u64, table_max: u16, journal_blocks: u16) -> Self {
        let of_blocks = |blocks| Self::of_blocks(blocks, table_max, journal_blocks);
        // Metadata makes the volume larger, and a larger one has more of it. A group has far more
        // blocks than metadata, so this ends after few rounds.
        let mut layout = of_blocks(data_blocks);
        loop {
            let larger = of_blocks(data_blocks + layout.used_blocks());
            if larger.blocks == layout.blocks {
                break;
            }
            layout = larger;
        }
        let group_blocks = u64::from(BLOCKS_PER_GROUP);
        let rest = layout.blocks % group_blocks;
        let worthwhile = 2 + u64::from(layout.inode_table_blocks) + WORTHWHILE_BLOCKS;
        if layout.blocks > group_blocks && rest < worthwhile {
            return of_blocks(layout.blocks - rest);
        }
        layout
    }

    fn of_blocks(blocks: u64, table_max: u16, journal_blocks: u16) -> Self {
        let inodes = blocks_in_group(blocks, 0) / BLOCKS_PER_INODE;
        let inode_table_blocks = inodes.div_ceil(INODES_PER_BLOCK).min(table_max);
        let groups = blocks.div_ceil(u64::from(BLOCKS_PER_GROUP));
        Self {
            blocks,
            groups,
            descriptor_blocks: groups.div_ceil(u64::from(DESCRIPTORS_PER_BLOCK)),
            inodes_per_group: inode_table_blocks * INODES_PER_BLOCK,
            inode_table_blocks,
            journal_blocks,
        }
    }

    /// Size of the volume in blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of metadata: the first ones of the volume.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        self.used_blocks() * u64::from(BLOCK_BYTES)
    }

    /// Blocks that a fresh volume has free: all that lie behind its metadata.
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

    pub(super) fn journal(&self) -> u64 {
        self.inode_table(self.groups)
    }

    /// Blocks in use, all of them at the start of the volume: metadata and the two directories.
    pub(super) fn used_blocks(&self) -> u64 {
        self.journal() + u64::from(self.journal_blocks)
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

/// Blocks of the journal of a volume with so much data: whole MiB, as those of mke2fs.
fn journal_blocks(data_blocks: u64, metadata_max: u64) -> u16 {
    let by_data = data_blocks / JOURNAL_SHARE_OF_DATA;
    let by_memory = metadata_max / JOURNAL_SHARE_OF_METADATA / u64::from(BLOCK_BYTES);
    let blocks = by_data.min(by_memory).min(JOURNAL_BLOCKS_MAX.into());
    u16::try_from(blocks / MIB_BLOCKS * MIB_BLOCKS).unwrap_or(0).max(JOURNAL_BLOCKS_MIN)
}

/// How many of the first `blocks` blocks of the volume fall into a group.
fn blocks_in_group(blocks: u64, group: u64) -> u16 {
    let from_group = blocks.saturating_sub(group * u64::from(BLOCKS_PER_GROUP));
    u16::try_from(from_group).map_or(BLOCKS_PER_GROUP, |count| count.min(BLOCKS_PER_GROUP))
}

#[cfg(test)]
mod tests;
