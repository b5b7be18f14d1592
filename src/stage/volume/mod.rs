//! Stage 5: the encrypted volume, with a key that lives for this boot.
//!
//! What is written to the disk, the LUKS2 header, is never read back: tables and file system are
//! made from what this process holds in memory. The file system's metadata and its journal stay
//! there, in front of dm-crypt, so that nothing is zeroed or synced at boot and no block of the disk
//! is read before it was written.
//!
//! Nobody repairs the volume, or reads it after a power cut. What follows from that, and what it
//! was seen to bring (`scripts/bench --only choices`):
//!
//! | choice | why | with the other choice |
//! |---|---|---|
//! | a journal (`ext4`) | without one ext4 passes over each inode that was in use within the last minutes (`recently_deleted` in `fs/ext4/ialloc.c`); in memory it writes nothing to the disk | an image that is unpacked again takes twice as long, and 16 writers make less than half the files a second where many were removed before, in return for a fifth more fsyncs |
//! | of 4 to 64 MiB, by memory and data | a transaction has a quarter of it at most, and writers wait for the commit of one that is full | 16 writers at once: with 4 MiB a fifth fewer files a second than with 16 |
//! | `data=writeback` | a journal of data is for the mount after a crash, and there is none | a commit waits for other files' data; no difference was seen |
//! | no `fast_commit` | on the kernels of today it can wait for itself when memory is short (allocations under `s_fc_lock` in `fs/ext4/fast_commit.c`) | a tenth more fsyncs a second |
//! | no flushes, `nobarrier` | for the mount after a crash, too | half the fsyncs a second |
//! | `noatime` | nobody asks when a file was last read | each first read is a write |
//! | an inode for 16 KiB (`ext4`) | what mke2fs takes: enough for images of small files | no difference on a new volume: tables are not written before their inodes |
//! | no discards | the kernel has none where tags lie outside; they would show the host what is free | - |
//! | no options of dm-crypt (`crypt`) | its queues encrypt on all processors | without queues, two thirds of the speed of writing |

mod plan;
mod stack;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::system::sysinfo;
use rustix::time::{ClockId, clock_gettime};

use self::plan::{Plan, TagPlan};
use self::stack::Stack;
use super::disk::{Growth, VolumePlace};
use super::{NewRoot, mapping, node, open_control};
use crate::config::Config;
use crate::effect::{Effect, effect, optional};
use crate::error::{Error, Result};
use crate::format::crypt::{self, Cipher};
use crate::format::device::SECTOR;
use crate::format::luks2::{self, KeyDigest};
use crate::format::{ext4, uuid};
use crate::kernel::block::Device;
use crate::kernel::key::VolumeKey;
use crate::kernel::loopdev::MemoryDevice;
use crate::kernel::mount::{self, Flags};
use crate::kernel::processor::{self, Processor};
use crate::kernel::{blkpg, file};
use crate::report::{ProcessorFacts, Report, VolumeFacts};

#[cfg(feature = "fault")]
use crate::fault::fill_key;
#[cfg(not(feature = "fault"))]
use crate::kernel::key::random as fill_key;

const MOUNT: Effect<1> = Effect::new("mount-volume", "mount the volume on {}");
const GROW: Effect<1> = Effect::new("grow", "grow {} to the end of the disk");
const ASK_MEMORY: Effect<0> = Effect::new("ask-memory", "ask how much memory there is");
const GENERATE_KEY: Effect<0> = Effect::new("generate-key", "generate the volume key");
const OPEN: Effect<1> = Effect::new("open", "open {}");
const WRITE_HEADER: Effect<1> = Effect::new("write-header", "write the LUKS2 header to {}");
const SYNC: Effect<1> = Effect::new("sync", "sync {}");
const GET_RANDOM: Effect<0> = Effect::new("get-random", "get random bytes");

const MOUNT_FLAGS: Flags = Flags::NOATIME;

/// Options of ext4(5).
const MOUNT_OPTIONS: &str = "nobarrier,data=writeback";

/// What a tool has to know before it may open the LUKS2 volume: that there is no file system in it
/// without what lay in the memory of this boot. None does.
const REQUIREMENT: &str = "cvm-init-metadata-in-memory";

/// Where the volume is mounted.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// On a directory of the new root.
    NewRoot(&'static str),
    /// Beside it.
    Initramfs(&'static str),
}

/// Makes the volume on its partition or disk and mounts it.
///
/// # Errors
/// When the place or the memory is too small, the kernel lacks the cipher, or a step fails.
pub fn provision(
    config: &Config,
    place: &VolumePlace,
    target: Target,
    report: &mut Report,
) -> Result<()> {
    let mut device = place.device.clone();
    if let (true, Some(growth)) = (config.grow, &place.growth) {
        grow(growth, &mut device);
    }
    if device.bytes() < config.volume_min {
        return Err(Error::new(format!(
            "{} is too small: {} bytes, at least {} are needed",
            device.name,
            device.bytes(),
            config.volume_min
        )));
    }
    let plan = Plan::new(config, &device, guest_memory()?)?;
    let processor = ask_processor(plan.cipher);
    let (uuid, random_numbers) = open(&plan, &device)?;
    report.processor = Some(ProcessorFacts {
        aes: processor.aes,
        memory_encryption: processor.memory_encryption,
        random_numbers,
    });
    mount_on(target)?;
    report.volume = Some(facts(&plan, &device, &uuid));
    Ok(())
}

fn mount_on(target: Target) -> Result<()> {
    let (source, kind) = (node(mapping::VOLUME), "ext4");
    let (Target::NewRoot(name) | Target::Initramfs(name)) = target;
    effect(MOUNT.on(&[&name]), || match target {
        Target::NewRoot(_) => {
            NewRoot::default().mount(&source, name, kind, MOUNT_FLAGS, MOUNT_OPTIONS)
        }
        Target::Initramfs(_) => {
            Ok(mount::mount(&source, Path::new(name), kind, MOUNT_FLAGS, MOUNT_OPTIONS)?)
        }
    })
}

/// Lets a partition reach the end of a disk that was grown behind its partition table, in the
/// kernel's memory only. Where that fails, the partition is as large as its table says.
fn grow(growth: &Growth, partition: &mut Device) {
    let Growth { disk, number, start, sectors } = growth;
    let grown = optional(GROW.on(&[&partition.name]), || {
        let (start, length) = (start.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR));
        blkpg::resize(disk, *number, start, length)
    });
    if grown.is_some() {
        log::info!("{} grown from {} to {sectors} sectors", partition.name, partition.sectors);
        partition.sectors = *sectors;
    }
}

/// What the processor offers, with a warning where the cipher wants for it.
fn ask_processor(cipher: &Cipher) -> Processor {
    let processor = processor::ask();
    if cipher.aes && !processor.aes {
        log::warn!(
            "the processor has no instructions for AES, or the host hides them: how long {} takes \
             may tell of the key (cvm.cipher=chacha20-random needs none)",
            cipher.name
        );
    }
    processor
}

/// Bytes of memory that the guest has.
fn guest_memory() -> Result<u64> {
    effect(ASK_MEMORY, || {
        let info = sysinfo();
        Ok::<_, Error>(info.totalram.saturating_mul(info.mem_unit.into()))
    })
}

/// Makes what lies in memory, writes the header, and opens the mappings. The key is gone when this
/// returns, but for the copy in dm-crypt that the volume is encrypted with. Returns the header's UUID,
/// and the processor's instruction whose random numbers are in the key.
fn open(plan: &Plan, device: &Device) -> Result<([u8; 16], Option<&'static str>)> {
    let control = open_control()?;
    // All that a kernel may lack is asked for first: one that does leaves the disk as it was.
    control.require_target("crypt", "DM_CRYPT")?;
    if plan.tags.is_some() {
        control.require_target("integrity", "DM_INTEGRITY")?;
    }
    let metadata = make_file_system(plan)?;
    let tags = plan.tags.as_ref().map(make_tags).transpose()?;

    let uuid = uuid::from_random(random()?);
    let key = effect(GENERATE_KEY, || VolumeKey::generate(plan.cipher.key_size, fill_key))?;
    write_header(plan, device, uuid, &key)?;
    Stack { control: &control, plan, device, uuid }.open(&key, metadata, tags)?;
    Ok((uuid, key.mixed_with))
}

/// Makes the file system in memory, metadata only: the cost does not grow with the disk.
fn make_file_system(plan: &Plan) -> Result<MemoryDevice> {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let options = ext4::Options {
        uuid: uuid::from_random(random()?),
        hash_seed: random()?,
        label: [0; 16],
        created: u64::try_from(now).unwrap_or(0),
    };
    memory_device("cvm-init-metadata", plan.metadata_bytes(), |file| {
        plan.layout.write(&options, |offset, bytes| file.write_all_at(bytes, offset))
    })
}

/// Makes the place of the tags, or of what stands before them.
fn make_tags(tags: &TagPlan) -> Result<MemoryDevice> {
    memory_device("cvm-init-tags", tags.memory_bytes(), |_| Ok(()))
}

fn memory_device(
    name: &str,
    bytes: u64,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> Result<MemoryDevice> {
    MemoryDevice::create(name, bytes, write).map_err(|error| {
        Error::new(format!("{error} (the volume needs the kernel option BLK_DEV_LOOP)"))
    })
}

/// Writes the LUKS2 header: all that a boot writes to the disk.
fn write_header(plan: &Plan, device: &Device, uuid: [u8; 16], key: &VolumeKey) -> Result<()> {
    let header = luks2::Header {
        uuid,
        cipher: plan.cipher.name,
        integrity: plan.cipher.tag.as_ref().map(|tag| tag.luks2_name),
        requirement: Some(REQUIREMENT),
        sector_size: crypt::SECTOR_SIZE,
        digest: KeyDigest::new(key.bytes(), random()?),
        checksum_salts: [random()?, random()?],
    };
    let header =
        header.encode().map_err(|cause| Error::cannot(&"encode the LUKS2 header", &cause))?;
    let name = &device.name;
    // Whoever else used it would be written over.
    let file = effect(OPEN.on(&[&name]), || device.claim(file::WRITE))?;
    effect(WRITE_HEADER.on(&[&name]), || file.write_all_at(&header, 0))?;
    effect(SYNC.on(&[&name]), || file.sync_all())
}

/// What the report says of the volume, once it is mounted.
fn facts(plan: &Plan, device: &Device, uuid: &[u8; 16]) -> VolumeFacts {
    let bytes = plan.pieces().bytes();
    let Plan { cipher, layout, .. } = plan;
    let tags = plan.tags.as_ref().map_or("none", |tags| tags.place.name());
    log::info!(
        "volume of {bytes} bytes, {} with {}, tags: {tags}, on {}",
        cipher.name,
        cipher.integrity,
        device.name
    );
    VolumeFacts {
        device: node(mapping::VOLUME),
        partition: device.name.clone(),
        partition_bytes: device.bytes(),
        bytes,
        uuid: uuid::hyphenated(uuid),
        cipher: cipher.name,
        integrity: cipher.integrity,
        tags,
        tags_memory_max: plan.tags.as_ref().map(TagPlan::memory_bytes),
        metadata_memory_max: plan.metadata_bytes(),
        sector_size: crypt::SECTOR_SIZE,
        inodes: layout.inodes(),
        free_blocks: layout.free_blocks(),
        free_inodes: layout.free_inodes(),
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    effect(GET_RANDOM, || {
        let mut bytes = [0; N];
        getrandom::fill(&mut bytes).map(|()| bytes)
    })
}
