//! Where data and hash tree lie: on which device, from where on, and up to where.
//!
//! Sources: veritysetup(8), `VERITY_hash_offset_block` in cryptsetup's `lib/verity/verity.c`; UAPI
//! group, Discoverable Partitions Specification.

use super::{BLOCK_SIZE, DATA_BLOCKS_MAX, DIGESTS_BITS, Params, RootHash};
use crate::error::{Error, Result};

/// Hash blocks before the tree in an area with a superblock.
const SUPERBLOCK_BLOCKS: u64 = 1;

/// Where data and hash area may lie: on a device each, or one behind the other on the same. All in
/// blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Areas {
    /// What there is for the data, from the start of its device.
    data: u64,
    /// Where the hash area begins on its device.
    hash: u64,
    /// Where that device ends.
    end: u64,
}

impl Areas {
    /// On a device each, of so many bytes.
    #[must_use]
    pub fn apart(data_bytes: u64, hash_bytes: u64) -> Self {
        let block = u64::from(BLOCK_SIZE);
        Self { data: data_bytes / block, hash: 0, end: hash_bytes / block }
    }

    /// On one device of so many bytes, with the hash area from byte `offset` on.
    ///
    /// # Errors
    /// When nothing can begin there.
    pub fn together(bytes: u64, offset: HashOffset) -> Result<Self> {
        let end = bytes / u64::from(BLOCK_SIZE);
        if offset.block() >= end {
            return Err(Error::new(format!(
                "the hash area would begin at byte {}, but all ends at {bytes}",
                offset.bytes()
            )));
        }
        Ok(Self { data: offset.block(), hash: offset.block(), end })
    }

    /// The byte at which the hash area begins on its device.
    #[must_use]
    pub fn hash_at(&self) -> u64 {
        self.hash.saturating_mul(u64::from(BLOCK_SIZE))
    }

    /// The hash block of its device that a tree begins with: behind the superblock's, or, where there
    /// is none, with the area (`veritysetup --no-superblock`).
    #[must_use]
    pub fn tree(&self, superblock: bool) -> u64 {
        self.hash.saturating_add(if superblock { SUPERBLOCK_BLOCKS } else { 0 })
    }
}

/// Where the hash area begins behind the data (`veritysetup --hash-offset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashOffset(u64);

impl HashOffset {
    /// At this byte: `None` when no block ends there.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let block = u64::from(BLOCK_SIZE);
        (bytes > 0 && bytes.is_multiple_of(block)).then_some(Self(bytes / block))
    }

    /// Right behind so many data blocks.
    #[must_use]
    pub fn behind(blocks: u64) -> Self {
        Self(blocks)
    }

    /// The byte.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(u64::from(BLOCK_SIZE))
    }

    /// The block, which is also the number of those before it.
    #[must_use]
    pub fn block(self) -> u64 {
        self.0
    }
}

/// The UUIDs of the partitions of data and hash tree, in the order of their text, by the discoverable
/// partitions specification: the two ends of the root hash, in 128 bits each.
#[must_use]
pub fn partition_uuids(root_hash: &RootHash) -> [[u8; 16]; 2] {
    let mut uuids = [[0; 16]; 2];
    for (uuid, half) in uuids.iter_mut().zip(root_hash.as_chunks().0) {
        *uuid = *half;
    }
    uuids
}

impl Params {
    /// Makes sure that data and hash tree have room: the tree from hash block `tree` of its device on.
    ///
    /// # Errors
    /// For which one there is too little, and what is needed.
    pub fn require_room(&self, areas: &Areas, tree: u64) -> Result<()> {
        if self.data_blocks > areas.data {
            return Err(Error::new(format!(
                "verity data blocks {}, but there is room for {}",
                self.data_blocks, areas.data
            )));
        }
        let needed = tree.saturating_sub(areas.hash).saturating_add(hash_blocks(self.data_blocks));
        let available = areas.end.saturating_sub(areas.hash);
        if needed > available {
            return Err(Error::new(format!(
                "verity hash tree of {needed} blocks, but there is room for {available}"
            )));
        }
        Ok(())
    }
}

/// Blocks of the hash tree over so many data blocks, all levels together.
fn hash_blocks(data_blocks: u64) -> u64 {
    let mut level = data_blocks;
    let mut blocks = 0;
    while level > 1 {
        level = level.div_ceil(1 << DIGESTS_BITS);
        blocks += level;
    }
    blocks
}

/// The most data blocks that fit on a device of `blocks` with superblock and hash tree behind them:
/// of a device that just holds all three, its data blocks. `None` where not even two fit.
#[must_use]
pub fn data_blocks_before_tree(blocks: u64) -> Option<u64> {
    let has_room = |data: u64| data + SUPERBLOCK_BLOCKS + hash_blocks(data) <= blocks;
    // Of these two, the first has room and the second has not.
    let (mut data, mut more) = (0, blocks.min(DATA_BLOCKS_MAX) + 1);
    while more - data > 1 {
        let middle = data.midpoint(more);
        if has_room(middle) {
            data = middle;
        } else {
            more = middle;
        }
    }
    (data >= 2).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(data_blocks: u64) -> Params {
        Params::new(Vec::new(), data_blocks).unwrap()
    }

    #[test]
    fn data_and_tree_must_fit() {
        // 1000 data blocks, 8 + 1 hash blocks, a superblock
        let params = params(1000);
        let block = u64::from(BLOCK_SIZE);
        let room = |data, hash, superblock| {
            let areas = Areas::apart(data, hash);
            let room = params.require_room(&areas, areas.tree(superblock));
            room.map_err(|error| error.to_string())
        };
        assert_eq!(room(1000 * block, 10 * block, true), Ok(()));
        assert_eq!(room(1000 * block, 9 * block, false), Ok(()));
        assert_eq!(
            room(1000 * block - 1, 10 * block, true).unwrap_err(),
            "verity data blocks 1000, but there is room for 999"
        );
        assert_eq!(
            room(1000 * block, 10 * block - 1, true).unwrap_err(),
            "verity hash tree of 10 blocks, but there is room for 9"
        );
        assert!(room(1000 * block, 9 * block - 1, false).is_err());
    }

    #[test]
    fn data_and_tree_must_fit_into_one_partition() {
        let params = params(1000);
        let block = u64::from(BLOCK_SIZE);
        let room = |bytes, offset, superblock| {
            let areas = Areas::together(bytes, HashOffset::new(offset * block).unwrap())?;
            params.require_room(&areas, areas.tree(superblock))
        };
        assert!(room(1010 * block, 1000, true).is_ok());
        assert!(room(1009 * block, 1000, false).is_ok());
        // A gap may lie between the two.
        assert!(room(2010 * block, 2000, true).is_ok());
        for (bytes, offset, message) in [
            (1010 * block, 999, "verity data blocks 1000, but there is room for 999"),
            (1010 * block - 1, 1000, "verity hash tree of 10 blocks, but there is room for 9"),
            (
                1000 * block,
                1000,
                "the hash area would begin at byte 4096000, but all ends at 4096000",
            ),
            (
                0,
                1 << 52 >> 12,
                "the hash area would begin at byte 4503599627370496, but all ends at 0",
            ),
        ] {
            assert_eq!(room(bytes, offset, true).unwrap_err().to_string(), message);
        }
    }

    /// As `veritysetup format --hash-offset` makes it of 256 blocks: a superblock, two hash blocks and
    /// the top one.
    #[test]
    fn data_blocks_are_told_from_the_size_of_all() {
        assert_eq!(data_blocks_before_tree(260), Some(256));
        assert_eq!(data_blocks_before_tree(4), Some(2));
        for blocks in 0..4 {
            assert_eq!(data_blocks_before_tree(blocks), None);
        }
        assert_eq!(data_blocks_before_tree(u64::MAX), Some(DATA_BLOCKS_MAX));
    }

    #[test]
    fn an_offset_is_a_whole_number_of_blocks() {
        for bytes in [0, 1, 512, 4095, 4097, u64::MAX] {
            assert_eq!(HashOffset::new(bytes), None, "{bytes}");
        }
        for bytes in [4096, 8192, u64::MAX - 4095] {
            let offset = HashOffset::new(bytes).unwrap();
            assert_eq!((offset.bytes(), offset.block()), (bytes, bytes / 4096));
        }
    }

    #[test]
    fn the_ends_of_the_root_hash_name_the_partitions() {
        let root_hash: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let [data, tree] = partition_uuids(&root_hash);
        assert_eq!([data, tree].concat(), root_hash);
    }

    proptest! {
        #[test]
        fn what_has_room_lies_within_its_devices(
            data_blocks in prop_oneof![2..100_000_u64, 2..=DATA_BLOCKS_MAX],
            data_bytes: u64,
            hash_bytes: u64,
            superblock: bool,
        ) {
            let params = params(data_blocks);
            let (data, hash) = (data_bytes / 4096, hash_bytes / 4096);
            // Each level has a digest in the next one for each of its blocks, 128 in a block.
            let levels = std::iter::successors(Some(data_blocks), |&level| {
                (level > 1).then(|| level / 128 + u64::from(level % 128 > 0))
            });
            let tree = u64::from(superblock) + levels.skip(1).sum::<u64>();
            let areas = Areas::apart(data_bytes, hash_bytes);
            let room = params.require_room(&areas, areas.tree(superblock));
            prop_assert_eq!(room.is_ok(), data_blocks <= data && tree <= hash);
        }

        #[test]
        fn what_has_room_behind_the_data_lies_within_the_partition(
            data_blocks in prop_oneof![2..100_000_u64, 2..=DATA_BLOCKS_MAX],
            offset in prop_oneof![1..200_000_u64, 1..1_u64 << 52],
            bytes: u64,
            superblock: bool,
        ) {
            let params = params(data_blocks);
            let room = Areas::together(bytes, HashOffset::new(offset * 4096).unwrap())
                .and_then(|areas| params.require_room(&areas, areas.tree(superblock)));
            let end = offset + u64::from(superblock) + hash_blocks(data_blocks);
            let fits = data_blocks <= offset && end <= bytes / 4096;
            prop_assert_eq!(room.is_ok(), fits);
        }

        #[test]
        fn a_device_that_just_holds_data_and_tree_tells_where_the_data_ends(
            data_blocks in prop_oneof![2..100_000_u64, 2..=DATA_BLOCKS_MAX],
            more in 0..3_u64,
        ) {
            let all = data_blocks + SUPERBLOCK_BLOCKS + hash_blocks(data_blocks);
            prop_assert_eq!(data_blocks_before_tree(all), Some(data_blocks));
            let before = data_blocks_before_tree(all - 1);
            prop_assert!(before.is_none_or(|blocks| blocks < data_blocks), "{:?}", before);
            let found = data_blocks_before_tree(all + more).unwrap();
            prop_assert!((data_blocks..=data_blocks + more).contains(&found));
        }

        #[test]
        fn no_size_of_a_device_panics(blocks: u64) {
            if let Some(data) = data_blocks_before_tree(blocks) {
                prop_assert!(data < blocks);
            }
        }
    }
}
