//! Stage 4, below dm-crypt: what keeps the volume's ciphertext, and where its tags are.

use rustix::system::sysinfo;

use super::mapping;
use crate::block::{Dev, Partition, SECTOR};
use crate::config::{Config, Tags};
use crate::crypt::{self, Tag};
use crate::dm::{Control, Mapping, Target};
use crate::effect::effect;
use crate::error::{Error, Result};
use crate::loopdev::MemoryDevice;
use crate::{hex, integrity, luks2};

/// First sector of the partition behind its LUKS2 header.
const START: u64 = luks2::DATA_OFFSET / SECTOR;

/// Sectors in a block with a tag.
const BLOCK: u64 = crypt::SECTOR_SIZE as u64 / SECTOR;

/// Of the guest's memory, the part that tags may come to take: what is left has to be enough for
/// the work that the guest is there for.
const MEMORY_SHARE: u64 = 4;

/// In the LUKS2 header of a volume whose tags are not on its disk.
const IN_MEMORY: &str = "cvm-init-tags-in-memory";

const MIB: u64 = 1024 * 1024;

/// Where the tags are to be. Nothing has been written to the disk yet.
#[derive(Debug)]
pub enum Place {
    /// There are none.
    Nowhere,
    /// Beside the data.
    Disk(&'static Tag),
    /// On this device, of so many bytes.
    Memory(&'static Tag, MemoryDevice, u64),
}

/// What dm-crypt lies on.
#[derive(Debug)]
pub struct Below {
    /// The device.
    pub device: Dev,
    /// Its first sector of ciphertext.
    pub start: u64,
    /// How many there are, of 512 bytes.
    pub sectors: u64,
}

/// Makes sure that the tags have their place, and makes it where that is memory.
///
/// # Errors
/// When the kernel has no dm-integrity or no loop devices, or the memory is too small.
pub fn prepare(config: &Config, control: &Control, partition: &Partition) -> Result<Place> {
    let (Some(tag), Some(place)) = (&config.cipher.tag, config.tags) else {
        return Ok(Place::Nowhere);
    };
    control.require_target("integrity", "DM_INTEGRITY")?;
    match place {
        Tags::Disk => Ok(Place::Disk(tag)),
        Tags::Memory => {
            let bytes = integrity::meta_device_bytes(data_sectors(partition) / BLOCK, tag.size);
            let bytes = bytes.unwrap_or(u64::MAX);
            let memory = effect("ask how much memory there is", || {
                let info = sysinfo();
                Ok::<_, Error>(info.totalram.saturating_mul(info.mem_unit.into()))
            })?;
            require_memory(bytes, memory, &partition.name)?;
            let device = MemoryDevice::create("cvm-init-tags", bytes).map_err(|error| {
                Error::new(format!(
                    "{error} (cvm.tags=memory needs the kernel option BLK_DEV_LOOP; \
                     cvm.tags=disk does not)"
                ))
            })?;
            Ok(Place::Memory(tag, device, bytes))
        }
    }
}

/// Makes sure that tags of `bytes` at most leave enough of the memory.
fn require_memory(bytes: u64, memory: u64, partition: &str) -> Result<()> {
    if bytes <= memory / MEMORY_SHARE {
        return Ok(());
    }
    Err(Error::new(format!(
        "the integrity tags of {partition} may take {} MiB, more than a quarter of the guest's {} \
         MiB of memory: give the guest more memory, or keep them on the disk with cvm.tags=disk, \
         which lets the host put old sectors back",
        bytes.div_ceil(MIB),
        memory / MIB
    )))
}

impl Place {
    /// By the name of `cvm.tags=`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nowhere => "none",
            Self::Disk(_) => "disk",
            Self::Memory(..) => "memory",
        }
    }

    /// The most memory that the tags may come to take, in bytes.
    #[must_use]
    pub fn memory_max(&self) -> Option<u64> {
        match self {
            Self::Nowhere | Self::Disk(_) => None,
            Self::Memory(_, _, bytes) => Some(*bytes),
        }
    }

    /// What a tool would have to know of it to open the volume.
    #[must_use]
    pub fn requirement(&self) -> Option<&'static str> {
        match self {
            Self::Nowhere | Self::Disk(_) => None,
            Self::Memory(..) => Some(IN_MEMORY),
        }
    }

    /// Opens what dm-crypt lies on. On the disk, the superblock of dm-integrity has to be zero.
    ///
    /// # Errors
    /// When a mapping cannot be made, or is not the one asked for.
    pub fn open(self, control: &Control, partition: &Partition, uuid: &[u8; 16]) -> Result<Below> {
        let uuid = hex::encode(uuid);
        let mapped = |device, sectors| Below { device, start: 0, sectors };
        match self {
            Self::Nowhere => {
                Ok(Below { device: partition.dev, start: START, sectors: data_sectors(partition) })
            }
            Self::Disk(tag) => {
                let (device, sectors) = open_on_disk(control, tag, partition.dev, &uuid)?;
                Ok(mapped(device, sectors))
            }
            Self::Memory(tag, memory, _) => {
                let sectors = data_sectors(partition);
                let data = open_data(control, partition.dev, sectors, &uuid)?;
                let device = open_in_memory(control, tag, data, memory.dev(), sectors, &uuid)?;
                memory.hand_over()?;
                Ok(mapped(device, sectors))
            }
        }
    }
}

/// Sectors behind the header, in whole blocks.
fn data_sectors(partition: &Partition) -> u64 {
    partition.sectors.saturating_sub(START) / BLOCK * BLOCK
}

/// Opens dm-integrity with tags beside the data. Returns its device and provided data sectors.
fn open_on_disk(control: &Control, tag: &Tag, partition: Dev, uuid: &str) -> Result<(Dev, u64)> {
    let uuid = format!("CRYPT-INTEGRITY-{uuid}-{}", mapping::INTEGRITY);
    let mapping = Mapping { name: mapping::INTEGRITY, uuid: &uuid, read_only: false };
    let mut target = Target {
        kind: "integrity".into(),
        sectors: integrity::PROVISIONAL_SECTORS,
        params: integrity::table(partition, START, None, tag.size, crypt::SECTOR_SIZE),
    };
    // The kernel formats when a first table is loaded, and then knows how much it can provide.
    let device = control.create(&mapping)?;
    control.load(&mapping, &target)?;
    control.resume(mapping.name)?;
    target.sectors = integrity::provided_data_sectors(&control.status(mapping.name)?.params)?;
    control.load(&mapping, &target)?;
    control.resume(mapping.name)?;
    control.require_live(mapping.name, &target, integrity::is_live_table)?;
    control.make_node(mapping.name, device)?;
    Ok((device, target.sectors))
}

/// Opens the partition behind its header as a device of its own: with tags on another device,
/// dm-integrity takes its data from the first sector on.
fn open_data(control: &Control, partition: Dev, sectors: u64, uuid: &str) -> Result<Dev> {
    let uuid = format!("CRYPT-LINEAR-{uuid}-{}", mapping::DATA);
    let mapping = Mapping { name: mapping::DATA, uuid: &uuid, read_only: false };
    let target = Target { kind: "linear".into(), sectors, params: format!("{partition} {START}") };
    control.activate(&mapping, &target, |asked, live| asked == live)
}

/// Opens dm-integrity with tags on `memory`, which the kernel formats because it is all zeros.
fn open_in_memory(
    control: &Control,
    tag: &Tag,
    data: Dev,
    memory: Dev,
    sectors: u64,
    uuid: &str,
) -> Result<Dev> {
    let uuid = format!("CRYPT-INTEGRITY-{uuid}-{}", mapping::INTEGRITY);
    let mapping = Mapping { name: mapping::INTEGRITY, uuid: &uuid, read_only: false };
    let target = Target {
        kind: "integrity".into(),
        sectors,
        params: integrity::table(data, 0, Some(memory), tag.size, crypt::SECTOR_SIZE),
    };
    control.activate(&mapping, &target, integrity::is_live_table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_may_take_a_quarter_of_the_memory_and_no_more() {
        assert!(require_memory(256 * MIB, 1024 * MIB, "sda4").is_ok());
        assert_eq!(
            require_memory(256 * MIB + 1, 1024 * MIB, "sda4").unwrap_err().to_string(),
            "the integrity tags of sda4 may take 257 MiB, more than a quarter of the guest's 1024 \
             MiB of memory: give the guest more memory, or keep them on the disk with \
             cvm.tags=disk, which lets the host put old sectors back"
        );
        assert!(require_memory(u64::MAX, 1 << 40, "sda4").is_err());
    }

    #[test]
    fn data_is_in_whole_blocks_behind_the_header() {
        let of = |sectors| {
            let dev = Dev { major: 8, minor: 4 };
            let name = "sda4".into();
            data_sectors(&Partition { name, number: 4, dev, start: 2048, sectors })
        };
        assert_eq!(of(32768 + 16), 16);
        assert_eq!(of(32768 + 23), 16);
        assert_eq!(of(0), 0);
        assert_eq!(of(u64::MAX), u64::MAX - 32767 - 8);
    }
}
