//! Stage 4: further verified data (`cvm.data=`), each on a disk of its own: models, data sets.
//!
//! Such a disk has no partition table. The data begins at its first byte; its hash area, superblock
//! and tree, is right behind the data, as `veritysetup format --hash-offset` makes it.

use std::path::Path;

use super::verity::Verity;
use super::{filesystem, mapping, node};
use crate::config::DataDisk;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::verity::{self, OnCorruption};
use crate::kernel::block::Device;
use crate::kernel::mount::{self, Flags};
use crate::report::{DataFacts, Report};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");

/// Where the data is mounted, each below its own name; moves on with /run. Its parents come first.
const DIRS: &[&str] = &["/run/cvm-init", "/run/cvm-init/data"];
const DIR: &str = "/run/cvm-init/data";

/// It is verified, but data: neither the rights of programs nor devices are looked for there.
const MOUNT_FLAGS: Flags = Flags::NOSUID.union(Flags::NODEV);

/// Data, proven.
#[derive(Debug)]
pub struct Verified {
    /// Of `cvm.data=`.
    name: String,
    /// Kernel name of the disk.
    disk: String,
    verity: Verity,
}

/// Proves that a disk holds the data.
///
/// # Errors
/// When its hash tree is not where it must be, or is another root hash's.
pub fn prove(wanted: &DataDisk, disk: &Device) -> Result<Verified> {
    let blocks = wanted
        .blocks
        .or_else(|| verity::data_blocks_before_tree(disk.bytes() / u64::from(verity::BLOCK_SIZE)));
    let blocks = blocks.ok_or_else(|| Error::new("it is too small for data with a hash tree"))?;
    let verity = Verity::prove_behind(disk, blocks, &wanted.root_hash)
        .map_err(|error| Error::new(format!("{error}{}", place(wanted, blocks))))?;
    Ok(Verified { name: wanted.name.clone(), disk: disk.name.clone(), verity })
}

/// Where the hash tree was looked for, where nobody has said where it is.
fn place(wanted: &DataDisk, blocks: u64) -> String {
    match wanted.blocks {
        Some(_) => String::new(),
        None => format!(
            " (its hash tree was looked for behind {blocks} data blocks, by the size of the disk: \
             @BLOCKS at the end of cvm.data= says where else it is)"
        ),
    }
}

/// Maps all of it and mounts it, each below [`DIR`].
///
/// # Errors
/// When the kernel does not take a mapping, or it holds no file system that can be mounted.
pub fn open(data: &[Verified], report: &mut Report) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    for dir in DIRS {
        make_dir(dir)?;
    }
    for Verified { name, disk, verity } in data {
        let (whose, mapping, target) =
            (format!("the data {name}"), mapping::data(name), format!("{DIR}/{name}"));
        verity.open(&mapping)?;
        let file_system = filesystem::look(&whose, &mapping, verity)?;
        make_dir(&target)?;
        filesystem::mount(&whose, &node(&mapping), &file_system, &target, MOUNT_FLAGS)?;
        log::info!("data {name} on {disk}, verified and mounted read-only");
        report.data.push(DataFacts {
            name: name.clone(),
            disk: disk.clone(),
            device: node(&mapping),
            mounted_on: target.into(),
            root_hash: verity.root_hash(),
            data_blocks: verity.params.data_blocks,
        });
    }
    Ok(())
}

/// From now on the kernel does what was asked for about a block of the data that is not right.
///
/// # Errors
/// When the kernel cannot do it.
pub fn guard(data: &[Verified], on_corruption: OnCorruption) -> Result<()> {
    data.iter().try_for_each(|Verified { name, verity, .. }| {
        verity.guard(&mapping::data(name), on_corruption)
    })
}

fn make_dir(path: &str) -> Result<()> {
    effect(MAKE_DIR.on(&[&path]), || mount::ensure_dir(Path::new(path), 0o755))
}
