//! What of the volume lies where: decided before anything is made or written.

use crate::config::{Config, Tags};
use crate::error::{Error, Result};
use crate::format::crypt::{self, Cipher, Tag};
use crate::format::device::SECTOR;
use crate::format::ext4::Layout;
use crate::format::{integrity, luks2};
use crate::kernel::block::Device;

/// First sector behind the LUKS2 header.
pub(super) const START: u64 = luks2::DATA_OFFSET / SECTOR;

/// Bytes at the end of the volume where signature probes look. The farthest one of libblkid's, for a
/// Promise RAID, reads 386 blocks before the end.
const TAIL: u64 = 512 * crypt::SECTOR_SIZE as u64;

/// Of the guest's memory, the part that the file system's metadata may come to take, as far as it
/// depends on how many inodes there are.
const METADATA_SHARE: u64 = 16;

/// Of the guest's memory, the part that tags and metadata may come to take: what is left has to be
/// enough for the work that the guest is there for.
const MEMORY_SHARE: u64 = 4;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Sizes and places.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the data is encrypted with.
    pub(super) cipher: &'static Cipher,
    /// Where its tags lie, if it has any.
    pub(super) tags: Option<TagPlan>,
    /// Sectors of ciphertext, from [`START`] on.
    pub(super) sectors: u64,
    /// The file system.
    pub(super) layout: Layout,
}

/// What dm-integrity keeps, and where.
#[derive(Debug)]
pub(super) struct TagPlan {
    /// Of each block.
    pub(super) tag: &'static Tag,
    /// Where the tags lie: on the disk, behind the ciphertext.
    pub(super) place: Tags,
    /// Bytes of all of them.
    pub(super) bytes: u64,
}

impl Plan {
    /// Plans a volume on `device` for a guest with `memory` bytes.
    ///
    /// # Errors
    /// When the device or the memory is too small.
    pub(super) fn new(config: &Config, device: &Device, memory: u64) -> Result<Self> {
        let cipher = config.cipher;
        let bytes = device.sectors.saturating_sub(START).saturating_mul(SECTOR);
        let block = u64::from(crypt::SECTOR_SIZE);
        let on_disk = |tag: &Tag| integrity::blocks_with_tags(bytes, tag.size, crypt::SECTOR_SIZE);
        let tags = cipher.tag.as_ref().zip(config.tags);
        let blocks = match tags {
            Some((tag, Tags::Disk)) => on_disk(tag),
            _ => bytes / block,
        };
        let metadata_max = memory / METADATA_SHARE;
        let blocks = match Layout::data_bytes_max(metadata_max) / block {
            most if most < blocks => {
                log::warn!(
                    "{} has room for {} GiB of data: the volume takes {}, the most that ext4 can",
                    device.name,
                    blocks.saturating_mul(block) / GIB,
                    most.saturating_mul(block) / GIB
                );
                most
            }
            _ => blocks,
        };
        let layout = Layout::new(blocks.saturating_mul(block), metadata_max)
            .map_err(|cause| Error::cannot(&format!("use {}", device.name), &cause))?;
        let tags = tags.map(|(tag, place)| {
            let bytes = integrity::tag_bytes(blocks, tag.size).unwrap_or(u64::MAX);
            TagPlan { tag, place, bytes }
        });
        let sectors = blocks.saturating_mul(block / SECTOR);
        let plan = Self { cipher, tags, sectors, layout };
        plan.require_memory(memory, &device.name)?;
        Ok(plan)
    }

    /// Makes sure that tags and metadata leave enough of the memory.
    fn require_memory(&self, memory: u64, device: &str) -> Result<()> {
        let tags = self.tags.as_ref().map_or(0, TagPlan::memory_bytes);
        let metadata = self.metadata_bytes();
        if tags.saturating_add(metadata) <= memory / MEMORY_SHARE {
            return Ok(());
        }
        let other_way = match self.tags {
            Some(TagPlan { place: Tags::Memory, .. }) => {
                "keep the tags on the disk with cvm.tags=disk, which lets the host put old sectors \
                 back"
            }
            _ => {
                "the volume a smaller partition (cvm.grow=no: one as small as its table says) or disk"
            }
        };
        Err(Error::new(format!(
            "the volume on {device} may come to take {} MiB of memory for its integrity tags and \
             {} MiB for its metadata, more than a quarter of the guest's {} MiB: give the guest more \
             memory, or {other_way}",
            tags.div_ceil(MIB),
            metadata.div_ceil(MIB),
            memory / MIB
        )))
    }

    /// Bytes of memory that the volume's metadata and its end lie in.
    #[must_use]
    pub(super) fn metadata_bytes(&self) -> u64 {
        self.layout.metadata_bytes().saturating_add(TAIL)
    }

    /// The volume, from its first sector to its last.
    #[must_use]
    pub(super) fn pieces(&self) -> Pieces {
        let data = self.layout.free_blocks().saturating_mul(crypt::SECTOR_SIZE.into());
        Pieces {
            metadata: self.layout.metadata_bytes() / SECTOR,
            data: data / SECTOR,
            tail: TAIL / SECTOR,
        }
    }
}

/// Sectors of each piece of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Superblock, descriptors, bitmaps, inode tables and journal: in memory.
    pub(super) metadata: u64,
    /// Encrypted.
    pub(super) data: u64,
    /// Zeros behind the file system: in memory.
    pub(super) tail: u64,
}

impl Pieces {
    /// Bytes of the whole volume.
    #[must_use]
    pub(super) fn bytes(self) -> u64 {
        self.metadata.saturating_add(self.data).saturating_add(self.tail).saturating_mul(SECTOR)
    }
}

impl TagPlan {
    /// Bytes of memory that the tags may come to take, or where they lie on the disk what stands
    /// before them.
    #[must_use]
    pub(super) fn memory_bytes(&self) -> u64 {
        match self.place {
            Tags::Disk => integrity::META_HEAD,
            Tags::Memory => integrity::META_HEAD.saturating_add(self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::device::Dev;
    use crate::format::ext4;
    use proptest::prelude::*;

    fn plan(words: &str, partition: u64, memory: u64) -> Result<Plan> {
        let config = Config::from_cmdline(&format!("roothash={} {words}", "0".repeat(64))).unwrap();
        let dev = Dev { major: 8, minor: 4 };
        let sectors = partition / SECTOR;
        Plan::new(&config, &Device { name: "sda4".into(), dev, sectors }, memory)
    }

    #[test]
    fn metadata_takes_a_sixteenth_of_the_memory_at_most() {
        let metadata = |partition, memory| {
            let plan = plan("cvm.tags=disk", partition, memory).unwrap();
            (
                plan.layout.metadata_bytes(),
                (plan.layout.blocks() * 4).div_ceil(plan.layout.inodes()),
            )
        };
        // A whole set of inodes, and what there is room for.
        assert_eq!(metadata(GIB, 2 * GIB), (52_518_912, 15));
        let (bytes, kib_an_inode) = metadata(20 * GIB, 2 * GIB);
        assert!((125 * MIB..=128 * MIB).contains(&bytes), "{bytes}");
        assert_eq!(kib_an_inode, 55);
    }

    #[test]
    fn tags_and_metadata_take_a_quarter_of_the_memory_at_most() {
        assert!(plan("", 20 * GIB, GIB).is_ok());
        assert_eq!(
            plan("", 20 * GIB, 640 * MIB).unwrap_err().to_string(),
            "the volume on sda4 may come to take 141 MiB of memory for its integrity tags and 42 MiB \
             for its metadata, more than a quarter of the guest's 640 MiB: give the guest more \
             memory, or keep the tags on the disk with cvm.tags=disk, which lets the host put old \
             sectors back"
        );
        assert_eq!(
            plan("cvm.tags=disk", 2048 * GIB, 512 * MIB).unwrap_err().to_string(),
            "the volume on sda4 may come to take 1 MiB of memory for its integrity tags and 202 MiB \
             for its metadata, more than a quarter of the guest's 512 MiB: give the guest more \
             memory, or the volume a smaller partition (cvm.grow=no: one as small as its table says) or \
             disk"
        );
        assert!(plan("", 1 << 43, 1 << 40).is_ok());
    }

    /// What ext4 cannot have of a partition is left.
    #[test]
    fn a_partition_beyond_16_tib_is_used_as_far_as_ext4_goes() {
        let words = ["", "cvm.tags=disk", "cvm.cipher=aes-xts-plain64 cvm.integrity=none"];
        for (words, memory) in words
            .into_iter()
            .flat_map(|words| [8 * GIB, 1 << 40, u64::MAX].map(|memory| (words, memory)))
        {
            if words.is_empty() && memory == 8 * GIB {
                continue; // the tags would not fit
            }
            let plan = |partition| plan(words, partition, memory).unwrap();
            let of_most = plan(17 << 40);
            let most = of_most.pieces().data * SECTOR;
            let all = of_most.layout.blocks() * u64::from(crypt::SECTOR_SIZE);
            assert!((ext4::MAX_BYTES - GIB..=ext4::MAX_BYTES).contains(&all), "{all}");
            for larger in [18 << 40, u64::MAX] {
                assert_eq!(plan(larger).sectors, of_most.sectors, "{words:?} {memory}");
            }
            // A partition that just has that room, and one that is a little smaller.
            let tags = match &of_most.tags {
                Some(TagPlan { place: Tags::Disk, bytes, .. }) => *bytes,
                _ => 0,
            };
            let just = START * SECTOR + of_most.sectors * SECTOR + tags;
            assert_eq!(plan(just + MIB).sectors, of_most.sectors);
            assert!(plan(just - MIB).sectors < of_most.sectors);
            assert!(most <= of_most.sectors * SECTOR);
        }
    }

    proptest! {
        #[test]
        fn pieces_and_tags_fit_the_partition(
            partition in 32 * MIB..1 << 43,
            shift in 0..18_u32,
            words in prop::sample::select(vec![
                "", "cvm.tags=disk", "cvm.cipher=aegis128-random cvm.tags=disk",
                "cvm.cipher=aes-xts-plain64 cvm.integrity=none",
            ]),
        ) {
            let partition = (partition >> shift).max(32 * MIB);
            let plan = plan(words, partition, 1 << 40).unwrap();
            let pieces = plan.pieces();
            let room = partition / SECTOR - START;
            let on_disk = match &plan.tags {
                Some(TagPlan { place: Tags::Disk, bytes, .. }) => bytes / SECTOR,
                _ => 0,
            };
            prop_assert!(pieces.data <= plan.sectors);
            prop_assert!(plan.sectors + on_disk <= room);
            prop_assert!(plan.sectors + on_disk + 512 > room);
            for sectors in [pieces.metadata, pieces.data, pieces.tail, plan.sectors] {
                prop_assert!(sectors.is_multiple_of(u64::from(crypt::SECTOR_SIZE) / SECTOR));
            }
            // Second headers of LUKS2 are looked for in up to 4 MiB, and the kernel reads ahead.
            prop_assert!(pieces.metadata * SECTOR >= 4 * MIB + 16 * 1024 + 128 * 1024);
        }
    }
}
