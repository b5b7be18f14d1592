//! Stage 3: the verified root, read-only.

pub mod init;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use self::init::Init;
use super::verity::Verity;
use super::{NEW_ROOT, in_new_root, mapping, metadata, node};
use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::{ext4, verity};
use crate::kernel::mount::{self, Flags};
use crate::report::{Report, RootFacts};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const MOUNT: Effect<1> = Effect::new("mount-root", "mount the root on {}");
const READ_SUPERBLOCK: Effect<0> =
    Effect::new("read-root-superblock", "read the root's superblock");
const FIND: Effect<1> = Effect::new("find", "find {} in the root");

/// Directories of the root that are mounted on: it is read-only, so they cannot be made. What the
/// root has below them is out of sight when init is run.
const MOUNT_POINTS: &[&str] = &["/cocos", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// Opens the root and mounts it on [`NEW_ROOT`]. Returns its init.
///
/// # Errors
/// When the kernel has no dm-verity, the root is no ext4 that dm-verity can carry, or it lacks what
/// a boot needs of it.
pub fn open(config: &Config, verity: &Verity, report: &mut Report) -> Result<Init> {
    verity.open(mapping::ROOT)?;
    require_ext4(verity.params.data_blocks)?;
    effect(MAKE_DIR.on(&[&NEW_ROOT]), || mount::ensure_dir(Path::new(NEW_ROOT), 0o755))?;
    effect(MOUNT.on(&[&NEW_ROOT]), || {
        mount::mount(&node(mapping::ROOT), Path::new(NEW_ROOT), "ext4", Flags::RDONLY, "")
    })?;
    require_mount_points()?;
    let init = Init::find(&config.init)?;
    log::info!("root verified and mounted read-only");
    report.root = Some(RootFacts { device: node(mapping::ROOT), bytes: verity.bytes() });
    Ok(init)
}

/// Says what is wrong with the root where the kernel would say EINVAL. How many blocks are
/// verified is the one thing about a hash tree that its root hash leaves open.
fn require_ext4(verified: u64) -> Result<()> {
    let start = effect(READ_SUPERBLOCK, || {
        let mut start = [0; ext4::SUPERBLOCK_END];
        File::open(node(mapping::ROOT))?.read_exact_at(&mut start, 0)?;
        Ok::<_, io::Error>(start)
    })?;
    // dm-verity's device has the hash block size as its logical block size.
    match ext4::block_size(&start) {
        Some(size) if size == verity::BLOCK_SIZE => {
            require_clean(&start)?;
            match ext4::blocks(&start) {
                Some(blocks) if blocks > verified => Err(Error::new(format!(
                    "the root's ext4 has {blocks} blocks, but only {verified} are verified"
                ))),
                _ => Ok(()),
            }
        }
        Some(size) => Err(Error::new(format!(
            "the root's ext4 has blocks of {size} bytes, dm-verity needs {}: \
             make it with mke2fs -b {}",
            verity::BLOCK_SIZE,
            verity::BLOCK_SIZE
        ))),
        None => Err(Error::new(match ext4::other_file_system(&start) {
            Some(other) => format!("the root is {other}, not ext4: make it with mke2fs -t ext4"),
            None => "the root is no ext4 file system".to_owned(),
        })),
    }
}

/// The kernel replays no journal on a device that it cannot write to.
fn require_clean(start: &[u8; ext4::SUPERBLOCK_END]) -> Result<()> {
    if !ext4::needs_recovery(start) {
        return Ok(());
    }
    Err(Error::new(
        "the root's ext4 was not unmounted, and its journal cannot be replayed here: run e2fsck -fp \
         on it before its hash tree is made",
    ))
}

/// Makes sure that the root has what later stages mount on, while nothing else is made yet.
fn require_mount_points() -> Result<()> {
    for path in MOUNT_POINTS {
        // A link would lead astray: its target would be looked up in the initramfs.
        let found = effect(FIND.on(&[&path]), || metadata(&in_new_root(path)))?;
        if !found.is_some_and(|metadata| metadata.is_dir()) {
            return Err(Error::new(format!("the root has no directory {path} to mount on")));
        }
    }
    Ok(())
}
