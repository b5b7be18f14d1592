//! A file system that somebody else has made, on a dm-verity device where there is a proof of it: known
//! by what is read through that, and mounted read-only.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::node;
use super::verity::Verity;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::{self, FileSystem, START_BYTES};
use crate::format::verity;
use crate::kernel::block::Device;
use crate::kernel::file;
use crate::kernel::mount::{self, Flags};

const READ_SUPERBLOCK: Effect<1> = Effect::new("read-superblock", "read {}'s superblock");
const MOUNT: Effect<2> = Effect::new("mount-verified", "mount {} on {}");

/// Says which file system is on `mapping`, which is `verity`'s; messages call it `whose`: "the root".
///
/// How many blocks are verified is the one thing about a hash tree that its root hash leaves open, so
/// a file system that reaches farther is refused here: the kernel would mount most of them.
///
/// # Errors
/// When it cannot be read, or what is wrong with it where the kernel would say EINVAL.
pub(super) fn look(whose: &str, mapping: &str, verity: &Verity) -> Result<FileSystem> {
    let file_system = look_at(whose, &node(mapping))?;
    file_system.require_blocks(verity.params.data_blocks, "verified", whose)?;
    Ok(file_system)
}

/// The same of a device that nothing was proven of.
///
/// # Errors
/// The same.
pub(super) fn look_unverified(whose: &str, device: &Device) -> Result<FileSystem> {
    let file_system = look_at(whose, &device.path())?;
    let blocks = device.bytes() / u64::from(verity::BLOCK_SIZE);
    file_system.require_blocks(blocks, "there", whose)?;
    Ok(file_system)
}

/// Makes sure that a device has an ext4 that lies within it. Nothing is proven of it, and it may have
/// to be recovered: that is the kernel's to do.
///
/// # Errors
/// When it cannot be read, has none, or one that is larger than the device.
pub(super) fn require_ext4(whose: &str, device: &Device) -> Result<()> {
    let name = &device.name;
    match rootfs::ext4_bytes(&read_start(whose, &device.path())?) {
        None => Err(Error::new(format!("{whose}, {name}, has no ext4"))),
        Some(bytes) if bytes > device.bytes() => Err(Error::new(format!(
            "{whose}, {name}, has {} bytes, but its ext4 was made for {bytes}",
            device.bytes()
        ))),
        Some(_) => Ok(()),
    }
}

fn look_at(whose: &str, node: &Path) -> Result<FileSystem> {
    FileSystem::recognize(&read_start(whose, node)?, whose)
}

fn read_start(whose: &str, node: &Path) -> Result<rootfs::Start> {
    effect(READ_SUPERBLOCK.on(&[&whose]), || {
        let mut start = [0; START_BYTES];
        file::open(node, file::READ)?.read_exact_at(&mut start, 0)?;
        Ok::<_, io::Error>(start)
    })
}

/// Mounts it on `target`, read-only and with `flags`.
///
/// # Errors
/// The kernel's, and what it has to have for this file system.
pub(super) fn mount(
    whose: &str,
    node: &Path,
    file_system: &FileSystem,
    target: &str,
    flags: Flags,
) -> Result<()> {
    let kind = file_system.kind.name();
    effect(MOUNT.on(&[&whose, &target]), || {
        mount::mount(node, Path::new(target), kind, flags | Flags::RDONLY, "").map_err(|error| {
            io::Error::other(format!(
                "{} (it is {file_system}; scripts/initramfs --root-format {kind} packs what is \
                     a module)",
                io::Error::from(error)
            ))
        })
    })
}
