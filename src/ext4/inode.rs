//! The two inodes of a fresh volume (`struct ext4_inode`,
//! Documentation/filesystems/ext4/inodes.rst and ifork.rst).

use super::checksum::{crc32c, inode_seed};
use super::layout::{BLOCK_BYTES, INODE_BYTES, Layout, ROOT_INO};
use super::output::{BLOCK_LEN, Block};
use super::put;

const INODE_LEN: usize = INODE_BYTES as usize;

const DIRECTORY: u16 = 0o040_000;
/// `/` is for all to enter, lost+found for the owner (root) alone, as mke2fs makes them.
const ROOT_MODE: u16 = DIRECTORY | 0o755;
const LOST_AND_FOUND_MODE: u16 = DIRECTORY | 0o700;

const FLAG_EXTENTS: u32 = 0x8_0000;
/// `i_blocks` counts sectors of 512 bytes.
const BLOCK_SECTORS: u32 = (BLOCK_BYTES / 512) as u32;
/// Bytes behind the first 128 that are in use, up to and with `i_projid`.
pub(super) const EXTRA_ISIZE: u16 = 32;

const EXTENT_MAGIC: u16 = 0xf30a;
/// Extents that fit into `i_block` behind the header.
const EXTENT_SLOTS: u16 = 4;

const CHECKSUM_LO: usize = 0x7c;
const CHECKSUM_HI: usize = 0x82;

/// The first block of the first group's inode table: all inodes that are in use. The reserved
/// ones but `/` stay zero, as in mke2fs.
pub(super) fn table_block(layout: &Layout, seed: u32, created: u64) -> Block {
    let mut block = [0; BLOCK_LEN];
    for (slot, ino) in block.chunks_exact_mut(INODE_LEN).zip(1..) {
        if let Some((_, data)) = layout.directories().into_iter().find(|&(used, _)| used == ino) {
            slot.copy_from_slice(&directory(ino, data, seed, created));
        }
    }
    block
}

/// The inode of a directory of one block, owned by root.
fn directory(ino: u32, data: u64, seed: u32, created: u64) -> [u8; INODE_LEN] {
    let (mode, links) = if ino == ROOT_INO {
        (ROOT_MODE, 3) // its entry, its "." and lost+found's ".."
    } else {
        (LOST_AND_FOUND_MODE, 2)
    };
    let [b0, b1, b2, b3, b4, b5, ..] = data.to_le_bytes();
    let (seconds, epoch) = time(created);

    let long_fields = [
        (0x04, u32::from(BLOCK_BYTES)),               // i_size_lo
        (0x08, seconds),                              // i_atime
        (0x0c, seconds),                              // i_ctime
        (0x10, seconds),                              // i_mtime
        (0x1c, BLOCK_SECTORS),                        // i_blocks_lo
        (0x20, FLAG_EXTENTS),                         // i_flags
        (0x3c, u32::from_le_bytes([b0, b1, b2, b3])), // i_block: ee_start_lo; ee_block is 0
        (0x84, epoch),                                // i_ctime_extra
        (0x88, epoch),                                // i_mtime_extra
        (0x8c, epoch),                                // i_atime_extra
        (0x90, seconds),                              // i_crtime
        (0x94, epoch),                                // i_crtime_extra
    ];
    let short_fields = [
        (0x00, mode),                         // i_mode
        (0x1a, links),                        // i_links_count
        (0x28, EXTENT_MAGIC),                 // i_block: eh_magic
        (0x2a, 1),                            // i_block: eh_entries
        (0x2c, EXTENT_SLOTS),                 // i_block: eh_max
        (0x38, 1),                            // i_block: ee_len
        (0x3a, u16::from_le_bytes([b4, b5])), // i_block: ee_start_hi
        (0x80, EXTRA_ISIZE),                  // i_extra_isize
    ];
    let mut inode = [0; INODE_LEN];
    for (offset, value) in long_fields {
        put(&mut inode, offset, &value.to_le_bytes());
    }
    for (offset, value) in short_fields {
        put(&mut inode, offset, &value.to_le_bytes());
    }

    // i_checksum_lo and _hi: summed while they are 0.
    let [c0, c1, c2, c3] = crc32c(inode_seed(seed, ino), &inode).to_le_bytes();
    put(&mut inode, CHECKSUM_LO, &[c0, c1]);
    put(&mut inode, CHECKSUM_HI, &[c2, c3]);
    inode
}

/// A time as an inode keeps it: 32 signed bits of seconds, and how often these wrapped in the two
/// lowest bits of the `_extra` field (nanoseconds, here 0, lie above).
fn time(seconds: u64) -> (u32, u32) {
    let low = (seconds & 0xffff_ffff) as u32;
    let epoch = (seconds.wrapping_add(1 << 31) >> 32) & 0x3;
    (low, epoch as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of inodes.rst, "Inode Timestamps".
    #[test]
    fn times_past_2038_wrap_into_the_epoch() {
        assert_eq!(time(0x0_7fff_ffff), (0x7fff_ffff, 0));
        assert_eq!(time(0x0_8000_0000), (0x8000_0000, 1));
        assert_eq!(time(0x1_7fff_ffff), (0x7fff_ffff, 1));
        assert_eq!(time(0x1_8000_0000), (0x8000_0000, 2));
        assert_eq!(time(0x3_7fff_ffff), (0x7fff_ffff, 3));
    }
}
