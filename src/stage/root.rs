//! Stage 3: the verified root, read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::slice;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::{NEW_ROOT, disk::Disk, in_new_root, mapping, metadata, node, open_control};
use crate::config::Config;
use crate::dm::{Mapping, Target};
use crate::effect::effect;
use crate::error::{Error, Result};
use crate::mount::{self, Flags};
use crate::report::{Report, RootFacts};
use crate::verity::OnCorruption;
use crate::{block, ext4, hex, verity};

/// Directories of the root that are mounted on: it is read-only, so they cannot be made.
const MOUNT_POINTS: &[&str] = &["/cocos", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// Opens the root and mounts it on [`NEW_ROOT`].
///
/// # Errors
/// When the kernel has no dm-verity, or the root is no ext4 that dm-verity can carry.
pub fn open(config: &Config, disk: &Disk, report: &mut Report) -> Result<()> {
    let control = open_control()?;
    control.require_target("verity", "DM_VERITY")?;
    // What is wrong with the root while this program reads it, ends the boot with a reason.
    let target = target(config, disk, OnCorruption::IoError, false);
    let uuid = uuid(config);
    control.activate(&mapping(&uuid), slice::from_ref(&target), is_same)?;
    require_ext4(disk.params.data_blocks)?;
    effect(format!("make {NEW_ROOT}"), || mount::ensure_dir(Path::new(NEW_ROOT), 0o755))?;
    effect(format!("mount the root on {NEW_ROOT}"), || {
        mount::mount(&node(mapping::ROOT), Path::new(NEW_ROOT), "ext4", Flags::RDONLY, "")
    })?;
    require_layout(&config.init)?;
    log::info!("root verified and mounted read-only");
    report.root =
        Some(RootFacts { device: node(mapping::ROOT), bytes: target.sectors * block::SECTOR });
    Ok(())
}

/// From now on the kernel does what was asked for about a block of the root that is not right.
///
/// # Errors
/// When the kernel cannot do it.
pub fn guard(config: &Config, disk: &Disk) -> Result<()> {
    if config.on_corruption == OnCorruption::IoError {
        return Ok(());
    }
    let control = open_control()?;
    let on_errors = control.require_target("verity", "DM_VERITY")? >= verity::ERRORS_SINCE;
    if !on_errors {
        log::warn!(
            "this kernel's dm-verity guards against blocks that were altered, not against such as \
             cannot be read (Linux 6.12 does)"
        );
    }
    let target = target(config, disk, config.on_corruption, on_errors);
    control.replace(&mapping(&uuid(config)), slice::from_ref(&target), is_same)
}

/// The superblock's UUID is the host's word and would tell nothing: the hash names the root.
fn uuid(config: &Config) -> String {
    format!("CRYPT-VERITY-{}-{}", identity(&config.root_hash), mapping::ROOT)
}

fn mapping(uuid: &str) -> Mapping<'_> {
    Mapping { name: mapping::ROOT, uuid, read_only: true }
}

fn target(config: &Config, disk: &Disk, on_corruption: OnCorruption, on_errors: bool) -> Target {
    let (data, hash) = (disk.root.dev, disk.verity.dev);
    Target {
        kind: "verity".into(),
        sectors: disk.params.sectors(),
        params: disk.params.table(data, hash, &config.root_hash, on_corruption, on_errors),
    }
}

fn is_same(asked: &str, live: &str) -> bool {
    asked == live
}

/// Says what is wrong with the root where the kernel would say EINVAL. How many blocks are
/// verified is the one thing about a hash tree that its root hash leaves open.
fn require_ext4(verified: u64) -> Result<()> {
    let start = effect("read the root's superblock", || {
        let mut start = [0; ext4::SUPERBLOCK_END];
        File::open(node(mapping::ROOT))?.read_exact_at(&mut start, 0)?;
        Ok::<_, io::Error>(start)
    })?;
    // dm-verity's device has the hash block size as its logical block size.
    match ext4::block_size(&start) {
        Some(size) if size == verity::BLOCK_SIZE => match ext4::blocks(&start) {
            Some(blocks) if blocks > verified => Err(Error::new(format!(
                "the root's ext4 has {blocks} blocks, but only {verified} are verified"
            ))),
            _ => Ok(()),
        },
        Some(size) => Err(Error::new(format!(
            "the root's ext4 has blocks of {size} bytes, dm-verity needs {}: \
             make it with mke2fs -b {}",
            verity::BLOCK_SIZE,
            verity::BLOCK_SIZE
        ))),
        None => Err(Error::new("the root is no ext4 file system")),
    }
}

/// Makes sure that the root has what later stages need of it, while nothing else is made yet.
fn require_layout(init: &str) -> Result<()> {
    for path in MOUNT_POINTS {
        // A link would lead astray: its target would be looked up in the initramfs.
        let found = effect(format!("find {path} in the root"), || metadata(&in_new_root(path)))?;
        if !found.is_some_and(|metadata| metadata.is_dir()) {
            return Err(Error::new(format!("the root has no directory {path} to mount on")));
        }
    }
    effect(format!("find {init} in the root"), || require_program(init))
}

/// Makes sure that `init` names a program, with links followed as in the new root.
fn require_program(init: &str) -> io::Result<()> {
    let root = File::open(NEW_ROOT)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = openat2(&root, init, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let mode = fstat(&program)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    if mode & 0o111 == 0 {
        return Err(io::Error::other("it is not executable"));
    }
    Ok(())
}

/// The first half of the root hash, in the place of a UUID.
fn identity(root_hash: &verity::RootHash) -> String {
    hex::encode(root_hash).chars().take(32).collect()
}
