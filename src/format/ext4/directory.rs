//! Directory blocks (`struct ext4_dir_entry_2`, Documentation/filesystems/ext4/directory.rst).

use super::checksum::{crc32c, inode_seed};
use super::layout::{LOST_AND_FOUND_INO, ROOT_INO};
use super::output::{BLOCK_LEN, Block};
use super::put;

/// Inode number, length of the whole entry, length of the name, type.
const HEADER_BYTES: usize = 8;
const TYPE_DIRECTORY: u8 = 2;
/// The fake last entry that holds the checksum (`struct ext4_dir_entry_tail`).
const TAIL_BYTES: usize = 12;
const TAIL: usize = BLOCK_LEN - TAIL_BYTES;
const TYPE_TAIL: u8 = 0xde;
const TAIL_CHECKSUM: usize = TAIL + HEADER_BYTES;

/// The only block of `/` or of lost+found.
pub(super) fn block(ino: u32, seed: u32) -> Block {
    let entries: &[(u32, &str)] = if ino == ROOT_INO {
        &[(ROOT_INO, "."), (ROOT_INO, ".."), (LOST_AND_FOUND_INO, "lost+found")]
    } else {
        &[(LOST_AND_FOUND_INO, "."), (ROOT_INO, "..")]
    };

    let mut block = [0; BLOCK_LEN];
    let mut offset = 0;
    for (index, &(target, name)) in entries.iter().enumerate() {
        let last = index + 1 == entries.len();
        // Entries are aligned to 4 bytes, and the last one takes all that is left.
        let own = (HEADER_BYTES + name.len()).next_multiple_of(4);
        let length = if last { TAIL - offset } else { own };
        put_entry(&mut block, offset, target, length, name.as_bytes(), TYPE_DIRECTORY);
        offset += length;
    }
    put_entry(&mut block, TAIL, 0, TAIL_BYTES, &[], TYPE_TAIL);

    let (summed, _) = block.split_at(TAIL);
    let checksum = crc32c(inode_seed(seed, ino), summed);
    put(&mut block, TAIL_CHECKSUM, &checksum.to_le_bytes());
    block
}

fn put_entry(block: &mut Block, offset: usize, ino: u32, length: usize, name: &[u8], kind: u8) {
    let [length_low, length_high, ..] = length.to_le_bytes();
    let [name_length, ..] = name.len().to_le_bytes();
    put(block, offset, &ino.to_le_bytes());
    put(block, offset + 4, &[length_low, length_high, name_length, kind]);
    put(block, offset + HEADER_BYTES, name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_the_block_up_to_its_tail() {
        let root = block(ROOT_INO, 0);
        assert_eq!(root[..12], *b"\x02\0\0\0\x0c\0\x01\x02.\0\0\0");
        assert_eq!(root[12..24], *b"\x02\0\0\0\x0c\0\x02\x02..\0\0");
        assert_eq!(root[24..42], *b"\x0b\0\0\0\xdc\x0f\x0a\x02lost+found");
        assert_eq!(root[4084..4092], *b"\0\0\0\0\x0c\0\0\xde");
        assert_eq!(24 + 0xfdc, TAIL);
    }
}
