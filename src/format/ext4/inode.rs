//! The inodes of a fresh volume (`struct ext4_inode`,
//! Documentation/filesystems/ext4/inodes.rst and ifork.rst).

use super::checksum::{crc32c, inode_seed};
use super::layout::{BLOCK_BYTES, INODE_BYTES, JOURNAL_INO, LOST_AND_FOUND_INO, Layout, ROOT_INO};
use super::output::{BLOCK_LEN, Block};
use super::put;

const INODE_LEN: usize = INODE_BYTES as usize;

/// `/` is for all to enter, lost+found for the owner (root) alone, and the journal for nobody but
/// root to look at, as mke2fs makes them.
const ROOT_MODE: u16 = 0o040_755;
const LOST_AND_FOUND_MODE: u16 = 0o040_700;
const JOURNAL_MODE: u16 = 0o100_600;

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

/// Where `i_block` is, and how long.
const I_BLOCK: usize = 0x28;
const I_BLOCK_LEN: usize = 60;

/// A file of one extent that belongs to root.
struct File {
    ino: u32,
    mode: u16,
    links: u16,
    start: u64,
    blocks: u16,
}

fn files(layout: &Layout) -> [File; 3] {
    let [(_, root), (_, lost_and_found)] = layout.directories();
    [
        // Its entry, its "." and lost+found's "..".
        File { ino: ROOT_INO, mode: ROOT_MODE, links: 3, start: root, blocks: 1 },
        journal(layout),
        File {
            ino: LOST_AND_FOUND_INO,
            mode: LOST_AND_FOUND_MODE,
            links: 2,
            start: lost_and_found,
            blocks: 1,
        },
    ]
}

fn journal(layout: &Layout) -> File {
    let (start, blocks) = (layout.journal(), layout.journal_blocks);
    File { ino: JOURNAL_INO, mode: JOURNAL_MODE, links: 1, start, blocks }
}

/// The first block of the first group's inode table: all inodes that are in use. The other reserved
/// ones stay zero, as in mke2fs.
pub(super) fn table_block(layout: &Layout, seed: u32, created: u64) -> Block {
    let mut block = [0; BLOCK_LEN];
    let (slots, _) = block.as_chunks_mut();
    for (slot, ino) in slots.iter_mut().zip(1..) {
        if let Some(file) = files(layout).iter().find(|file| file.ino == ino) {
            *slot = inode(file, seed, created);
        }
    }
    block
}

/// The journal's `i_block` and `i_size`, as the superblock keeps a copy of them (`s_jnl_blocks`).
pub(super) fn journal_backup(layout: &Layout) -> [u8; I_BLOCK_LEN + 8] {
    let journal = journal(layout);
    let inode = inode(&journal, 0, 0);
    let mut backup = [0; I_BLOCK_LEN + 8];
    put(&mut backup, 0, inode.get(I_BLOCK..I_BLOCK + I_BLOCK_LEN).unwrap_or_default());
    // i_size_high, then i_size_lo.
    put(&mut backup, I_BLOCK_LEN + 4, &size(&journal).to_le_bytes());
    backup
}

fn size(file: &File) -> u32 {
    u32::from(file.blocks) * u32::from(BLOCK_BYTES)
}

fn inode(file: &File, seed: u32, created: u64) -> [u8; INODE_LEN] {
    let [b0, b1, b2, b3, b4, b5, ..] = file.start.to_le_bytes();
    let (seconds, epoch) = time(created);

    let long_fields = [
        (0x04, size(file)),                             // i_size_lo
        (0x08, seconds),                                // i_atime
        (0x0c, seconds),                                // i_ctime
        (0x10, seconds),                                // i_mtime
        (0x1c, u32::from(file.blocks) * BLOCK_SECTORS), // i_blocks_lo
        (0x20, FLAG_EXTENTS),                           // i_flags
        (0x3c, u32::from_le_bytes([b0, b1, b2, b3])),   // i_block: ee_start_lo; ee_block is 0
        (0x84, epoch),                                  // i_ctime_extra
        (0x88, epoch),                                  // i_mtime_extra
        (0x8c, epoch),                                  // i_atime_extra
        (0x90, seconds),                                // i_crtime
        (0x94, epoch),                                  // i_crtime_extra
    ];
    let short_fields = [
        (0x00, file.mode),                    // i_mode
        (0x1a, file.links),                   // i_links_count
        (0x28, EXTENT_MAGIC),                 // i_block: eh_magic
        (0x2a, 1),                            // i_block: eh_entries
        (0x2c, EXTENT_SLOTS),                 // i_block: eh_max
        (0x38, file.blocks),                  // i_block: ee_len
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
    let [c0, c1, c2, c3] = crc32c(inode_seed(seed, file.ino), &inode).to_le_bytes();
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
