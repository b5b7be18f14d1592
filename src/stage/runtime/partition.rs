//! A root on a partition: places that are writable although it is not, its volume, its shares, and an
//! fstab that says so.

use super::{IMAGES, bind, inside, is_there, make_dirs};
use super::{fstab, shares, writable};
use crate::config::Config;
use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::rootfs::Kind;
use crate::kernel::mount::Flags;
use crate::kernel::tree;
use crate::report::Report;
use crate::stage::NewRoot;
use crate::stage::root::mounts::{Mounts, SCRIPTS};

const LOOK_FOR: Effect<1> = Effect::new("look-for", "look for {}");
const COPY: Effect<2> = Effect::new("copy", "copy {} to {}");

/// Directories on the volume.
const VOLUME_DIRS: &[&str] = &[
    "/cocos/.cache",
    "/cocos/.cache/oci",
    "/cocos/datasets",
    "/cocos/docker",
    "/cocos/containerd",
    "/cocos/cocos_init",
];

/// Directories on the fresh /var.
const VAR_DIRS: &[&str] = &["/var/lib", "/var/lib/docker", "/var/lib/containerd"];

/// Where a writable copy of [`SCRIPTS`] is put, which then covers them. A root without them is as good.
const SCRIPTS_COPY: &str = "/cocos/cocos_init";

/// Mounts and fills what such a root needs.
pub(super) fn prepare(
    root: &NewRoot,
    config: &Config,
    kind: Kind,
    mounts: &Mounts,
    report: &mut Report,
) -> Result<()> {
    make_dirs(root, VOLUME_DIRS)?;
    writable::mount(root, &config.overlay, mounts)?;
    make_dirs(root, VAR_DIRS)?;
    for (source, target) in IMAGES {
        bind(root, &format!("/cocos/{source}"), target, Flags::empty())?;
    }
    if effect(LOOK_FOR.on(&[&SCRIPTS]), || is_there(root, SCRIPTS))? {
        effect(COPY.on(&[&SCRIPTS, &SCRIPTS_COPY]), || copy_scripts(root))?;
        bind(root, SCRIPTS_COPY, SCRIPTS, Flags::empty())?;
    }
    let mounted = shares::mount(root, &mounts.shares)?;
    report.shares = mounted.iter().map(|mounted| mounted.share.tag).collect();
    // Where there is none, tools find none, as the image build decided.
    match &mounts.fstab {
        Some(old) => fstab::cover(root, old, kind, &mounts.kept, &mounted),
        None => Ok(()),
    }
}

fn copy_scripts(root: &NewRoot) -> Result<()> {
    let open = |directory: &str| {
        root.directory(directory)
            .map_err(|cause| Error::cannot(&format!("open {directory}"), &cause))
    };
    let (from, to) = (open(SCRIPTS)?, open(SCRIPTS_COPY)?);
    tree::copy(&inside(&from), &inside(&to))
}
