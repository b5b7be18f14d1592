//! Stage 3: the verified root, read-only.

pub mod init;

use std::path::Path;

use self::init::Init;
use super::verity::Verity;
use super::{NEW_ROOT, filesystem, in_new_root, mapping, metadata, node};
use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::kernel::mount::{self, Flags};
use crate::report::{Report, RootFacts};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const FIND: Effect<1> = Effect::new("find", "find {} in the root");

/// What messages call it.
const NAME: &str = "the root";

/// Directories of the root that are mounted on: it is read-only, so they cannot be made. What the
/// root has below them is out of sight when init is run.
const MOUNT_POINTS: &[&str] = &["/cocos", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// The root, mounted on [`NEW_ROOT`].
#[derive(Debug)]
pub struct Root {
    /// Its file system.
    pub kind: Kind,
    /// What the machine is handed to.
    pub init: Init,
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
    require_mount_points()?;
    let init = Init::find(&config.init)?;
    log::info!("root verified and mounted read-only, {kind}");
    report.root = Some(RootFacts {
        device: node(mapping::ROOT),
        bytes: verity.bytes(),
        file_system: kind.name(),
    });
    Ok(Root { kind, init })
}

fn require_asked_for(kind: Kind, asked: &[Kind]) -> Result<()> {
    if asked.contains(&kind) {
        return Ok(());
    }
    let names: Vec<_> = asked.iter().map(|kind| kind.name()).collect();
    Err(Error::new(format!("the root is {kind}, but rootfstype= is {}", names.join(","))))
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
