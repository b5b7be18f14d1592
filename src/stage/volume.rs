//! Stage 4: the encrypted volume, with a key that lives for this boot.
//!
//! Everything is written to the disk and nothing is read back from it: header, tables and file
//! system are made from what this process holds in memory.
//!
//! Nobody repairs the volume, or reads it after a power cut. What follows from that, and what it
//! was seen to bring (`scripts/bench --only choices`):
//!
//! | choice | why | with the other choice |
//! |---|---|---|
//! | no journal (`ext4`) | it is for the mount after a crash, and there is none | twice the metadata, half the fsyncs a second; but see below |
//! | no flushes, `nobarrier` | the same | half the fsyncs a second |
//! | `noatime` | nobody asks when a file was last read | each first read is a write |
//! | `noinit_itable` | zeroed inode tables are for a repair | 1/64 of the disk is written in the background |
//! | an inode for 16 KiB (`ext4`) | what mke2fs takes: enough for images of small files | no difference on a new volume: tables are not written before their inodes |
//! | no discards | the kernel has none where tags lie outside; they would show the host what is free | - |
//! | no options of dm-crypt (`crypt`) | its queues encrypt on all processors | without queues, half the speed of writing |
//!
//! Without a journal ext4 passes over each inode that was in use within the last minutes when it
//! looks for a free one (`recently_deleted` in `fs/ext4/ialloc.c`). An image that is unpacked right
//! after as many files were removed thus takes twice as long as on a new volume or longer; with a
//! journal it does not. A volume begins empty, and what calls fsync does so all the time: no journal.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::time::{ClockId, clock_gettime};

use super::tags::{self, Below, Place};
use super::{disk::Disk, in_new_root, mapping, node, open_control};
use crate::block::{Partition, SECTOR};
use crate::config::Config;
use crate::dm::{Control, Mapping, Target};
use crate::effect::{effect, optional};
use crate::error::{Error, Result};
use crate::ext4::Layout;
use crate::key::{LogonKey, VolumeKey};
use crate::luks2::{self, KeyDigest};
use crate::mount::{self, Flags};
use crate::report::{Report, VolumeFacts};
use crate::{blkpg, crypt, ext4, hex, integrity, uuid};

/// Where the volume is mounted in the new root.
const MOUNT_POINT: &str = "/cocos";

const MOUNT_FLAGS: Flags = Flags::NOATIME;

/// Options of ext4(5).
const MOUNT_OPTIONS: &str = "nobarrier,noinit_itable";

/// Sixteen megabytes of header, and as much again to make the rest worth its name.
const PARTITION_MIN: u64 = 2 * luks2::DATA_OFFSET;

/// The key's name while the kernel looks for it; a `logon` key's needs a prefix.
const KEY_DESCRIPTION: &CStr = c"cvm-init:cocos";

/// Blocks of the volume where libblkid looks for signatures: first block, count. They are zeroed,
/// because a read of a block that was never written fails, and with it the whole probe.
const PROBED_FRONT: &[(u64, u64)] = &[
    // Most signatures lie in the first 70 KiB, ZFS labels reach to 512 KiB.
    (0, 128),
    // Second headers of LUKS2, at 512 KiB, 1, 2 and 4 MiB.
    (128, 1),
    (256, 1),
    (512, 1),
    (1024, 1),
];

/// Blocks at the end where libblkid looks. The farthest probe, for a Promise RAID, reads 386
/// blocks before it.
const PROBED_BACK: u64 = 512;

/// The volume, open.
struct Volume {
    bytes: u64,
    uuid: [u8; 16],
    /// Where its tags are, and the most memory that they may come to take.
    tags: (&'static str, Option<u64>),
}

/// Makes the volume on partition 4 and mounts it in the new root.
///
/// # Errors
/// When the partition is too small, the kernel lacks the cipher, or a step fails.
pub fn provision(config: &Config, disk: &Disk, report: &mut Report) -> Result<()> {
    let mut partition = disk.cocos.clone();
    if let (true, Some(sectors)) = (config.grow, disk.cocos_to_end) {
        grow(disk, &mut partition, sectors);
    }
    if partition.bytes() < PARTITION_MIN {
        return Err(Error::new(format!(
            "partition {} is too small: {} bytes, at least {PARTITION_MIN} are needed",
            partition.name,
            partition.bytes()
        )));
    }
    let volume = open(config, &partition)?;
    let (layout, device) = make_file_system(&volume)?;
    effect(format!("mount the volume on {MOUNT_POINT}"), || {
        let (node, target) = (node(mapping::VOLUME), in_new_root(MOUNT_POINT));
        mount::mount(&node, &target, "ext4", MOUNT_FLAGS, MOUNT_OPTIONS)
    })?;
    // Not earlier: with its last user gone the device would be read for what memory holds now.
    drop(device);
    let (tags, tags_memory_max) = volume.tags;
    log::info!(
        "volume of {} bytes, {} with {}, tags: {tags}, on {}",
        volume.bytes,
        config.cipher.name,
        config.cipher.integrity,
        partition.name
    );
    report.volume = Some(VolumeFacts {
        device: node(mapping::VOLUME),
        partition_bytes: partition.bytes(),
        partition: partition.name,
        bytes: volume.bytes,
        uuid: uuid::hyphenated(&volume.uuid),
        cipher: config.cipher.name,
        integrity: config.cipher.integrity,
        tags,
        tags_memory_max,
        sector_size: crypt::SECTOR_SIZE,
        free_blocks: layout.free_blocks(),
        free_inodes: layout.free_inodes(),
    });
    Ok(())
}

/// Lets the partition reach the end of a disk that was grown behind its partition table, in the
/// kernel's memory only. Where that fails, the partition is as large as its table says.
fn grow(disk: &Disk, partition: &mut Partition, sectors: u64) {
    let doing = format!("grow {} to the end of the disk", partition.name);
    let grown = optional(doing, || {
        let (start, length) =
            (partition.start.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR));
        blkpg::resize(&disk.path(), partition.number, start, length)
    });
    if grown.is_some() {
        log::info!("{} grown from {} to {sectors} sectors", partition.name, partition.sectors);
        partition.sectors = sectors;
    }
}

/// Writes the header and opens the mappings. The key is gone when this returns, but for the
/// copy in dm-crypt that the volume is encrypted with.
fn open(config: &Config, partition: &Partition) -> Result<Volume> {
    let control = open_control()?;
    // Asked first, so that a kernel that cannot leaves the partition as it was.
    control.require_target("crypt", "DM_CRYPT")?;
    let place = tags::prepare(config, &control, partition)?;
    let tags = (place.name(), place.memory_max());

    let cipher = config.cipher;
    let uuid = uuid::from_random(random()?);
    let key = effect("generate the volume key", || VolumeKey::generate(cipher.key_size))?;
    let header = luks2::Header {
        uuid,
        cipher: cipher.name,
        integrity: cipher.tag.as_ref().map(|tag| tag.luks2_name),
        requirement: place.requirement(),
        sector_size: crypt::SECTOR_SIZE,
        digest: KeyDigest::new(key.bytes(), random()?),
        checksum_salts: [random()?, random()?],
    };
    let header =
        header.encode().map_err(|cause| Error::cannot(&"encode the LUKS2 header", &cause))?;
    let name = &partition.name;
    let device =
        effect(format!("open {name}"), || OpenOptions::new().write(true).open(partition.path()))?;
    effect(format!("write the LUKS2 header to {name}"), || device.write_all_at(&header, 0))?;
    if let Place::Disk(_) = place {
        effect(format!("zero the dm-integrity superblock of {name}"), || {
            device.write_all_at(&[0; integrity::SUPERBLOCK_SIZE], luks2::DATA_OFFSET)
        })?;
    }
    effect(format!("sync {name}"), || device.sync_all())?;
    drop(device);
    let below = place.open(&control, partition, &uuid)?;
    open_crypt(&control, cipher, &key, &below, &uuid)?;
    Ok(Volume { bytes: below.sectors.saturating_mul(SECTOR), uuid, tags })
}

/// Opens dm-crypt. The key passes through the keyring and leaves it again.
fn open_crypt(
    control: &Control,
    cipher: &crypt::Cipher,
    key: &VolumeKey,
    below: &Below,
    uuid: &[u8; 16],
) -> Result<()> {
    let uuid = format!("CRYPT-LUKS2-{}-{}", hex::encode(uuid), mapping::VOLUME);
    let mapping = Mapping { name: mapping::VOLUME, uuid: &uuid, read_only: false };
    let target = Target {
        kind: "crypt".into(),
        sectors: below.sectors,
        params: crypt::table(cipher, &KEY_DESCRIPTION.to_string_lossy(), below.device, below.start),
    };
    let logon =
        effect("add the volume key to the keyring", || LogonKey::add(KEY_DESCRIPTION, key))?;
    control.activate(&mapping, &target, |asked, live| asked == live).map_err(|error| {
        let (name, options) = (cipher.name, cipher.kernel_options);
        Error::new(format!(
            "{error} ({name} needs the kernel options {options}; \
             scripts/initramfs --cipher {name} packs what is a module)"
        ))
    })?;
    effect("revoke the volume key", || logon.forget())
}

/// Makes the file system, metadata only: the cost does not grow with the disk. Returns the volume's
/// device as well.
fn make_file_system(volume: &Volume) -> Result<(Layout, File)> {
    let layout = Layout::new(volume.bytes)
        .map_err(|cause| Error::cannot(&"lay out the file system", &cause))?;
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let options = ext4::Options {
        uuid: uuid::from_random(random()?),
        hash_seed: random()?,
        label: [0; 16],
        created: u64::try_from(now).unwrap_or(0),
    };
    let device =
        effect("open the volume", || OpenOptions::new().write(true).open(node(mapping::VOLUME)))?;
    effect("zero what signature probes read", || zero_probed(&device, volume.bytes))?;
    effect("write the file system", || {
        layout.write(&options, |offset, bytes| device.write_all_at(bytes, offset))
    })?;
    effect("sync the file system", || device.sync_all())?;
    Ok((layout, device))
}

fn zero_probed(device: &File, bytes: u64) -> io::Result<()> {
    let block = u64::from(crypt::SECTOR_SIZE);
    let blocks = bytes / block;
    let zeros = vec![0; 16 * crypt::SECTOR_SIZE as usize];
    let back = (blocks.saturating_sub(PROBED_BACK), PROBED_BACK);
    for (first, count) in PROBED_FRONT.iter().copied().chain([back]) {
        let end = first.saturating_add(count).min(blocks) * block;
        let mut at = first * block;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let zeros = zeros.get(..left).unwrap_or(&zeros);
            device.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    effect("get random bytes", || {
        let mut bytes = [0; N];
        getrandom::fill(&mut bytes).map(|()| bytes)
    })
}
