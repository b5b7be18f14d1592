//! Stage 3: the verified root: a partition, read-only, or layers below what is written.

pub mod init;
mod layers;
pub mod mounts;
mod partition;
mod places;
mod way;

use self::init::Init;
use self::mounts::Mounts;
use super::disk::RootDisks;
use super::mapping;
use super::volume::Target;
use crate::config::{Config, Layers, NextKernel};
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::format::verity::OnCorruption;
use crate::kernel::mount;
use crate::report::Report;

pub use self::layers::{LAYERS, UPPER, join};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const LIST_FILE_SYSTEMS: Effect<0> =
    Effect::new("list-file-systems", "list the kernel's file systems");

/// What later stages have to know of the root.
#[derive(Debug)]
pub struct Root<'a> {
    /// The program that the machine is handed to.
    pub init: Init,
    /// What it is made of.
    pub form: Form<'a>,
}

/// What a root is made of, once it is mounted.
#[derive(Debug)]
pub enum Form<'a> {
    /// One file system, read-only.
    Partition {
        /// Which one.
        kind: Kind,
        /// What is mounted in it beside what is mounted in every root.
        mounts: Mounts,
    },
    /// Layers, and above them what is written.
    Layers(&'a Layers),
}

/// A root that is mounted, and what of it the boot hands over to.
#[derive(Debug)]
pub enum Opened<'a> {
    /// Its init.
    ForInit(Root<'a>),
    /// Another kernel, for which no more is asked of the root.
    ForKernel {
        /// Which one.
        next: &'a NextKernel,
        /// What has its boot prove the same root.
        words: String,
    },
}

impl Root<'_> {
    /// Where the volume is mounted.
    #[must_use]
    pub fn place_of_volume(&self) -> Target {
        match self.form {
            Form::Partition { .. } => Target::NewRoot("/cocos"),
            Form::Layers(_) => Target::Initramfs(UPPER),
        }
    }
}

/// Opens the root and mounts it on [`super::NEW_ROOT`]. One whose upper will be on the volume is
/// read-only until [`join`].
///
/// # Errors
/// When the kernel has no dm-verity, the root is no file system that can be mounted or none that is
/// asked for, or it lacks what a boot needs of it.
pub fn open<'a>(config: &Config, disks: &RootDisks<'a>, report: &mut Report) -> Result<Opened<'a>> {
    match disks {
        RootDisks::Partition { wanted, disk } => {
            partition::open(config, wanted, &disk.verity, report)
        }
        RootDisks::Layers { wanted, layers, plain } => {
            layers::open(config, wanted, layers, plain.as_ref(), report).map(Opened::ForInit)
        }
    }
}

/// From now on the kernel does what was asked for about a block of the root that is not right.
///
/// # Errors
/// When the kernel cannot do it.
pub fn guard(disks: &RootDisks<'_>, on_corruption: OnCorruption) -> Result<()> {
    match disks {
        RootDisks::Partition { disk, .. } => disk.verity.guard(mapping::ROOT, on_corruption),
        RootDisks::Layers { layers, .. } => layers
            .iter()
            .enumerate()
            .filter_map(|(number, layer)| Some((number, layer.verity.as_ref()?)))
            .try_for_each(|(number, verity)| verity.guard(&mapping::layer(number), on_corruption)),
    }
}

/// The file system that joins others, which not every boot needs.
fn require_overlay(what_for: &str) -> Result<()> {
    if effect(LIST_FILE_SYSTEMS, || mount::is_known("overlay"))? {
        return Ok(());
    }
    Err(Error::new(format!(
        "the kernel has no overlay file system for {what_for} (kernel option OVERLAY_FS; \
         scripts/initramfs --with overlay packs it where it is a module)"
    )))
}
