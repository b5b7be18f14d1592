//! Stage 3: the verified root, read-only.

pub mod init;

use std::path::Path;

use self::init::Init;
use super::verity::Verity;
use super::{NEW_ROOT, filesystem, in_new_root, mapping, metadata, node};
use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::kernel::mount::{self, Flags};
use crate::report::{Report, RootFacts};

const MAKE_DIR: Effect<1> = Effect::new("make-dir", "make {}");
const FIND: Effect<1> = Effect::new("find", "find {} in the root");

/// What messages call it.
const NAME: &str = "the root";

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
    let kind = filesystem::look(NAME, mapping::ROOT, verity)?;
    effect(MAKE_DIR.on(&[&NEW_ROOT]), || mount::ensure_dir(Path::new(NEW_ROOT), 0o755))?;
    filesystem::mount(NAME, mapping::ROOT, kind, NEW_ROOT, Flags::empty())?;
    require_mount_points()?;
    let init = Init::find(&config.init)?;
    log::info!("root verified and mounted read-only");
    report.root = Some(RootFacts { device: node(mapping::ROOT), bytes: verity.bytes() });
    Ok(init)
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
