//! Stage 3: the verified root, read-only.

pub mod init;
pub mod mounts;
mod places;
mod way;

use std::path::Path;

use self::init::Init;
use self::mounts::Mounts;
use super::verity::Verity;
use super::{NEW_ROOT, filesystem, mapping, node};
use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::kernel::mount::{self, Flags};
use crate::report::{Report, RootFacts};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const LIST_FILE_SYSTEMS: Effect<0> =
    Effect::new("list-file-systems", "list the kernel's file systems");

/// What messages call it.
const NAME: &str = "the root";

/// What later stages have to know of the root.
#[derive(Debug)]
pub struct Root {
    /// Its file system.
    pub kind: Kind,
    /// The program that the machine is handed to.
    pub init: Init,
    /// What is mounted in it beside what is mounted in every root.
    pub mounts: Mounts,
}

/// Opens the root and mounts it on [`NEW_ROOT`].
///
/// # Errors
/// When the kernel has no dm-verity, the root is no file system that can be mounted or none that is
/// asked for, or it lacks what a boot needs of it.
pub fn open(config: &Config, verity: &Verity, report: &mut Report) -> Result<Root> {
    verity.open(mapping::ROOT)?;
    let file_system = filesystem::look(NAME, mapping::ROOT, verity)?;
    let kind = file_system.kind;
    require_asked_for(kind, &config.root_kinds)?;
    effect(MAKE_DIR.on(&[&NEW_ROOT]), || mount::ensure_dir(Path::new(NEW_ROOT), 0o755))?;
    filesystem::mount(NAME, mapping::ROOT, &file_system, NEW_ROOT, Flags::empty())?;
    // All that can be wrong with it is told while nothing else is made yet.
    let places = places::find(config)?;
    let init = Init::find(&config.init, &places)?;
    let mounts = Mounts::find(config, &places)?;
    require_overlay(config)?;
    log::info!("root verified and mounted read-only, {kind}");
    report.root = Some(RootFacts {
        device: node(mapping::ROOT),
        bytes: verity.bytes(),
        file_system: kind.name(),
    });
    Ok(Root { kind, init, mounts })
}

fn require_asked_for(kind: Kind, asked: &[Kind]) -> Result<()> {
    if asked.contains(&kind) {
        return Ok(());
    }
    let names: Vec<_> = asked.iter().map(|kind| kind.name()).collect();
    Err(Error::new(format!("the root is {kind}, but rootfstype= is {}", names.join(","))))
}

/// The one file system beside the root's that not every boot needs.
fn require_overlay(config: &Config) -> Result<()> {
    if config.overlay.is_empty() || effect(LIST_FILE_SYSTEMS, || mount::is_known("overlay"))? {
        return Ok(());
    }
    Err(Error::new(
        "the kernel has no overlay file system for cvm.overlay= (kernel option OVERLAY_FS; \
         scripts/initramfs --with overlay packs it where it is a module)",
    ))
}
