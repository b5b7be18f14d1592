//! The superblock (`struct ext4_super_block`, Documentation/filesystems/ext4/super.rst).

use super::checksum::crc32c;
use super::inode::{self, EXTRA_ISIZE};
use super::layout::{BLOCKS_PER_GROUP, INODE_BYTES, JOURNAL_INO, LOST_AND_FOUND_INO, Layout};
use super::output::{BLOCK_LEN, Block};
use super::{Options, put};

/// Offset of the superblock in block 0, behind room for a boot sector.
const OFFSET: usize = 1024;
const BYTES: usize = 1024;
const CHECKSUM: usize = 0x3fc;

/// `has_journal`, `ext_attr`, `dir_index`, `sparse_super2` (`s_backup_bgs` names no group, so there
/// is no backup).
const FEATURE_COMPAT: u32 = 0x4 | 0x8 | 0x20 | 0x200;
/// `filetype`, `extents`, `flex_bg`.
const FEATURE_INCOMPAT: u32 = 0x2 | 0x40 | 0x200;
/// `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
const FEATURE_RO_COMPAT: u32 = 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

const STATE_CLEAN: u16 = 1;
/// On a metadata error, and a host can cause one at will, nothing more is written on the strength
/// of a bitmap or directory that could not be read; the data that is there stays readable.
const ERRORS_REMOUNT_READ_ONLY: u16 = 2;
/// `user_xattr` and `acl`, as mke2fs sets them.
const DEFAULT_MOUNT_OPTIONS: u32 = 0x4 | 0x8;
const HASH_HALF_MD4: u8 = 1;
/// The hash takes bytes of names as signed. Either flag is right on any machine; with neither the
/// kernel would choose by its own `char` and set one.
const FLAG_SIGNED_HASH: u32 = 1;
const CHECKSUM_CRC32C: u8 = 1;
/// `s_jnl_blocks` holds the journal's `i_block` and `i_size`.
const JOURNAL_BACKUP_BLOCKS: u8 = 1;
/// Every volume is clean and young: no check after so many mounts.
const NO_MAX_MOUNT_COUNT: u16 = 0xffff;
/// Blocks of 2^(10 + 2) bytes.
const LOG_BLOCK_SIZE: u32 = 2;

/// Block 0.
pub(super) fn block(layout: &Layout, options: &Options) -> Block {
    let mut block = [0; BLOCK_LEN];
    put(&mut block, OFFSET, &superblock(layout, options));
    block
}

fn superblock(layout: &Layout, options: &Options) -> [u8; BYTES] {
    let (created, created_hi) = halves(options.created);
    let [created_hi, ..] = created_hi.to_le_bytes();
    // One flexible group for all: the smallest power of two that is not below.
    let [log_groups_per_flex, ..] =
        layout.groups.next_power_of_two().trailing_zeros().to_le_bytes();
    let blocks_per_group = u32::from(BLOCKS_PER_GROUP);

    let long_fields = [
        (0x000, halves(layout.inodes()).0),          // s_inodes_count
        (0x004, halves(layout.blocks()).0),          // s_blocks_count_lo
        (0x00c, halves(layout.free_blocks()).0),     // s_free_blocks_count_lo
        (0x010, halves(layout.free_inodes()).0),     // s_free_inodes_count
        (0x018, LOG_BLOCK_SIZE),                     // s_log_block_size
        (0x01c, LOG_BLOCK_SIZE),                     // s_log_cluster_size
        (0x020, blocks_per_group),                   // s_blocks_per_group
        (0x024, blocks_per_group),                   // s_clusters_per_group
        (0x028, u32::from(layout.inodes_per_group)), // s_inodes_per_group
        (0x030, created),                            // s_wtime
        (0x040, created),                            // s_lastcheck
        (0x04c, 1),                                  // s_rev_level: dynamic
        (0x054, LOST_AND_FOUND_INO),                 // s_first_ino
        (0x05c, FEATURE_COMPAT),                     // s_feature_compat
        (0x060, FEATURE_INCOMPAT),                   // s_feature_incompat
        (0x064, FEATURE_RO_COMPAT),                  // s_feature_ro_compat
        (0x0e0, JOURNAL_INO),                        // s_journal_inum
        (0x100, DEFAULT_MOUNT_OPTIONS),              // s_default_mount_options
        (0x108, created),                            // s_mkfs_time
        (0x160, FLAG_SIGNED_HASH),                   // s_flags
        (0x248, halves(layout.overhead_blocks()).0), // s_overhead_clusters
    ];
    let short_fields = [
        (0x036, NO_MAX_MOUNT_COUNT),       // s_max_mnt_count
        (0x038, 0xef53),                   // s_magic
        (0x03a, STATE_CLEAN),              // s_state
        (0x03c, ERRORS_REMOUNT_READ_ONLY), // s_errors
        (0x058, INODE_BYTES),              // s_inode_size
        (0x15c, EXTRA_ISIZE),              // s_min_extra_isize
        (0x15e, EXTRA_ISIZE),              // s_want_extra_isize
    ];
    let byte_fields = [
        (0x0fc, HASH_HALF_MD4),         // s_def_hash_version
        (0x0fd, JOURNAL_BACKUP_BLOCKS), // s_jnl_backup_type
        (0x174, log_groups_per_flex),   // s_log_groups_per_flex
        (0x175, CHECKSUM_CRC32C),       // s_checksum_type
        (0x274, created_hi),            // s_wtime_hi
        (0x276, created_hi),            // s_mkfs_time_hi
        (0x277, created_hi),            // s_lastcheck_hi
    ];
    let arrays = [
        (0x068, options.uuid),      // s_uuid
        (0x078, options.label),     // s_volume_name
        (0x0ec, options.hash_seed), // s_hash_seed
    ];

    let mut superblock = [0; BYTES];
    for (offset, value) in long_fields {
        put(&mut superblock, offset, &value.to_le_bytes());
    }
    for (offset, value) in short_fields {
        put(&mut superblock, offset, &value.to_le_bytes());
    }
    for (offset, value) in byte_fields {
        put(&mut superblock, offset, &[value]);
    }
    for (offset, value) in arrays {
        put(&mut superblock, offset, &value);
    }
    put(&mut superblock, 0x10c, &inode::journal_backup(layout)); // s_jnl_blocks
    let (summed, _) = superblock.split_at(CHECKSUM);
    let checksum = crc32c(!0, summed);
    put(&mut superblock, CHECKSUM, &checksum.to_le_bytes());
    superblock
}

/// The low and the high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    ((value & 0xffff_ffff) as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `s_wtime`, `s_lastcheck` and `s_mkfs_time` with the bytes above them (super.rst): a clock of
    /// 2106 and later needs 33 bits.
    #[test]
    fn times_past_2106_are_kept() {
        let layout = Layout::new(1 << 30, u64::MAX).unwrap();
        let created = 0x1_0203_0405;
        let options = Options { uuid: [1; 16], hash_seed: [2; 16], label: [0; 16], created };
        let superblock = superblock(&layout, &options);
        for (low, high) in [(0x030, 0x274), (0x040, 0x277), (0x108, 0x276)] {
            assert_eq!(superblock[low..low + 4], 0x0203_0405_u32.to_le_bytes());
            assert_eq!(superblock[high], 1);
        }
    }
}
