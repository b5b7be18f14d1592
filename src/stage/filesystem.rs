//! A file system on a dm-verity device: known by what is read through it, and mounted read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::node;
use super::verity::Verity;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::{ext4, verity};
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
pub fn look(whose: &str, mapping: &str, verity: &Verity) -> Result<&'static str> {
    let verified = verity.params.data_blocks;
    let start = effect(READ_SUPERBLOCK.on(&[&whose]), || {
        let mut start = [0; ext4::SUPERBLOCK_END];
        File::open(node(mapping))?.read_exact_at(&mut start, 0)?;
        Ok::<_, io::Error>(start)
    })?;
    // dm-verity's device has the hash block size as its logical block size.
    match ext4::block_size(&start) {
        Some(size) if size == verity::BLOCK_SIZE => {
            require_clean(whose, &start)?;
            match ext4::blocks(&start) {
                Some(blocks) if blocks > verified => Err(Error::new(format!(
                    "{whose}'s ext4 has {blocks} blocks, but only {verified} are verified"
                ))),
                _ => Ok("ext4"),
            }
        }
        Some(size) => Err(Error::new(format!(
            "{whose}'s ext4 has blocks of {size} bytes, dm-verity needs {}: \
             make it with mke2fs -b {}",
            verity::BLOCK_SIZE,
            verity::BLOCK_SIZE
        ))),
        None => Err(Error::new(match ext4::other_file_system(&start) {
            Some(other) => format!("{whose} is {other}, not ext4: make it with mke2fs -t ext4"),
            None => format!("{whose} is no ext4 file system"),
        })),
    }
}

/// Mounts it on `target`, read-only and with `flags`.
///
/// # Errors
/// The kernel's.
pub fn mount(whose: &str, mapping: &str, kind: &str, target: &str, flags: Flags) -> Result<()> {
    effect(MOUNT.on(&[&whose, &target]), || {
        mount::mount(&node(mapping), Path::new(target), kind, flags | Flags::RDONLY, "")
    })
}

/// The kernel replays no journal on a device that it cannot write to.
fn require_clean(whose: &str, start: &[u8; ext4::SUPERBLOCK_END]) -> Result<()> {
    if !ext4::needs_recovery(start) {
        return Ok(());
    }
    Err(Error::new(format!(
        "{whose}'s ext4 was not unmounted, and its journal cannot be replayed here: run e2fsck -fp \
         on it before its hash tree is made"
    )))
}
