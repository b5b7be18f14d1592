//! Group descriptors and bitmaps (`struct ext4_group_desc`,
//! `group_descr.rst` and `bitmaps.rst` in Documentation/filesystems/ext4).

use super::checksum::crc32c;
use super::layout::{DESCRIPTOR_BYTES, DESCRIPTORS_PER_BLOCK, Layout, USED_INODES};
use super::output::{BLOCK_LEN, Block};
use super::put;

/// `bg_flags`: no inode of the group is in use, and its inode bitmap is not on the disk.
const INODE_UNINIT: u16 = 0x1;
/// `bg_flags`: the group's block bitmap is not on the disk.
const BLOCK_UNINIT: u16 = 0x2;
/// `bg_flags`: what is not written of the group's inode table reads as zeros.
const INODE_ZEROED: u16 = 0x4;

const BLOCK_BITMAP_CSUM: usize = 0x18;
const INODE_BITMAP_CSUM: usize = 0x1a;
const CHECKSUM: usize = 0x1e;

const DESCRIPTOR_LEN: usize = DESCRIPTOR_BYTES as usize;

/// Block `index` of the group descriptor table.
pub(super) fn descriptor_block(layout: &Layout, seed: u32, index: u64) -> Block {
    let mut block = [0; BLOCK_LEN];
    let groups = index * u64::from(DESCRIPTORS_PER_BLOCK)..layout.groups;
    let (slots, _) = block.as_chunks_mut();
    for (slot, group) in slots.iter_mut().zip(groups) {
        *slot = descriptor(layout, seed, group);
    }
    block
}

fn descriptor(layout: &Layout, seed: u32, group: u64) -> [u8; DESCRIPTOR_LEN] {
    let mut flags = INODE_ZEROED;
    let mut used_inodes = 0;
    let mut directories = 0;
    let mut descriptor = [0; DESCRIPTOR_LEN];

    if layout.has_block_bitmap(group) {
        let checksum = crc32c(seed, &block_bitmap(layout, group));
        put_checksum(&mut descriptor, BLOCK_BITMAP_CSUM, checksum);
    } else {
        flags |= BLOCK_UNINIT;
    }
    if group == 0 {
        let bitmap = inode_bitmap(layout);
        let (summed, _) = bitmap.split_at(usize::from(layout.inodes_per_group / 8));
        let checksum = crc32c(seed, summed);
        put_checksum(&mut descriptor, INODE_BITMAP_CSUM, checksum);
        used_inodes = USED_INODES;
        directories = 2;
    } else {
        flags |= INODE_UNINIT;
    }

    let free_blocks = layout.group_blocks(group) - layout.group_used_blocks(group);
    let free_inodes = layout.inodes_per_group - used_inodes;
    let blocks = [
        (0x00, layout.block_bitmap(group)), // bg_block_bitmap_lo
        (0x04, layout.inode_bitmap(group)), // bg_inode_bitmap_lo
        (0x08, layout.inode_table(group)),  // bg_inode_table_lo
    ];
    let counts = [
        (0x0c, free_blocks), // bg_free_blocks_count_lo
        (0x0e, free_inodes), // bg_free_inodes_count_lo
        (0x10, directories), // bg_used_dirs_count_lo
        (0x12, flags),       // bg_flags
        (0x1c, free_inodes), // bg_itable_unused_lo: the used ones are the first ones
    ];
    for (offset, block) in blocks {
        // No block's number is longer.
        let [a, b, c, d, ..] = block.to_le_bytes();
        put(&mut descriptor, offset, &[a, b, c, d]);
    }
    for (offset, value) in counts {
        put(&mut descriptor, offset, &value.to_le_bytes());
    }

    // bg_checksum: summed while it is 0, behind the group's number as 32 bits.
    let [a, b, c, d, ..] = group.to_le_bytes();
    let checksum = crc32c(crc32c(seed, &[a, b, c, d]), &descriptor);
    put_checksum(&mut descriptor, CHECKSUM, checksum);
    descriptor
}

/// Descriptors of this size hold the lower half of a checksum. It has only faults of the kernel to
/// find: the device authenticates what is read.
fn put_checksum(descriptor: &mut [u8], offset: usize, checksum: u32) {
    let [low, high, ..] = checksum.to_le_bytes();
    put(descriptor, offset, &[low, high]);
}

/// A group's block bitmap.
pub(super) fn block_bitmap(layout: &Layout, group: u64) -> Block {
    bitmap(layout.group_used_blocks(group), layout.group_blocks(group))
}

/// The first group's inode bitmap; no other group has inodes in use.
pub(super) fn inode_bitmap(layout: &Layout) -> Block {
    bitmap(USED_INODES, layout.inodes_per_group)
}

/// A bitmap with its first `used` bits set, and all from `end` on, where nothing exists. Most are
/// of groups that are used up by metadata, and have no bit to clear.
fn bitmap(used: u16, end: u16) -> Block {
    let mut bitmap = [0xff; BLOCK_LEN];
    for bit in used..end {
        if let Some(byte) = bitmap.get_mut(usize::from(bit / 8)) {
            *byte &= !(1 << (bit % 8));
        }
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_sets_the_used_head_and_the_missing_tail() {
        let bitmap = bitmap(11, 20);
        assert_eq!(bitmap[..4], [0xff, 0x07, 0xf0, 0xff]);
        assert!(bitmap[4..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn a_whole_group_has_no_tail() {
        assert_eq!(bitmap(0, 32768), [0; BLOCK_LEN]);
        assert_eq!(bitmap(32768, 32768), [0xff; BLOCK_LEN]);
    }

    #[test]
    fn only_groups_that_hold_something_are_initialised() {
        let layout = Layout::new(1 << 30, u64::MAX).unwrap();
        let flags: Vec<u8> = (0..9).map(|group| descriptor(&layout, 0, group)[0x12]).collect();
        assert_eq!(flags, [4, 7, 7, 7, 7, 7, 7, 7, 5]);
    }
}
