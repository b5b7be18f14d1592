//! An ext4 formatter for a volume that lives for one boot.
//!
//! It packs all metadata at the start of the volume ([`Layout`]), so that it can lie on another
//! device than the data: superblock, descriptors, bitmaps, inode tables and the journal are the
//! first bytes, and everything behind them is free. The device of the metadata has to read as zeros
//! where it was not written; the device of the data may fail every read of what was not written.
//!
//! The zeros are what makes it right for any number of writers: the kernel reads a block of an inode
//! table before it writes it as soon as *another* inode of that block is taken in the bitmap,
//! whether that one has been written or not (`__ext4_get_inode_loc` in `fs/ext4/inode.c`). Bitmaps
//! and tables of groups that hold nothing are uninitialised (`BLOCK_UNINIT`, `INODE_UNINIT`,
//! `bg_itable_unused`), and the tables count as zeroed (`INODE_ZEROED`), so nothing zeroes them in
//! the background. What is written is 32 bytes of descriptor a group and some blocks. Blocks of
//! data, of directories and of extents are always written before they are read.
//!
//! There are no superblock backups, no reserved blocks and no room for resizing: they would protect
//! or serve a volume whose key is gone at the next boot.
//!
//! The format is that of the kernel's Documentation/filesystems/ext4 ("ext4 Data Structures and
//! Algorithms"); fields carry the names used there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use cvm_init::format::ext4::{Layout, Options};
//! let options = Options {
//!     uuid: [0x11; 16],
//!     hash_seed: [0x22; 16],
//!     label: *b"cocos\0\0\0\0\0\0\0\0\0\0\0",
//!     created: 1_700_000_000,
//! };
//! let layout = Layout::new(64 << 20, u64::MAX)?;
//! let mut memory = vec![0; usize::try_from(layout.metadata_bytes())?];
//! layout.write(&options, |offset, bytes| {
//!     let start = usize::try_from(offset)?;
//!     memory[start..start + bytes.len()].copy_from_slice(bytes);
//!     Ok::<(), std::num::TryFromIntError>(())
//! })?;
//! assert_eq!(memory[0x438..0x43a], [0x53, 0xef]); // s_magic
//! # Ok(())
//! # }
//! ```

mod checksum;
mod directory;
mod group;
mod inode;
mod journal;
mod layout;
mod output;
mod superblock;

pub use layout::{BLOCK_BYTES, Layout, LayoutError, MAX_BYTES, MIN_BYTES};

use output::Output;

/// What a volume is given besides its size.
#[derive(Clone, Debug)]
pub struct Options {
    /// `s_uuid`; it also seeds every metadata checksum.
    pub uuid: [u8; 16],
    /// `s_hash_seed`: random, so that nobody can prepare names that collide in a directory index.
    pub hash_seed: [u8; 16],
    /// `s_volume_name`, padded with NUL.
    pub label: [u8; 16],
    /// Time of creation in seconds since the Unix epoch.
    pub created: u64,
}

impl Layout {
    /// Writes the volume's metadata, all of it within the first [`Layout::metadata_bytes`]: calls
    /// `write` with a byte offset and the bytes that belong there, both multiples of
    /// [`BLOCK_BYTES`], in ascending order, at most 256 KiB a call. What is passed over is zeros.
    ///
    /// # Errors
    /// The first error of `write`, after which the volume is not usable.
    pub fn write<E>(
        &self,
        options: &Options,
        write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let seed = checksum::seed(&options.uuid);
        let mut output = Output::new(write);

        output.put(0, &superblock::block(self, options))?;
        for index in 0..self.descriptor_blocks {
            output.put(1 + index, &group::descriptor_block(self, seed, index))?;
        }
        for (ino, block) in self.directories() {
            output.put(block, &directory::block(ino, seed))?;
        }
        for group in (0..self.groups).filter(|&group| self.has_block_bitmap(group)) {
            output.put(self.block_bitmap(group), &group::block_bitmap(self, group))?;
        }
        output.put(self.inode_bitmap(0), &group::inode_bitmap(self))?;
        output.put(self.inode_table(0), &inode::table_block(self, seed, options.created))?;
        output.put(self.journal(), &journal::block(self, &options.uuid))?;
        output.finish()
    }
}

/// Copies `bytes` to `offset` of a structure; every caller's offset is a constant that fits, and
/// one that did not would fail every checksum test.
fn put(structure: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(field) = structure.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len())) {
        field.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: Options =
        Options { uuid: [1; 16], hash_seed: [2; 16], label: [0; 16], created: 1_750_000_000 };

    proptest! {
        #[test]
        fn writes_are_whole_blocks_in_ascending_order_inside_the_metadata_and_few(
            data_bytes in MIN_BYTES..=2 << 40,
            shift in 0..21u32,
            metadata_max in 0..1_u64 << 32,
        ) {
            let data_bytes = (data_bytes >> shift).max(MIN_BYTES);
            let layout = Layout::new(data_bytes, metadata_max).unwrap();
            let block_bytes = u64::from(BLOCK_BYTES);
            let (mut end, mut total, mut longest) = (0, 0, 0);
            layout.write(&OPTIONS, |offset, bytes| {
                let length = bytes.len() as u64;
                prop_assert!(offset.is_multiple_of(block_bytes) && length.is_multiple_of(block_bytes));
                prop_assert!(offset >= end && length > 0);
                end = offset + length;
                total += length;
                longest = length.max(longest);
                Ok(())
            })?;
            prop_assert!(end <= layout.metadata_bytes());
            prop_assert!(longest <= 256 << 10);
            prop_assert!(total <= (40 << 10) + (data_bytes >> 20) * 3 / 4);
        }
    }

    #[test]
    fn an_error_of_the_device_is_handed_on() {
        let layout = Layout::new(1 << 30, u64::MAX).unwrap();
        assert_eq!(layout.write(&OPTIONS, |_, _| Err("no space")), Err("no space"));
    }
}
