//! The journal's own superblock (`struct journal_superblock_s`,
//! Documentation/filesystems/ext4/journal.rst). Unlike all else its numbers are big-endian.
//!
//! A journal that is empty needs nothing more: the kernel reads no other block of it before it has
//! written it.

use super::layout::{BLOCK_BYTES, Layout};
use super::output::{BLOCK_LEN, Block};
use super::put;

const MAGIC: u32 = 0xc03b_3998;
/// `h_blocktype` of a superblock of version 2.
const SUPERBLOCK_V2: u32 = 4;

/// The journal's first block, of a volume of this UUID.
pub(super) fn block(layout: &Layout, uuid: &[u8; 16]) -> Block {
    let fields = [
        (0x00, MAGIC),                        // h_magic
        (0x04, SUPERBLOCK_V2),                // h_blocktype
        (0x0c, BLOCK_BYTES.into()),           // s_blocksize
        (0x10, layout.journal_blocks.into()), // s_maxlen
        (0x14, 1),                            // s_first: behind this block
        (0x18, 1),                            // s_sequence; s_start is 0, nothing is to be replayed
        (0x40, 1),                            // s_nr_users
    ];
    let mut block = [0; BLOCK_LEN];
    for (offset, value) in fields {
        put(&mut block, offset, &value.to_be_bytes());
    }
    put(&mut block, 0x30, uuid); // s_uuid
    block
}
