//! A file system on a dm-verity device: known by what is read through it, and mounted read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::node;
use super::verity::Verity;
use crate::effect::{Effect, effect};
use crate::error::Result;
use crate::format::rootfs::{FileSystem, START_BYTES};
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
    let start = effect(READ_SUPERBLOCK.on(&[&whose]), || {
        let mut start = [0; START_BYTES];
        File::open(node(mapping))?.read_exact_at(&mut start, 0)?;
        Ok::<_, io::Error>(start)
    })?;
    let file_system = FileSystem::recognize(&start, whose)?;
    file_system.require_blocks(verity.params.data_blocks, "verified", whose)?;
    Ok(file_system)
}

/// Mounts it on `target`, read-only and with `flags`.
///
/// # Errors
/// The kernel's, and what it has to have for this file system.
pub(super) fn mount(
    whose: &str,
    mapping: &str,
    file_system: &FileSystem,
    target: &str,
    flags: Flags,
) -> Result<()> {
    let kind = file_system.kind.name();
    effect(MOUNT.on(&[&whose, &target]), || {
        mount::mount(&node(mapping), Path::new(target), kind, flags | Flags::RDONLY, "").map_err(
            |error| {
                io::Error::other(format!(
                    "{} (it is {file_system}; scripts/initramfs --root-format {kind} packs what is \
                     a module)",
                    io::Error::from(error)
                ))
            },
        )
    })
}
